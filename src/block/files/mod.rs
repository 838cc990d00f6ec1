//! Blocks of the files in a directory, which are stored nowhere: `files:PATH`.
//!
//! An index says which reference is which slice of which file; the block is made when somebody asks, by reading the slice and
//! encrypting it as the encoder did (the convergence secret is the null one, so the key follows from the slice). What comes
//! out is the block only if its hash says so: a file that was changed or went away is noticed, and its blocks are not had any
//! more. The index is made and brought up to date by [`update_index`] alone.

mod index;
mod scan;
mod slice;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};

pub use self::index::{Index, IndexedFile};
use self::index::{Node, Origin, Place};
pub use self::scan::{Indexed, Met, update as update_index};
use self::slice::{Missed, look_at, open_root, read_leaf};
use super::{Block, BlockStore, Error, Refusal};
use crate::eris::{ConvergenceSecret, Reference, seal_leaves};

/// Blocks made by one blocking task: enough to hash several at once.
const CHUNK: usize = 32;

/// Tasks at a time, each with a connection to the index.
const CHUNKS: usize = 4;

/// How the names of files begin that are not complete yet where this program writes a binary cache. They are not indexed.
pub(crate) const UNFINISHED: &str = ".incoming-";

/// What stands between directory and index in a URL.
const INDEX: &str = "?index=";

/// Why an index cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The directory, or that of the index, cannot be used.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database fails, or another process is indexing.
    #[error("the index {} fails", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// An indexing that ended early left changes that only its owner can read.
    #[error(
        "the index {} cannot be read without write access while {} holds unfinished changes: run `erisfs index` as its owner",
        path.display(),
        pending.display()
    )]
    Pending {
        /// The database.
        path: PathBuf,
        /// Its write-ahead log.
        pending: PathBuf,
    },
    /// The file is something else.
    #[error("{} is no index of files", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// The files of a directory as a block store that takes no blocks: `files:PATH?index=FILE`.
#[derive(Clone, Debug)]
pub struct Files {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    index: PathBuf,
    name: Arc<str>,
    /// Connections that nobody uses just now.
    idle: Mutex<Vec<Index>>,
    /// Files that did not hold what the index says, and whether it says so by now. Their numbers are not given out again.
    stale: Mutex<HashMap<i64, bool>>,
    /// Files that were not there once, of which a warning is given once.
    gone: Mutex<HashSet<i64>>,
}

type Answer = (Reference, Result<Block, Error>);

impl Files {
    /// The files below `root`, by the index at `index`. Nothing is read yet.
    pub fn new(root: impl Into<PathBuf>, index: impl Into<PathBuf>) -> Self {
        let (root, index) = (root.into(), index.into());
        let name = format!("files:{}", root.display()).into();
        // The process may change its directory later, as a mount in the background does.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let (root, index) = (absolute(root), absolute(index));
        Self {
            shared: Arc::new(Shared {
                root,
                index,
                name,
                idle: Mutex::default(),
                stale: Mutex::default(),
                gone: Mutex::default(),
            }),
        }
    }

    /// Directory and index of what follows `files:` in a URL; the index only where it is named.
    pub fn split_url(rest: &str) -> (&Path, Option<&Path>) {
        match rest.rsplit_once(INDEX) {
            Some((root, index)) => (Path::new(root), Some(Path::new(index))),
            None => (Path::new(rest), None),
        }
    }

    /// The URL of a directory with its index.
    pub fn url(root: &Path, index: &Path) -> String {
        format!("files:{}{INDEX}{}", root.display(), index.display())
    }

    /// Runs `work` where it may wait for a disk.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .expect("reading files neither panics nor is aborted")
    }
}

/// A block that is looked for.
struct Wanted {
    /// Where in the batch.
    position: usize,
    reference: Reference,
    /// Where it may be still.
    places: Vec<Place>,
    /// Why one of the places could not be read.
    failure: Option<io::Error>,
}

impl Shared {
    /// Runs `work` with an index and the open directory.
    fn read<T>(&self, work: impl FnOnce(&Index, &OwnedFd) -> Result<T, IndexError>) -> Result<T, Error> {
        let idle = lock(&self.idle).pop();
        let index = match idle {
            Some(index) => index,
            None => Index::open(&self.index)
                .map_err(|error| self.unavailable(None, error))?
                .ok_or_else(|| self.unprepared())?,
        };
        let root = open_root(&self.root).map_err(|error| self.unavailable(None, error))?;
        let done = work(&index, &root).map_err(|error| self.unavailable(None, error))?;
        let mut idle = lock(&self.idle);
        if idle.len() < CHUNKS && index.is_lasting() {
            idle.push(index);
        }
        Ok(done)
    }

    fn get(&self, references: Vec<Reference>) -> Vec<Answer> {
        match self.read(|index, root| self.make(index, root, &references)) {
            Ok(answers) => references.into_iter().zip(answers).collect(),
            Err(error) => references.into_iter().map(|reference| (reference, Err(error.clone()))).collect(),
        }
    }

    /// Makes blocks, those of one round together: each is tried at its next place until one is right.
    fn make(
        &self,
        index: &Index,
        root: &OwnedFd,
        references: &[Reference],
    ) -> Result<Vec<Result<Block, Error>>, IndexError> {
        let mut answers: Vec<_> = references.iter().map(|_| None).collect();
        let mut waiting = Vec::new();
        for (position, &reference) in references.iter().enumerate() {
            let mut wanted =
                Wanted { position, reference, places: self.places(index, &reference)?, failure: None };
            if wanted.places.is_empty()
                && let Some(block) = self.node(index, root, &mut wanted)?
            {
                answers[position] = Some(Ok(block.into()));
                continue;
            }
            waiting.push(wanted);
        }
        while !waiting.is_empty() {
            let mut read = Vec::new();
            let mut leaves = Vec::new();
            for mut wanted in waiting.drain(..) {
                match self.next_leaf(index, root, &mut wanted) {
                    Some((place, leaf)) => {
                        leaves.push(leaf);
                        read.push((wanted, place));
                    }
                    None => {
                        answers[wanted.position] = Some(Err(self.missing(&wanted.reference, wanted.failure)))
                    }
                }
            }
            let found = seal_leaves(&mut leaves, &ConvergenceSecret::NULL);
            for (((wanted, place), found), block) in read.into_iter().zip(found).zip(leaves) {
                if found == wanted.reference {
                    answers[wanted.position] = Some(Ok(block.into()));
                } else {
                    self.mark_stale(index, &place.origin);
                    waiting.push(wanted);
                }
            }
        }
        Ok(answers.into_iter().map(|answer| answer.expect("each is answered or waits")).collect())
    }

    fn places(&self, index: &Index, reference: &Reference) -> Result<Vec<Place>, IndexError> {
        let mut places = index.places(reference)?;
        places.retain(|place| self.is_believed(index, &place.origin));
        Ok(places)
    }

    fn nodes(&self, index: &Index, reference: &Reference) -> Result<Vec<Node>, IndexError> {
        let mut nodes = index.nodes(reference)?;
        nodes.retain(|node| self.is_believed(index, &node.origin));
        Ok(nodes)
    }

    /// Whether the file held what the index says, as far as is known.
    fn is_believed(&self, index: &Index, origin: &Origin) -> bool {
        let known = lock(&self.stale).get(&origin.file).copied();
        if known == Some(false) {
            // Somebody was writing when it was found out.
            self.mark_stale(index, origin);
        }
        known.is_none()
    }

    /// The leaf at the next place that can be read.
    fn next_leaf(&self, index: &Index, root: &OwnedFd, wanted: &mut Wanted) -> Option<(Place, Vec<u8>)> {
        while let Some(place) = wanted.places.pop() {
            let Origin { path, stamp, block_size, .. } = &place.origin;
            match read_leaf(root, path, *stamp, *block_size, place.leaf) {
                Ok(leaf) => return Some((place, leaf)),
                Err(missed) => {
                    wanted.failure = self.missed(index, &place.origin, missed).or(wanted.failure.take())
                }
            }
        }
        None
    }

    /// The node, of a file that is there as it was indexed: it could be made without, but its leaves could not.
    fn node(
        &self,
        index: &Index,
        root: &OwnedFd,
        wanted: &mut Wanted,
    ) -> Result<Option<Vec<u8>>, IndexError> {
        for node in self.nodes(index, &wanted.reference)? {
            match look_at(root, &node.origin.path, node.origin.stamp) {
                Ok(()) => {
                    if let Some(block) = node.make(&wanted.reference) {
                        return Ok(Some(block));
                    }
                }
                Err(missed) => {
                    wanted.failure = self.missed(index, &node.origin, missed).or(wanted.failure.take())
                }
            }
        }
        Ok(None)
    }

    /// Takes note of why a file could not be used; the error, where it is one.
    fn missed(&self, index: &Index, origin: &Origin, missed: Missed) -> Option<io::Error> {
        match missed {
            Missed::Changed => self.mark_stale(index, origin),
            Missed::Gone => {
                if lock(&self.gone).insert(origin.file) {
                    tracing::warn!("{}: it is not there any more", self.root.join(&origin.path).display());
                }
            }
            Missed::Failed(error) => return Some(error),
        }
        None
    }

    fn missing(&self, reference: &Reference, failure: Option<io::Error>) -> Error {
        match failure {
            Some(error) => self.unavailable(Some(*reference), error),
            None => Error::NotFound { reference: *reference, store: self.name.clone() },
        }
    }

    /// Notes that a file is not what was indexed. Where the index cannot be written just now, this process knows, and tries again
    /// when the file is met again.
    fn mark_stale(&self, index: &Index, origin: &Origin) {
        let marked = index.mark_stale(origin.file);
        let path = self.root.join(&origin.path);
        if lock(&self.stale).insert(origin.file, marked.is_ok()).is_none() {
            tracing::warn!("{}: it was changed; `erisfs index` reads it again", path.display());
        }
        if let Err(error) = marked {
            tracing::debug!("{}: not marked as changed: {error}", path.display());
        }
    }

    /// Whether the block can be made, as far as this shows without making it.
    fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let found = self.read(|index, root| {
            let places = self.places(index, reference)?.into_iter().map(|place| place.origin);
            let nodes = self.nodes(index, reference)?.into_iter().map(|node| node.origin);
            let mut failure = None;
            for origin in places.chain(nodes) {
                match look_at(root, &origin.path, origin.stamp) {
                    Ok(()) => return Ok(Ok(true)),
                    Err(missed) => failure = self.missed(index, &origin, missed).or(failure),
                }
            }
            Ok(failure.map_or(Ok(false), Err))
        })?;
        found.map_err(|error| self.unavailable(Some(*reference), error))
    }

    fn unprepared(&self) -> Error {
        let words = format!("there is no index yet; `erisfs index {}` makes it", self.root.display());
        Error::Refused { store: self.name.clone(), reason: Refusal::Unprepared(words) }
    }

    fn unavailable(
        &self,
        reference: Option<Reference>,
        error: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error::Unavailable { reference, store: self.name.clone(), retry_after: None, source: Arc::new(error) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl BlockStore for Files {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let reference = *reference;
        let answer = self.blocking(move |files| files.get(vec![reference]).pop()).await;
        answer.expect("one answer for one reference").1
    }

    fn get_many<'a>(&'a self, references: Vec<Reference>) -> BoxStream<'a, Answer> {
        let chunks: Vec<Vec<Reference>> = references.chunks(CHUNK).map(<[_]>::to_vec).collect();
        stream::iter(chunks)
            .map(move |chunk| self.blocking(move |files| files.get(chunk)))
            .buffer_unordered(CHUNKS)
            .flat_map(stream::iter)
            .boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let reference = *reference;
        self.blocking(move |files| files.has(&reference)).await
    }

    async fn put(&self, _: &Reference, _: Block) -> Result<(), Error> {
        Err(Error::Refused { store: self.shared.name.clone(), reason: Refusal::ReadOnly })
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        CHUNKS * 2
    }
}
