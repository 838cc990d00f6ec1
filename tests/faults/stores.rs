//! One source in trouble, alone and before a good one.

use std::time::{Duration, Instant};

use erisfs::eris::BlockSize;

use crate::{
    SECOND,
    noise::noise,
    origin::{Link, Origin},
    reader::Reader,
    shelf::Shelf,
    trouble::{Source, Trouble},
};

/// Ten leaves and a node.
const LENGTH: usize = 300_000;
/// How much later than asked for things may happen on a crowded machine.
const SLACK: Duration = Duration::from_secs(3);

/// The right bytes or an error within the deadline; the right bytes once it is well; and those are what memory and disk keep.
#[tokio::main(worker_threads = 2)]
pub async fn alone_it_ends_in_time_and_leaves_nothing_wrong(trouble: Trouble) {
    let shelf = Shelf::new();
    let content = shelf.put(&noise(LENGTH), BlockSize::Large);
    let source = Source::new(shelf.blocks.clone(), trouble);
    source.fall_ill();
    let mut reader = Reader::new(&[source.url()]);
    let begun = Instant::now();
    match reader.read(&content, SECOND).await {
        Ok(bytes) => assert!(source.may_answer() && bytes == noise(LENGTH)),
        Err(error) => println!("{error}"),
    }
    assert!(begun.elapsed() < SECOND + SLACK, "{:?}", begun.elapsed());
    if !source.is_curable() {
        return;
    }
    source.heal();
    assert!(reader.read_at_last(&content).await == noise(LENGTH));
    source.leave();
    source.was_asked();
    assert!(reader.read(&content, 30 * SECOND).await.expect("it is in memory") == noise(LENGTH));
    reader.restarted().await;
    assert!(reader.read(&content, 30 * SECOND).await.expect("it is on disk") == noise(LENGTH));
    assert_eq!(source.was_asked(), 0);
}

/// The bytes come from the good one: soon the first time, and at once from then on.
#[tokio::main(worker_threads = 2)]
pub async fn before_a_good_source_it_costs_little_once(trouble: Trouble) {
    let shelf = Shelf::new();
    let contents = [0, 1, 2].map(|more| shelf.put(&noise(LENGTH + more), BlockSize::Large));
    let (source, good) =
        (Source::new(shelf.blocks.clone(), trouble), Origin::start(shelf.blocks.clone(), Link::LOOPBACK));
    source.fall_ill();
    let reader = Reader::new(&[source.url(), good.url()]);
    let mut took = Vec::new();
    for (more, content) in contents.iter().enumerate() {
        source.was_asked();
        let begun = Instant::now();
        let bytes = reader.read(content, 30 * SECOND).await;
        assert!(bytes.expect("the good source has it") == noise(LENGTH + more));
        took.push(begun.elapsed());
        if more > 0 && source.is_dead() {
            // One of them finds out whether it is well again.
            let asked = source.was_asked();
            assert!(asked <= 1, "asked {asked} times after {took:?}");
        }
    }
    println!("{took:?}");
    // 1 s is what it may cost; the rest is for the machine.
    assert!(took[0] < SECOND + SLACK, "{took:?}");
    assert!(took[1] < SECOND / 2 + SLACK && took[2] < SECOND / 2 + SLACK, "{took:?}");
}
