//! Servers of another store directory are left out.

use super::*;
use crate::store::guix;

#[tokio::test(start_paused = true)]
async fn the_first_server_that_states_a_store_directory_decides_and_others_are_left_out() {
    let silent = fake("says nothing").store_dir(None).with(&signed("a")).well();
    let guix = fake("guix").store_dir(Some(StoreDir::guix())).well();
    let nix = fake("nix").with(&signed("a")).well();
    let set = set(&[&silent, &guix, &nix]);
    assert_eq!(set.store_dir(soon()).await.unwrap(), StoreDir::guix());
    let states: Vec<_> = set.status().iter().map(|status| status.state).collect();
    assert_eq!(states, [ServerState::Up, ServerState::Up, ServerState::LeftOut]);
    let error = find(&set).await.unwrap_err();
    assert!(error.to_string().contains("a path in /nix/store, not in /gnu/store"), "{error}");
    assert_eq!((silent.asked(), nix.asked()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_directory_that_is_known_is_asked_of_nobody() {
    let guix = fake("guix").store_dir(Some(StoreDir::guix())).with(&signed("a")).well();
    let nix = fake("nix").with(&signed("a")).well();
    let set = set(&[&guix, &nix]);
    set.settle(StoreDir::nix());
    assert_eq!(timed(set.store_dir(soon())).await.1, 0);
    assert_eq!(
        timed(found_at(&set)).await,
        ("nix".to_owned(), 20),
        "what they say of themselves comes at the same time"
    );
    set.forget();
    assert_eq!(found_at(&set).await, "nix");
    assert_eq!((guix.asked(), nix.asked()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn where_nobody_states_one_the_keys_tell() {
    let silent = fake("says nothing").store_dir(None).well();
    assert_eq!(set(&[&silent]).store_dir(soon()).await.unwrap(), StoreDir::nix());
    let key: guix::PublicKey =
        include_str!("../../../../tests/samples/guix/signing-key.pub").parse().unwrap();
    let keys = TrustedKeys { nix: vec![], guix: vec![key] };
    let policy = Policy { keys, unsigned: Unsigned::Refuse };
    let set = Substituters::new(vec![silent], vec![], policy, SetSettings::default());
    assert_eq!(set.store_dir(soon()).await.unwrap(), StoreDir::guix());
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_before_one_that_states_a_directory_costs_a_short_wait() {
    let silent = fake("silent").mood(Mood::Silent);
    let nix = fake("nix").with(&signed("a")).well();
    let set = set(&[&silent, &nix]);
    let (store_dir, took) = timed(set.store_dir(soon())).await;
    assert_eq!((store_dir.unwrap(), took), (StoreDir::nix(), 320));
    assert_eq!(timed(found_at(&set)).await, ("nix".to_owned(), 20));
}

#[tokio::test(start_paused = true)]
async fn where_all_fail_the_error_names_them_and_the_next_one_asks_again() {
    let (a, b) = (fake("a").mood(Mood::Busy), fake("b").with(&signed("a")).mood(Mood::Silent));
    let set = set(&[&a, &b]);
    let error = set.store_dir(soon()).await.unwrap_err();
    assert!(matches!(&error, Error::NobodyAnswers { failures } if failures.len() == 2), "{error:?}");
    b.be(WELL);
    assert_eq!(found_at(&set).await, "b");
}

#[tokio::test(start_paused = true)]
async fn what_was_guessed_while_a_server_failed_is_not_kept() {
    let silent = fake("says nothing").store_dir(None).well();
    let guix = fake("guix").store_dir(Some(StoreDir::guix())).mood(Mood::Busy);
    let set = set(&[&silent, &guix]);
    assert_eq!(set.store_dir(soon()).await.unwrap(), StoreDir::nix());
    guix.be(WELL);
    assert_eq!(set.store_dir(soon()).await.unwrap(), StoreDir::guix());
    assert_eq!(set.status()[1].state, ServerState::Up);
}
