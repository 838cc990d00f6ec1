//! Config files as the commands read them.

use std::fs;

use super::noise::noise;
use super::scratch::{Scratch, text};

/// Writes the user's config.
fn configure(scratch: &Scratch, config: &str) {
    fs::write(scratch.folder("config/erisfs").join("config.toml"), config).unwrap();
}

#[test]
fn stores_and_catalogs_come_from_the_config_and_flags_override_it() {
    let scratch = Scratch::new();
    fs::write(scratch.folder("tree").join("file"), noise(5000)).unwrap();
    let published = scratch.publish(&[&scratch.at("tree")]);
    configure(
        &scratch,
        &format!("stores = [\"{}\"]\ncatalogs = [\"{}\"]\n", scratch.blocks(), published.catalog),
    );
    assert_eq!(scratch.run(["ls"]).text().trim_end(), published.name());
    let path = format!("{}/file", published.name());
    assert_eq!(scratch.run(["cat", &path]).bytes(), noise(5000));

    let nowhere = format!("dir:{}", text(&scratch.at("nowhere")));
    let refusal = scratch.run(["cat", "--blocks", &nowhere, &path]).refusal(1);
    assert!(refusal.contains("nowhere"), "{refusal}");
    let mut call = scratch.erisfs(["cat", &path]);
    let refusal = super::process::run(call.env("ERISFS_BLOCKS", &nowhere)).refusal(1);
    assert!(refusal.contains("nowhere"), "{refusal}");
}

#[test]
fn a_mistake_in_the_config_is_told_in_one_line() {
    let scratch = Scratch::new();
    configure(&scratch, "[cache]\nsise = \"1G\"\n");
    let refusal = scratch.run(["ls"]).refusal(1);
    for words in ["config.toml, line 2", "cache.sise", "cache.size"] {
        assert!(refusal.contains(words), "{words}: {refusal}");
    }
    let refusal = scratch.run(["--config", "none.toml", "ls"]).refusal(1);
    assert!(refusal.contains("none.toml"), "{refusal}");
}

#[test]
fn a_named_config_is_read_in_place_of_the_others() {
    let scratch = Scratch::new();
    configure(&scratch, "this is no TOML");
    fs::write(scratch.at("mine.toml"), "stores = [\"dir:blocks\"]\n").unwrap();
    let urn =
        super::process::feed(&mut scratch.erisfs(["--config", "mine.toml", "put", "-"]), b"hello").text();
    let call = ["get", "--config", "mine.toml", urn.trim_end()];
    assert_eq!(scratch.run(call).bytes(), b"hello");
}

#[test]
fn a_proxy_of_the_config_stands_before_block_stores_of_the_web_and_no_others() {
    let scratch = Scratch::new();
    let urn =
        super::process::feed(&mut scratch.erisfs(["put", "--blocks", &scratch.blocks(), "-"]), b"hello")
            .text();
    // A web server answers what a proxy is asked, too.
    let (_server, proxy) = scratch.serve(&[]);
    configure(&scratch, &format!("[http]\nproxy = \"{proxy}\"\n"));
    assert_eq!(scratch.run(["get", "--blocks", "http://far.example/", urn.trim_end()]).bytes(), b"hello");
    configure(&scratch, "[http]\nproxy = \"ftp://proxy/\"\n");
    let refusal = scratch.run(["get", "--blocks", "http://far.example/", urn.trim_end()]).refusal(2);
    assert!(refusal.contains("http.proxy: the proxy ftp://proxy/"), "{refusal}");
    configure(&scratch, "[http]\nca-file = \"/none.pem\"\n");
    assert_eq!(scratch.run(["get", "--blocks", &scratch.blocks(), urn.trim_end()]).bytes(), b"hello");
    let refusal = scratch.run(["get", "--blocks", "http://far.example/", urn.trim_end()]).refusal(2);
    assert!(refusal.contains("ca-file /none.pem"), "{refusal}");
}

#[test]
fn a_cache_that_cannot_be_used_is_no_reason_to_fail() {
    let scratch = Scratch::new();
    fs::write(scratch.folder("tree").join("file"), noise(5000)).unwrap();
    let published = scratch.publish(&[&scratch.at("tree")]);
    let (_server, url) = scratch.serve(&[]);
    let path = format!("{}/file", published.name());
    fs::write(scratch.at("occupied"), "").unwrap();
    let cache = text(&scratch.at("occupied")).to_owned();
    for flags in [&["--cache", &cache][..], &["--cache-size", "1K"], &["--no-cache"]] {
        let fixed = ["cat", "--blocks", &url, "--catalog", &published.catalog, &path];
        let finished = scratch.run(fixed.iter().chain(flags));
        assert_eq!(finished.bytes(), noise(5000), "{flags:?}");
    }
    assert!(!scratch.at("cache/erisfs/blocks").exists(), "it was told to keep nothing there");
}
