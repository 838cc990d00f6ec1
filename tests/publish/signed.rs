//! What is signed when it is published: stock clients want the signatures, ours believe the binding.

use std::fs;
use std::path::{Path, PathBuf};

use erisfs::publish::{Published, Settings, SigningKeys};
use erisfs::store::trust::judge;
use erisfs::store::{Narinfo, Trust, TrustedKeys, ed25519, guix};
use tempfile::TempDir;

use crate::{make_tree, memory, publish_one, refusal, sample};

fn nix_key(dir: &Path, name: &str) -> (PathBuf, ed25519::PublicKey) {
    let key = ed25519::SecretKey::from_seed(name, &[5; 32]).unwrap();
    let file = dir.join(name);
    fs::write(&file, key.to_text().as_str()).unwrap();
    (file, key.public_key())
}

fn guix_key() -> (PathBuf, guix::PublicKey) {
    let public = fs::read_to_string(sample("guix/test-signing-key.pub")).unwrap();
    (sample("guix/test-signing-key.sec"), public.parse().unwrap())
}

fn settings(store_dir: &str, keys: &[PathBuf], out: &Path) -> Settings {
    Settings {
        store_dir: Some(store_dir.parse().unwrap()),
        keys: SigningKeys::read(keys).unwrap(),
        narinfo: Some(out.to_owned()),
        state: Some(out.join("state.sqlite")),
        ..Settings::default()
    }
}

fn verdict(narinfo: &Narinfo, keys: &TrustedKeys) -> Trust {
    judge(narinfo, narinfo.store_path().hash_part(), narinfo.store_dir(), keys).unwrap()
}

fn written(out: &Path, published: &Published) -> Narinfo {
    let name = format!("{}.narinfo", published.paths[0].narinfo.store_path().hash_part());
    fs::read_to_string(out.join(name)).unwrap().parse().unwrap()
}

#[tokio::test]
async fn readers_who_trust_the_key_may_read_at_once_also_what_was_published_before() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    let (nix_file, nix) = nix_key(dir.path(), "ours-1");
    let (guix_file, guix) = guix_key();
    let of_nix = TrustedKeys { nix: vec![nix], guix: Vec::new() };
    let of_guix = TrustedKeys { nix: Vec::new(), guix: vec![guix] };
    for (store_dir, key, trusted, untrusted) in
        [("/nix/store", nix_file, &of_nix, &of_guix), ("/gnu/store", guix_file, &of_guix, &of_nix)]
    {
        let (store, out) = (memory(), TempDir::new().unwrap());
        let unsigned = publish_one(store.clone(), &tree, settings(store_dir, &[], out.path())).await;
        for reused in [true, true] {
            let settings = settings(store_dir, std::slice::from_ref(&key), out.path());
            let published = publish_one(store.clone(), &tree, settings).await;
            assert_eq!(published.paths[0].reused, reused);
            let narinfo = written(out.path(), &published);
            assert_eq!(narinfo, published.paths[0].narinfo, "the catalog has it too");
            assert!(narinfo.as_str().starts_with(unsigned.paths[0].narinfo.as_str()));
            assert!(matches!(verdict(&narinfo, trusted), Trust::Binding { .. }));
            let hash_part = narinfo.store_path().hash_part();
            assert!(judge(&narinfo, hash_part, narinfo.store_dir(), untrusted).is_err());
            let lines = narinfo.fields().filter(|field| field.name.contains("Sig")).count();
            assert_eq!(lines, if store_dir == "/nix/store" { 2 } else { 1 }, "{narinfo}");
        }
    }
}

#[tokio::test]
async fn a_key_of_guix_signs_no_paths_of_nix() {
    let dir = TempDir::new().unwrap();
    make_tree(&dir.path().join("tree"));
    let settings = settings("/nix/store", &[guix_key().0], dir.path());
    let refused = refusal(memory(), &[&dir.path().join("tree")], settings).await;
    assert!(refused.contains("a key of Guix does not sign paths of /nix/store"), "{refused}");
}

#[tokio::test]
async fn guix_gets_no_name_that_begins_with_a_dot() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join(".config");
    make_tree(&tree);
    let to =
        |store_dir: &str| Settings { store_dir: Some(store_dir.parse().unwrap()), ..Settings::default() };
    let refused = refusal(memory(), &[&tree], to("/gnu/store")).await;
    assert!(refused.contains("--name config"), "{refused}");
    publish_one(memory(), &tree, to("/nix/store")).await;
}

#[tokio::test]
async fn the_archive_lies_where_the_narinfo_says_and_is_made_again_if_it_is_gone_or_damaged() {
    let (dir, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    make_tree(&dir.path().join("tree"));
    let store = memory();
    let state = Some(dir.path().join("state.sqlite"));
    let settings = Settings { nars: true, state, ..settings("/nix/store", &[], out.path()) };
    for run in 0..3 {
        let published = publish_one(store.clone(), &dir.path().join("tree"), settings.clone()).await;
        let path = &published.paths[0];
        let file = out.path().join(&path.narinfo.downloads()[0].url);
        let mut archive = fs::read(&file).unwrap();
        assert_eq!(archive, crate::content(&*store, &path.capability));
        match run {
            0 => fs::remove_file(file).unwrap(),
            _ => {
                archive[20] ^= 1;
                fs::write(file, archive).unwrap();
            }
        }
    }
}
