//! From a directory to its index: files that look as before are passed over, the others read and encoded once.
//!
//! Nothing is kept of a content but where its leaves are and the nodes above them. Memory is a batch of the encoder, some
//! megabytes of rows and the names of the directories that wait. Readers of the index get to see whole files, so an interrupted
//! run leaves a smaller index and not a wrong one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, fstat, statat};

use super::index::{Index, Leaf, State};
use super::slice::{Stamp, open_below, open_root};
use super::{IndexError, UNFINISHED};
use crate::eris::{BlockSize, ConvergenceSecret, Encoder, ReadCapability, SealedBlock, pairs_of};

/// Bytes that are read at once: a batch of the encoder.
const PIECE: usize = 1 << 20;

/// Leaves that wait to be written, sorted, so that neighbours in the index are written together: those of a gigabyte, as nobody
/// else can write to the index in the meantime.
const MAX_LEAVES: usize = 1 << 15;

/// Files in one transaction, where they are small.
const MAX_FILES: u64 = 512;

/// A file that was written less than this before it was read may be written again without looking different: file systems
/// stamp by the tick of the kernel (10 ms at most), or by 2 s on FAT.
const SETTLING: Duration = Duration::from_secs(3);

/// What indexing meets on its way.
#[derive(Debug)]
pub enum Met<'a> {
    /// Bytes were read.
    Read {
        /// How many.
        bytes: u64,
    },
    /// A file is in the index.
    File {
        /// Where it is below the directory.
        path: &'a Path,
        /// Whether it had to be read.
        read: bool,
    },
    /// A file or a directory is left out.
    LeftOut {
        /// Where it is below the directory.
        path: &'a Path,
        /// Why.
        reason: &'a str,
    },
}

/// What came of indexing a directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Indexed {
    /// Files in the index.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were read, the others being as they were.
    pub read: u64,
    /// Files that are no longer there, or cannot be read any more.
    pub gone: u64,
    /// Files and directories that could not be read, or changed meanwhile. Links and special files are not counted.
    pub left_out: u64,
}

/// Brings the index of the directory `root` up to date. Blocks on the disk.
///
/// `now` only tells how old files are. Symbolic links and special files are passed over; what cannot be read is left out and
/// told to `met`.
pub fn update(
    root: &Path,
    index: &Path,
    now: SystemTime,
    met: &mut dyn FnMut(Met<'_>),
) -> Result<Indexed, IndexError> {
    let failed = |source| IndexError::File { path: root.to_owned(), source };
    let directory = open_root(root).map_err(failed)?;
    let opened = Index::open_to_write(index)?;
    let settled = now.checked_sub(SETTLING).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let settled = settled.map_or(i64::MIN, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    let own = own_files(root, index);
    let scan = Scan {
        root: directory,
        index: opened,
        own,
        settled,
        met,
        done: Indexed::default(),
        leaves: Vec::new(),
        in_transaction: 0,
        any_gone: false,
    };
    scan.run()
}

/// The files of the index itself, where it lies in the directory.
fn own_files(root: &Path, index: &Path) -> Option<(PathBuf, Vec<u8>)> {
    let below = index.canonicalize().ok()?.strip_prefix(root.canonicalize().ok()?).ok()?.to_owned();
    Some((below.parent()?.to_owned(), below.file_name()?.as_bytes().to_vec()))
}

struct Scan<'a> {
    root: OwnedFd,
    index: Index,
    /// Directory and name of the index below the root.
    own: Option<(PathBuf, Vec<u8>)>,
    /// Files written after it may change once more and look the same.
    settled: i64,
    met: &'a mut dyn FnMut(Met<'_>),
    done: Indexed,
    leaves: Vec<Leaf>,
    /// Files in the open transaction.
    in_transaction: u64,
    any_gone: bool,
}

/// Why a file is not indexed.
enum Unread {
    Changed,
    Failed(io::Error),
    Index(IndexError),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<IndexError> for Unread {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

impl Scan<'_> {
    fn run(mut self) -> Result<Indexed, IndexError> {
        self.index.begin()?;
        let mut waiting = vec![PathBuf::new()];
        while let Some(directory) = waiting.pop() {
            if let Err(unread) = self.directory(&directory, &mut waiting) {
                self.left_out(&directory, unread)?;
            }
        }
        self.flush()?;
        self.done.gone = self.index.sweep(self.any_gone)?;
        self.index.commit()?;
        self.index.checkpoint()?;
        Ok(self.done)
    }

    fn directory(&mut self, path: &Path, waiting: &mut Vec<PathBuf>) -> Result<(), Unread> {
        // An empty path names nothing.
        let named = if path == Path::new("") { Path::new(".") } else { path };
        let directory = open_below(&self.root, named, OFlags::RDONLY | OFlags::DIRECTORY)?;
        for entry in Dir::read_from(&directory).map_err(io::Error::from)? {
            let entry = entry.map_err(io::Error::from)?;
            let name = entry.file_name().to_bytes();
            let passed_over = matches!(name, b"." | b"..") || name.starts_with(UNFINISHED.as_bytes());
            if passed_over || self.is_own(path, name) {
                continue;
            }
            let path = path.join(OsStr::from_bytes(name));
            let kind = match entry.file_type() {
                // Some file systems do not tell here.
                FileType::Unknown => match statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(error) => {
                        self.left_out(&path, Unread::Failed(error.into()))?;
                        continue;
                    }
                },
                kind => kind,
            };
            match kind {
                FileType::Directory => waiting.push(path),
                FileType::RegularFile => self.file(&path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether this is the index, or what SQLite keeps beside it.
    fn is_own(&self, directory: &Path, name: &[u8]) -> bool {
        self.own.as_ref().is_some_and(|(folder, own)| {
            let rest = (folder == directory).then(|| name.strip_prefix(&own[..])).flatten();
            rest.is_some_and(|rest| matches!(rest, b"" | b"-wal" | b"-shm" | b"-journal"))
        })
    }

    fn file(&mut self, path: &Path) -> Result<(), IndexError> {
        match self.look_at(path) {
            Ok((stamp, read)) => {
                self.done.files += 1;
                self.done.bytes += stamp.size;
                self.done.read += u64::from(read);
                (self.met)(Met::File { path, read });
                self.in_transaction += u64::from(read);
                if self.in_transaction >= MAX_FILES {
                    self.flush()?;
                }
                Ok(())
            }
            Err(unread) => self.left_out(path, unread),
        }
    }

    fn left_out(&mut self, path: &Path, unread: Unread) -> Result<(), IndexError> {
        let reason = match unread {
            Unread::Index(error) => return Err(error),
            Unread::Changed => "it changed while it was read".to_owned(),
            Unread::Failed(error) => error.to_string(),
        };
        self.done.left_out += 1;
        (self.met)(Met::LeftOut { path, reason: &reason });
        Ok(())
    }

    /// Reads the file, unless it is known; says whether it did.
    fn look_at(&mut self, path: &Path) -> Result<(Stamp, bool), Unread> {
        let stat = fstat(open_below(&self.root, path, OFlags::PATH)?).map_err(io::Error::from)?;
        let known = self.index.known(path)?;
        if let Some((file, stamp, true)) = known
            && stamp == Stamp::of(&stat)
        {
            self.index.meet(file)?;
            return Ok((stamp, false));
        }
        self.any_gone |= known.is_some();
        let file = File::from(open_below(&self.root, path, OFlags::RDONLY)?);
        let stamp = Stamp::of(&fstat(file.as_fd()).map_err(io::Error::from)?);
        let number = self.index.add(path, stamp)?;
        match self.encode(file, stamp, number) {
            Ok(capability) => {
                let state = if stamp.changed() < self.settled { State::Settled } else { State::Fresh };
                self.index.finish(number, &capability, state)?;
                Ok((stamp, true))
            }
            Err(unread) => {
                self.index.remove(number)?;
                // Numbers are not given out again, so rows that are left belong to nobody.
                self.leaves.retain(|leaf| leaf.file() != number);
                self.any_gone = true;
                Err(unread)
            }
        }
    }

    fn encode(&mut self, mut file: File, stamp: Stamp, number: i64) -> Result<ReadCapability, Unread> {
        let block_size = BlockSize::for_length(stamp.size);
        let mut encoder = Encoder::new(block_size, ConvergenceSecret::NULL);
        // A file of the system that says it is empty may be endless.
        let mut buffer = vec![0; PIECE.min(stamp.size as usize + 1)];
        let (mut length, mut leaf) = (0, 0);
        loop {
            let read = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            length += read as u64;
            if length > stamp.size {
                return Err(Unread::Changed);
            }
            (self.met)(Met::Read { bytes: read as u64 });
            let blocks = encoder.push(&buffer[..read]);
            self.keep(blocks, number, &mut leaf)?;
        }
        let (capability, blocks) = encoder.finish();
        self.keep(blocks, number, &mut leaf)?;
        let after = Stamp::of(&fstat(file.as_fd()).map_err(io::Error::from)?);
        if after == stamp && length == stamp.size { Ok(capability) } else { Err(Unread::Changed) }
    }

    /// Takes down where leaves are, and nodes whole.
    fn keep(&mut self, blocks: Vec<SealedBlock>, file: i64, next: &mut u64) -> Result<(), IndexError> {
        for block in blocks {
            if block.level > 0 {
                self.index.add_node(&block.reference, file, block.level, &pairs_of(&block))?;
                continue;
            }
            self.leaves.push(Leaf::new(&block.reference, file, *next));
            *next += 1;
            if self.leaves.len() >= MAX_LEAVES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes what waits, and ends the transaction.
    fn flush(&mut self) -> Result<(), IndexError> {
        // By reference, then by file, then by number: of leaves that are equal, the first of a file is kept.
        self.leaves.sort_unstable();
        self.index.add_leaves(&self.leaves)?;
        self.leaves.clear();
        // Perhaps in the middle of a file, of which nobody is given blocks before it is finished.
        self.index.commit()?;
        self.index.begin()?;
        self.in_transaction = 0;
        Ok(())
    }
}
