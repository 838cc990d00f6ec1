//! Blocks that are there, gone, wrong or slow: stock clients of `erisfs serve` get the same NARs.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use erisfs::block;

use super::origin::{Fault, Link, Origin};
use super::peers::{
    Client, guix_installs, nix_copies, nix_key, on_this_machine, peer, root, serve, store_path,
};
use super::process::{Finished, PATIENCE, Running};
use super::scratch::{Scratch, text};

/// A store path in blocks behind a web server that goes wrong on command, and `erisfs serve` over that and a cache that knows
/// nothing of blocks.
struct Stand {
    blocks: Origin,
    url: String,
    path: String,
    client: Client,
    installs: fn(&str, &str) -> String,
    _server: Running,
    _scratch: Scratch,
}

impl Stand {
    fn guix(name: &str) -> Self {
        let key = (root().join("etc/guix/signing-key.sec"), peer("GUIX_KEY"));
        let installs = |_: &str, path: &str| guix_installs(path);
        Self::new(
            Scratch::new(),
            &peer("GUIX_PUBLISH"),
            store_path("GUIX", name),
            key,
            Client::guix(),
            installs,
        )
    }

    fn nix(name: &str) -> Self {
        let scratch = Scratch::new();
        let key = nix_key(&scratch);
        Self::new(scratch, &peer("NIX_ZSTD"), store_path("NIX", name), key, Client::nix(), nix_copies)
    }

    #[track_caller]
    fn new(
        scratch: Scratch,
        upstream: &str,
        path: String,
        (secret, public): (PathBuf, String),
        client: Client,
        installs: fn(&str, &str) -> String,
    ) -> Self {
        let (overlay, location, dir) = (scratch.folder("overlay"), on_this_machine(&path), scratch.blocks());
        scratch
            .run([
                "publish",
                "--blocks",
                &dir,
                "--closure",
                "--narinfo",
                text(&overlay),
                "--sign-key",
                text(&secret),
                text(&location),
            ])
            .text();
        let blocks = Origin::start(block::open(&dir).unwrap(), Link::LOOPBACK);
        let (overlay, source) = (format!("file:{}", overlay.display()), blocks.url());
        let (server, url) = serve(
            &scratch,
            &[upstream],
            &["--overlay", &overlay, "--trusted-key", public.trim(), "--blocks", &source],
        );
        Stand { blocks, url, path, client, installs, _server: server, _scratch: scratch }
    }

    #[track_caller]
    fn install(&self) -> Finished {
        self.client.run(&self.url, &(self.installs)(&self.url, &self.path))
    }
}

#[track_caller]
fn from_blocks(stand: &Stand) {
    stand.install().text();
    assert!(stand.blocks.seen().bytes > 0, "the NAR was put together from blocks");
}

#[track_caller]
fn whatever_fails(stand: &Stand, fault: Fault) {
    stand.blocks.break_with(fault);
    stand.install().text();
}

/// The source breaks when some of the NAR came from it.
#[track_caller]
fn in_the_middle(stand: &Stand, fault: Fault) {
    stand.blocks.set_link(Link::new(1, Some(200_000)));
    let blocks = &stand.blocks;
    thread::scope(|scope| {
        let broken = scope.spawn(move || {
            let (end, mut seen) = (Instant::now() + PATIENCE, 0);
            while seen < 200_000 && Instant::now() < end {
                thread::sleep(Duration::from_millis(10));
                seen += blocks.seen().bytes;
            }
            blocks.break_with(fault);
            seen
        });
        stand.install().text();
        assert!(broken.join().unwrap() >= 200_000, "some of it came from blocks");
    });
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn guix_is_served_from_blocks() {
    from_blocks(&Stand::guix("hello-offline-1.0"));
    from_blocks(&Stand::guix("guix-modules"));
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn guix_is_served_though_blocks_are_gone_wrong_or_silent() {
    for fault in [Fault::Refused, Fault::OtherBlock, Fault::Silent] {
        whatever_fails(&Stand::guix("guix-modules"), fault);
    }
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn guix_is_served_though_blocks_go_in_the_middle() {
    for fault in [Fault::Refused, Fault::OtherBlock, Fault::Stalled] {
        in_the_middle(&Stand::guix("guix-modules"), fault);
    }
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn nix_is_served_from_blocks() {
    from_blocks(&Stand::nix("hello-offline-1.0"));
    from_blocks(&Stand::nix("guix"));
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn nix_is_served_though_blocks_are_gone_wrong_or_silent() {
    for fault in [Fault::Refused, Fault::OtherBlock, Fault::Silent] {
        whatever_fails(&Stand::nix("guix"), fault);
    }
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn nix_is_served_though_blocks_go_in_the_middle() {
    for fault in [Fault::Refused, Fault::OtherBlock, Fault::Stalled] {
        in_the_middle(&Stand::nix("guix"), fault);
    }
}
