//! Blocks a second through each carrier, checked, as `block::open` gives them.
//!
//! `cargo bench --bench block`. 8,192 blocks of 32 KiB (256 MiB) are put in batches of 256 and synced, then fetched in batches of
//! 256, three times; the best is printed, so the disk stores are read from the page cache. `http:` is loopback, HTTP/1.1, over a
//! server that keeps its blocks in memory.

#[path = "../tests/support/n2r.rs"]
mod n2r;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use erisfs::{
    block::{self, Block, BlockStore, Memory},
    eris::{Reference, references_of},
};
use futures::StreamExt as _;

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

#[tokio::main(worker_threads = 2)]
async fn main() {
    let blocks = blocks();
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
}
