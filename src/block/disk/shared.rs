//! Which file is the cache now: making it, noticing that another process replaced it, and doing without.
//!
//! The file is only ever replaced as a whole, by renaming another one over it, so whoever still has the old one open reads from it
//! what is in it. A cache that cannot be made or written is tried again after a while.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::fs::OFlags;

use super::{
    DiskError, DiskSettings,
    layout::Layout,
    lock::{Held, Lock},
    pins::PinSet,
    queue::Queue,
    slots::Slots,
    write::Told,
};
use crate::eris::Reference;

/// The file with all blocks.
const BLOCKS: &str = "blocks";
/// Under this name it is made. Only the holder of the lock touches it, so one name is enough and a leftover can be told.
const NEW_BLOCKS: &str = "blocks.new";
const LOCK: &str = "lock";
/// How long the lock is waited for: many times what a batch of blocks takes to write, also to a slow disk.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// How long a cache that failed is left alone. A full disk costs then one failed write in this time.
const RETRY: Duration = Duration::from_secs(30);
/// How long a process has the cache open before it moves it to another size in the background. A short command is over by then, and
/// would only begin.
const SETTLE: Duration = Duration::from_secs(10);
/// How old the figure of the free space may be.
const SPACE_AGE: Duration = Duration::from_secs(1);

/// Everything that the threads of one process share about a cache.
pub(super) struct Shared {
    pub path: PathBuf,
    pub name: Arc<str>,
    pub free_floor: u64,
    /// Whether the cache is made as soon as it is opened, and not only by the first block that is put.
    pub makes: bool,
    /// The size of the file, should one have to be made.
    pub size: AtomicU64,
    pub counts: Counts,
    pub queue: Queue,
    /// The time by which uses are stamped, as last seen.
    pub clock: AtomicU64,
    /// Whether the file system was found to give no space back from within a file.
    pub keeps_space: AtomicBool,
    state: RwLock<State>,
    wanted: Mutex<Option<Wanted>>,
    pins: Mutex<Option<KnownPins>>,
    space: Mutex<Option<Space>>,
}

/// Another size that the cache is to have.
#[derive(Clone, Copy)]
struct Wanted {
    size: u64,
    /// When the background thread goes about it.
    due: Instant,
}

/// What was pinned in a cache at a generation of its pins.
struct KnownPins {
    of: Arc<Attached>,
    generation: u64,
    set: Arc<PinSet>,
}

#[derive(Default)]
struct State {
    attached: Option<Arc<Attached>>,
    /// Why nothing is kept, and until when it is not tried again.
    trouble: Option<(String, Instant)>,
}

/// An open cache.
#[derive(Debug)]
pub(super) struct Attached {
    pub slots: Slots,
    /// None if the directory cannot be written.
    lock: Option<Lock>,
}

/// The right to change a cache.
pub(super) struct Locked<'a> {
    pub slots: &'a Slots,
    pub clock: u64,
    pub pins: Arc<PinSet>,
    pub pins_generation: u64,
    _held: Held<'a>,
}

/// What this process had of the cache.
#[derive(Default)]
pub(super) struct Counts {
    pub hits: AtomicU64,
    pub misses: AtomicU64,
    pub writes: AtomicU64,
    pub dropped: AtomicU64,
    pub evicted: AtomicU64,
    pub bad: AtomicU64,
}

struct Space {
    measured: Instant,
    free: u64,
}

impl Shared {
    pub(super) fn new(dir: &Path, settings: DiskSettings, makes: bool) -> Self {
        Self {
            // The process may change its directory later, as a mount in the background does.
            path: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()),
            name: format!("cache:{}", dir.display()).into(),
            free_floor: settings.free_floor,
            makes,
            size: AtomicU64::new(settings.size),
            counts: Counts::default(),
            queue: Queue::default(),
            clock: AtomicU64::new(0),
            keeps_space: AtomicBool::new(false),
            state: RwLock::default(),
            wanted: Mutex::default(),
            pins: Mutex::default(),
            space: Mutex::default(),
        }
    }

    /// The open cache, if there is one.
    pub(super) fn attached(&self) -> Option<Arc<Attached>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).attached.clone()
    }

    /// Why nothing is kept at present.
    pub(super) fn trouble(&self) -> Option<String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.trouble.as_ref().map(|(reason, _)| reason.clone())
    }

    /// Whether the last failure is so recent that trying again would be a waste.
    pub(super) fn is_paused(&self) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.trouble.as_ref().is_some_and(|(_, until)| Instant::now() < *until)
    }

    /// From now on nothing is kept for a while.
    pub(super) fn fail(&self, reason: String) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.trouble.as_ref().is_none_or(|(known, _)| *known != reason) {
            tracing::warn!("{}: nothing is kept: {reason}", self.name);
        }
        state.trouble = Some((reason, Instant::now() + RETRY));
    }

    /// The cache could be opened, or a block was kept: all is well.
    pub(super) fn recover(&self) {
        if self.trouble().is_some() {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if state.trouble.take().is_some() {
                tracing::info!("{}: blocks are kept again", self.name);
            }
        }
    }

    /// Opens the cache anew, and makes it if `make` says so.
    pub(super) fn attach(&self, make: bool) -> Result<Arc<Attached>, DiskError> {
        let opened = self.open(make);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let attached = opened.map(Arc::new);
        state.attached = attached.as_ref().ok().cloned();
        drop(state);
        let attached = attached?;
        self.size.store(attached.slots.layout().size(), Relaxed);
        if let Ok((clock, _)) = attached.slots.numbers() {
            self.clock.store(clock, Relaxed);
        }
        attached.slots.warm_up();
        match attached.lock {
            Some(_) => self.recover(),
            None => self.fail("it is read-only".into()),
        }
        Ok(attached)
    }

    fn open(&self, make: bool) -> Result<Attached, DiskError> {
        if make {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
            made.map_err(|error| self.failed("make", &self.path, error))?;
        }
        let absent = || DiskError::Absent { dir: self.path.clone() };
        if !make && !self.file(BLOCKS).is_file() {
            return Err(absent());
        }
        // A spoiled cache is made anew, but a stranger's file of that name has no lock beside it.
        let there = self.file(BLOCKS).metadata().is_ok_and(|found| found.len() > 0);
        if there && !self.file(LOCK).exists() && self.open_slots(false)?.is_none() {
            return Err(DiskError::Foreign { file: self.file(BLOCKS) });
        }
        let lock = match Lock::open(&self.file(LOCK)) {
            Ok(lock) => lock,
            Err(error)
                if matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied) =>
            {
                let slots = self.open_slots(false)?;
                return slots
                    .map(|slots| Attached { slots, lock: None })
                    .ok_or_else(|| self.failed("write", &self.path, error));
            }
            Err(error) => return Err(self.failed("make", &self.file(LOCK), error)),
        };
        if let Some(slots) = self.open_slots(true)? {
            self.sweep(&lock);
            return Ok(Attached { slots, lock: Some(lock) });
        }
        if !make {
            return Err(absent());
        }
        let held = self.take(&lock, PATIENCE)?;
        // Another process may have made it meanwhile.
        let slots = match self.open_slots(true)? {
            Some(slots) => slots,
            None => {
                let slots = self.create(Layout::of(self.size.load(Relaxed)), 0, 0)?;
                self.replace()?;
                slots
            }
        };
        drop(held);
        Ok(Attached { slots, lock: Some(lock) })
    }

    fn open_slots(&self, write: bool) -> Result<Option<Slots>, DiskError> {
        let path = self.file(BLOCKS);
        // Whatever lies there must neither hang us nor lead us elsewhere.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        match OpenOptions::new().read(true).write(write).custom_flags(flags).open(&path) {
            Ok(file) => Slots::of(file).map_err(|error| self.failed("read", &path, error)),
            Err(error) if error.kind() == ErrorKind::NotFound || is_special(&path) => Ok(None),
            Err(error) => Err(self.failed("open", &path, error)),
        }
    }

    /// Makes an empty cache that [`replace`](Self::replace) puts in the place of the present one. The lock must be held.
    pub(super) fn create(&self, layout: Layout, clock: u64, pins: u64) -> Result<Slots, DiskError> {
        let path = self.file(NEW_BLOCKS);
        let failed = |error| self.failed("make", &path, error);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file: File =
            options.read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        Slots::create(file, layout, clock, pins).map_err(|error| {
            self.discard();
            failed(error)
        })
    }

    pub(super) fn replace(&self) -> Result<(), DiskError> {
        let path = self.file(BLOCKS);
        fs::rename(self.file(NEW_BLOCKS), &path).map_err(|error| {
            self.discard();
            self.failed("replace", &path, error)
        })
    }

    /// Removes what a process left that was killed while it moved the cache. One that is still about it has the lock.
    fn sweep(&self, lock: &Lock) {
        let is_there = fs::symlink_metadata(self.file(NEW_BLOCKS)).is_ok();
        if is_there && let Ok(Some(_held)) = lock.take(Duration::ZERO) {
            self.discard();
        }
    }

    /// Removes what [`create`](Self::create) made.
    pub(super) fn discard(&self) {
        // What stays is overwritten the next time.
        let _ = fs::remove_file(self.file(NEW_BLOCKS));
    }

    /// The cache is to have this size.
    pub(super) fn want(&self, size: u64) {
        *lock(&self.wanted) = Some(Wanted { size, due: Instant::now() + SETTLE });
    }

    /// Whether it is time to move the cache to another size.
    pub(super) fn is_due(&self) -> bool {
        lock(&self.wanted).is_some_and(|wanted| Instant::now() >= wanted.due)
    }

    /// Moves the cache to the size that is wanted, if it has another. It is tried again only if somebody else had the lock.
    pub(super) fn settle(&self, patience: Duration) {
        let Some(wanted) = *lock(&self.wanted) else { return };
        match self.resize(wanted.size, patience) {
            Err(DiskError::Busy { .. }) => return,
            Err(error) => tracing::warn!("{}: the size stays as it is: {}", self.name, Told(&error)),
            Ok(()) => {}
        }
        *lock(&self.wanted) = None;
    }

    /// Whether the open cache is still the one in the directory.
    pub(super) fn is_current(&self, attached: &Attached) -> bool {
        let is_lock =
            |lock: &Lock| fs::symlink_metadata(self.file(LOCK)).is_ok_and(|status| lock.is(&status));
        fs::symlink_metadata(self.file(BLOCKS)).is_ok_and(|status| attached.slots.is(&status))
            && attached.lock.as_ref().is_none_or(is_lock)
    }

    /// Runs `work` with the right to change the cache, which is opened or made if need be.
    pub(super) fn locked<T>(
        &self,
        patience: Duration,
        work: impl FnOnce(&Locked<'_>) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        let mut attached = match self.attached() {
            Some(attached) => attached,
            None => self.attach(true)?,
        };
        // Twice only if somebody replaces the cache all the time.
        for _ in 0..3 {
            let read_only = || self.failed("write", &self.path, ErrorKind::ReadOnlyFilesystem.into());
            let Some(lock) = &attached.lock else {
                attached = self.attach(true)?;
                if attached.lock.is_none() {
                    return Err(read_only());
                }
                continue;
            };
            let held = self.take(lock, patience)?;
            if self.is_current(&attached) {
                let slots = &attached.slots;
                let (clock, generation) =
                    slots.numbers().map_err(|error| self.failed("read", &self.file(BLOCKS), error))?;
                self.clock.store(clock, Relaxed);
                let pins = self.pins(&attached, generation);
                return work(&Locked { slots, clock, pins, pins_generation: generation, _held: held });
            }
            drop(held);
            attached = self.attach(true)?;
        }
        Err(DiskError::Busy { dir: self.path.clone() })
    }

    fn take<'a>(&self, lock: &'a Lock, patience: Duration) -> Result<Held<'a>, DiskError> {
        let taken = lock.take(patience).map_err(|error| self.failed("lock", &self.file(LOCK), error))?;
        taken.ok_or_else(|| DiskError::Busy { dir: self.path.clone() })
    }

    /// What is pinned; read again only after it changed.
    fn pins(&self, attached: &Arc<Attached>, generation: u64) -> Arc<PinSet> {
        let mut known = lock(&self.pins);
        if let Some(known) = &*known
            && Arc::ptr_eq(&known.of, attached)
            && known.generation == generation
        {
            return known.set.clone();
        }
        let set = Arc::new(PinSet::load(&self.path));
        *known = Some(KnownPins { of: attached.clone(), generation, set: set.clone() });
        set
    }

    /// What is pinned just now.
    pub(super) fn current_pins(&self, attached: &Arc<Attached>) -> Arc<PinSet> {
        let generation = attached.slots.numbers().map_or(0, |(_, generation)| generation);
        self.pins(attached, generation)
    }

    /// Bytes that the file system has beyond the floor, or lacks; measured at most once a second, and reckoned in between.
    pub(super) fn space(&self, slots: &Slots) -> i64 {
        let mut space = lock(&self.space);
        if space.as_ref().is_none_or(|space| space.measured.elapsed() > SPACE_AGE) {
            // Unknown is plenty: a write will tell.
            *space = Some(Space { measured: Instant::now(), free: slots.free().unwrap_or(u64::MAX / 4) });
        }
        let free = space.as_ref().map_or(0, |space| space.free);
        free.min(i64::MAX as u64) as i64 - self.free_floor.min(i64::MAX as u64) as i64
    }

    /// So many bytes were taken from the file system, or given back if negative.
    pub(super) fn take_space(&self, bytes: i64) {
        if let Some(space) = &mut *lock(&self.space) {
            space.free = space.free.saturating_add_signed(-bytes);
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn failed(&self, doing: &'static str, path: &Path, source: io::Error) -> DiskError {
        DiskError::Io { doing, path: path.to_owned(), source }
    }
}

impl Attached {
    pub(super) fn is_writable(&self) -> bool {
        self.lock.is_some()
    }
}

impl Locked<'_> {
    pub(super) fn is_pinned(&self, reference: &Reference) -> bool {
        self.pins.contains(reference)
    }
}

/// Whether something is there that is not a file: a link, a pipe.
fn is_special(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|status| !status.is_file())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
