//! The origin itself: a link that is said to be slow is that slow, and faults come and go.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use erisfs::{
    block::{Block, BlockStore, Http, Memory, Patience},
    eris::{Reference, reference_of},
    http::Access,
};
use futures::{StreamExt as _, stream};

use crate::origin::{Fault, Link, Origin};

/// A memory store with so many blocks of 32 KiB.
async fn blocks(count: u32) -> (Arc<Memory>, Vec<Reference>) {
    let memory = Memory::new();
    let mut references = Vec::new();
    for number in 0..count {
        let mut bytes = vec![0; 32 << 10];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        let reference = reference_of(&bytes);
        memory.put(&reference, Block::from(bytes)).await.expect("memory takes blocks");
        references.push(reference);
    }
    (Arc::new(memory), references)
}

fn client(origin: &Origin) -> Http {
    Http::new(&origin.url(), Patience::default(), &Access::default()).expect("a good URL")
}

/// Fetches all blocks, so many at a time; gives the time it took.
async fn fetch(store: &dyn BlockStore, references: &[Reference], at_a_time: usize) -> Duration {
    let begun = Instant::now();
    let mut answers = stream::iter(references.to_vec())
        .map(|reference| async move { store.get(&reference).await })
        .buffer_unordered(at_a_time);
    while let Some(answer) = answers.next().await {
        answer.expect("a block that the origin has");
    }
    begun.elapsed()
}

/// No link is faster than it is said to be, and on a machine that is not busy it is hardly slower. The lower bounds are sharp; the upper
/// ones are for a machine that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_has_its_latency_and_its_bandwidth() {
    let (memory, references) = blocks(256).await;
    for (name, link) in Link::ALL {
        let origin = Origin::start(memory.clone(), link);
        let http = client(&origin);
        fetch(&http, &references[..1], 1).await;
        let one = fetch(&http, &references[1..5], 1).await / 4;
        let line = |blocks: u32| {
            Duration::from_secs_f64(link.bandwidth.map_or(0.0, |rate| f64::from(blocks << 15) / rate as f64))
        };
        let alone = link.latency + line(1);
        let many = fetch(&http, &references, 32).await;
        let together = line(256).max(link.latency * 256 / 32);
        println!("{name}: one block {one:?} ({alone:?}), 256 blocks {many:?} ({together:?})");
        let slack = Duration::from_millis(4);
        // A connection that is new costs a second round trip.
        assert!(one + slack >= alone && one < 3 * alone + Duration::from_secs(1), "{name}: {one:?}");
        assert!(many + slack >= together && many < 3 * together + Duration::from_secs(3), "{name}: {many:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_do_not_make_more_bandwidth() {
    let (memory, references) = blocks(128).await;
    let link = Link::new(0, Some(20_000_000));
    let origin = Origin::start(memory, link);
    let line = Duration::from_secs_f64((128 << 15) as f64 / 20e6);
    for at_a_time in [1, 4, 64] {
        let took = fetch(&client(&origin), &references, at_a_time).await;
        println!("{at_a_time} at a time: {took:?} ({line:?})");
        assert!(took + Duration::from_millis(8) >= line, "{at_a_time}: {took:?}");
        assert_eq!(origin.seen().bytes, 128 << 15);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_connections_are_counted() {
    let (memory, references) = blocks(20).await;
    let origin = Origin::start(memory, Link::LOOPBACK);
    let http = client(&origin);
    fetch(&http, &references, 1).await;
    let seen = origin.seen();
    assert_eq!((seen.requests, seen.bytes), (20, 20 << 15));
    // The next request may be made before the connection of the last one is back.
    assert!((1..20).contains(&seen.connections) && seen.most <= 2, "{seen:?}");
    assert_eq!((origin.seen().requests, origin.seen().bytes), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_free_after_the_origin_and_its_own_during_a_fault() {
    let (memory, references) = blocks(1).await;
    let origin = Origin::start(memory, Link::LOOPBACK);
    let address = origin.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    for _ in 0..3 {
        origin.break_with(Fault::Refused);
        assert!(std::net::TcpStream::connect(&address).is_err());
        assert!(std::net::TcpListener::bind(&address).is_err());
        origin.heal();
        fetch(&client(&origin), &references, 1).await;
    }
    drop(origin);
    std::net::TcpListener::bind(&address).expect("the port is free");
}
