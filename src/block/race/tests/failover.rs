//! Sources that die, fall silent, flap and come back.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_silent_first_source_costs_a_second_once_and_then_nothing() {
    let ([first, second], race) = far().await;
    first.is(Mood::Silent);
    let cost = get_all(&race, 0..100).await;
    assert!(cost <= Duration::from_millis(1300), "{cost:?}");
    // For ten minutes: probes go on, and nobody waits for them.
    for number in 0..600 {
        let begun = Instant::now();
        assert!(get(&race, number % 1000).await <= 11 * MS);
        tokio::time::sleep_until(begun + Duration::from_secs(1)).await;
    }
    let probes = first.asked();
    assert!(second.asked() >= 700 && (10..60).contains(&probes), "{probes} requests to the dead source");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_stumbles_is_asked_again_whoever_else_is_silent() {
    let ([first, second], race) = far().await;
    first.is(Mood::Silent);
    second.is(Mood::Hiccuping);
    for number in 0..5 {
        let cost = get(&race, number).await;
        assert!(cost <= Duration::from_secs(2), "{cost:?} for block {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_known_source_that_falls_silent_is_left_sooner() {
    let ([first, _second], race) = far().await;
    get_all(&race, 0..200).await;
    first.is(Mood::Silent);
    let cost = get_all(&race, 200..230).await;
    assert!(cost <= 600 * MS, "{cost:?}");
    assert_eq!(get(&race, 300).await, 10 * MS);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_its_turn_at_a_silent_source_moves_on_too() {
    let ([first, second], race) = far().await;
    first.is(Mood::Silent);
    let cost = get_all(&race, 0..1000).await;
    assert!(cost <= Duration::from_secs(2), "{cost:?}");
    assert_eq!(second.asked(), 1000);
    assert!(first.asked() <= 20, "only as many as its limit allowed");
}

#[tokio::test(start_paused = true)]
async fn a_single_silent_source_is_waited_for() {
    let ([only], race) = far().await;
    only.is(Mood::Silent);
    let waited = tokio::time::timeout(Duration::from_secs(25), race.get(&block(1).0)).await;
    assert!(waited.is_err(), "the carrier and the asker have deadlines");
    assert_eq!((only.asked(), race.sources()[0].state), (1, SourceState::Up));
}

#[tokio::test(start_paused = true)]
async fn a_refusing_first_source_costs_nothing() {
    let ([first, second], race) = far().await;
    first.is(Mood::Refusing);
    assert!(get_all(&race, 0..200).await <= 300 * MS);
    assert_eq!((race.sources()[0].state, second.asked()), (SourceState::CoolingDown, 200));
    assert!(race.sources()[0].last_error.as_deref().is_some_and(|error| error.contains("far:0")));
    assert!(first.asked() <= 20);
}

#[tokio::test(start_paused = true)]
async fn after_the_cool_down_one_request_finds_out_and_the_others_do_not_wait_for_it() {
    let ([first, second], race) = far().await;
    first.is(Mood::Refusing);
    get_all(&race, 0..50).await;
    first.asked();
    first.is(Mood::Well);
    first.takes(500 * MS);
    tokio::time::sleep(Duration::from_secs(1)).await;
    second.asked();
    assert!(get_all(&race, 50..100).await <= 60 * MS);
    assert_eq!((first.asked(), second.asked()), (1, 50));
    assert_eq!(race.sources()[0].state, SourceState::Probing);
    tokio::time::sleep(600 * MS).await;
    assert_eq!(race.sources()[0].state, SourceState::Up);
    first.takes(10 * MS);
    get(&race, 1).await;
    assert_eq!(first.asked(), 1, "the preferred source is asked again");
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_followed() {
    let ([first, second], race) = far().await;
    first.is(Mood::Busy(Some(Duration::from_secs(20))));
    assert_eq!(get(&race, 1).await, 20 * MS);
    first.is(Mood::Well);
    for number in 0..19 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(get(&race, number).await, 10 * MS);
    }
    assert_eq!((first.asked(), second.asked()), (1, 20));
    tokio::time::sleep(Duration::from_secs(2)).await;
    get(&race, 1).await;
    tokio::time::sleep(20 * MS).await;
    get(&race, 1).await;
    assert_eq!(first.asked(), 2, "the probe and what came after");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_flaps_costs_little_and_harms_nobody() {
    let ([first, second], race) = far().await;
    let mut worst = Duration::ZERO;
    let mut slow = 0;
    for number in 0..3000_u32 {
        let mood = [Mood::Well, Mood::Silent, Mood::Refusing][number as usize / 40 % 3];
        first.is(mood);
        let took = get(&race, number % 1000).await;
        worst = worst.max(took);
        slow += u32::from(took > 50 * MS);
        tokio::time::sleep(100 * MS).await;
    }
    assert!(worst <= Duration::from_millis(1020), "{worst:?}");
    // It falls silent 25 times, and costs one request each time at the most.
    assert!(slow <= 25, "{slow} of 3000");
    assert!(second.asked() > 1000);
}

#[tokio::test(start_paused = true)]
async fn one_block_that_never_comes_is_asked_of_the_next_source_although_the_first_answers_others() {
    let ([first, second], race) = far().await;
    first.straggles(10, Duration::from_secs(60));
    let begun = Instant::now();
    let mut stuck = std::pin::pin!(race.get_many(references(0..10)).collect::<Vec<_>>());
    // Others keep the source from looking silent.
    let others = async {
        loop {
            first.asked();
            get(&race, 500).await;
            tokio::time::sleep(50 * MS).await;
        }
    };
    let answers = tokio::select! {
        answers = &mut stuck => answers,
        () = others => unreachable!("it does not end"),
    };
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    assert!(begun.elapsed() <= Duration::from_millis(3200), "{:?}", begun.elapsed());
    assert_eq!((second.asked(), race.sources()[0].state), (1, SourceState::Up));
}
