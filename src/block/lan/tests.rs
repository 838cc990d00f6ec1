use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures::{StreamExt as _, stream};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::member::Standing;
use super::*;
use crate::block::race::{Race, SourceState};
use crate::block::{Http, Verify};
use crate::eris::reference_of;
use crate::http::Access;

/// What a neighbour does when it is asked for a block.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// It says that it has every block, and gives another.
    Lies,
    Stalls,
    /// It gives one block, and stalls then.
    Fades,
    /// It ends in the middle of a block.
    Vanishes,
    /// It sends whoever asks to another address.
    Redirects(SocketAddr),
    /// It wants to be left alone for so many seconds, whoever asks for a block.
    Busy(u8),
    /// The same, of the first one alone.
    BusyOnce,
}

/// A neighbour on loopback.
struct Peer {
    addr: SocketAddr,
    seen: Arc<Seen>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    gets: AtomicUsize,
    heads: AtomicUsize,
}

impl Peer {
    async fn start(blocks: &[Block], manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let addr = listener.local_addr().expect("it is bound");
        let blocks: HashMap<_, _> =
            blocks.iter().map(|block| (reference_of(block).to_string(), block.clone())).collect();
        let (blocks, seen) = (Arc::new(blocks), Arc::<Seen>::default());
        let (here, count) = (blocks.clone(), seen.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.connections.fetch_add(1, Relaxed);
                connections.spawn(converse(stream, here.clone(), manner, count.clone()));
            }
        });
        Self { addr, seen, task }
    }

    fn asked(&self) -> usize {
        self.seen.gets.load(Relaxed) + self.seen.heads.load(Relaxed)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers the requests on one connection.
async fn converse(
    stream: TcpStream,
    blocks: Arc<HashMap<String, Block>>,
    manner: Manner,
    seen: Arc<Seen>,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).await.ok()? == 0 {
                return None;
            }
        }
        let is_get = head.starts_with("GET ");
        if is_get { &seen.gets } else { &seen.heads }.fetch_add(1, Relaxed);
        let (_, rest) = head.split_once("/uri-res/N2R?urn:blake2b:")?;
        let mut block = blocks.get(rest.split(' ').next()?).cloned();
        match manner {
            Manner::Fades if seen.gets.load(Relaxed) > 1 => std::future::pending().await,
            Manner::BusyOnce if is_get && seen.gets.load(Relaxed) == 1 => {
                let answer = "HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer.as_bytes()).await.ok()?;
                continue;
            }
            Manner::Busy(seconds) if is_get => {
                let answer =
                    format!("HTTP/1.1 503 Busy\r\nRetry-After: {seconds}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok()?;
                continue;
            }
            Manner::Honest | Manner::Vanishes | Manner::Fades | Manner::Busy(_) | Manner::BusyOnce => {}
            Manner::Lies => block = Some(Block::from(vec![6; 1024])),
            Manner::Stalls => std::future::pending().await,
            Manner::Redirects(to) => {
                let answer =
                    format!("HTTP/1.1 302 Found\r\nLocation: http://{to}/\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.ok()?;
                continue;
            }
        }
        let (status, body) = match block {
            Some(block) => ("200 OK", block),
            None => ("404 Not Found", Block::new()),
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(answer.as_bytes()).await.ok()?;
        if is_get && manner == Manner::Vanishes && !body.is_empty() {
            stream.write_all(&body[..body.len() / 2]).await.ok()?;
            return None;
        }
        if is_get {
            stream.write_all(&body).await.ok()?;
        }
    }
}

fn block(number: u8) -> Block {
    Block::from(vec![number; 1024])
}

fn lan(peers: &[&Peer]) -> Lan {
    of(Neighbours::given(peers.iter().map(|peer| peer.addr)))
}

fn of(neighbours: Arc<Neighbours>) -> Lan {
    Lan::of(neighbours).expect("a client")
}

async fn get(lan: &Lan, block: &Block) -> Result<Block, Error> {
    lan.get(&reference_of(block)).await
}

#[tokio::test]
async fn without_a_neighbour_every_block_is_absent_at_once() {
    let (lan, wanted) = (lan(&[]), reference_of(&block(1)));
    let begun = Instant::now();
    assert!(matches!(lan.get(&wanted).await, Err(Error::NotFound { .. })));
    assert!(!lan.has(&wanted).await.unwrap());
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn nothing_is_put() {
    let error = lan(&[]).put(&reference_of(&block(1)), block(1)).await.unwrap_err();
    assert!(matches!(error, Error::Refused { reason: Refusal::ReadOnly, .. }), "{error}");
}

#[tokio::test]
async fn whoever_has_the_block_gives_it_and_is_asked_first_from_then_on() {
    let blocks = [block(1), block(2), block(3)];
    let (full, empty) = (Peer::start(&blocks, Manner::Honest).await, Peer::start(&[], Manner::Honest).await);
    let lan = lan(&[&empty, &full]);
    assert_eq!(get(&lan, &blocks[0]).await.unwrap(), blocks[0]);
    let asked = empty.asked();
    assert_eq!(get(&lan, &blocks[1]).await.unwrap(), blocks[1]);
    assert_eq!(get(&lan, &blocks[2]).await.unwrap(), blocks[2]);
    assert_eq!((empty.asked(), full.seen.gets.load(Relaxed)), (asked, 3));
    assert!(lan.has(&reference_of(&blocks[0])).await.unwrap());
    assert!(matches!(get(&lan, &block(9)).await, Err(Error::NotFound { .. })));
    assert!(!lan.has(&reference_of(&block(9))).await.unwrap());
}

#[tokio::test]
async fn what_several_hold_in_part_is_had_from_all_of_them() {
    let blocks: Vec<_> = (0..20).map(block).collect();
    let mut peers = Vec::new();
    for part in blocks.chunks(5) {
        peers.push(Peer::start(part, Manner::Honest).await);
    }
    let lan = lan(&peers.iter().collect::<Vec<_>>());
    for wanted in &blocks {
        assert_eq!(get(&lan, wanted).await.unwrap(), *wanted);
    }
}

#[tokio::test]
async fn several_who_have_all_share_the_work() {
    let blocks: Vec<_> = (0..40).map(block).collect();
    // Each has one block that the other lacks, by which it comes to be known as somebody who gives.
    let one = Peer::start(&blocks[1..], Manner::Honest).await;
    let other = Peer::start(&blocks[..39], Manner::Honest).await;
    let lan = lan(&[&one, &other]);
    for wanted in [&blocks[0], &blocks[39]] {
        get(&lan, wanted).await.unwrap();
    }
    let blocks = &blocks[1..39];
    let answers = stream::iter(blocks).map(|wanted| get(&lan, wanted)).buffer_unordered(CONCURRENCY);
    assert!(answers.all(|answer| async move { answer.is_ok() }).await);
    let (one, other) = (one.seen.gets.load(Relaxed), other.seen.gets.load(Relaxed));
    assert!(one > 5 && other > 5, "{one} and {other}");
}

#[tokio::test]
async fn connections_are_kept() {
    let blocks: Vec<_> = (0..20).map(block).collect();
    let peer = Peer::start(&blocks, Manner::Honest).await;
    let lan = lan(&[&peer]);
    for wanted in &blocks {
        get(&lan, wanted).await.unwrap();
    }
    // The question who has the first block may have gone beside.
    assert!(peer.seen.connections.load(Relaxed) <= 2, "{}", peer.seen.connections.load(Relaxed));
}

#[tokio::test]
async fn however_much_is_wanted_a_neighbour_gets_16_connections() {
    let blocks: Vec<_> = (0..200).map(block).collect();
    let peer = Peer::start(&blocks, Manner::Honest).await;
    let lan = lan(&[&peer]);
    let answers = stream::iter(&blocks).map(|wanted| get(&lan, wanted)).buffer_unordered(100);
    assert!(answers.all(|answer| async move { answer.is_ok() }).await);
    let connections = peer.seen.connections.load(Relaxed);
    assert!((1..=16).contains(&connections), "{connections}");
}

#[tokio::test]
async fn one_that_lies_is_found_out_once_and_left_alone() {
    let blocks = [block(1), block(2)];
    let (liar, honest) = (Peer::start(&[], Manner::Lies).await, Peer::start(&blocks, Manner::Honest).await);
    let lan = lan(&[&liar, &honest]);
    assert_eq!(get(&lan, &blocks[0]).await.unwrap(), blocks[0]);
    // It is the first to be asked when nobody is known to be good, and may have been late to answer before.
    for _ in 0..10 {
        assert_eq!(get(&lan, &blocks[1]).await.unwrap(), blocks[1]);
    }
    assert!(liar.seen.gets.load(Relaxed) <= 1, "{}", liar.seen.gets.load(Relaxed));
}

#[tokio::test]
async fn a_lie_is_nobodys_block() {
    let liar = Peer::start(&[], Manner::Lies).await;
    let lan = lan(&[&liar]);
    for _ in 0..2 {
        assert!(matches!(get(&lan, &block(1)).await, Err(Error::NotFound { .. })));
    }
    assert_eq!(liar.seen.gets.load(Relaxed), 1, "it is left alone");
}

#[tokio::test]
async fn one_that_stalls_or_vanishes_costs_one_bounded_delay() {
    for manner in [Manner::Stalls, Manner::Vanishes] {
        let blocks = [block(1), block(2)];
        let bad = Peer::start(&blocks, manner).await;
        let good = Peer::start(&blocks, Manner::Honest).await;
        let lan = lan(&[&bad, &good]);
        for wanted in &blocks {
            let begun = Instant::now();
            assert_eq!(get(&lan, wanted).await.unwrap(), *wanted);
            assert!(begun.elapsed() < PATIENCE.first_byte, "{:?}", begun.elapsed());
        }
    }
}

#[tokio::test]
async fn one_that_was_silent_while_another_gave_is_left_alone() {
    let blocks = [block(1), block(2), block(3)];
    let (bad, good) = (Peer::start(&blocks, Manner::Fades).await, Peer::start(&blocks, Manner::Honest).await);
    let neighbours = Neighbours::given([bad.addr]);
    let lan = of(neighbours.clone());
    assert_eq!(get(&lan, &blocks[0]).await.unwrap(), blocks[0]);
    neighbours.tell([bad.addr, good.addr]);
    assert_eq!(get(&lan, &blocks[1]).await.unwrap(), blocks[1], "it was asked first, and overtaken");
    let asked = bad.asked();
    // Also by those who search for what nobody has, who would wait for its word.
    assert!(get(&lan, &block(9)).await.is_err());
    assert_eq!(bad.asked(), asked);
}

#[tokio::test]
async fn a_block_that_only_a_silent_one_may_have_is_not_said_to_be_absent() {
    let (silent, empty) = (Peer::start(&[], Manner::Stalls).await, Peer::start(&[], Manner::Honest).await);
    let lan = lan(&[&silent, &empty]);
    let begun = Instant::now();
    let error = get(&lan, &block(1)).await.unwrap_err();
    assert!(matches!(error, Error::Partial { .. }) && error.is_transient(), "{error}");
    // Now it is left alone, and costs nothing more.
    let (asked, error) = (silent.asked(), get(&lan, &block(1)).await.unwrap_err());
    assert!(matches!(error, Error::Partial { .. }), "{error}");
    assert_eq!(silent.asked(), asked);
    assert!(begun.elapsed() < PATIENCE.first_byte, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn one_that_is_busy_for_a_second_is_asked_again_and_stays_well() {
    let blocks = [block(1), block(2)];
    let busy = Peer::start(&blocks, Manner::BusyOnce).await;
    let lan = lan(&[&busy]);
    let begun = Instant::now();
    assert_eq!(get(&lan, &blocks[0]).await.unwrap(), blocks[0], "within the same request");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(busy.seen.gets.load(Relaxed), 2, "it is left alone for so long");
    assert_eq!(lan.members()[0].standing(), Standing::Open);
}

#[tokio::test]
async fn one_that_is_never_done_with_others_fails() {
    let blocks = [block(1), block(2)];
    let busy = Peer::start(&blocks, Manner::Busy(1)).await;
    let lan = lan(&[&busy]);
    for wanted in &blocks {
        let error = get(&lan, wanted).await.unwrap_err();
        assert!(matches!(error, Error::Partial { .. }), "{error}");
    }
    assert_eq!(lan.members()[0].standing(), Standing::Shut);
}

#[tokio::test]
async fn one_that_wants_to_be_left_alone_for_long_is_and_costs_nothing() {
    let blocks = [block(1), block(2)];
    let busy = Peer::start(&blocks, Manner::Busy(100)).await;
    let lan = lan(&[&busy]);
    for _ in 0..3 {
        let begun = Instant::now();
        let error = get(&lan, &blocks[0]).await.unwrap_err();
        assert!(matches!(error, Error::Partial { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    assert_eq!(busy.seen.gets.load(Relaxed), 1);
}

#[tokio::test]
async fn one_that_stalls_is_held_to_account_though_nobody_waits_for_it() {
    let blocks = [block(1)];
    let silent = Peer::start(&blocks, Manner::Stalls).await;
    let lan = lan(&[&silent]);
    let given_up = tokio::time::timeout(3 * member::LATE, get(&lan, &blocks[0])).await;
    assert!(given_up.is_err(), "it says nothing");
    assert_eq!(lan.members()[0].standing(), Standing::Shut);
    // Whoever goes sooner has no reason to complain.
    let silent = Peer::start(&blocks, Manner::Stalls).await;
    let lan = self::lan(&[&silent]);
    let given_up = tokio::time::timeout(member::LATE / 8, get(&lan, &blocks[0])).await;
    assert!(given_up.is_err() && lan.members()[0].standing() == Standing::Open);
}

#[tokio::test]
async fn one_that_has_come_back_is_asked_however_many_searches_begin() {
    let blocks: Vec<_> = (0..20).map(block).collect();
    let (half, full) =
        (Peer::start(&blocks[..10], Manner::Honest).await, Peer::start(&blocks, Manner::Fades).await);
    let neighbours = Neighbours::given([half.addr]);
    let lan = of(neighbours.clone());
    get(&lan, &blocks[0]).await.unwrap();
    neighbours.tell([half.addr, full.addr]);
    get(&lan, &blocks[18]).await.unwrap();
    let fallen = lan.members().into_iter().find(|member| member.addr() == full.addr).expect("a member");
    // It gave one, stalls at the next, and is left alone.
    let _ = tokio::time::timeout(Duration::from_secs(1), get(&lan, &blocks[19])).await;
    assert_eq!(fallen.standing(), Standing::Shut);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // Searches that end before it has to be asked take nothing from it.
    for wanted in &blocks[..10] {
        assert_eq!(get(&lan, wanted).await.unwrap(), *wanted);
    }
    assert_eq!(fallen.standing(), Standing::Open, "it is still time to find out");
}

#[tokio::test]
async fn what_was_known_of_a_host_is_known_when_it_comes_back_at_another_port() {
    let (liar, other) = (Peer::start(&[], Manner::Lies).await, Peer::start(&[], Manner::Lies).await);
    let neighbours = Neighbours::given([liar.addr]);
    let lan = of(neighbours.clone());
    get(&lan, &block(1)).await.unwrap_err();
    neighbours.tell([other.addr]);
    get(&lan, &block(1)).await.unwrap_err();
    assert_eq!(other.asked(), 0);
    neighbours.tell([]);
    assert!(lan.members().is_empty());
    neighbours.tell([liar.addr]);
    assert_eq!(lan.members()[0].standing(), Standing::Shut, "nor by going for a moment");
}

/// `lan:` before a web server, as a mount has them.
fn race(peers: &[&Peer], server: &Peer) -> Race {
    let server = Http::new(&format!("http://{}/", server.addr), Patience::default(), &Access::default());
    Race::new(vec![Arc::new(lan(peers)), Arc::new(Verify::new(Arc::new(server.expect("a URL"))))])
}

#[tokio::test]
async fn a_silent_neighbour_does_not_take_the_others_with_it() {
    let blocks: Vec<_> = (0..60).map(block).collect();
    let half: Vec<_> = blocks.iter().step_by(2).cloned().collect();
    let (silent, honest) = (Peer::start(&[], Manner::Stalls).await, Peer::start(&half, Manner::Honest).await);
    let server = Peer::start(&blocks, Manner::Honest).await;
    let race = race(&[&silent, &honest], &server);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        for wanted in &blocks {
            assert_eq!(race.get(&reference_of(wanted)).await.unwrap(), *wanted);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(silent.asked() > 1, "it was given another chance");
    // A machine that stops for a moment makes everybody look silent, once.
    let lan = &race.sources()[0];
    assert!(lan.failed <= 1 && lan.answered > lan.lacked, "{lan:?}");
}

#[tokio::test]
async fn a_good_neighbour_spares_the_server() {
    let blocks: Vec<_> = (0..200).map(block).collect();
    let (near, far) =
        (Peer::start(&blocks, Manner::Honest).await, Peer::start(&blocks, Manner::Honest).await);
    let race = race(&[&near], &far);
    let answers = race.get_many(blocks.iter().map(|block| reference_of(block)).collect());
    assert!(answers.all(|(_, answer)| async move { answer.is_ok() }).await);
    // Of a machine that stops for a moment, five in a hundred may be asked for twice.
    assert!(far.seen.gets.load(Relaxed) <= 10, "{}", far.seen.gets.load(Relaxed));
    assert_eq!(race.sources()[0].state, SourceState::Up);
}

#[tokio::test]
async fn no_neighbour_leads_elsewhere() {
    let elsewhere = Peer::start(&[block(1)], Manner::Honest).await;
    let guide = Peer::start(&[], Manner::Redirects(elsewhere.addr)).await;
    assert!(get(&lan(&[&guide]), &block(1)).await.is_err());
    assert_eq!(elsewhere.seen.connections.load(Relaxed), 0);
}

#[tokio::test]
async fn neighbours_come_and_go() {
    let neighbours = Neighbours::given([]);
    let lan = of(neighbours.clone());
    assert!(matches!(get(&lan, &block(1)).await, Err(Error::NotFound { .. })));
    let peer = Peer::start(&[block(1)], Manner::Honest).await;
    neighbours.tell([peer.addr]);
    assert_eq!(get(&lan, &block(1)).await.unwrap(), block(1));
    neighbours.tell([]);
    let error = get(&lan, &block(1)).await.unwrap_err();
    assert!(matches!(error, Error::Partial { .. }), "one that is started anew has them still: {error}");
    assert_eq!(peer.seen.gets.load(Relaxed), 1);
    assert!(Verify::new(Arc::new(lan)).is_remote());
}

#[tokio::test]
async fn while_neighbours_are_still_being_found_the_first_one_does_not_decide() {
    let (without, with) =
        (Peer::start(&[], Manner::Honest).await, Peer::start(&[block(1)], Manner::Honest).await);
    let neighbours = Neighbours::expected(Duration::from_secs(60));
    let lan = of(neighbours.clone());
    let wanted = block(1);
    let finding = async {
        neighbours.tell([without.addr]);
        while without.asked() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        neighbours.tell([without.addr, with.addr]);
    };
    assert_eq!(tokio::join!(get(&lan, &wanted), finding).0.unwrap(), wanted);
}

#[tokio::test]
async fn once_the_time_to_be_found_is_up_absence_is_an_answer() {
    let neighbours = Neighbours::expected(Duration::from_millis(200));
    let without = Peer::start(&[], Manner::Honest).await;
    neighbours.tell([without.addr]);
    let lan = of(neighbours);
    assert!(matches!(get(&lan, &block(1)).await, Err(Error::NotFound { .. })));
    assert!(!lan.has(&reference_of(&block(1))).await.unwrap());
}
