//! How much was asked of a store, and how much it gave.
//!
//! `demo` prints these figures, and tests use them to hold promises such as "listing a tree fetches under 300 KB".

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};

use super::{Block, BlockStore, Error};
use crate::eris::Reference;

/// A store that counts. The figures are read through its [`Counts`].
#[derive(Debug)]
pub struct Counted {
    inner: Arc<dyn BlockStore>,
    counts: Arc<Counts>,
}

/// What went through a [`Counted`] store since it was made or last reset.
#[derive(Debug, Default)]
pub struct Counts {
    requests: AtomicU64,
    blocks: AtomicU64,
    bytes: AtomicU64,
    blocks_put: AtomicU64,
    bytes_put: AtomicU64,
}

impl Counts {
    /// Blocks asked for, one for each reference of a batch.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Blocks that came.
    pub fn blocks(&self) -> u64 {
        self.blocks.load(Relaxed)
    }

    /// Bytes of the blocks that came.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Blocks put with success.
    pub fn blocks_put(&self) -> u64 {
        self.blocks_put.load(Relaxed)
    }

    /// Bytes of the blocks put with success.
    pub fn bytes_put(&self) -> u64 {
        self.bytes_put.load(Relaxed)
    }

    /// Sets every figure to zero.
    pub fn reset(&self) {
        for figure in [&self.requests, &self.blocks, &self.bytes, &self.blocks_put, &self.bytes_put] {
            figure.store(0, Relaxed);
        }
    }

    fn came(&self, answer: &Result<Block, Error>) {
        if let Ok(block) = answer {
            self.blocks.fetch_add(1, Relaxed);
            self.bytes.fetch_add(block.len() as u64, Relaxed);
        }
    }

    fn went(&self, blocks: u64, bytes: u64) {
        self.blocks_put.fetch_add(blocks, Relaxed);
        self.bytes_put.fetch_add(bytes, Relaxed);
    }
}

impl Counted {
    /// Counts what goes through `inner`.
    pub fn new(inner: Arc<dyn BlockStore>) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// The figures; they go on counting for as long as the store is used.
    pub fn counts(&self) -> Arc<Counts> {
        self.counts.clone()
    }
}

#[async_trait]
impl BlockStore for Counted {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        self.counts.requests.fetch_add(1, Relaxed);
        let answer = self.inner.get(reference).await;
        self.counts.came(&answer);
        answer
    }

    fn get_many<'a>(
        &'a self,
        references: Vec<Reference>,
    ) -> BoxStream<'a, (Reference, Result<Block, Error>)> {
        self.counts.requests.fetch_add(references.len() as u64, Relaxed);
        self.inner.get_many(references).inspect(|(_, answer)| self.counts.came(answer)).boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        self.inner.has(reference).await
    }

    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        self.inner.keeps(reference).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        let length = block.len() as u64;
        self.inner.put(reference, block).await?;
        self.counts.went(1, length);
        Ok(())
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        let (count, length) = (blocks.len() as u64, blocks.iter().map(|(_, block)| block.len() as u64).sum());
        self.inner.put_many(blocks).await?;
        self.counts.went(count, length);
        Ok(())
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

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;
    use crate::eris::reference_of;

    #[tokio::test]
    async fn what_is_asked_given_and_put_is_counted() {
        let store = Counted::new(Arc::new(Memory::new()));
        let counts = store.counts();
        let [small, large] = [1024, 32768].map(|length| Block::from(vec![0; length]));
        let references = [reference_of(&small), reference_of(&large)];
        store.put(&references[0], small.clone()).await.expect("memory takes blocks");
        store.put_many(vec![(references[1], large)]).await.expect("memory takes blocks");
        assert_eq!((counts.blocks_put(), counts.bytes_put()), (2, 1024 + 32768));

        let absent = reference_of(b"absent");
        store.get(&references[0]).await.expect("it is there");
        store.get_many(vec![references[1], absent]).collect::<Vec<_>>().await;
        assert_eq!((counts.requests(), counts.blocks(), counts.bytes()), (3, 2, 1024 + 32768));
        counts.reset();
        assert_eq!((counts.requests(), counts.blocks(), counts.bytes(), counts.blocks_put()), (0, 0, 0, 0));
    }
}
