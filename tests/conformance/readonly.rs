//! Block stores on a medium that cannot be written: a stick with its switch set, a DVD, a squashed image.

use std::{env, path::Path, process::Command};

use erisfs::{
    block::{self, Error, Refusal},
    eris::BlockSize,
};

use crate::suite;

/// Set to the folder of the stores in the process that sees it read-only.
const FOLDER: &str = "CONFORMANCE_READ_ONLY_FOLDER";
/// Mounts a folder onto itself, read-only, in a mount namespace of its own, and runs a command there.
const MOUNT: &str = r#"mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@""#;

/// The reader is a process of its own, because only so can it have mounts of its own; root may write what modes forbid.
#[tokio::test]
async fn stores_on_a_read_only_medium_are_read_and_refuse_puts() {
    if let Some(folder) = env::var_os(FOLDER) {
        return read_only(Path::new(&folder)).await;
    }
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (reference, block) = suite::block(1, BlockSize::Large);
    for url in urls(folder.path()) {
        let store = block::open(&url).expect("a good URL");
        store.put(&reference, block.clone()).await.expect("it can be written still");
        store.sync().await.expect("it can sync");
    }
    let mut reader = Command::new("unshare");
    reader.args(["--mount", "--map-root-user", "sh", "-ec", MOUNT]).arg(folder.path());
    reader.arg(env::current_exe().expect("this program has a path"));
    reader.args([
        "--exact",
        "readonly::stores_on_a_read_only_medium_are_read_and_refuse_puts",
        "--nocapture",
    ]);
    let output = reader.env(FOLDER, folder.path()).output().expect("unshare, of util-linux, can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "the read-only process (it needs the right to make a user namespace) said: {said}"
    );
}

fn urls(folder: &Path) -> [String; 3] {
    ["dir", "sqlite", "bundle"].map(|scheme| format!("{scheme}:{}", folder.join(scheme).display()))
}

async fn read_only(folder: &Path) {
    std::fs::write(folder.join("probe"), "").expect_err("the folder is read-only here");
    let (present, bytes) = suite::block(1, BlockSize::Large);
    let (absent, more) = suite::block(2, BlockSize::Large);
    for url in urls(folder) {
        let store = block::open(&url).expect("a good URL");
        assert_eq!(store.get(&present).await.expect("it can be read"), bytes);
        assert!(matches!(store.get(&absent).await, Err(Error::NotFound { .. })));
        match store.put(&absent, more.clone()).await {
            Err(Error::Refused { reason: Refusal::ReadOnly, .. }) => {}
            other => panic!("{url}: {other:?}"),
        }
    }
}
