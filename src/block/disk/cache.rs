//! The disk cache in front of another store.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, stream, stream::BoxStream};

use super::{Disk, read::Found};
use crate::{
    block::{Block, BlockStore, Error},
    eris::Reference,
};

/// A store in front of which blocks are kept on disk. What comes from it is kept in the background; what is put to it is passed
/// on and not kept.
///
/// A hit whose block is in the kernel's page cache is ready at the first poll; only what waits for the disk goes to another thread.
#[derive(Debug)]
pub struct DiskCache {
    disk: Disk,
    inner: Arc<dyn BlockStore>,
}

type Answer = (Reference, Result<Block, Error>);

impl DiskCache {
    /// Keeps what `inner` gives, which must be verified, in `disk`.
    pub fn new(disk: Disk, inner: Arc<dyn BlockStore>) -> Self {
        Self { disk, inner }
    }

    /// The cache.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    async fn fetch(&self, reference: &Reference) -> Result<Block, Error> {
        let block = self.inner.get(reference).await?;
        self.disk.put_later(*reference, block.clone());
        Ok(block)
    }

    fn fetch_many(&self, references: Vec<Reference>) -> BoxStream<'_, Answer> {
        if references.is_empty() {
            return stream::empty().boxed();
        }
        let keep = |(reference, answer): &Answer| {
            if let Ok(block) = answer {
                self.disk.put_later(*reference, block.clone());
            }
        };
        self.inner.get_many(references).inspect(keep).boxed()
    }

    /// What is on the disk, by threads that may wait for it; then what turned out not to be there.
    fn wait_many(&self, references: Vec<Reference>) -> BoxStream<'_, Answer> {
        let read = self.disk.wait_many(references).collect::<Vec<_>>();
        read.map(move |read| {
            let (hits, misses): (Vec<_>, Vec<_>) = read.into_iter().partition(|(_, block)| block.is_some());
            let hits = hits.into_iter().filter_map(|(reference, block)| Some((reference, Ok(block?))));
            let misses = misses.into_iter().map(|(reference, _)| reference).collect();
            stream::iter(hits).chain(self.fetch_many(misses))
        })
        .flatten_stream()
        .boxed()
    }
}

#[async_trait]
impl BlockStore for DiskCache {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let found = match self.disk.look_up(*reference) {
            Found::WouldWait => self.disk.wait(*reference).await,
            Found::Block(block) => Some(block),
            Found::Miss => None,
        };
        match found {
            Some(block) => Ok(block),
            None => self.fetch(reference).await,
        }
    }

    fn get_many<'a>(&'a self, references: Vec<Reference>) -> BoxStream<'a, Answer> {
        // Misses depart first, so that they travel while hits are read.
        let (near, absent) = self.disk.sort_out(references);
        let here = self.disk.read_near(near).map(move |(hits, waiting)| {
            let hits = hits.into_iter().map(|(reference, block)| (reference, Ok(block)));
            stream::iter(hits).chain(if waiting.is_empty() {
                stream::empty().boxed()
            } else {
                self.wait_many(waiting)
            })
        });
        stream::select(self.fetch_many(absent), here.flatten()).boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        Ok(self.disk.holds(*reference).await || self.inner.has(reference).await?)
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.inner.put(reference, block).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        self.inner.put_many(blocks).await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.inner.sync().await
    }

    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }

    fn press(&self) {
        self.inner.press();
    }
}
