//! What can go wrong between a name and its bytes.

use std::sync::Arc;

use super::inode::MAX_NODES;
use super::{CatalogError, Facts};
use crate::content;
use crate::download;
use crate::eris;
use crate::nar::ListingError;
use crate::nar::seekable::TailError;
use crate::store::NarHash;
use crate::substituter;

/// Why the view cannot answer. The messages name the store path, the block and its source.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Something below a file was asked for.
    #[error("not a directory")]
    NotDirectory,
    /// A directory was to be read as a file.
    #[error("is a directory")]
    IsDirectory,
    /// A link was to be read that is none.
    #[error("not a symbolic link")]
    NotSymlink,
    /// An inode number that this mount never gave out.
    #[error("inode {number:#x} is not known")]
    Stale {
        /// The number.
        number: u64,
    },
    /// Bytes could not be had.
    #[error("{name}: {source}")]
    Read {
        /// Store path, and the path in it.
        name: String,
        /// Which block, from where.
        source: content::Error,
    },
    /// A catalog could not be read.
    #[error("catalog {name}: {source}")]
    Catalog {
        /// The catalog, by its content.
        name: content::Name,
        /// What is wrong with it.
        source: Arc<CatalogError>,
    },
    /// The narinfo names no ERIS content that can be read.
    #[error("{name}: its narinfo binds it to no ERIS content that this version reads ({found})")]
    NoBinding {
        /// The store path.
        name: String,
        /// What there is instead.
        found: String,
    },
    /// The narinfo names an ERIS content wrongly.
    #[error("{name}: the ERIS field of its narinfo: {source}")]
    Urn {
        /// The store path.
        name: String,
        /// What is wrong with it.
        source: eris::ParseError,
    },
    /// The deadline passed while the listing or the profile of an object was parsed, or waited to be.
    #[error("{name}: its listing was not parsed before the deadline")]
    Overdue {
        /// The store path.
        name: String,
    },
    /// No server has a good narinfo, or one that might have it could not be asked.
    #[error(transparent)]
    Lookup(substituter::Error),
    /// Nothing of it may be shown before its whole NAR was hashed, and that is not done for what nobody waits for.
    #[error(
        "{name}: nothing of it is shown before its whole NAR was hashed, which is not done ahead of need"
    )]
    NotAhead {
        /// The store path.
        name: String,
    },
    /// Neither an ERIS content nor the NAR itself could be had.
    #[error("{eris}; and without it: {nar}")]
    Neither {
        /// What is wrong with the content, or that there is none.
        eris: Box<Error>,
        /// Why there is no NAR, or not yet.
        nar: download::Error,
    },
    /// The NAR could not be had, as a whole or in part.
    #[error(transparent)]
    Download(download::Error),
    /// The content is not the archive that it should be.
    #[error("{name}: {fault}")]
    Object {
        /// The store path.
        name: String,
        /// What is wrong.
        fault: Arc<Fault>,
    },
}

impl Error {
    /// Whether it is that a deadline passed, and nothing else.
    pub fn is_overdue(&self) -> bool {
        match self {
            Error::Overdue { .. } | Error::Read { source: content::Error::TimedOut { .. }, .. } => true,
            Error::Lookup(error) => matches!(error, substituter::Error::Late { .. }),
            Error::Download(nar) | Error::Neither { nar, .. } => {
                matches!(nar, download::Error::Overdue { .. })
            }
            _ => false,
        }
    }

    /// Whether it is the fault of the network or of this machine, and not of what was asked for.
    pub fn may_pass(&self) -> bool {
        match self {
            Error::Overdue { .. } | Error::Read { source: content::Error::TimedOut { .. }, .. } => true,
            Error::Read { source: content::Error::Block(error), .. } => error.is_transient(),
            Error::Lookup(error) => error.is_transient(),
            Error::Download(nar) | Error::Neither { nar, .. } => nar.may_pass(),
            _ => false,
        }
    }
}

/// Why a content is not the archive that it should be.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The end of the object is broken.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// The headers of the NAR are broken.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// A compressed object that was not published for random access.
    #[error("it is compressed as one piece, without a seek table, which this version cannot read")]
    NotSeekable,
    /// The NAR is larger or smaller than its narinfo says.
    #[error("the NAR has {found} bytes, but its narinfo says {expected}")]
    NarSize {
        /// As the narinfo has it.
        expected: u64,
        /// As the object has it.
        found: u64,
    },
    /// Something follows the NAR.
    #[error("the NAR ends after {nar} bytes, but there are {content}")]
    Trailing {
        /// Size of the NAR.
        nar: u64,
        /// Bytes that there are.
        content: u64,
    },
    /// The catalog says one thing of the top, the object another.
    #[error("it is a {found:?}, but its catalog says {expected:?}")]
    Facts {
        /// As the catalog has it.
        expected: Facts,
        /// As the object has it.
        found: Facts,
    },
    /// A content that was bound to a store path, or should hold its NAR, is none.
    #[error("it is no NAR")]
    NotNar,
    /// The listing in the content is not that of the NAR.
    #[error("its ERIS content and its NAR do not have the same tree")]
    Disagrees,
    /// The content holds another NAR than the narinfo says.
    #[error("its ERIS content hashes to {found}, but its narinfo says {expected}")]
    WrongHash {
        /// As the narinfo has it.
        expected: NarHash,
        /// As the content has it.
        found: NarHash,
    },
    /// More nodes than inode numbers.
    #[error("{found} files and directories are more than the {MAX_NODES} that a mount can number")]
    TooManyNodes {
        /// How many there are.
        found: usize,
    },
}
