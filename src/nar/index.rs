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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nar::ParseError;
    use crate::nar::arbitrary::sample;

    #[test]
    fn an_indexer_reads_headers_alone() {
        let nar = sample("hello-offline-lib.nar.zst");
        let mut indexer = Indexer::new();
        let mut fetched = 0;
        while let Some(at) = indexer.wants() {
            // As a block store would give it: whole blocks, though the wanted byte is in the middle of one.
            let start = at as usize / 1024 * 1024;
            let block = &nar[start..nar.len().min(start + 1024)];
            indexer.feed(start as u64, block).unwrap();
            fetched += block.len();
        }
        let listing = indexer.finish().unwrap();
        assert_eq!(
            listing,
            Listing::from_json(&sample("hello-offline-lib.ls"), Some(nar.len() as u64)).unwrap()
        );
        assert!(fetched < 4096, "{fetched} bytes of {} were read", nar.len());
    }

    #[test]
    fn a_hasher_knows_hash_size_and_tree() {
        let nar = sample("tree.nar");
        let mut hasher = Hasher::new();
        for piece in nar.chunks(777) {
            hasher.write_all(piece).unwrap();
        }
        let hashed = hasher.finish().unwrap();
        // The NarHash in the narinfo that Nix wrote: sha256:14h4g0h4ig0bcr9b9185zcg57ch2lmjakvycinp7lyvdfy19awp9.
        let expected = "e9729582776d7b7aae8dccefa964a502b2531efb0585b452660bbc4820780492";
        let found: String = hashed.nar_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, expected);
        assert_eq!(hashed.nar_size, nar.len() as u64);
        assert_eq!(hashed.listing, Listing::from_json(&sample("tree.ls"), None).unwrap());
    }

    #[test]
    fn a_hasher_refuses_what_is_cut_off_or_goes_on() {
        let nar = sample("tree.nar");
        let mut hasher = Hasher::new();
        hasher.write_all(&nar[..nar.len() - 1]).unwrap();
        assert!(matches!(hasher.clone().finish(), Err(ListingError::Tree(ParseError::Truncated { .. }))));
        let error = hasher.write_all(&[0, 0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
