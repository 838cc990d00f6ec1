//! The catalog: one content that lists a set of store paths, so that one URN is a whole store.
//!
//! It is a zstd stream: frames with the narinfos, sorted by hash part, so that `zstd -dc` prints
//! them one after the other with an empty line behind each; then, in skippable frames, a table of
//! names for listing, the index of both tables, and last the tail with the roots of the index. A
//! lookup reads the tail, 27 KiB of index and one page, however many paths there are. The
//! [`Writer`] streams; the reader ([`Catalog`]) does no I/O but says which bytes it wants.
//!
//! Layout, all integers little-endian, hash parts as 20 bytes in the order of their text:
//!
//! ```text
//! narinfo pages   zstd frames; content: narinfo texts, an empty line behind each
//! name pages      skippable frames: "ERISNAME", then one zstd frame; content, by columns:
//!                 count u32, count * hash part, count * kind u8, count * number u64,
//!                 count * length of name u8, the names
//! index           one skippable frame: "ERISINDX", then an entry for each narinfo page, then for
//!                 each name page: first hash part, offset u64, compressed u32, decompressed u32
//! tail            one skippable frame: "ERISROOT", then the hash part of every 768th entry of the
//!                 narinfo index, the same of the name index, the store directory, the footer
//! footer          paths u64, narinfo pages u64, name pages u64, offset of the index entries u64,
//!                 bytes of the tail frame u32, bytes of the store directory u16, version u16,
//!                 "ERISCAT\n"
//! ```

mod page;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::fmt;

pub use self::page::{NamePage, NarinfoPage};
pub use self::reader::{Catalog, IndexPage, Opening, Page};
pub use self::writer::{WriteError, Writer};
use super::narinfo::NarinfoError;
use super::path::{HashPart, PathError, StoreDir, StorePath};

/// Version of the format that is written and read.
pub const VERSION: u16 = 1;

/// Most bytes that a page may have, compressed or not.
pub const MAX_PAGE: u32 = 2 << 20;

/// Entries of the index that one root stands for.
const FANOUT: u64 = 768;

/// Bytes of an entry of the index.
const INDEX_ENTRY: u64 = 36;

/// Bytes of a hash part in the index.
const KEY: usize = 20;

/// Bytes of the footer.
const FOOTER: usize = 48;

/// Most bytes that the tail may have: enough for 39 million pages.
const MAX_TAIL: u32 = 1 << 20;

/// Magic number of the skippable frames, one of the sixteen that RFC 8878 (3.1.2) sets aside.
const SKIPPABLE: u32 = 0x184D_2A5A;

/// Magic number and length of a skippable frame, and the tag that its contents start with.
const FRAME_HEADER: usize = 16;

const NAMES_TAG: &[u8; 8] = b"ERISNAME";
const INDEX_TAG: &[u8; 8] = b"ERISINDX";
const TAIL_TAG: &[u8; 8] = b"ERISROOT";
const MAGIC: &[u8; 8] = b"ERISCAT\n";

/// Which of the two tables of a catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// Hash part to narinfo.
    Narinfos,
    /// Hash part to name, kind and size.
    Names,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Narinfos => "narinfo",
            Self::Names => "name",
        })
    }
}

/// What a store path is at its top.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file that is not executable.
    Regular,
    /// An executable file.
    Executable,
    /// A symbolic link.
    Symlink,
}

impl Kind {
    const fn to_byte(self) -> u8 {
        match self {
            Self::Directory => 0,
            Self::Regular => 1,
            Self::Executable => 2,
            Self::Symlink => 3,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Directory),
            1 => Some(Self::Regular),
            2 => Some(Self::Executable),
            3 => Some(Self::Symlink),
            _ => None,
        }
    }
}

/// What the table of names says of a store path: enough for `ls -l` of the store directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The store path.
    pub path: StorePath,
    /// What it is.
    pub kind: Kind,
    /// Of a directory the number of its subdirectories, of a file its size in bytes, of a symbolic
    /// link the length of its target in bytes.
    pub number: u64,
}

/// Why a catalog cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The content does not end as a catalog does.
    #[error("not a catalog: {reason}")]
    NotACatalog {
        /// What is missing.
        reason: &'static str,
    },
    /// The catalog has a version that this program does not know.
    #[error("catalog has version {found}; this program reads version {VERSION}")]
    Version {
        /// Its version.
        found: u16,
    },
    /// The lengths and offsets of the footer contradict each other.
    #[error("catalog is damaged: {reason}")]
    Footer {
        /// The contradiction.
        reason: &'static str,
    },
    /// The store directory is not one.
    #[error("catalog: {source}")]
    StoreDir {
        /// What is wrong with it.
        source: PathError,
    },
    /// Other bytes were handed over than were asked for.
    #[error("{expected} bytes of a catalog were wanted and {found} given")]
    WrongLength {
        /// Bytes asked for.
        expected: u64,
        /// Bytes given.
        found: u64,
    },
    /// The index is not sorted, or does not fit its root.
    #[error("index of the {table} table is not in order around page {page}")]
    IndexOrder {
        /// The table.
        table: Table,
        /// Number of the page, from 0.
        page: u64,
    },
    /// The index points outside the pages, or to a page that is empty or too big.
    #[error(
        "index of the {table} table gives page {page} an impossible place: {compressed} bytes at {offset}, {decompressed} decompressed"
    )]
    PageRange {
        /// The table.
        table: Table,
        /// Number of the page, from 0.
        page: u64,
        /// Where it is said to start.
        offset: u64,
        /// Its length.
        compressed: u32,
        /// Its length after decompression.
        decompressed: u32,
    },
    /// A page does not decompress.
    #[error("page {page} of the {table} table does not decompress: {source}")]
    Compression {
        /// The table.
        table: Table,
        /// Number of the page, from 0.
        page: u64,
        /// What zstd says.
        source: std::io::Error,
    },
    /// A page's contents do not follow the format.
    #[error("page {page} of the {table} table is damaged: {reason}")]
    Layout {
        /// The table.
        table: Table,
        /// Number of the page, from 0.
        page: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A name is not one for a store path.
    #[error("page {page} of the name table: {source}")]
    Name {
        /// Number of the page, from 0.
        page: u64,
        /// What is wrong with it.
        source: PathError,
    },
    /// A narinfo cannot be read.
    #[error("page {page} of the narinfo table, {hash_part}: {source}")]
    Narinfo {
        /// Number of the page, from 0.
        page: u64,
        /// Hash part of the narinfo.
        hash_part: HashPart,
        /// What is wrong with it.
        source: NarinfoError,
    },
    /// A narinfo is of another store.
    #[error("catalog of {expected} holds {hash_part}, which is of {found}")]
    OtherStore {
        /// Hash part of the narinfo.
        hash_part: HashPart,
        /// The catalog's store directory.
        expected: StoreDir,
        /// That of the narinfo.
        found: StoreDir,
    },
}
