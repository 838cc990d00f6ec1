//! Files below one directory: what tells that a file is still the same, and slices of it as leaves.
//!
//! Every path is looked up from the open directory, never through a symbolic link, so nothing outside of it is
//! read, whoever may write there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat, fstat, openat2};

use crate::eris::BlockSize;

/// What a file looks like from outside; another one means that it was changed. The number of its device is not among it: many file
/// systems get another one whenever they are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: u64,
    /// When its content was changed, or is said to have been, in nanoseconds since 1970.
    pub mtime: i64,
    /// When anything of it was changed, which nobody can set. File systems that know none show something else here.
    pub ctime: i64,
    pub inode: u64,
}

impl Stamp {
    pub fn of(stat: &Stat) -> Self {
        let time = |seconds: i64, nanoseconds: u64| {
            seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds.cast_signed())
        };
        Self {
            size: stat.st_size.cast_unsigned(),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }

    /// When it was changed last.
    pub fn changed(&self) -> i64 {
        self.mtime.max(self.ctime)
    }

    /// How many leaves its content has.
    fn leaves(&self, block_size: BlockSize) -> u64 {
        self.size / block_size.bytes() as u64 + 1
    }
}

/// Why there is no slice.
#[derive(Debug)]
pub(super) enum Missed {
    /// The file is another one than was indexed.
    Changed,
    /// There is no file now. Its disk may come back.
    Gone,
    /// It cannot be read now.
    Failed(io::Error),
}

impl From<io::Error> for Missed {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{IsADirectory, NotADirectory, NotFound, UnexpectedEof};
        match error.kind() {
            UnexpectedEof => Self::Changed,
            NotFound | NotADirectory | IsADirectory => Self::Gone,
            // A link where a directory or the file was.
            _ if error.raw_os_error() == Some(libc::ELOOP) => Self::Gone,
            _ => Self::Failed(error),
        }
    }
}

/// Opens a directory that the user named; here a link is followed.
pub(super) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens what is at `path` below `root`, with no link on the way.
pub(super) fn open_below(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    // A named pipe must not hang the reader; and the kernel wants nothing of that kind beside PATH.
    let waiting = if flags.contains(OFlags::PATH) { OFlags::empty() } else { OFlags::NONBLOCK };
    let flags = flags | waiting | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(root, path, flags, Mode::empty(), resolve)?)
}

/// Succeeds if the file is still the one that was indexed.
pub(super) fn look_at(root: impl AsFd, path: &Path, stamp: Stamp) -> Result<(), Missed> {
    let stat = open_below(root, path, OFlags::PATH).and_then(|file| Ok(fstat(file)?))?;
    if Stamp::of(&stat) == stamp { Ok(()) } else { Err(Missed::Changed) }
}

/// The leaf with this number of a file, padded to the block size.
pub(super) fn read_leaf(
    root: impl AsFd,
    path: &Path,
    stamp: Stamp,
    block_size: BlockSize,
    leaf: u64,
) -> Result<Vec<u8>, Missed> {
    let file = open_below(root, path, OFlags::RDONLY)?;
    let stat = fstat(&file).map_err(io::Error::from)?;
    if Stamp::of(&stat) != stamp || leaf >= stamp.leaves(block_size) {
        return Err(Missed::Changed);
    }
    let size = block_size.bytes();
    let offset = leaf * size as u64;
    let length = (stamp.size - offset).min(size as u64) as usize;
    let mut bytes = vec![0; size];
    File::from(file).read_exact_at(&mut bytes[..length], offset)?;
    if length < size {
        bytes[length] = 0x80;
    }
    Ok(bytes)
}
