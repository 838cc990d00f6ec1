//! `erisfs serve` as the only substitute server of the stock clients, in front of real ones.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use erisfs::block::Memory;

use super::origin::{Fault, Link, Origin};
use super::peers::{
    Client, GUIX_HAS_IT_NOT, NIX_FINDS_IT_NOT, NIX_TRUSTS_IT_NOT, answered, guix_installs, hash_part,
    narinfo, nix_copies, on_this_machine, peer, serve, store_path, web_server,
};
use super::scratch::Scratch;

/// Small, and with references; a tree of some megabytes.
const NAMES: [&str; 2] = ["hello-offline-1.0", "guix-modules"];

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn guix_builds_and_challenges() {
    let (scratch, guix) = (Scratch::new(), Client::guix());
    let (server, url) = serve(&scratch, &[&peer("GUIX_PUBLISH")], &[]);
    for name in NAMES {
        let path = store_path("GUIX", name);
        let challenge = format!("guix challenge --substitute-urls='{url} {}' {path}", peer("GUIX_PUBLISH"));
        let done = guix.run(&url, &format!("{} && {challenge}", guix_installs(&path)));
        let said = done.stderr.clone();
        done.text();
        assert!(said.contains("1 (100.0%) were identical"), "{said}");
    }
    // Of this path nobody has asked yet.
    let (stranger, path) = (Client::guix().trusting(""), store_path("GUIX", "tiny-tree"));
    stranger.fails_to_install(&url, &path, GUIX_HAS_IT_NOT);
    answered(&server, &narinfo(&path), 200);
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn nix_copies_realises_lists_and_reads() {
    let hello = store_path("NIX", "hello-offline-1.0");
    for cache in ["NIX_ZSTD", "NIX_XZ", "NIX_NONE"] {
        let (scratch, nix) = (Scratch::new(), Client::nix());
        let (_server, url) = serve(&scratch, &[&peer(cache)], &[]);
        // Before anything is known here of the path, and afterwards.
        for _ in 0..2 {
            let listed = nix.run(&url, &format!("nix store ls --store {url} --recursive {hello}")).text();
            assert_eq!(listed, "./bin\n./bin/hello\n./self\n");
            let script = nix.run(&url, &format!("nix store cat --store {url} {hello}/bin/hello")).bytes();
            assert_eq!(script, fs::read(on_this_machine(&hello).join("bin/hello")).unwrap());
        }
        nix.run(&url, &format!("nix-store -r {hello} && {hello}/bin/hello")).text();
        for path in [&hello, &store_path("NIX", "guix")] {
            nix.run(&url, &nix_copies(&url, path)).text();
        }
        let stranger = nix.trusting("other-1:BzKZpSFXZ6SqKqTDCfD63U0bVdS17Pp3QkkUGVzhpls=");
        stranger.fails_to_install(&url, &hello, NIX_TRUSTS_IT_NOT);
    }
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn a_path_that_nobody_has_is_missed() {
    let scratch = Scratch::new();
    let nowhere = "0c9hs37wsa5n5xl29b3l4fzzx8apb35v-nowhere";
    let (server, url) = serve(&scratch, &[&peer("GUIX_PUBLISH")], &[]);
    let (guix, absent) = (Client::guix(), format!("/gnu/store/{nowhere}"));
    guix.fails_to_install(&url, &absent, GUIX_HAS_IT_NOT);
    answered(&server, &narinfo(&absent), 404);
    guix.run(&url, &guix_installs(&store_path("GUIX", NAMES[0]))).text();
    let (server, url) = serve(&scratch, &[&peer("NIX_ZSTD")], &[]);
    let (nix, absent) = (Client::nix(), format!("/nix/store/{nowhere}"));
    nix.fails_to_install(&url, &absent, NIX_FINDS_IT_NOT);
    answered(&server, &narinfo(&absent), 404);
    nix.run(&url, &format!("nix-store -r {}", store_path("NIX", NAMES[0]))).text();
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn clients_go_on_to_their_next_server_where_ours_waits_for_a_silent_one() {
    let silent = Origin::start(Arc::new(Memory::new()), Link::LOOPBACK);
    silent.break_with(Fault::Silent);
    let scratch = Scratch::new();
    let (server, url) = serve(&scratch, &[&silent.url()], &[]);
    let path = store_path("GUIX", NAMES[0]);
    Client::guix().run(&format!("{url} {}", peer("GUIX_PUBLISH")), &guix_installs(&path)).text();
    answered(&server, &narinfo(&path), 404);
    let (server, url) = serve(&scratch, &[&silent.url()], &[]);
    let path = store_path("NIX", NAMES[0]);
    Client::nix().run(&format!("{url} {}", peer("NIX_ZSTD")), &format!("nix-store -r {path}")).text();
    // Nix does not ask for more where it did not get this.
    answered(&server, "nix-cache-info", 404);
    assert!(silent.seen().connections > 0, "ours asked the silent one");
}

/// A copy of a cache of Nix in which one byte of the NAR of `path` is another; gives the URL of that.
#[track_caller]
fn with_a_wrong_nar(directory: &Path, path: &str) -> String {
    let cache = Path::new(&peer("NIX_CACHES")).join("cache-none");
    fs::create_dir_all(directory.join("nar")).unwrap();
    for file in ["nix-cache-info".to_owned(), narinfo(path)] {
        fs::copy(cache.join(&file), directory.join(&file)).unwrap();
    }
    let text = fs::read_to_string(directory.join(narinfo(path))).unwrap();
    let url = text.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
    let mut nar = fs::read(cache.join(url)).unwrap();
    let middle = nar.len() / 2;
    nar[middle] ^= 1;
    fs::write(directory.join(url), nar).unwrap();
    url.to_owned()
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn a_wrong_nar_is_not_installed_and_another_server_is_asked() {
    let (scratch, nix) = (Scratch::new(), Client::nix());
    let large = store_path("NIX", "guix");
    let wrong = with_a_wrong_nar(&scratch.folder("liar"), &large);
    let (web, liar) = web_server(&scratch.at("liar"));
    let (_server, url) = serve(&scratch, &[&liar], &[]);
    nix.fails_to_install(&url, &large, &format!("nar/{}.nar", hash_part(&large)));
    answered(&web, &wrong, 200);
    let scratch = Scratch::new();
    let (_server, url) = serve(&scratch, &[&liar, &peer("NIX_ZSTD")], &[]);
    let twice = format!("nix-store -r {large} || nix-store -r {large}");
    nix.run(&url, &format!("({twice}) && nix store verify --no-trust {large}")).text();
}
