//! A disk cache for as long as a process runs, where the user wants none that stays.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use tempfile::TempDir;

use crate::block::{Disk, DiskError, DiskSettings};

/// How the directories are called, so that those of processes that were killed can be told.
const PREFIX: &str = "erisfs-scratch-";
/// The file that the process to which the directory belongs keeps locked.
const OWNER: &str = "owner";
/// The largest, in bytes: it is as large as what was downloaded, but no larger than this.
const LARGEST: u64 = 16 << 30;
/// The most that is left free on the file system.
const FREE_FLOOR: u64 = 1 << 30;

/// A disk cache in a temporary directory, which is removed when this is dropped; after a crash the next one that is made there removes
/// it.
#[derive(Debug)]
pub struct Scratch {
    disk: Disk,
    _owner: File,
    _dir: TempDir,
}

impl Scratch {
    /// A cache in a new directory in `parent`: up to half of what is free there, and no more than 16 GiB. It takes no more space than what
    /// is kept in it.
    pub fn new(parent: &Path) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Io { doing: "make a directory in", path: parent.to_owned(), source };
        sweep(parent);
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent).map_err(failed)?;
        let owner = owner(&dir.path().join(OWNER)).map_err(failed)?;
        let free = rustix::fs::statvfs(parent).map_err(|error| failed(error.into()))?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        let settings = DiskSettings {
            size: (free / 2).clamp(DiskSettings::MIN_SIZE, LARGEST),
            free_floor: FREE_FLOOR.min(free / 4),
            resize: false,
        };
        let disk = Disk::open(&dir.path().join("cache"), settings)?;
        Ok(Self { disk, _owner: owner, _dir: dir })
    }

    /// The cache.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

/// Makes the file, and locks it for as long as it is open.
fn owner(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// Removes what processes of this user left in `parent` when they were killed. What cannot be removed stays.
fn sweep(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    for dir in ours.map(|entry| entry.path()).filter(is_left) {
        let _ = fs::remove_dir_all(dir);
    }
}

/// Whether the directory belongs to this user, and its process is gone.
fn is_left(dir: &PathBuf) -> bool {
    let is_ours = fs::symlink_metadata(dir)
        .is_ok_and(|status| status.is_dir() && status.uid() == rustix::process::geteuid().as_raw());
    // One that is just being made has no such file yet.
    let owner = OpenOptions::new().write(true).open(dir.join(OWNER));
    is_ours
        && owner.is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Stored;
    use crate::eris::reference_of;

    fn dirs(parent: &Path) -> usize {
        fs::read_dir(parent).unwrap().count()
    }

    #[test]
    fn it_keeps_blocks_and_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(parent.path()).unwrap();
        let block = crate::block::Block::from(vec![1; 32768]);
        assert_eq!(scratch.disk().put(&reference_of(&block), &block), Stored::Written);
        let still_used = scratch.disk().clone();
        assert_eq!(dirs(parent.path()), 1);
        drop(scratch);
        assert_eq!(dirs(parent.path()), 0);
        drop(still_used);
        assert_eq!(dirs(parent.path()), 0);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().unwrap();
        let Scratch { disk, _owner: owner, _dir: dir } = Scratch::new(parent.path()).unwrap();
        let living = Scratch::new(parent.path()).unwrap();
        assert_eq!(dirs(parent.path()), 2);
        // As it is after `kill -9`.
        let left = dir.keep();
        drop((disk, owner));
        let next = Scratch::new(parent.path()).unwrap();
        assert!(!left.exists());
        assert_eq!(dirs(parent.path()), 2);
        drop((living, next));
    }
}
