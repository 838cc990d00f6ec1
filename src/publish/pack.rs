//! A tree on disk to its hash, and to the blocks of its seekable NAR.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use super::encode::{Encoded, Failure, Puts, Sink, encode};
use super::state::Record;
use super::{Error, Event, Observer};
use crate::block::BlockStore;
use crate::eris::ConvergenceSecret;
use crate::nar::seekable::{Packed, Packer};
use crate::nar::{self, DumpError, Hashed, Hasher, Kind, Listing, NodeId};
use crate::store::NarHash;
use crate::store::catalog;

/// The NAR hash, size and tree of what is at `location`.
pub(super) async fn hash(location: PathBuf) -> Result<Hashed, Error> {
    // Closed when the caller goes away, which ends the thread.
    let (answer, hashed) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let mut hasher = Hasher::new();
        let dumped = nar::dump(
            &location,
            Watched {
                inner: &mut hasher,
                seen: |_| if answer.is_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) },
            },
        );
        let hashed = dumped.map_err(|source| Error::Dump { path: location.clone(), source }).and_then(|()| {
            hasher.finish().map_err(|error| Error::Pack { path: location, source: io::Error::other(error) })
        });
        // Nobody may be waiting any more.
        let _ = answer.send(hashed);
    });
    hashed.await.expect("hashing does not panic")
}

/// What became of a tree that was packed and put.
pub(super) struct Put {
    pub nar_hash: NarHash,
    pub record: Record,
    pub listing: Listing,
    /// Blocks that were put.
    pub blocks: u64,
}

/// Packs what is at `location`, with the text of a startup profile, and puts its blocks; does not sync.
pub(super) async fn pack(
    store: &dyn BlockStore,
    puts: Puts,
    location: &Path,
    profile: Option<String>,
    observer: Arc<dyn Observer>,
) -> Result<Put, Error> {
    let path = location.to_owned();
    let work = move |sink: &mut Sink| {
        let mut digested = Digested { inner: sink, digest: Sha256::new() };
        let mut packer = Packer::new(&mut digested);
        packer.profile(profile.unwrap_or_default().into_bytes());
        nar::dump(
            &path,
            Watched {
                inner: &mut packer,
                seen: |bytes| {
                    observer.observe(Event::Read { bytes });
                    Ok(())
                },
            },
        )
        .map_err(Unpacked::Dump)?;
        let packed = packer.finish().map_err(Unpacked::Pack)?;
        Ok((packed, NarHash::new(digested.digest.finalize().into())))
    };
    let encoded = encode(store, puts, None, ConvergenceSecret::NULL, work).await;
    let Encoded { capability, blocks, made: (packed, packed_hash) } = encoded.map_err(|failure| {
        let path = location.to_owned();
        match failure {
            Failure::Store(source) => Error::Store { what: path.display().to_string(), source },
            Failure::Content(Unpacked::Dump(source)) => Error::Dump { path, source },
            Failure::Content(Unpacked::Pack(source)) => Error::Pack { path, source },
        }
    })?;
    let Packed { nar_hash, nar_size, packed_size, listing, .. } = packed;
    let (kind, number) = top(&listing);
    let record = Record { capability, nar_size, packed_size, packed_hash, kind, number };
    Ok(Put { nar_hash: NarHash::new(nar_hash), record, listing, blocks })
}

enum Unpacked {
    Dump(DumpError),
    Pack(io::Error),
}

/// Kind and number of a catalog's entry for this tree.
fn top(listing: &Listing) -> (catalog::Kind, u64) {
    match listing.kind(NodeId::ROOT) {
        Kind::Directory => (catalog::Kind::Directory, listing.subdirectories(NodeId::ROOT).into()),
        Kind::File { executable: true, size, .. } => (catalog::Kind::Executable, size),
        Kind::File { executable: false, size, .. } => (catalog::Kind::Regular, size),
        Kind::Symlink => (catalog::Kind::Symlink, listing.target(NodeId::ROOT).len() as u64),
    }
}

/// Says of every write how long it was, and fails where that fails.
struct Watched<W, F> {
    inner: W,
    seen: F,
}

impl<W: Write, F: FnMut(u64) -> io::Result<()>> Write for Watched<W, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.seen)(bytes.len() as u64)?;
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Hashes what goes through.
struct Digested<W> {
    inner: W,
    digest: Sha256,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.digest.update(bytes);
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
