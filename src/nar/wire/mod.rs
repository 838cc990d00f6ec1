//! The grammar of NAR (Dolstra, *The Purely Functional Software Deployment Model*, figure 5.2): a [`Parser`] that is fed bytes and does no I/O,
//! and a [`Writer`] of the same events.
//!
//! Both know the canonical form alone: entries sorted bytewise, no name twice, zero padding, nothing after the end. The parser never
//! asks for the contents of a file, so that a NAR behind a network can be indexed by reading its headers only.

mod parser;
#[cfg(test)]
mod tests;
mod writer;

use std::io;

pub use parser::Parser;
pub use writer::Writer;

/// The longest name of a directory entry in bytes: Linux's `NAME_MAX`. A mount cannot show a longer one.
pub const MAX_NAME: usize = 255;
/// The longest target of a symbolic link in bytes: Linux's `PATH_MAX` without the final NUL.
pub const MAX_TARGET: usize = 4095;
/// The most directories inside one another, the root included: a path of more components than this does not fit into `PATH_MAX`, so
/// no system call could name it. (Some versions of Nix stop at 64; Guix and older Nix have no limit, and trees with deep
/// `node_modules` exist. The parser does not recurse, so depth costs little.)
pub const MAX_DEPTH: usize = 2048;

/// The largest NAR in bytes; no file system holds a file of this size, and positions within it can be added up without overflow.
pub(in crate::nar) const MAX_NAR: u64 = u64::MAX / 4;

/// The longest of the grammar's own words.
const MAX_WORD: usize = MAGIC.len();
pub(in crate::nar) const MAGIC: &[u8] = b"nix-archive-1";

/// What a NAR is made of, in the order of its bytes. The name of the root is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A directory begins; its entries follow up to the matching [`Event::EndDirectory`].
    Directory {
        /// Name in the enclosing directory.
        name: &'a [u8],
    },
    /// The innermost open directory ends.
    EndDirectory,
    /// A regular file. Its contents are the bytes `offset..offset + size` of the NAR.
    File {
        /// Name in the enclosing directory.
        name: &'a [u8],
        /// Whether it is marked executable.
        executable: bool,
        /// Length of the contents in bytes.
        size: u64,
        /// Where the contents start in the NAR.
        offset: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Name in the enclosing directory.
        name: &'a [u8],
        /// Where it points to.
        target: &'a [u8],
    },
}

/// Why bytes are not a canonical NAR. Positions are bytes from the start of the NAR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A word of the grammar is missing.
    #[error("NAR byte {position}: expected {expected}, found {found:?}")]
    Unexpected {
        /// Where the word ends.
        position: u64,
        /// What the grammar allows there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A string is longer than any that may stand there.
    #[error("NAR byte {position}: {what} of {length} bytes is too long (at most {limit})")]
    TooLong {
        /// Where the string begins.
        position: u64,
        /// What the string would be.
        what: &'static str,
        /// Its length in bytes.
        length: u64,
        /// The longest allowed.
        limit: usize,
    },
    /// Padding is not zero.
    #[error("NAR byte {position}: non-zero padding before this byte")]
    Padding {
        /// Where the padding ends.
        position: u64,
    },
    /// A directory entry has a name that no file can have.
    #[error("directory entry {name:?} has a bad name: {fault}")]
    BadName {
        /// The name, with invalid UTF-8 replaced.
        name: String,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// Entries are not sorted bytewise.
    #[error("directory entry {name:?} comes after {previous:?}: entries are not sorted")]
    Unsorted {
        /// The name that comes too late.
        name: String,
        /// The one before it.
        previous: String,
    },
    /// A name appears twice in one directory.
    #[error("directory entry {name:?} appears twice")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A symbolic link has no target, or one with a NUL byte or too long.
    #[error("symbolic link {name:?} has a bad target: {fault}")]
    BadTarget {
        /// Name of the link.
        name: String,
        /// What is wrong with its target.
        fault: NameFault,
    },
    /// Directories are nested deeper than [`MAX_DEPTH`].
    #[error("directories are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// A file would not fit into any NAR.
    #[error("file {name:?} at NAR byte {offset} has an impossible size of {size} bytes")]
    FileTooLarge {
        /// Name of the file.
        name: String,
        /// Where its contents start.
        offset: u64,
        /// Its size.
        size: u64,
    },
    /// The sum of all sizes is beyond any that can be.
    #[error("the NAR would be impossibly large")]
    NarTooLarge,
    /// Bytes follow the end of the archive.
    #[error("data after the end of the NAR at byte {position}")]
    TrailingData {
        /// Where the NAR ended.
        position: u64,
    },
    /// The archive ends too early.
    #[error("the NAR is cut off at byte {position}")]
    Truncated {
        /// Where more was needed.
        position: u64,
    },
    /// Directories that were begun and ended do not match, or a second root follows the first (a misuse of [`Writer`]).
    #[error("directories begun and ended do not match")]
    Unbalanced,
}

/// What is wrong with a name or a link target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// It is `.` or `..`.
    #[error("it is reserved")]
    Reserved,
    /// It has a slash in it.
    #[error("it has a slash in it")]
    Slash,
    /// It has a NUL byte in it.
    #[error("it has a NUL byte in it")]
    Nul,
    /// It is longer than [`MAX_NAME`] or [`MAX_TARGET`].
    #[error("it is too long")]
    TooLong,
}

impl From<ParseError> for io::Error {
    fn from(error: ParseError) -> Self {
        let kind = match error {
            ParseError::Truncated { .. } => io::ErrorKind::UnexpectedEof,
            _ => io::ErrorKind::InvalidData,
        };
        io::Error::new(kind, error)
    }
}

/// `length` rounded up to the eight bytes that all strings of a NAR are padded to.
pub(in crate::nar) fn padded(length: u64) -> Option<u64> {
    length.checked_next_multiple_of(8)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Whether a directory entry may have this name: what Nix refuses, and what is longer than [`MAX_NAME`].
pub fn check_name(name: &[u8]) -> Result<(), NameFault> {
    match name {
        b"" => Err(NameFault::Empty),
        b"." | b".." => Err(NameFault::Reserved),
        _ if name.contains(&b'/') => Err(NameFault::Slash),
        _ if name.contains(&0) => Err(NameFault::Nul),
        _ if name.len() > MAX_NAME => Err(NameFault::TooLong),
        _ => Ok(()),
    }
}

pub(in crate::nar) fn check_target(target: &[u8]) -> Result<(), NameFault> {
    match target {
        b"" => Err(NameFault::Empty),
        _ if target.contains(&0) => Err(NameFault::Nul),
        _ if target.len() > MAX_TARGET => Err(NameFault::TooLong),
        _ => Ok(()),
    }
}

/// The open directories and the last name in each, which together enforce the order of entries.
#[derive(Debug, Clone, Default)]
pub(in crate::nar) struct Nesting {
    /// The last entry name of every open directory, outermost first, one after another.
    names: Vec<u8>,
    /// Where the name of each open directory starts in `names`.
    starts: Vec<usize>,
    /// The root has been seen.
    rooted: bool,
}

impl Nesting {
    /// Takes the name of the next node, which must be empty for the root and in order anywhere else.
    pub(in crate::nar) fn enter(&mut self, name: &[u8]) -> Result<(), ParseError> {
        let Some(&start) = self.starts.last() else {
            if self.rooted || !name.is_empty() {
                return Err(ParseError::Unbalanced);
            }
            self.rooted = true;
            return Ok(());
        };
        check_name(name).map_err(|fault| ParseError::BadName { name: lossy(name), fault })?;
        let previous = &self.names[start..];
        if name == previous {
            return Err(ParseError::Duplicate { name: lossy(name) });
        }
        if name < previous {
            return Err(ParseError::Unsorted { name: lossy(name), previous: lossy(previous) });
        }
        self.names.truncate(start);
        self.names.extend_from_slice(name);
        Ok(())
    }

    /// Enters the root where nothing is open; any other node was entered by its name before.
    fn enter_root(&mut self) -> Result<(), ParseError> {
        if self.starts.is_empty() { self.enter(b"") } else { Ok(()) }
    }

    /// The name of the node that was entered last.
    fn name(&self) -> &[u8] {
        &self.names[self.starts.last().copied().unwrap_or(0)..]
    }

    /// The node that was entered last is a directory, and its entries follow.
    pub(in crate::nar) fn open(&mut self) -> Result<(), ParseError> {
        if self.starts.len() == MAX_DEPTH {
            return Err(ParseError::TooDeep);
        }
        self.starts.push(self.names.len());
        Ok(())
    }

    /// The innermost directory ends.
    pub(in crate::nar) fn close(&mut self) -> Result<(), ParseError> {
        let start = self.starts.pop().ok_or(ParseError::Unbalanced)?;
        self.names.truncate(start);
        Ok(())
    }

    pub(in crate::nar) fn depth(&self) -> usize {
        self.starts.len()
    }

    /// Everything that was opened is closed, and there was something.
    pub(in crate::nar) fn complete(&self) -> bool {
        self.rooted && self.starts.is_empty()
    }

    /// Name of the innermost open directory.
    fn directory_name(&self) -> &[u8] {
        match self.starts.as_slice() {
            [.., outer, inner] => &self.names[*outer..*inner],
            _ => b"",
        }
    }
}
