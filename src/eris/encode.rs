//! The streaming encoder: bytes in, sealed blocks out, the read capability at the end.
//!
//! Content is cut into leaves, which are gathered and sealed in batches; the pairs of reference and key that
//! come out are gathered a level up until they fill a node (spec 1.0.0, "Encoding"). Memory is one batch of
//! leaves and at most one unfinished node a level. Equal leaves come out repeatedly.

use bytes::Bytes;
use rayon::prelude::*;

use super::block::{PAIR, seal, split_pair};
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
    /// 0 for a leaf, and these come in the order of the content; above it a node.
    pub level: u8,
    /// The name of the block.
    pub reference: Reference,
    /// What opens it: for whoever reads it before the capability is known. It is nothing for a block store.
    pub key: Key,
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
            ready.push(SealedBlock { level, reference, key, block: block.into() });
        }
        if pairs.len() >= size {
            let rest = pairs.split_off(pairs.len() / size * size);
            let full = std::mem::replace(pairs, rest);
            let nodes = full.chunks_exact(size).map(<[u8]>::to_vec).collect();
            self.seal(level + 1, nodes, ready);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::block::{apply_cipher, reference_of};
    use super::super::lanes;
    use super::*;

    /// The specification read word by word, a level and a block at a time.
    fn plainly(
        size: BlockSize,
        secret: ConvergenceSecret,
        content: &[u8],
    ) -> (ReadCapability, Vec<SealedBlock>) {
        let bytes = size.bytes();
        let mut padded = content.to_vec();
        padded.push(0x80);
        padded.resize(padded.len().next_multiple_of(bytes), 0);
        let (mut level, mut sealed) = (0, Vec::new());
        let mut plain = padded;
        loop {
            let mut pairs = Vec::new();
            for block in plain.chunks(bytes) {
                let mut block = block.to_vec();
                block.resize(bytes, 0);
                let key = Key::new(lanes::hash((level == 0).then_some(secret.as_bytes()), &block));
                apply_cipher(&key, [level, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &mut block);
                let reference = reference_of(&block);
                sealed.push(SealedBlock { level, reference, key, block: block.into() });
                pairs.extend([*reference.as_bytes(), *key.as_bytes()].concat());
            }
            if let Ok(root) = pairs.as_slice().try_into() {
                let (reference, key) = split_pair(root);
                let generation = Generation::V1;
                return (ReadCapability { generation, block_size: size, level, reference, key }, sealed);
            }
            plain = pairs;
            level += 1;
        }
    }

    fn encode(
        size: BlockSize,
        secret: ConvergenceSecret,
        pieces: &[&[u8]],
    ) -> (ReadCapability, Vec<SealedBlock>) {
        let mut encoder = Encoder::new(size, secret);
        let mut blocks: Vec<_> = pieces.iter().flat_map(|piece| encoder.push(piece)).collect();
        let (capability, rest) = encoder.finish();
        blocks.extend(rest);
        // Levels are independent streams: in order within each.
        blocks.sort_by_key(|sealed| sealed.level);
        (capability, blocks)
    }

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i / 1000 + i * 7) as u8).collect()
    }

    proptest! {
        #[test]
        fn pieces_of_any_length_give_the_blocks_of_the_plain_reading(
            size in prop_oneof![Just(BlockSize::Small), Just(BlockSize::Large)],
            secret in any::<[u8; 32]>(),
            length in prop_oneof![0..70_000_usize, (0..300_usize).prop_map(|n| n * 1024)],
            step in 1..50_000_usize,
        ) {
            let (secret, content) = (ConvergenceSecret::new(secret), content(length));
            let pieces: Vec<&[u8]> = content.chunks(step).collect();
            prop_assert_eq!(encode(size, secret, &pieces), plainly(size, secret, &content));
        }
    }

    #[test]
    fn batches_on_all_cores_give_the_blocks_of_the_plain_reading() {
        for size in [BlockSize::Small, BlockSize::Large] {
            for length in [BATCH - 1, BATCH, BATCH + 1, 3 * BATCH + 12345, 17 * 1024 * 1024] {
                let content = content(length);
                let all = encode(size, ConvergenceSecret::NULL, &[&content]);
                assert!(all == plainly(size, ConvergenceSecret::NULL, &content), "{size:?} {length}");
            }
        }
    }

    #[test]
    fn the_level_grows_where_the_specification_says() {
        let level = |size, length| encode(size, ConvergenceSecret::NULL, &[&content(length)]).0.level;
        for (length, expected) in
            [(0, 0), (1023, 0), (1024, 1), (16383, 1), (16384, 2), (262_143, 2), (262_144, 3)]
        {
            assert_eq!(level(BlockSize::Small, length), expected, "{length} bytes in small blocks");
        }
        for (length, expected) in [(32767, 0), (32768, 1), (16_777_215, 1), (16_777_216, 2)] {
            assert_eq!(level(BlockSize::Large, length), expected, "{length} bytes in large blocks");
        }
    }

    #[test]
    fn the_encoder_holds_back_no_more_than_a_batch() {
        let piece = content(100_000);
        let mut encoder = Encoder::new(BlockSize::Small, ConvergenceSecret::NULL);
        let (mut pushed, mut sealed) = (0, 0);
        for _ in 0..100 {
            pushed += piece.len();
            sealed += encoder.push(&piece).iter().filter(|block| block.level == 0).count() * 1024;
            assert!(pushed - sealed <= BATCH, "{} bytes are held back", pushed - sealed);
        }
    }

    #[test]
    fn a_block_keeps_nothing_else_alive() {
        let (_, blocks) = encode(BlockSize::Small, ConvergenceSecret::NULL, &[&content(100_000)]);
        for sealed in blocks {
            let alone = sealed.block.try_into_mut().expect("nobody else holds the bytes");
            assert_eq!(alone.capacity(), 1024);
        }
    }

    #[test]
    fn another_secret_gives_other_blocks() {
        let other = ConvergenceSecret::new([1; 32]);
        let references = |secret| -> Vec<Reference> {
            let (_, blocks) = encode(BlockSize::Small, secret, &[&content(5000)]);
            blocks.into_iter().map(|sealed| sealed.reference).collect()
        };
        let null = references(ConvergenceSecret::NULL);
        assert!(references(other).iter().all(|reference| !null.contains(reference)));
    }
}
