//! HTTP servers that are broken, silent or hostile: what the client makes of them, and how often it asks.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use erisfs::{
    block::{self, Block, BlockStore, Error, Found, Http, Memory, Patience, Refusal, Verify},
    eris::{BlockSize, Reference},
    http::Access,
};
use futures::{StreamExt as _, future::join_all};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::{n2r, suite};

/// What a scripted server does with one request; the connection ends with it.
pub enum Act {
    Say(Vec<u8>),
    /// Says this and then nothing, holding the connection.
    Stall(Vec<u8>),
    /// Says this and resets the connection.
    Reset(Vec<u8>),
    /// Says this, and then zeros for as long as anybody reads.
    Flood(Vec<u8>),
}

/// A server that answers the n-th request, from 0, as a script has it.
pub struct Scripted {
    pub url: String,
    requests: Arc<AtomicUsize>,
    pub heads: Arc<std::sync::Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    pub async fn start(script: impl Fn(usize) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        let (requests, heads) =
            (Arc::new(AtomicUsize::new(0)), Arc::<std::sync::Mutex<Vec<String>>>::default());
        let (script, counter, log) = (Arc::new(script), requests.clone(), heads.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, counter, log) = (script.clone(), counter.clone(), log.clone());
                tokio::spawn(async move {
                    let mut stream = stream;
                    let head = read_head(&mut stream).await;
                    log.lock().expect("no panic").push(head);
                    act(stream, script(counter.fetch_add(1, SeqCst))).await;
                });
            }
        });
        Self { url, requests, heads, task }
    }

    pub fn requests(&self) -> usize {
        self.requests.load(SeqCst)
    }

    /// As a user has it: checked, and tried again.
    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        block::open(&self.url).expect("a good URL").get(reference).await
    }

    /// With a patience that suits a test.
    async fn get_soon(&self, reference: &Reference) -> Result<Block, Error> {
        let short = Duration::from_millis(200);
        let patience = Patience { connect: short, first_byte: short, stall: short, body: 3 * short };
        Http::new(&self.url, patience, &Access::default()).expect("a good URL").get(reference).await
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).to_lowercase()
}

async fn act(mut stream: TcpStream, act: Act) {
    let (Act::Say(first) | Act::Stall(first) | Act::Reset(first) | Act::Flood(first)) = &act;
    // The client may have left.
    let _ = stream.write_all(first).await;
    match act {
        Act::Say(_) => {
            let _ = stream.shutdown().await;
        }
        Act::Stall(_) => std::future::pending().await,
        Act::Reset(_) => {
            // What was said must have been read before the reset overtakes it.
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.set_zero_linger().expect("a TCP socket");
        }
        Act::Flood(_) => while stream.write_all(&[0; 65536]).await.is_ok() {},
    }
}

fn head(status: &str, length: usize) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n").into_bytes()
}

/// The head of a full answer with only this much of the body.
fn partial(body: &[u8], bytes: usize) -> Vec<u8> {
    [&head("200 OK", body.len()), &body[..bytes]].concat()
}

fn full(body: &[u8]) -> Vec<u8> {
    partial(body, body.len())
}

fn wanted() -> (Reference, Block) {
    suite::block(1, BlockSize::Large)
}

#[tokio::test]
async fn a_truncated_reply_is_tried_again_and_then_unavailable() {
    let (reference, block) = wanted();
    let server = Scripted::start(move |_| Act::Say(partial(&block, 20_000))).await;
    let error = server.get(&reference).await.expect_err("half a block");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn a_reply_cut_short_without_a_length_is_corrupt_and_tried_again_once() {
    let (reference, block) = wanted();
    let server = Scripted::start(move |_| {
        Act::Say([b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n", &block[..20_000]].concat())
    })
    .await;
    let error = server.get(&reference).await.expect_err("half a block");
    assert!(matches!(error, Error::Corrupt { found: Found::Length(20_000), .. }), "{error}");
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_body_said_to_be_too_long_is_not_read() {
    let (reference, _) = wanted();
    let server = Scripted::start(|_| Act::Stall(head("200 OK", 32 * 1024 + 1))).await;
    let error = server.get_soon(&reference).await.expect_err("too long");
    assert!(matches!(error, Error::Corrupt { found: Found::TooLong, .. }), "{error}");
}

#[tokio::test]
async fn an_endless_body_is_left_after_a_block_and_a_bit() {
    let (reference, _) = wanted();
    let server =
        Scripted::start(|_| Act::Flood(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec())).await;
    let error = server.get_soon(&reference).await.expect_err("endless");
    assert!(matches!(error, Error::Corrupt { found: Found::TooLong, .. }), "{error}");
}

#[tokio::test]
async fn another_block_is_told_from_the_one_asked_for() {
    let (reference, _) = wanted();
    let (other, block) = suite::block(2, BlockSize::Large);
    let server = Scripted::start(move |_| Act::Say(full(&block))).await;
    let error = server.get(&reference).await.expect_err("another block");
    assert!(matches!(error, Error::Corrupt { found: Found::Block(found), .. } if found == other), "{error}");
}

#[tokio::test]
async fn a_silent_server_is_left_when_its_time_is_up() {
    let (reference, block) = wanted();
    let before_the_head = Scripted::start(|_| Act::Stall(Vec::new())).await;
    let in_the_body = Scripted::start(move |_| Act::Stall(partial(&block, 20_000))).await;
    for server in [before_the_head, in_the_body] {
        let begun = Instant::now();
        let error = server.get_soon(&reference).await.expect_err("silence");
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert_eq!(server.requests(), 1);
    }
}

#[tokio::test]
async fn a_server_that_drips_is_left_although_it_never_stalls() {
    let (reference, _) = wanted();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    let drip = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        read_head(&mut stream).await;
        stream.write_all(&head("200 OK", 32 * 1024)).await.expect("the client listens");
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let patience = Patience { body: Duration::from_millis(300), ..Patience::default() };
    let error = Http::new(&url, patience, &Access::default())
        .expect("a good URL")
        .get(&reference)
        .await
        .expect_err("drops");
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    drip.abort();
}

#[tokio::test]
async fn a_refused_connection_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    drop(listener);
    let error = block::open(&url).expect("a good URL").get(&wanted().0).await.expect_err("nobody listens");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "the reason is told: {error}");
}

#[tokio::test]
async fn a_connection_reset_in_the_body_is_tried_again() {
    let (reference, block) = wanted();
    let expected = block.clone();
    let server = Scripted::start(move |request| match request {
        0 => Act::Reset(partial(&block, 20_000)),
        _ => Act::Say(full(&block)),
    })
    .await;
    assert_eq!(server.get(&reference).await.expect("the second try"), expected);
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again() {
    let (reference, block) = wanted();
    let expected = block.clone();
    let server = Scripted::start(move |request| match request {
        0 => Act::Say(head("500 Internal Server Error", 0)),
        1 => Act::Say(head("429 Too Many Requests", 0)),
        _ => Act::Say(full(&block)),
    })
    .await;
    assert_eq!(server.get(&reference).await.expect("the third try"), expected);
}

#[tokio::test]
async fn a_batch_tries_again_what_failed_and_nothing_else() {
    let blocks: Vec<_> = (0..20).map(|seed| suite::block(seed, BlockSize::Small)).collect();
    let body = blocks[0].1.clone();
    // Every request gets block 0 or an error: 19 are lies.
    let server = Scripted::start(move |_| Act::Say(full(&body))).await;
    let store = block::open(&server.url).expect("a good URL");
    let answers: Vec<_> =
        store.get_many(blocks.iter().map(|(reference, _)| *reference).collect()).collect().await;
    assert_eq!(answers.iter().filter(|(_, answer)| answer.is_ok()).count(), 1);
    assert_eq!(server.requests(), 1 + 19 * 2);
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let (reference, _) = wanted();
    let server = Scripted::start(|_| {
        Act::Say(b"HTTP/1.1 302 Found\r\nlocation: /round\r\ncontent-length: 0\r\n\r\n".to_vec())
    })
    .await;
    let error = server.get(&reference).await.expect_err("a loop");
    assert!(matches!(error, Error::Refused { reason: Refusal::Redirects, .. }), "{error}");
    assert_eq!(server.requests(), 4);
}

#[tokio::test]
async fn a_put_that_is_redirected_is_not_taken_for_done() {
    let (reference, block) = wanted();
    for status in ["301 Moved", "303 See Other", "307 Temporary Redirect"] {
        let script = move |request| match request {
            0 => {
                let answer = format!("HTTP/1.1 {status}\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n");
                Act::Say(answer.into_bytes())
            }
            _ => Act::Say(full(b"log in")),
        };
        let server = Scripted::start(script).await;
        let store = Http::new(&server.url, Patience::default(), &Access::default()).expect("a good URL");
        let error = store.put(&reference, block.clone()).await.expect_err("it is not stored");
        assert!(matches!(error, Error::Refused { reason: Refusal::Status(301..=307), .. }), "{error}");
        assert_eq!(server.requests(), 1);
    }
}

#[tokio::test]
async fn a_page_that_stands_between_is_no_block() {
    let (reference, _) = wanted();
    let has = async |answers: [&'static str; 2]| {
        let script = move |request: usize| {
            Act::Say(format!("HTTP/1.1 {}\r\n\r\n", answers[request.min(1)]).into_bytes())
        };
        let server = Scripted::start(script).await;
        block::open(&server.url).expect("a good URL").has(&reference).await
    };
    let led = "302 Found\r\nlocation: /login";
    for page in
        [["200 OK\r\ncontent-length: 4321", ""], [led, "200 OK"], [led, "200 OK\r\ncontent-length: 0"]]
    {
        let error = has(page).await.expect_err("a page");
        assert!(matches!(error, Error::Refused { reason: Refusal::Foreign(_), .. }), "{error}");
    }
    for block in
        [["200 OK", ""], ["200 OK\r\ncontent-length: 1024", ""], [led, "200 OK\r\ncontent-length: 32768"]]
    {
        assert!(has(block).await.expect("it answers"), "{block:?}");
    }
}

#[tokio::test]
async fn a_token_goes_to_the_server_it_is_for_and_not_where_that_points() {
    let (reference, block) = wanted();
    let expected = block.clone();
    let elsewhere = Scripted::start(move |_| Act::Say(full(&block))).await;
    let location = elsewhere.url.replace("127.0.0.1", "localhost");
    let answer =
        format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}x\r\ncontent-length: 0\r\n\r\n");
    let server = Scripted::start(move |_| Act::Say(answer.clone().into_bytes())).await;
    let url = server.url.replace("http://", "http://:hush@");
    assert_eq!(block::open(&url).expect("a good URL").get(&reference).await.expect("by redirect"), expected);
    let head_of = |server: &Scripted| server.heads.lock().expect("no panic")[0].clone();
    assert!(head_of(&server).contains("authorization: bearer hush"), "{}", head_of(&server));
    assert!(
        head_of(&server).starts_with(&format!("get /uri-res/n2r?urn:blake2b:{reference} ").to_lowercase())
    );
    assert!(!head_of(&elsewhere).contains("hush"), "{}", head_of(&elsewhere));
}

#[tokio::test]
async fn each_status_has_its_meaning() {
    let (reference, block) = wanted();
    let ask = async |status: &'static str| {
        let server = Scripted::start(move |_| Act::Say(head(status, 0))).await;
        let patience = Patience::default();
        let store = Http::new(&server.url, patience, &Access::default()).expect("a good URL");
        (store.get(&reference).await.expect_err(status), store.put(&reference, block.clone()).await)
    };
    for status in ["404 Not Found", "410 Gone"] {
        assert!(matches!(ask(status).await.0, Error::NotFound { .. }), "{status}");
    }
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let (get, put) = ask(status).await;
        assert!(matches!(get, Error::Refused { reason: Refusal::Denied(_), .. }), "{get}");
        assert!(matches!(put, Err(Error::Refused { reason: Refusal::Denied(_), .. })), "{status}");
    }
    for status in ["429 Slow Down", "500 Oh", "502 Oh", "503 Later"] {
        let (get, put) = ask(status).await;
        assert!(get.is_transient() && put.expect_err(status).is_transient(), "{get}");
    }
    for status in ["405 No", "501 No"] {
        assert!(
            matches!(ask(status).await.1, Err(Error::Refused { reason: Refusal::ReadOnly, .. })),
            "{status}"
        );
    }
    let (odd, _) = ask("418 Teapot").await;
    assert!(matches!(odd, Error::Refused { reason: Refusal::Status(418), .. }), "{odd}");
    for status in ["200 OK", "201 Created", "204 No Content"] {
        let server =
            Scripted::start(move |_| Act::Say(format!("HTTP/1.1 {status}\r\n\r\n").into_bytes())).await;
        let store = Http::new(&server.url, Patience::default(), &Access::default()).expect("a good URL");
        store.put(&reference, block.clone()).await.expect(status);
    }
}

#[tokio::test]
async fn a_server_without_head_is_asked_by_get() {
    let (reference, block) = wanted();
    let server = Scripted::start(move |request| match request {
        0 | 2 => Act::Say(head("405 Method Not Allowed", 0)),
        1 => Act::Say(full(&block)),
        _ => Act::Say(head("404 Not Found", 0)),
    })
    .await;
    let store = block::open(&server.url).expect("a good URL");
    assert!(store.has(&reference).await.expect("it answers"));
    assert!(!store.has(&reference).await.expect("it answers"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_reused_and_requests_bounded() {
    let memory = Arc::new(Memory::new());
    let blocks: Vec<_> = (0..600).map(|seed| suite::block(seed, BlockSize::Small)).collect();
    memory.put_many(blocks.clone()).await.expect("memory takes blocks");
    let server = n2r::Server::start(memory, None, None).await;
    let url = format!("http://{}/prefix", server.address);
    let store =
        Verify::new(Arc::new(Http::new(&url, Patience::default(), &Access::default()).expect("a good URL")));
    let all = join_all(blocks.iter().map(|(reference, _)| store.get(reference))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let seen = &server.seen;
    assert_eq!(seen.requests.load(SeqCst), 600);
    assert!(seen.most.load(SeqCst) <= 256, "{} requests at once", seen.most.load(SeqCst));
    // A connection may be begun while another is about to become free, so there may be some more.
    assert!(seen.connections.load(SeqCst) <= 512, "{} connections", seen.connections.load(SeqCst));
}
