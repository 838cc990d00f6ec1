//! Blocks in one file: the CBOR serialization of ERIS, for a stick or a mail, and for `erisfs export` and `import`.
//!
//! The file is gone through once, hopping from head to head, and what stays in memory is 16 bytes for each block; the blocks
//! are read from where they stand, so a mount can read straight from the stick. What others wrote is read in all forms that CBOR
//! allows; blocks are added to files whose map and array do not say their length, as all that we write.

mod cbor;
mod import;
mod index;
mod scan;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};

pub use self::import::{Imported, Spoiled};
use self::index::{AddError, Index, block_at};
pub use self::scan::Damage;
use self::scan::{Scan, Stop};
use super::{
    Block, BlockStore, Error, Refusal,
    single_file::{self, Access},
};
use crate::eris::{ReadCapability, Reference};

/// Blocks that one blocking task reads, as in a directory.
const CHUNK: usize = 32;
/// Tasks at a time: a stick answers one after another.
const CHUNKS: usize = 4;
/// So long another process may keep the file to itself. It writes a megabyte at a time.
const PATIENCE: Duration = Duration::from_secs(10);

/// One file of blocks and read capabilities: `bundle:FILE` (`cbor.xml` of the ERIS documents).
///
/// The first put makes it. A file that is damaged in the middle gives the blocks that stand before the damage, and is not added to;
/// one whose end was cut off, as a crash leaves it, is mended by the next put.
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

impl Bundle {
    /// The file at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = format!("bundle:{}", path.display()).into();
        // The process may change its directory later, as a mount in the background does.
        let path = std::path::absolute(&path).unwrap_or(path);
        Bundle { shared: Arc::new(Shared { path, name, index: Mutex::new(None) }) }
    }

    /// The read capabilities that are in it, and what is wrong with it. Reads all heads of the file.
    pub async fn contents(&self) -> Result<(Vec<ReadCapability>, Option<Damage>), Error> {
        self.blocking(|shared| {
            let mut kept = shared.kept();
            let index = shared.opened(&mut kept, None)?;
            let read = index.reopen_end().map_err(Stop::Io);
            match read.and_then(|_| shared.read_all(index)) {
                Ok(()) => Ok((index.outline.capabilities.clone(), index.damage.clone())),
                Err(stop) => Err(shared.lost(&mut kept, None, stop)),
            }
        })
        .await
    }

    /// Says what is in it, besides blocks: keeps those capabilities that it does not have yet. The first put or this makes the file.
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
    fn kept(&self) -> MutexGuard<'_, Option<Index>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index, which is begun now if it was not yet.
    fn opened<'a>(
        &self,
        kept: &'a mut Option<Index>,
        reference: Option<&Reference>,
    ) -> Result<&'a mut Index, Error> {
        if kept.is_none() {
            let file =
                single_file::open(&self.path, Access::Read).map_err(|error| self.failed(reference, error))?;
            *kept = Some(Index::open(Arc::new(file), false).map_err(|stop| self.stopped(reference, stop))?);
        }
        Ok(kept.as_mut().expect("it was made"))
    }

    /// Where the block may stand. Reads as far as it must; a file that has changed is looked at once more.
    fn places(&self, reference: &Reference) -> Result<(Arc<File>, Vec<u64>), Error> {
        let mut looked_again = false;
        loop {
            // Let go after each step, so that others find what was read before.
            let mut kept = self.kept();
            let index = self.opened(&mut kept, Some(reference))?;
            let places = index.places(reference);
            if !places.is_empty() {
                return Ok((index.file.clone(), places));
            }
            if !index.is_complete {
                if let Err(stop) = self.read_on(index) {
                    return Err(self.lost(&mut kept, Some(reference), stop));
                }
            } else if looked_again {
                return Ok((index.file.clone(), places));
            } else {
                looked_again = true;
                if !index.is_at(&self.path) {
                    *kept = None;
                } else if !index.reopen_end().map_err(|error| self.failed(Some(reference), error))? {
                    return Ok((index.file.clone(), places));
                }
            }
        }
    }

    /// One step of reading, with no writer at work.
    fn read_on(&self, index: &mut Index) -> Result<bool, Stop> {
        let file = index.file.clone();
        // A file system that knows no locks has but one user.
        let _held = single_file::lock(&file, Access::Read, PATIENCE);
        let more = index.advance()?;
        if let (false, Some(damage)) = (more, &index.damage) {
            tracing::warn!("{}: {damage}; what stands before is read", self.name);
        }
        Ok(more)
    }

    fn read_all(&self, index: &mut Index) -> Result<(), Stop> {
        while self.read_on(index)? {}
        Ok(())
    }

    fn read(&self, reference: &Reference) -> Result<Block, Error> {
        let (file, places) = self.places(reference)?;
        match block_at(&file, places, reference) {
            Ok(Some(block)) => Ok(block.into()),
            Ok(None) => Err(Error::NotFound { reference: *reference, store: self.name.clone() }),
            Err(stop) => Err(self.lost(&mut self.kept(), Some(reference), stop)),
        }
    }

    fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let (file, places) = match self.places(reference) {
            // Before the first put there is no file.
            Err(Error::Unavailable { .. }) if !self.path.exists() => return Ok(false),
            places => places?,
        };
        let is_it = |offset| Ok(Scan::new(&file, offset)?.reference()? == *reference);
        for offset in places {
            match is_it(offset) {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(stop) => return Err(self.lost(&mut self.kept(), Some(reference), stop)),
            }
        }
        Ok(false)
    }

    /// Adds what is not there yet, and then the end of the bundle.
    fn write(&self, blocks: &[(Reference, Block)], capabilities: &[ReadCapability]) -> Result<(), Error> {
        let asked = blocks.first().map(|(reference, _)| reference);
        let failed = |error| self.failed(asked, error);
        let mut kept = self.kept();
        let file = match kept.as_ref() {
            Some(index) if index.is_writable && index.is_at(&self.path) => index.file.clone(),
            _ => Arc::new(single_file::create(&self.path).map_err(failed)?),
        };
        let Some(_held) = single_file::lock(&file, Access::Write, PATIENCE).map_err(failed)? else {
            return Err(failed(single_file::busy()));
        };
        if file.metadata().map_err(failed)?.len() == 0 {
            file.write_all_at(EMPTY, 0).map_err(failed)?;
        }
        if kept.as_ref().is_none_or(|index| !Arc::ptr_eq(&index.file, &file)) {
            let index = Index::open(file.clone(), true).map_err(|stop| self.stopped(asked, stop))?;
            *kept = Some(index);
        }
        let index = kept.as_mut().expect("it was made");
        if let Err(stop) = index.reopen_end().map_err(Stop::Io).and_then(|_| index.complete()) {
            return Err(self.lost(&mut kept, asked, stop));
        }
        index.add(blocks, capabilities).map_err(|why| match why {
            AddError::Io(error) => failed(error),
            AddError::Fixed => self.foreign("its map has a fixed length, so nothing can be added"),
            AddError::Damaged(damage) => self.foreign(&format!("{damage}, so nothing is added")),
        })
    }

    fn sync(&self) -> Result<(), Error> {
        let file = self.kept().as_ref().map(|index| index.file.clone());
        file.map_or(Ok(()), |file| single_file::sync(&file, &self.path))
            .map_err(|error| self.failed(None, error))
    }

    /// What could not be read may be another file the next time: a stick that was taken out comes back as a new one.
    fn lost(&self, kept: &mut Option<Index>, reference: Option<&Reference>, stop: Stop) -> Error {
        *kept = None;
        self.stopped(reference, stop)
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

    fn failed(&self, reference: Option<&Reference>, error: io::Error) -> Error {
        single_file::failed(&self.name, reference, error)
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
