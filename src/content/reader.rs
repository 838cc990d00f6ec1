//! One opened content: its tree of blocks, its length, and `read_at`.
//!
//! Opening walks the right edge of the tree, because only the padding of the last leaf tells the
//! length (ERIS 1.0.0, "Random access"). Reading descends level by level; all blocks that a level needs
//! are asked for together, so a cold read costs one round trip a level that is not cached yet.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{Deadline, Error, Fetch, Name, NodeKey, PAIR_BYTES};
use crate::eris::{self, Layout, Node, Opened, Position, ReadCapability, Reference};

/// What the reader of a content knows about it beforehand.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// More bytes than this are refused: a small tree can repeat a sub-tree and unfold enormously.
    pub length: u64,
    /// How many bytes at the end are wanted right after opening; their blocks come along with the last.
    pub tail: u64,
}

/// One ERIS content, opened: its length is known and its last block was checked.
#[derive(Debug)]
pub struct Content {
    pub(super) fetch: Arc<Fetch>,
    pub(super) id: u64,
    pub(super) capability: ReadCapability,
    pub(super) layout: Layout,
    pub(super) top: Top,
    pub(super) length: u64,
}

#[derive(Debug)]
pub(super) enum Top {
    Node(Arc<Node>),
    Leaf(Bytes),
}

impl Content {
    /// Fetches the root and the right edge of the tree of `capability`.
    pub async fn open(
        fetch: Arc<Fetch>,
        capability: ReadCapability,
        limits: Limits,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let root = capability.root();
        let block = fetch.block(&root.reference, deadline).await?;
        let (layout, opened) = eris::open_root(&capability, &block).map_err(decode_error(&capability))?;
        let id = super::next_content();
        let mut content = Content { fetch, id, capability, layout, top: Top::Leaf(Bytes::new()), length: 0 };
        match opened {
            Opened::Leaf(bytes) => {
                content.length = bytes.len() as u64;
                content.top = Top::Leaf(bytes);
            }
            Opened::Node(node) => {
                let node = Arc::new(node);
                content.top = Top::Node(node.clone());
                content.length = content.find_length(node, limits, deadline).await?;
            }
        }
        content.check_limit(content.length, limits.length)?;
        Ok(content)
    }

    /// Length in bytes, without padding.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What it is read through.
    pub fn fetch(&self) -> &Arc<Fetch> {
        &self.fetch
    }

    /// What the content was opened by.
    pub fn capability(&self) -> &ReadCapability {
        &self.capability
    }

    /// A number that no other content opened by this process has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Bytes of memory that it holds, besides the nodes that all contents share.
    pub fn memory(&self) -> usize {
        let top = match &self.top {
            Top::Node(node) => node.len() * PAIR_BYTES,
            Top::Leaf(bytes) => bytes.len(),
        };
        top + size_of::<Self>()
    }

    /// The content as messages name it.
    pub fn name(&self) -> Name {
        Name::from(&self.capability)
    }

    /// The bytes of `range`, which must lie within the content.
    pub async fn read_at(&self, range: Range<u64>, deadline: Deadline) -> Result<Bytes, Error> {
        if range.start > range.end || range.end > self.length {
            return Err(Error::OutOfRange {
                content: self.name(),
                length: self.length,
                start: range.start,
                end: range.end,
            });
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if let Top::Leaf(bytes) = &self.top {
            return Ok(bytes.slice(range.start as usize..range.end as usize));
        }
        let leaves = self.locate(&range, deadline).await?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        self.fetch_leaves(&leaves, deadline, |start, leaf| copy_overlap(&mut bytes, &range, start, leaf))
            .await?;
        Ok(bytes.into())
    }

    /// Brings the blocks of `range` into the block cache below, where there is one.
    pub async fn warm(&self, range: Range<u64>, deadline: Deadline) -> Result<(), Error> {
        let range = range.start.min(self.length)..range.end.min(self.length);
        if range.is_empty() || matches!(self.top, Top::Leaf(_)) {
            return Ok(());
        }
        let leaves = self.locate(&range, deadline).await?;
        let references = leaves.iter().map(|leaf| leaf.reference).collect();
        self.fetch.blocks(references, deadline, |_, _| Ok(())).await
    }

    /// The leaves that hold `range`, in order. Fetches the interior nodes on the way, a level at a time.
    async fn locate(&self, range: &Range<u64>, deadline: Deadline) -> Result<Vec<Position>, Error> {
        let wanted = self.layout.leaf_range(range.clone());
        let Top::Node(root) = &self.top else { return Ok(Vec::new()) };
        let mut positions = root.covering(wanted.clone());
        while positions.first().is_some_and(|position| position.level > 0) {
            let mut below = Vec::new();
            for node in self.nodes(&positions, deadline).await? {
                below.extend(node.covering(wanted.clone()));
            }
            positions = below;
        }
        Ok(positions)
    }

    /// The decoded nodes at `positions`, from memory or fetched together.
    pub(super) async fn nodes(
        &self,
        positions: &[Position],
        deadline: Deadline,
    ) -> Result<Vec<Arc<Node>>, Error> {
        let mut nodes: Vec<Option<Arc<Node>>> =
            positions.iter().map(|at| self.fetch.node(&self.key(at))).collect();
        let mut missing: HashMap<Reference, Vec<usize>> = HashMap::new();
        for (place, at) in positions.iter().enumerate() {
            if nodes[place].is_none() {
                missing.entry(at.reference).or_default().push(place);
            }
        }
        if !missing.is_empty() {
            let references = missing.keys().copied().collect();
            self.fetch
                .blocks(references, deadline, |reference, block| {
                    for &place in missing.get(reference).into_iter().flatten() {
                        nodes[place] = Some(self.open_node(&positions[place], block)?);
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(nodes.into_iter().flatten().collect())
    }

    fn open_node(&self, at: &Position, block: &[u8]) -> Result<Arc<Node>, Error> {
        match self.layout.open(at, block).map_err(decode_error(&self.capability))? {
            Opened::Node(node) => {
                let node = Arc::new(node);
                self.fetch.keep_node(self.key(at), node.clone());
                Ok(node)
            }
            Opened::Leaf(_) => unreachable!("a position above level 0 opens as a node"),
        }
    }

    /// Hands each leaf with the offset of its first byte to `arrived`, in order of arrival.
    async fn fetch_leaves(
        &self,
        leaves: &[Position],
        deadline: Deadline,
        mut arrived: impl FnMut(u64, &[u8]),
    ) -> Result<(), Error> {
        let mut places: HashMap<Reference, Vec<&Position>> = HashMap::with_capacity(leaves.len());
        // In the order of the content: where not all go at once, the first are wanted first.
        let mut references = Vec::with_capacity(leaves.len());
        for leaf in leaves {
            let places = places.entry(leaf.reference).or_default();
            if places.is_empty() {
                references.push(leaf.reference);
            }
            places.push(leaf);
        }
        let block_size = self.layout.block_size().bytes() as u64;
        self.fetch
            .blocks(references, deadline, |reference, block| {
                for at in places.get(reference).into_iter().flatten() {
                    let opened = self.layout.open(at, block);
                    match opened.map_err(decode_error(&self.capability))? {
                        Opened::Leaf(bytes) => arrived(at.index.saturating_mul(block_size), &bytes),
                        Opened::Node(_) => unreachable!("a position at level 0 opens as a leaf"),
                    }
                }
                Ok(())
            })
            .await
    }

    /// Walks down the right edge; the last leaf's padding gives the length.
    async fn find_length(&self, root: Arc<Node>, limits: Limits, deadline: Deadline) -> Result<u64, Error> {
        let block_size = self.layout.block_size().bytes() as u64;
        let mut node = root;
        loop {
            let last = node.last();
            if last.level > 0 {
                let below = self.nodes(&[last], deadline).await?;
                node = below.into_iter().next().expect("one node was asked for");
                continue;
            }
            // All leaves before the last are full, which bounds the length before the last one came.
            self.check_limit(last.index.saturating_mul(block_size), limits.length)?;
            let along = limits.tail.div_ceil(block_size);
            let mut leaves = node.covering(last.index.saturating_sub(along)..last.index);
            leaves.push(last);
            let mut bytes = 0;
            self.fetch_leaves(&leaves, deadline, |start, leaf| {
                if start == last.index.saturating_mul(block_size) {
                    bytes = leaf.len();
                }
            })
            .await?;
            return self.layout.length(&last, bytes).map_err(decode_error(&self.capability));
        }
    }

    fn check_limit(&self, found: u64, limit: u64) -> Result<(), Error> {
        if found > limit {
            return Err(Error::TooLarge { content: self.name(), found, limit });
        }
        Ok(())
    }

    pub(super) fn key(&self, at: &Position) -> NodeKey {
        NodeKey { content: self.id, level: at.level, index: at.index }
    }
}

pub(super) fn decode_error(capability: &ReadCapability) -> impl Fn(eris::DecodeError) -> Error {
    let content = Name::from(capability);
    move |source| Error::Decode { content, source: Box::new(source) }
}

/// Copies the part of `leaf` (whose first byte stands at `start`) that `range` wants into `out`.
fn copy_overlap(out: &mut [u8], range: &Range<u64>, start: u64, leaf: &[u8]) {
    let from = range.start.max(start);
    let to = range.end.min(start.saturating_add(leaf.len() as u64));
    if from < to {
        out[(from - range.start) as usize..(to - range.start) as usize]
            .copy_from_slice(&leaf[(from - start) as usize..(to - start) as usize]);
    }
}
