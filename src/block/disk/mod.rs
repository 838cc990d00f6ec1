//! The blocks that came once, kept on this disk for all processes of the user.
//!
//! [`Disk`] is one file of fixed slots, in which the name of a block says where it can be: there is no index that must be kept in
//! step with the data, so nothing has to be recovered after a crash, and opening costs the same at any size. Every block is
//! hashed when it is read, so whatever a crash, a bad disk or another program left there is at worst a miss.

mod cache;
mod error;
mod gc;
mod layout;
mod lock;
mod page;
mod pins;
mod queue;
mod read;
mod report;
mod shared;
mod slots;
mod store;
#[cfg(test)]
mod tests;
mod write;

use std::{
    fmt,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::Block;
use crate::eris::{BlockSize, Reference};
use layout::Layout;
use page::Word;
use read::Found;
use shared::{Shared, lock};
use slots::Wait;

pub use cache::DiskCache;
pub use error::DiskError;
pub use report::{Collected, DiskStat, Pin, Verified};

/// How often it is looked whether the directory still holds the cache that is open, and the file system has room.
const LOOK: Duration = Duration::from_secs(1);
/// How old the figures of [`Disk::recent_stat`] may be. Nobody plots finer.
const RECENT: Duration = Duration::from_secs(1);
/// How long [`Disk::sync`] waits for what is queued: several times the patience with other writers.
const DRAIN: Duration = Duration::from_secs(60);
/// What a cache may take of the disk to be moved to another size while it is opened: a tenth of a second.
const MOMENT: u64 = 64 << 20;

/// How much the cache may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    /// Bytes of disk that the cache never exceeds, its index included.
    pub size: u64,
    /// Bytes that are left free on the file system: with less, the cache takes nothing new and gives back what was used least
    /// recently.
    pub free_floor: u64,
    /// Whether a cache that has another size is moved to this one. Without it the size is that of a cache that has to be made.
    pub resize: bool,
}

/// What became of a block that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It was written.
    Written,
    /// It was there already.
    Present,
    /// It was not kept: the disk is full, read-only or failing, or all that could give way is pinned.
    Dropped,
}

/// The disk cache of a directory. Clones share it; so do other processes that open the same directory.
///
/// When the last clone is dropped, what is queued is still written, unless another process does not let go of the lock.
#[derive(Clone)]
pub struct Disk {
    handle: Arc<Handle>,
}

/// Ends the background thread when it is dropped.
struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    opened: Instant,
    /// Milliseconds from then to the last look.
    looked: AtomicU64,
    /// What the file held last, and when that was measured.
    recent: Mutex<Option<(Instant, DiskStat)>>,
}

impl DiskSettings {
    /// The smallest cache, in bytes.
    pub const MIN_SIZE: u64 = 8 << 20;

    /// Where nothing else is said, the cache takes one part in so many of the file system.
    const PART: u64 = 10;
    /// And no more than this: a closure of a desktop twice over.
    const LARGEST: u64 = 20 << 30;

    /// What suits most: 20 GiB or a tenth of the file system that `dir` is or will be on, whichever is less, and 1 GiB left free.
    pub fn for_dir(dir: &Path) -> Self {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let status = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok());
        let total = status.map_or(0, |status| status.f_blocks.saturating_mul(status.f_frsize));
        Self {
            size: (total / Self::PART).clamp(Self::MIN_SIZE, Self::LARGEST),
            free_floor: 1 << 30,
            resize: false,
        }
    }
}

impl Disk {
    /// Opens the cache in `dir`, which is made if need be. It takes a page of disk space until blocks come.
    ///
    /// A directory that cannot be used is no error: the cache then holds nothing and keeps nothing (read-through, as
    /// [`stat`](Self::stat) tells) and tries again later. An error is only a size that is too small to be a cache.
    ///
    /// A cache of another size is moved to this one if the settings say so: at once if that is done in a moment, else in the
    /// background by whoever reads from it for longer than a short command does, or by [`ready`](Self::ready). It stays as it is if
    /// the pinned blocks would not fit. If processes want different sizes, that of the last to open it holds.
    pub fn open(dir: &Path, settings: DiskSettings) -> Result<Self, DiskError> {
        if settings.size < DiskSettings::MIN_SIZE {
            return Err(DiskError::TooSmall { size: settings.size });
        }
        let disk = Self::of(Shared::new(dir, settings, true));
        let shared = &disk.handle.shared;
        shared.reopen();
        if settings.resize
            && let Some(attached) = shared.attached().filter(|attached| attached.is_writable())
            && *attached.slots.layout() != Layout::of(settings.size)
        {
            shared.want(settings.size);
            if attached.slots.bytes_on_disk() <= MOMENT {
                shared.settle(Duration::ZERO);
            }
        }
        Ok(disk)
    }

    /// Waits until blocks can be kept: moves the cache to the size it was opened with, or waits while another process changes it, for
    /// `patience` at most. For who would rather wait than lose blocks. A cache that cannot be written is not waited for.
    pub fn ready(&self, patience: Duration) -> Result<(), DiskError> {
        let shared = &self.handle.shared;
        shared.settle(patience);
        match shared.locked(patience, |_| Ok(())) {
            Err(error @ DiskError::Busy { .. }) => Err(error),
            _ => Ok(()),
        }
    }

    /// Opens the cache that is in `dir`, with the size that it has; an error if there is none.
    pub fn open_existing(dir: &Path) -> Result<Self, DiskError> {
        let disk = Self::open_later(dir);
        disk.handle.shared.attach(false)?;
        Ok(disk)
    }

    /// The cache in `dir` with the size that it has; if there is none, it is made by the first block that is put.
    pub(super) fn open_later(dir: &Path) -> Self {
        let disk = Self::of(Shared::new(dir, DiskSettings::for_dir(dir), false));
        disk.handle.shared.reopen();
        disk
    }

    fn of(shared: Shared) -> Self {
        let (thread, opened, looked) = (Mutex::default(), Instant::now(), AtomicU64::new(0));
        let (shared, recent) = (Arc::new(shared), Mutex::default());
        Self { handle: Arc::new(Handle { shared, thread, opened, looked, recent }) }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.handle.shared.path
    }

    /// Whether the index has the block; about a microsecond once the index is in the page cache. The block itself may still turn out
    /// to be bad.
    pub fn contains(&self, reference: &Reference) -> bool {
        self.handle.shared.has(reference, Wait::Yes).unwrap_or(false)
    }

    /// The block, verified. May wait for the disk.
    pub fn get(&self, reference: &Reference) -> Option<Block> {
        self.get_many(&[*reference]).pop().flatten()
    }

    /// The blocks that are there, verified together, in the order asked for. May wait for the disk.
    pub fn get_many(&self, references: &[Reference]) -> Vec<Option<Block>> {
        let found = self.read(references, Wait::Yes).into_iter();
        let blocks = found.map(|found| match found {
            Found::Block(block) => Some(block),
            Found::Miss | Found::WouldWait => None,
        });
        blocks.collect()
    }

    fn read(&self, references: &[Reference], wait: Wait) -> Vec<Found> {
        let now = self.handle.opened.elapsed();
        let looked = self.handle.looked.load(Relaxed);
        if now >= Duration::from_millis(looked) + LOOK {
            self.handle.looked.store(now.as_millis() as u64, Relaxed);
            self.in_background(|shared| shared.queue.look());
        }
        let found = self.handle.shared.read(references, wait);
        if self.handle.shared.queue.is_waiting() {
            self.in_background(|_| ());
        }
        found
    }

    /// Keeps a block, now. May wait for the disk, and for other writers for at most two seconds. The caller has verified it.
    pub fn put(&self, reference: &Reference, block: &Block) -> Stored {
        self.put_many(&[(*reference, block.clone())]).pop().unwrap_or(Stored::Dropped)
    }

    /// Keeps blocks, as [`put`](Self::put) does, under one lock.
    pub fn put_many(&self, blocks: &[(Reference, Block)]) -> Vec<Stored> {
        self.handle.shared.write(blocks, Word::stored)
    }

    /// Keeps blocks, as [`put_many`](Self::put_many) does, as ones that were used again: they give way after all that were not, and after
    /// those that were used again before. For what costs more to have again than one request for each block.
    pub fn put_dear(&self, blocks: &[(Reference, Block)]) -> Vec<Stored> {
        self.handle.shared.write(blocks, Word::used)
    }

    /// Keeps a block soon, in the background; never waits. Blocks beyond what the queue holds are dropped and counted. The
    /// caller has verified the block.
    pub fn put_later(&self, reference: Reference, block: Block) {
        self.in_background(|shared| {
            if !shared.queue.write(reference, block) {
                shared.counts.dropped.fetch_add(1, Relaxed);
            }
        });
    }

    /// Returns once all blocks put before would survive a power cut, as far as they were kept. Waits for the disk.
    pub fn sync(&self) -> Result<(), DiskError> {
        let shared = &self.handle.shared;
        if !shared.queue.drain(DRAIN) {
            return Err(DiskError::Busy { dir: shared.path.clone() });
        }
        match shared.attached().filter(|attached| attached.is_writable()) {
            None => Ok(()),
            Some(attached) => {
                attached.slots.sync().map_err(|error| shared.failed("write", &shared.path, error))
            }
        }
    }

    /// Pins a set of blocks under a name, in place of the set that had that name: from now on they are not evicted once they are
    /// there, those that come later included. Refused if all pins together would exceed four fifths of the cache; a block that is
    /// not there yet counts as one of 32 KiB.
    pub fn pin(&self, name: &str, references: &[Reference]) -> Result<Pin, DiskError> {
        self.handle.shared.pin(name, references)
    }

    /// Takes a pin away. The blocks stay until they are evicted.
    pub fn unpin(&self, name: &str) -> Result<(), DiskError> {
        self.handle.shared.unpin(name)
    }

    /// All pins, by name.
    pub fn pins(&self) -> Result<Vec<Pin>, DiskError> {
        self.handle.shared.list_pins()
    }

    /// What the cache holds, and what this process had of it. Reads the whole index: some tens of milliseconds for a million
    /// blocks.
    pub fn stat(&self) -> DiskStat {
        self.with_counts(self.measure())
    }

    /// As [`stat`](Self::stat), but what the cache holds may be a second old: however often and by how many it is asked for, the index
    /// is read once in that time. May wait for another thread that reads it.
    pub fn recent_stat(&self) -> DiskStat {
        let mut recent = lock(&self.handle.recent);
        let measured = match recent.take() {
            Some((at, measured)) if at.elapsed() < RECENT => (at, measured),
            _ => {
                let measured = self.measure();
                (Instant::now(), measured)
            }
        };
        let measured = recent.insert(measured).1.clone();
        drop(recent);
        self.with_counts(measured)
    }

    /// What is in the file.
    fn measure(&self) -> DiskStat {
        let shared = &self.handle.shared;
        let Some(attached) = shared.attached() else { return DiskStat::default() };
        let layout = attached.slots.layout();
        let pins = shared.current_pins(&attached);
        let (used, pinned, bytes) = gc::count(&attached.slots, |it| pins.contains(it));
        DiskStat {
            slots: layout.slots(BlockSize::Large) + layout.slots(BlockSize::Small),
            used,
            pinned,
            bytes,
            on_disk: attached.slots.bytes_on_disk(),
            free: attached.slots.free().unwrap_or(0),
            ..DiskStat::default()
        }
    }

    fn with_counts(&self, measured: DiskStat) -> DiskStat {
        let shared = &self.handle.shared;
        let counts = &shared.counts;
        DiskStat {
            size: shared.size.load(Relaxed),
            free_floor: shared.free_floor,
            hits: counts.hits.load(Relaxed),
            misses: counts.misses.load(Relaxed),
            writes: counts.writes.load(Relaxed),
            dropped: counts.dropped.load(Relaxed),
            evicted: counts.evicted.load(Relaxed),
            bad: counts.bad.load(Relaxed),
            read_through: shared.trouble(),
            ..measured
        }
    }

    /// Reads and hashes everything, and drops what is bad. `progress` is told how many of how many slots are done.
    pub fn verify(&self, progress: impl FnMut(u64, u64)) -> Result<Verified, DiskError> {
        self.handle.shared.verify(progress)
    }

    /// Gives disk space back, of what was used least recently and is not pinned: until the free-space floor is kept, and until
    /// the blocks take no more than `to` bytes if that is given.
    pub fn gc(&self, to: Option<u64>) -> Result<Collected, DiskError> {
        self.handle.shared.collect(to)
    }

    /// Queues something, and sees that a thread is there to do it.
    fn in_background(&self, queue: impl FnOnce(&Shared)) {
        let mut thread = lock(&self.handle.thread);
        if thread.is_none() {
            let shared = self.handle.shared.clone();
            let spawned =
                thread::Builder::new().name("erisfs-disk".into()).spawn(move || write::run(&shared));
            // Without a thread nothing is kept; the next call tries again.
            *thread = spawned.ok();
            if thread.is_none() {
                return;
            }
        }
        queue(&self.handle.shared);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(thread) = lock(&self.thread).take() {
            // It bounds its own waits. What it panicked of was printed.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("path", &self.path()).finish_non_exhaustive()
    }
}
