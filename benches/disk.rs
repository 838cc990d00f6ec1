//! Ways to keep blocks on disk: the slots of `block::Disk`, one file a block, SQLite, redb.
//!
//! `cargo bench --bench disk`. Each round makes every store anew, in turn: 2,048 blocks of 32 KiB (64 MiB) are put in batches of 64
//! and synced, then read in batches of 32 from the page cache and hashed. Medians of five rounds, by the clock and by processor
//! time, which says more on a crowded machine. Then a process that writes is killed five times, and what it left is opened, read
//! and written again. Last, each store but the directory, which has nothing to open, is opened with a million blocks of 1 KiB in
//! it, and one block is read. The slots get a cache of 72 GiB, in which a million blocks of 1 KiB have room; its file is sparse.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use erisfs::{
    block::{self, Block, BlockStore, Disk, DiskSettings},
    eris::{Reference, references_of},
};
use futures::StreamExt as _;
use redb::{Database, Durability, ReadableDatabase as _, TableDefinition};
use tokio::runtime::Runtime;

const BLOCKS: u64 = 2048;
const PUT: usize = 64;
const GET: usize = 32;
const ROUNDS: usize = 5;
const MILLION: u64 = 1 << 20;
/// Set for the process that is killed.
const VICTIM: &str = "ERISFS_BENCH_VICTIM";

const KINDS: [&str; 4] = ["slots", "dir", "sqlite", "redb"];
const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("blocks");

/// One way to keep blocks. What is read is verified.
enum Store {
    Slots(Disk),
    Redb(Database),
    Other(std::sync::Arc<dyn BlockStore>),
}

impl Store {
    fn open(kind: &str, folder: &Path) -> Self {
        let at = folder.join(kind);
        match kind {
            "slots" => {
                let settings = DiskSettings { size: 72 << 30, free_floor: 0, resize: true };
                Store::Slots(Disk::open(&at, settings).expect("a good size"))
            }
            "redb" => Store::Redb(Database::create(at).expect("a writable directory")),
            kind => Store::Other(block::open(&format!("{kind}:{}", at.display())).expect("a good URL")),
        }
    }

    fn put(&self, runtime: &Runtime, blocks: &[(Reference, Block)]) {
        match self {
            Store::Slots(disk) => drop(disk.put_many(blocks)),
            Store::Redb(database) => {
                let mut transaction = database.begin_write().expect("a database");
                // Synced by `sync`, as the others are.
                transaction.set_durability(Durability::None).expect("nothing was read yet");
                {
                    let mut table = transaction.open_table(TABLE).expect("a table");
                    for (reference, block) in blocks {
                        table.insert(&reference.as_bytes()[..], &block[..]).expect("a writable database");
                    }
                }
                transaction.commit().expect("a writable database");
            }
            Store::Other(store) => {
                runtime.block_on(store.put_many(blocks.to_vec())).expect("a writable store");
            }
        }
    }

    fn sync(&self, runtime: &Runtime) {
        match self {
            Store::Slots(disk) => disk.sync().expect("a disk that syncs"),
            Store::Redb(database) => {
                let transaction = database.begin_write().expect("a database");
                transaction.commit().expect("a disk that syncs");
            }
            Store::Other(store) => runtime.block_on(store.sync()).expect("a disk that syncs"),
        }
    }

    /// How many of the blocks are there and right.
    fn get(&self, runtime: &Runtime, references: &[Reference]) -> usize {
        match self {
            Store::Slots(disk) => disk.get_many(references).iter().flatten().count(),
            Store::Redb(database) => {
                let transaction = database.begin_read().expect("a database");
                let Ok(table) = transaction.open_table(TABLE) else { return 0 };
                let get = |reference: &Reference| table.get(&reference.as_bytes()[..]).expect("a database");
                let blocks: Vec<_> = references.iter().map(|reference| (reference, get(reference))).collect();
                let found: Vec<_> = blocks
                    .iter()
                    .filter_map(|(reference, block)| Some((**reference, block.as_ref()?.value())))
                    .collect();
                let hashes = references_of(&found.iter().map(|(_, block)| *block).collect::<Vec<_>>());
                // The caller gets a block of its own, as from the others.
                let right = found.iter().zip(hashes).filter(|((reference, _), hash)| reference == hash);
                right.map(|((_, block), _)| Block::copy_from_slice(block)).collect::<Vec<_>>().len()
            }
            Store::Other(store) => runtime.block_on(async {
                let answers = store.get_many(references.to_vec());
                answers.filter(|(_, answer)| std::future::ready(answer.is_ok())).count().await
            }),
        }
    }
}

fn blocks(numbers: std::ops::Range<u64>, length: usize) -> Vec<(Reference, Block)> {
    let block = |number: u64| {
        let mut bytes = vec![0; length];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Block::from(bytes)
    };
    let blocks: Vec<Block> = numbers.map(block).collect();
    let references = references_of(&blocks.iter().map(|block| &block[..]).collect::<Vec<_>>());
    references.into_iter().zip(blocks).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn throughput(runtime: &Runtime) {
    let blocks = blocks(0..BLOCKS, 32768);
    let references: Vec<_> = blocks.iter().map(|(reference, _)| *reference).collect();
    let mut figures = KINDS.map(|_| [(); 5].map(|()| Vec::new()));
    let mut lookups = Vec::new();
    for _ in 0..ROUNDS {
        for (kind, figures) in KINDS.iter().zip(&mut figures) {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let store = Store::open(kind, folder.path());
            let put = Stopwatch::start();
            blocks.chunks(PUT).for_each(|batch| store.put(runtime, batch));
            let written = put.read();
            store.sync(runtime);
            let synced = put.read();
            let get = Stopwatch::start();
            let found: usize = references.chunks(GET).map(|batch| store.get(runtime, batch)).sum();
            let read = get.read();
            assert_eq!(found, blocks.len(), "{kind}");
            if let Store::Slots(disk) = &store {
                let look = Stopwatch::start();
                assert!(references.iter().all(|reference| disk.contains(reference)));
                lookups.push(look.read().1 * 1e9 / BLOCKS as f64);
            }
            let seconds = [read.0, read.1, written.0, written.1, synced.0];
            for (values, seconds) in figures.iter_mut().zip(seconds) {
                values.push(BLOCKS as f64 * 32768.0 / 1e9 / seconds);
            }
        }
    }
    println!(
        "GB/s (times the slots)  verified read    by CPU time        write          by CPU time     write + sync"
    );
    let figures = figures.map(|figures| figures.map(median));
    for (kind, values) in KINDS.iter().zip(figures) {
        let parts = values
            .iter()
            .zip(figures[0])
            .map(|(value, slots)| format!("{value:8.2} ({:4.2})", value / slots));
        println!("{kind:22} {}", parts.collect::<Vec<_>>().join("  "));
    }
    println!("a lookup in the index of the slots: {:.0} ns of CPU time", median(lookups));
}

/// Seconds by the clock, and of the processor for all threads.
struct Stopwatch(Instant, f64);

impl Stopwatch {
    fn start() -> Self {
        Self(Instant::now(), cpu())
    }

    fn read(&self) -> (f64, f64) {
        (self.0.elapsed().as_secs_f64(), cpu() - self.1)
    }
}

fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn opening(runtime: &Runtime) {
    println!("\nopen with 2^20 blocks in it and read one, ms: median of {ROUNDS} (all)");
    for kind in KINDS.into_iter().filter(|kind| *kind != "dir") {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(kind, folder.path());
        let mut first = None;
        for start in (0..MILLION).step_by(4096) {
            let batch = blocks(start..start + 4096, 1024);
            first = first.or(Some(batch[0].0));
            store.put(runtime, &batch);
        }
        store.sync(runtime);
        drop(store);
        let first = first.expect("there are blocks");
        let times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let begun = Instant::now();
                let store = Store::open(kind, folder.path());
                assert_eq!(store.get(runtime, &[first]), 1, "{kind}");
                begun.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        println!("{kind:8} {:8.2}   {times:.2?}", median(times.clone()));
    }
}

/// Writes until it is killed.
fn victim(runtime: &Runtime, kind: &str, folder: &Path) {
    let blocks = blocks(0..BLOCKS, 32768);
    let store = Store::open(kind, folder);
    loop {
        for batch in blocks.chunks(PUT) {
            store.put(runtime, batch);
            println!("writing");
        }
    }
}

fn killing(runtime: &Runtime) {
    println!("\nkill -9 while writing, {ROUNDS} times: blocks left (all right), time to open and read one");
    let blocks = blocks(0..BLOCKS, 32768);
    let references: Vec<_> = blocks.iter().map(|(reference, _)| *reference).collect();
    for kind in KINDS {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut told = Vec::new();
        for round in 0..ROUNDS as u64 {
            let mut child = Command::new(env::current_exe().expect("it runs"))
                .env(VICTIM, format!("{kind} {}", folder.path().display()))
                .stdout(Stdio::piped())
                .spawn()
                .expect("a process");
            let mut words = BufReader::new(child.stdout.take().expect("it is piped"));
            // In the middle of a batch, and further on each time.
            assert!(words.by_ref().lines().nth(3 + 5 * round as usize).is_some_and(|line| line.is_ok()));
            thread::sleep(Duration::from_millis(1));
            child.kill().expect("it is running");
            child.wait().expect("it was killed");
            let begun = Instant::now();
            let store = Store::open(kind, folder.path());
            store.get(runtime, &references[..1]);
            let opened = begun.elapsed();
            let found: usize = references.chunks(GET).map(|batch| store.get(runtime, batch)).sum();
            store.put(runtime, &blocks[..PUT]);
            assert_eq!(store.get(runtime, &references[..PUT]), PUT, "{kind} is usable again");
            told.push(format!("{found} in {:.1} ms", opened.as_secs_f64() * 1e3));
        }
        println!("{kind:8} {}", told.join(", "));
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("threads");
    if let Ok(victim_of) = env::var(VICTIM) {
        let (kind, folder) = victim_of.split_once(' ').expect("a kind and a folder");
        return victim(&runtime, kind, &PathBuf::from(folder));
    }
    throughput(&runtime);
    killing(&runtime);
    opening(&runtime);
}
