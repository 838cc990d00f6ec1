//! Who may mount: root with the kernel alone, others with fusermount3, nobody where /dev/fuse is closed.
//!
//! Other users are played by root in a namespace of its own, where /dev/fuse is a node of any mode.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::process::{Finished, run};
use super::scratch::{Scratch, mounts_in, text, umount};
use super::trees::small;

/// A published tree, and a place for the user `nobody` to mount it at.
struct Stage {
    scratch: Scratch,
    catalog: String,
    name: String,
}

impl Stage {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test plays several users: run it as root");
        let scratch = Scratch::new();
        small(&scratch.folder("tree"));
        let published = scratch.publish(&[&scratch.at("tree")]);
        std::os::unix::fs::chown(scratch.folder("mnt"), Some(65534), Some(65534)).unwrap();
        // The build directory may be closed to other users.
        fs::copy(env!("CARGO_BIN_EXE_erisfs"), scratch.at("erisfs")).unwrap();
        let name = published.name().to_owned();
        Stage { scratch, catalog: published.catalog, name }
    }

    /// Runs `script` as nobody, where /dev/fuse has the mode `mode`. `$1` is the program, `$2` the tree on disk,
    /// `$3` the mountpoint, `$4` HASH-NAME; `erisfs_mount` mounts. What it leaves is gone when this returns.
    #[track_caller]
    fn as_nobody(&self, mode: &str, helper: &str, script: &str) -> Finished {
        let enter = "set -e; mount -t tmpfs -o mode=755 tmpfs /mnt; mknod -m \"$0\" /mnt/fuse c 10 229; \
                     mount --bind /mnt/fuse /dev/fuse; \
                     exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c \"$@\"";
        let script = format!(
            "erisfs_mount() {{ \"$1\" mount --blocks {} --catalog {} \"$3\"; }}\nset -e\ncd /\n{script}",
            self.scratch.blocks(),
            self.catalog
        );
        let namespaces =
            ["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let at = |name| self.scratch.at(name);
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["sh", "-c", enter, mode, &script, "sh"]);
        command.args([at("erisfs"), at("tree"), at("mnt"), PathBuf::from(&self.name)]);
        command.env("XDG_CACHE_HOME", at("mnt")).env_remove("XDG_CONFIG_HOME").env_remove("XDG_RUNTIME_DIR");
        command.env_remove("ERISFS_BLOCKS").env_remove("RUST_LOG");
        command.env_remove("FUSERMOUNT_PATH");
        if !helper.is_empty() {
            command.env("FUSERMOUNT_PATH", helper);
        }
        run(&mut command)
    }
}

#[test]
fn root_mounts_and_unmounts_without_fusermount3() {
    let stage = Stage::new();
    let (at, blocks) = (stage.scratch.at("mnt"), stage.scratch.blocks());
    let arguments = ["mount", "--blocks", &blocks, "--catalog", &stage.catalog, text(&at)];
    let mut call = stage.scratch.erisfs(arguments);
    run(call.env("FUSERMOUNT_PATH", "/nowhere/fusermount3").env("PATH", "/nowhere")).text();
    assert_eq!(mounts_in(&at), std::slice::from_ref(&at));
    assert_eq!(fs::read_to_string(at.join(&stage.name).join("one")).unwrap(), "the first\n");
    umount(&at);
    stage.scratch.is_quiet();
}

fn demand_fusermount3() {
    let found = run(Command::new("sh").args(["-c", "command -v fusermount3"]));
    assert_eq!(found.code, Some(0), "fusermount3 is not installed: apt-get install fuse3");
}

#[test]
fn a_user_mounts_and_unmounts_with_fusermount3() {
    demand_fusermount3();
    let script = "id -u; erisfs_mount \"$@\"
        diff -r --no-dereference \"$2\" \"$3/$4\"
        \"$3/$4/bin/sh\" -c 'echo run'
        fusermount3 -u \"$3\"
        while pgrep -x erisfs > /dev/null; do sleep 0.1; done
        ls \"$3\" | wc -l";
    assert_eq!(Stage::new().as_nobody("666", "", script).text(), "65534\nrun\n0\n");
}

#[test]
fn a_signal_ends_the_mount_of_a_user_although_it_is_busy() {
    demand_fusermount3();
    let script = "erisfs_mount \"$@\"
        exec 5< \"$3/$4/two\"
        kill -TERM \"$(pgrep -x erisfs)\"
        while pgrep -x erisfs > /dev/null; do sleep 0.1; done
        grep -c \"$3\" /proc/mounts || true";
    assert_eq!(Stage::new().as_nobody("666", "", script).text(), "0\n");
}

#[test]
fn a_user_without_fusermount3_hears_what_is_missing() {
    let refusal = Stage::new().as_nobody("666", "/nowhere/fusermount3", "erisfs_mount \"$@\"").refusal(1);
    assert!(refusal.contains("fusermount3") && refusal.contains("fuse3"), "{refusal}");
}

#[test]
fn a_user_hears_that_the_device_is_for_root_alone() {
    let refusal = Stage::new().as_nobody("600", "", "erisfs_mount \"$@\"").refusal(1);
    assert!(refusal.contains("/dev/fuse") && refusal.contains("600"), "{refusal}");
}
