//! Which blocks a read needs, as far as that is known here, without asking any source.
//!
//! The tree is walked down through the interior nodes that are in memory, or that somebody holds; what is below one that
//! is neither is counted, not listed.

use std::ops::Range;
use std::sync::Arc;

use super::Content;
use super::reader::Top;
use crate::block::Block;
use crate::eris::{Node, Opened, Position, Reference};

/// The blocks of a range of a content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Interior nodes that are here, decoded or as blocks; the root is one of them.
    pub nodes: Vec<Reference>,
    /// Interior nodes that are not here, the upper ones only.
    pub missing_nodes: Vec<Reference>,
    /// Leaves whose names are known.
    pub leaves: Vec<Reference>,
    /// Leaves below nodes that are not here.
    pub unknown_leaves: u64,
    /// Levels of nodes that have to come, one after the other, before all leaves can be asked for. Below a node that is
    /// not here others may turn out to be: so many at the most.
    pub levels: u8,
    /// Bytes of one block.
    pub block_bytes: u64,
}

impl Content {
    /// The blocks of `range`, cut at the end of the content. `held` gives a block that is on this machine; it may wait
    /// for a disk.
    pub fn plan(&self, range: Range<u64>, held: impl Fn(&Reference) -> Option<Block>) -> Plan {
        let range = range.start.min(self.length())..range.end.min(self.length());
        let mut plan = Plan { block_bytes: self.layout.block_size().bytes() as u64, ..Plan::default() };
        let Top::Node(root) = &self.top else {
            plan.leaves.push(self.capability().reference);
            return plan;
        };
        plan.nodes.push(self.capability().reference);
        let wanted = self.layout.leaf_range(range);
        let mut positions = root.covering(wanted.clone());
        while positions.first().is_some_and(|at| at.level > 0) {
            let mut below = Vec::new();
            for at in &positions {
                match self.node_here(at, &held) {
                    Some(node) => {
                        plan.nodes.push(at.reference);
                        below.extend(node.covering(wanted.clone()));
                    }
                    None => {
                        plan.missing_nodes.push(at.reference);
                        plan.levels = plan.levels.max(at.level);
                        plan.unknown_leaves += self.leaves_below(at, &wanted);
                    }
                }
            }
            positions = below;
        }
        plan.leaves.extend(positions.iter().map(|at| at.reference));
        plan
    }

    /// A node, if it is in memory or held as a block. A block that is no such node is as good as not here.
    fn node_here(&self, at: &Position, held: impl Fn(&Reference) -> Option<Block>) -> Option<Arc<Node>> {
        if let Some(node) = self.fetch.node(&self.key(at)) {
            return Some(node);
        }
        match self.layout.open(at, &held(&at.reference)?) {
            Ok(Opened::Node(node)) => Some(Arc::new(node)),
            _ => None,
        }
    }

    /// How many of the wanted leaves are below a node.
    fn leaves_below(&self, at: &Position, wanted: &Range<u64>) -> u64 {
        let under = (self.layout.block_size().arity() as u64).saturating_pow(at.level.into());
        let first = at.index.saturating_mul(under);
        let end = first.saturating_add(under).min(wanted.end);
        end.saturating_sub(first.max(wanted.start))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::block::{BlockStore, Memory};
    use crate::content::{Deadline, Fetch, Limits};
    use crate::eris::{BlockSize, ConvergenceSecret, Encoder, SealedBlock};

    /// 300 leaves of 1 KiB: 16 references a node, so 19 nodes below two below the root.
    const LENGTH: usize = 300 * 1024 - 1;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    /// A content that was just opened, and the store of all its blocks.
    async fn opened() -> (Content, Arc<Memory>) {
        let blocks = Arc::new(Memory::new());
        let bytes: Vec<u8> = (0..LENGTH).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
        let mut encoder = Encoder::new(BlockSize::Small, ConvergenceSecret::NULL);
        let mut sealed = encoder.push(&bytes);
        let (capability, rest) = encoder.finish();
        sealed.extend(rest);
        for SealedBlock { reference, block, .. } in sealed {
            blocks.put(&reference, block).await.unwrap();
        }
        let limits = Limits { length: u64::MAX, tail: 0 };
        let content = Content::open(Fetch::new(blocks.clone(), 1 << 20), capability, limits, soon()).await;
        (content.unwrap(), blocks)
    }

    #[tokio::test]
    async fn of_what_was_not_read_only_the_number_of_leaves_is_known() {
        let (content, _) = opened().await;
        let plan = content.plan(0..100 * 1024, |_| None);
        assert_eq!((plan.nodes.len(), plan.missing_nodes.len(), plan.levels), (1, 1, 2));
        assert_eq!((plan.leaves.len(), plan.unknown_leaves), (0, 100));
    }

    #[tokio::test]
    async fn what_was_read_is_known_to_the_last_leaf() {
        let (content, _) = opened().await;
        content.read_at(0..100 * 1024, soon()).await.unwrap();
        let plan = content.plan(0..100 * 1024, |_| None);
        assert_eq!((plan.missing_nodes.len(), plan.levels, plan.unknown_leaves), (0, 0, 0));
        assert_eq!((plan.nodes.len(), plan.leaves.len()), (1 + 1 + 7, 100));
        let half = content.plan(50 * 1024..150 * 1024, |_| None);
        assert_eq!((half.leaves.len(), half.unknown_leaves, half.levels), (112 - 50, 38, 1));
    }

    #[tokio::test]
    async fn blocks_that_are_held_are_as_good_as_nodes_in_memory() {
        let (content, blocks) = opened().await;
        let asked = AtomicUsize::new(0);
        let held = |reference: &Reference| {
            asked.fetch_add(1, Ordering::Relaxed);
            blocks.get(reference).now_or_never()?.ok()
        };
        let plan = content.plan(0..LENGTH as u64, held);
        assert_eq!((plan.leaves.len(), plan.unknown_leaves, plan.levels), (300, 0, 0));
        assert_eq!(plan.nodes.len(), 1 + 2 + 19);
        assert!(asked.into_inner() < 22, "the right edge was in memory");
    }

    #[tokio::test]
    async fn beyond_the_end_there_is_nothing() {
        let (content, _) = opened().await;
        assert_eq!(content.plan(1 << 40..1 << 41, |_| None).leaves, []);
    }
}
