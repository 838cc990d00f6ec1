//! The streaming encoder: bytes in, sealed blocks out, the read capability at the end.
//!
//! Content is cut into leaves, which are gathered and sealed in batches; the pairs of reference and key that
//! come out are gathered a level up until they fill a node (spec 1.0.0, "Encoding"). Memory is one batch of
//! leaves and at most one unfinished node a level. Equal leaves come out repeatedly.

use bytes::Bytes;
use rayon::prelude::*;

use super::block::{PAIR, seal, split_pair};
use super::capability::{BlockSize, ConvergenceSecret, Generation, ReadCapability, Reference};

/// Content bytes that are gathered before they are sealed: enough to occupy the lanes of every core.
const BATCH: usize = 1024 * 1024;
/// Bytes that one core seals at a time: they are read three times, so they should stay in its L2 cache.
const GROUP: usize = 256 * 1024;

/// A block ready to be stored under its reference.
///
/// The bytes are an allocation of their own, so that whoever keeps the block keeps nothing else alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlock {
    /// 0 for a leaf, and these come in the order of the content; above it a node.
    pub level: u8,
    /// The name of the block.
    pub reference: Reference,
    /// The encrypted bytes, as long as the block size.
    pub block: Bytes,
}

/// Encodes a content of any length, known or not, as ERIS 1.0.0.
///
/// Large batches are sealed on all cores of the rayon pool; a small content stays on the calling thread.
#[derive(Debug)]
pub struct Encoder {
    block_size: BlockSize,
    secret: ConvergenceSecret,
    /// Full leaves that wait for a batch, then the one being filled.
    leaves: Vec<Vec<u8>>,
    /// `pairs[l]`: pairs that wait to become a node of level `l + 1`, as they will stand in it.
    pairs: Vec<Vec<u8>>,
}

impl Encoder {
    /// An encoder that has seen no content yet.
    pub fn new(block_size: BlockSize, secret: ConvergenceSecret) -> Self {
        Self { block_size, secret, leaves: Vec::new(), pairs: Vec::new() }
    }

    /// Takes the next bytes of the content. Returns the blocks that became ready, none if the bytes only
    /// went into the buffer.
    pub fn push(&mut self, mut content: &[u8]) -> Vec<SealedBlock> {
        let size = self.block_size.bytes();
        let mut ready = Vec::new();
        while !content.is_empty() {
            let leaf = match self.leaves.last_mut() {
                Some(leaf) if leaf.len() < size => leaf,
                _ => {
                    if self.leaves.len() * size >= BATCH {
                        let leaves = std::mem::take(&mut self.leaves);
                        self.seal(0, leaves, &mut ready);
                    }
                    self.leaves.push_mut(Vec::with_capacity(size))
                }
            };
            let (head, rest) = content.split_at(content.len().min(size - leaf.len()));
            leaf.extend_from_slice(head);
            content = rest;
        }
        ready
    }

    /// Ends the content. Returns the capability to read it and the blocks that were still missing.
    pub fn finish(mut self) -> (ReadCapability, Vec<SealedBlock>) {
        let size = self.block_size.bytes();
        if self.leaves.last().is_none_or(|leaf| leaf.len() == size) {
            self.leaves.push(Vec::with_capacity(size));
        }
        if let Some(last) = self.leaves.last_mut() {
            last.push(0x80);
            last.resize(size, 0);
        }
        let mut ready = Vec::new();
        let leaves = std::mem::take(&mut self.leaves);
        self.seal(0, leaves, &mut ready);

        let mut level = 0;
        let root = loop {
            let is_top = self.pairs.len() == usize::from(level) + 1;
            let pairs = &mut self.pairs[usize::from(level)];
            if let (true, Ok(root)) = (is_top, <&[u8; PAIR]>::try_from(pairs.as_slice())) {
                break root;
            }
            if !pairs.is_empty() {
                let mut node = std::mem::take(pairs);
                node.resize(size, 0);
                self.seal(level + 1, vec![node], &mut ready);
            }
            level += 1;
        };
        let (reference, key) = split_pair(root);
        let capability =
            ReadCapability { generation: Generation::V1, block_size: self.block_size, level, reference, key };
        (capability, ready)
    }

    /// Seals blocks of one level, hands their pairs to the level above, and goes on there if it gets full.
    /// A content that 64 bits can count never comes near level 255.
    fn seal(&mut self, level: u8, mut blocks: Vec<Vec<u8>>, ready: &mut Vec<SealedBlock>) {
        let size = self.block_size.bytes();
        let secret = (level == 0).then_some(&self.secret);
        let group = GROUP / size;
        let sealed: Vec<_> = if blocks.len() <= group || rayon::current_num_threads() == 1 {
            blocks.chunks_mut(group).flat_map(|group| seal(group, secret, level)).collect()
        } else {
            blocks.par_chunks_mut(group).flat_map_iter(|group| seal(group, secret, level)).collect()
        };
        if self.pairs.len() == usize::from(level) {
            self.pairs.push(Vec::new());
        }
        let pairs = &mut self.pairs[usize::from(level)];
        for ((reference, key), block) in sealed.into_iter().zip(blocks) {
            pairs.extend_from_slice(reference.as_bytes());
            pairs.extend_from_slice(key.as_bytes());
            ready.push(SealedBlock { level, reference, block: block.into() });
        }
        if pairs.len() >= size {
            let rest = pairs.split_off(pairs.len() / size * size);
            let full = std::mem::replace(pairs, rest);
            let nodes = full.chunks_exact(size).map(<[u8]>::to_vec).collect();
            self.seal(level + 1, nodes, ready);
        }
    }
}
