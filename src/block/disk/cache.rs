//! The disk cache in front of another store.

use std::sync::Arc;

use async_trait::async_trait;

use super::Disk;
use crate::{
    block::{Block, BlockStore, Error},
    eris::Reference,
};

/// A store in front of which blocks are kept on disk. What comes from it is kept in the background; what is put to it is passed
/// on and not kept.
#[derive(Debug)]
pub struct DiskCache {
    disk: Disk,
    inner: Arc<dyn BlockStore>,
}

impl DiskCache {
    /// Keeps what `inner` gives, which must be verified, in `disk`.
    pub fn new(disk: Disk, inner: Arc<dyn BlockStore>) -> Self {
        Self { disk, inner }
    }

    /// The cache.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

#[async_trait]
impl BlockStore for DiskCache {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        if let Some(block) = self.disk.get(reference) {
            return Ok(block);
        }
        let block = self.inner.get(reference).await?;
        self.disk.put_later(*reference, block.clone());
        Ok(block)
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        Ok(self.disk.contains(reference) || self.inner.has(reference).await?)
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
}
