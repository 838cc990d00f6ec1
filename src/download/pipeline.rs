//! From the bytes of a file to a checked NAR, on two threads that may wait: one decompresses, the other hashes, parses and seals.
//!
//! The last blocks are sealed only after the hash was found right, so nobody ever reads the end of a NAR that is another one.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::{JoinError, spawn_blocking};

use super::Reason;
use super::pump::Outlet;
use super::running::Download;
use crate::block::{Block, Disk, Stored};
use crate::compress::{self, Compression};
use crate::eris::{ConvergenceSecret, Encoder, ReadCapability, Reference, SealedBlock};
use crate::nar::{Hasher, Listing, ListingError, ParseError};
use crate::store::NarHash;

/// Bytes of the NAR that go from one thread to the other in one piece.
const PIECE: usize = 128 * 1024;
/// Pieces between them.
const QUEUE: usize = 8;
/// How often blocks are put again that the disk cache did not take, because another process had it locked. Each time it waits for two
/// seconds itself.
const TRIES: u32 = 5;
/// The pause in between.
const PAUSE: Duration = Duration::from_millis(200);

/// What a NAR must be. Two who expect different sizes of one hash have nothing to do with each other: one of them was told wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Expected {
    pub(super) nar_hash: NarHash,
    pub(super) nar_size: u64,
}

/// Why there is no NAR.
#[derive(Debug)]
pub(super) enum Fault {
    /// The source is to blame.
    Source(Reason),
    /// The disk cache is.
    Cache(String),
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::Source(reason)
    }
}

/// A NAR that is in the disk cache, and what it is.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) capability: ReadCapability,
    pub(super) listing: Listing,
}

/// Decompresses and checks what comes out of `outlet`, and keeps it in `disk` for `download`.
pub(super) async fn keep(
    outlet: Outlet,
    compression: Compression,
    download: Arc<Download>,
    disk: Disk,
) -> Result<Kept, Fault> {
    let expected = download.expected();
    run(outlet, compression, expected, move |pieces| {
        let mut keeper = Keeper::new(&download, &disk);
        let listing = check(pieces, expected, |piece| keeper.push(piece))?;
        Ok(Kept { capability: keeper.finish()?, listing })
    })
    .await
}

/// Decompresses and checks what comes out of `outlet`, and keeps nothing.
pub(super) async fn hash(
    outlet: Outlet,
    compression: Compression,
    expected: Expected,
) -> Result<Listing, Fault> {
    run(outlet, compression, expected, move |pieces| check(pieces, expected, |_| Ok(()))).await
}

/// Both threads end by themselves when the other end of `outlet` is dropped.
async fn run<T: Send + 'static>(
    outlet: Outlet,
    compression: Compression,
    expected: Expected,
    work: impl FnOnce(Receiver<Bytes>) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let (sender, pieces) = sync_channel(QUEUE);
    let decoding = spawn_blocking(move || decode(outlet, compression, expected.nar_size, &sender));
    let working = spawn_blocking(move || work(pieces));
    let (decoded, done) = tokio::join!(decoding, working);
    // What the decoder could not read explains what the other one missed.
    decoded.map_err(|panic| broken_decoder(compression, panic))??;
    // It ends with the process.
    done.unwrap_or_else(|error| Err(Fault::Cache(error.to_string())))
}

/// A decoder that hit upon something that its makers thought impossible.
fn broken_decoder(compression: Compression, panic: JoinError) -> Reason {
    Reason::Decode { compression, source: Arc::new(io::Error::other(panic)) }
}

/// Decompresses to the end, but no more than `nar_size` bytes.
fn decode(
    outlet: Outlet,
    compression: Compression,
    nar_size: u64,
    pieces: &SyncSender<Bytes>,
) -> Result<(), Reason> {
    let mut decoder = compress::decoder(compression, outlet);
    let mut left = nar_size;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = decoder.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        read.map_err(|source| Reason::Decode { compression, source: Arc::new(source) })?;
        if piece.is_empty() {
            return Ok(());
        }
        left = left.checked_sub(piece.len() as u64).ok_or(Reason::TooLong { expected: nar_size })?;
        if pieces.send(piece.into()).is_err() {
            return Ok(());
        }
    }
}

/// Takes a whole NAR piece by piece, and gives its tree if it is what it should be. `each` has every piece before the verdict.
fn check(
    pieces: Receiver<Bytes>,
    expected: Expected,
    mut each: impl FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<Listing, Fault> {
    let mut hasher = Hasher::new();
    let mut found = 0;
    for piece in pieces {
        found += piece.len() as u64;
        hasher.write_all(&piece).map_err(not_a_nar)?;
        each(&piece)?;
    }
    if found < expected.nar_size {
        return Err(Reason::TooShort { expected: expected.nar_size, found }.into());
    }
    let hashed = hasher.finish().map_err(|error| Reason::Nar(Arc::new(error)))?;
    match NarHash::new(hashed.nar_hash) {
        found if found == expected.nar_hash => Ok(hashed.listing),
        found => Err(Reason::WrongHash { expected: expected.nar_hash, found }.into()),
    }
}

/// What the hasher refuses is no NAR.
fn not_a_nar(error: io::Error) -> Reason {
    let refused = error.downcast::<ListingError>();
    let refused = refused.or_else(|error| error.downcast::<ParseError>().map(ListingError::Tree));
    Reason::Nar(Arc::new(refused.unwrap_or_else(ListingError::Write)))
}

/// Seals the bytes of a NAR, and keeps the blocks.
struct Keeper<'a> {
    encoder: Encoder,
    shelf: Shelf<'a>,
}

/// Where the blocks of a download go.
struct Shelf<'a> {
    download: &'a Download,
    disk: &'a Disk,
    /// Leaves that were put.
    leaves: u64,
    references: Vec<Reference>,
}

impl<'a> Keeper<'a> {
    fn new(download: &'a Download, disk: &'a Disk) -> Self {
        let encoder = Encoder::new(download.block_size(), ConvergenceSecret::NULL);
        Self { encoder, shelf: Shelf { download, disk, leaves: 0, references: Vec::new() } }
    }

    fn push(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let sealed = self.encoder.push(piece);
        self.shelf.put(sealed)
    }

    /// The capability, once all blocks are in the cache.
    fn finish(self) -> Result<ReadCapability, Fault> {
        let Self { encoder, mut shelf } = self;
        let (capability, sealed) = encoder.finish();
        shelf.put(sealed)?;
        let gone = shelf.references.iter().filter(|reference| !shelf.disk.contains(reference)).count();
        match gone {
            0 => Ok(capability),
            _ => Err(Fault::Cache(format!("{gone} of its blocks were evicted before the last one came"))),
        }
    }
}

impl Shelf<'_> {
    fn put(&mut self, sealed: Vec<SealedBlock>) -> Result<(), Fault> {
        if sealed.is_empty() {
            return Ok(());
        }
        let leaves = sealed.iter().filter(|block| block.level == 0);
        let leaves: Vec<_> = leaves.map(|block| (block.reference, block.key)).collect();
        let blocks: Vec<_> = sealed.into_iter().map(|block| (block.reference, block.block)).collect();
        self.references.extend(blocks.iter().map(|(reference, _)| *reference));
        put_all(self.disk, blocks).map_err(Fault::Cache)?;
        self.download.arrived(self.leaves, &leaves);
        self.leaves += leaves.len() as u64;
        Ok(())
    }
}

/// Puts blocks until the cache has them all.
fn put_all(disk: &Disk, mut blocks: Vec<(Reference, Block)>) -> Result<(), String> {
    for attempt in 1.. {
        let stored = disk.put_dear(&blocks);
        let mut kept = stored.iter().map(|stored| *stored != Stored::Dropped);
        blocks.retain(|_| !kept.next().unwrap_or(false));
        if blocks.is_empty() || attempt == TRIES {
            break;
        }
        thread::sleep(PAUSE);
    }
    match blocks.is_empty() {
        true => Ok(()),
        false => Err(disk.stat().read_through.unwrap_or_else(|| "it has no room, or is locked".to_owned())),
    }
}
