//! Publishing: what goes into a block store comes back, under the names that Nix and Guix give it.

mod again;
mod command;
mod failures;
mod index;
mod mirror;
#[path = "../support/noise.rs"]
mod noise;
mod signed;
mod stores;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use erisfs::block::{BlockStore, Counted, Memory, Verify};
use erisfs::eris::{self, BlockSize, ConvergenceSecret, Encoder, ReadCapability};
use erisfs::nar::{Hasher, Kind, Listing, NodeId, dump};
use erisfs::publish::{self, Published, PublishedPath, Settings};
use erisfs::store::{NarHash, Narinfo};
use futures::FutureExt;
use noise::noise;
use tempfile::TempDir;

/// A store in memory that counts.
fn memory() -> Arc<Counted> {
    Arc::new(Counted::new(Arc::new(Verify::new(Arc::new(Memory::new())))))
}

/// A file of the samples that come with the project.
fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name)
}

fn nar_of(path: &Path) -> Vec<u8> {
    let mut nar = Vec::new();
    dump(path, &mut nar).unwrap();
    nar
}

/// A directory with everything that a NAR can hold.
fn make_tree(at: &Path) {
    fs::create_dir_all(at.join("bin")).unwrap();
    fs::create_dir_all(at.join("empty")).unwrap();
    fs::write(at.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("bin/run", at.join("link")).unwrap();
    fs::write(at.join("noise"), noise(200_000)).unwrap();
}

/// The content of a capability, from a store that answers at once.
fn content(store: &dyn BlockStore, capability: &ReadCapability) -> Vec<u8> {
    let fetch = |reference: &eris::Reference| store.get(reference).now_or_never()?.ok();
    eris::decode(capability, fetch, 1 << 30).unwrap()
}

/// The NAR of a published path, read by a decoder that knows nothing of frames and seek tables.
fn published_nar(store: &dyn BlockStore, path: &PublishedPath) -> Vec<u8> {
    let packed = content(store, &path.capability);
    assert_eq!(packed.len() as u64, path.packed_size);
    assert_eq!(path.narinfo.downloads()[0].file_hash, Some(NarHash::of(&packed)));
    assert_eq!(path.narinfo.downloads()[0].file_size, Some(packed.len() as u64));
    zstd::decode_all(&packed[..]).unwrap()
}

/// Publishes with a store that cannot fail, without watching.
async fn publish_one(store: Arc<dyn BlockStore>, path: &Path, settings: Settings) -> Published {
    publish::publish(store, vec![path.to_owned()], settings, Arc::new(())).await.unwrap()
}

async fn refusal(store: Arc<dyn BlockStore>, paths: &[&Path], settings: Settings) -> String {
    let paths = paths.iter().map(|path| path.to_path_buf()).collect();
    message(&publish::publish(store, paths, settings, Arc::new(())).await.unwrap_err())
}

/// What the program would print.
fn message(error: &publish::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Puts the tree of a NAR on the disk.
fn restore(nar: &[u8], at: &Path) {
    let mut hasher = Hasher::new();
    hasher.write_all(nar).unwrap();
    let listing: Listing = hasher.finish().unwrap().listing;
    for node in listing.nodes() {
        let name = String::from_utf8(listing.path(node)).unwrap();
        let path = if node == NodeId::ROOT { at.to_owned() } else { at.join(name.trim_start_matches('/')) };
        match listing.kind(node) {
            Kind::Directory => fs::create_dir(&path).unwrap(),
            Kind::Symlink => {
                symlink(String::from_utf8(listing.target(node).to_vec()).unwrap(), &path).unwrap();
            }
            Kind::File { executable, size, offset } => {
                fs::write(&path, &nar[offset as usize..(offset + size) as usize]).unwrap();
                let mode = if executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_tree_comes_back_as_its_nar() {
    let (store, dir) = (memory(), TempDir::new().unwrap());
    make_tree(&dir.path().join("tree"));
    let published = publish_one(store.clone(), &dir.path().join("tree"), Settings::default()).await;
    let [path] = &published.paths[..] else { panic!("{published:?}") };
    let nar = nar_of(&dir.path().join("tree"));
    assert_eq!(published_nar(&*store, path), nar);
    assert_eq!(path.narinfo.nar_hash(), NarHash::of(&nar));
    assert_eq!(path.narinfo.store_path().name(), "tree");
    assert!(!path.reused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_this_machine_comes_back_as_its_nar() {
    let python = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("python3.") && path.join("json").is_dir()
    });
    let dir = TempDir::new().unwrap();
    let tree = match python {
        Some(python) => python.join("json"),
        None => {
            make_tree(&dir.path().join("tree"));
            dir.path().join("tree")
        }
    };
    let store = memory();
    let published = publish_one(store.clone(), &tree, Settings::default()).await;
    assert_eq!(published_nar(&*store, &published.paths[0]), nar_of(&tree));
}

/// Restores a sample, publishes it and compares with what the narinfo of a real publisher says.
async fn same_as_the_real_one(nar: &str, narinfo: &str, store_dir: &str) -> Narinfo {
    let theirs = Narinfo::parse(&fs::read(sample(narinfo)).unwrap()).unwrap();
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join(theirs.store_path().name());
    restore(&fs::read(sample(nar)).unwrap(), &tree);
    let settings = Settings { store_dir: Some(store_dir.parse().unwrap()), ..Settings::default() };
    let ours = publish_one(memory(), &tree, settings).await.paths.remove(0).narinfo;
    assert_eq!(ours.store_path(), theirs.store_path());
    assert_eq!(ours.store_dir(), theirs.store_dir());
    assert_eq!(ours.nar_hash(), theirs.nar_hash());
    assert_eq!(ours.nar_size(), theirs.nar_size());
    assert_eq!(ours.references(), theirs.references());
    assert_eq!(ours.deriver(), theirs.deriver());
    if theirs.ca().is_some() {
        assert_eq!(ours.ca(), theirs.ca());
    }
    ours
}

#[tokio::test]
async fn what_guix_added_gets_the_same_store_path() {
    for (nar, hash_part) in [
        ("nar/tree.nar", "xd1rjhrh2iwavikvfqz94i51ni40y17j"),
        ("nar/guix-exe-file.nar", "apmkjd13xh5bkxkcxs326kllxsszw09j"),
    ] {
        let narinfo = format!("guix/uncached/{hash_part}.narinfo");
        same_as_the_real_one(nar, &narinfo, "/gnu/store").await;
    }
}

#[tokio::test]
async fn what_nix_added_gets_the_same_store_path_and_content_address() {
    let narinfo = "nix/none/pgrawpvabzgfv20fap3h5994n80h2x6a.narinfo";
    let ours = same_as_the_real_one("nar/tree.nar", narinfo, "/nix/store").await;
    assert!(ours.ca().is_some_and(|ca| ca.starts_with("fixed:r:sha256:")));
}

#[tokio::test]
async fn the_directory_of_narinfos_is_a_substitute_server() {
    let dir = TempDir::new().unwrap();
    restore(&fs::read(sample("nar/tree.nar")).unwrap(), &dir.path().join("tree"));
    let cache = dir.path().join("cache");
    let settings = Settings { narinfo: Some(cache.clone()), ..nix() };
    let published = publish_one(memory(), &dir.path().join("tree"), settings).await;
    let [path] = &published.paths[..] else { panic!("{published:?}") };
    let hash_part = "pgrawpvabzgfv20fap3h5994n80h2x6a";
    let written = fs::read_to_string(cache.join(format!("{hash_part}.narinfo"))).unwrap();
    assert_eq!(written, path.narinfo.as_str());
    assert!(written.contains(&format!("URL: nar/{hash_part}.nar.zst\nCompression: zstd\n")), "{written}");
    let eris = &path.narinfo.eris()[0];
    assert_eq!(eris.urn, path.capability.to_string());
    assert_eq!(eris.format.as_deref(), Some("application/x-nix-archive+zstd"));
    assert_eq!(fs::read_to_string(cache.join("nix-cache-info")).unwrap(), "StoreDir: /nix/store\n");
    let listing = fs::read(cache.join(format!("{hash_part}.ls"))).unwrap();
    let theirs = fs::read(sample("nar/tree.ls")).unwrap();
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(json(&listing), json(&theirs));
    let mode = fs::metadata(cache.join(format!("{hash_part}.narinfo"))).unwrap().permissions().mode();
    assert_eq!(mode & 0o400, 0o400);
    let names = fs::read_dir(&cache).unwrap().count();
    assert_eq!(names, 3, "nothing else lies there");
}

fn nix() -> Settings {
    Settings { store_dir: Some("/nix/store".parse().unwrap()), ..Settings::default() }
}

#[tokio::test]
async fn put_gives_what_the_encoder_gives_and_stores_it() {
    for (length, block_size) in
        [(0, BlockSize::Small), (100_000, BlockSize::Small), (3_000_000, BlockSize::Large)]
    {
        let (store, bytes) = (memory(), noise(length));
        let mut encoder = Encoder::new(block_size, ConvergenceSecret::NULL);
        encoder.push(&bytes);
        let (expected, _) = encoder.finish();
        let reader = Box::new(std::io::Cursor::new(bytes.clone()));
        let capability =
            publish::put(store.clone(), reader, block_size, ConvergenceSecret::NULL).await.unwrap();
        assert_eq!(capability, expected);
        assert_eq!(content(&*store, &capability), bytes);
    }
}

#[tokio::test]
async fn equal_blocks_of_a_content_are_put_once_a_batch() {
    let store = memory();
    let zeros = Box::new(std::io::repeat(0));
    let zeros = Box::new(std::io::Read::take(zeros, 32 << 20));
    publish::put(store.clone(), zeros, BlockSize::Large, ConvergenceSecret::NULL).await.unwrap();
    assert!(store.counts().blocks_put() < 100, "{} of 1024 blocks", store.counts().blocks_put());
}
