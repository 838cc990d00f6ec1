//! What `erisfs publish --narinfo DIR --nars` writes, served by any web server, is taken by the stock clients.

use std::fs;
use std::path::PathBuf;

use super::peers::{
    Client, GUIX_HAS_IT_NOT, NIX_TRUSTS_IT_NOT, answered, guix_installs, narinfo, nix_copies, nix_key,
    on_this_machine, root, store_path, web_server,
};
use super::scratch::{Scratch, text};

/// Publishes a store path and all that it refers to into a directory, which is a binary cache then.
#[track_caller]
fn binary_cache(scratch: &Scratch, path: &str, more: &[&str]) -> PathBuf {
    let directory = scratch.folder("cache-of-ours");
    let (blocks, location) = (scratch.blocks(), on_this_machine(path));
    let mut arguments =
        vec!["publish", "--blocks", &blocks, "--closure", "--nars", "--narinfo", text(&directory)];
    arguments.extend(more);
    arguments.push(text(&location));
    scratch.run(arguments).text();
    directory
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn nix_takes_what_it_trusts_the_key_of_and_nothing_else() {
    let (scratch, nix) = (Scratch::new(), Client::nix());
    let path = store_path("NIX", "hello-offline-1.0");
    let (secret, public) = nix_key(&scratch);
    let (_server, url) = web_server(&binary_cache(&scratch, &path, &["--sign-key", text(&secret)]));
    nix.fails_to_install(&url, &path, NIX_TRUSTS_IT_NOT);
    let nix = nix.trusting(&public);
    nix.run(&url, &format!("nix-store -r {path} && {path}/bin/hello")).text();
    nix.run(&url, &nix_copies(&url, &path)).text();
    nix.run(&url, &format!("nix store ls --store {url} --recursive {path}")).text();
    let script = nix.run(&url, &format!("nix store cat --store {url} {path}/bin/hello")).bytes();
    assert_eq!(script, fs::read(on_this_machine(&path).join("bin/hello")).unwrap());
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn nix_takes_what_is_not_signed_only_if_told_to() {
    let (scratch, nix) = (Scratch::new(), Client::nix());
    let path = store_path("NIX", "hello-offline-1.0");
    let (_server, url) = web_server(&binary_cache(&scratch, &path, &[]));
    nix.fails_to_install(&url, &path, NIX_TRUSTS_IT_NOT);
    nix.run(&url, &format!("nix-store --option require-sigs false -r {path} && {path}/bin/hello")).text();
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn guix_takes_what_it_trusts_the_key_of_and_nothing_else() {
    let (scratch, guix) = (Scratch::new(), Client::guix());
    let secret = root().join("etc/guix/signing-key.sec");
    for name in ["hello-offline-1.0", "guix-modules"] {
        let path = store_path("GUIX", name);
        let (_server, url) = web_server(&binary_cache(&scratch, &path, &["--sign-key", text(&secret)]));
        guix.run(&url, &guix_installs(&path)).text();
    }
    let path = store_path("GUIX", "hello-offline-1.0");
    let (server, url) = web_server(&scratch.at("cache-of-ours"));
    Client::guix().trusting("").fails_to_install(&url, &path, GUIX_HAS_IT_NOT);
    answered(&server, &narinfo(&path), 200);
}
