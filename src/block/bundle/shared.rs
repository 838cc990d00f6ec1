//! What the tasks of one bundle share, and the file access that they do on blocking threads: each call is short, and ends by itself.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    adding::AddError,
    cbor,
    index::{Change, Index},
    scan::Stop,
    table::{Reading, Sought, Table},
};
use crate::{
    block::{
        Block, Error, Refusal,
        single_file::{self, Access, Held},
    },
    eris::{ReadCapability, Reference},
};

/// For another process that writes: it does so a megabyte at a time.
const PATIENCE: Duration = Duration::from_secs(10);
/// So long heads are read before others have their turn.
const STRETCH: Duration = Duration::from_millis(50);
/// Bytes that may be lost by a power cut: more are brought onto the disk at once.
pub(super) const UNSYNCED: u64 = 64 << 20;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) name: Arc<str>,
    /// How long another process may keep the file to itself.
    pub(super) patience: Duration,
    /// Where blocks stand, for whoever looks one up.
    table: Mutex<Option<Arc<Table>>>,
    /// How far the file was read, for the one who reads on or writes. It counts only while it fills that table.
    pub(super) turn: Arc<tokio::sync::Mutex<Option<Index>>>,
    /// The file that was written to, and how many bytes since it was synced.
    unsynced: Mutex<Option<(Arc<File>, u64)>>,
}

/// What came of reading on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Explored {
    /// The block may stand at a place that was not known before.
    Found,
    /// There is more to read.
    More,
    /// This was all.
    All,
}

impl Shared {
    pub(super) fn new(path: PathBuf) -> Self {
        let name = format!("bundle:{}", path.display()).into();
        // The process may change its directory later, as a mount in the background does.
        let path = std::path::absolute(&path).unwrap_or(path);
        Shared {
            path,
            name,
            patience: PATIENCE,
            table: Mutex::default(),
            turn: Arc::default(),
            unsynced: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Option<Arc<Table>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unsynced(&self) -> MutexGuard<'_, Option<(Arc<File>, u64)>> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads an entry whose place is known.
    pub(super) fn seek<T>(&self, reference: &Reference, read: Reading<T>) -> Result<Sought<T>, Error> {
        let Some(table) = self.table().clone() else { return Ok(Sought::Unknown { places: 0 }) };
        let sought = table.look_up(reference, read);
        if let Ok(Sought::Stale) = sought {
            self.forget(&table);
        }
        sought.map_err(|stop| self.lost(&table, Some(reference), stop))
    }

    /// Reads on for a while; until there are more than so many places for the block.
    pub(super) fn explore(
        &self,
        kept: &mut Option<Index>,
        reference: Option<&Reference>,
        places: usize,
    ) -> Result<Explored, Error> {
        let is_found =
            |index: &Index| reference.is_some_and(|wanted| index.table.places(wanted).len() > places);
        self.check(kept);
        if kept.as_ref().is_some_and(is_found) {
            return Ok(Explored::Found);
        }
        let file = match kept.as_ref() {
            Some(index) => index.table.file.clone(),
            None => Arc::new(
                single_file::open(&self.path, Access::Read).map_err(|error| self.failed(reference, error))?,
            ),
        };
        let _held = self.hold(&file, Access::Read).map_err(|error| self.failed(reference, error))?;
        let index = self.current(kept, &file, false, reference)?;
        self.read_on(index, is_found).map_err(|stop| self.lost(&index.table, reference, stop))
    }

    /// Adds what is not there yet, and then the end of the bundle; or reads on, and has to be called again.
    pub(super) fn write(
        &self,
        kept: &mut Option<Index>,
        blocks: &[(Reference, Block)],
        capabilities: &[ReadCapability],
    ) -> Result<bool, Error> {
        let asked = blocks.first().map(|(reference, _)| reference);
        let failed = |error| self.failed(asked, error);
        self.check(kept);
        let file = match kept.as_ref() {
            Some(index) if index.is_writable => index.table.file.clone(),
            _ => Arc::new(single_file::create(&self.path).map_err(failed)?),
        };
        // Others may read while this one does.
        for access in [Access::Read, Access::Write] {
            let _held = self.hold(&file, access).map_err(failed)?;
            if access == Access::Read && file.metadata().map_err(failed)?.len() == 0 {
                continue;
            }
            if file.metadata().map_err(failed)?.len() == 0 {
                file.write_all_at(EMPTY, 0).map_err(failed)?;
            }
            let index = self.current(kept, &file, true, asked)?;
            let explored =
                self.read_on(index, |_| false).map_err(|stop| self.lost(&index.table, asked, stop))?;
            if explored != Explored::All {
                return Ok(false);
            }
            if access == Access::Write {
                self.begin_to_write(&file).map_err(failed)?;
                let written = index.add(blocks, capabilities).map_err(|why| match why {
                    AddError::Io(error) => failed(error),
                    AddError::Fixed => self.foreign("its map has a fixed length, so nothing can be added"),
                    AddError::Damaged(damage) => self.foreign(&format!("{damage}, so nothing is added")),
                    AddError::LongEnd => self.foreign("what stands behind its blocks is too long to add any"),
                })?;
                self.count(written);
            }
        }
        Ok(true)
    }

    /// Lets go of an index that no longer counts, or whose file is no longer the one at the path.
    fn check(&self, kept: &mut Option<Index>) {
        let mut table = self.table();
        let counts = |index: &Index| {
            table.as_ref().is_some_and(|table| Arc::ptr_eq(table, &index.table)) && index.is_at(&self.path)
        };
        if !kept.as_ref().is_some_and(counts) {
            (*kept, *table) = (None, None);
        }
    }

    /// The index of this file as it is now.
    fn current<'a>(
        &self,
        kept: &'a mut Option<Index>,
        file: &Arc<File>,
        is_writable: bool,
        reference: Option<&Reference>,
    ) -> Result<&'a mut Index, Error> {
        if let Some(index) = kept {
            let is_it = Arc::ptr_eq(&index.table.file, file);
            let change = match is_it {
                true => index.reopen_end().map_err(|stop| self.lost(&index.table, reference, stop))?,
                false => Change::Rewritten,
            };
            if change == Change::Rewritten {
                *kept = None;
            }
        }
        if kept.is_none() {
            *self.table() = None;
            let index =
                Index::open(file.clone(), is_writable).map_err(|stop| self.stopped(reference, stop))?;
            *self.table() = Some(index.table.clone());
            *kept = Some(index);
        }
        Ok(kept.as_mut().expect("it was made"))
    }

    fn read_on(&self, index: &mut Index, is_found: impl Fn(&Index) -> bool) -> Result<Explored, Stop> {
        let end = Instant::now() + STRETCH;
        while !index.is_complete {
            if let (false, Some(damage)) = (index.advance()?, &index.damage) {
                tracing::warn!("{}: {damage}; what stands before is read", self.name);
            }
            if is_found(index) {
                return Ok(Explored::Found);
            }
            if !index.is_complete && Instant::now() >= end {
                return Ok(Explored::More);
            }
        }
        Ok(Explored::All)
    }

    /// Keeps writers out, or all others.
    fn hold<'a>(&self, file: &'a File, access: Access) -> io::Result<Option<Held<'a>>> {
        match single_file::lock(file, access, self.patience) {
            Ok(None) => Err(single_file::busy()),
            // A file system that knows no locks has but one user.
            Err(_) if access == Access::Read => Ok(None),
            held => held,
        }
    }

    /// Before another file is written to, what was written to the one before must be safe, or it is told that it is not.
    fn begin_to_write(&self, file: &Arc<File>) -> io::Result<()> {
        let mut unsynced = self.unsynced();
        match unsynced.take() {
            Some((before, bytes)) if Arc::ptr_eq(&before, file) => *unsynced = Some((before, bytes)),
            before => {
                *unsynced = Some((file.clone(), 0));
                drop(unsynced);
                before.map_or(Ok(()), |(before, _)| before.sync_data())?;
            }
        }
        Ok(())
    }

    fn count(&self, written: u64) {
        if let Some((_, bytes)) = self.unsynced().as_mut() {
            *bytes += written;
        }
    }

    /// Brings what was written onto the disk, if it is more than so much.
    pub(super) fn settle(&self, limit: u64) -> Result<(), Error> {
        let unsynced = self.unsynced().clone().filter(|(_, bytes)| *bytes > limit);
        unsynced
            .map_or(Ok(()), |(file, bytes)| {
                file.sync_data()?;
                self.uncount(&file, bytes);
                Ok(())
            })
            .map_err(|error| self.failed(None, error))
    }

    pub(super) fn sync(&self) -> Result<(), Error> {
        let unsynced = self.unsynced().clone();
        unsynced
            .map_or(Ok(()), |(file, bytes)| {
                single_file::sync(&file, &self.path)?;
                self.uncount(&file, bytes);
                Ok(())
            })
            .map_err(|error| self.failed(None, error))
    }

    fn uncount(&self, file: &Arc<File>, synced: u64) {
        if let Some((unsynced, bytes)) = self.unsynced().as_mut()
            && Arc::ptr_eq(unsynced, file)
        {
            *bytes = bytes.saturating_sub(synced);
        }
    }

    fn forget(&self, stale: &Arc<Table>) {
        let mut table = self.table();
        if table.as_ref().is_some_and(|table| Arc::ptr_eq(table, stale)) {
            *table = None;
        }
    }

    /// What could not be read may be another file the next time: a stick that was taken out comes back as a new one. One bad sector
    /// is no such thing.
    fn lost(&self, table: &Arc<Table>, reference: Option<&Reference>, stop: Stop) -> Error {
        let is_gone =
            || !single_file::is_at(&table.file, &self.path) || table.file.read_exact_at(&mut [0], 0).is_err();
        if matches!(stop, Stop::Io(_)) && is_gone() {
            self.forget(table);
        }
        self.stopped(reference, stop)
    }

    fn foreign(&self, what: &str) -> Error {
        Error::Refused { store: self.name.clone(), reason: Refusal::Foreign(what.to_owned()) }
    }

    pub(super) fn stopped(&self, reference: Option<&Reference>, stop: Stop) -> Error {
        match stop {
            Stop::Damage(damage) => self.foreign(&damage.to_string()),
            Stop::Io(error) => self.failed(reference, error),
        }
    }

    /// That the file does not stay the same for long enough.
    pub(super) fn rewritten(&self, reference: &Reference) -> Error {
        self.failed(Some(reference), io::Error::new(ErrorKind::ResourceBusy, "the file is being rewritten"))
    }

    pub(super) fn failed(&self, reference: Option<&Reference>, error: io::Error) -> Error {
        single_file::failed(&self.name, reference, error)
    }
}

/// A bundle without blocks: self-described, an array with a map, both open.
pub(super) const EMPTY: &[u8] = &[
    0xd9,
    0xd9,
    0xf7,
    0xda,
    b'e',
    b'r',
    b'i',
    b's',
    cbor::OPEN_ARRAY,
    cbor::OPEN_MAP,
    cbor::BREAK,
    cbor::BREAK,
];
