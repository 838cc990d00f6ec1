//! Who is waited for, and how long.

use super::*;

/// What asking all servers once for what they say of themselves takes.
const INFO: u128 = 20;

#[tokio::test(start_paused = true)]
async fn a_better_server_is_waited_for_a_short_time_only() {
    for (delay, name, took) in [(200, "better", 200), (1_000, "worse", 20 + 300)] {
        let better = fake("better").priority(1).with(&signed("a")).well();
        let worse = fake("worse").with(&signed("a")).well();
        let set = set(&[&worse, &better]);
        set.store_dir(soon()).await.unwrap();
        better.be(Mood::After(millis(delay)));
        let (answered, time) = timed(found_at(&set)).await;
        assert_eq!((answered.as_str(), time), (name, took));
    }
}

#[tokio::test(start_paused = true)]
async fn a_worse_server_is_not_waited_for() {
    let worse = fake("worse").priority(100).with(&signed("a")).well();
    let better = fake("better").with(&signed("a")).well();
    let set = set(&[&worse, &better]);
    set.store_dir(soon()).await.unwrap();
    worse.be(Mood::Silent);
    assert_eq!(timed(found_at(&set)).await, ("better".to_owned(), 20));
}

#[tokio::test(start_paused = true)]
async fn a_better_server_that_was_late_is_not_waited_for_again() {
    let better = fake("better").priority(1).with(&signed("a")).well();
    let worse = fake("worse").with(&signed("a")).well();
    let set = set(&[&better, &worse]);
    set.store_dir(soon()).await.unwrap();
    better.be(Mood::Silent);
    assert_eq!(timed(found_at(&set)).await.1, 320);
    assert_eq!(set.status()[0].state, ServerState::Late);
    set.forget();
    assert_eq!(timed(found_at(&set)).await, ("worse".to_owned(), 20));
    assert_eq!(better.asked(), 2, "it is asked all the same");
}

#[tokio::test(start_paused = true)]
async fn a_late_server_that_alone_has_the_path_is_waited_for() {
    let slow = fake("slow").priority(1).with(&signed("a")).well();
    let quick = fake("quick").with(&signed("a")).well();
    let set = set(&[&slow, &quick]);
    set.store_dir(soon()).await.unwrap();
    slow.be(Mood::After(millis(2_000)));
    assert_eq!(found_at(&set).await, "quick");
    assert_eq!(set.status()[0].state, ServerState::Late);
    quick.narinfos.lock().unwrap().clear();
    set.forget();
    assert_eq!(timed(found_at(&set)).await, ("slow".to_owned(), 2_000));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_costs_one_bounded_delay_where_nobody_has_the_path() {
    let silent = fake("silent").well();
    let lacks = fake("lacks").well();
    let set = set(&[&silent, &lacks]);
    set.store_dir(soon()).await.unwrap();
    silent.be(Mood::Silent);
    let (answer, took) = timed(find(&set)).await;
    assert!(matches!(answer, Err(Error::NoGood { .. })), "whether it has the path is not known: {answer:?}");
    assert_eq!(took, 10_000);
    for _ in 0..5 {
        set.forget();
        let (answer, took) = timed(find(&set)).await;
        assert!(answer.unwrap().is_none());
        assert!(took <= 320, "{took}");
        sleep(millis(15_000)).await;
    }
    assert_eq!(set.status()[0].state, ServerState::Down);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_came_back_is_found_out_beside_the_others() {
    let down = fake("down").priority(1).with(&signed("a")).well();
    let other = fake("other").with(&signed("a")).well();
    let set = set(&[&down, &other]);
    set.store_dir(soon()).await.unwrap();
    down.be(Mood::Busy);
    assert_eq!(found_at(&set).await, "other");
    assert_eq!(set.status()[0].state, ServerState::Down);
    down.be(Mood::After(millis(2_000)));
    sleep(millis(1_000)).await;
    set.forget();
    assert_eq!(timed(found_at(&set)).await, ("other".to_owned(), 20), "nobody waits for it");
    sleep(millis(2_000)).await;
    assert_eq!(set.status()[0].state, ServerState::Up, "the request that found out went on");
    down.be(WELL);
    set.forget();
    assert_eq!(found_at(&set).await, "down");
}

#[tokio::test(start_paused = true)]
async fn servers_that_are_all_down_are_asked_since_there_is_nobody_else() {
    let down = fake("down").with(&signed("a")).well();
    let set = set(&[&down]);
    set.store_dir(soon()).await.unwrap();
    down.be(Mood::Busy);
    assert!(find(&set).await.is_err());
    assert!(find(&set).await.unwrap_err().is_transient());
    down.be(WELL);
    assert_eq!(found_at(&set).await, "down");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_whoever_asks_holds() {
    let slow = fake("slow").with(&signed("a")).mood(Mood::After(millis(5_000)));
    let set = set(&[&slow]);
    let (answer, took) = timed(set.find(hash_part(), Instant::now() + millis(1_000))).await;
    assert!(matches!(answer, Err(Error::NoStoreDir { .. })), "{answer:?}");
    assert_eq!(took, 1_000);
    set.store_dir(soon()).await.unwrap();
    let (answer, took) = timed(set.find(hash_part(), Instant::now() + millis(1_000))).await;
    assert!(matches!(&answer, Err(Error::Late { servers, .. }) if servers[..] == ["slow"]), "{answer:?}");
    assert_eq!(took, 1_000);
    assert_eq!(timed(found_at(&set)).await.1, 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_first_answer_costs_one_round_trip_for_all_servers_together() {
    let fakes: Vec<_> = (0..5).map(|n| fake(&n.to_string()).with(&signed("a")).well()).collect();
    let set = set(&fakes.iter().collect::<Vec<_>>());
    assert_eq!(timed(found_at(&set)).await.1, INFO + 20);
}
