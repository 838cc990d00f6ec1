//! What neighbours get of a listener that shares: blocks that are here, within limits.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use erisfs::block::{Block, BlockStore, Memory};
use erisfs::eris::{Reference, reference_of};
use erisfs::metrics::Sharing;
use erisfs::serve::{Server, Share};
use reqwest::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{client, read_to_close};

/// No limit that a test would feel.
const ANY_RATE: u64 = 1 << 40;

struct Neighbour {
    address: SocketAddr,
    references: Vec<Reference>,
    figures: Arc<Sharing>,
    _running: JoinSet<()>,
}

impl Neighbour {
    /// One that has so many blocks of 32 KiB.
    async fn with(blocks: u8, rate: u64, connections: usize) -> Self {
        let store = Arc::new(Memory::new());
        let mut references = Vec::new();
        for byte in 0..blocks {
            let block = Block::from(vec![byte; 32 << 10]);
            references.push(reference_of(&block));
            store.put(&references[usize::from(byte)], block).await.unwrap();
        }
        let share = Share { store, rate, connections };
        let server = Server::bind_share("127.0.0.1:0", share).await.unwrap();
        let (address, figures) = (server.local_addr(), server.sharing().unwrap().clone());
        let mut running = JoinSet::new();
        running.spawn(server.run(std::future::pending()));
        Neighbour { address, references, figures, _running: running }
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    fn block_url(&self, reference: &Reference) -> String {
        self.url(&format!("/uri-res/N2R?urn:blake2b:{reference}"))
    }

    /// Asks for all blocks at once; the statuses of the answers.
    async fn ask_for_all(&self) -> Vec<StatusCode> {
        let client = client();
        let asked = self.references.iter().map(|reference| {
            let request = client.get(self.block_url(reference));
            async move {
                let answer = request.send().await.unwrap();
                let status = answer.status();
                let body = answer.bytes().await.unwrap();
                assert!(status != StatusCode::OK || reference_of(&body) == *reference);
                status
            }
        });
        futures::future::join_all(asked).await
    }
}

#[tokio::test]
async fn a_neighbour_gets_blocks_and_nothing_else() {
    let neighbour = Neighbour::with(2, ANY_RATE, 16).await;
    let client = client();
    let answer = client.get(neighbour.block_url(&neighbour.references[1])).send().await.unwrap();
    assert_eq!(reference_of(&answer.bytes().await.unwrap()), neighbour.references[1]);
    let answer = client.head(neighbour.block_url(&neighbour.references[0])).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let absent = neighbour.block_url(&reference_of(b"nobody has this"));
    assert_eq!(client.get(&absent).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let hash_part = "0c9hs37wsa5n5xl29b3l4fzzx8apb35v";
    for target in [
        "/",
        "/metrics",
        "/nix-cache-info",
        &format!("/{hash_part}.narinfo"),
        &format!("/{hash_part}.ls"),
        &format!("/nar/{hash_part}.nar"),
        "/nothing",
    ] {
        let answer = client.get(neighbour.url(target)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{target}");
        assert_eq!(answer.text().await.unwrap(), "not found\n", "{target}");
    }
    let put = client.put(&absent).bearer_auth("0123456789abcdef").body(vec![0; 1024]).send().await.unwrap();
    assert_eq!(put.status(), StatusCode::FORBIDDEN);
    let figures = neighbour.figures.status();
    assert_eq!((figures.blocks, figures.bytes, figures.lacked, figures.refused), (1, 32 << 10, 1, 0));
    assert_eq!(figures.limits.port, neighbour.address.port());
}

#[tokio::test]
async fn all_neighbours_together_get_no_more_than_the_rate() {
    // Half of a block is in hand at the beginning; 31 more take 1.9 s.
    let neighbour = Neighbour::with(32, 512 << 10, 128).await;
    let begun = Instant::now();
    let statuses = neighbour.ask_for_all().await;
    assert!(statuses.iter().all(|status| *status == StatusCode::OK), "{statuses:?}");
    assert!(begun.elapsed() > Duration::from_millis(1600), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn who_would_wait_too_long_is_sent_elsewhere_at_once() {
    // One block a second.
    let neighbour = Neighbour::with(32, 32 << 10, 128).await;
    let begun = Instant::now();
    let statuses = neighbour.ask_for_all().await;
    let refused = statuses.iter().filter(|status| **status == StatusCode::SERVICE_UNAVAILABLE).count();
    assert!((24..32).contains(&refused), "{statuses:?}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let figures = neighbour.figures.status();
    assert_eq!(figures.refused as usize, refused);
    assert_eq!(figures.blocks as usize, 32 - refused);
}

#[tokio::test]
async fn there_are_no_more_connections_than_are_allowed() {
    let neighbour = Neighbour::with(1, ANY_RATE, 2).await;
    let request = "GET /uri-res/N2R HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut socket = TcpStream::connect(neighbour.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        held.push(socket);
    }
    assert_eq!(neighbour.figures.status().connections, 2);
    let mut third = TcpStream::connect(neighbour.address).await.unwrap();
    let answer = read_to_close(&mut third).await;
    assert!(answer.starts_with(b"HTTP/1.1 503 "), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(neighbour.figures.status().refused, 1);
    drop(held);
    while neighbour.figures.status().connections > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(neighbour.ask_for_all().await, [StatusCode::OK]);
}

#[tokio::test]
async fn one_address_gets_a_part_of_the_connections() {
    let neighbour = Neighbour::with(1, ANY_RATE, 40).await;
    let mut held = Vec::new();
    for _ in 0..17 {
        held.push(TcpStream::connect(neighbour.address).await.unwrap());
    }
    let answer = read_to_close(held.last_mut().unwrap()).await;
    assert!(answer.starts_with(b"HTTP/1.1 503 "), "{:?}", String::from_utf8_lossy(&answer));
    assert_eq!(neighbour.figures.status().connections, 16);
}

#[tokio::test]
async fn who_goes_before_his_turn_takes_nobodys() {
    // One block in four seconds.
    let neighbour = Neighbour::with(1, 8 << 10, 64).await;
    let request =
        format!("GET /uri-res/N2R?urn:blake2b:{} HTTP/1.1\r\nHost: x\r\n\r\n", neighbour.references[0]);
    assert_eq!(neighbour.ask_for_all().await, [StatusCode::OK]);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // There is a place in the queue for one.
    let mut hurried = TcpStream::connect(neighbour.address).await.unwrap();
    hurried.write_all(request.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(hurried);
    while neighbour.figures.status().connections > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(neighbour.ask_for_all().await, [StatusCode::OK]);
}

#[tokio::test]
async fn a_block_that_is_not_here_costs_nobody_the_rate() {
    // One block in 64 seconds.
    let neighbour = Neighbour::with(1, 512, 64).await;
    let absent = neighbour.block_url(&reference_of(b"nobody has this"));
    let client = client();
    for _ in 0..3 {
        assert_eq!(client.get(&absent).send().await.unwrap().status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(neighbour.ask_for_all().await, [StatusCode::OK]);
    assert_eq!(neighbour.ask_for_all().await, [StatusCode::SERVICE_UNAVAILABLE]);
}
