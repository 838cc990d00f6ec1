//! The decoding side: which blocks cover a range of the content, and what is in a block.
//!
//! Nothing is fetched here. A reader opens the root, asks each [`Node`] which children cover the leaves it
//! wants, fetches those, opens them, and so on down; the length of the content is found down the right edge.
//! Blocks must have been verified against their reference before. Every other check of the specification
//! is made here, and those that make random access safe: nodes left of the right edge are full, no node is
//! empty, and arithmetic saturates, because the level is chosen by whoever wrote the capability.

use std::ops::Range;

use bytes::Bytes;

use super::block::{PAIR, apply_cipher, node_key, reference_of, split_pair};
use super::capability::{BlockSize, Generation, Key, ReadCapability, Reference};

/// Why a block or a tree of blocks is not a valid encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A block is not as long as the capability says all blocks are.
    #[error("block {reference} has {found} bytes instead of {expected}")]
    BlockLength {
        /// The block.
        reference: Reference,
        /// The block size of the capability.
        expected: usize,
        /// The length of the block.
        found: usize,
    },
    /// A block is not the one that was asked for. Only [`decode`] checks this.
    #[error("block {reference} has the hash of another block, {found}")]
    BlockHash {
        /// The block that was asked for.
        reference: Reference,
        /// The reference that the bytes have.
        found: Reference,
    },
    /// A block cannot be had. Only [`decode`] fetches.
    #[error("block {reference} is missing")]
    MissingBlock {
        /// The block.
        reference: Reference,
    },
    /// The key or the level of the capability does not belong to the root (Verify-Key of the specification).
    #[error("the key or level of the read capability does not belong to its root block {reference}")]
    RootKey {
        /// The root block.
        reference: Reference,
    },
    /// Something stands in a node after the end of its pairs.
    #[error("node {reference} is not zero after its last pair")]
    NodeTail {
        /// The node.
        reference: Reference,
    },
    /// An internal node that has no child.
    #[error("node {reference} has no children")]
    EmptyNode {
        /// The node.
        reference: Reference,
    },
    /// A node with nodes to its right has room left, so that offsets would not tell where a leaf is.
    #[error(
        "node {reference} has {found} children, but only nodes at the right edge may have fewer than {expected}"
    )]
    NodeNotFull {
        /// The node.
        reference: Reference,
        /// The arity.
        expected: usize,
        /// The number of children.
        found: usize,
    },
    /// The last leaf does not end in 0x80 and zeros.
    #[error("the last leaf {reference} is not padded as ERIS pads")]
    Padding {
        /// The leaf.
        reference: Reference,
    },
    /// The content is longer than is allowed, or than 64 bits can count.
    #[error("the content is longer than {limit} bytes")]
    TooLong {
        /// The most that was allowed.
        limit: u64,
    },
}

/// A block of the tree: how to open it and which part of the content is under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The name of the block.
    pub reference: Reference,
    /// The key of the block.
    pub key: Key,
    /// 0 for a leaf.
    pub level: u8,
    /// The number of nodes of the same level to its left; saturates in trees too large for 64 bits.
    pub index: u64,
    /// Whether nothing is to its right, so that it may be partly filled.
    pub right_edge: bool,
}

/// Where the level of a block stands in the nonce of its cipher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NonceScheme {
    /// Nowhere (x2a, x2b).
    Zero,
    /// In the first byte (1.0.0 and x3c).
    First,
    /// In the last byte (x3a, x3b).
    Last,
}

impl NonceScheme {
    fn nonce(self, level: u8) -> [u8; 12] {
        let mut nonce = [0; 12];
        match self {
            Self::Zero => {}
            Self::First => nonce[0] = level,
            Self::Last => nonce[11] = level,
        }
        nonce
    }
}

/// What is needed, besides its position, to open a block of one tree: settled when the root was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    block_size: BlockSize,
    level: u8,
    scheme: NonceScheme,
}

/// What was in a block.
#[derive(Debug, Clone)]
pub enum Opened {
    /// References and keys of the level below.
    Node(Node),
    /// Content: a whole block of it, or from the last leaf what is before the padding.
    Leaf(Bytes),
}

impl ReadCapability {
    /// The position of the root.
    pub fn root(&self) -> Position {
        Position { reference: self.reference, key: self.key, level: self.level, index: 0, right_edge: true }
    }
}

/// Opens the root block, already verified against its reference, and checks that key and level of the
/// capability belong to it (Verify-Key), where the generation makes that possible: of `urn:erisx2:` and the
/// first draft of `urn:erisx3:` the key cannot be checked without the convergence secret.
///
/// # Errors
/// Every variant of [`DecodeError`] that concerns one block.
pub fn open_root(capability: &ReadCapability, block: &[u8]) -> Result<(Layout, Opened), DecodeError> {
    let root = capability.root();
    let layout = |scheme| Layout { block_size: capability.block_size, level: capability.level, scheme };
    layout(NonceScheme::First).check_length(&root, block)?;
    if capability.level == 0 {
        // The nonce is zero in every generation.
        let layout = layout(NonceScheme::First);
        return Ok((layout, layout.open(&root, block)?));
    }
    let (layout, node) = match capability.generation {
        Generation::X2a | Generation::X2b => {
            let layout = layout(NonceScheme::Zero);
            (layout, layout.decrypt(&root, block))
        }
        Generation::V1 => {
            let layout = layout(NonceScheme::First);
            let node = layout.decrypt(&root, block);
            if node_key(&node) != root.key {
                return Err(DecodeError::RootKey { reference: root.reference });
            }
            (layout, node)
        }
        Generation::X3 => {
            // The last draft is the published 1.0.0; the ones before it had the level in the last byte.
            let last_draft = layout(NonceScheme::First);
            let node = last_draft.decrypt(&root, block);
            if node_key(&node) == root.key {
                (last_draft, node)
            } else {
                let layout = layout(NonceScheme::Last);
                (layout, layout.decrypt(&root, block))
            }
        }
    };
    Ok((layout, Opened::Node(layout.node(&root, node)?)))
}

impl Layout {
    /// That of a content which is still being encoded, so that its root is not known: for leaves alone.
    pub fn of_leaves(block_size: BlockSize) -> Self {
        Self { block_size, level: 0, scheme: NonceScheme::First }
    }

    /// The size of every block.
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// The level of the root.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// The most bytes that a tree of this level holds; `u64::MAX` when that is more than 64 bits can count.
    pub fn max_length(&self) -> u64 {
        match leaves_under(self.block_size, self.level).checked_mul(self.block_bytes()) {
            Some(bytes) => bytes - 1,
            None => u64::MAX,
        }
    }

    /// The leaves that hold these bytes of the content.
    pub fn leaf_range(&self, bytes: Range<u64>) -> Range<u64> {
        let size = self.block_bytes();
        let first = bytes.start / size;
        if bytes.is_empty() { first..first } else { first..bytes.end.div_ceil(size) }
    }

    /// The length of the content, from its last leaf: where that is, and how many bytes it holds.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] for more than 64 bits.
    pub fn length(&self, last: &Position, bytes: usize) -> Result<u64, DecodeError> {
        last.index
            .checked_mul(self.block_bytes())
            .and_then(|before| before.checked_add(bytes as u64))
            .ok_or(DecodeError::TooLong { limit: u64::MAX })
    }

    /// Opens a block, already verified against its reference, at its position in the tree.
    ///
    /// # Errors
    /// Every variant of [`DecodeError`] that concerns one block, except [`DecodeError::RootKey`].
    pub fn open(&self, at: &Position, block: &[u8]) -> Result<Opened, DecodeError> {
        self.check_length(at, block)?;
        let plain = self.decrypt(at, block);
        if at.level == 0 {
            leaf(at, plain.into()).map(Opened::Leaf)
        } else {
            self.node(at, plain).map(Opened::Node)
        }
    }

    /// Opens many leaves, already verified against their references. A block that nobody else holds is
    /// decrypted where it is, in the allocation it came in; one that is shared, say with a cache, is copied.
    /// Works on the calling thread alone, as [`references_of`](super::references_of) does.
    ///
    /// # Errors
    /// For each leaf as [`Layout::open`].
    ///
    /// # Panics
    /// If a position is not that of a leaf.
    pub fn open_leaves(&self, leaves: Vec<(Position, Bytes)>) -> Vec<Result<Bytes, DecodeError>> {
        leaves.into_iter().map(|(at, block)| self.open_leaf(&at, block)).collect()
    }

    fn open_leaf(&self, at: &Position, block: Bytes) -> Result<Bytes, DecodeError> {
        assert_eq!(at.level, 0, "open_leaves is for leaves");
        self.check_length(at, &block)?;
        let plain = match block.try_into_mut() {
            Ok(mut alone) => {
                apply_cipher(&at.key, self.scheme.nonce(0), &mut alone);
                alone.freeze()
            }
            Err(shared) => self.decrypt(at, &shared).into(),
        };
        leaf(at, plain)
    }

    fn block_bytes(&self) -> u64 {
        self.block_size.bytes() as u64
    }

    fn check_length(&self, at: &Position, block: &[u8]) -> Result<(), DecodeError> {
        let expected = self.block_size.bytes();
        if block.len() == expected {
            return Ok(());
        }
        Err(DecodeError::BlockLength { reference: at.reference, expected, found: block.len() })
    }

    fn decrypt(&self, at: &Position, block: &[u8]) -> Vec<u8> {
        let mut plain = block.to_vec();
        apply_cipher(&at.key, self.scheme.nonce(at.level), &mut plain);
        plain
    }

    fn node(&self, at: &Position, mut plain: Vec<u8>) -> Result<Node, DecodeError> {
        let reference = at.reference;
        // The reference alone decides: a key of zeros is a legal key.
        let children = plain
            .chunks_exact(PAIR)
            .position(|pair| pair[..PAIR / 2] == [0; PAIR / 2])
            .unwrap_or(self.block_size.arity());
        if plain[children * PAIR..].iter().any(|byte| *byte != 0) {
            return Err(DecodeError::NodeTail { reference });
        }
        if children == 0 {
            return Err(DecodeError::EmptyNode { reference });
        }
        let arity = self.block_size.arity();
        if children < arity && !at.right_edge {
            return Err(DecodeError::NodeNotFull { reference, expected: arity, found: children });
        }
        plain.truncate(children * PAIR);
        plain.shrink_to_fit();
        Ok(Node {
            pairs: plain.into(),
            level: at.level,
            first_child: at.index.saturating_mul(arity as u64),
            right_edge: at.right_edge,
            leaves_a_child: leaves_under(self.block_size, at.level - 1),
        })
    }
}

/// Leaves under a full node of a level: arity to the power of it, saturating.
fn leaves_under(block_size: BlockSize, level: u8) -> u64 {
    (block_size.arity() as u64).saturating_pow(u32::from(level))
}

/// The content in a decrypted leaf: all of it, or up to the padding where the content ends.
fn leaf(at: &Position, plain: Bytes) -> Result<Bytes, DecodeError> {
    if !at.right_edge {
        return Ok(plain);
    }
    match plain.iter().rposition(|byte| *byte != 0) {
        Some(end) if plain[end] == 0x80 => Ok(plain.slice(..end)),
        _ => Err(DecodeError::Padding { reference: at.reference }),
    }
}

/// An opened internal node: the positions of its children.
#[derive(Debug, Clone)]
pub struct Node {
    /// Pairs of reference and key, without the zero tail.
    pairs: Bytes,
    level: u8,
    /// Index of the first child among the nodes of its level.
    first_child: u64,
    right_edge: bool,
    leaves_a_child: u64,
}

// A node always has a child, so there is no is_empty().
#[allow(clippy::len_without_is_empty)]
impl Node {
    /// The number of children, from 1 to the arity.
    pub fn len(&self) -> usize {
        self.pairs.len() / PAIR
    }

    /// The children that hold any of these leaves (counted from the beginning of the content), left to right.
    pub fn covering(&self, leaves: Range<u64>) -> Vec<Position> {
        if leaves.is_empty() {
            return Vec::new();
        }
        let child_at = |index: u64| {
            let child = index.saturating_sub(self.first_child);
            usize::try_from(child).unwrap_or(usize::MAX).min(self.len())
        };
        let first = child_at(leaves.start / self.leaves_a_child);
        let end = child_at(((leaves.end - 1) / self.leaves_a_child).saturating_add(1));
        (first..end).map(|child| self.child(child)).collect()
    }

    /// The last child: the way down the right edge, and so to the length.
    pub fn last(&self) -> Position {
        self.child(self.len() - 1)
    }

    fn child(&self, child: usize) -> Position {
        let pair = self.pairs[child * PAIR..].first_chunk().expect("pairs are kept whole");
        let (reference, key) = split_pair(pair);
        Position {
            reference,
            key,
            level: self.level - 1,
            index: self.first_child.saturating_add(child as u64),
            right_edge: self.right_edge && child + 1 == self.len(),
        }
    }
}

/// Reads a whole content of at most `limit` bytes, verifying every block.
///
/// Fetches no more than `limit` calls for: a tree that claims more is refused when the node that shows it
/// is opened, however little it stores (a tree may name the same sub-tree again and again).
///
/// # Errors
/// [`DecodeError`]; `MissingBlock` when `fetch` has no answer.
pub fn decode(
    capability: &ReadCapability,
    mut fetch: impl FnMut(&Reference) -> Option<Bytes>,
    limit: u64,
) -> Result<Vec<u8>, DecodeError> {
    let mut get = |at: &Position| {
        let reference = at.reference;
        let block = fetch(&reference).ok_or(DecodeError::MissingBlock { reference })?;
        let found = reference_of(&block);
        if found == reference { Ok(block) } else { Err(DecodeError::BlockHash { reference, found }) }
    };
    let root = capability.root();
    let (layout, mut opened) = open_root(capability, &get(&root)?)?;
    let mut content = Vec::new();
    // Positions still to be opened, the next one last.
    let mut ahead: Vec<Position> = Vec::new();
    loop {
        match opened {
            Opened::Leaf(bytes) => {
                content.extend_from_slice(&bytes);
                if content.len() as u64 > limit {
                    return Err(DecodeError::TooLong { limit });
                }
            }
            Opened::Node(node) => {
                // All that is to the left of the last child is full.
                let last = node.last();
                let before = (last.index.checked_mul(node.leaves_a_child))
                    .and_then(|leaves| leaves.checked_mul(layout.block_bytes()));
                if before.is_none_or(|bytes| bytes > limit) {
                    return Err(DecodeError::TooLong { limit });
                }
                ahead.extend(node.covering(0..u64::MAX).into_iter().rev());
            }
        }
        match ahead.pop() {
            Some(at) => opened = layout.open(&at, &get(&at)?)?,
            None => return Ok(content),
        }
    }
}

#[cfg(test)]
mod tests;
