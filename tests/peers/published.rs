//! What `erisfs publish --narinfo` writes, served by any web server, is taken by the stock clients.

use std::fs;
use std::path::{Path, PathBuf};

use super::peers::{Client, hash_part, nix_copies, on_this_machine, store_path, web_server};
use super::scratch::{Scratch, text};

/// Publishes a store path and its closure; the directory is a binary cache then.
#[track_caller]
fn binary_cache(scratch: &Scratch, path: &str) -> PathBuf {
    let directory = scratch.folder("cache-of-ours");
    let (blocks, location) = (scratch.blocks(), on_this_machine(path));
    let arguments = [
        "publish",
        "--blocks",
        &blocks,
        "--closure",
        "--json",
        "--narinfo",
        text(&directory),
        text(&location),
    ];
    let published: serde_json::Value = serde_json::from_slice(&scratch.run(arguments).bytes()).unwrap();
    for path in published["paths"].as_array().unwrap() {
        let (urn, path) = (path["urn"].as_str().unwrap(), path["storePath"].as_str().unwrap());
        add_archive(scratch, &directory, urn, path);
    }
    directory
}

/// Puts the archive where the narinfo says that it is.
#[track_caller]
fn add_archive(scratch: &Scratch, directory: &Path, urn: &str, path: &str) {
    let narinfo = fs::read_to_string(directory.join(format!("{}.narinfo", hash_part(path)))).unwrap();
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
    let file = directory.join(url);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, scratch.run(["get", "--blocks", &scratch.blocks(), urn]).bytes()).unwrap();
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn nix_takes_the_seekable_archive() {
    let (scratch, nix) = (Scratch::new(), Client::nix());
    let path = store_path("NIX", "hello-offline-1.0");
    let (_server, url) = web_server(&binary_cache(&scratch, &path));
    nix.run(&url, &format!("nix --option require-sigs false copy --from {url} {path} && {path}/bin/hello"))
        .text();
    nix.run(&url, &format!("! nix-store -r {path}")).text();
    let _ = nix_copies;
}
