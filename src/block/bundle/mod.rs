//! Blocks in one file: the CBOR serialization of ERIS, for a stick or a mail, and for `erisfs export` and `import`.
//!
//! The file is gone through once, hopping from head to head, and what stays in memory is 16 bytes for each block; the blocks
//! are read from where they stand, so a mount can read straight from the stick. What others wrote is read in all forms that CBOR
//! allows; blocks are added to files whose map and array do not say their length, as all that we write.

mod cbor;
mod scan;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use rustix::fs::{FlockOperation, OFlags, flock};

pub use self::scan::Damage;
use self::scan::{Entry, Outline, REFERENCE, Scan, Stop};
use super::{Block, BlockStore, Error, Refusal};
use crate::eris::{ReadCapability, Reference};

/// Blocks that one blocking task reads, as in a directory.
const CHUNK: usize = 32;
/// Tasks at a time: a stick answers one after another.
const CHUNKS: usize = 4;
/// Added blocks that are looked through one by one before they are sorted in.
const UNSORTED: usize = 4096;

/// One file of blocks and read capabilities: `bundle:FILE` (`cbor.xml` of the ERIS documents).
///
/// The first put makes it. A file that is damaged in the middle gives the blocks that stand before the damage, and is not added to;
/// one whose end was cut off, as a crash or a full stick leaves it, is mended by the next put.
#[derive(Debug, Clone)]
pub struct Bundle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    name: Arc<str>,
    index: Mutex<Option<Index>>,
}

/// An opened file, and where its blocks are.
#[derive(Debug)]
struct Index {
    file: Arc<File>,
    /// Length of the file when it was read.
    length: u64,
    outline: Outline,
    damage: Option<Damage>,
    /// The first bytes of a reference, and where its entry stands; sorted.
    sorted: Vec<(u64, u64)>,
    /// The same, the latest last.
    added: Vec<(u64, u64)>,
}

impl Bundle {
    /// The file at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = format!("bundle:{}", path.display()).into();
        // The process may change its directory later, as a mount in the background does.
        let path = std::path::absolute(&path).unwrap_or(path);
        Bundle { shared: Arc::new(Shared { path, name, index: Mutex::new(None) }) }
    }

    /// The read capabilities that are in it, and what is wrong with it.
    pub async fn contents(&self) -> Result<(Vec<ReadCapability>, Option<Damage>), Error> {
        self.blocking(|shared| {
            shared.indexed(None, |index| Ok((index.outline.capabilities.clone(), index.damage.clone())))
        })
        .await
    }

    /// The references of all blocks that are in it, in the order of the file.
    pub async fn references(&self) -> Result<Vec<Reference>, Error> {
        self.blocking(|shared| {
            shared.indexed(None, |index| {
                let mut offsets: Vec<u64> = index.sorted.iter().chain(&index.added).map(|at| at.1).collect();
                offsets.sort_unstable();
                let references = offsets.into_iter().map(|offset| index.reference_at(offset));
                references.collect::<Result<_, _>>().map_err(|error| shared.failed(None, error))
            })
        })
        .await
    }

    /// Says what is in it, besides blocks: keeps those capabilities that it does not have yet.
    pub async fn add_capabilities(&self, capabilities: Vec<ReadCapability>) -> Result<(), Error> {
        self.blocking(move |shared| shared.write(&[], &capabilities)).await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .expect("file access neither panics nor is aborted")
    }
}

impl Shared {
    /// Does something with the index, which is made now if it was not yet.
    fn indexed<T>(
        &self,
        reference: Option<&Reference>,
        work: impl FnOnce(&mut Index) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut kept = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            let file = open(&self.path, false).map_err(|error| self.failed(reference, error))?;
            let index = Index::read(file).map_err(|stop| self.stopped(reference, stop))?;
            if let Some(damage) = &index.damage {
                tracing::warn!("{}: {damage}; what stands before is read", self.name);
            }
            *kept = Some(index);
        }
        work(kept.as_mut().expect("it was made"))
    }

    /// Where the block may stand. Looks once more at a file that has grown since.
    fn places(&self, reference: &Reference) -> Result<(Arc<File>, Vec<u64>), Error> {
        self.indexed(Some(reference), |index| {
            let mut places = index.places(reference);
            if places.is_empty() {
                index.refresh().map_err(|stop| self.stopped(Some(reference), stop))?;
                places = index.places(reference);
            }
            Ok((index.file.clone(), places))
        })
    }

    fn read(&self, reference: &Reference) -> Result<Block, Error> {
        let (file, places) = self.places(reference)?;
        match block_at(&file, places, reference) {
            Ok(Some(block)) => Ok(block.into()),
            Ok(None) => Err(Error::NotFound { reference: *reference, store: self.name.clone() }),
            Err(stop) => Err(self.stopped(Some(reference), stop)),
        }
    }

    fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let (file, places) = match self.places(reference) {
            // Before the first put there is no file.
            Err(Error::Unavailable { .. }) if !self.path.exists() => return Ok(false),
            places => places?,
        };
        for offset in places {
            let found = reference_at(&file, offset).map_err(|error| self.failed(Some(reference), error))?;
            if found == *reference {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Adds what is not there yet, and then the end of the bundle: one write, over the end that was there.
    fn write(&self, blocks: &[(Reference, Block)], capabilities: &[ReadCapability]) -> Result<(), Error> {
        let asked = blocks.first().map(|(reference, _)| reference);
        let failed = |error| self.failed_write(asked, error);
        let file = open(&self.path, true).map_err(failed)?;
        flock(&file, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        if file.metadata().map_err(failed)?.len() == 0 {
            file.write_all_at(EMPTY, 0).map_err(failed)?;
        }
        let mut kept = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_mut().filter(|index| is_same(&index.file, &file)) {
            Some(index) => {
                // From now on through a descriptor that can be written.
                index.file = Arc::new(file);
                index.refresh().map_err(|stop| self.stopped(asked, stop))?;
            }
            None => *kept = Some(Index::read(file).map_err(|stop| self.stopped(asked, stop))?),
        }
        let index = kept.as_mut().expect("it was made");
        index.add(blocks, capabilities).map_err(|why| match why {
            AddError::Io(error) => failed(error),
            AddError::Fixed => self.foreign("its map has a fixed length, so nothing can be added"),
            AddError::Damaged(damage) => self.foreign(&format!("{damage}, so nothing is added")),
        })?;
        flock(&*index.file, FlockOperation::Unlock).map_err(|error| failed(error.into()))
    }

    fn sync(&self) -> Result<(), Error> {
        let kept = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.as_ref() {
            Some(index) => index.file.sync_data().map_err(|error| self.failed(None, error)),
            None => Ok(()),
        }
    }

    fn foreign(&self, what: &str) -> Error {
        Error::Refused { store: self.name.clone(), reason: Refusal::Foreign(what.to_owned()) }
    }

    fn stopped(&self, reference: Option<&Reference>, stop: Stop) -> Error {
        match stop {
            Stop::Damage(damage) => self.foreign(&damage.to_string()),
            Stop::Io(error) => self.failed(reference, error),
        }
    }

    fn failed_write(&self, reference: Option<&Reference>, error: io::Error) -> Error {
        match error.kind() {
            ErrorKind::ReadOnlyFilesystem => {
                Error::Refused { store: self.name.clone(), reason: Refusal::ReadOnly }
            }
            _ => self.failed(reference, error),
        }
    }

    fn failed(&self, reference: Option<&Reference>, error: io::Error) -> Error {
        let store = self.name.clone();
        match error.kind() {
            ErrorKind::PermissionDenied => {
                Error::Refused { store, reason: Refusal::Denied(error.to_string()) }
            }
            ErrorKind::InvalidInput => Error::Refused { store, reason: Refusal::Foreign(error.to_string()) },
            _ => Error::Unavailable {
                reference: reference.copied(),
                store,
                retry_after: None,
                source: Arc::new(error),
            },
        }
    }
}

/// A bundle without blocks: self-described, an array with a map, both open.
const EMPTY: &[u8] = &[
    0xd9,
    0xd9,
    0xf7,
    0xda,
    b'e',
    b'r',
    b'i',
    b's',
    cbor::OPEN_ARRAY,
    cbor::OPEN_MAP,
    cbor::BREAK,
    cbor::BREAK,
];

enum AddError {
    Io(io::Error),
    Fixed,
    Damaged(Damage),
}

impl Index {
    fn read(file: File) -> Result<Self, Stop> {
        let mut index = Index {
            length: file.metadata()?.len(),
            file: Arc::new(file),
            outline: Outline::default(),
            damage: None,
            sorted: Vec::new(),
            added: Vec::new(),
        };
        let file = index.file.clone();
        let sorted = &mut index.sorted;
        let outcome = Scan::new(&file, 0)?.bundle(&mut index.outline, |entry| sorted.push(place(&entry)));
        index.sorted.sort_unstable();
        match outcome {
            // What has no entry at all was never a bundle.
            Err(Stop::Damage(damage)) if index.outline.entries_end == 0 => Err(Stop::Damage(damage)),
            outcome => index.note(outcome).map(|()| index),
        }
    }

    /// Reads what others have added to the file.
    fn refresh(&mut self) -> Result<(), Stop> {
        let length = self.file.metadata()?.len();
        if length == self.length || !self.outline.is_open {
            return Ok(());
        }
        self.length = length;
        let (file, added) = (self.file.clone(), &mut self.added);
        let mut scan = Scan::new(&file, self.outline.entries_end)?;
        let outcome = scan.more(&mut self.outline, |entry| added.push(place(&entry)));
        self.sort();
        self.note(outcome)
    }

    fn note(&mut self, outcome: Result<(), Stop>) -> Result<(), Stop> {
        self.damage = match outcome {
            Ok(()) => None,
            Err(Stop::Damage(damage)) => Some(damage),
            Err(error) => return Err(error),
        };
        Ok(())
    }

    fn sort(&mut self) {
        if self.added.len() > UNSORTED {
            self.sorted.append(&mut self.added);
            self.sorted.sort_unstable();
        }
    }

    /// Where the block may stand, the last place first.
    fn places(&self, reference: &Reference) -> Vec<u64> {
        let wanted = prefix(reference);
        let first = self.sorted.partition_point(|(prefix, _)| *prefix < wanted);
        let sorted = self.sorted[first..].iter().take_while(|(prefix, _)| *prefix == wanted);
        let added = self.added.iter().filter(|(prefix, _)| *prefix == wanted);
        let mut places: Vec<u64> = sorted.chain(added).map(|(_, offset)| *offset).collect();
        places.sort_unstable_by_key(|offset| std::cmp::Reverse(*offset));
        places
    }

    fn reference_at(&self, offset: u64) -> io::Result<Reference> {
        reference_at(&self.file, offset)
    }

    fn add(
        &mut self,
        blocks: &[(Reference, Block)],
        capabilities: &[ReadCapability],
    ) -> Result<(), AddError> {
        match &self.damage {
            _ if !self.outline.is_open => return Err(AddError::Fixed),
            // Its end was cut off: it gets a new one.
            None | Some(Damage::Truncated { .. }) => {}
            Some(damage) => return Err(AddError::Damaged(damage.clone())),
        }
        let (start, mut bytes, mut fresh) = (self.outline.entries_end, Vec::new(), Vec::new());
        for (reference, block) in blocks {
            // One that lies spoiled is written once more: the last entry is the one that is read.
            let found = block_at(&self.file, self.places(reference), reference);
            let known = matches!(found, Ok(Some(found)) if found == *block);
            if known || fresh.iter().any(|(known, _): &(Reference, u64)| known == reference) {
                continue;
            }
            fresh.push((*reference, start + bytes.len() as u64));
            cbor::write_head(cbor::BYTES, REFERENCE as u64, &mut bytes);
            bytes.extend_from_slice(reference.as_bytes());
            cbor::write_head(cbor::BYTES, block.len() as u64, &mut bytes);
            bytes.extend_from_slice(block);
        }
        let new = capabilities.iter().filter(|capability| !self.outline.capabilities.contains(capability));
        let new: Vec<_> = new.cloned().collect();
        if fresh.is_empty() && new.is_empty() && self.damage.is_none() {
            return Ok(());
        }
        let entries_end = start + bytes.len() as u64;
        bytes.push(cbor::BREAK);
        for capability in self.outline.capabilities.iter().chain(&new) {
            cbor::write_head(cbor::TAG, cbor::CAPABILITY, &mut bytes);
            cbor::write_head(cbor::BYTES, ReadCapability::BYTES as u64, &mut bytes);
            bytes.extend_from_slice(&capability.to_bytes());
        }
        bytes.push(cbor::BREAK);
        let end = start + bytes.len() as u64;
        self.file.write_all_at(&bytes, start).and_then(|()| self.file.set_len(end)).map_err(AddError::Io)?;
        (self.length, self.outline.entries_end, self.damage) = (end, entries_end, None);
        self.outline.capabilities.extend(new);
        self.added.extend(fresh.iter().map(|(reference, offset)| (prefix(reference), *offset)));
        self.sort();
        Ok(())
    }
}

/// Under what an entry is found, and where it stands.
fn place(entry: &Entry) -> (u64, u64) {
    (prefix(&entry.reference), entry.offset)
}

/// References are hashes: few of a store share their first 8 bytes, and none but the right one is given out.
fn prefix(reference: &Reference) -> u64 {
    let first = reference.as_bytes().first_chunk().copied();
    u64::from_be_bytes(first.unwrap_or_default())
}

fn reference_at(file: &File, offset: u64) -> io::Result<Reference> {
    let read = Scan::new(file, offset).map_err(Stop::from).and_then(|mut scan| scan.entry_reference());
    let read = read.map_err(|stop| match stop {
        Stop::Io(error) => error,
        Stop::Damage(damage) => io::Error::new(ErrorKind::InvalidData, damage),
    });
    let bytes = <[u8; REFERENCE]>::try_from(read?);
    bytes.map(Reference::new).map_err(|_| ErrorKind::InvalidData.into())
}

/// What the first of `places` that is an entry of this reference holds.
fn block_at(file: &File, places: Vec<u64>, reference: &Reference) -> Result<Option<Vec<u8>>, Stop> {
    for offset in places {
        let (found, block) = Scan::new(file, offset)?.entry()?;
        if found == reference.as_bytes() {
            return Ok(Some(block));
        }
    }
    Ok(None)
}

fn is_same(one: &File, other: &File) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// Opens a regular file, and nothing else: a named pipe on a foreign stick must not hang the reader.
fn open(path: &Path, write: bool) -> io::Result<File> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    if write && let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().read(true).write(write).create(write).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file")),
    }
}

#[async_trait]
impl BlockStore for Bundle {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let reference = *reference;
        self.blocking(move |shared| shared.read(&reference)).await
    }

    fn get_many<'a>(
        &'a self,
        references: Vec<Reference>,
    ) -> BoxStream<'a, (Reference, Result<Block, Error>)> {
        let chunks: Vec<Vec<Reference>> = references.chunks(CHUNK).map(<[_]>::to_vec).collect();
        stream::iter(chunks)
            .map(move |chunk| {
                self.blocking(move |shared| {
                    chunk
                        .into_iter()
                        .map(|reference| (reference, shared.read(&reference)))
                        .collect::<Vec<_>>()
                })
            })
            .buffer_unordered(CHUNKS)
            .flat_map(stream::iter)
            .boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let reference = *reference;
        self.blocking(move |shared| shared.has(&reference)).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        let blocks = [(*reference, block)];
        self.blocking(move |shared| shared.write(&blocks, &[])).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        self.blocking(move |shared| blocks.chunks(CHUNK).try_for_each(|chunk| shared.write(chunk, &[]))).await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.blocking(Shared::sync).await
    }

    fn concurrency(&self) -> usize {
        CHUNKS
    }
}
