//! Substitute servers and trusted keys, as flags and as config.

use std::fs;
use std::path::{Path, PathBuf};

use super::process::Finished;
use super::scratch::{Scratch, text};

const NAME: &str = "zgmidwbnr63g56vaz0qrl65xy25lk7y6-flat-file.txt";

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name)
}

/// A directory that a mirror of `guix publish` might have: what is below the signature is the mirror's own.
fn cache(scratch: &Scratch) -> String {
    let dir = scratch.folder("cache");
    let narinfo = sample("guix/uncached/zgmidwbnr63g56vaz0qrl65xy25lk7y6.narinfo");
    let narinfo = fs::read_to_string(narinfo).unwrap();
    let signed: String = narinfo.split_inclusive('\n').filter(|line| !is_of_download(line)).collect();
    assert!(signed.contains(NAME), "{signed}");
    let name = dir.join("zgmidwbnr63g56vaz0qrl65xy25lk7y6.narinfo");
    fs::write(name, format!("{signed}URL: flat.nar\nCompression: none\n")).unwrap();
    fs::copy(sample("nar/guix-flat-file.txt.nar"), dir.join("flat.nar")).unwrap();
    fs::write(dir.join("nix-cache-info"), "StoreDir: /gnu/store\n").unwrap();
    format!("file:{}", dir.display())
}

fn is_of_download(line: &str) -> bool {
    ["URL:", "Compression:", "FileSize:", "FileHash:"].iter().any(|field| line.starts_with(field))
}

fn cat(scratch: &Scratch, flags: &[&str]) -> Finished {
    scratch.run(["cat"].iter().chain(flags).chain(&[NAME]))
}

/// What the file holds, without the frame of a NAR around it.
fn content() -> Vec<u8> {
    let nar = fs::read(sample("nar/guix-flat-file.txt.nar")).unwrap();
    let content = b"contents";
    let at = nar.windows(content.len()).position(|word| word == content).unwrap() + content.len();
    let length = u64::from_le_bytes(nar[at..at + 8].try_into().unwrap()) as usize;
    nar[at + 8..at + 8 + length].to_vec()
}

#[test]
fn a_file_is_read_from_a_cache_that_a_trusted_key_signed() {
    let scratch = Scratch::new();
    let cache = cache(&scratch);
    let key = sample("guix/signing-key.pub");
    assert_eq!(cat(&scratch, &["--substituter", &cache, "--trusted-key", text(&key)]).bytes(), content());
    let acl = scratch.at("acl");
    let entry = fs::read_to_string(&key).unwrap();
    fs::write(&acl, format!("(acl (entry {entry} (tag (guix import))))")).unwrap();
    let acl = format!("--guix-acl={}", acl.display());
    assert_eq!(cat(&scratch, &["--substituter", &cache, &acl]).bytes(), content());
}

#[test]
fn servers_and_keys_come_from_the_config_and_flags_take_their_place() {
    let scratch = Scratch::new();
    let cache = cache(&scratch);
    let (good, other) = (sample("guix/signing-key.pub"), sample("guix/our-test-signing-key.pub"));
    let config = format!("substituters = [\"{cache}\"]\n[trust]\nkeys = [\"{}\"]\n", good.display());
    fs::write(scratch.folder("config/erisfs").join("config.toml"), config).unwrap();
    assert_eq!(cat(&scratch, &[]).bytes(), content());
    let refusal = cat(&scratch, &["--trusted-key", text(&other)]).refusal(1);
    assert!(refusal.contains("not signed by a trusted key") && refusal.contains(&cache), "{refusal}");
}

#[test]
fn what_nobody_signed_is_refused_unless_the_user_wants_it() {
    let scratch = Scratch::new();
    let cache = cache(&scratch);
    let file = scratch.at("cache/zgmidwbnr63g56vaz0qrl65xy25lk7y6.narinfo");
    let signed = fs::read_to_string(&file).unwrap();
    let unsigned: String =
        signed.split_inclusive('\n').filter(|line| !line.starts_with("Signature")).collect();
    fs::write(file, unsigned).unwrap();
    let key = sample("guix/signing-key.pub");
    let refusal = cat(&scratch, &["--substituter", &cache, "--trusted-key", text(&key)]).refusal(1);
    assert!(refusal.contains("no signature"), "{refusal}");
    assert_eq!(cat(&scratch, &["--substituter", &cache, "--insecure"]).bytes(), content());
}

#[test]
fn a_wrong_flag_is_told_with_what_is_wrong() {
    let scratch = Scratch::new();
    let cache = cache(&scratch);
    fs::write(scratch.at("netrc"), "machine a password").unwrap();
    let key = sample("guix/signing-key.pub");
    let with_key = ["--substituter", &cache, "--trusted-key", text(&key)];
    let calls: &[(&[&str], &[&str], &str)] = &[
        (&[], &["--substituter", &cache], "no key is trusted"),
        (&[], &["--substituter", &cache, "--trusted-key", "cache:AAAA"], "cache"),
        (&[], &["--substituter", &cache, "--trusted-key", "none/key.pub"], "none/key.pub"),
        (&[], &["--substituter", &cache, "--nix-conf=none/nix.conf"], "none/nix.conf"),
        (&[], &["--substituter", &cache, "--guix-acl=none/acl"], "none/acl"),
        (&with_key, &["--substituter", "ftp://host/"], "ftp://host/"),
        (&with_key, &["--substituter", "https://me:hush@host/?x"], "https://host/?x"),
        (&with_key, &["--overlay", "nonsense"], "nonsense"),
        (&with_key, &["--netrc", "netrc"], "line 1"),
        (&with_key, &["--netrc", "none"], "none"),
        (&with_key, &["--ipfs", "host"], "ipfs://HOST:5001"),
        (&[], &["--overlay", &cache], "--substituter"),
    ];
    for (first, more, words) in calls {
        let flags: Vec<_> = first.iter().chain(*more).copied().collect();
        let refusal = cat(&scratch, &flags).refusal(2);
        assert!(refusal.contains(words) && !refusal.contains("hush"), "{flags:?}: {refusal}");
    }
}
