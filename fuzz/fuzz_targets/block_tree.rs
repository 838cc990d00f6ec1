//! Trees of blocks that were sealed as they should be, but hold whatever the fuzzer likes.
//!
//! The input is a program that builds blocks from the leaves up: each is sealed under its own hash, and nodes name blocks that
//! were built before, so the fuzzer gets past hashes and keys to the checks behind them. The last block built is the root.

#![no_main]

use std::collections::HashMap;
use std::ops::Range;

use blake2b_simd::Params;
use bytes::Bytes;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use erisfs::eris::{
    BlockSize, DecodeError, Generation, Key, Layout, Opened, Position, ReadCapability, Reference, decode,
    open_root,
};
use erisfs_fuzz::Input;
use libfuzzer_sys::fuzz_target;

/// The most bytes of content that are decoded.
const LIMIT: u64 = 64 << 10;
/// The most blocks that are built.
const BLOCKS: usize = 64;

type Store = HashMap<Reference, Bytes>;

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let flags = input.byte();
    let block_size = if flags & 1 == 0 { BlockSize::Small } else { BlockSize::Large };
    let generation =
        [Generation::V1, Generation::X2a, Generation::X2b, Generation::X3][usize::from(flags >> 1 & 3)];
    let range = u64::from(input.u16());
    let range = range..range + u64::from(input.u16());

    let mut store = Store::new();
    let mut built = Vec::new();
    while !input.is_empty() && built.len() < BLOCKS {
        let block = build(&mut input, block_size, generation, &built, &mut store);
        built.push(block);
    }
    let Some(&(reference, key, level)) = built.last() else { return };
    let capability = ReadCapability { generation, block_size, level, reference, key };

    let decoded = decode(&capability, |reference| store.get(reference).cloned(), LIMIT);
    if let Ok(content) = &decoded {
        assert!(content.len() as u64 <= LIMIT);
    }
    let Ok((layout, root)) = open_root(&capability, &store[&reference]) else {
        assert!(decoded.is_err(), "decoded in spite of a bad root");
        return;
    };
    let length = length(&layout, capability.root(), root.clone(), &store);
    match (&decoded, &length) {
        (Ok(content), Ok(length)) => {
            assert_eq!(*length, content.len() as u64);
            assert!(*length <= layout.max_length());
            let range = range.start.min(*length)..range.end.min(*length);
            let read = read(&layout, root, range.clone(), &store).expect("the whole was decoded");
            assert!(read == content[range.start as usize..range.end as usize], "{range:?}");
        }
        (Ok(_), Err(error)) => panic!("decoded, but its length is not found: {error}"),
        // The tree is bad elsewhere than at its right edge, or longer than the limit.
        (Err(_), Ok(_)) => {
            let _ = read(&layout, root, range, &store);
        }
        (Err(_), Err(_)) => {}
    }
});

/// Makes the next block, and seals it as the generation does.
fn build(
    input: &mut Input<'_>,
    block_size: BlockSize,
    generation: Generation,
    built: &[(Reference, Key, u8)],
    store: &mut Store,
) -> (Reference, Key, u8) {
    let kind = input.byte();
    let size = block_size.bytes();
    let mut plain = vec![0; size];
    let level = if kind & 1 == 0 || built.is_empty() {
        let length = usize::from(input.u16()) % (size + 1);
        let count = usize::from(input.byte());
        let bytes = input.bytes(count);
        for (at, byte) in plain[..length].iter_mut().enumerate() {
            *byte = bytes.get(at % bytes.len().max(1)).copied().unwrap_or(0);
        }
        if kind & 2 != 0 && length < size {
            plain[length] = 0x80;
        }
        0
    } else {
        let pairs = if kind & 2 != 0 {
            block_size.arity()
        } else {
            usize::from(input.byte()) % (block_size.arity() + 1)
        };
        let first = usize::from(input.byte()) % built.len();
        let last = usize::from(input.byte()) % built.len();
        let mut level = built[first].2.wrapping_add(1);
        for (at, pair) in plain.chunks_exact_mut(64).take(pairs).enumerate() {
            let (reference, key, _) = built[if at + 1 == pairs { last } else { first }];
            pair[..32].copy_from_slice(reference.as_bytes());
            pair[32..].copy_from_slice(key.as_bytes());
        }
        if kind & 4 != 0 {
            let at = usize::from(input.u16()) % size;
            plain[at] ^= input.byte();
        }
        if kind & 8 != 0 {
            level = input.byte();
        }
        level
    };
    let key: [u8; 32] = Params::new().hash_length(32).hash(&plain).as_bytes().try_into().expect("32 bytes");
    let mut nonce = [0; 12];
    match generation {
        Generation::V1 => nonce[0] = level,
        Generation::X2a | Generation::X2b => {}
        Generation::X3 => nonce[if kind & 16 == 0 { 0 } else { 11 }] = level,
    }
    ChaCha20::new(&key.into(), &nonce.into()).apply_keystream(&mut plain);
    if kind & 32 != 0 {
        plain.truncate(usize::from(input.u16()) % size);
    }
    let hash: [u8; 32] = Params::new().hash_length(32).hash(&plain).as_bytes().try_into().expect("32 bytes");
    let reference = Reference::new(hash);
    store.insert(reference, plain.into());
    (reference, Key::new(key), level)
}

fn open(layout: &Layout, at: &Position, store: &Store) -> Result<Opened, DecodeError> {
    let block = store.get(&at.reference).ok_or(DecodeError::MissingBlock { reference: at.reference })?;
    layout.open(at, block)
}

/// The length of the content, found down the right edge.
fn length(layout: &Layout, mut at: Position, mut opened: Opened, store: &Store) -> Result<u64, DecodeError> {
    loop {
        match opened {
            Opened::Leaf(bytes) => return layout.length(&at, bytes.len()),
            Opened::Node(node) => {
                let below = node.last();
                assert_eq!((below.level + 1, below.right_edge), (at.level, true));
                at = below;
                opened = open(layout, &at, store)?;
            }
        }
    }
}

/// Reads a range through the nodes that cover it.
fn read(layout: &Layout, root: Opened, range: Range<u64>, store: &Store) -> Result<Vec<u8>, DecodeError> {
    let leaves = layout.leaf_range(range.clone());
    let mut row = match root {
        Opened::Leaf(bytes) => return Ok(part(&bytes, 0, &range).to_vec()),
        Opened::Node(node) => node.covering(leaves.clone()),
    };
    while row.first().is_some_and(|at| at.level > 0) {
        let mut below = Vec::new();
        for at in row {
            match open(layout, &at, store)? {
                Opened::Node(node) => below.extend(node.covering(leaves.clone())),
                Opened::Leaf(_) => panic!("a leaf at level {}", at.level),
            }
        }
        assert!(below.len() as u64 <= leaves.end - leaves.start, "more children than leaves were asked for");
        row = below;
    }
    let mut read = Vec::new();
    for at in &row {
        let Opened::Leaf(bytes) = open(layout, at, store)? else { panic!("a node at level 0") };
        read.extend_from_slice(part(
            &bytes,
            at.index.saturating_mul(layout.block_size().bytes() as u64),
            &range,
        ));
    }
    Ok(read)
}

/// What of a leaf that starts at `start` is in the range.
fn part<'a>(leaf: &'a [u8], start: u64, range: &Range<u64>) -> &'a [u8] {
    let inside = |at: u64| at.saturating_sub(start).min(leaf.len() as u64) as usize;
    &leaf[inside(range.start)..inside(range.end)]
}
