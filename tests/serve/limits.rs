//! What bad clients cannot do, and what a shutdown does to good ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use erisfs::block::{Block, BlockStore, Error};
use erisfs::eris::{Reference, reference_of};
use erisfs::serve::{Limits, PutPolicy, Service};
use reqwest::{Client, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{SOON, Site, builder, client, read_to_close, start};

const SHORT: Duration = Duration::from_millis(400);
const GET_INFO: &str = "GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\n";

/// How long it takes until the server closes; what it sends is dropped.
async fn closed_after(socket: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    read_to_close(socket).await;
    begun.elapsed()
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let site = Site::new().await;
    let answer = site.raw(&format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(17 << 10))).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = site.raw("NONSENSE\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(site.get("/").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_head_that_comes_by_drops_is_cut_in_time() {
    let site = Site::limited(Limits { head: SHORT, ..Limits::default() }).await;
    for answered_before in [false, true] {
        let (mut reading, mut writing) = site.connect().await.into_split();
        if answered_before {
            writing.write_all(GET_INFO.as_bytes()).await.unwrap();
            assert!(reading.read(&mut [0; 1024]).await.unwrap() > 0);
        }
        let drops = tokio::spawn(async move {
            for byte in GET_INFO.bytes().cycle() {
                if byte != b'\n' && writing.write_all(&[byte]).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(20)).await;
            }
        });
        let begun = Instant::now();
        let _ = timeout(SOON, reading.read_to_end(&mut Vec::new())).await.expect("cut");
        assert!((SHORT..SHORT * 10).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        drops.abort();
    }
}

#[tokio::test]
async fn a_silent_connection_is_cut_in_time() {
    let site = Site::limited(Limits { head: SHORT, idle: SHORT * 2, ..Limits::default() }).await;
    let mut never_spoke = site.connect().await;
    assert!((SHORT..SHORT * 10).contains(&closed_after(&mut never_spoke).await));
    let mut spoke_once = site.connect().await;
    spoke_once.write_all(GET_INFO.as_bytes()).await.unwrap();
    assert!((SHORT * 2..SHORT * 10).contains(&closed_after(&mut spoke_once).await));
    let mut http_2 = site.connect().await;
    http_2.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert!((SHORT..SHORT * 10).contains(&closed_after(&mut http_2).await));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_and_costs_little() {
    let site = Site::limited(Limits { stall: SHORT, ..Limits::default() }).await;
    let before = site.counted.counts().bytes();
    let mut socket = site.connect().await;
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", site.archive("nar.zst"));
    socket.write_all(request.as_bytes()).await.unwrap();
    sleep(SHORT * 4).await;
    let fetched = site.counted.counts().bytes() - before;
    assert!(fetched < 20 << 20, "{fetched} bytes were fetched for a client that takes none");
    let received = read_to_close(&mut socket).await.len();
    assert!(received < 20 << 20, "{received} of 30 MB came though nobody read for longer than allowed");
}

#[tokio::test]
async fn a_slow_client_gets_everything() {
    let site = Site::limited(Limits { stall: SHORT, ..Limits::default() }).await;
    let mut answer = site.get(&site.archive("nar")).await;
    let mut received = 0;
    while let Some(bytes) = answer.chunk().await.unwrap() {
        if received >> 20 != (received + bytes.len()) >> 20 {
            sleep(SHORT / 16).await;
        }
        received += bytes.len();
    }
    assert_eq!(received, site.nar.len());
}

#[tokio::test]
async fn connections_beyond_the_limit_are_turned_away() {
    let site = Site::limited(Limits { connections: 2, ..Limits::default() }).await;
    let mut held = [site.connect().await, site.connect().await];
    for socket in &mut held {
        socket.write_all(GET_INFO.as_bytes()).await.unwrap();
        assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
    }
    let mut excess = site.connect().await;
    let answer = String::from_utf8(read_to_close(&mut excess).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    drop(held);
    let freed = async {
        // Until then the answer is 503, or the connection is reset before it can be read.
        while !client().get(site.url("/")).send().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
        {
        }
    };
    timeout(SOON, freed).await.expect("who leaves makes room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_are_served_at_once() {
    let site = Site::new().await;
    let (object, _) = site.object();
    let clients = (0..64).map(|number| {
        let (archive, site) = (if number % 2 == 0 { "nar" } else { "nar.zst" }, &site);
        async move {
            let client = if number % 4 < 2 { builder() } else { builder().http2_prior_knowledge() };
            let answer = client.build().unwrap().get(site.url(&site.archive(archive))).send().await.unwrap();
            (archive, answer.bytes().await.unwrap())
        }
    });
    for (archive, bytes) in futures::future::join_all(clients).await {
        assert!(bytes == if archive == "nar" { &site.nar[..] } else { &object[..] });
    }
}

#[tokio::test]
async fn archives_wait_for_their_turn() {
    let site = Site::limited(Limits { archives: 1, fetch: SHORT, ..Limits::default() }).await;
    let mut held = site.connect().await;
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", site.archive("nar"));
    held.write_all(request.as_bytes()).await.unwrap();
    held.read_exact(&mut [0; 1024]).await.unwrap();
    assert_eq!(site.get(&site.archive("nar")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(site.get("/nix-cache-info").await.status(), StatusCode::OK);
    drop(held);
    sleep(SHORT / 4).await;
    assert_eq!(site.get(&site.archive("nar")).await.bytes().await.unwrap().len(), site.nar.len());
}

#[tokio::test]
async fn what_a_client_has_not_taken_keeps_its_turn() {
    let site = Site::limited(Limits { archives: 1, fetch: SHORT, stall: SOON, ..Limits::default() }).await;
    let listing = format!("/{}.ls", site.path.hash_part());
    for (target, range) in [(&listing, "bytes=0-"), (&site.archive("nar"), "bytes=0-99")] {
        let held = grudging().get(site.url(target)).header("Range", range).send().await.unwrap();
        assert!(held.status().is_success(), "{target}");
        assert_eq!(site.get(&listing).await.status(), StatusCode::SERVICE_UNAVAILABLE, "{target}");
        drop(held);
        assert_eq!(site.get(&listing).await.status(), StatusCode::OK, "{target}");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_cut_whatever_else_is_asked() {
    let limits = Limits { archives: 1, fetch: SHORT, stall: SHORT, ..Limits::default() };
    let site = Site::limited(limits).await;
    for target in [site.archive("nar"), format!("/{}.ls", site.path.hash_part())] {
        let client = grudging();
        let _held = client.get(site.url(&target)).send().await.unwrap();
        for _ in 0..16 {
            let _ok_until_it_is_cut = client.head(site.url("/")).send().await;
            sleep(SHORT / 4).await;
        }
        let other = site.get(&format!("/{}.ls", site.path.hash_part())).await;
        assert_eq!(other.status(), StatusCode::OK, "{target} is held for ever");
    }
}

#[tokio::test]
async fn a_client_that_takes_little_at_a_time_gets_everything() {
    let site = Site::limited(Limits { fetch: SHORT, stall: SHORT, ..Limits::default() }).await;
    let client = builder().http2_prior_knowledge().http2_initial_stream_window_size(1 << 16).build().unwrap();
    let part = client.get(site.url(&site.archive("nar"))).header("Range", "bytes=0-1572863");
    let (mut answer, begun) = (part.send().await.unwrap(), Instant::now());
    let mut received = 0;
    while let Some(bytes) = answer.chunk().await.unwrap() {
        received += bytes.len();
        sleep(SHORT / 16).await;
    }
    assert_eq!(received, 1_572_864);
    assert!(begun.elapsed() > SHORT * 4, "the client was not slow: {:?}", begun.elapsed());
}

/// A client that takes one byte of an answer before its reader asks for more.
fn grudging() -> Client {
    builder().http2_prior_knowledge().http2_initial_stream_window_size(1).build().unwrap()
}

#[tokio::test]
async fn a_shutdown_lets_running_answers_end() {
    let mut site = Site::limited(Limits { grace: SOON, ..Limits::default() }).await;
    let mut answer = site.get(&site.archive("nar")).await;
    let first = answer.chunk().await.unwrap().unwrap();
    site.shutdown.take().unwrap().send(()).unwrap();
    sleep(SHORT / 4).await;
    assert!(client().get(site.url("/")).send().await.is_err(), "nobody listens any more");
    assert_eq!(first.len() + answer.bytes().await.unwrap().len(), site.nar.len());
    timeout(SOON, &mut site.running).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let mut site = Site::limited(Limits { grace: SHORT, ..Limits::default() }).await;
    let mut stuck = site.connect().await;
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", site.archive("nar"));
    stuck.write_all(request.as_bytes()).await.unwrap();
    stuck.read_exact(&mut [0; 1024]).await.unwrap();
    let _idle = site.connect().await;
    let begun = Instant::now();
    site.shutdown.take().unwrap().send(()).unwrap();
    timeout(SOON, &mut site.running).await.expect("it ends").unwrap();
    assert!((SHORT..SHORT * 10).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

/// A store with a mistake in it.
#[derive(Debug)]
struct Mistaken;

#[async_trait]
impl BlockStore for Mistaken {
    fn name(&self) -> &str {
        "mistaken:"
    }

    async fn get(&self, _: &Reference) -> Result<Block, Error> {
        panic!("a mistake")
    }

    async fn has(&self, _: &Reference) -> Result<bool, Error> {
        Ok(true)
    }

    async fn put(&self, _: &Reference, _: Block) -> Result<(), Error> {
        Ok(())
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        1
    }
}

#[tokio::test]
async fn a_panic_ends_one_request_only() {
    let limits = Limits::default();
    let service = Service { store: Arc::new(Mistaken), tree: None, put: PutPolicy::Refuse, limits };
    let (address, _shutdown, running) = start(service).await;
    let client = builder().http2_prior_knowledge().build().unwrap();
    let url = format!("http://{address}/uri-res/N2R?urn:blake2b:{}", reference_of(b""));
    for _ in 0..2 {
        assert_eq!(client.get(&url).send().await.unwrap().status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(client.head(&url).send().await.unwrap().status(), StatusCode::OK);
    }
    running.abort();
}
