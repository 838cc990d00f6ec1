//! Blocks in one GDBM file: the key is the reference, 32 bytes, and the value the block.
//!
//! GDBM is what GNU programs keep such tables in. The file is locked as the C library locks it, only while something is read or
//! written, so others can use it in between. Nothing is ever deleted; space that others have freed is not used again.

mod database;
mod format;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, ErrorKind, Write as _},
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};

use self::database::{Database, Fault};
use super::{
    Block, BlockStore, Error, Found, Refusal,
    single_file::{self, Access},
};
use crate::eris::{BlockSize, Reference};

/// Blocks that are read or written under one lock.
const CHUNK: usize = 32;
/// Reading tasks at a time, as in a directory.
const CHUNKS: usize = 4;
/// So long another process may keep the file locked. The C library does as long as it has it open.
const PATIENCE: Duration = Duration::from_secs(5);

/// One GDBM file: `gdbm:FILE`. The first put makes it.
#[derive(Debug, Clone)]
pub struct Gdbm {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    name: Arc<str>,
    /// The lock of the file is between processes; this one is among our threads, which need not ask again and again.
    turns: RwLock<()>,
}

impl Gdbm {
    /// The file at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = format!("gdbm:{}", path.display()).into();
        // The process may change its directory later, as a mount in the background does.
        let path = std::path::absolute(&path).unwrap_or(path);
        Gdbm { shared: Arc::new(Shared { path, name, turns: RwLock::default() }) }
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .expect("file access neither panics nor is aborted")
    }
}

impl Shared {
    /// Does something with the database while nobody writes.
    fn reading<T>(
        &self,
        reference: Option<&Reference>,
        work: impl FnOnce(&Database<'_>) -> T,
    ) -> Result<T, Error> {
        let failed = |error| single_file::failed(&self.name, reference, error);
        let _turn = self.turns.read().unwrap_or_else(PoisonError::into_inner);
        let file = single_file::open(&self.path, Access::Read).map_err(failed)?;
        let _held = match single_file::lock(&file, Access::Read, PATIENCE) {
            Ok(None) => return Err(failed(single_file::busy())),
            Ok(held) => held,
            // A file system that knows no locks has but one user.
            Err(_) => None,
        };
        let database = Database::open(&file).map_err(|fault| self.fault(reference, fault))?;
        Ok(work(&database))
    }

    fn read(&self, database: &Database<'_>, reference: &Reference) -> Result<Block, Error> {
        let place =
            database.find(reference.as_bytes()).map_err(|fault| self.fault(Some(reference), fault))?;
        let store = self.name.clone();
        match place {
            None => Err(Error::NotFound { reference: *reference, store }),
            Some(place) if !super::is_block_size(place.size.into()) => {
                Err(Error::Corrupt { reference: *reference, store, found: Found::Length(place.size.into()) })
            }
            Some(place) => {
                let block = database.read(place).map_err(|fault| self.fault(Some(reference), fault))?;
                Ok(block.into())
            }
        }
    }

    /// An answer to each of them, the same failure to all where the file itself cannot be used.
    fn read_many(&self, references: Vec<Reference>) -> Vec<(Reference, Result<Block, Error>)> {
        let read = self.reading(references.first(), |database| {
            references.iter().map(|reference| (*reference, self.read(database, reference))).collect()
        });
        read.unwrap_or_else(|error| {
            references.iter().map(|reference| (*reference, Err(error.clone()))).collect()
        })
    }

    fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let found = self.reading(Some(reference), |database| database.find(reference.as_bytes()));
        match found {
            Ok(found) => {
                let place = found.map_err(|fault| self.fault(Some(reference), fault))?;
                Ok(place.is_some_and(|place| super::is_block_size(place.size.into())))
            }
            // Before the first put there is no file.
            Err(Error::Unavailable { .. }) if !self.path.exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write(&self, blocks: &[(Reference, Block)]) -> Result<(), Error> {
        let asked = blocks.first().map(|(reference, _)| reference);
        let failed = |error| single_file::failed(&self.name, asked, error);
        let _turn = self.turns.write().unwrap_or_else(PoisonError::into_inner);
        let file = self.open_or_make().map_err(failed)?;
        let Some(_held) = single_file::lock(&file, Access::Write, PATIENCE).map_err(failed)? else {
            return Err(failed(single_file::busy()));
        };
        let mut database = Database::open(&file).map_err(|fault| self.fault(asked, fault))?;
        for (reference, block) in blocks {
            let refused = |reason| Error::Refused { store: self.name.clone(), reason };
            let size = BlockSize::from_bytes(block.len()).ok_or_else(|| {
                let found = Found::Length(block.len() as u64);
                refused(Refusal::NotTheBlock { reference: *reference, found })
            })?;
            // What cannot be read is as good as not there.
            if self.read(&database, reference).is_ok_and(|found| found == *block) {
                continue;
            }
            let inserted = database.insert(reference.as_bytes(), block, size);
            inserted.map_err(|fault| self.fault(Some(reference), fault))?;
        }
        Ok(())
    }

    /// A new database appears whole, or not at all.
    fn open_or_make(&self) -> io::Result<File> {
        match single_file::open(&self.path, Access::Write) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
        let folder = self.path.parent().ok_or(ErrorKind::InvalidInput)?;
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(folder)?;
        file.write_all(&format::empty())?;
        match file.persist_noclobber(&self.path) {
            Ok(file) => Ok(file),
            // Another was faster.
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
                single_file::open(&self.path, Access::Write)
            }
            Err(error) => Err(error.error),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match single_file::open(&self.path, Access::Read) {
            Ok(file) => single_file::sync(&file, &self.path),
            // Nothing was ever put.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn fault(&self, reference: Option<&Reference>, fault: Fault) -> Error {
        match fault {
            Fault::Io(error) => single_file::failed(&self.name, reference, error),
            Fault::Damage { at, wanted } => {
                let reason = Refusal::Foreign(format!("at byte {at} stands no {wanted}"));
                Error::Refused { store: self.name.clone(), reason }
            }
        }
    }
}

#[async_trait]
impl BlockStore for Gdbm {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let reference = *reference;
        self.blocking(move |shared| {
            shared.reading(Some(&reference), |database| shared.read(database, &reference))?
        })
        .await
    }

    fn get_many<'a>(
        &'a self,
        references: Vec<Reference>,
    ) -> BoxStream<'a, (Reference, Result<Block, Error>)> {
        let chunks: Vec<Vec<Reference>> = references.chunks(CHUNK).map(<[_]>::to_vec).collect();
        stream::iter(chunks)
            .map(move |chunk| self.blocking(move |shared| shared.read_many(chunk)))
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
        self.blocking(move |shared| shared.write(&blocks)).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        self.blocking(move |shared| blocks.chunks(CHUNK).try_for_each(|chunk| shared.write(chunk))).await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.blocking(|shared| shared.sync().map_err(|error| single_file::failed(&shared.name, None, error)))
            .await
    }

    fn concurrency(&self) -> usize {
        CHUNKS
    }
}
