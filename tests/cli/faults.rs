//! Faults of a block store: the file that needs the block fails, the log says why, all else goes on.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::noise::noise;
use super::process::Running;
use super::scratch::{Published, Scratch, text};

/// Long enough that each has blocks of its own.
const FILE: usize = 300_000;
const EIO: Option<i32> = Some(5);

/// Five files of noise, published.
fn publish(scratch: &Scratch) -> Published {
    let tree = scratch.folder("tree");
    for number in 0..5 {
        fs::write(tree.join(number.to_string()), noise(FILE + number)).unwrap();
    }
    scratch.publish(&[&tree])
}

/// The error of reading the whole file, page by page, or its bytes.
fn read(path: &Path) -> Result<Vec<u8>, Option<i32>> {
    let mut bytes = Vec::new();
    let answer = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes));
    answer.map(|_| bytes).map_err(|error| error.raw_os_error())
}

/// The block files, in the order in which they were written.
fn blocks(scratch: &Scratch) -> Vec<PathBuf> {
    let entries = fs::read_dir(scratch.at("blocks")).unwrap().map(|entry| entry.unwrap().path());
    let mut blocks: Vec<_> = entries.filter(|path| path.file_name().unwrap().len() == 52).collect();
    blocks.sort_by_key(|path| {
        let metadata = path.metadata().unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    });
    blocks
}

/// Damages blocks one after the other until the file `2` fails and the others do not; then mends it all.
#[track_caller]
fn one_file_fails(damage: fn(&Path), words: &str) {
    let scratch = Scratch::new();
    let published = publish(&scratch);
    let mut shown = false;
    for block in blocks(&scratch) {
        let sound = fs::read(&block).unwrap();
        damage(&block);
        let mount = scratch.erisfs([
            "mount",
            "--foreground",
            "--blocks",
            &scratch.blocks(),
            "--catalog",
            &published.catalog,
            text(&scratch.folder("mnt")),
        ]);
        shown = one_file_failed(mount, &scratch, &published, &block, words);
        fs::write(&block, sound).unwrap();
        if shown {
            break;
        }
    }
    assert!(shown, "no block belongs to one file alone");
}

/// Mounts a store with one damaged block; whether the block is within the contents of one file.
#[track_caller]
fn one_file_failed(
    mut mount: std::process::Command,
    scratch: &Scratch,
    published: &Published,
    block: &Path,
    words: &str,
) -> bool {
    let mut mount = Running::start(&mut mount);
    let line = mount.either("mounted at ", "erisfs: ");
    if line.starts_with("erisfs: ") {
        // It was a block of the catalog: nothing can be mounted.
        assert!(line.contains(block.file_name().unwrap().to_str().unwrap()), "{line}");
        return false;
    }
    let top = scratch.at("mnt").join(published.name());
    let answers = [0, 1, 2, 3, 4].map(|number| read(&top.join(number.to_string())));
    let failed: Vec<usize> = (0..5).filter(|&number| answers[number].is_err()).collect();
    for (number, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(bytes) => assert!(bytes == noise(FILE + number), "wrong bytes in file {number}"),
            Err(errno) => assert_eq!(errno, EIO),
        }
    }
    if failed.len() == 1 {
        let name = format!("{}/{}", published.name(), failed[0]);
        let reference = block.file_name().unwrap().to_str().unwrap();
        let line = mount.line(&name);
        for part in [reference, &scratch.blocks(), words] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
    // It is alive, and ends as always.
    assert_eq!(fs::read_dir(scratch.at("mnt")).unwrap().count(), 1);
    mount.signal(Signal::TERM);
    assert_eq!(mount.finish().code, Some(0));
    failed.len() == 1
}

#[test]
fn a_flipped_bit_costs_one_file() {
    one_file_fails(
        |block| {
            let mut bytes = fs::read(block).unwrap();
            bytes[1000] ^= 0x10;
            fs::write(block, bytes).unwrap();
        },
        "another block",
    );
}

#[test]
fn a_missing_block_costs_one_file() {
    one_file_fails(|block| fs::remove_file(block).unwrap(), "is not in");
}

#[test]
fn a_truncated_block_costs_one_file() {
    one_file_fails(
        |block| File::options().write(true).open(block).unwrap().set_len(20_000).unwrap(),
        "20000 bytes, which is no block size",
    );
}

#[test]
fn reads_fail_in_time_while_the_server_is_away_and_work_when_it_is_back() {
    let scratch = Scratch::new();
    let published = publish(&scratch);
    let (server, url) = scratch.serve(&[]);
    let mut mount = scratch.mount("mnt", &url, &published.catalog, "timeout=2");
    let top = scratch.at("mnt").join(published.name());
    assert_eq!(read(&top.join("0")).unwrap(), noise(FILE));

    // A server that says nothing more: stopped, its connections stay open.
    server.signal(Signal::STOP);
    let begun = Instant::now();
    assert_eq!(read(&top.join("2")).unwrap_err(), EIO);
    let took = begun.elapsed();
    assert!(Duration::from_secs(2) <= took && took < Duration::from_secs(20), "{took:?}");
    mount.line(&format!("{}/2", published.name()));
    assert_eq!(read(&top.join("0")).unwrap(), noise(FILE), "what was read is still there");
    server.signal(Signal::CONT);
    assert_eq!(read(&top.join("2")).unwrap(), noise(FILE + 2));

    // A server that is gone: connections are refused.
    server.signal(Signal::TERM);
    assert_eq!(server.finish().code, Some(0));
    let begun = Instant::now();
    assert_eq!(read(&top.join("4")).unwrap_err(), EIO);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    let line = mount.line(&format!("{}/4", published.name()));
    assert!(line.contains(&url), "{line}");

    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let blocks = scratch.blocks();
    let mut again = Running::start(&mut scratch.erisfs(["serve", "--blocks", &blocks, "--listen", &address]));
    again.line("listening on ");
    assert_eq!(read(&top.join("4")).unwrap(), noise(FILE + 4));
}
