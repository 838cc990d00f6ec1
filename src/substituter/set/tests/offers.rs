//! Where a NAR can be downloaded from.

use super::*;

fn offered(offers: &[Offer]) -> Vec<String> {
    offers.iter().map(|offer| format!("{} {}", offer.server.name(), offer.download.url)).collect()
}

/// A narinfo with one more download.
fn and(narinfo: &Narinfo, url: &str, compression: &str, size: Option<u64>) -> Narinfo {
    let narinfo = narinfo.with_line("URL", url).unwrap().with_line("Compression", compression).unwrap();
    size.map_or(narinfo.clone(), |size| narinfo.with_line("FileSize", &size.to_string()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn every_server_with_this_nar_is_named_best_first() {
    let far = fake("far").priority(100).with(&unsigned("a")).well();
    let other = fake("other").with(&unsigned("another-build")).well();
    let near = fake("near").priority(1).with(&signed("a")).well();
    let lacks = fake("lacks").well();
    let set = set(&[&far, &other, &near, &lacks]);
    let offers = set.offers(hash_part(), signed("a").nar_hash(), signed("a").nar_size(), soon()).await;
    assert_eq!(
        offered(&offers),
        ["near nar/a", "far nar/a"],
        "what comes is hashed, so nobody need have signed it"
    );
}

#[tokio::test(start_paused = true)]
async fn of_one_server_zstd_comes_first_and_then_what_is_smallest() {
    let narinfo = and(&signed("a"), "nar/none", "none", None);
    let narinfo = and(&narinfo, "nar/gzip", "gzip", Some(100));
    let narinfo = and(&narinfo, "nar/lzip", "lzip", Some(50));
    let narinfo = and(&narinfo, "nar/zstd", "zstd", Some(80));
    let set = set(&[&fake("guix").with(&narinfo).well()]);
    let offers = set.offers(hash_part(), narinfo.nar_hash(), narinfo.nar_size(), soon()).await;
    let order = ["guix nar/zstd", "guix nar/lzip", "guix nar/gzip", "guix nar/a", "guix nar/none"];
    assert_eq!(offered(&offers), order);
    let of_another_size = set.offers(hash_part(), narinfo.nar_hash(), narinfo.nar_size() + 1, soon()).await;
    assert_eq!(offered(&of_another_size), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn who_was_asked_before_is_not_asked_again_and_the_silent_are_waited_for_shortly() {
    let server = fake("server").with(&signed("a")).well();
    let silent = fake("silent").priority(100).with(&signed("a")).well();
    let set = set(&[&server, &silent]);
    find(&set).await.unwrap();
    silent.be(Mood::Silent);
    let (offers, took) =
        timed(set.offers(hash_part(), signed("a").nar_hash(), signed("a").nar_size(), soon())).await;
    assert_eq!((offered(&offers), took), (vec!["server nar/a".to_owned()], 300));
    assert_eq!(server.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_where_nobody_answers() {
    let silent = fake("silent").with(&signed("a")).well();
    let set = set(&[&silent]);
    set.store_dir(soon()).await.unwrap();
    silent.be(Mood::Silent);
    let (offers, took) = timed(set.offers(
        hash_part(),
        signed("a").nar_hash(),
        signed("a").nar_size(),
        Instant::now() + millis(700),
    ))
    .await;
    assert_eq!((offers.len(), took), (0, 700));
}
