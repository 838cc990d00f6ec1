//! What is remembered, and for how long.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_narinfo_is_kept_for_an_hour() {
    let server = fake("server").with(&signed("a")).well();
    let set = set(&[&server]);
    for (wait, asked) in [(0, 1), (3_599, 1), (2, 2)] {
        sleep(Duration::from_secs(wait)).await;
        assert_eq!(found_at(&set).await, "server");
        assert_eq!(server.asked(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn that_nobody_has_a_path_is_kept_for_a_minute() {
    let server = fake("server").well();
    let set = set(&[&server]);
    for (wait, asked) in [(0, 1), (59, 1), (2, 2)] {
        sleep(Duration::from_secs(wait)).await;
        assert!(find(&set).await.unwrap().is_none());
        assert_eq!(server.asked(), asked);
    }
    server.narinfos.lock().unwrap().insert(hash_part(), signed("a"));
    sleep(Duration::from_secs(61)).await;
    assert_eq!(found_at(&set).await, "server");
}

#[tokio::test(start_paused = true)]
async fn that_nobody_has_a_path_is_kept_for_ten_seconds_while_some_are_down() {
    let (down, server) = (fake("down").well(), fake("server").well());
    let set = set(&[&down, &server]);
    set.store_dir(soon()).await.unwrap();
    down.be(Mood::Silent);
    find(&set).await.unwrap_err();
    assert!(find(&set).await.unwrap().is_none());
    let asked = server.asked();
    sleep(Duration::from_secs(9)).await;
    assert!(find(&set).await.unwrap().is_none());
    assert_eq!(server.asked(), asked);
    sleep(Duration::from_secs(2)).await;
    assert!(find(&set).await.unwrap().is_none());
    assert_eq!(server.asked(), asked + 1);
}

#[tokio::test(start_paused = true)]
async fn failures_are_not_kept() {
    let server = fake("server").with(&signed("a")).mood(Mood::Denied);
    let set = set(&[&server]);
    assert!(find(&set).await.is_err());
    server.be(WELL);
    assert_eq!(found_at(&set).await, "server");
}

#[tokio::test(start_paused = true)]
async fn many_who_ask_at_once_cause_one_request() {
    let server = fake("server").with(&signed("a")).well();
    let set = set(&[&server]);
    let all = futures::future::join_all((0..100).map(|_| find(&set))).await;
    assert!(all.iter().all(|answer| answer.as_ref().unwrap().is_some()));
    assert_eq!(server.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_nobody_waits_any_more_the_request_is_dropped() {
    let slow = fake("slow").with(&signed("a")).well();
    let set = set(&[&slow]);
    set.store_dir(soon()).await.unwrap();
    slow.be(Mood::After(millis(5_000)));
    assert!(set.find(hash_part(), Instant::now() + millis(10)).await.is_err());
    sleep(millis(10_000)).await;
    assert_eq!(set.status()[0].had, 0);
}

#[tokio::test(start_paused = true)]
async fn narinfos_take_a_bounded_number_of_bytes() {
    let memory = Memory::new(64 << 10);
    let server: Arc<dyn Substituter> = fake("server").well();
    let kept = |byte: u8| {
        let hash_part = HashPart::from_digest([byte; 20]);
        let standing = Standing::Hashed { signer: None };
        let narinfo = Arc::new(signed("a"));
        let found = Found { narinfo, server: Arc::clone(&server), standing, bound: vec![], unbound: vec![] };
        let until = Instant::now() + Duration::from_secs(1);
        memory.put(hash_part, &memory::Answer { found: Some(Arc::new(found)), until });
        hash_part
    };
    let all: Vec<_> = (0..=255).map(kept).collect();
    let remembered = all.iter().filter(|hash_part| memory.get(**hash_part).is_some()).count();
    assert!((10..100).contains(&remembered), "{remembered}");
}

/// A set that keeps narinfos in a file.
fn set_on_disk(server: &Arc<Fake>, file: &std::path::Path, keys: TrustedKeys) -> Substituters {
    let policy = Policy { keys, unsigned: Unsigned::Refuse };
    let settings = SetSettings { on_disk: Some(file.to_owned()), ..SetSettings::default() };
    let server: Arc<dyn Substituter> = server.clone();
    Substituters::new(vec![server], Vec::new(), policy, settings)
}

#[tokio::test]
async fn what_was_good_is_taken_from_the_disk_while_no_server_answers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("narinfos.sqlite");
    let server = fake("server").with(&signed("a")).well();
    let keys = || set(&[]).policy().keys.clone();
    let first = set_on_disk(&server, &file, keys());
    first.find(hash_part(), soon()).await.unwrap().unwrap();
    // It is written behind.
    let on_disk = OnDisk::new(&file);
    while on_disk.get(hash_part()).await.is_none() {
        sleep(millis(5)).await;
    }
    for mood in [Mood::Busy, Mood::Denied] {
        server.be(mood);
        let later = set_on_disk(&server, &file, keys());
        let found = later.find(hash_part(), soon()).await.unwrap().unwrap();
        assert_eq!(*found.narinfo, signed("a"));
        assert!(found.server.name().starts_with("sqlite:"));
    }
    let stranger = set_on_disk(&server, &file, TrustedKeys::default());
    stranger.find(hash_part(), soon()).await.unwrap_err();
    server.be(WELL);
    server.narinfos.lock().unwrap().clear();
    let gone = set_on_disk(&server, &file, keys());
    assert!(gone.find(hash_part(), soon()).await.unwrap().is_none(), "a server that answers is right");
}
