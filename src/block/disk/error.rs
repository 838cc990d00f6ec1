use std::{io, path::PathBuf};

use super::DiskSettings;

/// Why the disk cache did not do what it was asked. Reading and keeping blocks never fail: a reader sees a miss.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The size asked for is below [`DiskSettings::MIN_SIZE`].
    #[error("a cache of {size} bytes is too small; it needs {} MiB", DiskSettings::MIN_SIZE >> 20)]
    TooSmall {
        /// The size in bytes.
        size: u64,
    },

    /// There is no cache in the directory.
    #[error("there is no cache in {dir}", dir = dir.display())]
    Absent {
        /// The directory.
        dir: PathBuf,
    },

    /// A file that stands where the cache would be is none of ours.
    #[error("{file} is no cache of erisfs, and is left alone: name another directory", file = file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },

    /// The cache keeps nothing just now.
    #[error("the cache in {dir} cannot be written: {reason}", dir = dir.display())]
    ReadThrough {
        /// The directory.
        dir: PathBuf,
        /// What is in the way.
        reason: String,
    },

    /// Another process holds the lock of the cache for too long.
    #[error("the cache in {dir} is busy: another process is changing it", dir = dir.display())]
    Busy {
        /// The directory.
        dir: PathBuf,
    },

    /// No set of blocks is pinned under this name.
    #[error("nothing is pinned as {name:?}")]
    NoSuchPin {
        /// The name.
        name: String,
    },

    /// The name cannot be that of a pin.
    #[error("{name:?} cannot be the name of a pin: it is empty or too long")]
    BadPinName {
        /// The name.
        name: String,
    },

    /// The pins would leave too little of the cache for everything else.
    #[error(
        "cannot pin {wanted} bytes as {name:?}: with what is pinned already {limit} bytes are the limit; \
             raise cache.size"
    )]
    PinsTooLarge {
        /// The name of the pin.
        name: String,
        /// The bytes that all pins together would take.
        wanted: u64,
        /// The bytes that pins may take.
        limit: u64,
    },

    /// The pins would leave too little of a cache of another size for everything else.
    #[error("the pinned blocks do not fit: from {from} bytes to {to}, with {pins}; unpin some first")]
    PinsDoNotFit {
        /// Which pins there are.
        pins: String,
        /// The size of the cache in bytes.
        from: u64,
        /// The size asked for.
        to: u64,
    },

    /// The system refused.
    #[error("cannot {doing} {path}", path = path.display())]
    Io {
        /// What was tried, as a verb.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
