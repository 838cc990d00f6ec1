//! NARs for those who pass them on: the same bytes from whatever has them, also when that changes on the way.

use erisfs::block::Faulty;
use erisfs::substituter::Unsigned;
use erisfs::tree::{Catalogs, NarStream};

use crate::scene::{Scene, key, soon};

const PIECE: u64 = 100_000;

async fn read(stream: &NarStream, from: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = from;
    while at < stream.size() {
        let piece = stream.read(at..stream.size().min(at + PIECE), soon()).await.unwrap();
        at += piece.len() as u64;
        bytes.extend_from_slice(&piece);
    }
    bytes
}

#[tokio::test]
async fn a_bound_content_is_streamed_without_its_nar() {
    let scene = Scene::new().bound();
    let stream = scene.tree().archive(scene.path.hash_part(), soon()).await.unwrap().unwrap();
    assert_eq!((stream.size(), stream.nar_hash()), (scene.nar.len() as u64, scene.plain().nar_hash()));
    assert!(read(&stream, 0).await == scene.nar);
    assert_eq!(scene.place.nar_requests(), 0);
}

#[tokio::test]
async fn a_stream_goes_on_from_the_nar_where_blocks_are_missing() {
    for faulty in [Faulty::Missing, Faulty::Corrupt] {
        let scene = Scene::new().bound();
        let stream = scene.tree().archive(scene.path.hash_part(), soon()).await.unwrap().unwrap();
        let first = stream.read(0..PIECE, soon()).await.unwrap();
        scene.fault.set_all(faulty);
        let rest = read(&stream, PIECE).await;
        assert!([&first[..], &rest].concat() == scene.nar);
        assert_eq!(scene.place.nar_requests(), 1);
    }
}

#[tokio::test]
async fn a_cache_without_eris_is_streamed_and_kept() {
    let scene = Scene::new();
    scene.tell(key().sign_narinfo(&scene.plain()).unwrap());
    let tree = scene.tree();
    let stream = tree.archive(scene.path.hash_part(), soon()).await.unwrap().unwrap();
    assert!(read(&stream, 0).await == scene.nar);
    assert!(read(&stream, 123_456).await == scene.nar[123_456..]);
    scene.assert_whole(&tree).await;
    assert_eq!(scene.place.nar_requests(), 1);
}

#[tokio::test]
async fn for_those_who_check_signatures_an_unsigned_narinfo_is_enough() {
    let scene = Scene::new();
    scene.tell(scene.with_eris());
    let tree = scene.tree_of(Catalogs::default(), scene.substitutes(Unsigned::CheckHash));
    let stream = tree.archive(scene.path.hash_part(), soon()).await.unwrap().unwrap();
    assert!(read(&stream, 0).await == scene.nar);
    assert_eq!((scene.place.nar_requests(), scene.counted.counts().requests()), (1, 0));
}

#[tokio::test]
async fn a_content_that_nobody_signed_is_hashed_before_it_is_streamed() {
    let mut scene = Scene::new();
    scene.place.lose();
    let other_tree = crate::scene::specimen();
    std::fs::write(other_tree.path().join("bin/tool"), "#!/bin/sh\necho evil!\n").unwrap();
    let other = scene.shelf.add("other", other_tree.path());
    let wrong = scene.shelf.narinfo(&other).eris()[0].urn.clone();
    for (urn, is_right) in [(wrong, false), (scene.shelf.narinfo(&scene.path).eris()[0].urn.clone(), true)] {
        scene.tell(crate::scene::with_eris(&scene.plain(), &urn));
        let tree = scene.tree_of(Catalogs::default(), scene.substitutes(Unsigned::CheckHash));
        let stream = tree.archive(scene.path.hash_part(), soon()).await.unwrap().unwrap();
        match is_right {
            true => assert!(read(&stream, 0).await == scene.nar),
            false => drop(stream.read(0..10, soon()).await.unwrap_err()),
        }
    }
}

#[tokio::test]
async fn a_path_that_nobody_has_is_no_stream() {
    let scene = Scene::new();
    assert!(scene.tree().archive(scene.path.hash_part(), soon()).await.unwrap().is_none());
}
