//! Which blocks a content, or a part of it, is made of: for whoever wants them all, or wants to count them.
//!
//! The tree is walked depth first and a few level-1 nodes at a time, so memory does not grow with the content (100 GB are
//! three million blocks). Only interior nodes are asked of the block store. A node that cannot be had is told together with
//! how much of the content is below it, and the walk goes on: over a store that has only what is on this disk, that counts
//! what is missing.

use std::ops::Range;
use std::sync::Arc;

use super::reader::Top;
use super::{Content, Deadline, Error, Fetch};
use crate::eris::{self, Node, Opened, Position, ReadCapability, Reference};

/// Level-1 nodes that are asked for at a time: the leaves of 256 MiB, so that the round trip for nodes is lost among theirs.
const NODES: usize = 16;

/// A step of the walk: every block is named once for each place that it has in the content.
#[derive(Debug, Default)]
pub struct Batch {
    /// Interior nodes; each was had from the store just now, or is in memory since it was.
    pub nodes: Vec<Reference>,
    /// Leaves, in the order of the content. They were not asked for.
    pub leaves: Vec<Leaf>,
    /// Interior nodes that could not be had.
    pub lost: Vec<Lost>,
}

/// A block of content, encrypted as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// Its name.
    pub reference: Reference,
    /// Bytes of the content in it that were asked after.
    pub bytes: u64,
}

/// An interior node that could not be had, and with it all that is below.
#[derive(Debug)]
pub struct Lost {
    /// Its name.
    pub reference: Reference,
    /// Bytes of the content below it that were asked after.
    pub bytes: u64,
    /// Blocks that hold them, the node itself included.
    pub blocks: u64,
    /// Why.
    pub error: Error,
}

/// The walk over the blocks of a range of a content.
#[derive(Debug)]
pub struct Inventory {
    content: Arc<Content>,
    range: Range<u64>,
    /// The leaves that hold it.
    leaves: Range<u64>,
    /// Interior nodes still to be opened, the next one last.
    ahead: Vec<Position>,
    /// What is known without asking anybody: the root, and the leaves right below it.
    first: Option<Batch>,
}

impl Content {
    /// All blocks that hold `range`, cut at the end of the content, and the interior nodes above them.
    pub fn inventory(self: &Arc<Self>, range: Range<u64>) -> Inventory {
        let range = range.start.min(self.length)..range.end.min(self.length);
        let mut leaves = self.layout.leaf_range(range.clone());
        if range.end == self.length {
            // The last leaf may hold nothing but padding, and there is no opening without it.
            leaves.end = self.length / self.layout.block_size().bytes() as u64 + 1;
        }
        let mut inventory =
            Inventory { content: self.clone(), range, leaves, ahead: Vec::new(), first: None };
        let root = self.capability.reference;
        let mut first = Batch::default();
        match &self.top {
            Top::Leaf(_) => first.leaves.push(Leaf { reference: root, bytes: inventory.range_bytes() }),
            Top::Node(node) => inventory.take_node(root, node, &mut first),
        }
        inventory.first = Some(first);
        inventory
    }

    /// The content as far as its root tells, `length` bytes long by what somebody said. For an inventory only: it is
    /// what can be said of a content whose last block, which tells the length, is not there.
    pub async fn open_root(
        fetch: Arc<Fetch>,
        capability: ReadCapability,
        length: u64,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let block = fetch.block(&capability.reference, deadline).await?;
        let (layout, opened) =
            eris::open_root(&capability, &block).map_err(super::reader::decode_error(&capability))?;
        let (top, length) = match opened {
            Opened::Leaf(bytes) => {
                let length = bytes.len() as u64;
                (Top::Leaf(bytes), length)
            }
            Opened::Node(node) => (Top::Node(Arc::new(node)), length.min(layout.max_length())),
        };
        let id = super::next_content();
        Ok(Content { fetch, id, capability, layout, top, length })
    }
}

impl Inventory {
    /// The next blocks; none at the end. Nodes are waited for until `deadline`.
    pub async fn next(&mut self, deadline: Deadline) -> Option<Batch> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let top = *self.ahead.last()?;
        // Above level 1 one node at a time: all its children go onto the stack.
        let together = if top.level == 1 { NODES } else { 1 };
        let same = self.ahead.iter().rev().take(together).take_while(|at| at.level == top.level).count();
        let mut positions = self.ahead.split_off(self.ahead.len() - same);
        positions.reverse();
        let mut batch = Batch::default();
        match self.content.nodes(&positions, deadline).await {
            Ok(nodes) => {
                for (at, node) in positions.iter().zip(nodes) {
                    self.take_node(at.reference, &node, &mut batch);
                }
            }
            Err(error) if positions.len() == 1 => self.lose(&positions[0], error, &mut batch),
            // One of them cannot be had: which one shows when each is asked for alone.
            Err(_) => {
                for at in &positions {
                    match self.content.nodes(&[*at], deadline).await {
                        Ok(nodes) => {
                            nodes.iter().for_each(|node| self.take_node(at.reference, node, &mut batch))
                        }
                        Err(error) => self.lose(at, error, &mut batch),
                    }
                }
            }
        }
        Some(batch)
    }

    /// How many bytes of the content it is about.
    pub fn range_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn take_node(&mut self, reference: Reference, node: &Node, batch: &mut Batch) {
        batch.nodes.push(reference);
        let children = node.covering(self.leaves.clone());
        if children.first().is_some_and(|child| child.level == 0) {
            let leaves =
                children.iter().map(|at| Leaf { reference: at.reference, bytes: self.bytes_below(at) });
            batch.leaves.extend(leaves);
        } else {
            self.ahead.extend(children.into_iter().rev());
        }
    }

    fn lose(&self, at: &Position, error: Error, batch: &mut Batch) {
        let span = self.span(at);
        let blocks = (0..=at.level).map(|level| {
            let each = self.bytes_under(level);
            span.end.div_ceil(each).saturating_sub(span.start / each)
        });
        // A node whose only leaf is padding holds no byte.
        let blocks = blocks.fold(0, u64::saturating_add).max(1);
        let lost = Lost { reference: at.reference, bytes: self.bytes_below(at), blocks, error };
        batch.lost.push(lost);
    }

    /// Bytes of the range below a block.
    fn bytes_below(&self, at: &Position) -> u64 {
        let span = self.span(at);
        span.end - span.start
    }

    /// The part of the range that is below a block.
    fn span(&self, at: &Position) -> Range<u64> {
        let each = self.bytes_under(at.level);
        let start = at.index.saturating_mul(each);
        let end = start.saturating_add(each).min(self.range.end);
        let start = start.max(self.range.start);
        start..end.max(start)
    }

    /// Bytes below a full node of a level.
    fn bytes_under(&self, level: u8) -> u64 {
        let block_size = self.content.layout.block_size();
        (block_size.arity() as u64).saturating_pow(level.into()).saturating_mul(block_size.bytes() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::Duration;

    use futures::FutureExt;

    use super::*;
    use crate::block::{BlockStore, Counted, Fault, Faulty, Memory};
    use crate::content::Limits;
    use crate::eris::{BlockSize, ConvergenceSecret, Encoder, SealedBlock};

    const LIMITS: Limits = Limits { length: u64::MAX, tail: 0 };

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(60))
    }

    /// Bytes of which no two blocks are alike, in blocks of 1 KiB: 16 references a node.
    fn put(length: usize) -> (Arc<Memory>, ReadCapability) {
        let blocks = Arc::new(Memory::new());
        let bytes: Vec<u8> = (0..length).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
        let mut encoder = Encoder::new(BlockSize::Small, ConvergenceSecret::NULL);
        let mut sealed = encoder.push(&bytes);
        let (capability, rest) = encoder.finish();
        sealed.extend(rest);
        for SealedBlock { reference, block, .. } in sealed {
            blocks.put(&reference, block).now_or_never().expect("memory does not wait").unwrap();
        }
        (blocks, capability)
    }

    async fn open(store: Arc<dyn BlockStore>, capability: ReadCapability) -> Arc<Content> {
        Arc::new(Content::open(Fetch::new(store, 1 << 20), capability, LIMITS, soon()).await.unwrap())
    }

    async fn walk(mut inventory: Inventory) -> (HashSet<Reference>, u64, Vec<Lost>) {
        let (mut references, mut bytes, mut lost) = (HashSet::new(), 0, Vec::new());
        while let Some(batch) = inventory.next(soon()).await {
            assert!(batch.leaves.len() <= NODES * 16);
            references.extend(batch.nodes);
            bytes += batch.leaves.iter().map(|leaf| leaf.bytes).sum::<u64>();
            references.extend(batch.leaves.iter().map(|leaf| leaf.reference));
            lost.extend(batch.lost);
        }
        (references, bytes, lost)
    }

    #[tokio::test]
    async fn every_block_of_a_content_is_named() {
        // The last block of a whole number of blocks is padding alone, and counts.
        for length in [0, 1, 1023, 1024, 16 * 1024, 16 * 1024 - 1, 256 * 1024, 600_000, 5_000_000] {
            let (blocks, capability) = put(length);
            let content = open(blocks.clone(), capability).await;
            let (references, bytes, lost) = walk(content.inventory(0..u64::MAX)).await;
            assert!(lost.is_empty());
            assert_eq!((references.len(), bytes), (blocks.len(), length as u64), "{length}");
        }
    }

    #[tokio::test]
    async fn a_range_takes_the_blocks_that_a_read_of_it_asks_for() {
        let (blocks, capability) = put(1_000_000);
        for range in [0..1, 1023..1025, 300_000..420_001, 5..5] {
            let counted = Arc::new(Counted::new(blocks.clone()));
            let content = open(counted.clone(), capability).await;
            let mut inventory = content.inventory(range.clone());
            let mut leaves = Vec::new();
            while let Some(batch) = inventory.next(soon()).await {
                leaves.extend(batch.leaves);
            }
            assert_eq!(leaves.iter().map(|leaf| leaf.bytes).sum::<u64>(), range.end - range.start);
            // The nodes are in memory now.
            counted.counts().reset();
            content.read_at(range.clone(), soon()).await.unwrap();
            assert_eq!(counted.counts().blocks(), leaves.len() as u64, "{range:?}");
        }
    }

    #[tokio::test]
    async fn a_node_that_is_gone_loses_what_is_below_it_and_nothing_else() {
        let (blocks, capability) = put(1_000_000);
        let faulty = Arc::new(Fault::new(blocks.clone()));
        let content = open(faulty.clone(), capability).await;
        // The second node of level 1: 16 leaves, so bytes 16,384 to 32,768.
        let mut inventory = content.inventory(0..u64::MAX);
        let victim = loop {
            inventory.first.take();
            let at = *inventory.ahead.last().unwrap();
            if at.level == 1 {
                break inventory.ahead[inventory.ahead.len() - 2];
            }
            inventory.next(soon()).await.unwrap();
        };
        faulty.set(victim.reference, Faulty::Missing);
        let content = open(faulty, capability).await;
        let (references, bytes, lost) = walk(content.inventory(0..u64::MAX)).await;
        assert_eq!(lost.len(), 1);
        assert_eq!((lost[0].reference, lost[0].bytes, lost[0].blocks), (victim.reference, 16 * 1024, 17));
        assert_eq!(bytes, 1_000_000 - 16 * 1024);
        assert_eq!(references.len(), blocks.len() - 17);
        let (_, bytes, lost) = walk(content.inventory(20_000..40_000)).await;
        assert_eq!((lost[0].bytes, bytes), (32_768 - 20_000, 40_000 - 32_768));
    }

    #[tokio::test]
    async fn without_the_last_block_a_length_is_assumed() {
        let (blocks, capability) = put(1_000_000);
        let whole = open(blocks.clone(), capability).await;
        let mut inventory = whole.inventory(999_999..u64::MAX);
        let mut last = None;
        while let Some(batch) = inventory.next(soon()).await {
            last = batch.leaves.last().copied().or(last);
        }
        let faulty = Arc::new(Fault::new(blocks));
        faulty.set(last.unwrap().reference, Faulty::Missing);
        let fetch = Fetch::new(faulty, 1 << 20);
        assert!(Content::open(fetch.clone(), capability, LIMITS, soon()).await.is_err());
        let assumed = Content::open_root(fetch, capability, 1_000_500, soon()).await.unwrap();
        let (_, bytes, lost) = walk(Arc::new(assumed).inventory(0..u64::MAX)).await;
        // The last leaf is named, and the assumed length is cut at what there is room for.
        assert!(lost.is_empty());
        assert_eq!(bytes, 977 * 1024);
    }
}
