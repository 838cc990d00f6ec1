//! What is fetched before it is asked for: how much, in which order, and what it costs those who wait.

#[path = "support/noise.rs"]
mod noise;
#[path = "support/shelf.rs"]
mod shelf;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use erisfs::block::{self, Block, BlockStore, Cache, Counted, Counts, Fault, Faulty};
use erisfs::content::{Content, Deadline, Fetch, Limits};
use erisfs::eris::{BlockSize, Reference};
use erisfs::store::{Profile, StorePath};
use erisfs::tree::{Attr, Catalog, Catalogs, Closure, Inode, Settings, Tree};
use noise::noise;
use shelf::Shelf;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// One way of a block, once the store is slow.
const LATENCY: Duration = Duration::from_millis(50);
/// Frames of the shelf.
const FRAME: u64 = 64 << 10;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn quiet() -> Settings {
    Settings { closure: Closure::Never, push: false, ..Settings::default() }
}

struct Stage {
    tree: Tree,
    counts: Arc<Counts>,
    fault: Arc<Fault>,
}

impl Stage {
    async fn new(shelf: &mut Shelf, settings: Settings) -> Self {
        Self::before(shelf, settings, |store| store).await
    }

    async fn before(
        shelf: &mut Shelf,
        settings: Settings,
        source: impl FnOnce(Arc<dyn BlockStore>) -> Arc<dyn BlockStore>,
    ) -> Self {
        let catalog = shelf.catalog();
        let fault = Arc::new(Fault::new(shelf.blocks.clone()));
        let counted = Arc::new(Counted::new(source(fault.clone())));
        let counts = counted.counts();
        let fetch = Fetch::new(Arc::new(Cache::new(counted, 64 << 20)), 1 << 20);
        let catalog = Catalog::open(fetch.clone(), catalog, soon()).await.unwrap();
        Stage { tree: Tree::new(fetch, Catalogs::new(vec![catalog]), settings), counts, fault }
    }

    /// From now on each block takes its time.
    fn slow(&self) {
        self.fault.set_all(Faulty::Slow(LATENCY));
    }

    async fn find(&self, path: &StorePath, below: &str) -> Attr {
        let mut at = self.tree.attr(Inode::ROOT, soon()).await.unwrap();
        let path = path.to_string();
        for name in [&path[..]].into_iter().chain(below.split('/').filter(|name| !name.is_empty())) {
            at = self.tree.lookup(at.inode, name.as_bytes(), soon()).await.unwrap().unwrap();
        }
        at
    }

    async fn read(&self, attr: Attr, offset: u64, size: u32) -> Vec<u8> {
        self.tree.read(attr.inode, offset, size, soon()).await.unwrap().to_vec()
    }

    /// Reads all of a file as the kernel does, 128 KiB at a time.
    async fn read_all(&self, attr: Attr) -> Vec<u8> {
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < attr.size {
            bytes.extend(self.read(attr, bytes.len() as u64, 128 << 10).await);
        }
        bytes
    }

    /// Waits until nothing is under way any more.
    async fn settle(&self) {
        let idle = async {
            let mut still = 0;
            while still < 5 {
                sleep(Duration::from_millis(10)).await;
                let in_flight = self.tree.status().in_flight;
                still = if in_flight.foreground + in_flight.ahead + in_flight.waiting == 0 {
                    still + 1
                } else {
                    0
                };
            }
        };
        timeout(Duration::from_secs(60), idle).await.expect("what was begun ends");
    }
}

/// A store that bears so many requests at a time.
#[derive(Debug)]
struct Narrow(Arc<dyn BlockStore>, usize);

#[async_trait::async_trait]
impl BlockStore for Narrow {
    fn name(&self) -> &str {
        self.0.name()
    }
    async fn get(&self, reference: &Reference) -> Result<Block, block::Error> {
        self.0.get(reference).await
    }
    async fn has(&self, reference: &Reference) -> Result<bool, block::Error> {
        self.0.has(reference).await
    }
    async fn put(&self, reference: &Reference, block: Block) -> Result<(), block::Error> {
        self.0.put(reference, block).await
    }
    async fn sync(&self) -> Result<(), block::Error> {
        self.0.sync().await
    }
    fn concurrency(&self) -> usize {
        self.1
    }
}

struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 20) % limit
    }
}

/// A directory with one file of noise, and many small ones.
fn specimen(large: usize, small: usize) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("large"), noise(large)).unwrap();
    fs::create_dir(dir.path().join("small")).unwrap();
    for number in 0..small {
        fs::write(dir.path().join(format!("small/{number:05}")), noise(3000 + number % 1000)).unwrap();
    }
    dir
}

#[tokio::test(start_paused = true)]
async fn a_read_in_the_middle_of_a_thousand_prefetched_blocks_takes_its_own_time_alone() {
    let shelf = Shelf::new();
    let [wanted, prefetched] = [1, 2].map(|seed| {
        let bytes: Vec<u8> = noise(34 << 20).iter().map(|byte| byte ^ seed).collect();
        shelf.put(&bytes, BlockSize::Large)
    });
    let fault = Arc::new(Fault::new(shelf.blocks.clone()));
    let fetch = Fetch::new(Arc::new(Cache::new(fault.clone(), 64 << 20)), 1 << 20);
    let limits = Limits { length: u64::MAX, tail: 0 };
    let [wanted, prefetched] = [
        Arc::new(Content::open(fetch.clone(), wanted, limits, soon()).await.unwrap()),
        Arc::new(Content::open(fetch.clone(), prefetched, limits, soon()).await.unwrap()),
    ];
    // The interior nodes of both.
    for content in [&wanted, &prefetched] {
        content.read_at(0..1, soon()).await.unwrap();
        content.read_at((33 << 20)..(33 << 20) + 1, soon()).await.unwrap();
    }
    fault.set_all(Faulty::Slow(LATENCY));
    let begun = Instant::now();
    let queue = {
        let prefetched = prefetched.clone();
        tokio::spawn(async move { prefetched.warm(0..1000 * 32 * 1024, soon().ahead()).await })
    };
    sleep(LATENCY * 3 / 2).await;
    let in_flight = fetch.gate().in_flight();
    assert!(in_flight.ahead >= 50 && in_flight.ahead < fault.concurrency(), "{in_flight:?}");
    let asked = Instant::now();
    wanted.read_at(64 * 1024..96 * 1024, soon()).await.unwrap();
    assert_eq!(asked.elapsed(), LATENCY);
    // A block that the prefetch has not asked for yet is asked for at once.
    let asked = Instant::now();
    prefetched.read_at(999 * 32 * 1024..1000 * 32 * 1024, soon()).await.unwrap();
    assert_eq!(asked.elapsed(), LATENCY);
    assert!(!queue.is_finished());
    queue.await.unwrap().unwrap();
    assert!(begun.elapsed() <= LATENCY * 22, "1000 blocks, 56 at a time: {:?}", begun.elapsed());
    assert_eq!(fetch.gate().in_flight(), Default::default());
}

#[tokio::test(start_paused = true)]
async fn what_is_fetched_ahead_and_dropped_leaves_the_gate() {
    let shelf = Shelf::new();
    let urn = shelf.put(&noise(8 << 20), BlockSize::Large);
    let fault = Arc::new(Fault::new(shelf.blocks.clone()));
    let fetch = Fetch::new(Arc::new(Cache::new(fault.clone(), 64 << 20)), 1 << 20);
    let limits = Limits { length: u64::MAX, tail: 0 };
    let content = Content::open(fetch.clone(), urn, limits, soon()).await.unwrap();
    fault.set_all(Faulty::Silent);
    assert!(timeout(LATENCY, content.warm(0..8 << 20, soon().ahead())).await.is_err());
    assert_eq!(fetch.gate().in_flight(), Default::default());
}

#[tokio::test]
async fn random_reads_of_frames_fetch_little_besides() {
    let (mut shelf, disk) = (Shelf::new(), specimen(64 << 20, 0));
    let path = shelf.add("frames", disk.path());
    let stage = Stage::new(&mut shelf, quiet()).await;
    let large = stage.find(&path, "large").await;
    stage.read(large, 0, 1).await;
    stage.settle().await;
    let (before, mut numbers) = (stage.counts.bytes(), Numbers(3));
    let mut touched = std::collections::HashSet::new();
    for _ in 0..400 {
        let at = numbers.below((64 << 20) - 4096);
        touched.extend([at / FRAME, (at + 4095) / FRAME]);
        stage.read(large, at, 4096).await;
    }
    stage.settle().await;
    // Noise does not compress, and a frame lies in one block more than it fills.
    let needed = touched.len() as u64 * (FRAME + 32 * 1024);
    let fetched = stage.counts.bytes() - before;
    assert!(fetched * 10 <= needed * 13, "{fetched} bytes for {} frames", touched.len());
}

#[tokio::test]
async fn random_reads_of_a_plain_nar_fetch_little_besides() {
    let (mut shelf, disk) = (Shelf::new(), specimen(64 << 20, 0));
    let path = shelf.add_plain("plain", disk.path());
    let stage = Stage::new(&mut shelf, quiet()).await;
    let large = stage.find(&path, "large").await;
    stage.read(large, 0, 1).await;
    stage.settle().await;
    let (before, mut numbers) = (stage.counts.bytes(), Numbers(5));
    for _ in 0..400 {
        // As large as what the kernel reads around a page fault.
        stage.read(large, numbers.below((64 << 20) - (128 << 10)), 128 << 10).await;
    }
    stage.settle().await;
    let (needed, fetched) = (400 * (128 + 32) * 1024, stage.counts.bytes() - before);
    assert!(fetched * 10 <= needed * 13, "{fetched} bytes for {needed}");
}

#[tokio::test(start_paused = true)]
async fn a_sequential_read_is_as_fast_as_the_store_bears() {
    let (mut shelf, disk) = (Shelf::new(), specimen(48 << 20, 0));
    let paths = [shelf.add("frames", disk.path()), shelf.add_plain("plain", disk.path())];
    for path in paths {
        let stage = Stage::new(&mut shelf, quiet()).await;
        let large = stage.find(&path, "large").await;
        stage.slow();
        let begun = Instant::now();
        assert!(stage.read_all(large).await == noise(48 << 20));
        // 56 of 64 requests of 32 KiB at a time, once the window is open.
        let ideal = LATENCY * (48 * 32 / 56);
        assert!(
            begun.elapsed() <= ideal * 11 / 10 + LATENCY * 12,
            "{:?}, {ideal:?} at best",
            begun.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn reading_every_small_file_in_order_is_nearly_as_fast_as_fetching_the_whole() {
    let (mut shelf, disk) = (Shelf::new(), specimen(1, 4000));
    let path = shelf.add("small", disk.path());
    let stage = Stage::new(&mut shelf, quiet()).await;
    let small = stage.find(&path, "small").await;
    let entries = stage.tree.read_dir(small.inode, 2, 5000, soon()).await.unwrap();
    assert_eq!(entries.len(), 4000);
    stage.slow();
    let begun = Instant::now();
    let mut bytes = 0;
    for entry in entries {
        bytes += stage.read_all(entry.attr).await.len();
    }
    let eager = LATENCY * (bytes as u32 / (32 * 1024) / 56 + 1);
    assert!(begun.elapsed() <= eager * 11 / 10 + LATENCY * 8, "{:?}, {eager:?} at best", begun.elapsed());
}

#[tokio::test]
async fn reading_some_small_files_here_and_there_fetches_their_frames_alone() {
    let (mut shelf, disk) = (Shelf::new(), specimen(1, 4000));
    let path = shelf.add("small", disk.path());
    let stage = Stage::new(&mut shelf, quiet()).await;
    stage.read(stage.find(&path, "small/00000").await, 0, 1).await;
    stage.settle().await;
    let (before, mut numbers) = (stage.counts.bytes(), Numbers(11));
    let mut touched = std::collections::HashSet::new();
    for _ in 0..60 {
        let number = numbers.below(4000);
        let file = stage.find(&path, &format!("small/{number:05}")).await;
        stage.read_all(file).await;
        // Files are 3.5 KB with about 250 bytes of headers.
        touched.insert(number * 3750 / FRAME);
    }
    stage.settle().await;
    let fetched = stage.counts.bytes() - before;
    let needed = (touched.len() as u64 + 6) * (FRAME + 32 * 1024);
    assert!(fetched * 10 <= needed * 13, "{fetched} bytes for {} frames", touched.len());
}

/// Reads as a program does that starts: here and there in several store paths.
async fn start(stage: &Stage, paths: &[StorePath]) -> Vec<u8> {
    let mut read = Vec::new();
    for path in paths {
        let large = stage.find(path, "large").await;
        for at in [0, 1_000_000, 500_000, 1_900_000] {
            read.extend(stage.read(large, at, 4096).await);
        }
        let small = stage.find(path, "small/00007").await;
        read.extend(stage.read(small, 0, 4096).await);
    }
    read
}

fn library(shelf: &mut Shelf, count: usize) -> Vec<StorePath> {
    let disk = specimen(2_000_000, 40);
    (0..count)
        .map(|number| {
            fs::write(disk.path().join("number"), number.to_string()).unwrap();
            shelf.add(&format!("library-{number}"), disk.path())
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_start_with_a_profile_waits_much_less() {
    let mut shelf = Shelf::new();
    let paths = library(&mut shelf, 6);
    let profiles = TempDir::new().unwrap();
    let settings = Settings { profiles: Some(profiles.path().to_owned()), ..quiet() };
    let mut took = Vec::new();
    for _ in 0..2 {
        let stage = Stage::new(&mut shelf, settings.clone()).await;
        stage.tree.start_recording(None);
        stage.slow();
        let begun = Instant::now();
        start(&stage, &paths).await;
        took.push(begun.elapsed());
        let profile = stage.tree.stop_recording().unwrap();
        assert_eq!(profile.path(), &paths[0]);
        stage.tree.profiles().unwrap().save(&profile).unwrap();
    }
    assert!(took[1] * 3 <= took[0], "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_replay_of_many_paths_over_a_narrow_store_goes_on_and_keeps_nobody_waiting() {
    let (mut shelf, disk) = (Shelf::new(), TempDir::new().unwrap());
    let paths: Vec<StorePath> = (0..41)
        .map(|seed: u8| {
            let bytes: Vec<u8> = noise(600_000).iter().map(|byte| byte ^ seed).collect();
            fs::write(disk.path().join("large"), bytes).unwrap();
            shelf.add(&format!("library-{seed}"), disk.path())
        })
        .collect();
    let stage = Stage::before(&mut shelf, quiet(), |store| Arc::new(Narrow(store, 16))).await;
    let other = stage.find(&paths[40], "large").await;
    stage.slow();
    let mut profile = Profile::new(paths[0].clone());
    for path in &paths[..40] {
        for number in 0..100 {
            assert!(profile.add(path, Some(number * 6000..number * 6000 + 4096)));
        }
    }
    let begun = Instant::now();
    stage.tree.replay(profile);
    sleep(LATENCY * 41 / 2).await;
    assert!(stage.tree.status().in_flight.ahead > 0);
    let asked = Instant::now();
    stage.read(other, 100_000, 10).await;
    assert!(asked.elapsed() <= LATENCY * 2, "{:?}", asked.elapsed());
    stage.settle().await;
    // 40 paths of 20 blocks, 14 at a time, and what opening them takes.
    assert!(begun.elapsed() <= LATENCY * 200, "{:?}", begun.elapsed());
    let before = stage.counts.requests();
    for path in &paths[..40] {
        stage.read(stage.find(path, "large").await, 300_000, 4096).await;
    }
    assert_eq!(stage.counts.requests(), before, "everything was there");
}

#[tokio::test]
async fn a_profile_is_replayed_once_by_the_first_read_of_its_path_and_names_what_was_read() {
    let mut shelf = Shelf::new();
    let paths = library(&mut shelf, 3);
    let profiles = TempDir::new().unwrap();
    let settings = Settings { profiles: Some(profiles.path().to_owned()), ..quiet() };
    let stage = Stage::new(&mut shelf, settings.clone()).await;
    stage.tree.start_recording(None);
    let expected = start(&stage, &paths).await;
    let profile = stage.tree.stop_recording().unwrap();
    assert_eq!(profile.steps().len(), 3);
    assert_eq!(profile.bytes(), 3 * (4 * 4096 + 3007));
    stage.tree.profiles().unwrap().save(&profile).unwrap();

    let stage = Stage::new(&mut shelf, settings).await;
    let before = stage.counts.requests();
    stage.find(&paths[0], "large").await;
    assert!(stage.counts.requests() <= before + 8, "looking reads nothing");
    stage.read(stage.find(&paths[0], "number").await, 0, 10).await;
    stage.settle().await;
    let before = stage.counts.requests();
    assert_eq!(start(&stage, &paths).await, expected);
    assert_eq!(stage.counts.requests(), before, "everything was there");
}

#[tokio::test]
async fn a_published_profile_is_used_where_it_is_sound_and_small_enough() {
    let mut shelf = Shelf::new();
    let others = library(&mut shelf, 2);
    let disk = specimen(100_000, 3);
    let stranger = "00000000000000000000000000000000-stranger";
    let add = |shelf: &mut Shelf, name: &str, far: u64| {
        let path = shelf.path_of(name, disk.path());
        let text = format!(
            "erisfs-profile 1\nfor {path}\npath {stranger}\nread 0 100\npath {}\nread 0 70000\nread {far} 5\n",
            others[0]
        );
        assert_eq!(shelf.add_profiled(name, disk.path(), text.into_bytes()), path);
        path
    };
    let sound = add(&mut shelf, "sound", 1 << 50);
    let large = shelf.add_profiled("garbled", disk.path(), b"erisfs-profile 99\n".to_vec());
    let profiles = TempDir::new().unwrap();
    for (path, most, replayed) in [(&sound, 1 << 20, true), (&sound, 50_000, false), (&large, 1 << 20, false)]
    {
        let settings = Settings { profiles: Some(profiles.path().into()), replay_bytes: most, ..quiet() };
        let stage = Stage::new(&mut shelf, settings).await;
        stage.read(stage.find(path, "small/00000").await, 0, 1).await;
        stage.settle().await;
        stage.fault.set_all(Faulty::Missing);
        let known = stage.tree.object(others[0].hash_part(), soon()).await;
        assert_eq!(known.is_ok(), replayed, "{path} {most}");
    }
}

#[tokio::test]
async fn a_program_has_what_it_refers_to_opened_and_no_more() {
    let mut shelf = Shelf::new();
    let libraries = library(&mut shelf, 3);
    let disk = TempDir::new().unwrap();
    fs::copy(std::env::current_exe().unwrap(), disk.path().join("program")).unwrap();
    fs::write(disk.path().join("readme"), "no program").unwrap();
    let program = shelf.add("program", disk.path());
    shelf.refer(&program, &[libraries[0].clone(), program.clone()]);
    shelf.refer(&libraries[0], &[libraries[1].clone(), program.clone()]);
    for (closure, file, opened) in [
        (Closure::Auto, "program", true),
        (Closure::Auto, "readme", false),
        (Closure::Never, "program", false),
    ] {
        let stage = Stage::new(&mut shelf, Settings { closure, ..quiet() }).await;
        let file = stage.find(&program, file).await;
        stage.read(file, 0, 10).await;
        stage.settle().await;
        stage.fault.set_all(Faulty::Missing);
        for (library, referred) in libraries.iter().zip([true, true, false]) {
            let known = stage.tree.object(library.hash_part(), soon()).await;
            assert_eq!(known.is_ok(), opened && referred, "{library}");
        }
    }
}

#[tokio::test]
async fn what_is_pushed_is_whole_pages_of_the_right_files_and_leaves_marks() {
    let (mut shelf, disk) = (Shelf::new(), specimen(8 << 20, 500));
    for plain in [false, true] {
        let path = match plain {
            true => shelf.add_plain("plain", disk.path()),
            false => shelf.add("frames", disk.path()),
        };
        let stage = Stage::new(&mut shelf, Settings { push: true, ..quiet() }).await;
        let (sender, pushed) = sync_channel(1 << 16);
        stage.tree.push_to(Some(sender));
        let large = stage.find(&path, "large").await;
        stage.read_all(large).await;
        let small = stage.find(&path, "small").await;
        let entries = stage.tree.read_dir(small.inode, 2, 1000, soon()).await.unwrap();
        for entry in &entries {
            stage.read_all(entry.attr).await;
        }
        stage.settle().await;
        stage.tree.push_to(None);
        let (mut of_large, mut of_small) = (0, 0);
        for piece in pushed {
            let attr = stage.tree.attr(piece.inode, soon()).await.unwrap();
            let end = piece.offset + piece.bytes.len() as u64;
            assert!(
                piece.offset.is_multiple_of(4096)
                    && (end.is_multiple_of(4096) || end == attr.size)
                    && end <= attr.size
            );
            let read = stage.read(attr, piece.offset, piece.bytes.len() as u32).await;
            assert!(read == piece.bytes, "{}..{end}", piece.offset);
            match attr.inode == large.inode {
                true => of_large += piece.bytes.len() as u64,
                false => of_small += 1,
            }
        }
        assert!((4 << 20..=7 << 20).contains(&of_large), "{of_large} of 8 MiB");
        assert!((200..500).contains(&of_small), "{of_small} of 500 files");
    }
}

/// A program with small files beside it, data that nobody may ever read, and a library that it refers to.
fn programs(shelf: &mut Shelf) -> (StorePath, StorePath) {
    let (disk, other) = (specimen(2 << 20, 200), specimen(1 << 20, 0));
    fs::write(disk.path().join("program"), noise(300 << 10)).unwrap();
    fs::set_permissions(disk.path().join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let program = shelf.add("program", disk.path());
    let library = shelf.add("library", other.path());
    shelf.refer(&program, std::slice::from_ref(&library));
    (program, library)
}

fn sweeping() -> Settings {
    Settings { closure: Closure::Auto, ..quiet() }
}

#[tokio::test]
async fn a_program_on_a_fast_link_has_all_its_blocks_fetched_once() {
    let mut shelf = Shelf::new();
    let (program, _) = programs(&mut shelf);
    let stage = Stage::new(&mut shelf, sweeping()).await;
    let file = stage.find(&program, "program").await;
    stage.read(file, 0, 10).await;
    stage.settle().await;
    let all = shelf.blocks.len() as u64;
    assert!(stage.counts.blocks() <= all, "{} of {all} blocks", stage.counts.blocks());
    stage.fault.set_all(Faulty::Missing);
    let large = stage.find(&program, "large").await;
    assert!(stage.read_all(large).await == noise(2 << 20));
}

#[tokio::test]
async fn nothing_is_swept_for_data_nor_where_it_is_not_wanted() {
    let mut shelf = Shelf::new();
    let (program, _) = programs(&mut shelf);
    for (file, settings) in [("large", sweeping()), ("program", quiet())] {
        let stage = Stage::new(&mut shelf, settings).await;
        let file = stage.find(&program, file).await;
        let before = stage.counts.bytes();
        stage.read(file, 0, 10).await;
        stage.settle().await;
        assert!(stage.counts.bytes() - before <= 3 * FRAME, "{}", stage.counts.bytes() - before);
    }
}

#[tokio::test]
async fn a_sweep_keeps_to_its_bound() {
    let mut shelf = Shelf::new();
    let (program, _) = programs(&mut shelf);
    let stage = Stage::new(&mut shelf, Settings { sweep_bytes: 512 << 10, ..sweeping() }).await;
    let file = stage.find(&program, "program").await;
    let before = stage.counts.bytes();
    stage.read(file, 0, 10).await;
    stage.settle().await;
    let fetched = stage.counts.bytes() - before;
    // With the listing of what it refers to, and what was asked for.
    assert!(fetched <= (512 + 384) << 10, "{fetched}");
}

#[tokio::test(start_paused = true)]
async fn on_a_thin_link_little_is_swept() {
    let mut shelf = Shelf::new();
    let (program, _) = programs(&mut shelf);
    let stage = Stage::new(&mut shelf, sweeping()).await;
    let file = stage.find(&program, "program").await;
    let before = stage.counts.bytes();
    stage.fault.set_all(Faulty::Slow(Duration::from_secs(1)));
    stage.read(file, 0, 10).await;
    stage.settle().await;
    let fetched = stage.counts.bytes() - before;
    assert!(fetched <= 1 << 20, "{fetched}");
}

#[tokio::test(start_paused = true)]
async fn a_read_during_a_sweep_takes_its_own_time_alone() {
    let mut shelf = Shelf::new();
    let (program, _) = programs(&mut shelf);
    let stage = Stage::new(&mut shelf, sweeping()).await;
    let (file, large) = (stage.find(&program, "program").await, stage.find(&program, "large").await);
    stage.slow();
    stage.read(file, 0, 10).await;
    sleep(LATENCY * 3 / 2).await;
    let asked = Instant::now();
    stage.read(large, 1 << 20, 10).await;
    // Its own blocks, and a node above them.
    assert!(asked.elapsed() <= LATENCY * 2, "{:?}", asked.elapsed());
}
