//! Speed of the ERIS codec on one core, next to the bare primitives and to the crate eris-rs.
//!
//! `cargo bench --bench codec`. Processor time is measured, the rows interleaved and the medians printed, so
//! that a machine which others use disturbs little, and all rows alike. "Verified decode" is what a reader
//! does with a batch of leaves that arrived: the references of all of them, then the plain content.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use erisfs::eris::{
    BlockSize, ConvergenceSecret, Encoder, Opened, Position, ReadCapability, Reference, SealedBlock,
    open_root, reference_of, references_of,
};

/// Content bytes a measurement: few enough that the caches hold them, as they hold what just arrived.
const LENGTH: usize = 8 * 1024 * 1024;
/// Measurements a row.
const ROUNDS: usize = 41;
/// Bytes of leaves that a reader opens together.
const BATCH: usize = 1024 * 1024;

/// Blocks in memory. References are hashes already, so that looking them up need not hash them again.
type Blocks = HashMap<Reference, Bytes, BuildHasherDefault<FirstBytes>>;

#[derive(Default)]
struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Row {
    name: &'static str,
    run: Box<dyn FnMut() -> Duration>,
    times: Vec<Duration>,
}

fn row(name: &'static str, run: impl FnMut() -> Duration + 'static) -> Row {
    Row { name, run: Box::new(run), times: Vec::new() }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let start = cpu_time();
    black_box(work());
    cpu_time() - start
}

/// Processor time of this thread: what others run on the machine meanwhile is not counted.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    now.try_into().expect("a thread has run for a positive time")
}

/// Bytes that neither compress nor repeat.
fn content() -> Vec<u8> {
    let mut bytes = vec![0; LENGTH];
    ChaCha20::new(&[1; 32].into(), &[0; 12].into()).apply_keystream(&mut bytes);
    bytes
}

fn encode(size: BlockSize, content: &[u8], mut store: impl FnMut(SealedBlock)) -> ReadCapability {
    let mut encoder = Encoder::new(size, ConvergenceSecret::NULL);
    for piece in content.chunks(256 * 1024) {
        encoder.push(piece).into_iter().for_each(&mut store);
    }
    let (capability, rest) = encoder.finish();
    rest.into_iter().for_each(store);
    capability
}

/// Decodes a content whose blocks lie in memory, a batch at a time, nodes too. The time does not include
/// looking the blocks up, which is the work of a store.
fn decode(capability: &ReadCapability, blocks: &Blocks) -> Duration {
    let mut time = Duration::ZERO;
    let (layout, root) = open_root(capability, &blocks[&capability.reference]).expect("a root");
    let Opened::Node(root) = root else { panic!("a content this long has nodes") };
    let (mut level, mut length) = (root.covering(0..u64::MAX), 0);
    while !level.is_empty() {
        let mut below = Vec::new();
        for batch in level.chunks(BATCH / capability.block_size.bytes()) {
            let fetched: Vec<(Position, Bytes)> =
                batch.iter().map(|at| (*at, blocks[&at.reference].clone())).collect();
            let start = cpu_time();
            let slices: Vec<&[u8]> = fetched.iter().map(|(_, block)| block.as_ref()).collect();
            let verified = references_of(&slices);
            assert!(verified.iter().zip(batch).all(|(found, at)| *found == at.reference));
            if batch[0].level == 0 {
                let leaves = layout.open_leaves(fetched);
                length += leaves.into_iter().map(|leaf| leaf.expect("a leaf").len()).sum::<usize>();
            } else {
                for (at, block) in fetched {
                    match layout.open(&at, &block).expect("a node") {
                        Opened::Node(node) => below.extend(node.covering(0..u64::MAX)),
                        Opened::Leaf(_) => unreachable!("leaves are at level 0"),
                    }
                }
            }
            time += cpu_time() - start;
        }
        level = below;
    }
    assert_eq!(length, LENGTH);
    time
}

fn rows_of_primitives() -> Vec<Row> {
    let bytes = content();
    let cipher_of = |size: usize| {
        let mut bytes = bytes.clone();
        move || {
            timed(|| {
                for block in bytes.chunks_mut(size) {
                    ChaCha20::new(&[2; 32].into(), &[0; 12].into()).apply_keystream(block);
                }
            })
        }
    };
    let lanes_of = |size: usize| {
        let bytes = bytes.clone();
        move || {
            timed(|| {
                for batch in bytes.chunks(BATCH) {
                    black_box(references_of(&batch.chunks(size).collect::<Vec<_>>()));
                }
            })
        }
    };
    let alone = bytes.clone();
    let four = bytes.clone();
    vec![
        row("BLAKE2b, one 32 KiB block at a time", move || {
            timed(|| alone.chunks(32768).map(reference_of).fold(0, |n, r| n ^ r.as_bytes()[0]))
        }),
        row("BLAKE2b, blake2b_simd many", move || {
            let mut parameters = blake2b_simd::Params::new();
            parameters.hash_length(32);
            timed(|| {
                for batch in four.chunks(BATCH) {
                    let mut jobs: Vec<_> = batch
                        .chunks(32768)
                        .map(|block| blake2b_simd::many::HashManyJob::new(&parameters, block))
                        .collect();
                    blake2b_simd::many::hash_many(&mut jobs);
                    black_box(jobs);
                }
            })
        }),
        row("BLAKE2b, references_of, 1 KiB", lanes_of(1024)),
        row("BLAKE2b, references_of, 32 KiB", lanes_of(32768)),
        row("ChaCha20, 1 KiB", cipher_of(1024)),
        row("ChaCha20, 32 KiB", cipher_of(32768)),
    ]
}

fn rows_of_codec(size: BlockSize, names: [&'static str; 4]) -> Vec<Row> {
    let bytes = content();
    let mut blocks = Blocks::default();
    let capability = encode(size, &bytes, |sealed| {
        blocks.insert(sealed.reference, sealed.block);
    });
    let theirs = match size {
        BlockSize::Small => eris_rs::types::BlockSize::Size1KiB,
        BlockSize::Large => eris_rs::types::BlockSize::Size32KiB,
    };
    let (their_bytes, their_blocks) = (bytes.clone(), Rc::new(blocks.clone()));
    vec![
        row(names[0], move || timed(|| encode(size, &bytes, |sealed| drop(black_box(sealed))))),
        row(names[1], move || decode(&capability, &blocks)),
        row(names[2], move || {
            timed(|| {
                eris_rs::encode::encode(&mut their_bytes.as_slice(), &[0; 32], theirs, &|sealed| {
                    Ok(black_box(sealed.block).len())
                })
                .expect("an encoding")
            })
        }),
        row(names[3], move || {
            let blocks = Rc::clone(&their_blocks);
            let fetch =
                move |reference: eris_rs::types::Reference| Ok(blocks[&Reference::new(reference)].to_vec());
            let capability = eris_rs::types::ReadCapability::from_bytes(&capability.to_bytes())
                .expect("the same binary form");
            timed(|| {
                let mut out = Vec::new();
                eris_rs::decode::decode(capability, &mut out, &fetch).expect("content");
                assert_eq!(out.len(), LENGTH);
            })
        }),
    ]
}

fn main() {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("the first use of the pool");
    let mut rows = rows_of_primitives();
    rows.extend(rows_of_codec(
        BlockSize::Small,
        ["encode, 1 KiB", "verified decode, 1 KiB", "eris-rs encode, 1 KiB", "eris-rs decode, 1 KiB"],
    ));
    rows.extend(rows_of_codec(
        BlockSize::Large,
        ["encode, 32 KiB", "verified decode, 32 KiB", "eris-rs encode, 32 KiB", "eris-rs decode, 32 KiB"],
    ));
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let time = (row.run)();
            row.times.push(time);
        }
    }
    println!("| one core, {} MiB | median GB/s | best |", LENGTH / 1024 / 1024);
    println!("| --- | ---: | ---: |");
    for row in &mut rows {
        row.times.sort();
        let rate = |time: Duration| LENGTH as f64 / time.as_secs_f64() / 1e9;
        println!("| {} | {:.2} | {:.2} |", row.name, rate(row.times[ROUNDS / 2]), rate(row.times[0]));
    }
}
