//! What neighbours cannot do to those who use other servers, too.

use super::Role::{Neighbour, Server as Named};
use super::*;

fn guix() -> Option<StoreDir> {
    Some(StoreDir::guix())
}

fn states(set: &Substituters) -> Vec<ServerState> {
    set.status().iter().map(|status| status.state).collect()
}

fn trusting_nobody() -> Policy {
    Policy { keys: TrustedKeys::default(), unsigned: Unsigned::Believe }
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_does_not_decide_on_the_store_directory() {
    let hostile = fake("hostile").store_dir(guix()).well();
    for own_first in [false, true] {
        let own = fake("own").with(&signed("a")).mood(Mood::After(millis(900)));
        let mut servers = [(Neighbour, &hostile), (Named, &own)];
        if own_first {
            servers.reverse();
        }
        let set = set_among(&servers, policy(Unsigned::Refuse));
        assert_eq!(set.store_dir(soon()).await.unwrap(), StoreDir::nix());
        assert!(set.is_settled());
        assert_eq!(found_at(&set).await, "own");
        let left_out: Vec<_> = states(&set).iter().map(|state| *state == ServerState::LeftOut).collect();
        assert_eq!(left_out, [!own_first, own_first]);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_likely_while_only_neighbours_answer_is_not_kept() {
    let near = fake("near").with(&signed("a")).well();
    let own = fake("own").store_dir(guix()).mood(Mood::Silent);
    let set = set_among(&[(Neighbour, &near), (Named, &own)], policy(Unsigned::Refuse));
    let (store_dir, took) = timed(set.store_dir(soon())).await;
    assert_eq!((store_dir.unwrap(), took), (StoreDir::nix(), 2_000), "the keys tell");
    assert!(!set.is_settled());
    let (found, took) = timed(found_at(&set)).await;
    assert_eq!((found.as_str(), took), ("near", 20), "it is waited for once");
    own.be(WELL);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(set.store_dir(soon()).await.unwrap(), StoreDir::guix());
    assert!(set.is_settled());
    assert_eq!(states(&set)[0], ServerState::LeftOut);
}

#[tokio::test(start_paused = true)]
async fn where_the_line_to_the_outside_is_cut_neighbours_are_asked() {
    let near = fake("near").with(&signed("a")).well();
    let own = fake("own").mood(Mood::Busy);
    let set = set_among(&[(Neighbour, &near), (Named, &own)], policy(Unsigned::Refuse));
    assert_eq!(found_at(&set).await, "near");
}

#[tokio::test(start_paused = true)]
async fn where_neighbours_are_alone_the_keys_tell_and_else_most_of_them() {
    let (a, b, c) =
        (fake("a").well(), fake("b").store_dir(guix()).well(), fake("c").store_dir(guix()).well());
    let servers = [(Neighbour, &a), (Neighbour, &b), (Neighbour, &c)];
    let by_keys = set_among(&servers, policy(Unsigned::Refuse));
    assert!(by_keys.are_neighbours_alone());
    assert_eq!(by_keys.store_dir(soon()).await.unwrap(), StoreDir::nix());
    let by_most = set_among(&servers, trusting_nobody());
    assert_eq!(by_most.store_dir(soon()).await.unwrap(), StoreDir::guix());
    assert_eq!(states(&by_most), [ServerState::LeftOut, ServerState::Up, ServerState::Up]);
    by_most.settle(StoreDir::nix());
    assert_eq!(by_most.store_dir(soon()).await.unwrap(), StoreDir::nix(), "catalogs tell better");
    assert_eq!(states(&by_most), [ServerState::Up, ServerState::LeftOut, ServerState::LeftOut]);
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_does_not_keep_a_path_from_being_absent() {
    let forged = secret("theirs").sign_narinfo(&unsigned("a")).unwrap();
    let never = Instant::now() + Duration::from_secs(86_400);
    for (near, most) in [
        (fake("forges").with(&forged).well(), 20),
        (fake("denies").mood(Mood::Denied), 20),
        (fake("fails").mood(Mood::Busy), 20),
        (fake("prepares").mood(Mood::Baking(never)), 20),
        (fake("keeps waiting").mood(Mood::After(millis(4_900))), 320),
        (fake("is silent").mood(Mood::Silent), 320),
    ] {
        let own = fake("own").well();
        let set = set_among(&[(Neighbour, &near), (Named, &own)], policy(Unsigned::Refuse));
        set.store_dir(soon()).await.unwrap();
        let (answer, took) = timed(find(&set)).await;
        assert!(answer.unwrap().is_none(), "{}", near.name);
        assert_eq!(took, most, "{}", near.name);
        find(&set).await.unwrap();
        assert_eq!(own.asked(), 1, "that it is absent is remembered: {}", near.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_that_was_late_is_not_waited_for_by_who_hears_that_a_path_is_absent() {
    let (near, own) = (fake("near").mood(Mood::After(millis(4_900))), fake("own").well());
    let set = set_among(&[(Neighbour, &near), (Named, &own)], policy(Unsigned::Refuse));
    find(&set).await.unwrap();
    set.forget();
    let (answer, took) = timed(find(&set)).await;
    assert!(answer.unwrap().is_none());
    assert_eq!(took, 20);
}

#[tokio::test(start_paused = true)]
async fn a_neighbour_whose_narinfos_are_refused_again_and_again_is_left_alone_but_for_its_nars() {
    let forged = secret("theirs").sign_narinfo(&unsigned("a")).unwrap();
    let (near, own) = (fake("near").with(&forged).well(), fake("own").with(&signed("a")).well());
    let set = set_among(&[(Neighbour, &near), (Named, &own)], policy(Unsigned::Refuse));
    for _ in 0..10 {
        assert_eq!(found_at(&set).await, "own");
        set.forget();
    }
    assert_eq!(near.asked(), 3);
    assert_eq!(states(&set)[0], ServerState::Down);
    let offers = set.offers(hash_part(), signed("a").nar_hash(), signed("a").nar_size(), soon()).await;
    assert_eq!(offers.len(), 2, "what comes is hashed");
    sleep(Duration::from_secs(60)).await;
    set.forget();
    found_at(&set).await;
    assert_eq!(near.asked(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_a_neighbour_says_of_its_priority_does_not_count() {
    let near = fake("near").priority(0).with(&signed("a")).well();
    let (good, bad) =
        (fake("good").priority(10).with(&signed("a")), fake("bad").priority(90).with(&signed("a")));
    let (good, bad) = (good.well(), bad.well());
    for (order, ranked) in [
        ([(Neighbour, &near), (Named, &bad), (Named, &good)], ["near", "good", "bad"]),
        ([(Named, &good), (Neighbour, &near), (Named, &bad)], ["good", "near", "bad"]),
        ([(Named, &bad), (Neighbour, &near), (Named, &good)], ["good", "bad", "near"]),
        ([(Named, &good), (Named, &bad), (Neighbour, &near)], ["good", "bad", "near"]),
    ] {
        let set = set_among(&order, policy(Unsigned::Refuse));
        assert_eq!(found_at(&set).await, ranked[0]);
        let names: Vec<_> = set.set.ranked().iter().map(|server| server.place.name().to_owned()).collect();
        assert_eq!(names, ranked);
        assert!(set.status().iter().any(|status| status.name == "near" && status.priority.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_neighbours_that_say_they_have_a_nar_two_stand_before_servers() {
    let two_files = signed("a").with_line("URL", "nar/b").unwrap().with_line("Compression", "none").unwrap();
    let near: Vec<_> = (0..4).map(|n| fake(&format!("near-{n}")).with(&two_files).well()).collect();
    let own = fake("own").with(&signed("a")).well();
    let mut servers: Vec<_> = near.iter().map(|near| (Neighbour, near)).collect();
    servers.push((Named, &own));
    let set = set_among(&servers, policy(Unsigned::Refuse));
    let offers = set.offers(hash_part(), signed("a").nar_hash(), signed("a").nar_size(), soon()).await;
    let names: Vec<_> = offers.iter().map(|offer| offer.server.name()).collect();
    let behind = ["near-0", "near-1", "near-2", "near-2", "near-3", "near-3"];
    assert_eq!(names[..3], ["near-0", "near-1", "own"]);
    assert_eq!(names[3..], behind);
    assert!(offers.iter().all(|offer| offer.is_neighbour == (offer.server.name() != "own")));
}
