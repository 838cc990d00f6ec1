//! The streaming encoder: bytes in, sealed blocks out, the read capability at the end.
//!
//! Content is cut into leaves, which are gathered and sealed in batches; the pairs of reference and key that
//! come out are gathered a level up until they fill a node (spec 1.0.0, "Encoding"). Memory is one batch of
//! leaves and at most one unfinished node a level. Equal leaves come out repeatedly.

use bytes::Bytes;
use rayon::prelude::*;

use super::block::seal;
use super::capability::{BlockSize, ConvergenceSecret, Generation, Key, ReadCapability, Reference};

/// Content bytes that are gathered before they are sealed: enough to occupy the lanes of every core.
const BATCH: usize = 1024 * 1024;
/// Bytes that one core seals at a time: they are read three times, so they should stay in its L2 cache.
const GROUP: usize = 256 * 1024;

/// A block ready to be stored under its reference.
///
/// The bytes are an allocation of their own, so that whoever keeps the block keeps nothing else alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlock {
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
                        self.seal_leaves(&mut ready);
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
        self.seal_leaves(&mut ready);

        let mut level = 0;
        loop {
            let is_top = level + 1 == self.pairs.len();
            let pairs = &mut self.pairs[level];
            if is_top && pairs.len() == PAIR {
                break;
            }
            if !pairs.is_empty() {
                let mut node = std::mem::take(pairs);
                node.resize(size, 0);
                self.seal_nodes(level, vec![node], &mut ready);
            }
            level += 1;
        }
        let (reference, key) = self.pairs[level].split_at(PAIR / 2);
        let capability = ReadCapability {
            generation: Generation::V1,
            block_size: self.block_size,
            level: u8::try_from(level).expect("level 255 takes more than 2^64 bytes of content"),
            reference: Reference::new(reference.try_into().expect("half of a pair is 32 bytes")),
            key: Key::new(key.try_into().expect("half of a pair is 32 bytes")),
        };
        (capability, ready)
    }

    /// Seals all leaves of the buffer, which must be full, and the nodes that get full by them.
    fn seal_leaves(&mut self, ready: &mut Vec<SealedBlock>) {
        let leaves = std::mem::take(&mut self.leaves);
        let secret = self.secret;
        self.seal_level(0, leaves, Some(&secret), ready);
    }

    /// Seals full nodes made of the pairs of `level`.
    fn seal_nodes(&mut self, level: usize, nodes: Vec<Vec<u8>>, ready: &mut Vec<SealedBlock>) {
        self.seal_level(level + 1, nodes, None, ready);
    }

    /// Seals blocks of one level, hands their pairs to the level above, and goes on there if it gets full.
    fn seal_level(
        &mut self,
        level: usize,
        mut blocks: Vec<Vec<u8>>,
        secret: Option<&ConvergenceSecret>,
        ready: &mut Vec<SealedBlock>,
    ) {
        let size = self.block_size.bytes();
        let nonce_level = u8::try_from(level).expect("level 255 takes more than 2^64 bytes of content");
        let sealed = seal_on_all_cores(&mut blocks, size, secret, nonce_level);
        if self.pairs.len() == level {
            self.pairs.push(Vec::new());
        }
        let pairs = &mut self.pairs[level];
        for ((reference, key), block) in sealed.into_iter().zip(blocks) {
            pairs.extend_from_slice(reference.as_bytes());
            pairs.extend_from_slice(key.as_bytes());
            ready.push(SealedBlock { reference, block: block.into() });
        }
        if pairs.len() >= size {
            let rest = pairs.split_off(pairs.len() / size * size);
            let full = std::mem::replace(pairs, rest);
            let nodes = full.chunks_exact(size).map(<[u8]>::to_vec).collect();
            self.seal_nodes(level, nodes, ready);
        }
    }
}

/// Bytes of a reference and its key.
const PAIR: usize = 64;

fn seal_on_all_cores(
    blocks: &mut [Vec<u8>],
    size: usize,
    secret: Option<&ConvergenceSecret>,
    level: u8,
) -> Vec<(Reference, Key)> {
    let group = GROUP / size;
    if blocks.len() <= group || rayon::current_num_threads() == 1 {
        blocks.chunks_mut(group).flat_map(|group| seal(group, secret, level)).collect()
    } else {
        blocks.par_chunks_mut(group).flat_map_iter(|group| seal(group, secret, level)).collect()
    }
}
