//! Race stores that are to hold the same blocks: what is put goes to each of them.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{future, stream::BoxStream};

use super::{Block, BlockStore, Error, Race};
use crate::eris::Reference;

/// Stores that are written together. A block counts as there when every one has it; reading asks them in order.
#[derive(Debug)]
pub struct Every {
    stores: Vec<Arc<dyn BlockStore>>,
    read: Race,
}

impl Every {
    /// The stores; the first is read first.
    pub fn new(stores: Vec<Arc<dyn BlockStore>>) -> Self {
        Self { read: Race::new(stores.clone()), stores }
    }
}

#[async_trait]
impl BlockStore for Every {
    fn name(&self) -> &str {
        self.read.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        self.read.get(reference).await
    }

    fn get_many<'a>(
        &'a self,
        references: Vec<Reference>,
    ) -> BoxStream<'a, (Reference, Result<Block, Error>)> {
        self.read.get_many(references)
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let answers = future::try_join_all(self.stores.iter().map(|store| store.has(reference))).await?;
        Ok(answers.into_iter().all(|has| has))
    }

    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        let answers = future::try_join_all(self.stores.iter().map(|store| store.keeps(reference))).await?;
        Ok(answers.into_iter().all(|keeps| keeps))
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        let puts = self.stores.iter().map(|store| store.put(reference, block.clone()));
        future::try_join_all(puts).await.map(drop)
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        let puts = self.stores.iter().map(|store| store.put_many(blocks.clone()));
        future::try_join_all(puts).await.map(drop)
    }

    async fn sync(&self) -> Result<(), Error> {
        future::try_join_all(self.stores.iter().map(|store| store.sync())).await.map(drop)
    }

    fn concurrency(&self) -> usize {
        self.stores.iter().map(|store| store.concurrency()).min().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Memory;
    use crate::eris::reference_of;

    #[tokio::test]
    async fn a_block_is_there_only_when_every_store_has_it() {
        let (one, other) = (Arc::new(Memory::new()), Arc::new(Memory::new()));
        let every = Every::new(vec![one.clone(), other.clone()]);
        let block = Block::from(vec![7; 1024]);
        let reference = reference_of(&block);
        one.put(&reference, block.clone()).await.unwrap();
        assert!(!every.has(&reference).await.unwrap());
        assert_eq!(every.get(&reference).await.unwrap(), block);
        every.put(&reference, block).await.unwrap();
        assert!(every.has(&reference).await.unwrap());
        assert!(other.has(&reference).await.unwrap());
    }

    #[tokio::test]
    async fn many_blocks_go_to_every_store() {
        let (one, other) = (Arc::new(Memory::new()), Arc::new(Memory::new()));
        let blocks: Vec<_> = (0..9).map(|byte| Block::from(vec![byte; 1024])).collect();
        let named = blocks.iter().map(|block| (reference_of(block), block.clone())).collect();
        Every::new(vec![one.clone(), other.clone()]).put_many(named).await.unwrap();
        assert_eq!((one.len(), other.len()), (9, 9));
    }
}
