//! Whose answer is taken.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_narinfo_comes_byte_for_byte_from_the_server_that_has_it() {
    let (lacks, has) = (fake("lacks").well(), fake("has").with(&signed("a")).well());
    let set = set(&[&lacks, &has]);
    let found = find(&set).await.unwrap().unwrap();
    assert_eq!((found.server.name(), &*found.narinfo), ("has", &signed("a")));
    assert_eq!(found.standing, Standing::Hashed { signer: Some(Signer::Nix { name: "ours".to_owned() }) });
    assert_eq!((lacks.asked(), has.asked()), (1, 1), "both are asked");
}

#[tokio::test(start_paused = true)]
async fn the_lower_priority_number_wins_and_then_the_order_given() {
    let far = fake("far").priority(100).with(&signed("a")).well();
    let near = fake("near").priority(40).with(&signed("a")).well();
    let other = fake("other").priority(40).with(&signed("a")).well();
    assert_eq!(found_at(&set(&[&far, &near, &other])).await, "near");
    assert_eq!(found_at(&set(&[&far, &other, &near])).await, "other");
}

#[tokio::test(start_paused = true)]
async fn an_untrusted_answer_is_passed_over_for_a_trusted_one() {
    let liar = fake("liar").priority(1).with(&secret("theirs").sign_narinfo(&unsigned("a")).unwrap()).well();
    let honest = fake("honest").with(&signed("a")).well();
    let set = set(&[&liar, &honest]);
    assert_eq!(found_at(&set).await, "honest");
    let status = set.status();
    assert_eq!((status[0].refused, status[1].refused), (1, 0));
    assert!(status[0].last_error.as_ref().unwrap().contains("theirs"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn where_nobody_has_a_good_answer_the_error_says_who_has_a_bad_one_and_why() {
    let liar = fake("liar").with(&secret("theirs").sign_narinfo(&unsigned("a")).unwrap()).well();
    let lacks = fake("lacks").well();
    let denied = fake("denied").with(&signed("a")).mood(Mood::Denied);
    let error = find(&set(&[&liar, &lacks, &denied])).await.unwrap_err();
    let Error::NoGood { failures, .. } = &error else { panic!("{error:?}") };
    assert!(matches!(
        failures[..],
        [Error::Untrusted { ref source, .. }, Error::Refused { .. }] if matches!(**source, Refusal::Untrusted { .. })
    ));
    for words in [HASH, "liar", "theirs", "denied", "401"] {
        assert!(error.to_string().contains(words), "{words}: {error}");
    }
    assert!(!error.to_string().contains("lacks"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_narinfo_of_another_path_is_refused_whatever_is_believed() {
    let other: Narinfo =
        signed("a").as_str().replace(HASH, "v6aq93ycagivwjd24sdq6bk8mm0h4jj1").parse().unwrap();
    for unsigned in [Unsigned::Refuse, Unsigned::CheckHash, Unsigned::Believe] {
        let mixed_up = fake("mixed-up").with_at(hash_part(), &other).well();
        let error = find(&set_with(&[&mixed_up], &[], unsigned)).await.unwrap_err();
        let Error::NoGood { failures, .. } = &error else { panic!("{error:?}") };
        let Error::Untrusted { source, .. } = &failures[0] else { panic!("{error:?}") };
        assert!(matches!(**source, Refusal::OtherPath { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_still_preparing_is_asked_again_until_it_has_it() {
    let guix = fake("guix").with(&signed("a")).mood(Mood::Baking(Instant::now() + millis(6_000)));
    let lacks = fake("lacks").well();
    let (name, took) = timed(found_at(&set(&[&guix, &lacks]))).await;
    assert_eq!(name, "guix");
    assert!((6_000..=8_000).contains(&took), "{took}");
    assert!(guix.asked() <= 6, "asked {} times", guix.asked());
}

#[tokio::test(start_paused = true)]
async fn another_server_with_an_answer_is_not_held_up_by_one_that_prepares() {
    let guix =
        fake("guix").priority(1).with(&signed("a")).mood(Mood::Baking(Instant::now() + millis(60_000)));
    let other = fake("other").with(&signed("a")).well();
    let (name, took) = timed(found_at(&set(&[&guix, &other]))).await;
    assert_eq!((name.as_str(), took), ("other", 40), "20 ms for what they say of themselves, and 20 ms");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_the_wait_for_what_is_prepared_and_says_so() {
    let guix = fake("guix").with(&signed("a")).mood(Mood::Baking(Instant::now() + millis(60_000)));
    let set = set(&[&guix]);
    let (answer, took) = timed(set.find(hash_part(), Instant::now() + millis(5_000))).await;
    assert!(matches!(answer, Err(Error::Baking { .. })), "{answer:?}");
    assert_eq!(took, 5_000);
    let asked = guix.asked();
    sleep(millis(60_000)).await;
    assert_eq!(guix.asked(), asked, "nobody waits any more, so nobody asks");
    assert_eq!(found_at(&set).await, "guix");
}
