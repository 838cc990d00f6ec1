//! A tree on disk to its hash, and to the blocks of its seekable NAR.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::oneshot;

use super::encode::{Encoded, Failure, Puts, Sink, encode};
use super::files::incoming;
use super::state::Record;
use super::{Error, Event, Observer};
use crate::block::BlockStore;
use crate::eris::ConvergenceSecret;
use crate::nar::seekable::{Packed, Packer};
use crate::nar::{self, Hashed, Hasher, Kind, Listing, NodeId};
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

/// Whether the file is the seekable NAR that was published.
pub(super) async fn is_archive(file: PathBuf, record: &Record) -> bool {
    let (size, expected) = (record.packed_size, record.packed_hash);
    // Closed when the caller goes away, which ends the thread.
    let (answer, same) = oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let hash = || {
            let mut file = File::open(&file)?;
            if file.metadata()?.len() != size {
                return Ok(None);
            }
            let seen = |_| if answer.is_closed() { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) };
            let inner = Watched { inner: io::sink(), seen };
            let mut out = Out { inner, digest: Sha256::new(), copy: None };
            io::copy(&mut file, &mut out)?;
            Ok::<_, io::Error>(Some(NarHash::new(out.digest.finalize().into())))
        };
        let same = hash().is_ok_and(|found| found == Some(expected));
        // Nobody may be waiting any more.
        let _ = answer.send(same);
    });
    same.await.expect("hashing does not panic")
}

/// What became of a tree that was packed and put.
pub(super) struct Put {
    pub nar_hash: NarHash,
    pub record: Record,
    pub listing: Listing,
    /// Blocks that were put.
    pub blocks: u64,
    /// The seekable NAR, where it was to be written to a file too.
    pub nar: Option<NarFile>,
}

/// A seekable NAR that is on the disk, but has not got its name yet.
pub(super) struct NarFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl NarFile {
    /// Makes it last, and gives it its name. Blocks on the disk.
    pub fn keep(self) -> Result<(), Error> {
        let Self { file, path } = self;
        let synced = file.as_file().sync_all();
        let kept = synced.and_then(|()| Ok(file.persist(&path).map(drop)?));
        kept.map_err(|source| Error::File { path, source })
    }
}

/// Packs what is at `location`, with the text of a startup profile, and puts its blocks; does not sync. `nar_file` gets the
/// seekable NAR too.
pub(super) async fn pack(
    store: &dyn BlockStore,
    puts: Puts,
    location: &Path,
    profile: Option<String>,
    nar_file: Option<PathBuf>,
    observer: Arc<dyn Observer>,
) -> Result<Put, Error> {
    let path = location.to_owned();
    let feed = move |packer: &mut dyn Write| {
        let seen = |bytes| {
            observer.observe(Event::Read { bytes });
            Ok(())
        };
        nar::dump(&path, Watched { inner: packer, seen }).map_err(Unpacked::Fed)
    };
    pack_nar(store, puts, profile, nar_file, feed).await.map_err(|failure| {
        let path = location.to_owned();
        match failure {
            Failure::Store(source) => Error::Store { what: path.display().to_string(), source },
            Failure::Content(Unpacked::Fed(source)) => Error::Dump { path, source },
            Failure::Content(Unpacked::Pack(source)) => Error::Pack { path, source },
            Failure::Content(Unpacked::Copy { path, source }) => Error::File { path, source },
        }
    })
}

/// Packs the NAR that `feed`, on a blocking thread, writes.
pub(super) async fn pack_nar<E: Send + 'static>(
    store: &dyn BlockStore,
    puts: Puts,
    profile: Option<String>,
    nar_file: Option<PathBuf>,
    feed: impl FnOnce(&mut dyn Write) -> Result<(), Unpacked<E>> + Send + 'static,
) -> Result<Put, Failure<Unpacked<E>>> {
    let work = move |sink: &mut Sink| {
        let copy = nar_file.map(|path| match incoming(path.parent().unwrap_or(Path::new("/"))) {
            Ok(file) => Ok(NarFile { file, path }),
            Err(source) => Err(Unpacked::Copy { path, source }),
        });
        let mut out = Out { inner: sink, digest: Sha256::new(), copy: copy.transpose()? };
        let mut packer = Packer::new(&mut out);
        packer.profile(profile.unwrap_or_default().into_bytes());
        feed(&mut packer)?;
        let packed = packer.finish().map_err(Unpacked::Pack)?;
        Ok((packed, NarHash::new(out.digest.finalize().into()), out.copy))
    };
    let encoded = encode(store, puts, None, ConvergenceSecret::NULL, work).await?;
    let Encoded { capability, blocks, made: (packed, packed_hash, nar) } = encoded;
    let Packed { nar_hash, nar_size, packed_size, listing, .. } = packed;
    let (kind, number) = top(&listing);
    let record = Record { capability, nar_size, packed_size, packed_hash, kind, number };
    Ok(Put { nar_hash: NarHash::new(nar_hash), record, listing, blocks, nar })
}

/// Why a NAR was not packed.
pub(super) enum Unpacked<E> {
    /// There was no more of it.
    Fed(E),
    /// It is no NAR, or its packed form cannot be passed on.
    Pack(io::Error),
    /// The file that is to get a copy cannot be made.
    Copy { path: PathBuf, source: io::Error },
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

/// Hashes what goes through, and copies it to a file where one is wanted.
struct Out<W> {
    inner: W,
    digest: Sha256,
    copy: Option<NarFile>,
}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.digest.update(bytes);
        if let Some(NarFile { file, path }) = &mut self.copy {
            let told =
                |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
            file.write_all(bytes).map_err(told)?;
        }
        self.inner.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
