//! Whether all blocks of a content are still in a store, without fetching the content.

use futures::{StreamExt, TryStreamExt, stream};

use crate::block::{Block, BlockStore, Error};
use crate::eris::{Opened, Position, ReadCapability, Reference, open_root};

/// Whether `store` has every block: nodes are fetched, and so verified; leaves are only asked for. Memory is
/// one node for each level of the tree.
///
/// # Errors
/// Those of a store that does not answer. A block that is absent or corrupt is no error but a "no".
pub(super) async fn is_complete(store: &dyn BlockStore, capability: &ReadCapability) -> Result<bool, Error> {
    if capability.level == 0 {
        return store.has(&capability.reference).await;
    }
    let Some(root) = fetch(store, &capability.reference).await? else { return Ok(false) };
    let Ok((layout, Opened::Node(root))) = open_root(capability, &root) else { return Ok(false) };
    let mut nodes = vec![root];
    while let Some(node) = nodes.pop() {
        let (leaves, inner): (Vec<Position>, Vec<Position>) =
            node.covering(0..u64::MAX).into_iter().partition(|position| position.level == 0);
        if !has_all(store, leaves).await? {
            return Ok(false);
        }
        for position in inner {
            let Some(block) = fetch(store, &position.reference).await? else { return Ok(false) };
            match layout.open(&position, &block) {
                Ok(Opened::Node(node)) => nodes.push(node),
                _ => return Ok(false),
            }
        }
    }
    Ok(true)
}

async fn fetch(store: &dyn BlockStore, reference: &Reference) -> Result<Option<Block>, Error> {
    match store.get(reference).await {
        Ok(block) => Ok(Some(block)),
        Err(error) => match error.most_telling() {
            Error::NotFound { .. } | Error::Corrupt { .. } => Ok(None),
            _ => Err(error),
        },
    }
}

async fn has_all(store: &dyn BlockStore, leaves: Vec<Position>) -> Result<bool, Error> {
    stream::iter(leaves)
        .map(|leaf| async move { store.has(&leaf.reference).await })
        .buffer_unordered(store.concurrency())
        .try_all(|there| async move { there })
        .await
}
