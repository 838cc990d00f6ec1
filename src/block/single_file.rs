//! Stores that are a single file, which several processes read and write: opened only where it is a regular file, and locked for
//! a limited time.
//!
//! The lock is that of `flock`, which the kernel lets go when its holder dies. GDBM takes the same one.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::fs::OFlags;

use super::{Error, Refusal};
use crate::eris::Reference;

/// Between two attempts to take the lock: holders write about a megabyte at a time.
const PAUSE: Duration = Duration::from_millis(2);

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// To be read by many.
    Read,
    /// To be changed by one.
    Write,
}

/// Opens a regular file, and nothing else: a named pipe on a foreign stick must not hang the reader.
pub(super) fn open(path: &Path, access: Access) -> io::Result<File> {
    let write = access == Access::Write;
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags).open(path)?;
    is_regular(file)
}

/// Opens a regular file to be changed, which is made if need be, and the folders above it.
pub(super) fn create(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let flags = OFlags::NONBLOCK.bits() as i32;
    let mut options = OpenOptions::new();
    is_regular(options.read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)?)
}

fn is_regular(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file")),
    }
}

/// Whether the name still leads to this file, and not to another that took its place.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    let same = |one: &Metadata, other: &Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    matches!((file.metadata(), fs::metadata(path)), (Ok(one), Ok(other)) if same(&one, &other))
}

/// A locked file; it is let go when this is dropped.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a File);

/// Locks the file, against all or against writers. Nothing where others hold it for all of `patience`.
pub(super) fn lock(file: &File, access: Access, patience: Duration) -> io::Result<Option<Held<'_>>> {
    let end = Instant::now() + patience;
    loop {
        let locked = match access {
            Access::Read => file.try_lock_shared(),
            Access::Write => file.try_lock(),
        };
        match locked {
            Ok(()) => return Ok(Some(Held(file))),
            Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // A lock that is held can be let go.
        let _ = self.0.unlock();
    }
}

/// Brings the file's name and bytes onto the disk.
pub(super) fn sync(file: &File, path: &Path) -> io::Result<()> {
    file.sync_data()?;
    // Without the entry in its folder, a new file would be lost.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// What a failure of the file means to whoever wanted a block.
pub(super) fn failed(store: &Arc<str>, reference: Option<&Reference>, error: io::Error) -> Error {
    let refused = |reason| Error::Refused { store: store.clone(), reason };
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => refused(Refusal::ReadOnly),
        ErrorKind::PermissionDenied => refused(Refusal::Denied(error.to_string())),
        // Trying again does not help before somebody makes room; FAT takes no file above 4 GiB.
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            refused(Refusal::Unprepared(error.to_string()))
        }
        ErrorKind::InvalidInput | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
            refused(Refusal::Foreign(error.to_string()))
        }
        _ => Error::Unavailable {
            reference: reference.copied(),
            store: store.clone(),
            retry_after: None,
            source: Arc::new(error),
        },
    }
}

/// That nobody let go of the lock in time.
pub(super) fn busy() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "another process keeps it locked")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(5);

    #[test]
    fn readers_share_a_file_and_a_writer_has_it_alone() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("new/file");
        let writer = create(&path).expect("a writable directory");
        let [one, other] = [(); 2].map(|()| open(&path, Access::Read).expect("it is there"));
        let held = [&one, &other].map(|file| lock(file, Access::Read, SHORT).expect("a lock"));
        assert!(held.iter().all(Option::is_some));
        assert!(lock(&writer, Access::Write, SHORT).expect("a lock").is_none());
        drop(held);
        let held = lock(&writer, Access::Write, SHORT).expect("a lock");
        assert!(held.is_some() && lock(&one, Access::Read, SHORT).expect("a lock").is_none());
    }

    #[test]
    fn what_is_no_file_is_not_opened_and_another_file_is_told_apart() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let (path, pipe) = (folder.path().join("file"), folder.path().join("pipe"));
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a pipe");
        for no_file in [&pipe, folder.path()] {
            open(no_file, Access::Read).expect_err("it is no file");
        }
        let file = create(&path).expect("a writable directory");
        assert!(is_at(&file, &path));
        fs::remove_file(&path).expect("it is there");
        assert!(!is_at(&file, &path));
        let _new = create(&path).expect("a writable directory");
        assert!(!is_at(&file, &path));
    }
}
