//! Neighbours that speak Guix: `guix publish --advertise` is found, and `guix-daemon --discover=yes` finds us.
//!
//! The two hosts of `mdns.sh` have Avahi, as hosts with Guix do.

use std::fs;
use std::net::Ipv4Addr;

use super::super::peers::{answered, guix_installs, kit, narinfo, on_this_machine, peer, root, store_path};
use super::super::process::run;
use super::super::scratch::{Scratch, text};
use super::super::trees;
use super::{Host, is_the_same};

/// The host of `guix publish --advertise`.
fn publisher() -> Host {
    Host::started(peer("MDNS_NETNS_A"), Ipv4Addr::new(10, 99, 0, 1))
}

/// The host of whoever discovers.
fn client() -> Host {
    Host::started(peer("MDNS_NETNS_B"), Ipv4Addr::new(10, 99, 0, 2))
}

#[test]
#[ignore = "needs real Guix and Avahi: tests/peers/run"]
fn guix_publish_is_found_and_read() {
    let (scratch, path) = (Scratch::new(), store_path("GUIX", "hello-offline-1.0"));
    let key = peer("GUIX_KEY");
    let _mount = client().mount(&scratch, &["--substituter", "lan:", "--trusted-key", &key]);
    is_the_same(&on_this_machine(&path), &scratch.at("mnt").join(path.rsplit('/').next().unwrap()));
}

#[test]
#[ignore = "needs real Guix and Avahi: tests/peers/run"]
fn guix_daemon_finds_us_and_substitutes() {
    let scratch = Scratch::new();
    // Of a name that the real publisher does not have.
    let (tree, cache) = (scratch.folder("ours-1.0"), scratch.folder("cache-of-ours"));
    trees::small(&tree);
    let (secret, blocks) = (root().join("etc/guix/signing-key.sec"), scratch.blocks());
    let published = scratch.run([
        "publish",
        "--blocks",
        &blocks,
        "--store-dir",
        "/gnu/store",
        "--nars",
        "--narinfo",
        text(&cache),
        "--sign-key",
        text(&secret),
        text(&tree),
    ]);
    let published = published.text();
    let path = published.lines().next().unwrap();

    let (key, server) = (peer("GUIX_KEY"), format!("file:{}", text(&cache)));
    let arguments =
        ["serve", "--advertise", "--listen", "0.0.0.0:0", "--substituter", &server, "--trusted-key", &key];
    let mut serve = scratch.erisfs(arguments);
    let served = publisher().start(serve.env("RUST_LOG", "warn,erisfs::serve=debug"), "listening on ");
    let script = guix_installs(path);
    // It lists what it found within 30 s of its start; ours need not be the first.
    let waiting = format!(
        "for i in $(seq 300); do [ $(wc -l < /var/guix/discover/publish) -ge 2 ] && break; sleep 0.1; done; {script}"
    );
    let mut discovering = kit("mdns.sh", &["client", "sh", "-c", &waiting]);
    run(discovering.env("GUIX_CLIENT", "discovers")).text();
    answered(&served, &narinfo(path), 200);
    let installed = root().parent().unwrap().join("clients/guix-discovers/store");
    is_the_same(&tree, &installed.join(path.rsplit('/').next().unwrap()));
    let _ = fs::remove_dir_all(installed.parent().unwrap());
}
