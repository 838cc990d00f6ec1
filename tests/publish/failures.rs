//! What goes wrong ends the work, says where, and leaves nothing false behind.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use erisfs::block::{Block, BlockStore, Error, Refusal};
use erisfs::eris::Reference;
use erisfs::publish::{self, Event, Observer, Settings};
use tempfile::TempDir;

use crate::{make_tree, memory, message, nar_of, noise, publish_one, published_nar, refusal};

/// A store that takes so many batches of blocks and then refuses them, or never answers. Counts how often it is synced.
#[derive(Debug)]
struct Limited {
    inner: Arc<dyn BlockStore>,
    batches: AtomicU64,
    silent: bool,
    syncs: AtomicU64,
}

fn limited(inner: Arc<dyn BlockStore>, batches: u64, silent: bool) -> Arc<Limited> {
    Arc::new(Limited { inner, batches: AtomicU64::new(batches), silent, syncs: AtomicU64::new(0) })
}

#[async_trait]
impl BlockStore for Limited {
    fn name(&self) -> &str {
        "limited:"
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        self.inner.get(reference).await
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        self.inner.has(reference).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.put_many(vec![(*reference, block)]).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        if self.batches.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            return self.inner.put_many(blocks).await;
        }
        if self.silent {
            std::future::pending::<()>().await;
        }
        Err(Error::Refused { store: self.name().into(), reason: Refusal::ReadOnly })
    }

    async fn sync(&self) -> Result<(), Error> {
        self.syncs.fetch_add(1, Relaxed);
        self.inner.sync().await
    }

    fn concurrency(&self) -> usize {
        4
    }
}

/// Counts the bytes that were read, and does something when packing begins.
struct Watch<F> {
    read: AtomicU64,
    packing: F,
}

impl<F: Fn() + Send + Sync> Observer for Watch<F> {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Read { bytes } => drop(self.read.fetch_add(bytes, Relaxed)),
            Event::Packing { .. } => (self.packing)(),
            _ => {}
        }
    }
}

fn tree() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    (dir, tree)
}

#[tokio::test]
async fn a_tree_that_changes_between_the_readings_is_refused() {
    let (dir, tree) = tree();
    let file = tree.join("bin/run");
    let packing = move || fs::write(&file, "#!/bin/ls\n").unwrap();
    let observer = Arc::new(Watch { read: AtomicU64::new(0), packing });
    let settings = Settings { narinfo: Some(dir.path().join("cache")), ..Settings::default() };
    let error = publish::publish(memory(), vec![tree.clone()], settings, observer).await.unwrap_err();
    assert!(matches!(&error, publish::Error::Changed { path } if *path == tree), "{error:?}");
    assert!(message(&error).contains("changed while it was read"));
    assert_eq!(fs::read_dir(dir.path().join("cache")).unwrap().count(), 1, "nix-cache-info alone");
}

#[tokio::test]
async fn a_socket_is_refused_by_its_name() {
    let (_dir, tree) = tree();
    let _socket = UnixListener::bind(tree.join("bin/socket")).unwrap();
    let refused = refusal(memory(), &[&tree], Settings::default()).await;
    assert!(refused.contains("tree/bin/socket is a socket"), "{refused}");
}

#[tokio::test]
async fn a_path_that_is_not_there_is_named() {
    let refused = refusal(memory(), &["/no/such/path".as_ref()], Settings::default()).await;
    assert!(refused.starts_with("/no/such/path cannot be read: No such file"), "{refused}");
}

#[tokio::test]
async fn a_store_that_fails_ends_the_work_and_is_named() {
    let (_dir, tree) = tree();
    for batches in [0, 1] {
        let store = limited(memory(), batches, false);
        let refused = refusal(store, &[&tree], Settings::default()).await;
        assert!(refused.contains("cannot be put: limited: refused"), "{refused}");
        let subject = if batches == 0 { "tree" } else { "the catalog" };
        assert!(refused.split(" cannot").next().unwrap().ends_with(subject), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stalls_stops_the_reading() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("noise"), noise(48 << 20)).unwrap();
    let observer = Arc::new(Watch { read: AtomicU64::new(0), packing: || {} });
    let store = limited(memory(), 0, true);
    let path = vec![dir.path().join("noise")];
    let work = publish::publish(store, path, Settings::default(), observer.clone());
    let work = tokio::spawn(work);
    let mut before = u64::MAX;
    loop {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let read = observer.read.load(Relaxed);
        if read == before && read > 0 {
            break;
        }
        before = read;
    }
    work.abort();
    assert!(before < 32 << 20, "{before} bytes were read for a store that takes none");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_leaves_no_narinfo_and_can_be_repeated() {
    let (dir, tree) = tree();
    let (store, cache) = (memory(), dir.path().join("cache"));
    let settings = Settings {
        narinfo: Some(cache.clone()),
        state: Some(dir.path().join("state.sqlite")),
        ..Settings::default()
    };
    let stalled = limited(store.clone(), 0, true);
    let work = publish::publish(stalled, vec![tree.clone()], settings.clone(), Arc::new(()));
    assert!(
        tokio::time::timeout(Duration::from_secs(2), work).await.is_err(),
        "it must hang to be interrupted"
    );
    let narinfos = || {
        let names = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(".narinfo")).count()
    };
    assert_eq!(narinfos(), 0);
    let published = publish_one(store.clone(), &tree, settings).await;
    assert_eq!(narinfos(), 1);
    assert_eq!(published_nar(&*store, &published.paths[0]), nar_of(&tree));
}

/// Holds the packing of the path `bad` until another is done, and then changes its tree.
struct Spoiler {
    file: PathBuf,
    done: AtomicBool,
}

impl Observer for Spoiler {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Packing { path, .. } if path.name() == "bad" => {
                let end = Instant::now() + Duration::from_secs(20);
                while !self.done.load(SeqCst) && Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(10));
                }
                // Time for the other to come home.
                std::thread::sleep(Duration::from_millis(300));
                fs::write(&self.file, "#!/bin/ls\n").unwrap();
            }
            Event::Done { .. } => self.done.store(true, SeqCst),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_path_that_is_done_stays_published_when_another_fails() {
    let dir = TempDir::new().unwrap();
    let [good, bad] = ["good", "bad"].map(|name| dir.path().join(name));
    make_tree(&good);
    make_tree(&bad);
    let settings = Settings {
        narinfo: Some(dir.path().join("cache")),
        state: Some(dir.path().join("state.sqlite")),
        ..Settings::default()
    };
    let (store, spoiler) = (memory(), Spoiler { file: bad.join("bin/run"), done: AtomicBool::new(false) });
    let paths = vec![good.clone(), bad.clone()];
    let error =
        publish::publish(store.clone(), paths, settings.clone(), Arc::new(spoiler)).await.unwrap_err();
    assert!(matches!(&error, publish::Error::Changed { path } if *path == bad), "{error:?}");
    let names = fs::read_dir(dir.path().join("cache")).unwrap().map(|entry| entry.unwrap().file_name());
    let narinfos: Vec<_> = names.filter(|name| name.to_string_lossy().ends_with(".narinfo")).collect();
    let again = publish_one(store, &good, settings).await;
    assert!(again.paths[0].reused);
    let hash_part = again.paths[0].narinfo.store_path().hash_part();
    assert_eq!(narinfos, [format!("{hash_part}.narinfo").as_str()]);
}

#[tokio::test]
async fn nothing_is_said_to_be_published_without_a_sync() {
    let (dir, tree) = tree();
    let settings = Settings { state: Some(dir.path().join("state.sqlite")), ..Settings::default() };
    let store = limited(memory(), u64::MAX, false);
    publish_one(store.clone(), &tree, settings.clone()).await;
    store.syncs.store(0, Relaxed);
    let again = publish_one(store.clone(), &tree, settings).await;
    assert_eq!(again.blocks, 0);
    // Once for the path, before its narinfo could be written, and once for the catalog.
    assert_eq!(store.syncs.load(Relaxed), 2);
}

#[tokio::test]
async fn a_directory_of_narinfos_belongs_to_one_store() {
    let (dir, tree) = tree();
    let of = |store_dir: &str| Settings {
        narinfo: Some(dir.path().join("cache")),
        store_dir: Some(store_dir.parse().unwrap()),
        ..Settings::default()
    };
    publish_one(memory(), &tree, of("/gnu/store")).await;
    let refused = refusal(memory(), &[&tree], of("/nix/store")).await;
    assert!(refused.contains("nix-cache-info is of the store \"/gnu/store\""), "{refused}");
}
