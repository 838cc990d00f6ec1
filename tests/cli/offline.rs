//! Without any network: what was prefetched is served, what was not fails at once, and a check tells it beforehand.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::noise::noise;
use super::process::{Finished, Running, run};
use super::scratch::{Published, Scratch, text};
use super::trees;

/// Two trees, of which the first is prefetched; the server is gone afterwards.
struct Away {
    scratch: Scratch,
    published: Published,
    /// Where the server was.
    url: String,
}

impl Away {
    /// After `erisfs prefetch MORE... NAME` of the first tree.
    fn new(more: &[&str]) -> Self {
        let scratch = Scratch::new();
        trees::small(&scratch.folder("tree"));
        fs::write(scratch.folder("other").join("file"), &noise(500_000)[200_000..]).unwrap();
        let mut published = scratch.publish(&[&scratch.at("tree"), &scratch.at("other")]);
        // They are printed in the order of their hash parts.
        published.paths.sort_by_key(|path| path.ends_with("-other"));
        let (server, url) = scratch.serve(&[]);
        let away = Away { scratch, published, url };
        let fetched = away.bring("prefetch", more, away.published.name());
        assert_eq!(fetched.code, Some(0), "{}", fetched.stderr);
        assert!(fetched.stdout.is_empty());
        drop(server);
        away
    }

    fn bring(&self, command: &str, more: &[&str], path: &str) -> Finished {
        let words = command.split(' ');
        let fixed = ["--blocks", &self.url, "--catalog", &self.published.catalog, "--cache-size", "64M"];
        self.scratch.run(words.chain(fixed).chain(more.iter().copied()).chain([path]))
    }

    fn check(&self, more: &[&str]) -> Finished {
        let names: Vec<_> = self.published.paths.iter().map(String::as_str).collect();
        let fixed = ["check", "--catalog", &self.published.catalog];
        self.scratch.run(fixed.iter().chain(more).chain(&names))
    }

    /// HASH-NAME of the tree that was not prefetched.
    fn other(&self) -> &str {
        self.published.paths[1].rsplit('/').next().unwrap()
    }

    /// A mount; `stores` as it is given on the command line.
    fn mount(&self, name: &str, stores: &[&str]) -> Running {
        let at = self.scratch.folder(name);
        let fixed = ["mount", "--foreground", "--catalog", &self.published.catalog, text(&at)];
        let mut mount = Running::start(&mut self.scratch.erisfs(fixed.iter().chain(stores)));
        mount.line("mounted at ");
        mount
    }

    /// The whole of the first tree is there, and of the other nothing, which is said soon.
    #[track_caller]
    fn is_shown(&self, at: &Path) {
        let (disk, mounted) = (self.scratch.at("tree"), at.join(self.published.name()));
        let compared = run(Command::new("diff").args(["-r", "--no-dereference"]).args([&disk, &mounted]));
        assert_eq!(compared.code, Some(0), "{}", String::from_utf8_lossy(&compared.stdout));
        // The catalog lists it still.
        assert_eq!(fs::read_dir(at).unwrap().count(), 2);
        let started = Instant::now();
        let mut bytes = Vec::new();
        let answer =
            File::open(at.join(self.other()).join("file")).and_then(|mut file| file.read_to_end(&mut bytes));
        assert_eq!(answer.unwrap_err().raw_os_error(), Some(5));
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    }
}

#[test]
fn a_mount_without_network_serves_what_was_prefetched() {
    let away = Away::new(&["--closure"]);
    // The server that was there once, the cache named, and the cache because nothing else is.
    for (name, stores) in
        [("dead", &["--blocks", &away.url][..]), ("mnt", &["--blocks", "cache:"]), ("none", &[])]
    {
        let started = Instant::now();
        let mount = away.mount(name, stores);
        assert!(started.elapsed() < Duration::from_secs(10), "{name}: {:?}", started.elapsed());
        away.is_shown(&away.scratch.at(name));
        drop(mount);
    }
}

#[test]
fn check_tells_what_is_complete_and_what_is_missing() {
    let away = Away::new(&[]);
    let told = away.check(&[]);
    assert_eq!(told.code, Some(1));
    let lines = String::from_utf8(told.stdout).unwrap();
    assert!(lines.contains(&format!("complete  {}: ", away.published.name())), "{lines}");
    assert!(lines.contains(&format!("missing   {}: ", away.other())), "{lines}");
    assert!(told.stderr.contains("1 of 2 store paths are not complete here"), "{}", told.stderr);

    let told = away.check(&["--json"]);
    assert_eq!(told.code, Some(1));
    let report: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(report["complete"], false);
    assert_eq!(report["paths"][0]["missingBytes"], 0);
    assert_eq!(report["paths"][1]["missingBytes"], report["paths"][1]["bytes"]);
    assert_eq!(report["total"]["missingBlocks"], report["paths"][1]["missingBlocks"]);

    let alone = ["check", "--catalog", &away.published.catalog, &away.published.name()[..32]];
    assert_eq!(away.scratch.run(alone).code, Some(0));
}

#[test]
fn a_pin_fetches_and_is_listed_until_it_is_taken_away() {
    let away = Away::new(&[]);
    let (server, url) = away.scratch.serve(&[]);
    let (catalog, other) = (&away.published.catalog, away.other());
    away.scratch.run(["cache", "pin", "--blocks", &url, "--catalog", catalog, other]).text();
    drop(server);
    let pins = || away.scratch.run(["cache", "list"]).text();
    assert!(pins().lines().any(|line| line.starts_with(other) && !line.contains("missing")), "{}", pins());
    assert!(pins().contains("catalog "), "{}", pins());
    away.scratch.run(["cache", "gc", "--to", "0"]).text();
    assert_eq!(away.scratch.run(["check", "--catalog", catalog, other]).code, Some(0));
    let evicted = away.scratch.run(["check", "--catalog", catalog, away.published.name()]);
    assert_eq!(evicted.code, Some(1), "{}", evicted.stderr);
    away.scratch.run(["cache", "unpin", other]).text();
    assert!(!pins().contains(other), "{}", pins());

    // What is here is pinned without any block store.
    away.scratch.run(["cache", "pin", "--closure", "--catalog", catalog, other]).text();
    assert!(pins().contains(other), "{}", pins());
    let refused = away.scratch.run(["cache", "pin", "--catalog", catalog, away.published.name()]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("give --blocks URL"), "{}", refused.stderr);
}

#[test]
fn a_prefetch_without_network_says_what_it_could_not_have() {
    let away = Away::new(&[]);
    // All of it is here: nobody is asked.
    let again = away.bring("prefetch", &[], away.published.name());
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("0 blocks (0 B) fetched"), "{}", again.stderr);
    let other = away.bring("prefetch", &["--timeout", "2"], away.other());
    assert_eq!(other.code, Some(1));
    assert!(other.stderr.contains(away.other()), "{}", other.stderr);
    let refused = away.bring("prefetch", &["--limit-rate", "5"], away.other());
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("32K"), "{}", refused.stderr);
}

#[test]
fn a_prefetch_needs_a_cache_and_a_check_does_not_make_one() {
    let scratch = Scratch::new();
    trees::small(&scratch.folder("tree"));
    let published = scratch.publish(&[&scratch.at("tree")]);
    let (blocks, catalog, name) = (scratch.blocks(), &published.catalog, published.name());
    let refused = scratch.run(["check", "--catalog", catalog, name]).refusal(1);
    assert!(refused.contains("there is no cache in"), "{refused}");
    let refused = scratch.run(["prefetch", "--no-cache", "--blocks", &blocks, "--catalog", catalog, name]);
    assert!(refused.refusal(2).contains("no disk cache"));
    let refused = scratch.run(["mount", "--catalog", catalog, text(&scratch.folder("mnt"))]).refusal(2);
    assert!(refused.contains("no block store"), "{refused}");
}
