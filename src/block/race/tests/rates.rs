//! How much is in flight on links of a given latency and rate.

use super::*;

/// Reads large blocks in batches of 512 for a while; bytes a second, and the limit in the end.
async fn read(latency: Duration, rate: f64) -> (f64, usize, Arc<Far>) {
    let store = Arc::new(Far::new("far:", latency));
    store.shares(rate);
    let mut wanted = Vec::new();
    for number in 0..512_u32 {
        let mut bytes = vec![0; 32 * 1024];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        wanted.push(reference_of(&bytes));
        store.put(wanted.last().expect("one was pushed"), bytes.into()).await.expect("memory takes blocks");
    }
    let race = Race::new(vec![store.clone()]);
    let read = async || {
        assert_eq!(
            race.get_many(wanted.clone()).filter(|a| std::future::ready(a.1.is_ok())).count().await,
            512
        );
    };
    for _ in 0..3 {
        read().await;
    }
    store.most();
    let begun = Instant::now();
    for _ in 0..10 {
        read().await;
    }
    let bytes = 10.0 * 512.0 * 32.0 * 1024.0;
    (bytes / begun.elapsed().as_secs_f64(), race.concurrency(), store)
}

#[tokio::test(start_paused = true)]
async fn a_gigabit_at_50_ms_has_about_two_hundred_blocks_in_flight() {
    let (speed, limit, store) = read(50 * MS, 125e6).await;
    let most = store.most();
    assert!((150..=256).contains(&limit) && (150..=256).contains(&most), "{limit}, {most}");
    // Between two batches the line is idle for a round trip, a fourth of the time.
    assert!(speed > 0.65 * 125e6, "{speed}");
}

#[tokio::test(start_paused = true)]
async fn a_hundred_megabit_at_20_ms_has_twice_what_fills_it_at_the_most() {
    let (speed, limit, store) = read(20 * MS, 12.5e6).await;
    let most = store.most();
    assert!((8..=32).contains(&limit) && (8..=32).contains(&most), "{limit}, {most}");
    assert!(speed > 0.9 * 12.5e6, "{speed}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_is_asked_for_less_at_a_time() {
    let ([only], race) = far().await;
    get_all(&race, 0..1000).await;
    let before = race.concurrency();
    only.is(Mood::Busy(None));
    let _ = race.get_many(references(0..100)).collect::<Vec<_>>().await;
    assert!(race.concurrency() <= before / 2, "{before} before, {} after", race.concurrency());
}

#[tokio::test(start_paused = true)]
async fn two_readers_share_the_turns() {
    let ([only], race) = far().await;
    only.shares(1e6);
    let begun = Instant::now();
    let large = async {
        get_all(&race, 0..1000).await;
        begun.elapsed()
    };
    let small = async {
        tokio::time::sleep(100 * MS).await;
        get_all(&race, 0..5).await;
        begun.elapsed()
    };
    let (large, small) = tokio::join!(large, small);
    assert!(small < large / 2, "{small:?} of {large:?}");
}
