//! Blocks a second through any carrier: `cargo bench --bench carriers -- [--seconds N] URL...`.
//!
//! New blocks are put, one at a time and then with 64 under way at any moment, synced, and fetched in the same two ways, each block
//! once; first blocks of 32 KiB, then of 1 KiB. Each measurement ends after N seconds (10) if it has not put or fetched all of its
//! blocks by then. A store that is read-only is asked for what the store named before it took: `ipfs://HOST:5001 ipfs+http://HOST:8080`.
//! Batches, which a database likes better, are measured by `--bench block`.

use std::{
    env,
    fmt::Display,
    process::exit,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use erisfs::{
    block::{self, Block, BlockStore, Error, Refusal},
    eris::{Reference, references_of},
};
use futures::{StreamExt as _, stream};

/// How many requests are under way, and how many blocks there are for them: so many that no fast store is done in a blink.
const FLIGHTS: [(usize, usize); 2] = [(1, 512), (64, 4096)];
/// The sizes of blocks, in bytes.
const SIZES: [usize; 2] = [32 << 10, 1 << 10];

type Blocks = Vec<(Reference, Block)>;

/// What a store has taken, by the size of the blocks and then by the number of requests under way.
type Taken = [[Vec<Reference>; 2]; 2];

/// `count` blocks that no store has: they begin with the time of day, and do not compress.
fn new_blocks(count: usize, size: usize) -> Blocks {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock that was set");
    let mut state = now.as_nanos() as u64;
    let mut word = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).to_le_bytes()
    };
    let mut block = || Block::from_iter((0..size / 8).flat_map(|_| word()));
    let blocks: Vec<Block> = (0..count).map(|_| block()).collect();
    let references = references_of(&blocks.iter().map(|block| &block[..]).collect::<Vec<_>>());
    references.into_iter().zip(blocks).collect()
}

/// What was done in the time, and the first of the failures.
struct Rate {
    done: Vec<Reference>,
    failed: usize,
    why: Option<Error>,
    took: Duration,
}

impl Rate {
    /// Does `work` for each block, `in_flight` at a time, until the time is over.
    async fn of<T, F>(blocks: Vec<T>, in_flight: usize, limit: Duration, work: impl Fn(T) -> F) -> Self
    where
        F: Future<Output = (Reference, Result<(), Error>)>,
    {
        let begun = Instant::now();
        let in_time = stream::iter(blocks).take_while(|_| std::future::ready(begun.elapsed() < limit));
        let mut answers = in_time.map(work).buffer_unordered(in_flight);
        let (mut done, mut failed, mut why) = (Vec::new(), 0, None);
        while let Some((reference, answer)) = answers.next().await {
            match answer {
                Ok(()) => done.push(reference),
                Err(error) => {
                    failed += 1;
                    why.get_or_insert(error);
                }
            }
        }
        Self { done, failed, why, took: begun.elapsed() }
    }

    fn print(&self, size: usize, what: &str, in_flight: usize) {
        let rate = self.done.len() as f64 / self.took.as_secs_f64();
        let megabytes = rate * size as f64 / 1e6;
        let of = format!("{} in {:.1?}", self.done.len(), self.took);
        print!(
            "  {:2} KiB  {what}, {in_flight:2} in flight  {rate:8.1}/s {megabytes:7.1} MB/s  ({of})",
            size >> 10
        );
        match &self.why {
            Some(why) => println!("  {} failed, the first: {why}", self.failed),
            None => println!(),
        }
    }
}

/// Whether the store says that nothing can be put there.
async fn is_read_only(store: &dyn BlockStore) -> bool {
    let (reference, block) = new_blocks(1, SIZES[0]).remove(0);
    matches!(store.put(&reference, block).await, Err(Error::Refused { reason: Refusal::ReadOnly, .. }))
}

async fn put(store: &dyn BlockStore, limit: Duration) -> Taken {
    let mut taken = Taken::default();
    for (size, taken) in SIZES.into_iter().zip(&mut taken) {
        for ((in_flight, count), taken) in FLIGHTS.into_iter().zip(taken) {
            let blocks = new_blocks(count, size);
            let put = |(reference, block)| async move { (reference, store.put(&reference, block).await) };
            let mut rate = Rate::of(blocks, in_flight, limit, put).await;
            let begun = Instant::now();
            if let Err(error) = store.sync().await {
                rate.why.get_or_insert(error);
            }
            rate.took += begun.elapsed();
            rate.print(size, "put", in_flight);
            *taken = rate.done;
        }
    }
    taken
}

async fn get(store: &dyn BlockStore, taken: &Taken, limit: Duration) {
    for (size, taken) in SIZES.into_iter().zip(taken) {
        for ((in_flight, _), references) in FLIGHTS.into_iter().zip(taken) {
            if references.is_empty() {
                continue;
            }
            let get = |reference| async move { (reference, store.get(&reference).await.map(drop)) };
            Rate::of(references.clone(), in_flight, limit, get).await.print(size, "get", in_flight);
        }
    }
}

/// How long it takes to say that there is no such block.
async fn miss(store: &dyn BlockStore) {
    let mut absent = new_blocks(2, SIZES[0]).into_iter().map(|(reference, _)| reference);
    let (first, second) = (absent.next().expect("two blocks"), absent.next().expect("two blocks"));
    let said = |answer: Result<&str, Error>| answer.map_or_else(|error| error.to_string(), str::to_owned);
    let begun = Instant::now();
    let answer = store.get(&first).await;
    println!("  missing  get {:.1?}: {}", begun.elapsed(), said(answer.map(|_| "it is there")));
    let begun = Instant::now();
    let answer = store.has(&second).await;
    let answer = answer.map(|has| if has { "it is there" } else { "it is not there" });
    println!("  missing  has {:.1?}: {}", begun.elapsed(), said(answer));
}

fn fail(why: impl Display) -> ! {
    eprintln!("{why}");
    exit(2)
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    // `cargo bench` adds an option of its own.
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut limit, mut stores) = (Duration::from_secs(10), Vec::<Arc<dyn BlockStore>>::new());
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            let seconds = arguments.next().and_then(|seconds| seconds.parse().ok());
            limit = Duration::from_secs(seconds.unwrap_or_else(|| fail("--seconds wants a number")));
        } else {
            stores.push(block::open(&argument).unwrap_or_else(|error| fail(error)));
        }
    }
    if stores.is_empty() {
        // Also what `cargo bench` without arguments and `cargo test --benches` run.
        return println!("usage: cargo bench --bench carriers -- [--seconds N] URL...");
    }
    let mut taken = Taken::default();
    for store in stores {
        println!("{}", store.name());
        if !is_read_only(&*store).await {
            taken = put(&*store, limit).await;
        }
        get(&*store, &taken, limit).await;
        miss(&*store).await;
    }
}
