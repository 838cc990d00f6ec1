//! Store paths on this disk: what a prefetch brings is what a read without network needs, and a check tells it beforehand.

#[path = "support/noise.rs"]
mod noise;
#[path = "support/shelf.rs"]
mod shelf;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use erisfs::block::{BlockStore, Counted, Disk, DiskSettings, Fault, Faulty};
use erisfs::content::{Content, Deadline, Fetch, Limits};
use erisfs::eris::{ReadCapability, Reference};
use erisfs::offline::{Error, Event, Observer, Offline, Order, Prefetched, Report};
use erisfs::store::StorePath;
use erisfs::tree::{Catalog, Catalogs, Inode, Settings, Tree};
use noise::noise;
use shelf::Shelf;
use tempfile::TempDir;

const WAIT: Duration = Duration::from_secs(20);

fn soon() -> Deadline {
    Deadline::after(WAIT)
}

struct Nobody;

impl Observer for Nobody {
    fn observe(&self, _: Event) {}
}

/// Two store paths, `app` (which refers to `lib`) and `lib`, and an empty cache.
struct Scene {
    shelf: Shelf,
    app: StorePath,
    lib: StorePath,
    catalog: ReadCapability,
    cache: TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_, _, _| {})
    }

    fn with(change: impl FnOnce(&mut Shelf, &StorePath, &StorePath)) -> Self {
        let mut shelf = Shelf::new();
        let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        fs::create_dir(one.path().join("share")).unwrap();
        fs::write(one.path().join("share/a"), noise(600_000)).unwrap();
        fs::write(one.path().join("share/b"), &noise(1_000_000)[600_000..]).unwrap();
        fs::write(one.path().join("small"), "a few words").unwrap();
        fs::write(other.path().join("lib.so"), &noise(1_300_000)[1_000_000..]).unwrap();
        let app = shelf.add("app", one.path());
        let lib = shelf.add_plain("lib", other.path());
        shelf.refer(&app, std::slice::from_ref(&lib));
        change(&mut shelf, &app, &lib);
        let catalog = shelf.catalog();
        Scene { shelf, app, lib, catalog, cache: TempDir::new().unwrap() }
    }

    fn disk(&self) -> Disk {
        Disk::open(self.cache.path(), DiskSettings { size: 64 << 20, free_floor: 0, resize: true }).unwrap()
    }

    fn offline(&self) -> Offline {
        Offline::new(self.disk(), vec![self.catalog], WAIT)
    }

    async fn prefetch(&self, paths: &[&str], order: Order) -> Prefetched {
        self.prefetch_from(self.shelf.blocks.clone(), paths, order).await
    }

    async fn prefetch_from(&self, store: Arc<dyn BlockStore>, paths: &[&str], order: Order) -> Prefetched {
        self.offline().prefetch(store, &texts(paths), order, &Nobody).await.unwrap()
    }

    async fn check(&self, paths: &[&str]) -> Report {
        self.offline().check(&texts(paths), false).await.unwrap()
    }

    /// The view, by what is in the cache alone.
    async fn tree(&self) -> Tree {
        let fetch = Fetch::new(Arc::new(self.disk()), 1 << 20);
        let catalog = Catalog::open(fetch.clone(), self.catalog, soon()).await.unwrap();
        Tree::new(fetch, Catalogs::new(vec![catalog]), Settings::default())
    }

    /// A file of it, by what is in the cache alone.
    async fn read(&self, path: &str) -> Result<Vec<u8>, erisfs::tree::Error> {
        let tree = self.tree().await;
        let mut at = tree.attr(Inode::ROOT, soon()).await?;
        for name in path.split('/') {
            at = tree.lookup(at.inode, name.as_bytes(), soon()).await?.expect("it is there");
        }
        Ok(tree.read(at.inode, 0, at.size as u32, soon()).await?.to_vec())
    }

    /// The first leaf of a store path.
    async fn leaf_of(&self, path: &StorePath) -> Reference {
        let urn = &self.shelf.narinfo(path).eris()[0].urn;
        let fetch = Fetch::new(self.shelf.blocks.clone(), 1 << 20);
        let limits = Limits { length: u64::MAX, tail: 0 };
        let content = Content::open(fetch, urn.parse().unwrap(), limits, soon()).await.unwrap();
        let mut inventory = Arc::new(content).inventory(0..u64::MAX);
        loop {
            let batch = inventory.next(soon()).await.expect("it has leaves");
            if let Some(leaf) = batch.leaves.first() {
                return leaf.reference;
            }
        }
    }

    /// All blocks of a store path.
    async fn blocks_of(&self, path: &StorePath) -> HashSet<Reference> {
        let urn = &self.shelf.narinfo(path).eris()[0].urn;
        let fetch = Fetch::new(self.shelf.blocks.clone(), 1 << 20);
        let limits = Limits { length: u64::MAX, tail: 0 };
        let content = Content::open(fetch, urn.parse().unwrap(), limits, soon()).await.unwrap();
        let mut inventory = Arc::new(content).inventory(0..u64::MAX);
        let mut blocks = HashSet::new();
        while let Some(batch) = inventory.next(soon()).await {
            blocks.extend(batch.nodes);
            blocks.extend(batch.leaves.iter().map(|leaf| leaf.reference));
        }
        blocks
    }
}

fn texts(paths: &[&str]) -> Vec<OsString> {
    paths.iter().map(OsString::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_prefetched_is_complete_and_can_be_read_alone() {
    let scene = Scene::new();
    let (app, lib) = (scene.app.to_string(), scene.lib.to_string());
    let done = scene.prefetch(&[&app], Order::default()).await;
    assert!(done.losses.is_empty() && done.report.is_complete(), "{done:?}");

    let report = scene.check(&[&app, &lib]).await;
    assert!(!report.is_complete());
    let (here, away) = (&report.paths[0], &report.paths[1]);
    assert_eq!((here.name.as_str(), here.missing_bytes, here.missing_blocks), (app.as_str(), 0, 0));
    assert_eq!(here.blocks, scene.blocks_of(&scene.app).await.len() as u64);
    let size = scene.shelf.narinfo(&scene.lib).downloads()[0].file_size.unwrap();
    assert_eq!((away.bytes, away.missing_bytes, away.estimated), (size, size, true));
    assert_eq!(away.missing_blocks, scene.blocks_of(&scene.lib).await.len() as u64);

    assert_eq!(scene.read(&format!("{app}/share/a")).await.unwrap(), noise(600_000));
    assert!(scene.read(&format!("{lib}/lib.so")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_asked_for_again() {
    let scene = Scene::new();
    let app = scene.app.to_string();
    let first = scene.prefetch(&[&app], Order::default()).await;
    assert!(first.blocks > 20, "{}", first.blocks);
    let counted = Arc::new(Counted::new(scene.shelf.blocks.clone()));
    let second = scene.prefetch_from(counted.clone(), &[&app], Order::default()).await;
    assert_eq!((second.blocks, counted.counts().requests()), (0, 0));
    assert!(second.report.is_complete());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoiled_block_is_missing_and_is_brought_again() {
    let scene = Scene::new();
    let app = scene.app.to_string();
    scene.prefetch(&[&app], Order::default()).await;
    // A leaf of the store path, and the index goes on to name it: as after a power cut.
    let leaf = scene.leaf_of(&scene.app).await;
    let block = scene.shelf.blocks.get(&leaf).await.unwrap();
    let path = scene.cache.path().join("blocks");
    let mut file = fs::read(&path).unwrap();
    let spoil = |file: &mut Vec<u8>| {
        let at = file.windows(64).position(|bytes| *bytes == block[..64]).expect("it is kept");
        file[at] ^= 1;
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .write_all_at(&file[at..at + 1], at as u64)
            .unwrap();
    };
    spoil(&mut file);
    assert!(scene.disk().contains(&leaf));
    let report = scene.check(&[&app]).await;
    assert_eq!((report.is_complete(), report.paths[0].missing_blocks), (false, 1));

    let again = scene.prefetch(&[&app], Order::default()).await;
    assert_eq!((again.blocks, again.report.is_complete()), (1, true));
    // And where nobody looked before.
    spoil(&mut fs::read(&path).unwrap());
    let again = scene.prefetch(&[&app], Order::default()).await;
    assert_eq!((again.blocks, again.report.is_complete()), (1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_that_was_broken_off_goes_on_where_it_was() {
    let scene = Scene::new();
    let app = scene.app.to_string();
    // Nothing comes after the first blocks: the source falls silent, and the future is dropped.
    let blocks: Vec<_> = scene.blocks_of(&scene.app).await.into_iter().collect();
    let fault = Arc::new(Fault::new(scene.shelf.blocks.clone()));
    let silent: Vec<_> = scene.blocks_of(&scene.app).await.into_iter().skip(blocks.len() / 2).collect();
    let urn: ReadCapability = scene.shelf.narinfo(&scene.app).eris()[0].urn.parse().unwrap();
    silent.iter().filter(|one| **one != urn.reference).for_each(|one| fault.set(*one, Faulty::Silent));
    let offline = scene.offline();
    let paths = texts(&[&app]);
    let work = offline.prefetch(fault, &paths, Order::default(), &Nobody);
    assert!(tokio::time::timeout(Duration::from_secs(2), work).await.is_err());

    let here = blocks.iter().filter(|reference| scene.disk().contains(reference)).count() as u64;
    let done = scene.prefetch(&[&app], Order::default()).await;
    assert!(done.report.is_complete());
    assert!(
        done.blocks <= blocks.len() as u64 - here,
        "{} of {}, {here} were here",
        done.blocks,
        blocks.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_cannot_be_had_is_a_loss_and_everything_else_comes() {
    let scene = Scene::new();
    let (app, lib) = (scene.app.to_string(), scene.lib.to_string());
    let urn: ReadCapability = scene.shelf.narinfo(&scene.app).eris()[0].urn.parse().unwrap();
    // A leaf in the middle.
    let fetch = Fetch::new(scene.shelf.blocks.clone(), 1 << 20);
    let limits = Limits { length: u64::MAX, tail: 0 };
    let content = Arc::new(Content::open(fetch, urn, limits, soon()).await.unwrap());
    let leaf = content.inventory(100_000..100_001).next(soon()).await.unwrap().leaves[0].reference;
    let fault = Arc::new(Fault::new(scene.shelf.blocks.clone()));
    fault.set(leaf, Faulty::Missing);

    let done = scene.prefetch_from(fault, &[&app, &lib], Order::default()).await;
    assert_eq!(done.losses.len(), 1);
    assert_eq!((done.losses[0].name.as_str(), done.losses[0].blocks), (app.as_str(), 1));
    let held = &done.report.paths[0];
    assert_eq!((held.missing_blocks, held.missing_bytes, held.estimated), (1, 32 * 1024, false));
    assert!(done.report.paths[1].is_complete());
    let again = scene.check(&[&app]).await;
    assert_eq!((again.paths[0].missing_blocks, again.paths[0].bytes), (1, content.length()));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_network_is_gone_not_every_block_is_tried() {
    let mut shelf = Shelf::new();
    let tree = TempDir::new().unwrap();
    fs::write(tree.path().join("large"), noise(12 << 20)).unwrap();
    let path = shelf.add("large", tree.path());
    let (catalog, cache) = (shelf.catalog(), TempDir::new().unwrap());
    let scene = Scene { app: path.clone(), lib: path.clone(), shelf, catalog, cache };
    // What opening it takes is there, and of the rest nothing can be had just now.
    let urn: ReadCapability = scene.shelf.narinfo(&path).eris()[0].urn.parse().unwrap();
    let fault = Arc::new(Fault::new(scene.shelf.blocks.clone()));
    let fetch = Fetch::new(scene.shelf.blocks.clone(), 1 << 20);
    let limits = Limits { length: u64::MAX, tail: 0 };
    let content = Arc::new(Content::open(fetch, urn, limits, soon()).await.unwrap());
    let last = content.inventory(content.length() - 1..u64::MAX).next(soon()).await.unwrap();
    let needed: HashSet<_> = last.leaves.iter().map(|leaf| leaf.reference).chain(last.nodes).collect();
    let blocks = scene.blocks_of(&path).await;
    blocks.difference(&needed).for_each(|reference| fault.set(*reference, Faulty::Unavailable));

    let done = scene.prefetch_from(fault, &[&path.to_string()], Order::default()).await;
    assert!(!done.report.is_complete());
    assert!(done.losses[0].blocks < 200, "{} of {}", done.losses[0].blocks, blocks.len());
    assert_eq!(done.report.paths[0].missing_blocks, (blocks.len() - needed.len()) as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_part_comes_only_what_holds_it() {
    let scene = Scene::new();
    let (app, part) = (scene.app.to_string(), format!("{}/share/b", scene.app));
    let done = scene.prefetch(&[&part], Order::default()).await;
    assert!(done.report.is_complete(), "{done:?}");
    assert_eq!(done.report.paths[0].name, part);
    assert_eq!(scene.read(&part).await.unwrap(), &noise(1_000_000)[600_000..]);
    assert!(scene.read(&format!("{app}/share/a")).await.is_err());

    let report = scene.check(&[&part, &app]).await;
    // Of the two, the whole stands for both.
    assert_eq!(report.paths.len(), 1);
    let whole = &report.paths[0];
    assert!(whole.missing_bytes > 400_000 && whole.missing_bytes < 700_000, "{whole:?}");
    assert!(scene.check(&[&part]).await.is_complete());

    let error = scene.check(&[&format!("{app}/nothing")]).await;
    assert!(error.paths[0].fault.as_ref().unwrap().contains("no such file"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_is_all_that_is_referred_to_and_what_nobody_lists_is_named() {
    let unlisted: StorePath = "0123456789abcdfghijklmnpqrsvwxyz-elsewhere".parse().unwrap();
    let scene = Scene::with(|shelf, app, lib| {
        // In a circle, and out of the catalog.
        shelf.refer(lib, &[app.clone(), lib.clone(), unlisted.clone()]);
    });
    let order = Order { closure: true, ..Order::default() };
    let done = scene.prefetch(&[&scene.app.to_string()], order).await;
    let names: Vec<_> = done.report.paths.iter().map(|held| held.name.as_str()).collect();
    assert_eq!(names, [scene.app.to_string(), scene.lib.to_string()]);
    assert!(done.report.paths.iter().all(|held| held.is_complete()));
    assert!(!done.report.is_complete());
    assert_eq!(done.report.absent.len(), 1);
    let absent = &done.report.absent[0];
    assert_eq!(absent.name, unlisted.to_string());
    assert!(absent.reason.contains(&scene.lib.to_string()), "{absent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_is_pinned_with_the_catalog_that_leads_to_it() {
    let scene = Scene::new();
    let (app, order) = (scene.app.to_string(), Order { pin: true, ..Order::default() });
    scene.prefetch(&[&app], order).await;
    let pins = scene.disk().pins().unwrap();
    let pin = pins.iter().find(|pin| pin.name == app).expect("pinned under its name");
    assert_eq!((pin.blocks, pin.missing), (scene.blocks_of(&scene.app).await.len() as u64, 0));
    let catalog = pins.iter().find(|pin| pin.name.starts_with("catalog ")).expect("the catalog too");
    assert!(catalog.blocks > 0 && catalog.missing == 0);
    assert_eq!(pins.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_into_the_cache_is_refused_before_it_is_fetched() {
    let mut shelf = Shelf::new();
    let tree = TempDir::new().unwrap();
    fs::write(tree.path().join("large"), noise(9 << 20)).unwrap();
    let path = shelf.add("large", tree.path()).to_string();
    let (catalog, cache) = (shelf.catalog(), TempDir::new().unwrap());
    let disk = Disk::open(cache.path(), DiskSettings { size: 8 << 20, free_floor: 0, resize: true }).unwrap();
    let counted = Arc::new(Counted::new(shelf.blocks.clone()));
    let offline = Offline::new(disk, vec![catalog], WAIT);
    let refused = offline.prefetch(counted.clone(), &texts(&[&path]), Order::default(), &Nobody).await;
    assert!(matches!(refused, Err(Error::TooSmall { .. })), "{refused:?}");
    assert!(counted.counts().blocks() < 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_catalog_nothing_is_here() {
    let scene = Scene::new();
    let refused = scene.offline().check(&texts(&[&scene.app.to_string()]), false).await;
    assert!(matches!(refused, Err(Error::Tree(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_serves_after_it_was_opened_anew() {
    let scene = Scene::new();
    let app = scene.app.to_string();
    scene.prefetch(&[&app], Order { closure: true, ..Order::default() }).await;
    let moved = TempDir::new().unwrap();
    // As if on another day: another process opens the same files.
    copy(scene.cache.path(), moved.path());
    let disk =
        Disk::open(moved.path(), DiskSettings { size: 64 << 20, free_floor: 0, resize: true }).unwrap();
    let offline = Offline::new(disk, vec![scene.catalog], WAIT);
    assert!(offline.check(&texts(&[&app]), true).await.unwrap().is_complete());
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => {
                fs::create_dir_all(&target).unwrap();
                copy(&entry.path(), &target);
            }
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
