//! From an ERIS content to its NAR without the reader noticing anything but time.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use erisfs::block::Faulty;
use erisfs::content::Deadline;
use erisfs::store::Narinfo;
use erisfs::tree::{Error, Inode};

use crate::scene::{Scene, key, soon};

/// Opens the path, then lets the store go wrong; a read gives the right bytes, from one download, and the next ones from the disk.
async fn assert_read_in_spite_of(faulty: Faulty) {
    let scene = Scene::new().bound();
    let tree = scene.tree();
    scene.top(&tree).await.unwrap().unwrap();
    scene.fault.set_all(faulty);
    // Long enough for a slow machine; an ERIS content that is silent gets a third of it.
    let deadline = Deadline::after(Duration::from_secs(15));
    let bytes = scene.read(&tree, "share/second", deadline).await.unwrap();
    assert!(bytes == std::fs::read(scene.disk.path().join("share/second")).unwrap());
    assert_eq!(scene.xattr(&tree, "source").await, "nar");
    let asked = scene.counted.counts().requests();
    let begun = Instant::now();
    scene.assert_whole(&tree).await;
    assert_eq!((scene.place.nar_requests(), scene.counted.counts().requests()), (1, asked));
    assert!(begun.elapsed() < Duration::from_secs(5), "the dead store is not waited for again");
}

#[tokio::test]
async fn blocks_that_are_missing() {
    assert_read_in_spite_of(Faulty::Missing).await;
}

#[tokio::test]
async fn blocks_that_lie() {
    assert_read_in_spite_of(Faulty::Corrupt).await;
}

#[tokio::test]
async fn blocks_that_never_come() {
    assert_read_in_spite_of(Faulty::Silent).await;
}

#[tokio::test]
async fn a_path_whose_blocks_nobody_ever_had_is_opened_from_its_nar() {
    let scene = Scene::new().bound();
    scene.fault.set_all(Faulty::Missing);
    let tree = scene.tree();
    scene.assert_whole(&tree).await;
    assert_eq!(scene.place.nar_requests(), 1);
}

#[tokio::test]
async fn a_path_of_a_catalog_whose_blocks_are_gone_is_read_from_its_nar() {
    let mut scene = Scene::new().bound();
    let tree = scene.catalog_tree().await;
    assert_eq!(tree.read_dir(Inode::ROOT, 0, 10, soon()).await.unwrap().len(), 3);
    assert_eq!(scene.xattr(&tree, "trust").await, "catalog");
    scene.find(&tree, "share/first").await;
    scene.fault.set_all(Faulty::Missing);
    scene.assert_whole(&tree).await;
    assert_eq!((scene.xattr(&tree, "source").await, scene.place.nar_requests()), ("nar".into(), 1));
}

#[tokio::test]
async fn an_object_without_random_access_is_read_as_a_whole() {
    let scene = Scene::new();
    // One zstd frame, as `guix publish` makes it.
    let packed = zstd::encode_all(&scene.nar[..], 3).unwrap();
    let urn = scene.shelf.put(&packed, erisfs::eris::BlockSize::Large).to_string();
    scene.tell(key().sign_narinfo(&crate::scene::with_eris(&scene.plain(), &urn)).unwrap());
    let tree = scene.tree();
    scene.assert_whole(&tree).await;
    assert_eq!(scene.place.nar_requests(), 0, "its content is as good as what the server has");
    scene.fault.set_all(Faulty::Missing);
    scene.assert_whole(&tree).await;
}

#[tokio::test]
async fn where_neither_can_be_had_the_error_tells_of_both() {
    let scene = Scene::new().bound();
    let tree = scene.tree();
    scene.find(&tree, "share/first").await;
    scene.fault.set_all(Faulty::Missing);
    scene.place.lose();
    let error = scene.read(&tree, "share/first", soon()).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Neither { .. }), "{text}");
    assert!(text.contains("share/first") && text.contains("test:place"), "{text}");
    // Whoever has the blocks again has the path again.
    scene.fault.clear();
    scene.assert_whole(&tree).await;
}

#[tokio::test]
async fn what_nobody_waits_for_starts_no_download() {
    let scene = Scene::new();
    scene.tell(key().sign_narinfo(&scene.plain()).unwrap());
    let tree = scene.tree();
    let ahead = soon().ahead();
    let error = tree.object(scene.path.hash_part(), ahead).await.unwrap_err();
    assert!(matches!(error, Error::NotAhead { .. }), "{error}");
    assert_eq!(scene.place.nar_requests(), 0);
    let scene = Scene::new().bound();
    let tree = scene.tree();
    let at = scene.find(&tree, "share/first").await;
    scene.fault.set_all(Faulty::Missing);
    assert!(tree.read(at.inode, 0, 10, soon().ahead()).await.is_err());
    assert_eq!(scene.place.nar_requests(), 0);
}

#[tokio::test]
async fn what_left_the_cache_is_downloaded_again() {
    let scene = Scene::new();
    scene.tell(key().sign_narinfo(&scene.plain()).unwrap());
    let tree = scene.tree();
    scene.find(&tree, "share/first").await;
    let substitutes = tree.sources().substitutes.clone().unwrap();
    let disk = substitutes.downloads().disk().clone();
    tokio::task::spawn_blocking(move || disk.gc(Some(0))).await.unwrap().unwrap();
    scene.assert_whole(&tree).await;
    assert_eq!(scene.place.nar_requests(), 2);
}

#[tokio::test]
async fn many_readers_cause_one_download() {
    let scene = Scene::new();
    scene.tell(key().sign_narinfo(&scene.plain()).unwrap());
    let tree = scene.tree();
    let readers = (0..50).map(|_| scene.top(&tree));
    for answer in futures::future::join_all(readers).await {
        answer.unwrap().unwrap();
    }
    assert_eq!(scene.place.nar_requests(), 1);
}

#[tokio::test]
async fn a_server_that_is_gone_takes_nothing_away_that_is_open() {
    let scene = Scene::new();
    scene.tell(key().sign_narinfo(&scene.plain()).unwrap());
    let tree = scene.tree();
    scene.top(&tree).await.unwrap().unwrap();
    scene.place.is_down.store(true, SeqCst);
    scene.assert_whole(&tree).await;
}

#[tokio::test]
async fn a_narinfo_is_given_byte_for_byte() {
    let scene = Scene::new().bound();
    let told = key().sign_narinfo(&scene.with_eris()).unwrap();
    let given = scene.tree().narinfo(scene.path.hash_part(), soon()).await.unwrap().unwrap();
    assert_eq!(Narinfo::as_str(&given), told.as_str());
}
