//! Narinfos from one place, ERIS contents from another.

use super::*;

fn urns(contents: &[ErisBinding]) -> Vec<&str> {
    contents.iter().map(|content| content.urn.as_str()).collect()
}

async fn over(overlays: &[&Arc<Fake>], unsigned: Unsigned) -> (Arc<Found>, u128) {
    let server = fake("server").with(&signed("a")).well();
    let set = set_with(&[&server], overlays, unsigned);
    set.store_dir(soon()).await.unwrap();
    let (found, took) = timed(find(&set)).await;
    let found = found.unwrap().unwrap();
    assert_eq!(
        (found.server.name(), &*found.narinfo),
        ("server", &signed("a")),
        "the server's answer stays as it is"
    );
    (found, took)
}

#[tokio::test(start_paused = true)]
async fn a_content_that_a_trusted_key_bound_is_added_to_be_read_lazily() {
    let overlay = fake("overlay").with(&with_content("a", "urn:eris:A", &ours())).well();
    let (found, _) = over(&[&overlay], Unsigned::Refuse).await;
    assert_eq!(found.standing, Standing::Bound { signer: Some(Signer::Nix { name: "ours".to_owned() }) });
    assert_eq!((urns(&found.bound), urns(&found.unbound)), (vec!["urn:eris:A"], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_content_that_nobody_trusted_bound_is_added_to_be_hashed_whole() {
    for narinfo in [
        with_content("a", "urn:eris:A", &secret("theirs")),
        signed("a").with_line("ERIS", "urn:eris:A").unwrap(),
        unsigned("a").with_line("ERIS", "urn:eris:A").unwrap(),
    ] {
        let overlay = fake("overlay").with(&narinfo).well();
        let (found, _) = over(&[&overlay], Unsigned::Refuse).await;
        assert!(matches!(found.standing, Standing::Hashed { signer: Some(_) }));
        assert_eq!((urns(&found.bound), urns(&found.unbound)), (vec![], vec!["urn:eris:A"]));
        let (found, _) = over(&[&overlay], Unsigned::Believe).await;
        assert_eq!(found.standing, Standing::Bound { signer: None });
        assert_eq!((urns(&found.bound), urns(&found.unbound)), (vec!["urn:eris:A"], vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn contents_of_several_overlays_come_in_order_and_once() {
    let first = fake("first").with(&with_content("a", "urn:eris:A", &secret("theirs"))).well();
    let second = fake("second").with(&with_content("a", "urn:eris:B", &ours())).well();
    let third = fake("third").with(&with_content("a", "urn:eris:A", &ours())).well();
    let (found, _) = over(&[&first, &second, &third], Unsigned::Refuse).await;
    assert_eq!((urns(&found.bound), urns(&found.unbound)), (vec!["urn:eris:B", "urn:eris:A"], vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_overlay_that_speaks_of_something_else_adds_nothing() {
    let content = with_content("a", "urn:eris:A", &ours());
    let other_name = with_content("b", "urn:eris:A", &ours());
    let other_nar = content.with_field("NarHash", &NarHash::of(b"another").to_string()).unwrap();
    let other_size = content.with_field("NarSize", "121").unwrap();
    let other_path: Narinfo =
        content.as_str().replace(HASH, "v6aq93ycagivwjd24sdq6bk8mm0h4jj1").parse().unwrap();
    let other_dir: Narinfo = content.as_str().replace("/nix/store", "/gnu/store").parse().unwrap();
    for narinfo in [other_name, other_nar, other_size, other_path, other_dir] {
        let overlay = fake("overlay").with_at(hash_part(), &narinfo).well();
        let (found, _) = over(&[&overlay], Unsigned::Believe).await;
        assert_eq!((urns(&found.bound), urns(&found.unbound)), (vec![], vec![]), "{narinfo}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_overlay_prevents_the_answer_of_a_server() {
    for (mood, most) in [(Mood::Busy, 20), (Mood::Denied, 20), (Mood::Silent, 1_020)] {
        let overlay = fake("overlay").with(&with_content("a", "urn:eris:A", &ours())).mood(mood);
        let (found, took) = over(&[&overlay], Unsigned::Refuse).await;
        assert!(matches!(found.standing, Standing::Hashed { signer: Some(_) }));
        assert!(took <= most, "{mood:?}: {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_overlay_costs_one_wait_and_is_asked_again_soon() {
    let server = fake("server").with(&signed("a")).well();
    let overlay = fake("overlay").with(&with_content("a", "urn:eris:A", &ours())).mood(Mood::Silent);
    let set = set_with(&[&server], &[&overlay], Unsigned::Refuse);
    set.store_dir(soon()).await.unwrap();
    assert_eq!(timed(found_at(&set)).await.1, 1_020);
    set.forget();
    assert_eq!(timed(found_at(&set)).await.1, 20);
    overlay.be(WELL);
    sleep(Duration::from_secs(61)).await;
    let found = find(&set).await.unwrap().unwrap();
    assert_eq!(urns(&found.bound), ["urn:eris:A"], "what it lacked was kept for a minute only");
}

#[tokio::test(start_paused = true)]
async fn no_overlay_is_waited_for_where_the_server_binds_a_content() {
    let server = fake("server").with(&with_content("a", "urn:eris:A", &ours())).well();
    let overlay = fake("overlay").mood(Mood::Silent);
    let set = set_with(&[&server], &[&overlay], Unsigned::Refuse);
    set.store_dir(soon()).await.unwrap();
    assert_eq!(timed(found_at(&set)).await.1, 20);
}

#[tokio::test(start_paused = true)]
async fn an_overlay_alone_is_no_server() {
    let server = fake("server").well();
    let overlay = fake("overlay").with(&with_content("a", "urn:eris:A", &ours())).well();
    let set = set_with(&[&server], &[&overlay], Unsigned::Refuse);
    assert!(find(&set).await.unwrap().is_none());
    assert!(set.status()[1].overlay);
}
