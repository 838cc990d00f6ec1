//! Sources that go in the middle of everything, and come back.

use std::time::{Duration, Instant};

use erisfs::eris::BlockSize;

use crate::{
    SECOND,
    noise::noise,
    origin::{Fault, Link, Origin},
    reader::Reader,
    shelf::Shelf,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_gone_it_fails_in_time_and_when_one_is_back_it_works() {
    let shelf = Shelf::new();
    let contents = [0, 1, 2].map(|more| shelf.put(&noise(300_000 + more), BlockSize::Large));
    let origins = [0, 1].map(|_| Origin::start(shelf.blocks.clone(), Link::LOOPBACK));
    let reader = Reader::new(&[origins[0].url(), origins[1].url()]);
    assert!(reader.read(&contents[0], 30 * SECOND).await.expect("all is well") == noise(300_000));
    origins[0].break_with(Fault::Refused);
    origins[1].break_with(Fault::Silent);
    for _ in 0..2 {
        let begun = Instant::now();
        let error = reader.read(&contents[1], 2 * SECOND).await.expect_err("nobody has it");
        assert!(begun.elapsed() < 5 * SECOND, "{:?}: {error}", begun.elapsed());
        assert!(reader.read(&contents[0], SECOND).await.expect("it is in the cache") == noise(300_000));
    }
    origins[0].heal();
    assert!(reader.read_at_last(&contents[1]).await == noise(300_001));
    origins[1].heal();
    origins[0].break_with(Fault::Silent);
    assert!(reader.read_at_last(&contents[2]).await == noise(300_002));
}

/// While somebody reads, the preferred source goes and comes back, in a different way each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_does_not_notice_that_one_of_two_goes() {
    const LENGTH: usize = 2_000_000;
    let shelf = Shelf::new();
    let origins = [0, 1].map(|_| Origin::start(shelf.blocks.clone(), Link::new(5, Some(20_000_000))));
    let reader = Reader::new(&[origins[0].url(), origins[1].url()]);
    let faults = [
        Fault::Refused,
        Fault::Silent,
        Fault::Stalled,
        Fault::OtherBlock,
        Fault::Reset,
        Fault::Status(500),
        Fault::Flapping { up: SECOND / 10, down: SECOND / 10 },
    ];
    for (number, fault) in faults.into_iter().enumerate() {
        let content = shelf.put(&noise(LENGTH + number), BlockSize::Large);
        let begun = Instant::now();
        let (bytes, ()) = tokio::join!(reader.read(&content, 30 * SECOND), async {
            tokio::time::sleep(Duration::from_millis(40)).await;
            origins[0].break_with(fault);
        });
        assert!(bytes.expect("the other has it") == noise(LENGTH + number), "{fault:?}");
        println!("{fault:?}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < 5 * SECOND, "{fault:?}: {:?}", begun.elapsed());
        origins[0].heal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preferred_source_that_is_well_again_is_used_again() {
    let shelf = Shelf::new();
    let origins = [0, 1].map(|_| Origin::start(shelf.blocks.clone(), Link::LOOPBACK));
    let reader = Reader::new(&[origins[0].url(), origins[1].url()]);
    origins[0].break_with(Fault::Refused);
    let content = shelf.put(&noise(100_000), BlockSize::Large);
    reader.read(&content, 30 * SECOND).await.expect("the other has it");
    origins[0].heal();
    let end = Instant::now() + 120 * SECOND;
    for more in 1.. {
        let content = shelf.put(&noise(100_000 + more), BlockSize::Large);
        origins[0].seen();
        reader.read(&content, 30 * SECOND).await.expect("both have it");
        if origins[0].seen().requests >= 4 {
            break;
        }
        assert!(Instant::now() < end, "it is never asked again");
        tokio::time::sleep(SECOND / 10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_names_a_time_is_left_alone_until_then() {
    let shelf = Shelf::new();
    let content = shelf.put(&noise(300_000), BlockSize::Large);
    let origin = Origin::start(shelf.blocks.clone(), Link::LOOPBACK);
    let reader = Reader::new(&[origin.url()]);
    origin.break_with(Fault::Busy { retry_after: 3 * SECOND });
    let begun = Instant::now();
    reader.read(&content, SECOND).await.expect_err("it has no time");
    origin.heal();
    origin.seen();
    assert!(reader.read_at_last(&content).await == noise(300_000));
    assert!(begun.elapsed() > 2 * SECOND, "asked again after {:?}", begun.elapsed());
}
