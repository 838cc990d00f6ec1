//! How it fails: 2 for a wrong call, 1 with one line where something is missing; results alone on stdout.

use std::fs;
use std::process::Command;

use super::noise::noise;
use super::process::{Finished, feed, run};
use super::scratch::{Scratch, text};

const COMMANDS: [&str; 16] = [
    "put", "get", "publish", "ls", "cat", "stat", "mount", "serve", "prefetch", "check", "cache", "status",
    "why", "demo", "seed", "audit",
];

/// A URN that is right, of a content that is nowhere.
fn urn(scratch: &Scratch) -> String {
    let elsewhere = format!("dir:{}", text(&scratch.at("elsewhere")));
    let call = &mut scratch.erisfs(["put", "--blocks", &elsewhere, "-"]);
    feed(call, &noise(100)).text().trim_end().to_owned()
}

#[test]
fn every_command_tells_how_it_is_called() {
    let scratch = Scratch::new();
    let overview = scratch.run(["--help"]).text();
    for command in COMMANDS {
        assert!(overview.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {overview}");
        let help = scratch.run([command, "--help"]);
        assert_eq!(help.stderr, "");
        assert!(help.text().contains(&format!("Usage: erisfs {command}")), "{command}");
    }
    assert_eq!(scratch.run(["--version"]).text(), format!("erisfs {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_calls_end_with_2() {
    let scratch = Scratch::new();
    let (urn, blocks, mnt) = (urn(&scratch), scratch.blocks(), scratch.folder("mnt"));
    let (urn, blocks, mnt) = (urn.as_str(), blocks.as_str(), text(&mnt));
    let calls: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["put"],
        &["put", "--frobnicate", "-"],
        &["put", "--blocks", blocks, "--block-size", "2k", "-"],
        &["put", "--blocks", blocks, "--secret", "abc", "-"],
        &["put", "--blocks", blocks, "--secret", &"0".repeat(64), "--unique", "-"],
        &["put", "-"],
        &["get", urn],
        &["get", "--blocks", "blocks", urn],
        &["get", "--blocks", "ftp://host/", urn],
        &["get", "--blocks", "dir:", urn],
        &["get", "--blocks", blocks, "urn:eris:AAAA"],
        &["get", "--blocks", blocks, "urn:sha1:AAAA"],
        &["get", "--blocks", blocks, "--range", "5-2", urn],
        &["get", "--blocks", blocks, "--range", "some", urn],
        &["publish", "--blocks", blocks],
        &["ls", "--blocks", blocks],
        &["cat", "--blocks", blocks, &"a".repeat(32)],
        &["ls", "--blocks", blocks, "--catalog", "urn:eris:AAAA"],
        &["mount", "--blocks", blocks, "--catalog", urn],
        &["mount", "--blocks", blocks, "--catalog", urn, "-o", "frobnicate", mnt],
        &["mount", "--blocks", blocks, "--catalog", urn, "-o", "timeout=soon", mnt],
        &["mount", "--blocks", blocks, "--catalog", urn, "-o", "rw", mnt],
        &["mount", "--catalog", urn, mnt],
        &["mount", "--blocks", "blocks", "--catalog", urn, mnt],
        &["serve"],
        &["serve", "--blocks", blocks, "--max-connections", "many"],
        &["serve", "--blocks", blocks, "--share", "--share-rate", "0"],
        &["serve", "--blocks", blocks, "--share", "--share-connections", "0"],
        &["serve", "--blocks", blocks, "--share-rate", "2M"],
        &["serve", "--blocks", blocks, "--listen", "127.0.0.1:0", "--advertise"],
    ];
    for call in calls {
        let finished = scratch.run(*call);
        assert_eq!(finished.code, Some(2), "{call:?}: {}", finished.stderr);
        assert!(finished.stdout.is_empty() && !finished.stderr.is_empty(), "{call:?}");
    }
}

#[test]
fn an_unknown_mount_option_is_named_with_those_that_are_known() {
    let scratch = Scratch::new();
    let (urn, blocks, mnt) = (urn(&scratch), scratch.blocks(), scratch.folder("mnt"));
    let call = ["mount", "--blocks", &blocks, "--catalog", &urn, "-o", "allow_otter", text(&mnt)];
    let refusal = scratch.run(call).refusal(2);
    assert!(refusal.contains("allow_otter") && refusal.contains("allow_other"), "{refusal}");
}

#[test]
fn failures_end_with_1_and_one_line_that_names_the_thing() {
    let scratch = Scratch::new();
    let (urn, blocks) = (urn(&scratch), scratch.blocks());
    let known = scratch.run(["put", "--blocks", &blocks, "/proc/self/status"]).text();
    let known = known.trim_end();
    fs::write(scratch.at("plain"), "no directory").unwrap();
    let nobody = "http://127.0.0.1:9/";
    let (mnt, missing) = (scratch.folder("mnt"), format!("dir:{}", text(&scratch.at("missing"))));
    let mnt = text(&mnt);
    // What is called, and what its one line has to name.
    let calls: &[(&[&str], &str)] = &[
        (&["put", "--blocks", &blocks, "absent"], "absent"),
        (&["put", "--blocks", &blocks, "mnt"], "mnt"),
        (&["put", "--blocks", "dir:plain/blocks", "plain"], "plain/blocks"),
        (&["get", "--blocks", &blocks, &urn], &blocks),
        (&["get", "--blocks", &missing, &urn], &missing),
        (&["get", "--blocks", nobody, &urn], nobody),
        (&["get", "--blocks", &blocks, known, "-o", "absent/file"], "absent/file"),
        (&["publish", "--blocks", &blocks, "absent"], "absent"),
        (&["ls", "--blocks", &blocks, "--catalog", &urn], &blocks),
        (&["ls", "--blocks", nobody, "--catalog", &urn], nobody),
        (&["ls", "--blocks", &blocks, "--catalog", known], "catalog"),
        (&["mount", "--blocks", &blocks, "--catalog", &urn, mnt], &blocks),
        (&["mount", "--blocks", nobody, "--catalog", &urn, mnt], nobody),
        (&["mount", "--blocks", &blocks, "absent"], "absent"),
        (&["mount", "--blocks", &blocks, "plain"], "plain"),
        (&["mount", "--foreground", "--blocks", &blocks, "absent"], "absent"),
        (&["serve", "--blocks", &blocks, "--listen", "192.0.2.1:1"], "192.0.2.1:1"),
    ];
    for (call, name) in calls {
        let line = scratch.run(*call).refusal(1);
        assert!(line.starts_with("erisfs: ") && line.contains(name), "{call:?}: {line}");
        let words: Vec<&str> = line.split(": ").collect();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]), "said twice: {line}");
    }
    scratch.is_quiet();
}

#[test]
fn a_path_that_no_catalog_lists_is_named() {
    let scratch = Scratch::new();
    fs::write(scratch.at("file"), "content").unwrap();
    let published = scratch.publish(&[&scratch.at("file")]);
    let (blocks, absent) = (scratch.blocks(), format!("{}-absent", "a".repeat(32)));
    for (path, code) in [(absent.as_str(), 1), (&absent[..32], 1), ("nonsense", 2)] {
        for command in ["ls", "cat", "stat"] {
            let call = [command, "--blocks", &blocks, "--catalog", &published.catalog, path];
            let refusal = scratch.run(call).refusal(code);
            assert!(refusal.contains(path), "{refusal}");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    for number in 0..3_000 {
        fs::write(tree.join(format!("a-name-that-fills-a-pipe-{number}")), "").unwrap();
    }
    let published = scratch.publish(&[&tree]);
    let urn = feed(&mut scratch.erisfs(["put", "--blocks", &scratch.blocks(), "-"]), &noise(500_000)).text();
    let head = |call: &str| -> Finished {
        let script = format!("{{ \"$0\" {call}; echo $? > status; }} | head -c 10 > /dev/null");
        let mut command = Command::new("sh");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_erisfs")]).current_dir(scratch.at(""));
        command.env("ERISFS_BLOCKS", scratch.blocks());
        run(&mut command)
    };
    let catalog = &published.catalog;
    for call in [format!("get {}", urn.trim_end()), format!("ls -R --catalog {catalog}")] {
        assert_eq!(head(&call).stderr, "", "{call}");
        assert_eq!(fs::read_to_string(scratch.at("status")).unwrap(), "0\n", "{call}");
    }
}

#[test]
fn the_log_goes_to_stderr_without_colours_in_files() {
    let scratch = Scratch::new();
    let call = &mut scratch.erisfs(["-vv", "put", "--blocks", &scratch.blocks(), "-"]);
    let finished = feed(call.env("RUST_LOG", "trace"), b"content");
    assert!(!finished.stderr.contains('\x1b'), "{}", finished.stderr);
    assert!(finished.text().starts_with("urn:eris:"));
}

#[test]
fn a_block_store_is_not_published_into_itself() {
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    let store = format!("dir:{}", text(&tree.join("blocks")));
    std::fs::create_dir(tree.join("blocks")).unwrap();
    let refusal = scratch.run(["publish", "--blocks", &store, text(&tree)]).refusal(2);
    assert!(refusal.contains(&store), "{refusal}");
}

#[test]
fn an_address_without_a_port_is_a_wrong_call() {
    let scratch = Scratch::new();
    let refusal = scratch.run(["serve", "--blocks", &scratch.blocks(), "--listen", "localhost"]).refusal(2);
    assert!(refusal.contains("--listen localhost"), "{refusal}");
}
