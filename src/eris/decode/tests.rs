//! What the decoding side promises, on honest trees and on trees that no encoder writes.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::block::seal;
use super::super::encode::Encoder;
use super::super::lanes;
use super::*;
use crate::eris::ConvergenceSecret;

type Pair = (Reference, Key);

/// Blocks by reference, and the means to make any tree.
#[derive(Default)]
struct Store(HashMap<Reference, Bytes>);

impl Store {
    fn encode(&mut self, size: BlockSize, content: &[u8]) -> ReadCapability {
        let mut encoder = Encoder::new(size, ConvergenceSecret::NULL);
        let mut blocks = encoder.push(content);
        let (capability, rest) = encoder.finish();
        blocks.extend(rest);
        self.0.extend(blocks.into_iter().map(|sealed| (sealed.reference, sealed.block)));
        capability
    }

    /// Seals one small block of any plain bytes, filled up with zeros.
    fn block(&mut self, level: u8, plain: &[u8]) -> Pair {
        let mut plain = plain.to_vec();
        plain.resize(BlockSize::Small.bytes(), 0);
        let mut blocks = [plain];
        let pair = seal(&mut blocks, (level == 0).then_some(&ConvergenceSecret::NULL), level)[0];
        let [block] = blocks;
        self.0.insert(pair.0, block.into());
        pair
    }

    fn last_leaf(&mut self, content: &[u8]) -> Pair {
        self.block(0, &[content, &[0x80]].concat())
    }

    fn node(&mut self, level: u8, children: &[Pair]) -> Pair {
        self.block(level, &plain_node(children))
    }

    fn decode(&self, capability: &ReadCapability, limit: u64) -> Result<Vec<u8>, DecodeError> {
        self.decode_counting(capability, limit).0
    }

    fn decode_counting(
        &self,
        capability: &ReadCapability,
        limit: u64,
    ) -> (Result<Vec<u8>, DecodeError>, usize) {
        let mut fetched = 0;
        let fetch = |reference: &Reference| {
            fetched += 1;
            self.0.get(reference).cloned()
        };
        (decode(capability, fetch, limit), fetched)
    }

    /// Reads a range as the reader of a mount does, by asking each node what covers it.
    fn read(&self, capability: &ReadCapability, range: Range<u64>) -> Vec<u8> {
        let block = |at: &Position| &self.0[&at.reference];
        let (layout, root) = open_root(capability, block(&capability.root())).expect("a root");
        let leaves = layout.leaf_range(range.clone());
        let mut bytes = Vec::new();
        match root {
            Opened::Leaf(leaf) => bytes = leaf.to_vec(),
            Opened::Node(root) => {
                let mut ahead = root.covering(leaves.clone());
                while let Some(at) = (!ahead.is_empty()).then(|| ahead.remove(0)) {
                    match layout.open(&at, block(&at)).expect("a valid block") {
                        Opened::Node(node) => {
                            let below = node.covering(leaves.clone());
                            assert!(below.len() as u64 <= leaves.end - leaves.start);
                            ahead.splice(0..0, below);
                        }
                        Opened::Leaf(leaf) => {
                            assert!(leaves.contains(&at.index));
                            bytes.extend_from_slice(&leaf);
                        }
                    }
                }
            }
        }
        let start = usize::try_from(range.start - leaves.start * layout.block_bytes()).expect("small");
        let length = usize::try_from(range.end - range.start).expect("small");
        bytes.into_iter().skip(start).take(length).collect()
    }

    /// The length as it is found down the right edge, and the number of blocks that took.
    fn length(&self, capability: &ReadCapability) -> (Result<u64, DecodeError>, usize) {
        let mut at = capability.root();
        let (layout, mut opened) = open_root(capability, &self.0[&at.reference]).expect("a root");
        let mut blocks = 1;
        loop {
            match opened {
                Opened::Leaf(leaf) => return (layout.length(&at, leaf.len()), blocks),
                Opened::Node(node) => at = node.last(),
            }
            opened = layout.open(&at, &self.0[&at.reference]).expect("a valid block");
            blocks += 1;
        }
    }
}

fn plain_node(children: &[Pair]) -> Vec<u8> {
    children.iter().flat_map(|(r, k)| [*r.as_bytes(), *k.as_bytes()].concat()).collect()
}

fn small_capability(level: u8, (reference, key): Pair) -> ReadCapability {
    ReadCapability { generation: Generation::V1, block_size: BlockSize::Small, level, reference, key }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 997 + i * 13) as u8).collect()
}

fn any_size() -> impl Strategy<Value = BlockSize> {
    prop_oneof![Just(BlockSize::Small), Just(BlockSize::Large)]
}

/// Lengths of any kind, often at the boundary of a block or a node.
fn any_length() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..300_000_usize,
        (0..300_usize, 0..3_usize).prop_map(|(kib, around)| (kib * 1024 + around).saturating_sub(1)),
        (0..9_usize, 0..3_usize).prop_map(|(n, around)| (n * 32768 + around).saturating_sub(1)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_range_of_any_content_reads_as_the_plain_bytes(
        size in any_size(),
        length in any_length(),
        ranges in proptest::collection::vec((any::<u32>(), 0..80_000_usize), 8),
    ) {
        let (mut store, content) = (Store::default(), content(length));
        let capability = store.encode(size, &content);
        for (start, span) in ranges {
            let start = start as usize % (length + 1);
            let end = (start + span).min(length);
            let read = store.read(&capability, start as u64..end as u64);
            prop_assert!(read == content[start..end], "{start}..{end} of {length}");
        }
    }

    #[test]
    fn the_length_is_found_with_one_block_a_level(size in any_size(), length in any_length()) {
        let mut store = Store::default();
        let capability = store.encode(size, &content(length));
        let (found, blocks) = store.length(&capability);
        prop_assert_eq!(found, Ok(length as u64));
        prop_assert_eq!(blocks, usize::from(capability.level) + 1);
    }

    #[test]
    fn a_limit_of_exactly_the_length_is_enough(size in any_size(), length in any_length()) {
        let (mut store, content) = (Store::default(), content(length));
        let capability = store.encode(size, &content);
        prop_assert!(store.decode(&capability, length as u64) == Ok(content));
        if let Some(limit) = (length as u64).checked_sub(1) {
            prop_assert_eq!(store.decode(&capability, limit), Err(DecodeError::TooLong { limit }));
        }
    }

    #[test]
    fn a_tree_of_arbitrary_plain_blocks_is_decoded_or_refused(
        // Each block names some of those before it, at a level that need not fit.
        blocks in proptest::collection::vec(
            (0..4_u8, proptest::collection::vec(any::<proptest::sample::Index>(), 0..17),
             proptest::collection::vec(any::<u8>(), 0..200)),
            1..12),
        level in 0..4_u8,
    ) {
        let mut store = Store::default();
        let mut pairs: Vec<Pair> = Vec::new();
        for (level, children, noise) in blocks {
            let plain = if pairs.is_empty() || children.is_empty() {
                [noise.as_slice(), &[0x80]].concat()
            } else {
                let children: Vec<Pair> = children.iter().map(|i| *i.get(&pairs)).collect();
                plain_node(&children[..children.len().min(16)])
            };
            pairs.push(store.block(level, &plain));
        }
        let root = *pairs.last().expect("at least one block");
        let limit = 100_000;
        let (decoded, fetched) = store.decode_counting(&small_capability(level, root), limit);
        prop_assert!(fetched <= 100 + 7 + 8);
        if let Ok(content) = decoded {
            prop_assert!(content.len() as u64 <= limit);
        }
    }
}

#[test]
fn every_leaf_of_a_tree_has_its_own_index_and_only_the_last_is_at_the_edge() {
    let mut store = Store::default();
    let capability = store.encode(BlockSize::Small, &content(40_000));
    let (layout, root) = open_root(&capability, &store.0[&capability.reference]).expect("a root");
    let Opened::Node(root) = root else { panic!("two levels of nodes") };
    let mut leaves = Vec::new();
    for at in root.covering(0..u64::MAX) {
        match layout.open(&at, &store.0[&at.reference]).expect("a node") {
            Opened::Node(node) => leaves.extend(node.covering(0..u64::MAX)),
            Opened::Leaf(_) => panic!("level 1 has no leaves"),
        }
    }
    assert!(leaves.iter().map(|leaf| leaf.index).eq(0..40));
    assert!(leaves.iter().all(|leaf| leaf.right_edge == (leaf.index == 39)));
    assert!(root.covering(5..5).is_empty());
    assert!(root.covering(48..u64::MAX).is_empty());
}

#[test]
fn leaves_opened_together_are_those_opened_alone() {
    let (mut store, content) = (Store::default(), content(10_000));
    let capability = store.encode(BlockSize::Small, &content);
    let (layout, root) = open_root(&capability, &store.0[&capability.reference]).expect("a root");
    let Opened::Node(root) = root else { panic!("one level of nodes") };
    // Every other block is held by the store too and must not change in it.
    let fetched: Vec<_> = (root.covering(0..u64::MAX).into_iter())
        .map(|at| match at.index % 2 {
            0 => (at, store.0[&at.reference].clone()),
            _ => (at, Bytes::copy_from_slice(&store.0[&at.reference])),
        })
        .collect();
    let opened: Vec<u8> =
        layout.open_leaves(fetched).into_iter().flat_map(|leaf| leaf.expect("a leaf")).collect();
    assert!(opened == content);
    assert!(store.decode(&capability, u64::MAX) == Ok(content), "the store is unharmed");
}

#[test]
fn a_key_or_level_that_is_not_of_the_root_is_refused() {
    let mut store = Store::default();
    let capability = store.encode(BlockSize::Small, &content(40_000));
    let reference = capability.reference;
    for manipulated in [
        ReadCapability { key: Key::new([1; 32]), ..capability },
        ReadCapability { level: 1, ..capability },
        ReadCapability { level: 255, ..capability },
    ] {
        assert_eq!(store.decode(&manipulated, u64::MAX), Err(DecodeError::RootKey { reference }));
    }

    // A root whose key decrypts it to a fine node, but is not the hash of it.
    let child = store.last_leaf(b"content");
    let (key, mut block) = (Key::new([3; 32]), plain_node(&[child]));
    block.resize(1024, 0);
    apply_cipher(&key, NonceScheme::First.nonce(1), &mut block);
    let reference = reference_of(&block);
    store.0.insert(reference, block.into());
    let capability = small_capability(1, (reference, key));
    assert_eq!(store.decode(&capability, u64::MAX), Err(DecodeError::RootKey { reference }));
}

#[test]
fn a_flipped_bit_a_short_block_and_a_missing_block_are_refused() {
    let mut store = Store::default();
    let capability = store.encode(BlockSize::Small, &content(40_000));
    let references: Vec<Reference> = store.0.keys().copied().collect();
    for reference in references {
        let good = store.0[&reference].clone();
        let mut bad = good.to_vec();
        bad[77] ^= 4;
        for bad in [bad, good[..1023].to_vec(), Vec::new()] {
            store.0.insert(reference, bad.into());
            let error = store.decode(&capability, u64::MAX).expect_err("another block");
            assert!(matches!(error, DecodeError::BlockHash { reference: r, .. } if r == reference));
        }
        store.0.remove(&reference);
        let missing = DecodeError::MissingBlock { reference };
        assert_eq!(store.decode(&capability, u64::MAX), Err(missing));
        store.0.insert(reference, good);
    }
}

#[test]
fn a_block_of_another_size_is_refused_even_with_the_right_hash() {
    let mut store = Store::default();
    let block = Bytes::from(vec![1; 32768]);
    let reference = reference_of(&block);
    store.0.insert(reference, block);
    let bad = (reference, Key::new([0; 32]));
    let error = DecodeError::BlockLength { reference, expected: 1024, found: 32768 };
    assert_eq!(store.decode(&small_capability(0, bad), u64::MAX), Err(error.clone()));
    let root = store.node(1, &[bad]);
    assert_eq!(store.decode(&small_capability(1, root), u64::MAX), Err(error));
}

#[test]
fn a_node_must_be_zero_after_its_last_pair() {
    let mut store = Store::default();
    let leaf = store.last_leaf(b"content");
    let mut with_tail = |at: usize| {
        let mut plain = plain_node(&[leaf]);
        plain.resize(1024, 0);
        plain[at] = 1;
        let root = store.block(1, &plain);
        (store.decode(&small_capability(1, root), u64::MAX), root.0)
    };
    // A key without reference; a pair after a gap; the last byte.
    for at in [64 + 32, 128, 1023] {
        let (decoded, reference) = with_tail(at);
        assert_eq!(decoded, Err(DecodeError::NodeTail { reference }), "byte {at}");
    }
}

#[test]
fn a_key_of_zeros_is_a_key() {
    let mut store = Store::default();
    let mut block = b"content\x80".to_vec();
    block.resize(1024, 0);
    let key = Key::new([0; 32]);
    apply_cipher(&key, [0; 12], &mut block);
    let reference = reference_of(&block);
    store.0.insert(reference, block.into());
    let root = store.node(1, &[(reference, key)]);
    assert_eq!(store.decode(&small_capability(1, root), 7), Ok(b"content".to_vec()));
}

#[test]
fn a_node_without_children_is_refused() {
    let mut store = Store::default();
    let empty = store.node(1, &[]);
    let refused = Err(DecodeError::EmptyNode { reference: empty.0 });
    assert_eq!(store.decode(&small_capability(1, empty), u64::MAX), refused);
    let root = store.node(2, &[empty]);
    assert_eq!(store.decode(&small_capability(2, root), u64::MAX), refused);
}

#[test]
fn a_node_with_room_left_is_refused_unless_it_is_at_the_right_edge() {
    let mut store = Store::default();
    let (whole, last) = (store.block(0, &[1; 1024]), store.last_leaf(b"end"));
    let (short, edge) = (store.node(1, &[whole; 15]), store.node(1, &[whole, last]));
    let full = store.node(1, &[whole; 16]);

    let good = store.node(2, &[full, edge]);
    let content = store.decode(&small_capability(2, good), u64::MAX).expect("a valid tree");
    assert_eq!(content.len(), 17 * 1024 + 3);

    let bad = store.node(2, &[short, edge]);
    let error = DecodeError::NodeNotFull { reference: short.0, expected: 16, found: 15 };
    assert_eq!(store.decode(&small_capability(2, bad), u64::MAX), Err(error));
}

#[test]
fn what_looks_like_padding_before_the_last_leaf_is_content() {
    let mut store = Store::default();
    let (looks_padded, last) = (store.last_leaf(b"content"), store.last_leaf(b""));
    let root = store.node(1, &[looks_padded, last]);
    let content = store.decode(&small_capability(1, root), 1024).expect("a valid tree");
    assert_eq!((content.len(), &content[..9]), (1024, b"content\x80\0".as_slice()));
}

#[test]
fn a_last_leaf_without_padding_is_refused() {
    let mut store = Store::default();
    for plain in [vec![0; 1024], vec![1; 1024], b"content".to_vec(), b"a\x80\0\0b".to_vec()] {
        let leaf = store.block(0, &plain);
        let refused = Err(DecodeError::Padding { reference: leaf.0 });
        assert_eq!(store.decode(&small_capability(0, leaf), u64::MAX), refused);
        let root = store.node(1, &[leaf]);
        assert_eq!(store.decode(&small_capability(1, root), u64::MAX), refused);
    }
}

#[test]
fn a_tree_taller_than_it_need_be_is_read() {
    let mut store = Store::default();
    let mut root = store.last_leaf(b"content");
    for level in 1..=255 {
        root = store.node(level, &[root]);
    }
    let capability = small_capability(255, root);
    let (decoded, fetched) = store.decode_counting(&capability, 7);
    assert_eq!((decoded, fetched), (Ok(b"content".to_vec()), 256));
    assert_eq!(store.read(&capability, 2..5), b"nte");
    assert_eq!(store.length(&capability), (Ok(7), 256));
}

#[test]
fn a_tree_that_repeats_a_sub_tree_is_refused_before_it_is_fetched() {
    for levels in [3, 13, 14, 16, 20, 255] {
        let mut store = Store::default();
        let (mut whole, mut edge) = (store.block(0, &[1; 1024]), store.last_leaf(b""));
        for level in 1..=levels {
            edge = store.node(level, &[[whole; 15].as_slice(), &[edge]].concat());
            whole = store.node(level, &[whole; 16]);
        }
        let capability = small_capability(levels, edge);
        let limit = 1_000_000;
        let (decoded, fetched) = store.decode_counting(&capability, limit);
        assert_eq!((decoded, fetched), (Err(DecodeError::TooLong { limit }), 1), "{levels} levels");

        // The content has 16^levels - 1 whole leaves and an empty one.
        let expected = 16_u64.checked_pow(levels.into()).and_then(|leaves| leaves.checked_mul(1024));
        let expected = expected.map(|bytes| bytes - 1024).ok_or(DecodeError::TooLong { limit: u64::MAX });
        assert_eq!(store.length(&capability).0, expected, "{levels} levels");
        // Its beginning can be read all the same.
        assert_eq!(store.read(&capability, 1000..3000), vec![1; 2000]);
    }
}

#[test]
fn no_limit_at_all_does_not_make_the_arithmetic_overflow() {
    let mut store = Store::default();
    let (mut whole, mut edge) = (store.block(0, &[1; 1024]), store.last_leaf(b""));
    for level in 1..=255 {
        edge = store.node(level, &[whole, edge]);
        whole = store.node(level, &[whole; 16]);
    }
    let (decoded, fetched) = store.decode_counting(&small_capability(255, edge), u64::MAX);
    assert_eq!((decoded, fetched), (Err(DecodeError::TooLong { limit: u64::MAX }), 1));
}

#[test]
fn the_largest_length_of_a_level_is_that_of_the_specification() {
    let mut store = Store::default();
    let layout = |store: &mut Store, size, level| {
        let capability = store.encode(size, b"");
        let (layout, _) = open_root(&capability, &store.0[&capability.reference]).expect("a root");
        Layout { level, ..layout }
    };
    for (level, length) in [(0, 1023), (2, 262_143), (6, 17_179_869_183), (14, u64::MAX), (255, u64::MAX)] {
        assert_eq!(layout(&mut store, BlockSize::Small, level).max_length(), length);
    }
    for (level, length) in [(1, 16_777_215), (3, 4_398_046_511_103), (6, u64::MAX)] {
        assert_eq!(layout(&mut store, BlockSize::Large, level).max_length(), length);
    }
    let layout = layout(&mut store, BlockSize::Small, 2);
    assert_eq!(layout.leaf_range(0..0), 0..0);
    assert_eq!(layout.leaf_range(0..1), 0..1);
    assert_eq!(layout.leaf_range(1023..1025), 0..2);
    assert_eq!(layout.leaf_range(2048..3072), 2..3);
    assert_eq!(layout.leaf_range(0..u64::MAX), 0..1 << 54);
}

/// A content of two leaves as the first draft of `urn:erisx3:` encoded it: node keys are keyed too.
#[test]
fn the_first_draft_of_erisx3_is_read_under_an_unknown_secret() {
    let (mut store, secret) = (Store::default(), [9; 32]);
    let mut sealed = |level: u8, plain: &[u8]| {
        let mut block = plain.to_vec();
        block.resize(1024, 0);
        let key = Key::new(lanes::hash(Some(&secret), &block));
        apply_cipher(&key, NonceScheme::Last.nonce(level), &mut block);
        let reference = reference_of(&block);
        store.0.insert(reference, block.into());
        (reference, key)
    };
    let leaves = [sealed(0, &[7; 1024]), sealed(0, b"end\x80")];
    let root = sealed(1, &plain_node(&leaves));
    let capability = ReadCapability { generation: Generation::X3, ..small_capability(1, root) };
    let content = store.decode(&capability, u64::MAX).expect("a valid tree");
    assert_eq!((content.len(), &content[1024..]), (1027, b"end".as_slice()));
}
