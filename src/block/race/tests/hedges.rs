//! Late blocks are asked of the next source too, within the budget.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_late_block_comes_from_the_next_source_and_the_first_is_left() {
    let ([first, second], race) = far().await;
    get_all(&race, 0..400).await;
    first.takes(10_000 * MS);
    let cost = get(&race, 500).await;
    assert!(cost <= 40 * MS, "the p95 or 20 ms, and the other's latency: {cost:?}");
    assert_eq!(second.asked(), 1);
    let [one, other] = race.sources().try_into().expect("two sources");
    assert_eq!((one.hedges, other.hedges, other.hedges_won), (0, 1, 1));
    assert_eq!((one.in_flight, other.in_flight, first.in_flight()), (0, 0, 0), "the loser is cancelled");
}

#[tokio::test(start_paused = true)]
async fn hedges_stay_within_five_in_a_hundred_requests() {
    let ([first, second], race) = far().await;
    // One in eight is late, which is more than may be hedged.
    first.straggles(8, 300 * MS);
    for _ in 0..10 {
        get_all(&race, 0..1000).await;
    }
    let hedges = second.asked();
    assert!((100..=500).contains(&hedges), "{hedges} of 10000");
    assert_eq!(race.sources()[1].hedges, hedges as u64);
    assert_eq!(race.sources()[0].state, SourceState::Up);
}

#[tokio::test(start_paused = true)]
async fn rare_stragglers_no_longer_hold_up_a_batch() {
    let ([first, _second], race) = far().await;
    first.straggles(50, 400 * MS);
    get_all(&race, 0..1000).await;
    for _ in 0..20 {
        assert!(get_all(&race, 0..100).await <= 200 * MS);
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_source_is_never_asked_twice_for_being_late() {
    let ([only], race) = far().await;
    only.straggles(50, 400 * MS);
    get_all(&race, 0..1000).await;
    assert_eq!(only.asked(), 1000);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_onto_a_source_that_cools_down() {
    let ([first, second], race) = far().await;
    second.is(Mood::Refusing);
    first.is(Mood::Refusing);
    fail(&race, 0).await;
    first.is(Mood::Well);
    get_all(&race, 0..400).await;
    second.asked();
    first.straggles(20, 300 * MS);
    get_all(&race, 0..40).await;
    assert!(second.asked() <= 1, "a probe at the most");
    assert_eq!(race.sources()[1].hedges, 0);
}
