//! `put` and `get`: contents in and out of each kind of block store.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use data_encoding::BASE32_NOPAD;
use rustix::process::Signal;
use serde::Deserialize;

use super::noise::noise;
use super::process::{Running, feed, run, until};
use super::scratch::{Scratch, text};

#[track_caller]
fn put(scratch: &Scratch, blocks: &str, more: &[&str], content: &[u8]) -> String {
    let arguments = [&["put", "--blocks", blocks], more, &["-"]].concat();
    let printed = feed(&mut scratch.erisfs(arguments), content).text();
    assert_eq!(printed.lines().count(), 1, "the URN alone: {printed}");
    printed.trim_end().to_owned()
}

#[test]
fn a_file_and_stdin_give_the_same_urn_and_come_back_whole() {
    let scratch = Scratch::new();
    let (blocks, content) = (scratch.blocks(), noise(100_000));
    fs::write(scratch.at("file"), &content).unwrap();
    let from_file = scratch.run(["put", "--blocks", &blocks, "file"]).text();
    assert_eq!(put(&scratch, &blocks, &[], &content), from_file.trim_end());
    let urn = from_file.trim_end();
    assert_eq!(scratch.run(["get", "--blocks", &blocks, urn]).bytes(), content);
    let printed = scratch.run(["get", "--blocks", &blocks, urn, "-o", "copy"]).text();
    assert_eq!((printed.as_str(), fs::read(scratch.at("copy")).unwrap()), ("", content));
}

#[test]
fn the_empty_content_has_a_urn_too() {
    let scratch = Scratch::new();
    let urn = put(&scratch, &scratch.blocks(), &[], b"");
    assert_eq!(scratch.run(["get", "--blocks", &scratch.blocks(), &urn]).bytes(), b"");
}

#[test]
fn the_block_size_is_chosen_by_the_length_unless_it_is_given() {
    let scratch = Scratch::new();
    let sizes = |name: &str, options: &[&str], length: usize| {
        let dir = scratch.folder(name);
        let urn = put(&scratch, &format!("dir:{}", text(&dir)), options, &noise(length));
        let blocks = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let mut sizes: Vec<u64> = blocks
            .filter(|entry| entry.file_name().len() == 52)
            .map(|entry| entry.metadata().unwrap().len())
            .collect();
        sizes.sort();
        sizes.dedup();
        (sizes, urn)
    };
    let small = sizes("a", &[], 16 * 1024 - 1);
    assert_eq!(small.0, [1024]);
    assert_eq!(sizes("b", &["--block-size", "auto"], 16 * 1024 - 1), small);
    assert_eq!(sizes("c", &["--block-size", "1k"], 16 * 1024 - 1), small);
    assert_eq!(sizes("d", &[], 16 * 1024).0, [32 * 1024]);
    assert_eq!(sizes("e", &["--block-size", "32k"], 5).0, [32 * 1024]);
    assert_eq!(sizes("f", &["--block-size", "1k"], 40_000).0, [1024]);
}

#[test]
fn a_secret_gives_another_urn_and_the_same_content() {
    let scratch = Scratch::new();
    let (blocks, content) = (scratch.blocks(), noise(3_000));
    let (a, b) = ("a1".repeat(32), "b2".repeat(32));
    let plain = put(&scratch, &blocks, &[], &content);
    let zeros = put(&scratch, &blocks, &["--secret", &"0".repeat(64)], &content);
    assert_eq!(plain, zeros);
    let urns = [
        plain,
        put(&scratch, &blocks, &["--secret", &a], &content),
        put(&scratch, &blocks, &["--secret", &b], &content),
        put(&scratch, &blocks, &["--unique"], &content),
        put(&scratch, &blocks, &["--unique"], &content),
    ];
    assert_eq!(put(&scratch, &blocks, &["--secret", &a], &content), urns[1]);
    for (number, urn) in urns.iter().enumerate() {
        assert!(!urns[..number].contains(urn), "{urn} twice");
        assert_eq!(scratch.run(["get", "--blocks", &blocks, urn]).bytes(), content);
    }
}

#[test]
fn ranges_are_those_of_http() {
    let scratch = Scratch::new();
    let (blocks, content) = (scratch.blocks(), noise(200_000));
    let urn = put(&scratch, &blocks, &[], &content);
    for (range, expected) in [
        ("0-99", 0..100),
        ("0-0", 0..1),
        ("32760-32775", 32_760..32_776),
        ("150000-", 150_000..200_000),
        ("199999-", 199_999..200_000),
        ("199000-99999999", 199_000..200_000),
    ] {
        let got = scratch.run(["get", "--blocks", &blocks, "--range", range, &urn]).bytes();
        assert_eq!(got, content[expected], "{range}");
    }
    let beyond = scratch.run(["get", "--blocks", &blocks, "--range", "200000-", &urn]).refusal(1);
    assert!(beyond.contains("200000"), "{beyond}");
}

#[test]
fn erisfs_blocks_is_used_where_no_store_is_given() {
    let scratch = Scratch::new();
    let (empty, content) = (format!("dir:{}", text(&scratch.folder("empty"))), noise(5_000));
    let urn = feed(scratch.erisfs(["put", "-"]).env("ERISFS_BLOCKS", scratch.blocks()), &content).text();
    let get = |blocks: &str, more: &[&str]| {
        let arguments = [&["get", urn.trim_end()], more].concat();
        run(scratch.erisfs(arguments).env("ERISFS_BLOCKS", blocks))
    };
    let second = format!("{empty}\n{}", scratch.blocks());
    assert_eq!(get(&second, &[]).bytes(), content);
    // What is given replaces the default.
    let refusal = get(&scratch.blocks(), &["--blocks", &empty]).refusal(1);
    assert!(refusal.contains(&empty), "{refusal}");
}

#[test]
fn what_is_put_goes_into_every_store_that_is_named() {
    let scratch = Scratch::new();
    let stores = ["one", "other"].map(|name| format!("dir:{}", text(&scratch.folder(name))));
    let content = noise(90_000);
    let urn = feed(scratch.erisfs(["put", "-"]).env("ERISFS_BLOCKS", stores.join(" ")), &content).text();
    for store in stores {
        assert_eq!(scratch.run(["get", "--blocks", &store, urn.trim_end()]).bytes(), content);
    }
}

#[test]
fn a_sqlite_database_holds_blocks() {
    let scratch = Scratch::new();
    let (blocks, content) = (format!("sqlite:{}", text(&scratch.at("blocks.sqlite"))), noise(120_000));
    let urn = put(&scratch, &blocks, &[], &content);
    assert_eq!(scratch.run(["get", "--blocks", &blocks, &urn]).bytes(), content);
}

#[test]
fn a_server_takes_blocks_from_those_who_know_the_token() {
    const TOKEN: &str = "a-token-of-enough-characters";
    let (scratch, content) = (Scratch::new(), noise(150_000));
    let blocks = scratch.blocks();
    let arguments = ["serve", "--blocks", &blocks, "--listen", "127.0.0.1:0", "--allow-put"];
    let mut server = Running::start(scratch.erisfs(arguments).env("ERISFS_TOKEN", TOKEN));
    let line = server.line("listening on ");
    let url = line.split_once("listening on ").unwrap().1;
    let with = |token: &str| url.replace("http://", &format!("http://:{token}@"));

    fs::write(scratch.at("file"), &content).unwrap();
    for stranger in [url.to_owned(), with("another-token-as-long-as")] {
        let refusal = scratch.run(["put", "--blocks", &stranger, "file"]).refusal(1);
        assert!(refusal.contains("refused") && !refusal.contains("another-token"), "{refusal}");
    }
    let urn = put(&scratch, &with(TOKEN), &[], &content);
    // Anybody may read; and what came over HTTP lies in the directory.
    assert_eq!(scratch.run(["get", "--blocks", url, &urn]).bytes(), content);
    assert_eq!(scratch.run(["get", "--blocks", &blocks, &urn]).bytes(), content);
    assert!(!server.log().contains(TOKEN), "a token of the environment is no matter for the log");
}

#[test]
fn a_server_takes_no_blocks_unless_told_to() {
    let scratch = Scratch::new();
    fs::write(scratch.at("file"), noise(2_000)).unwrap();
    let (_server, url) = scratch.serve(&[]);
    let refusal = scratch.run(["put", "--blocks", &url, "file"]).refusal(1);
    assert!(refusal.contains("refused"), "{refusal}");
}

/// A vector of the drafts of ERIS.
#[derive(Deserialize)]
struct Vector {
    urn: String,
    blocks: HashMap<String, String>,
    content: String,
}

#[test]
fn folders_of_eris_go_with_contents_of_the_drafts_are_read() {
    let scratch = Scratch::new();
    let sets = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/eris-experimental");
    for set in ["x2a-erisx2-v0.2.0", "x2b-erisx2-v0.3.0"] {
        // One block of each size, and a content of several blocks.
        for number in ["00", "01", "04"] {
            let file = sets.join(set).join(format!("eris-test-vector-{number}.json"));
            let vector: Vector = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            assert!(vector.urn.starts_with("urn:erisx2:"));
            let folder = scratch.folder(&format!("{set}-{number}"));
            // As eris-go lays them out: one file a block, named by the base32 of its reference.
            for (reference, block) in vector.blocks {
                fs::write(folder.join(reference), BASE32_NOPAD.decode(block.as_bytes()).unwrap()).unwrap();
            }
            let blocks = format!("dir:{}", text(&folder));
            let got = scratch.run(["get", "--blocks", &blocks, &vector.urn]).bytes();
            assert_eq!(got, BASE32_NOPAD.decode(vector.content.as_bytes()).unwrap(), "{}", file.display());
        }
    }
}

#[test]
fn a_get_that_fails_leaves_the_file_that_was_there() {
    let scratch = Scratch::new();
    let blocks = scratch.blocks();
    let urn = put(&scratch, &blocks, &[], &noise(200_000));
    let keep = scratch.at("keep");
    std::fs::write(&keep, "precious").unwrap();
    let folder = std::path::PathBuf::from(blocks.strip_prefix("dir:").unwrap());
    // All but the root: the content opens, and then ends.
    let root = urn.parse::<erisfs::eris::ReadCapability>().unwrap().reference.to_string();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with(&root) {
            std::fs::remove_file(path).unwrap();
        }
    }
    scratch.run(["get", "-o", text(&keep), "--blocks", &blocks, &urn]).refusal(1);
    assert_eq!(std::fs::read_to_string(&keep).unwrap(), "precious");
}

#[test]
fn a_plug_in_goes_with_a_command_that_is_stopped() {
    let scratch = Scratch::new();
    let urn = put(&scratch, &scratch.blocks(), &[], b"hello");
    let started = scratch.at("started");
    let plug_in = format!("exec:echo $$ > {0}.new; mv {0}.new {0}; sleep 776", text(&started));
    let get = Running::start(&mut scratch.erisfs(["get", "--blocks", &plug_in, &urn]));
    until("the plug-in runs", || started.exists());
    let process = fs::read_to_string(&started).unwrap().trim_end().to_owned();
    get.signal(Signal::TERM);
    assert_eq!(get.finish().code, Some(1));
    // Nobody may be there to take note of its end.
    let ended = || match fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    until("the plug-in ends", ended);
}
