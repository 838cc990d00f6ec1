//! `erisfs cache`: what it tells of a disk cache, and what it does to it.

use erisfs::block::{Block, Disk, DiskSettings};
use erisfs::eris::{Reference, reference_of};

use super::scratch::{Scratch, text};

fn blocks() -> Vec<(Reference, Block)> {
    let blocks = (0..50).map(|byte| Block::from(vec![byte; 32768]));
    blocks.map(|block| (reference_of(&block), block)).collect()
}

/// A cache with 50 blocks, five of them pinned as `a\u{1b}b`.
fn cache(scratch: &Scratch) -> Disk {
    let settings = DiskSettings { size: 16 << 20, free_floor: 0, resize: true };
    let disk = Disk::open(&scratch.at("cache"), settings).unwrap();
    let blocks = blocks();
    disk.put_many(&blocks);
    let pinned: Vec<_> = blocks[..5].iter().map(|(reference, _)| *reference).collect();
    disk.pin("a\u{1b}b", &pinned).unwrap();
    disk
}

#[test]
fn a_cache_can_be_looked_at_and_looked_after() {
    let scratch = Scratch::new();
    let disk = cache(&scratch);
    let dir = scratch.at("cache");
    let run = |arguments: &[&str]| scratch.run([&["cache", "--cache", text(&dir)], arguments].concat());

    let stat: serde_json::Value = serde_json::from_str(&run(&["stat", "--json"]).text()).unwrap();
    assert_eq!(
        (&stat["used"], &stat["pinned"], &stat["bytes"]),
        (&50.into(), &5.into(), &(50 * 32768).into())
    );
    assert!(run(&["stat"]).text().contains("50 of "));
    assert_eq!(run(&["verify"]).text(), "checked 50 blocks, dropped 0\n");
    let list = run(&["list"]).text();
    assert!(list.starts_with("a\\u{1b}b  5 blocks, "), "{list}");
    assert_eq!(run(&["gc"]).text(), "evicted 0 blocks, 0 B\n");
    assert!(run(&["gc", "--to", "0"]).text().starts_with("evicted 45 blocks"));
    assert_eq!(disk.stat().used, 5, "who has it open sees it");
    assert_eq!(run(&["unpin", "a\u{1b}b"]).text(), "");
    assert!(run(&["unpin", "a"]).refusal(1).contains("nothing is pinned as \"a\""));
    assert!(run(&["list"]).text().is_empty());
}

#[test]
fn a_cache_that_is_not_there_is_not_made() {
    let scratch = Scratch::new();
    let dir = scratch.at("cache");
    assert!(
        scratch.run(["cache", "stat", "--cache", text(&dir)]).refusal(1).contains("there is no cache in")
    );
    assert!(!dir.exists());
}
