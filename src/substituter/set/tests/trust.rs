//! What is believed, by the policy.

use super::*;

fn urns(contents: &[ErisBinding]) -> Vec<&str> {
    contents.iter().map(|content| content.urn.as_str()).collect()
}

async fn of(narinfo: &Narinfo, unsigned: Unsigned) -> Result<Found, Error> {
    let server = fake("server").with(narinfo).well();
    Ok((*find(&set_with(&[&server], &[], unsigned)).await?.unwrap()).clone())
}

fn our_signer() -> Option<Signer> {
    Some(Signer::Nix { name: "ours".to_owned() })
}

#[tokio::test(start_paused = true)]
async fn a_content_that_a_trusted_key_bound_may_be_read_lazily() {
    for unsigned in [Unsigned::Refuse, Unsigned::CheckHash, Unsigned::Believe] {
        let found = of(&with_content("a", "urn:eris:A", &ours()), unsigned).await.unwrap();
        assert_eq!(found.standing, Standing::Bound { signer: our_signer() });
        assert_eq!((urns(&found.bound), urns(&found.unbound)), (vec!["urn:eris:A"], vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_content_that_nobody_signed_is_to_be_hashed_whole() {
    let narinfo = signed("a").with_line("ERIS", "urn:eris:A").unwrap();
    for unsigned in [Unsigned::Refuse, Unsigned::CheckHash] {
        let found = of(&narinfo, unsigned).await.unwrap();
        assert_eq!(found.standing, Standing::Hashed { signer: our_signer() });
        assert_eq!((urns(&found.bound), urns(&found.unbound)), (vec![], vec!["urn:eris:A"]));
    }
    let found = of(&narinfo, Unsigned::Believe).await.unwrap();
    assert_eq!(found.standing, Standing::Bound { signer: None });
    assert_eq!((urns(&found.bound), urns(&found.unbound)), (vec!["urn:eris:A"], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_narinfo_that_nobody_signed_is_refused_checked_or_believed() {
    for key in [None, Some(secret("theirs")), Some(SecretKey::from_seed("ours", &[8; 32]).unwrap())] {
        let narinfo = unsigned("a").with_line("ERIS", "urn:eris:A").unwrap();
        let narinfo = key.map_or(narinfo.clone(), |key| key.sign_narinfo(&narinfo).unwrap());
        let error = of(&narinfo, Unsigned::Refuse).await.unwrap_err();
        assert!(matches!(error, Error::NoGood { .. }), "{error:?}");
        let checked = of(&narinfo, Unsigned::CheckHash).await.unwrap();
        assert_eq!(checked.standing, Standing::Hashed { signer: None });
        assert_eq!((urns(&checked.bound), urns(&checked.unbound)), (vec![], vec!["urn:eris:A"]));
        let believed = of(&narinfo, Unsigned::Believe).await.unwrap();
        assert_eq!(believed.standing, Standing::Bound { signer: None });
        assert_eq!((urns(&believed.bound), urns(&believed.unbound)), (vec!["urn:eris:A"], vec![]));
    }
    let plain = of(&unsigned("a"), Unsigned::Believe).await.unwrap();
    assert_eq!(plain.standing, Standing::Hashed { signer: None }, "there is nothing to be read lazily");
}

#[tokio::test(start_paused = true)]
async fn what_a_trusted_key_signed_comes_before_what_a_better_server_says_unsigned() {
    let stranger = fake("stranger").with(&unsigned("a")).well();
    let server = fake("server").with(&signed("a")).mood(Mood::After(millis(200)));
    let set = set_with(&[&stranger, &server], &[], Unsigned::CheckHash);
    assert_eq!(found_at(&set).await, "server");
    server.be(Mood::Silent);
    set.forget();
    assert_eq!(found_at(&set).await, "stranger", "the client decides in the end");
}
