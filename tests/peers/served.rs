//! `erisfs serve` as the only substitute server of the stock clients, in front of real ones.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use erisfs::block::Memory;

use super::origin::{Fault, Link, Origin};
use super::peers::{
    Client, guix_installs, guix_installs_nothing, hash_part, nix_copies, on_this_machine, peer, serve,
    store_path, web_server,
};
use super::scratch::Scratch;

/// Small, and with references; a tree of some megabytes.
const NAMES: [&str; 2] = ["hello-offline-1.0", "guix-modules"];

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn guix_builds_and_challenges() {
    let (scratch, guix) = (Scratch::new(), Client::guix());
    let (_server, url) = serve(&scratch, &[&peer("GUIX_PUBLISH")], &[]);
    for name in NAMES {
        let path = store_path("GUIX", name);
        let challenge = format!("guix challenge --substitute-urls='{url} {}' {path}", peer("GUIX_PUBLISH"));
        let done = guix.run(&url, &format!("{} && {challenge}", guix_installs(&path)));
        let said = done.stderr.clone();
        done.text();
        assert!(said.contains("1 (100.0%) were identical"), "{said}");
    }
    let stranger = Client::guix().trusting("");
    stranger.run(&url, &guix_installs_nothing(&store_path("GUIX", NAMES[0]))).text();
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
        nix.trusting("other-1:BzKZpSFXZ6SqKqTDCfD63U0bVdS17Pp3QkkUGVzhpls=")
            .run(&url, &format!("! nix-store -r {hello}"))
            .text();
    }
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn a_path_that_nobody_has_is_missed() {
    let scratch = Scratch::new();
    let (_guix, for_guix) = serve(&scratch, &[&peer("GUIX_PUBLISH")], &[]);
    let absent = "/gnu/store/0c9hs37wsa5n5xl29b3l4fzzx8apb35v-nowhere";
    Client::guix().run(&for_guix, &guix_installs_nothing(absent)).text();
    let (_nix, for_nix) = serve(&scratch, &[&peer("NIX_ZSTD")], &[]);
    let absent = "/nix/store/0c9hs37wsa5n5xl29b3l4fzzx8apb35v-nowhere";
    Client::nix().run(&for_nix, &format!("! nix-store -r {absent}")).text();
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn clients_go_on_to_their_next_server_where_ours_waits_for_a_silent_one() {
    let silent = Origin::start(Arc::new(Memory::new()), Link::LOOPBACK);
    silent.break_with(Fault::Silent);
    let scratch = Scratch::new();
    let (_server, url) = serve(&scratch, &[&silent.url()], &[]);
    let path = store_path("GUIX", NAMES[0]);
    Client::guix().run(&format!("{url} {}", peer("GUIX_PUBLISH")), &guix_installs(&path)).text();
    let path = store_path("NIX", NAMES[0]);
    Client::nix().run(&format!("{url} {}", peer("NIX_ZSTD")), &format!("nix-store -r {path}")).text();
}

/// A copy of a cache of Nix in which one byte of the NAR of `path` is another.
#[track_caller]
fn with_a_wrong_nar(directory: &Path, path: &str) {
    let cache = Path::new(&peer("NIX_CACHES")).join("cache-none");
    fs::create_dir_all(directory.join("nar")).unwrap();
    for file in ["nix-cache-info".to_owned(), format!("{}.narinfo", hash_part(path))] {
        fs::copy(cache.join(&file), directory.join(&file)).unwrap();
    }
    let narinfo = fs::read_to_string(directory.join(format!("{}.narinfo", hash_part(path)))).unwrap();
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
    let mut nar = fs::read(cache.join(url)).unwrap();
    let middle = nar.len() / 2;
    nar[middle] ^= 1;
    fs::write(directory.join(url), nar).unwrap();
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn a_wrong_nar_is_not_installed_and_another_server_is_asked() {
    let (scratch, nix) = (Scratch::new(), Client::nix());
    let large = store_path("NIX", "guix");
    with_a_wrong_nar(&scratch.folder("liar"), &large);
    let (_web, liar) = web_server(&scratch.at("liar"));
    let (_server, url) = serve(&scratch, &[&liar], &[]);
    nix.run(&url, &format!("! nix-store -r {large} && ! nix-store -q --hash {large}")).text();
    let scratch = Scratch::new();
    let (_server, url) = serve(&scratch, &[&liar, &peer("NIX_ZSTD")], &[]);
    let twice = format!("nix-store -r {large} || nix-store -r {large}");
    nix.run(&url, &format!("({twice}) && nix store verify --no-trust {large}")).text();
}
