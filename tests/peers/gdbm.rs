//! `gdbm:` against the C library: `gdbm_dump` reads what was written here, and what `gdbm_load` wrote is read and added to here.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use erisfs::block::{self, Block};
use erisfs::eris::{Reference, reference_of};

use super::process::run;
use super::scratch::{Scratch, text};

/// So many that buckets are split, and split again.
const BLOCKS: u32 = 5_000;

fn blocks(seeds: std::ops::Range<u32>) -> Vec<(Reference, Block)> {
    let sizes = seeds.map(|seed| (seed, if seed % 50 == 0 { 32 << 10 } else { 1 << 10 }));
    sizes
        .map(|(seed, size)| Block::from(seed.to_le_bytes().repeat(size / 4)))
        .map(|block| (reference_of(&block), block))
        .collect()
}

/// What `gdbm_dump` says is in a database.
#[track_caller]
fn dumped(scratch: &Scratch, file: &Path) -> HashMap<Vec<u8>, Vec<u8>> {
    let dump = scratch.at("dump");
    run(Command::new("gdbm_dump").arg(file).arg(&dump)).text();
    let dump = fs::read_to_string(dump).unwrap();
    // `#:len=N`, then lines of base64; a key and its value in turn.
    let items = dump.split("#:len=").skip(1).map(|item| {
        let lines = item.lines().skip(1).take_while(|line| !line.starts_with('#'));
        data_encoding::BASE64.decode(lines.collect::<String>().as_bytes()).unwrap()
    });
    let items: Vec<_> = items.collect();
    items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

#[track_caller]
fn is_the_same(dumped: &HashMap<Vec<u8>, Vec<u8>>, blocks: &[(Reference, Block)]) {
    assert_eq!(dumped.len(), blocks.len());
    for (reference, block) in blocks {
        assert_eq!(dumped[&reference.as_bytes()[..]], block[..]);
    }
}

#[tokio::test]
#[ignore = "needs real gdbmtool: tests/peers/run"]
async fn what_is_written_here_is_read_by_gdbm_and_the_other_way_round() {
    let scratch = Scratch::new();
    let (ours, theirs) = (scratch.at("ours.gdbm"), scratch.at("theirs.gdbm"));
    let (all, known) = (blocks(0..BLOCKS + 1000), blocks(0..BLOCKS));
    let store = block::open(&format!("gdbm:{}", ours.display())).unwrap();
    store.put_many(known.clone()).await.unwrap();
    is_the_same(&dumped(&scratch, &ours), &known);
    let counted = run(Command::new("gdbmtool").args(["--read-only", text(&ours), "count"])).text();
    assert!(counted.contains(&BLOCKS.to_string()), "{counted}");

    run(Command::new("gdbm_load").args([&scratch.at("dump"), &theirs])).text();
    let store = block::open(&format!("gdbm:{}", theirs.display())).unwrap();
    for (reference, block) in &known {
        assert_eq!(store.get(reference).await.unwrap(), block);
    }
    store.put_many(all.clone()).await.unwrap();
    is_the_same(&dumped(&scratch, &theirs), &all);

    // And GDBM adds to what was written here.
    run(Command::new("gdbm_load").args([&scratch.at("dump"), &ours]).arg("--replace")).text();
    is_the_same(&dumped(&scratch, &ours), &all);
    let store = block::open(&format!("gdbm:{}", ours.display())).unwrap();
    for (reference, block) in &all {
        assert_eq!(store.get(reference).await.unwrap(), block);
    }
}
