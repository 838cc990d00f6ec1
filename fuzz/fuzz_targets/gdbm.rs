//! GDBM files that the fuzzer wrote: searched, and added to.
//!
//! The first byte chooses: a file as it is, or changes to a good one, each a place and what stands there.

#![no_main]

use std::sync::LazyLock;

use erisfs::block::{Block, BlockStore, Gdbm};
use erisfs::eris::{Reference, reference_of};
use erisfs_fuzz::{File, Input, wait};
use libfuzzer_sys::fuzz_target;

fn blocks(seeds: std::ops::Range<u16>) -> Vec<(Reference, Block)> {
    let blocks = seeds.map(|seed| Block::from(seed.to_le_bytes().repeat(512)));
    blocks.map(|block| (reference_of(&block), block)).collect()
}

/// A database with a few blocks.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let file = File::absent("gdbm-good");
    wait(Gdbm::new(file.path()).put_many(blocks(0..20))).expect("a new file");
    std::fs::read(file.path()).expect("it was written")
});

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let bytes = match input.byte() & 1 {
        0 => input.0.to_vec(),
        _ => {
            let mut bytes = GOOD.clone();
            while !input.is_empty() {
                // The header, the directory and the first bucket are what matters.
                let at = usize::from(input.u16()) % (12 << 10);
                let count = usize::from(input.byte() % 9);
                let change = input.bytes(count);
                bytes[at..at + change.len()].copy_from_slice(change);
            }
            bytes
        }
    };
    let file = File::with("gdbm", &bytes);
    let gdbm = Gdbm::new(file.path());
    wait(async {
        for (reference, _) in blocks(0..25) {
            if let Ok(block) = gdbm.get(&reference).await {
                assert!([1 << 10, 32 << 10].contains(&block.len()));
            }
        }
        for (reference, block) in blocks(20..25) {
            if gdbm.put(&reference, block.clone()).await.is_ok() {
                let _ = gdbm.get(&reference).await;
            }
        }
    });
});
