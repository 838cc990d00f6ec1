//! From a file, directory or symbolic link on disk to its NAR, as `nix-store --dump` writes it.
//!
//! The tree must hold still meanwhile: a file that changes its length, or turns into something else, is an error and not a broken NAR.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::wire::{ParseError, Writer};

/// Bytes that are read, and handed on, at once.
const BUFFER: usize = 128 << 10;

/// Why a tree could not be dumped.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Something of the tree cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A device, socket or FIFO, which no NAR can hold.
    #[error("{} is a {kind}, which a NAR cannot hold", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A file was changed or replaced while it was read.
    #[error("{} changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The tree is none that a NAR can hold: it is too deep, or so.
    #[error("{} cannot be in a NAR", path.display())]
    Tree {
        /// The node.
        path: PathBuf,
        /// Why.
        source: ParseError,
    },
    /// The NAR could not be written, or whoever takes it refused it.
    #[error("the NAR cannot be written")]
    Write(#[source] io::Error),
}

/// Writes the NAR of what is at `path`, which is not followed if it is a link. Memory grows with the entries of the directories on one path,
/// not with the tree.
pub fn dump(path: &Path, out: impl Write) -> Result<(), DumpError> {
    let mut dump = Dump {
        nar: Writer::new(BufWriter::with_capacity(BUFFER, out)).map_err(DumpError::Write)?,
        path: path.to_owned(),
        open: Vec::new(),
    };
    dump.node(b"")?;
    while let Some(entries) = dump.open.last_mut() {
        match entries.pop() {
            Some(name) => {
                dump.path.push(&name);
                dump.node(name.as_bytes())?;
            }
            None => {
                dump.open.pop();
                dump.nar.end_directory().map_err(DumpError::Write)?;
                dump.path.pop();
            }
        }
    }
    dump.nar.finish().and_then(|mut out| out.flush()).map_err(DumpError::Write)
}

struct Dump<W> {
    nar: Writer<W>,
    /// Where we are.
    path: PathBuf,
    /// What is left of each open directory, the next entry last.
    open: Vec<Vec<OsString>>,
}

impl<W: Write> Dump<W> {
    /// Writes the node at `path`, a directory up to its first entry; the path then goes back to the directory that is open.
    fn node(&mut self, name: &[u8]) -> Result<(), DumpError> {
        let kind = fs::symlink_metadata(&self.path).map_err(|source| self.read(source))?.file_type();
        if kind.is_dir() {
            self.nar.directory(name).map_err(|source| self.write(source))?;
            let mut entries = self.entries().map_err(|source| self.read(source))?;
            entries.sort_unstable_by(|a, b| b.as_bytes().cmp(a.as_bytes()));
            self.open.push(entries);
            return Ok(());
        }
        if kind.is_symlink() {
            let target = fs::read_link(&self.path).map_err(|source| self.read(source))?;
            let target = target.into_os_string().into_vec();
            self.nar.symlink(name, &target).map_err(|source| self.write(source))?;
        } else if kind.is_file() {
            self.file(name)?;
        } else {
            let kind = match kind {
                kind if kind.is_fifo() => "FIFO",
                kind if kind.is_socket() => "socket",
                kind if kind.is_block_device() => "block device",
                _ => "character device",
            };
            return Err(DumpError::Kind { path: self.path.clone(), kind });
        }
        self.path.pop();
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<OsString>> {
        fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name())).collect()
    }

    fn file(&mut self, name: &[u8]) -> Result<(), DumpError> {
        // If something else stands here by now, it must neither be followed nor be waited for.
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.path);
        let file = file.map_err(|source| self.read(source))?;
        let metadata = file.metadata().map_err(|source| self.read(source))?;
        if !metadata.is_file() {
            return Err(DumpError::Changed { path: self.path.clone() });
        }
        let executable = metadata.mode() & libc::S_IXUSR != 0;
        let mut contents = Contents { file: &file, error: None, read: 0 };
        let written = self.nar.file(name, executable, metadata.len(), &mut contents);
        if let Some(source) = contents.error {
            return Err(self.read(source));
        }
        let changed = match written {
            // It may be the writer that failed: what was read of the file tells.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && contents.read < metadata.len() => {
                true
            }
            Err(error) => return Err(self.write(error)),
            Ok(()) => (&file).read(&mut [0]).map_err(|source| self.read(source))? != 0,
        };
        if changed { Err(DumpError::Changed { path: self.path.clone() }) } else { Ok(()) }
    }

    fn read(&self, source: io::Error) -> DumpError {
        DumpError::Read { path: self.path.clone(), source }
    }

    /// Tells a tree that no NAR can hold from a writer that failed.
    fn write(&self, error: io::Error) -> DumpError {
        match error.downcast::<ParseError>() {
            Ok(source) => DumpError::Tree { path: self.path.clone(), source },
            Err(error) => DumpError::Write(error),
        }
    }
}

/// The contents of a file, which keeps the error of reading apart from that of writing.
struct Contents<'a> {
    file: &'a File,
    error: Option<io::Error>,
    read: u64,
}

impl Read for Contents<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.file.read(buffer) {
            Ok(length) => {
                self.read += length as u64;
                Ok(length)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.error = Some(error);
                Err(kind.into())
            }
        }
    }
}
