//! From the bytes of a NAR to its tree: [`Indexer`] where the bytes can be chosen, [`Hasher`] where all of them pass by.
//!
//! The indexer says which byte it wants next, so that whoever fetches can hop over the contents of large files.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use super::listing::{Builder, Listing, ListingError};
use super::wire::Parser;

/// Makes a [`Listing`] from pieces of a NAR.
#[derive(Debug, Clone, Default)]
pub struct Indexer {
    parser: Parser,
    builder: Builder,
}

impl Indexer {
    /// An indexer at the start of a NAR.
    pub fn new() -> Self {
        Self::default()
    }

    /// The position of the next byte that it needs; `None` once the tree is complete. A position at or beyond the size of the NAR
    /// means that the NAR is cut off or lies.
    pub fn wants(&self) -> Option<u64> {
        (!self.parser.is_done()).then(|| self.parser.position())
    }

    /// Takes the bytes of the NAR that start at `offset`. What it does not need is passed over: bytes before the wanted position, contents of
    /// files. Bytes that start after the wanted position are of no use and ignored.
    pub fn feed(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ListingError> {
        let end = offset.saturating_add(bytes.len() as u64);
        loop {
            let position = self.parser.position();
            if position < offset || position >= end {
                return Ok(());
            }
            let mut rest = &bytes[(position - offset) as usize..];
            if let Some(event) = self.parser.next(&mut rest)? {
                self.builder.event(event)?;
            }
        }
    }

    /// The tree, which must be complete. [`Listing::nar_size`] is where the NAR ended.
    pub fn finish(self) -> Result<Listing, ListingError> {
        self.parser.finish()?;
        self.builder.finish()
    }
}

/// What a NAR is, known once all of it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hashed {
    /// SHA-256 of the NAR: its NarHash.
    pub nar_hash: [u8; 32],
    /// Its size in bytes.
    pub nar_size: u64,
    /// Its tree.
    pub listing: Listing,
}

/// Takes a whole NAR by [`Write`] and keeps nothing but its hash, size and tree. A NAR that is not canonical is an
/// [`io::ErrorKind::InvalidData`] with a [`ParseError`](super::ParseError) in it.
#[derive(Debug, Clone, Default)]
pub struct Hasher {
    digest: Sha256,
    size: u64,
    indexer: Indexer,
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends the NAR, which must be complete.
    pub fn finish(self) -> Result<Hashed, ListingError> {
        let listing = self.indexer.finish()?;
        Ok(Hashed { nar_hash: self.digest.finalize().into(), nar_size: self.size, listing })
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.indexer.feed(self.size, bytes)?;
        self.digest.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
