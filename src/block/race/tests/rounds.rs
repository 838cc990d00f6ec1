//! When nobody can give a block now: more rounds, but not for long.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_fails_everywhere_for_a_moment_is_had_a_moment_later() {
    let ([first, second], race) = far().await;
    first.is(Mood::Refusing);
    second.is(Mood::Refusing);
    let back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        second.is(Mood::Well);
    };
    let (cost, ()) = tokio::join!(get_all(&race, 0..50), back);
    assert!(cost <= Duration::from_secs(4), "{cost:?}");
}

#[tokio::test(start_paused = true)]
async fn rounds_end_after_six_seconds_with_every_reason() {
    let ([first, second], race) = far().await;
    first.is(Mood::Refusing);
    second.is(Mood::Refusing);
    let (cost, error) = fail(&race, 1).await;
    assert!((Duration::from_millis(500)..=Duration::from_secs(7)).contains(&cost), "{cost:?}");
    assert!(error.to_string().contains("far:0") && error.to_string().contains("far:1"), "{error}");
    assert!(error.is_transient());
    assert!((2..=6).contains(&first.asked()));
}

#[tokio::test(start_paused = true)]
async fn a_dead_network_answers_quickly_and_comes_back_at_once() {
    let ([first, second], race) = far().await;
    get_all(&race, 0..100).await;
    first.is(Mood::Refusing);
    second.is(Mood::Refusing);
    fail(&race, 100).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    first.asked();
    second.asked();
    for number in 0..10 {
        let (cost, error) = fail(&race, number).await;
        assert_eq!(cost, Duration::ZERO, "{error}");
        assert!(matches!(error, Error::AllFailed { .. }));
    }
    assert_eq!((first.asked(), second.asked()), (10, 10), "one attempt at each");
    second.is(Mood::Well);
    assert_eq!(get(&race, 1).await, 10 * MS);
    first.is(Mood::Well);
    tokio::time::sleep(Duration::from_secs(61)).await;
    get(&race, 2).await;
    tokio::time::sleep(20 * MS).await;
    first.asked();
    get(&race, 3).await;
    assert_eq!(first.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_network_is_given_up_within_seconds_once_it_is_known_to_be_dead() {
    let ([first, second], race) = far().await;
    for store in [&first, &second] {
        store.is(Mood::TimingOut(Duration::from_secs(10)));
    }
    fail(&race, 1).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    let (cost, error) = fail(&race, 2).await;
    assert!(cost <= Duration::from_secs(6), "{cost:?}: {error}");
    let begun = Instant::now();
    let answers: Vec<_> = race.get_many(references(0..200)).collect().await;
    assert!(answers.len() == 200 && answers.iter().all(|(_, answer)| answer.is_err()));
    assert!(begun.elapsed() <= Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(race.sources().iter().all(|source| source.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn a_single_source_that_asks_for_time_gets_it() {
    let ([only], race) = far().await;
    only.is(Mood::Busy(Some(Duration::from_secs(2))));
    let back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        only.is(Mood::Well);
    };
    let (cost, ()) = tokio::join!(get_all(&race, 0..100), back);
    assert!((Duration::from_secs(2)..Duration::from_secs(5)).contains(&cost), "{cost:?}");
    only.is(Mood::Busy(Some(Duration::from_secs(100))));
    let (cost, _) = fail(&race, 1).await;
    assert!(cost <= 20 * MS, "too long to wait for: {cost:?}");
    only.asked();
    let (cost, error) = fail(&race, 2).await;
    assert!(cost == Duration::ZERO && only.asked() == 0, "it is left alone");
    assert!(error.to_string().contains(&block(2).0.to_string()), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_block_that_came_wrong_is_asked_for_once_more() {
    let (store, fault) = near(0..10).await;
    let race = Race::new(vec![store]);
    fault.set(block(1).0, Faulty::Corrupt);
    fail(&race, 1).await;
    assert_eq!(race.sources()[0].asked, 2);
    let healed = async {
        tokio::time::sleep(10 * MS).await;
        fault.clear();
    };
    let (cost, ()) = tokio::join!(get(&race, 1), healed);
    assert!(cost <= 200 * MS, "{cost:?}");
}

#[tokio::test(start_paused = true)]
async fn an_absent_block_is_absent_at_once() {
    let (_, race): ([_; 2], _) = far().await;
    let (cost, error) = fail(&race, 5000).await;
    assert!(matches!(error, Error::NotFound { .. }) && cost == 20 * MS, "{cost:?} {error}");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_sometimes_busy_is_worth_more_than_one_attempt() {
    let (store, fault) = near(0..1000).await;
    let race = Race::new(vec![store]);
    for number in 0..300 {
        if number % 3 == 0 {
            fault.set_all(Faulty::Unavailable);
        }
        let well_again = async {
            tokio::time::sleep(50 * MS).await;
            fault.clear();
        };
        tokio::join!(get(&race, number), well_again);
    }
}
