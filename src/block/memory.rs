//! Blocks in memory, for tests, for the demo, and as the plainest example of a store.
//!
//! It keeps everything that is put until it is dropped; the bounded cache is [`Cache`](super::Cache).

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use async_trait::async_trait;

use super::{Block, BlockStore, Error};
use crate::eris::Reference;

/// A block store that ends with the process: `memory:`. Every answer is ready at the first poll, in or out of a runtime.
#[derive(Default)]
pub struct Memory {
    blocks: RwLock<HashMap<Reference, Block>>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many blocks it holds.
    pub fn len(&self) -> usize {
        self.blocks.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("blocks", &self.len()).finish()
    }
}

#[async_trait]
impl BlockStore for Memory {
    fn name(&self) -> &str {
        "memory:"
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let found = self.blocks.read().unwrap_or_else(PoisonError::into_inner).get(reference).cloned();
        found.ok_or_else(|| Error::NotFound { reference: *reference, store: self.name().into() })
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        Ok(self.blocks.read().unwrap_or_else(PoisonError::into_inner).contains_key(reference))
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.blocks.write().unwrap_or_else(PoisonError::into_inner).entry(*reference).or_insert(block);
        Ok(())
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        64
    }
}
