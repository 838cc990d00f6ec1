//! In front of substitute servers that know nothing of blocks: what is passed on, what is kept, and what their faults do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use erisfs::block::{BlockStore, Disk, DiskSettings, Memory, Stack, StackSettings};
use erisfs::content::Fetch;
use erisfs::download::{Downloads, Verified};
use erisfs::eris::BlockSize;
use erisfs::nar::{Listing, dump};
use erisfs::serve::{Limits, PutPolicy, Service};
use erisfs::store::ed25519::SecretKey;
use erisfs::store::narinfo::Download;
use erisfs::store::trust::TrustedKeys;
use erisfs::store::{NarHash, Narinfo, StoreDir, StorePath};
use erisfs::substituter::{self, Policy, SetSettings, Substituters, Unsigned, Web, WebSettings};
use erisfs::tree::{Settings, Sources, Substitutes, Tree};
use futures::future::join_all;
use reqwest::{Response, StatusCode};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::origin::{Fault, Link, Origin};
use super::shelf::Shelf;
use super::{SOON, client, header, specimen, start};

const PATH: &str = "0c9hs37wsa5n5xl29b3l4fzzx8apb35v-specimen-1.0";
/// What somebody waits who has better things to do.
const PATIENCE: Duration = Duration::from_secs(3);

/// A NAR of several pieces, and what an unsigned narinfo says of it.
struct Package {
    nar: Vec<u8>,
    narinfo: Narinfo,
}

impl Package {
    fn new() -> Self {
        let mut nar = Vec::new();
        dump(specimen(3_000_000).path(), &mut nar).unwrap();
        let path: StorePath = PATH.parse().unwrap();
        let download = Download {
            url: "nar/file.nar.zst".into(),
            compression: Some("zstd".into()),
            file_hash: None,
            file_size: None,
        };
        let narinfo = Narinfo::builder(StoreDir::nix(), path, NarHash::of(&nar), nar.len() as u64);
        Package { narinfo: narinfo.download(download).build().unwrap(), nar }
    }

    /// A binary cache that has it, or says so.
    fn cache(&self, nar: &[u8]) -> Origin {
        let origin = Origin::start(Arc::new(Memory::new()), Link::LOOPBACK);
        origin.add_file("nix-cache-info", "StoreDir: /nix/store\nPriority: 30\n");
        origin.add_file(&format!("{}.narinfo", self.hash_part()), self.narinfo.as_str().to_owned());
        origin.add_file("nar/file.nar.zst", zstd::encode_all(nar, 1).unwrap());
        origin
    }

    fn hash_part(&self) -> String {
        self.narinfo.store_path().hash_part().to_string()
    }

    fn targets(&self) -> (String, String) {
        (format!("/{}.narinfo", self.hash_part()), format!("/nar/{}.nar", self.hash_part()))
    }
}

/// A server in front of others, with a cache of its own.
struct Front {
    url: String,
    running: JoinHandle<()>,
    _shutdown: oneshot::Sender<()>,
    _cache: TempDir,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Front {
    async fn of(upstreams: &[&Origin]) -> Self {
        Self::limited(upstreams, Limits::default()).await
    }

    async fn limited(upstreams: &[&Origin], limits: Limits) -> Self {
        let urls: Vec<_> = upstreams.iter().map(|origin| origin.url()).collect();
        Self::at(&urls, limits).await
    }

    async fn at(upstreams: &[String], limits: Limits) -> Self {
        let keys = TrustedKeys::default();
        Self::with(upstreams, limits, Policy { keys, unsigned: Unsigned::CheckHash }, None).await
    }

    /// Blocks come from `blocks`, else from its cache alone.
    async fn with(
        upstreams: &[String],
        limits: Limits,
        policy: Policy,
        blocks: Option<Arc<dyn BlockStore>>,
    ) -> Self {
        // Only the first call of this process installs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let web = Arc::new(Web::new(WebSettings::default()).unwrap());
        let servers = upstreams.iter().map(|url| substituter::open(url, &web).unwrap());
        let substituters = Substituters::new(servers.collect(), Vec::new(), policy, SetSettings::default());
        let cache = TempDir::new().unwrap();
        let disk_settings = DiskSettings { size: 64 << 20, free_floor: 0, resize: true };
        let disk = Disk::open(cache.path(), disk_settings).unwrap();
        let verified = Verified::open(&cache.path().join("verified"));
        let substitutes = Substitutes::new(Arc::new(substituters), Downloads::new(disk, verified));
        let urls = [format!("cache:{}", cache.path().display())];
        let settings = StackSettings { memory_bytes: 32 << 20, disk: None, ..StackSettings::default() };
        let store: Arc<dyn BlockStore> =
            blocks.unwrap_or_else(|| Stack::open(&urls, settings).unwrap().store());
        let sources = Sources { substitutes: Some(substitutes), ..Sources::default() };
        let tree = Arc::new(Tree::new(Fetch::new(store.clone(), 1 << 20), sources, Settings::default()));
        let service = Service { store, tree: Some(tree), put: PutPolicy::Refuse, limits };
        let (address, shutdown, running) = start(service).await;
        Front { url: format!("http://{address}"), running, _shutdown: shutdown, _cache: cache }
    }

    async fn get(&self, target: &str) -> Response {
        client().get(format!("{}{target}", self.url)).send().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narinfo_leads_here_and_its_nar_comes_from_the_server_behind() {
    let package = Package::new();
    let upstream = package.cache(&package.nar);
    let front = Front::of(&[&upstream]).await;
    let (narinfo, nar) = package.targets();
    let text = front.get(&narinfo).await.text().await.unwrap();
    assert_eq!(text, package.narinfo.redirected(&nar[1..]).unwrap().as_str());
    let answer = front.get(&nar).await;
    assert_eq!(header(&answer, "etag"), format!("\"{}\"", NarHash::of(&package.nar)));
    assert!(answer.bytes().await.unwrap() == package.nar[..]);
    let part = client().get(format!("{}{nar}", front.url)).header("Range", "bytes=2000000-2000099");
    let part = part.send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert!(part.bytes().await.unwrap() == package.nar[2_000_000..2_000_100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_speaks_for_those_behind_it() {
    let package = Package::new();
    let upstream = package.cache(&package.nar);
    let front = Front::of(&[&upstream]).await;
    let info = front.get("/nix-cache-info").await.text().await.unwrap();
    assert_eq!(info, "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
    let absent = front.get("/1c9hs37wsa5n5xl29b3l4fzzx8apb35v.narinfo").await;
    assert_eq!((absent.status(), header(&absent, "cache-control")), (StatusCode::NOT_FOUND, "max-age=60"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_clients_of_one_nar_cost_one_download() {
    let package = Package::new();
    let upstream = package.cache(&package.nar);
    upstream.set_link(Link::new(20, Some(20_000_000)));
    let front = Front::of(&[&upstream]).await;
    let (_, nar) = package.targets();
    let file = zstd::encode_all(&package.nar[..], 1).unwrap().len() as u64;
    let answers = join_all((0..100).map(async |_| front.get(&nar).await.bytes().await.unwrap())).await;
    assert!(answers.iter().all(|bytes| *bytes == package.nar));
    let seen = upstream.seen();
    // Beside the file: what the server says of itself, and the narinfo.
    assert!((file..file + 4096).contains(&seen.bytes), "{seen:?}, a file of {file} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_is_there_when_the_server_behind_is_gone() {
    let package = Package::new();
    let upstream = package.cache(&package.nar);
    let front = Front::of(&[&upstream]).await;
    let (narinfo, nar) = package.targets();
    let listing = narinfo.replace(".narinfo", ".ls");
    assert_eq!(front.get(&listing).await.status(), StatusCode::NOT_FOUND, "nobody has it yet");
    upstream.add_file(&listing[1..], "the server's own");
    assert_eq!(front.get(&listing).await.text().await.unwrap(), "the server's own");
    assert!(front.get(&nar).await.bytes().await.unwrap() == package.nar);
    upstream.break_with(Fault::Refused);
    assert!(front.get(&nar).await.bytes().await.unwrap() == package.nar);
    assert_eq!(front.get(&narinfo).await.status(), StatusCode::OK);
    let json = front.get(&listing).await.bytes().await.unwrap();
    let listing = Listing::from_json(&json[..], Some(package.nar.len() as u64)).unwrap();
    assert!(listing.resolve(b"bin/tool").is_some());
    // Others can have its blocks, by the URN that anybody computes of this NAR.
    let capability = Shelf::new().put(&package.nar, BlockSize::Large);
    let block = format!("/uri-res/N2R?urn:blake2b:{}", capability.reference);
    assert_eq!(front.get(&block).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_nar_never_ends_and_the_next_server_is_asked() {
    let package = Package::new();
    let mut wrong = package.nar.clone();
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    let (liar, honest) = (package.cache(&wrong), package.cache(&package.nar));
    let front = Front::of(&[&liar, &honest]).await;
    let (_, nar) = package.targets();
    let begun = Instant::now();
    while begun.elapsed() < SOON {
        let answer = front.get(&nar).await;
        if answer.status() == StatusCode::OK
            && let Ok(bytes) = answer.bytes().await
        {
            assert!(bytes == package.nar, "what ends is right");
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("the server that has the right NAR is never asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_nar_without_another_is_an_error_every_time() {
    let package = Package::new();
    let mut wrong = package.nar.clone();
    let last = wrong.len() - 20;
    wrong[last] ^= 1;
    let upstream = package.cache(&wrong);
    let front = Front::of(&[&upstream]).await;
    let (_, nar) = package.targets();
    for _ in 0..3 {
        let answer = front.get(&nar).await;
        let failed = answer.status().is_server_error() || answer.bytes().await.is_err();
        assert!(failed);
    }
    assert!(upstream.seen().bytes > wrong.len() as u64 / 2, "it was asked");
}

/// A server in front of one that has the right NAR, and a key that bound another one to its path.
async fn bound_to_another() -> (Package, Origin, Front) {
    let mut package = Package::new();
    let mut wrong = package.nar.clone();
    let last = wrong.len() - 400_000;
    wrong[last] ^= 1;
    let shelf = Shelf::new();
    let urn = shelf.put(&wrong, BlockSize::Large).to_string();
    let key = SecretKey::from_seed("cache-1", &[7; 32]).unwrap();
    let format = package.narinfo.with_line("ERISFormat", "application/x-nix-archive").unwrap();
    package.narinfo = key.sign_narinfo(&format.with_line("ERIS", &urn).unwrap()).unwrap();
    let upstream = package.cache(&package.nar);
    let keys = TrustedKeys { nix: vec![key.public_key()], guix: Vec::new() };
    let policy = Policy { keys, unsigned: Unsigned::CheckHash };
    let front = Front::with(&[upstream.url()], Limits::default(), policy, Some(shelf.blocks.clone())).await;
    (package, upstream, front)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bound_content_that_is_another_nar_is_streamed_once_and_never_to_its_end() {
    let (package, _upstream, front) = bound_to_another().await;
    let (_, nar) = package.targets();
    assert!(front.get(&nar).await.bytes().await.is_err(), "it is another one");
    assert!(front.get(&nar).await.bytes().await.unwrap() == package.nar, "it comes from the server behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_nar_that_was_never_hashed_is_not_given_alone() {
    let (package, _upstream, front) = bound_to_another().await;
    let (_, nar) = package.targets();
    let from = package.nar.len() - 500_000;
    let part = client().get(format!("{}{nar}", front.url)).header("Range", format!("bytes={from}-"));
    let part = part.send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert!(part.bytes().await.unwrap() == package.nar[from..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_behind_delays_an_answer_by_a_bounded_time() {
    let package = Package::new();
    let upstream = package.cache(&package.nar);
    let limits = Limits { lookup: PATIENCE, fetch: PATIENCE, ..Limits::default() };
    let front = Front::limited(&[&upstream], limits).await;
    let (narinfo, nar) = package.targets();
    upstream.break_with(Fault::Silent);
    let begun = Instant::now();
    let answer = front.get(&narinfo).await;
    assert_eq!((answer.status(), header(&answer, "cache-control")), (StatusCode::NOT_FOUND, "max-age=10"));
    assert!(begun.elapsed() < 3 * PATIENCE, "{:?}", begun.elapsed());
    let begun = Instant::now();
    assert_eq!(front.get(&narinfo).await.status(), StatusCode::NOT_FOUND);
    assert!(begun.elapsed() < PATIENCE, "who asks for many waits for the first");
    assert_eq!(front.get("/nix-cache-info").await.status(), StatusCode::NOT_FOUND);
    upstream.heal();
    let healed = Instant::now();
    while front.get(&narinfo).await.status() != StatusCode::OK {
        assert!(healed.elapsed() < SOON, "the server behind is back");
        sleep(Duration::from_millis(100)).await;
    }
    upstream.break_with(Fault::Silent);
    let begun = Instant::now();
    assert!(front.get(&nar).await.status().is_server_error());
    assert!(begun.elapsed() < 4 * PATIENCE, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_from_elsewhere_does_not_excuse_a_silent_server() {
    let package = Package::new();
    let (well, silent) = (package.cache(&package.nar), package.cache(&package.nar));
    let limits = Limits { lookup: PATIENCE, ..Limits::default() };
    let front = Front::limited(&[&well, &silent], limits).await;
    let (narinfo, _) = package.targets();
    assert_eq!(front.get(&narinfo).await.status(), StatusCode::OK);
    silent.break_with(Fault::Silent);
    let absent = |first: char| narinfo.replacen('0', &first.to_string(), 1);
    let begun = Instant::now();
    assert_eq!(header(&front.get(&absent('1')).await, "cache-control"), "max-age=10");
    assert!(begun.elapsed() >= PATIENCE / 2, "the silent one is waited for: {:?}", begun.elapsed());
    for first in ['2', '3', '4'] {
        assert_eq!(front.get(&narinfo).await.status(), StatusCode::OK);
        let begun = Instant::now();
        assert_eq!(header(&front.get(&absent(first)).await, "cache-control"), "max-age=10");
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    }
}

/// A server that is still preparing every narinfo, as `guix publish` says it.
async fn oven() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answering = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let Ok(length @ 1..) = socket.read(&mut head).await else { return };
                let answer = match head[..length].starts_with(b"GET /nix-cache-info ") {
                    true => "200 OK\r\nContent-Length: 20\r\n\r\nStoreDir: /nix/store",
                    false => "404 Not Found\r\nX-Baking: 1\r\nContent-Length: 0\r\n\r\n",
                };
                let answer = format!("HTTP/1.1 {answer}").replacen("\r\n", "\r\nConnection: close\r\n", 1);
                let _ = socket.write_all(answer.as_bytes()).await;
            });
        }
    });
    (url, answering)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_is_still_preparing_is_not_there_for_now() {
    let (url, answering) = oven().await;
    let front = Front::at(&[url], Limits { lookup: SOON, ..Limits::default() }).await;
    let (narinfo, _) = Package::new().targets();
    for _ in 0..2 {
        let begun = Instant::now();
        let answer = front.get(&narinfo).await;
        assert_eq!(
            (answer.status(), header(&answer, "cache-control")),
            (StatusCode::NOT_FOUND, "max-age=10")
        );
        assert!(begun.elapsed() < SOON / 2, "{:?}", begun.elapsed());
    }
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_in_the_middle_is_mended_by_the_next_server() {
    let package = Package::new();
    let (first, second) = (package.cache(&package.nar), package.cache(&package.nar));
    let front = Front::of(&[&first, &second]).await;
    let (narinfo, nar) = package.targets();
    assert_eq!(front.get(&narinfo).await.status(), StatusCode::OK);
    first.break_with(Fault::Truncated);
    assert!(front.get(&nar).await.bytes().await.unwrap() == package.nar);
}
