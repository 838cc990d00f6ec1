//! Which contents are known to hold which NAR, because all of it was hashed once.

use std::path::Path;

use crate::compress::Compression;
use crate::eris::ReadCapability;
use crate::store::NarHash;

/// A content that holds a NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// By which it is read.
    pub capability: ReadCapability,
    /// How the NAR is compressed in it; [`Compression::None`] is that of a download.
    pub form: Compression,
}

/// The records of this user, in a directory: which contents hold which NAR.
#[derive(Debug)]
pub struct Verified {
    _private: (),
}

impl Verified {
    /// The records in `dir`, which is made with the first one. A directory that others may write to is not believed: the log says so,
    /// and nothing is remembered.
    pub fn open(_dir: &Path) -> Self {
        todo!()
    }

    /// The contents that are known to hold this NAR, the one remembered last first. Reads a small file.
    pub fn get(&self, _nar_hash: NarHash) -> Vec<Known> {
        todo!()
    }

    /// Remembers that all of `known` was read and hashed to `nar_hash`. Writes a small file; what cannot be written is forgotten.
    pub fn remember(&self, _nar_hash: NarHash, _known: Known) {
        todo!()
    }
}
