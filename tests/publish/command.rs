//! `erisfs publish` as programs call it.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

use crate::make_tree;

fn erisfs(dir: &Path) -> Command {
    let mut command = Command::cargo_bin("erisfs").unwrap();
    command
        .env("XDG_CACHE_HOME", dir.join("home"))
        .env("XDG_CONFIG_HOME", dir.join("home"))
        .env_remove("ERISFS_BLOCKS")
        .env_remove("RUST_LOG");
    command.arg("publish").arg("--blocks").arg(format!("dir:{}", dir.join("blocks").display()));
    command
}

fn output(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    assert!(output.status.success(), "{}", text(output.stderr));
    (text(output.stdout), text(output.stderr))
}

#[test]
fn the_last_line_is_the_urn_of_the_catalog_also_as_json() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    let (stdout, stderr) = output(erisfs(dir.path()).arg(&tree));
    let urn = stdout.lines().last().unwrap();
    assert!(urn.starts_with("urn:eris:"), "{stdout}");
    assert_eq!(stderr.lines().count(), 1, "a summary and nothing else: {stderr}");

    let (stdout, _) = output(erisfs(dir.path()).arg("--json").arg(&tree));
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["catalog"], urn);
    let path = &json["paths"][0];
    assert_eq!(path["reused"], true);
    assert!(path["storePath"].as_str().unwrap().ends_with("-tree"), "{path}");
    assert!(path["urn"].as_str().unwrap().starts_with("urn:eris:"), "{path}");
    assert!(path["narHash"].as_str().unwrap().starts_with("sha256:"), "{path}");
    assert!(path["narSize"].as_u64() > path["packedSize"].as_u64().map(|size| size / 2), "{path}");
}

#[test]
fn a_name_that_cannot_be_given_is_a_wrong_call() {
    let dir = TempDir::new().unwrap();
    erisfs(dir.path()).args(["--name", "x", "/etc/hostname", "/etc/passwd"]).assert().code(2);
    erisfs(dir.path()).arg("/no/such/path").assert().code(1);
    erisfs(dir.path()).assert().code(2);
}

#[test]
fn nothing_is_written_into_the_tree_that_is_published_also_where_it_is_not_there_yet() {
    let dir = TempDir::new().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    let place = tree.join("new/place");
    for flag in ["--narinfo", "--overlay"] {
        erisfs(dir.path()).arg(flag).arg(&place).arg(&tree).assert().code(2);
    }
    let blocks = format!("dir:{}", place.display());
    erisfs(dir.path()).args(["--blocks", &blocks]).arg(&tree).assert().code(2);
    assert!(!tree.join("new").exists());
}
