//! Where a copy reads what it walks by: interior nodes, and the last leaf, which tells the length.
//!
//! A copy that goes on where it was stopped finds them in the targets: those on this machine are asked first, which costs the
//! network nothing. Those across a network are asked where nobody else has the block.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;

use crate::block::{Block, BlockStore, Error, Refusal};
use crate::eris::Reference;

/// Reads from targets on this machine, then from the source, then from the other targets.
#[derive(Debug)]
pub(super) struct Nodes {
    near: Vec<Arc<dyn BlockStore>>,
    from: Arc<dyn BlockStore>,
    far: Vec<Arc<dyn BlockStore>>,
    /// Bytes that came from elsewhere than from near targets, and that were not asked after since.
    fetched: AtomicU64,
}

impl Nodes {
    pub(super) fn new(from: Arc<dyn BlockStore>, to: &[Arc<dyn BlockStore>]) -> Self {
        let (far, near) = to.iter().cloned().partition(|target| target.is_remote());
        Nodes { near, from, far, fetched: AtomicU64::new(0) }
    }

    /// How many bytes were fetched since this was asked last.
    pub(super) fn take_fetched(&self) -> u64 {
        self.fetched.swap(0, Relaxed)
    }

    async fn fetch(&self, reference: &Reference) -> Result<Block, Error> {
        let error = match self.from.get(reference).await {
            Err(error) if !error.is_transient() => error,
            answer => return answer,
        };
        for target in &self.far {
            if let Ok(block) = target.get(reference).await {
                return Ok(block);
            }
        }
        Err(error)
    }
}

#[async_trait]
impl BlockStore for Nodes {
    fn name(&self) -> &str {
        self.from.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        for target in &self.near {
            if let Ok(block) = target.get(reference).await {
                return Ok(block);
            }
        }
        let block = self.fetch(reference).await?;
        self.fetched.fetch_add(block.len() as u64, Relaxed);
        Ok(block)
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        self.from.has(reference).await
    }

    async fn put(&self, _: &Reference, _: Block) -> Result<(), Error> {
        Err(Error::Refused { store: self.name().into(), reason: Refusal::ReadOnly })
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        self.from.concurrency()
    }

    fn press(&self) {
        self.from.press();
    }

    fn is_remote(&self) -> bool {
        self.from.is_remote()
    }
}
