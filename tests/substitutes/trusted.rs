//! Each rule of trust, as the view keeps it.

use std::io::Write;
use std::sync::atomic::Ordering::SeqCst;

use erisfs::block::Faulty;
use erisfs::content::Fetch;
use erisfs::eris::BlockSize;
use erisfs::nar::dump;
use erisfs::nar::seekable::{Packer, Settings, Tail};
use erisfs::store::ed25519::{self, SecretKey};
use erisfs::store::trust::TrustedKeys;
use erisfs::store::{StorePath, guix};
use erisfs::substituter::{Policy, Unsigned};
use erisfs::tree::{self, Catalogs, Error, Inode, Sources, Tree};

use crate::scene::{Scene, key, soon, specimen, with_eris};

const GUIX_KEY: &str = include_str!("../samples/guix/test-signing-key.sec");

#[tokio::test]
async fn a_content_that_is_bound_is_read_without_its_nar() {
    let scene = Scene::new().bound();
    let tree = scene.tree();
    scene.assert_whole(&tree).await;
    assert_eq!(scene.xattr(&tree, "trust").await, "bound by cache-1");
    assert_eq!(scene.xattr(&tree, "source").await, "eris");
    assert_eq!(scene.place.nar_requests(), 0);
}

#[tokio::test]
async fn a_cache_without_eris_is_read_from_one_download() {
    let scene = Scene::new();
    scene.tell(key().sign_narinfo(&scene.plain()).unwrap());
    let tree = scene.tree();
    scene.assert_whole(&tree).await;
    assert_eq!(scene.xattr(&tree, "trust").await, "hashed; NarHash signed by cache-1");
    assert_eq!(scene.xattr(&tree, "source").await, "nar");
    // Nor is it downloaded again by the next one who looks.
    scene.assert_whole(&scene.tree()).await;
    assert_eq!((scene.place.nar_requests(), scene.counted.counts().requests()), (1, 0));
}

#[tokio::test]
async fn a_nar_that_is_not_what_was_signed_is_not_shown() {
    let mut scene = Scene::new();
    scene.tell(key().sign_narinfo(&scene.plain()).unwrap());
    let place = scene.nar.windows(5).position(|bytes| bytes == b"hello").unwrap();
    scene.nar[place] = b'j';
    scene.place.give(crate::scene::URL, scene.nar.clone());
    let error = scene.top(&scene.tree()).await.unwrap_err();
    assert!(error.to_string().contains("hash"), "{error}");
}

/// Nothing of the path may be shown, and it is not as if there were no such path.
async fn assert_refused(scene: &Scene, reason: &str) {
    let error = scene.top(&scene.tree()).await.unwrap_err();
    assert!(matches!(error, Error::Lookup(_)) && error.to_string().contains(reason), "{error}");
    assert_eq!((scene.place.nar_requests(), scene.counted.counts().requests()), (0, 0));
}

#[tokio::test]
async fn an_unsigned_narinfo_is_refused() {
    let scene = Scene::new();
    scene.tell(scene.with_eris());
    assert_refused(&scene, "no signature").await;
}

#[tokio::test]
async fn a_key_that_nobody_trusts_is_refused() {
    let scene = Scene::new();
    let other = SecretKey::from_seed("other-1", &[8; 32]).unwrap();
    scene.tell(other.sign_narinfo(&scene.with_eris()).unwrap());
    assert_refused(&scene, "other-1").await;
}

#[tokio::test]
async fn a_key_with_the_name_of_a_trusted_one_is_refused() {
    let scene = Scene::new();
    let other = SecretKey::from_seed(key().public_key().name(), &[8; 32]).unwrap();
    scene.tell(other.sign_narinfo(&scene.with_eris()).unwrap());
    assert_refused(&scene, "cache-1 is wrong").await;
}

#[tokio::test]
async fn the_narinfo_of_another_path_is_refused() {
    let mut scene = Scene::new();
    let other: StorePath = scene.shelf.add("other", specimen().path());
    let narinfo = key().sign_narinfo(scene.shelf.narinfo(&other)).unwrap();
    scene.tell(narinfo);
    assert_refused(&scene, &other.hash_part().to_string()).await;
}

#[tokio::test]
async fn insecure_believes_what_nobody_signed() {
    let scene = Scene::new();
    scene.tell(scene.with_eris());
    let tree = scene.tree_of(Catalogs::default(), scene.substitutes(Unsigned::Believe));
    scene.assert_whole(&tree).await;
    assert_eq!(scene.xattr(&tree, "trust").await, "insecure");
    assert_eq!(scene.place.nar_requests(), 0);
}

#[tokio::test]
async fn a_content_that_was_not_signed_is_hashed_whole_once() {
    let scene = Scene::new().unbound();
    // No server has the NAR.
    scene.place.lose();
    let tree = scene.tree();
    scene.assert_whole(&tree).await;
    assert_eq!(scene.xattr(&tree, "trust").await, "hashed; NarHash signed by cache-1");
    assert_eq!(scene.xattr(&tree, "source").await, "eris");
    // The next one only looks at its end.
    let before = scene.counted.counts().requests();
    scene.top(&scene.tree()).await.unwrap().unwrap();
    assert!(scene.counted.counts().requests() - before < before / 2);
}

#[tokio::test]
async fn the_urn_of_another_path_under_a_valid_signature_shows_nothing_of_that_path() {
    let mut scene = Scene::new();
    let other_tree = specimen();
    std::fs::write(other_tree.path().join("bin/tool"), "#!/bin/sh\necho evil!\n").unwrap();
    let other = scene.shelf.add("other", other_tree.path());
    let theirs = key().sign_narinfo(scene.shelf.narinfo(&other)).unwrap();
    let binding = theirs.field(ed25519::ERIS_SIG).unwrap().value.to_owned();
    let ours = key().sign_narinfo(&scene.plain()).unwrap();
    let mixed = with_eris(&ours, &theirs.eris()[0].urn).with_line(ed25519::ERIS_SIG, &binding).unwrap();
    scene.tell(mixed);
    let tree = scene.tree();
    scene.assert_whole(&tree).await;
    assert_eq!(scene.xattr(&tree, "source").await, "nar");
}

#[tokio::test]
async fn fields_below_the_signature_of_guix_bind_nothing() {
    let scene = Scene::new();
    let secret = guix::SecretKey::parse(GUIX_KEY).unwrap();
    let keys = TrustedKeys { nix: Vec::new(), guix: vec![*secret.public_key()] };
    let urn = &scene.shelf.narinfo(&scene.path).eris()[0].urn;
    for (narinfo, trust) in [
        (guix::sign(&scene.with_eris(), "example.org", &secret).unwrap(), "bound by "),
        (
            with_eris(&guix::sign(&scene.plain(), "example.org", &secret).unwrap(), urn),
            "hashed; NarHash signed by ",
        ),
    ] {
        scene.tell(narinfo);
        let policy = Policy { keys: keys.clone(), unsigned: Unsigned::Refuse };
        let tree = scene.tree_of(Catalogs::default(), scene.substitutes_by(policy));
        scene.assert_whole(&tree).await;
        let shown = scene.xattr(&tree, "trust").await;
        assert_eq!(shown, format!("{trust}{}", secret.public_key()));
    }
}

/// The archive of the scene with the listing of another tree, whose bytes have the same places.
fn with_a_false_listing(scene: &Scene) -> Vec<u8> {
    let pack = |path: &std::path::Path| {
        let mut object = Vec::new();
        let mut packer = Packer::with(&mut object, Settings { frame_size: 64 << 10, level: 3 });
        dump(path, &mut packer).unwrap();
        packer.finish().unwrap();
        let Tail::Seekable { listing: Some(listing), .. } =
            Tail::parse(&object, object.len() as u64).unwrap()
        else {
            panic!("it has a listing")
        };
        (object, listing)
    };
    let (mut object, at) = pack(scene.disk.path());
    for name in ('a'..='z').flat_map(|last| ('a'..='z').map(move |other| format!("e{other}pt{last}"))) {
        let other = specimen();
        std::fs::rename(other.path().join("share/empty"), other.path().join("share").join(&name)).unwrap();
        let (forged, there) = pack(other.path());
        if name != "empty" && at.end - at.start == there.end - there.start {
            let bytes = &forged[there.start as usize..there.end as usize];
            object[at.start as usize..at.end as usize].copy_from_slice(bytes);
            return object;
        }
    }
    panic!("one of the names compresses as well as the true one");
}

#[tokio::test]
async fn a_listing_that_is_not_that_of_the_nar_is_not_shown() {
    let scene = Scene::new();
    let object = with_a_false_listing(&scene);
    let urn = scene.shelf.put(&object, BlockSize::Large).to_string();
    let signed = key().sign_narinfo(&scene.plain()).unwrap();
    scene.tell(with_eris(&signed, &urn));
    let tree = scene.tree();
    scene.assert_whole(&tree).await;
    assert_eq!((scene.xattr(&tree, "source").await, scene.place.nar_requests()), ("nar".into(), 1));
}

/// An archive whose stream is the NAR of the scene, and whose seek table leads to another one with the same tree.
fn with_a_false_seek_table(scene: &Scene) -> Vec<u8> {
    let mut forged = scene.nar.clone();
    let place = forged.windows(5).position(|bytes| bytes == b"hello").unwrap();
    forged[place] = b'j';
    let mut packed = Vec::new();
    let mut packer = Packer::with(&mut packed, Settings { frame_size: 64 << 10, level: 3 });
    packer.write_all(&forged).unwrap();
    packer.finish().unwrap();
    let Tail::Seekable { table, listing: Some(listing), .. } =
        Tail::parse(&packed, packed.len() as u64).unwrap()
    else {
        panic!("it has a listing")
    };
    let frames: Vec<_> = table.frames_covering(0..table.content_size()).collect();
    let hidden = &packed[..frames.last().unwrap().compressed.end as usize];
    // The forged frames are inside of what a decoder of the stream passes over.
    let mut object = zstd::encode_all(&scene.nar[..], 3).unwrap();
    let mut entries = vec![(object.len(), 0), (8, 0)];
    object.extend([0x184D_2A50, hidden.len() as u32].map(u32::to_le_bytes).concat());
    object.extend(hidden);
    let size = |range: &std::ops::Range<u64>| (range.end - range.start) as usize;
    entries.extend(frames.iter().map(|frame| (size(&frame.compressed), size(&frame.decompressed))));
    let listing = &packed[hidden.len()..listing.end as usize];
    object.extend(listing);
    entries.push((listing.len(), 0));
    object.extend([0x184D_2A5E, entries.len() as u32 * 8 + 9].map(u32::to_le_bytes).concat());
    entries.iter().for_each(|(compressed, size)| {
        object.extend([*compressed as u32, *size as u32].map(u32::to_le_bytes).concat());
    });
    object.extend((entries.len() as u32).to_le_bytes());
    object.push(0);
    object.extend(0x8F92_EAB1_u32.to_le_bytes());
    assert!(zstd::decode_all(&object[..]).unwrap() == scene.nar);
    object
}

#[tokio::test]
async fn what_is_hashed_is_what_the_seek_table_leads_to() {
    let scene = Scene::new();
    let urn = scene.shelf.put(&with_a_false_seek_table(&scene), BlockSize::Large).to_string();
    let signed = key().sign_narinfo(&scene.plain()).unwrap();
    scene.tell(with_eris(&signed, &urn));
    for tree in [scene.tree(), scene.tree()] {
        scene.assert_whole(&tree).await;
        assert_eq!((scene.xattr(&tree, "source").await, scene.place.nar_requests()), ("nar".into(), 1));
    }
    scene.place.lose();
    std::fs::remove_dir_all(scene.cache.path().join("verified")).unwrap();
    // Its stream is right, and is taken for want of anything else.
    scene.assert_whole(&scene.tree()).await;
}

#[tokio::test]
async fn a_bound_content_whose_listing_is_not_that_of_the_nar_is_never_mixed_with_it() {
    let scene = Scene::new();
    let object = with_a_false_listing(&scene);
    let urn = scene.shelf.put(&object, BlockSize::Large).to_string();
    scene.tell(key().sign_narinfo(&with_eris(&scene.plain(), &urn)).unwrap());
    let tree = scene.tree();
    scene.top(&tree).await.unwrap().unwrap();
    scene.fault.set_all(Faulty::Missing);
    let error = scene.read(&tree, "share/first", soon()).await.unwrap_err();
    assert!(error.to_string().contains("not have the same tree"), "{error}");
}

#[tokio::test]
async fn a_path_that_is_opened_again_by_its_nar_is_the_one_that_was_shown() {
    let scene = Scene::new();
    let object = with_a_false_listing(&scene);
    let urn = scene.shelf.put(&object, BlockSize::Large).to_string();
    let other = scene.shelf.put(b"something else", BlockSize::Small).to_string();
    scene.tell(key().sign_narinfo(&with_eris(&scene.plain(), &urn)).unwrap());
    let sources = Sources { substitutes: Some(scene.substitutes(Unsigned::Refuse)), ..Sources::default() };
    // Memory for the tree of one path, so that the other one drives it out.
    let settings = tree::Settings { object_bytes: 1, ..tree::Settings::default() };
    // And none for its blocks.
    let tree = Tree::new(Fetch::new(scene.counted.clone(), 1 << 20), sources, settings);
    let top = scene.top(&tree).await.unwrap().unwrap();
    tree.lookup(Inode::ROOT, other.as_bytes(), soon()).await.unwrap().unwrap();
    scene.fault.set_all(Faulty::Missing);
    let error = tree.lookup(top.inode, b"share", soon()).await.unwrap_err();
    assert!(error.to_string().contains("not have the same tree"), "{error}");
}

#[tokio::test]
async fn what_no_server_has_is_missing_and_what_could_not_be_asked_for_is_an_error() {
    let scene = Scene::new();
    assert_eq!(scene.top(&scene.tree()).await.unwrap(), None);
    scene.place.is_down.store(true, SeqCst);
    assert!(matches!(scene.top(&scene.tree()).await, Err(Error::Lookup(_))));
}

#[tokio::test]
async fn another_name_for_the_same_hash_is_missing() {
    let scene = Scene::new().bound();
    let tree = scene.tree();
    let other = format!("{}-other", scene.path.hash_part());
    let root = erisfs::tree::Inode::ROOT;
    assert_eq!(tree.lookup(root, other.as_bytes(), soon()).await.unwrap(), None);
}
