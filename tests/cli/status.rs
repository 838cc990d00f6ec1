//! What a running mount or server tells of itself: status, why, and the figures for Prometheus.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::noise::noise;
use super::process::until;
use super::scratch::{Published, Scratch, text, umount};

/// A file of ten blocks, published.
fn publish(scratch: &Scratch) -> Published {
    fs::write(scratch.folder("tree").join("file"), noise(300_000)).unwrap();
    scratch.publish(&[&scratch.at("tree")])
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// What `GET` answers, head and body.
fn get(address: &str, target: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn file(scratch: &Scratch, published: &Published) -> std::path::PathBuf {
    scratch.at("mnt").join(published.name()).join("file")
}

#[test]
fn a_mount_that_shares_gives_what_it_has_read_and_tells_of_it() {
    let scratch = Scratch::new();
    let published = publish(&scratch);
    let (_server, url) = scratch.serve(&[]);
    let at = scratch.folder("mnt");
    let call = ["mount", "--share", "--blocks", &url, "--catalog", &published.catalog, text(&at)];
    scratch.run(call).text();
    let status = || json(&scratch.run(["status", "--json", text(&at)]).text())["sharing"].clone();
    let address = format!("127.0.0.1:{}", status()["port"]);
    let ask = |target: &str| get(&address, target).lines().next().unwrap().to_owned();
    let blocks = fs::read_dir(scratch.at("blocks")).unwrap().map(|entry| entry.unwrap().file_name());
    let blocks: Vec<String> = blocks.map(|name| name.into_string().unwrap()).collect();
    let given = || {
        let targets = blocks.iter().map(|reference| format!("/uri-res/N2R?urn:blake2b:{reference}"));
        targets.filter(|target| ask(target) == "HTTP/1.1 200 OK").count()
    };
    let before = given();
    fs::read(file(&scratch, &published)).unwrap();
    // The file has ten blocks; nobody needs all of the catalog.
    let after = given();
    assert!(after >= before + 9, "{before} and {after} of {}", blocks.len());
    assert_eq!(ask("/metrics"), "HTTP/1.1 404 Not Found");
    let sharing = status();
    assert_eq!(sharing["blocks"].as_u64(), Some((before + after) as u64), "{sharing}");
    assert!(scratch.run(["status"]).text().contains("  sharing   "));
    umount(&at);
}

#[test]
fn a_mount_and_a_server_tell_how_they_are_doing() {
    let scratch = Scratch::new();
    assert!(scratch.run(["status"]).text().contains("nothing is mounted"));
    let published = publish(&scratch);
    let (_server, url) = scratch.serve(&[]);
    let mount = scratch.mount("mnt", &url, &published.catalog, "timeout=20");
    fs::read(file(&scratch, &published)).unwrap();

    let all = scratch.run(["status", "--json"]).text();
    assert_eq!(all.lines().count(), 2, "{all}");
    let one = json(&scratch.run(["status", "--json", text(&scratch.at("mnt"))]).text());
    assert_eq!((&one["face"], one["pid"].as_u64()), (&"mount".into(), Some(mount.id().into())));
    assert!(one["tree"]["read_bytes"].as_u64() >= Some(300_000), "{one}");
    let read =
        one["requests"].as_array().unwrap().iter().find(|requests| requests["kind"] == "read").unwrap();
    assert!(read["count"].as_u64() > Some(0) && read["errors"] == 0, "{read}");
    assert_eq!(one["blocks"]["disk"]["dir"].as_str(), scratch.at("cache/erisfs/blocks").to_str());

    let shown = scratch.run(["status"]).text();
    for words in [text(&scratch.at("mnt")), url.as_str(), "traffic", "hits", "memory"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    let is_path = |line: &str| line.contains(text(Path::new("/tmp")));
    let widest = shown.lines().filter(|line| !is_path(line)).map(|line| line.chars().count()).max();
    assert!(widest <= Some(100), "{shown}");
    let nowhere = scratch.run(["status", text(&scratch.folder("other"))]).refusal(1);
    assert!(nowhere.contains("other"), "{nowhere}");
}

#[test]
fn status_and_why_answer_while_the_network_is_dead() {
    let scratch = Scratch::new();
    let published = publish(&scratch);
    let (server, url) = scratch.serve(&[]);
    let _mount = scratch.mount("mnt", &url, &published.catalog, "timeout=2");
    fs::metadata(file(&scratch, &published)).unwrap();
    server.signal(Signal::KILL);
    until("the server is gone", || scratch.run(["status", "--json"]).text().lines().count() == 1);

    let why = json(&scratch.run(["why", "--json", text(&file(&scratch, &published))]).text());
    assert_eq!(why["size"].as_u64(), Some(300_000));
    assert!(why["round_trips"].as_u64() >= Some(1) && why["missing_bytes"].as_u64() > Some(0), "{why}");
    let shown = scratch.run(["why", text(&file(&scratch, &published))]).text();
    assert!(shown.contains("for a source") && shown.contains("missing"), "{shown}");
    assert!(fs::read(file(&scratch, &published)).is_err(), "nobody has the bytes");
    assert_eq!(scratch.run(["status"]).code, Some(0));
}

#[test]
fn what_was_read_costs_nothing_any_more() {
    let scratch = Scratch::new();
    let published = publish(&scratch);
    let (_server, url) = scratch.serve(&[]);
    let _mount = scratch.mount("mnt", &url, &published.catalog, "timeout=20");
    fs::read(file(&scratch, &published)).unwrap();
    let why = json(&scratch.run(["why", "--json", text(&file(&scratch, &published))]).text());
    assert_eq!((why["round_trips"].as_u64(), why["missing_bytes"].as_u64()), (Some(0), Some(0)), "{why}");
    assert!(why["frames"].as_u64() > Some(0), "{why}");

    // Without the mount the same is asked of the disk cache alone, which was filled by it.
    umount(&scratch.at("mnt"));
    let path = format!("{}/file", published.name());
    let call = ["why", "--json", "--blocks", &url, "--catalog", &published.catalog, &path];
    until("the blocks are on disk", || {
        let why = json(&scratch.run(call).text());
        why["leaves"]["missing"] == 0 && why["unknown_leaves"] == 0 && why["round_trips"] == 0
    });
}

#[test]
fn a_file_that_is_not_there_is_an_error() {
    let scratch = Scratch::new();
    let published = publish(&scratch);
    let _mount = scratch.mount("mnt", &scratch.blocks(), &published.catalog, "timeout=20");
    fs::read(file(&scratch, &published)).unwrap();
    let refusal = scratch.run(["why", text(&file(&scratch, &published).with_file_name("other"))]).refusal(1);
    assert!(refusal.contains("other"), "{refusal}");
    let refusal = scratch.run(["why", text(file(&scratch, &published).parent().unwrap())]).refusal(1);
    assert!(refusal.contains("no file"), "{refusal}");
}

#[test]
fn figures_are_served_by_a_server_and_by_a_mount_that_is_asked_to() {
    let scratch = Scratch::new();
    let published = publish(&scratch);
    let (_server, url) = scratch.serve(&["--catalog", &published.catalog]);
    let address = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let answer = get(&address, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("openmetrics"), "{answer}");
    assert!(answer.contains("erisfs_requests_in_flight") && !answer.contains("urn:"), "{answer}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let options = format!("timeout=20,metrics={free}");
    let _mount = scratch.mount("mnt", &url, &published.catalog, &options);
    fs::read(file(&scratch, &published)).unwrap();
    let answer = get(&free.to_string(), "/metrics");
    let read = answer.lines().find_map(|line| line.strip_prefix("erisfs_read_bytes_total "));
    assert!(read.and_then(|read| read.parse::<u64>().ok()) >= Some(300_000), "{answer}");
    assert!(get(&free.to_string(), "/").starts_with("HTTP/1.1 404 "));
    assert!(!answer.contains("urn:"), "{answer}");
}

#[test]
fn a_process_that_hangs_does_not_hide_the_others_for_long() {
    let scratch = Scratch::new();
    let _published = publish(&scratch);
    let (one, _) = scratch.serve(&[]);
    let (_other, _) = scratch.serve(&[]);
    one.signal(Signal::STOP);
    let asked = Instant::now();
    let told = scratch.run(["status", "--json"]);
    let took = asked.elapsed();
    one.signal(Signal::CONT);
    assert!(told.stderr.contains(&one.id().to_string()), "{}", told.stderr);
    assert_eq!(told.text().lines().count(), 1);
    // It is given three seconds; requests of other kinds have fifteen.
    assert!(took < Duration::from_secs(12), "{took:?}");
}
