//! Whether all blocks of a content are still in a store, without fetching the content.

use futures::{StreamExt, TryStreamExt, stream};

use crate::block::{Block, BlockStore, Error};
use crate::eris::{Opened, Position, ReadCapability, Reference, open_root};

/// Whether `store` keeps every block: all are asked for, and nodes are fetched too, and so verified. Memory is the
/// references of one node for each level of the tree.
///
/// # Errors
/// Those of a store that does not answer. A block that is absent or corrupt is no error but a "no".
pub(super) async fn is_complete(store: &dyn BlockStore, capability: &ReadCapability) -> Result<bool, Error> {
    if capability.level == 0 {
        return store.keeps(&capability.reference).await;
    }
    let Some(root) = fetch(store, &capability.reference).await? else { return Ok(false) };
    let Ok((layout, Opened::Node(mut node))) = open_root(capability, &root) else { return Ok(false) };
    let mut nodes: Vec<Position> = Vec::new();
    loop {
        let (leaves, inner): (Vec<Position>, Vec<Position>) =
            node.covering(0..u64::MAX).into_iter().partition(|position| position.level == 0);
        if !keeps_all(store, leaves).await? {
            return Ok(false);
        }
        nodes.extend(inner);
        let Some(position) = nodes.pop() else { return Ok(true) };
        let Some(block) = fetch(store, &position.reference).await? else { return Ok(false) };
        let Ok(Opened::Node(next)) = layout.open(&position, &block) else { return Ok(false) };
        node = next;
    }
}

/// A block that the store says it keeps. One of several stores may give what another lacks, so being given it is not enough.
async fn fetch(store: &dyn BlockStore, reference: &Reference) -> Result<Option<Block>, Error> {
    if !store.keeps(reference).await? {
        return Ok(None);
    }
    match store.get(reference).await {
        Ok(block) => Ok(Some(block)),
        Err(error) => match error.most_telling() {
            Error::NotFound { .. } | Error::Corrupt { .. } => Ok(None),
            _ => Err(error),
        },
    }
}

async fn keeps_all(store: &dyn BlockStore, leaves: Vec<Position>) -> Result<bool, Error> {
    stream::iter(leaves)
        .map(|leaf| async move { store.keeps(&leaf.reference).await })
        .buffer_unordered(store.concurrency())
        .try_all(|there| async move { there })
        .await
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::block::{Every, Fault, Faulty, Memory};
    use crate::eris::{BlockSize, ConvergenceSecret, Encoder};

    #[tokio::test]
    async fn a_block_of_any_level_that_one_of_two_stores_lacks_is_missed() {
        let content: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
        let mut encoder = Encoder::new(BlockSize::Small, ConvergenceSecret::NULL);
        let mut blocks = encoder.push(&content);
        let (capability, last) = encoder.finish();
        blocks.extend(last);
        assert!(capability.level >= 2, "nodes below the root");
        let second = Arc::new(Fault::new(Arc::new(Memory::new())));
        let both = Every::new(vec![Arc::new(Memory::new()), second.clone()]);
        for block in &blocks {
            both.put(&block.reference, block.block.clone()).await.unwrap();
        }
        assert!(is_complete(&both, &capability).await.unwrap());
        for block in blocks {
            second.set(block.reference, Faulty::Missing);
            assert!(!is_complete(&both, &capability).await.unwrap());
            second.clear();
        }
    }
}
