//! `erisfs index` and `files:` as programs call them.

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

use crate::noise::noise;

fn erisfs(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("erisfs").unwrap();
    let home = dir.join("home");
    command.env("XDG_CACHE_HOME", &home).env("XDG_CONFIG_HOME", &home).env("XDG_RUNTIME_DIR", &home);
    command.env_remove("ERISFS_BLOCKS").env_remove("RUST_LOG").current_dir(dir);
    command
}

#[test]
fn a_file_that_was_indexed_is_read_by_its_urn_until_it_changes() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("files")).unwrap();
    let content = noise(100_000);
    fs::write(dir.path().join("files/a"), &content).unwrap();
    let get = |urn: &str| {
        let output = erisfs(dir.path()).args(["get", "--blocks", "files:files", urn]).output().unwrap();
        (output.status.success(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    let output = erisfs(dir.path()).args(["index", "files"]).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let (urn, name) = stdout.trim_end().split_once("  ").unwrap_or_else(|| panic!("{stdout} {stderr}"));
    assert_eq!(name, "a");
    assert!(stderr.starts_with("files: 1 (1 read, 0 gone, 0 left out)"), "{stderr}");
    assert_eq!(get(urn), (true, content, String::new()));

    // The directory is the same by whatever name, and takes nothing.
    let absolute = format!("files:{}/files/.", dir.path().display());
    erisfs(dir.path()).args(["get", "--blocks", &absolute, urn]).assert().success();
    let refused = erisfs(dir.path()).args(["put", "--blocks", &absolute, "files/a"]).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && told.contains("read-only"), "{told}");

    fs::write(dir.path().join("files/a"), "other").unwrap();
    let (success, _, told) = get(urn);
    assert!(!success && told.contains("erisfs index"), "{told}");
}

#[test]
fn without_an_index_the_message_says_what_makes_it() {
    let dir = TempDir::new().unwrap();
    let urn = "urn:eris:BIAVIA5WB5UNRD5ADA34TBZXBBTAEPFEYZVHGN6UUGOUSRRHH5NMRFH4OHD7FY4FP5WISCHIYGAITZQPUCT62FODBV723DYSYZWOE3GDIM";
    let output = erisfs(dir.path()).args(["get", "--blocks", "files:.", urn]).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("`erisfs index"), "{told}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn narinfos_that_are_left_out_are_told_by_the_exit_status() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("cache")).unwrap();
    let run = || erisfs(dir.path()).args(["index", "--narinfo", "out", "cache"]).assert();
    run().success();
    fs::write(dir.path().join("cache/x.narinfo"), "StorePath: x\n").unwrap();
    run().code(1);
}
