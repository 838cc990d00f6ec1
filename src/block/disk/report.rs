//! What the disk cache tells about itself.

use serde::Serialize;

/// The state of a disk cache. The counts of events are those of this process since it opened the cache.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DiskStat {
    /// Blocks that it has places for, of both sizes together.
    pub slots: u64,
    /// Blocks that it holds.
    pub used: u64,
    /// Blocks that it holds and that are pinned.
    pub pinned: u64,
    /// Bytes of the blocks that it holds.
    pub bytes: u64,
    /// Bytes of disk that it takes, the index included.
    pub on_disk: u64,
    /// Bytes of disk that it never exceeds.
    pub size: u64,
    /// Bytes that it leaves free on the file system.
    pub free_floor: u64,
    /// Bytes that are free there; 0 if unknown.
    pub free: u64,
    /// Blocks asked for that were there and good.
    pub hits: u64,
    /// Blocks asked for that were not.
    pub misses: u64,
    /// Blocks written.
    pub writes: u64,
    /// Blocks that were not kept: queue full, disk full or failing, no place.
    pub dropped: u64,
    /// Blocks that gave way to others or to the floor.
    pub evicted: u64,
    /// Entries whose block was not the one that they named; they were dropped.
    pub bad: u64,
    /// Why nothing is kept at present, if that is so.
    pub read_through: Option<String>,
}

/// A named set of blocks that are not evicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pin {
    /// The name it was given.
    pub name: String,
    /// Blocks in the set.
    pub blocks: u64,
    /// Of these, blocks that are not in the cache (yet).
    pub missing: u64,
    /// Bytes of the blocks of the set that are in the cache.
    pub bytes: u64,
}

/// What [`verify`](super::Disk::verify) found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Blocks that were read and hashed.
    pub checked: u64,
    /// Of these, blocks that were bad, and were dropped.
    pub bad: u64,
}

/// What [`gc`](super::Disk::gc) gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Blocks that were evicted.
    pub evicted: u64,
    /// Their bytes.
    pub bytes: u64,
}
