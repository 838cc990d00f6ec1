//! A neighbour that lies, one that stalls, one that vanishes in the middle of a block: the reader has a way around.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use erisfs::lan::{Announcement, ServiceKind};

use super::super::scratch::Scratch;
use super::sharing::Publication;
use super::{Host, Link, is_the_same};

/// What a bad neighbour does when it is asked for a block.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Badness {
    /// Gives another block.
    Lies,
    /// Says nothing, and keeps the connection.
    Stalls,
    /// Gives half of a block, and is off the link from then on.
    Vanishes,
}

/// A bad neighbour on a host, announced as one that shares.
struct BadNeighbour {
    asked: Arc<AtomicU64>,
    _announcement: Announcement,
}

impl BadNeighbour {
    fn on(host: &Host, badness: Badness) -> Self {
        let asked = Arc::new(AtomicU64::new(0));
        let (counted, netns) = (asked.clone(), host.netns.clone());
        let announcement = host.inside(move || {
            let listener = TcpListener::bind("0.0.0.0:0").unwrap();
            let at = listener.local_addr().unwrap();
            thread::spawn(move || {
                for socket in listener.incoming().flatten() {
                    let (counted, netns) = (counted.clone(), netns.clone());
                    thread::spawn(move || answer(socket, badness, &counted, &netns));
                }
            });
            Announcement::new(ServiceKind::EriBlocks, at, "bad").unwrap()
        });
        BadNeighbour { asked, _announcement: announcement }
    }
}

fn answer(mut socket: TcpStream, badness: Badness, asked: &AtomicU64, netns: &str) {
    let mut held = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = socket.read(&mut piece) {
        held.extend_from_slice(&piece[..length]);
        while let Some(end) = held.windows(4).position(|window| window == b"\r\n\r\n") {
            held.drain(..end + 4);
            asked.fetch_add(1, Ordering::Relaxed);
            let given = match badness {
                Badness::Lies => 32 << 10,
                Badness::Vanishes => 16 << 10,
                Badness::Stalls => continue,
            };
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 32768\r\n\r\n");
            let _ = socket.write_all(&vec![7; given]);
            if badness == Badness::Vanishes {
                let _ = Command::new("ip").args(["-n", netns, "link", "set", "eth0", "down"]).status();
            }
        }
    }
}

/// Reads everything beside a bad neighbour, with a good server in second place; each read has 10 s.
fn reads_everything_beside(badness: Badness) {
    let link = Link::new();
    let [publisher, bad, reader] = [link.host(), link.host(), link.host()];
    let publication = Publication::new();
    let (_server, url) = publication.serve(&publisher);
    let bad = BadNeighbour::on(&bad, badness);
    let scratch = Scratch::new();
    let catalog = publication.published.catalog.as_str();
    let begun = Instant::now();
    let arguments = ["--blocks", "lan:", "--blocks", &url, "--catalog", catalog, "-o", "timeout=10"];
    let _mount = reader.mount(&scratch, &arguments);
    is_the_same(&publication.tree, &publication.tree_in(&scratch));
    let (took, asked) = (begun.elapsed(), bad.asked.load(Ordering::Relaxed));
    eprintln!("beside one that {badness:?}: {took:?}, and it was asked {asked} times");
    assert!(asked > 0, "it was never asked");
    // Two seconds, on a machine that is seven times as slow.
    assert!(took < Duration::from_secs(15), "{took:?}");
    // Requests in flight, and now and then one to find out whether it has mended.
    assert!(asked < 200, "{asked} of 2,200 files");
}

#[test]
#[ignore = "needs root: tests/peers/run"]
fn one_that_lies_costs_one_delay() {
    reads_everything_beside(Badness::Lies);
}

#[test]
#[ignore = "needs root: tests/peers/run"]
fn one_that_stalls_costs_one_delay() {
    reads_everything_beside(Badness::Stalls);
}

#[test]
#[ignore = "needs root: tests/peers/run"]
fn one_that_vanishes_in_the_middle_of_a_block_costs_one_delay() {
    reads_everything_beside(Badness::Vanishes);
}
