//! Publisher, reader, late reader: what one has read, the next one has of it when the publisher is gone.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::noise::noise;
use super::super::process::until;
use super::super::scratch::{Published, Scratch};
use super::super::trees;
use super::{Host, Link, is_the_same};

/// Two store paths, and who serves them.
pub(super) struct Publication {
    pub(super) scratch: Scratch,
    pub(super) published: Published,
    /// A tree of many files.
    pub(super) tree: PathBuf,
    /// Two large files, `one` and `two`.
    pair: PathBuf,
}

impl Publication {
    pub(super) fn new() -> Self {
        let scratch = Scratch::new();
        let (tree, pair) = (scratch.folder("tree-1.0"), scratch.folder("pair-1.0"));
        trees::many(&tree);
        for (name, length) in [("one", 6_000_000), ("two", 6_000_001)] {
            fs::write(pair.join(name), noise(length)).unwrap();
        }
        let published = scratch.publish(&[&tree, &pair]);
        Publication { scratch, published, tree, pair }
    }

    /// Where a reader sees the tree of many files.
    pub(super) fn tree_in(&self, reader: &Scratch) -> PathBuf {
        reader.at("mnt").join(self.name("tree-1.0"))
    }

    /// Where a reader sees the two large files.
    fn pair_in(&self, reader: &Scratch) -> PathBuf {
        reader.at("mnt").join(self.name("pair-1.0"))
    }

    /// HASH-NAME of a store path.
    fn name(&self, ends: &str) -> &str {
        let path = self.published.paths.iter().find(|path| path.ends_with(ends));
        path.unwrap().rsplit('/').next().unwrap()
    }

    /// Serves it on a host; gives the URL.
    pub(super) fn serve(&self, host: &Host) -> (super::Running, String) {
        let blocks = self.scratch.blocks();
        let arguments = ["serve", "--blocks", &blocks, "--listen", "0.0.0.0:8080"];
        let server = host.start(&mut self.scratch.erisfs(arguments), "listening on ");
        (server, format!("http://{}:8080/", host.addr))
    }
}

/// A reader that fetches nothing but what is read.
fn reader() -> Scratch {
    let scratch = Scratch::new();
    let config = "[prefetch]\nread-ahead = false\nclosure = \"never\"\nprofiles = false\n";
    fs::create_dir_all(scratch.at("config/erisfs")).unwrap();
    fs::write(scratch.at("config/erisfs/config.toml"), config).unwrap();
    scratch
}

/// What `erisfs status` says of the only process.
fn status(scratch: &Scratch) -> Value {
    serde_json::from_str(&scratch.run(["status", "--json"]).text()).unwrap()
}

#[test]
#[ignore = "needs root: tests/peers/run"]
fn a_late_reader_gets_from_the_first_what_that_one_has_read() {
    let link = Link::new();
    let [publisher, first, late] = [link.host(), link.host(), link.host()];
    let publication = Publication::new();
    let (server, url) = publication.serve(&publisher);
    let catalog = publication.published.catalog.as_str();

    let read = reader();
    let _first = first.mount(&read, &["--share", "--blocks", &url, "--catalog", catalog]);
    is_the_same(&publication.tree, &publication.tree_in(&read));
    let pair = publication.pair_in(&read);
    assert!(fs::read(pair.join("one")).unwrap() == fs::read(publication.pair.join("one")).unwrap());

    publisher.cut_off();
    drop(server);

    // The catalog, too, comes from the first.
    let found = reader();
    let _late = late.mount(&found, &["--blocks", "lan:", "--catalog", catalog, "-o", "timeout=5"]);
    is_the_same(&publication.tree, &publication.tree_in(&found));
    // Of this content the first has one half.
    let pair = publication.pair_in(&found);
    assert!(fs::read(pair.join("one")).unwrap() == fs::read(publication.pair.join("one")).unwrap());
    let begun = Instant::now();
    assert!(fs::read(pair.join("two")).is_err(), "nobody has it");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());

    let (given, got) = (status(&read)["sharing"].clone(), status(&found)["blocks"]["sources"].clone());
    assert!(given["blocks"].as_u64().unwrap() > 100 && given["lacked"].as_u64().unwrap() > 0, "{given}");
    assert_eq!(got.as_array().unwrap().len(), 1, "{got}");
}

#[test]
#[ignore = "needs root: tests/peers/run"]
fn a_neighbour_that_comes_later_is_found_by_a_mount_that_is_there() {
    let link = Link::new();
    let [publisher, late] = [link.host(), link.host()];
    let publication = Publication::new();
    let catalog = publication.published.catalog.as_str();
    // The catalog and one store path are all that the late one has.
    let (found, blocks) = (reader(), publication.scratch.blocks());
    found.run(["prefetch", "--blocks", &blocks, "--catalog", catalog, publication.name("pair-1.0")]).text();
    let _late = late.mount(&found, &["--blocks", "lan:", "--catalog", catalog, "-o", "timeout=5"]);
    let shown = publication.tree_in(&found);
    let is_there =
        || fs::read_dir(&shown).is_ok_and(|mut entries| entries.next().is_some_and(|entry| entry.is_ok()));
    assert!(!is_there(), "nobody has it yet");

    let arguments = ["serve", "--share", "--blocks", &blocks, "--listen", "127.0.0.1:0"];
    let _sharing = publisher.start(&mut publication.scratch.erisfs(arguments), "listening on ");
    until("it is there", is_there);
    is_the_same(&publication.tree, &shown);
}

#[test]
#[ignore = "needs root: tests/peers/run"]
fn a_host_that_is_not_on_the_link_gets_nothing() {
    let link = Link::new();
    let [sharing, near, far] = [link.host(), link.host(), link.host()];
    let publication = Publication::new();
    let blocks = publication.scratch.blocks();
    let config = publication.scratch.at("share.toml");
    fs::write(&config, "[share]\nlisten = \"0.0.0.0:7711\"\n").unwrap();
    let arguments = [
        "serve",
        "--share",
        "--blocks",
        &blocks,
        "--listen",
        "127.0.0.1:0",
        "--config",
        config.to_str().unwrap(),
    ];
    let _server = sharing.start(&mut publication.scratch.erisfs(arguments), "listening on ");
    // An address of elsewhere, with a way there and back.
    super::ip(&format!("-n {} addr add 192.0.2.9/32 dev eth0", far.netns));
    super::ip(&format!("-n {} route replace 10.98.0.0/24 dev eth0 src 192.0.2.9", far.netns));
    super::ip(&format!("-n {} route add 192.0.2.9/32 dev eth0", sharing.netns));
    let answer = |host: &Host| {
        let url = format!("http://{}:7711/uri-res/N2R", sharing.addr);
        let curl = ["-sS", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", &url];
        host.inside(|| super::run(Command::new("curl").args(curl)))
    };
    assert_eq!(answer(&near).text(), "400", "a block has to be named");
    assert_eq!(String::from_utf8_lossy(&answer(&far).stdout), "000");
}
