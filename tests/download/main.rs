//! Whole NARs from web servers that break off, stall, lie and send bombs, into a disk cache that is small.

#[path = "../support/noise.rs"]
mod noise;
mod server;

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use erisfs::block::{Block, BlockStore, Disk, DiskSettings, Memory, Stored};
use erisfs::compress::Compression;
use erisfs::content::{Content, Deadline, Fetch, Limits};
use erisfs::download::{
    Archive, Downloads, Error, FromContent, FromServer, Known, NarSource, Reason, Verified, Wanted,
};
use erisfs::eris::{BlockSize, ConvergenceSecret, Encoder, ReadCapability, Reference, reference_of};
use erisfs::nar::wire::Writer;
use erisfs::store::narinfo::Download;
use erisfs::store::{NarHash, StoreDir};
use erisfs::substituter::{Http, Offer, Patience, Web, WebSettings};
use futures::future::join_all;
use noise::noise;
use server::{Answer, Server};

/// What the other process is told.
const URL: &str = "ERISFS_TEST_DOWNLOAD_URL";
const DIR: &str = "ERISFS_TEST_DOWNLOAD_DIR";
const CACHE: u64 = 64 << 20;
/// How long a server may be silent in these tests.
const STALL: Duration = Duration::from_millis(300);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// A NAR of about `length` bytes: a directory with two files, of which the first compresses badly.
fn nar(length: usize) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.directory(b"").unwrap();
    let (noise, zeros) = (noise(length / 2), vec![0; length - length / 2]);
    writer.file(b"noise", false, noise.len() as u64, &noise[..]).unwrap();
    writer.file(b"zeros", true, zeros.len() as u64, &zeros[..]).unwrap();
    writer.end_directory().unwrap();
    writer.finish().unwrap()
}

fn pack(compression: Compression, nar: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => nar.to_vec(),
        Compression::Zstd => zstd::encode_all(nar, 1).unwrap(),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
            encoder.write_all(nar).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(nar).unwrap();
            encoder.finish().unwrap()
        }
        other => unreachable!("{other} is not packed here"),
    }
}

fn seal(content: &[u8]) -> (ReadCapability, Vec<(Reference, Block)>) {
    let mut encoder = Encoder::new(BlockSize::for_length(content.len() as u64), ConvergenceSecret::NULL);
    let mut sealed = encoder.push(content);
    let (capability, rest) = encoder.finish();
    sealed.extend(rest);
    (capability, sealed.into_iter().map(|sealed| (sealed.reference, sealed.block)).collect())
}

/// What a process has.
fn open(dir: &Path) -> Arc<Downloads> {
    let settings = DiskSettings { size: CACHE, free_floor: 0, resize: true };
    let disk = Disk::open(&dir.join("blocks"), settings).unwrap();
    Downloads::new(disk, Verified::open(&dir.join("verified")))
}

fn source(server: &Server, compression: Compression) -> Arc<dyn NarSource> {
    source_at(&server.url, compression)
}

fn source_at(url: &str, compression: Compression) -> Arc<dyn NarSource> {
    let patience = Patience { stall: STALL, ..Patience::default() };
    let web = Arc::new(Web::new(WebSettings { patience, ..WebSettings::default() }).unwrap());
    let place = Http::new(url, web).unwrap();
    let download = Download {
        url: "nar/file.nar".into(),
        compression: Some(compression.to_string()),
        ..Download::default()
    };
    let offer = Offer { server: Arc::new(place), download, is_neighbour: false };
    Arc::new(FromServer::new(offer, &StoreDir::nix()).unwrap())
}

fn wanted(nar: &[u8], sources: Vec<Arc<dyn NarSource>>) -> Wanted {
    Wanted { name: "some-nar".into(), nar_hash: NarHash::of(nar), nar_size: nar.len() as u64, sources }
}

async fn read(downloads: &Downloads, archive: &Archive, range: std::ops::Range<u64>) -> bytes::Bytes {
    let limits = Limits { length: archive.nar_size, tail: 0 };
    let content = Content::open(downloads.fetch().clone(), archive.capability, limits, soon()).await.unwrap();
    content.read_at(range, soon()).await.unwrap()
}

async fn assert_is(downloads: &Downloads, archive: &Archive, nar: &[u8]) {
    assert_eq!(archive.nar_size, nar.len() as u64);
    assert_eq!(archive.capability, seal(nar).0, "the URN that anybody would compute");
    let listing = &archive.listing;
    assert!(listing.resolve(b"zeros").is_some() && listing.nar_size() == archive.nar_size);
    assert!(read(downloads, archive, 0..archive.nar_size).await == nar);
    let middle = archive.nar_size / 3..archive.nar_size * 2 / 3;
    assert!(
        read(downloads, archive, middle.clone()).await == nar[middle.start as usize..middle.end as usize]
    );
}

/// Downloads what must come.
async fn download(downloads: &Arc<Downloads>, wanted: Wanted) -> Archive {
    downloads.start(wanted).finished(soon()).await.unwrap()
}

async fn failure(downloads: &Arc<Downloads>, wanted: Wanted) -> Error {
    downloads.start(wanted).finished(soon()).await.expect_err("it must not come")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_comes_once_and_is_then_here_for_every_process() {
    for (compression, length) in [
        (Compression::None, 3_000_000),
        (Compression::Xz, 3_000_000),
        (Compression::Zstd, 20_000_000),
        (Compression::Gzip, 5000),
        (Compression::Zstd, 100),
    ] {
        let (dir, nar) = (tempfile::tempdir().unwrap(), nar(length));
        let file = pack(compression, &nar);
        let server = Server::new(file.clone(), &[Answer::Good]);
        let downloads = open(dir.path());
        let wanted = wanted(&nar, vec![source(&server, compression)]);
        let archive = download(&downloads, wanted.clone()).await;
        assert_is(&downloads, &archive, &nar).await;
        assert_eq!(server.requests(), [(0, file.len())], "{compression}");
        download(&downloads, wanted.clone()).await;
        drop(downloads);
        let downloads = open(dir.path());
        let known = downloads.verified().get(wanted.nar_hash);
        assert_eq!(known, [Known { capability: archive.capability, form: Compression::None }]);
        let archive = download(&downloads, Wanted { sources: Vec::new(), ..wanted }).await;
        assert_is(&downloads, &archive, &nar).await;
        assert_eq!(server.requests().len(), 1, "{compression}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_readers_cost_one_download() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(8_000_000));
    let file = pack(Compression::Zstd, &nar);
    let server = Server::new(file.clone(), &[Answer::Slow(128 * 1024)]);
    let downloads = open(dir.path());
    let readers = (0..100).map(|number| {
        let (downloads, nar) = (&downloads, &nar);
        let wanted = wanted(nar, vec![source(&server, Compression::Zstd)]);
        async move {
            let download = downloads.start(wanted);
            let start = number * 70_000;
            let range = start as u64..start as u64 + 100_000;
            let bytes = download.read(range, soon()).await.unwrap();
            assert!(bytes == nar[start..start + 100_000], "{number}");
            let last = nar.len() as u64 - 10;
            assert!(download.read(last..last + 10, soon()).await.unwrap() == nar[nar.len() - 10..]);
            download.finished(soon()).await.unwrap()
        }
    });
    let archives = join_all(readers).await;
    assert!(archives.iter().all(|archive| archive.capability == archives[0].capability));
    assert_eq!(server.requests(), [(0, file.len())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_costs_no_byte_twice_where_the_server_knows_ranges() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(6_000_000));
    let file = pack(Compression::Xz, &nar);
    let answers = [Answer::Break(1_000_000), Answer::Stall(500_000), Answer::Good];
    let server = Server::new(file.clone(), &answers);
    let downloads = open(dir.path());
    let archive = download(&downloads, wanted(&nar, vec![source(&server, Compression::Xz)])).await;
    assert_is(&downloads, &archive, &nar).await;
    let rest = file.len() - 1_500_000;
    assert_eq!(server.requests(), [(0, 1_000_000), (1_000_000, 500_000), (1_500_000, rest)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_ranges_sends_it_all_again() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(4_000_000));
    let file = pack(Compression::Gzip, &nar);
    let server = Server::new(file, &[Answer::Break(1_000_000), Answer::Whole]);
    let downloads = open(dir.path());
    let archive = download(&downloads, wanted(&nar, vec![source(&server, Compression::Gzip)])).await;
    assert_is(&downloads, &archive, &nar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_other_bytes_is_named_and_not_asked_again_and_the_next_one_is() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(4_000_000));
    let mut other = nar.clone();
    other[3_000_000] ^= 1;
    // The first lies all the time, the second when it is asked for the rest.
    let liar = Server::new(other.clone(), &[Answer::Good]);
    let changed = Server::new(nar.clone(), &[Answer::Break(2_000_000), Answer::Other(other.into())]);
    let good = Server::new(pack(Compression::Zstd, &nar), &[Answer::Good]);
    let downloads = open(dir.path());
    let liars = vec![source(&liar, Compression::None), source(&changed, Compression::None)];
    let error = failure(&downloads, wanted(&nar, liars.clone())).await;
    let Error::Failed { failures, .. } = &error else { panic!("{error}") };
    assert!(failures.iter().all(|failure| matches!(failure.reason, Reason::WrongHash { .. })), "{error}");
    let text = error.to_string();
    assert!(text.contains(&liar.url) && text.contains(&changed.url), "{text}");
    assert!(text.contains(&NarHash::of(&nar).to_string()), "{text}");
    assert!(downloads.verified().get(NarHash::of(&nar)).is_empty());

    let all = liars.into_iter().chain([source(&good, Compression::Zstd)]).collect();
    let archive = download(&downloads, wanted(&nar, all)).await;
    assert_is(&downloads, &archive, &nar).await;
    assert_eq!((liar.requests().len(), changed.requests().len()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_while_it_came_is_taken_from_the_start_once_more() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(4_000_000));
    let mut old = nar.clone();
    old[1_000_000] ^= 1;
    // It breaks off, and what comes from the start then is another file.
    let server =
        Server::new(nar.clone(), &[Answer::OtherBreak(old.into(), 2_000_000), Answer::Whole, Answer::Good]);
    let downloads = open(dir.path());
    let archive = download(&downloads, wanted(&nar, vec![source(&server, Compression::None)])).await;
    assert_is(&downloads, &archive, &nar).await;
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_comes_early_where_no_length_was_said_is_no_lie() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(4_000_000));
    for (number, compression) in
        [Compression::None, Compression::Zstd, Compression::Xz].into_iter().enumerate()
    {
        let server = Server::new(pack(compression, &nar), &[Answer::Unsized(500_000), Answer::Good]);
        let downloads = open(&dir.path().join(number.to_string()));
        let archive = download(&downloads, wanted(&nar, vec![source(&server, compression)])).await;
        assert_is(&downloads, &archive, &nar).await;
        assert_eq!(server.requests().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_told_a_wrong_size_harms_nobody_who_knows_the_right_one() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(1_000_000));
    let server = Server::new(nar.clone(), &[Answer::Good]);
    let downloads = open(dir.path());
    let right = wanted(&nar, vec![source(&server, Compression::None)]);
    for nar_size in [right.nar_size - 8, right.nar_size + 8] {
        let error = failure(&downloads, Wanted { nar_size, ..right.clone() }).await;
        assert!(matches!(error, Error::Failed { .. }), "{error}");
    }
    assert_is(&downloads, &download(&downloads, right).await, &nar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_silent_gives_way_to_another_and_has_its_time_in_the_end() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(1_000_000));
    let silent = Server::new(nar.clone(), &[Answer::Stall(100_000)]);
    let good = Server::new(nar.clone(), &[Answer::Good]);
    let downloads = open(dir.path());
    let sources = vec![source(&silent, Compression::None), source(&good, Compression::None)];
    assert_is(&downloads, &download(&downloads, wanted(&nar, sources)).await, &nar).await;
    assert_eq!((silent.requests().len(), good.requests().len()), (2, 1));

    let (dir, absent) = (tempfile::tempdir().unwrap(), Server::new(Vec::new(), &[Answer::Absent]));
    let answers = [Answer::Stall(0), Answer::Stall(0), Answer::Good];
    let slow = Server::new(nar.clone(), &answers);
    let downloads = open(dir.path());
    let sources = vec![source(&slow, Compression::None), source(&absent, Compression::None)];
    assert_is(&downloads, &download(&downloads, wanted(&nar, sources)).await, &nar).await;
    assert_eq!(slow.requests().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_failed_are_listed_and_not_asked_again_at_once() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(100_000));
    let absent = Server::new(Vec::new(), &[Answer::Absent]);
    let garbage = Server::new(b"this is not compressed".to_vec(), &[Answer::Good]);
    let short = Server::new(pack(Compression::Gzip, &nar[..50_000]), &[Answer::Good]);
    let downloads = open(dir.path());
    let sources = vec![
        source(&absent, Compression::Xz),
        source(&garbage, Compression::Xz),
        source(&short, Compression::Gzip),
    ];
    let error = failure(&downloads, wanted(&nar, sources.clone())).await;
    let Error::Failed { failures, .. } = &error else { panic!("{error}") };
    let reasons: Vec<_> = failures.iter().map(|failure| &failure.reason).collect();
    assert!(
        matches!(reasons[..], [Reason::Broken { .. }, Reason::Decode { .. }, Reason::TooShort { .. }]),
        "{error}"
    );
    let again = failure(&downloads, wanted(&nar, sources)).await;
    assert_eq!(again.to_string(), error.to_string());
    assert_eq!(absent.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_goes_off_at_the_announced_size() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(1_000_000));
    // The NAR, and 4 GiB of zeros.
    let zeros = zstd::encode_all(&vec![0; 64 << 20][..], 1).unwrap();
    let bomb = [pack(Compression::Zstd, &nar), zeros.repeat(64)].concat();
    let padding =
        [&pack(Compression::Zstd, &nar)[..], &b"\x50\x2a\x4d\x18\0\0\0\0".repeat(1_000_000)].concat();
    let (bomb, padding) = (Server::new(bomb, &[Answer::Good]), Server::new(padding, &[Answer::Good]));
    let downloads = open(dir.path());
    let start = Instant::now();
    let sources = vec![source(&bomb, Compression::Zstd), source(&padding, Compression::Zstd)];
    let error = failure(&downloads, wanted(&nar, sources)).await;
    let Error::Failed { failures, .. } = &error else { panic!("{error}") };
    assert!(matches!(failures[0].reason, Reason::TooLong { expected } if expected == nar.len() as u64));
    assert!(matches!(failures[1].reason, Reason::Endless { .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(downloads.disk().stat().used < 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_short_is_told_how_far_it_is_and_it_goes_on() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(12_000_000));
    let file = pack(Compression::None, &nar);
    let server = Server::new(file, &[Answer::Slow(100_000)]);
    let downloads = open(dir.path());
    let download = downloads.start(wanted(&nar, vec![source(&server, Compression::None)]));
    download.read(0..2_000_000, soon()).await.unwrap();
    let error = download.finished(Deadline::after(Duration::from_millis(1))).await.expect_err("it is slow");
    let Error::Overdue { progress, .. } = &error else { panic!("{error}") };
    assert!(progress.arrived >= 2_000_000 && progress.arrived < progress.nar_size, "{progress:?}");
    assert!(error.to_string().contains(" of 13 MB"), "{error}");
    let archive = download.finished(soon()).await.unwrap();
    assert_is(&downloads, &archive, &nar).await;
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_evicted_is_downloaded_again() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(4_000_000));
    let server = Server::new(pack(Compression::Zstd, &nar), &[Answer::Good]);
    let downloads = open(dir.path());
    let wanted = wanted(&nar, vec![source(&server, Compression::Zstd)]);
    download(&downloads, wanted.clone()).await;
    // All but a few.
    downloads.disk().gc(Some(1 << 20)).unwrap();
    drop(downloads);
    let downloads = open(dir.path());
    let archive = download(&downloads, wanted).await;
    assert_is(&downloads, &archive, &nar).await;
    assert_eq!(server.requests().len(), 2);
}

/// Blocks of no content.
fn fillers(numbers: std::ops::Range<u64>) -> Vec<(Reference, Block)> {
    let block = |number: u64| {
        let mut block = number.to_le_bytes().to_vec();
        block.resize(32768, 0);
        (reference_of(&block), Block::from(block))
    };
    numbers.map(block).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_full_of_used_blocks_keeps_all_of_a_nar_of_nearly_half_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let downloads = open(dir.path());
    let disk = downloads.disk();
    let others = fillers(0..3000);
    // Stored, and used again as far as the cache takes that.
    for part in others.chunks(500) {
        disk.put_many(part);
        let references: Vec<_> = part.iter().map(|(reference, _)| *reference).collect();
        disk.get_many(&references);
        disk.sync().unwrap();
    }
    let before = disk.stat();
    assert!(before.evicted > 500 && before.bytes > CACHE * 9 / 10, "{before:?}");

    let nar: Vec<u8> = {
        let (mut writer, noise) = (Writer::new(Vec::new()).unwrap(), noise((CACHE * 48 / 100) as usize));
        writer.file(b"", false, noise.len() as u64, &noise[..]).unwrap();
        writer.finish().unwrap()
    };
    let server = Server::new(nar.clone(), &[Answer::Good]);
    let archive = download(&downloads, wanted(&nar, vec![source(&server, Compression::None)])).await;
    let (capability, blocks) = seal(&nar);
    assert_eq!(archive.capability, capability);
    let missing = blocks.iter().filter(|(reference, _)| !disk.contains(reference)).count();
    assert_eq!(missing, 0, "of {}", blocks.len());
    // What passes through afterwards takes none of it away.
    assert!(disk.put_many(&fillers(10_000..10_500)).iter().all(|stored| *stored == Stored::Written));
    assert!(read(&downloads, &archive, 0..archive.nar_size).await == nar);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nar_that_is_too_large_for_the_cache_is_refused_before_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(Vec::new(), &[Answer::Absent]);
    let downloads = open(dir.path());
    let mut wanted = wanted(b"", vec![source(&server, Compression::None)]);
    wanted.nar_size = CACHE / 2 + 1;
    let error = failure(&downloads, wanted).await;
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("--cache-size"), "{error}");
    assert!(server.requests().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_keeps_nothing_is_an_error_that_says_why() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("blocks"), "a file where the directory should be").unwrap();
    let nar = nar(1000);
    let server = Server::new(nar.clone(), &[Answer::Good]);
    let error = failure(&open(dir.path()), wanted(&nar, vec![source(&server, Compression::None)])).await;
    assert!(matches!(error, Error::NotKept { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_hashes_all_and_keeps_nothing() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(3_000_000));
    let downloads = open(dir.path());
    let store = Arc::new(Memory::new());
    // An ERIS content that holds it compressed.
    let (capability, blocks) = seal(&pack(Compression::Xz, &nar));
    for (reference, block) in blocks {
        store.put(&reference, block).await.unwrap();
    }
    let fetch = Fetch::new(store, 1 << 20);
    let source = || Arc::new(FromContent::new(fetch.clone(), capability, Compression::Xz));
    let (hash, size) = (NarHash::of(&nar), nar.len() as u64);
    let listing = downloads.check(source(), hash, size, soon()).await.unwrap();
    assert!(listing.resolve(b"noise").is_some() && listing.nar_size() == size);
    let error = downloads.check(source(), NarHash::of(b""), size, soon()).await.expect_err("another hash");
    assert!(error.to_string().contains(&hash.to_string()), "{error}");
    let error = downloads.check(source(), hash, size - 1, soon()).await.expect_err("another size");
    assert!(
        matches!(&error, Error::Failed { failures, .. } if matches!(failures[0].reason, Reason::TooLong { .. }))
    );
    assert_eq!(downloads.disk().stat().used, 0);
    // The same content can be downloaded from.
    let archive = download(&downloads, wanted(&nar, vec![source()])).await;
    assert_is(&downloads, &archive, &nar).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_ends_at_its_deadline() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(1_000_000));
    let server = Server::new(nar.clone(), &[Answer::Slow(1000)]);
    let downloads = open(dir.path());
    let deadline = Deadline::after(Duration::from_millis(100));
    let source = source(&server, Compression::None);
    let checked = downloads.check(source, NarHash::of(&nar), nar.len() as u64, deadline).await;
    assert!(matches!(checked, Err(Error::Overdue { .. })), "{checked:?}");
}

/// The NAR of which the other process downloads a part.
const KILLED: usize = 12_000_000;

/// What the other process does, which is this test binary again; nothing in a run of the tests.
#[tokio::test(flavor = "multi_thread")]
async fn part_of_another_process() {
    let (Ok(url), Some(dir)) = (env::var(URL), env::var_os(DIR)) else { return };
    let wanted = wanted(&nar(KILLED), vec![source_at(&url, Compression::None)]);
    download(&open(Path::new(&dir)), wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_the_middle_leaves_nothing_that_is_believed() {
    let (dir, nar) = (tempfile::tempdir().unwrap(), nar(KILLED));
    let server = Server::new(nar.clone(), &[Answer::Slow(50_000), Answer::Good]);
    let mut other = Command::new(env::current_exe().unwrap());
    other.args(["--exact", "part_of_another_process"]).env(URL, &server.url).env(DIR, dir.path());
    let mut other = other.stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while server.requests().first().is_none_or(|(_, sent)| *sent < KILLED / 2) {
        assert!(start.elapsed() < Duration::from_secs(120), "the other process hangs");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    other.kill().unwrap();
    other.wait().unwrap();

    let downloads = open(dir.path());
    assert!(downloads.disk().stat().used > 0, "some blocks are here");
    let wanted = wanted(&nar, vec![source(&server, Compression::None)]);
    assert!(downloads.verified().get(wanted.nar_hash).is_empty());
    let nowhere = Wanted { sources: Vec::new(), ..wanted.clone() };
    let error = failure(&downloads, nowhere).await;
    assert!(matches!(&error, Error::Failed { failures, .. } if failures.is_empty()), "{error}");
    let archive = download(&downloads, wanted).await;
    assert_is(&downloads, &archive, &nar).await;
}
