//! Blocks a second through each carrier, checked, as `block::open` gives them.
//!
//! `cargo bench --bench block`. 8,192 blocks of 32 KiB (256 MiB) are put in batches of 256 and synced, then fetched in batches of
//! 256, three times; the best is printed, so the disk stores are read from the page cache. `http:` is loopback, HTTP/1.1, over a
//! server that keeps its blocks in memory. Last, all blocks are fetched over a line of 1 Gbit/s at 50 ms, twice, so that the
//! second time finds its connections open: over HTTP/1.1, and over HTTP/2 by TLS.

#[path = "../tests/support/n2r.rs"]
mod n2r;
#[path = "../tests/support/origin/mod.rs"]
mod origin;

use std::{
    env,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use erisfs::{
    block::{self, Block, BlockStore, Memory},
    eris::{Reference, references_of},
};
use futures::StreamExt as _;
use origin::{Link, Origin};

const BLOCKS: u64 = 8192;
const BATCH: usize = 256;

fn blocks() -> Vec<(Reference, Block)> {
    let block = |number: u64| {
        let mut bytes = vec![0; 32 * 1024];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Block::from(bytes)
    };
    let blocks: Vec<Block> = (0..BLOCKS).map(block).collect();
    let references = references_of(&blocks.iter().map(|block| &block[..]).collect::<Vec<_>>());
    references.into_iter().zip(blocks).collect()
}

async fn measure(store: &dyn BlockStore, blocks: &[(Reference, Block)]) {
    let begun = Instant::now();
    for batch in blocks.chunks(BATCH) {
        store.put_many(batch.to_vec()).await.expect("a writable store");
    }
    store.sync().await.expect("a store that syncs");
    let put = begun.elapsed();

    let mut get = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        for batch in blocks.chunks(BATCH) {
            let mut answers = store.get_many(batch.iter().map(|(reference, _)| *reference).collect());
            while let Some((_, answer)) = answers.next().await {
                answer.expect("a block that was put");
            }
        }
        get = get.min(begun.elapsed());
    }
    let begun = Instant::now();
    let singles = &blocks[..1024];
    for (reference, _) in singles {
        store.get(reference).await.expect("a block that was put");
    }
    let one = begun.elapsed() / singles.len() as u32;
    let rate = |time: Duration| blocks.len() as f64 / time.as_secs_f64();
    let gigabytes = |time: Duration| rate(time) * 32768.0 / 1e9;
    println!(
        "{:40} put+sync {:7.0}/s {:4.2} GB/s   get_many {:7.0}/s {:4.2} GB/s   get one {one:?}",
        store.name(),
        rate(put),
        gigabytes(put),
        rate(get),
        gigabytes(get),
    );
}

/// Set to the URL of the origin in the process that trusts its certificate.
const TRUSTED: &str = "BENCH_BLOCK_TRUSTED";

/// All blocks in one batch, through the carrier and the check.
async fn fetch_from_afar(url: &str, references: &[Reference]) {
    let store = block::open(url).expect("a good URL");
    for time in ["first", "second"] {
        let begun = Instant::now();
        let mut answers = store.get_many(references.to_vec());
        while let Some((_, answer)) = answers.next().await {
            answer.expect("a block that the origin has");
        }
        let rate = references.len() as f64 * 32768.0 / begun.elapsed().as_secs_f64();
        println!("{url:40} {time} time {:5.1} MB/s, {:3.0} % of the line", rate / 1e6, rate / 1.25e6);
    }
}

/// 1 Gbit/s at 50 ms.
async fn measure_from_afar(blocks: &[(Reference, Block)], references: &[Reference]) {
    let memory = Arc::new(Memory::new());
    memory.put_many(blocks.to_vec()).await.expect("memory takes blocks");
    let (_, link) = Link::ALL[2];
    let origin = Origin::start(memory.clone(), link);
    fetch_from_afar(&origin.url(), references).await;
    println!("(the origin saw {:?})", origin.seen());

    let origin = Origin::start_tls(memory, link);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let authority = folder.path().join("authority.pem");
    std::fs::write(&authority, origin.authority().expect("it has one")).expect("a writable file");
    let mut client = Command::new(env::current_exe().expect("this program has a path"));
    client.env("SSL_CERT_FILE", &authority).env(TRUSTED, origin.url());
    tokio::task::spawn_blocking(move || client.status()).await.expect("no panic").expect("it starts");
    println!("(the origin saw {:?})", origin.seen());
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let blocks = blocks();
    let references: Vec<_> = blocks.iter().map(|(reference, _)| *reference).collect();
    if let Ok(url) = env::var(TRUSTED) {
        return fetch_from_afar(&url, &references).await;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| folder.path().join(name).display().to_string();
    for url in
        ["memory:".to_owned(), format!("dir:{}", path("dir")), format!("sqlite:{}", path("blocks.sqlite"))]
    {
        measure(&*block::open(&url).expect("a good URL"), &blocks).await;
    }
    let server = n2r::Server::start(Arc::new(Memory::new()), None, None).await;
    let url = format!("http://{}/prefix/", server.address);
    measure(&*block::open(&url).expect("a good URL"), &blocks).await;
    println!(
        "(the server saw {} connections)",
        server.seen.connections.load(std::sync::atomic::Ordering::Relaxed)
    );
    measure_from_afar(&blocks, &references).await;
}
