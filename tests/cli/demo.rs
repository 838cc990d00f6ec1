//! `demo`: the first command of the README. It tells what travelled, and leaves nothing behind.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process_group};

use super::process::{Running, until};
use super::scratch::{Scratch, mounts_in, text};
use super::trees::small;

fn stage() -> (Scratch, PathBuf) {
    let scratch = Scratch::new();
    small(&scratch.folder("tree"));
    let tree = scratch.at("tree");
    (scratch, tree)
}

/// A demo in its own process group that waits for Ctrl-C; and where its mount is.
fn waiting(scratch: &Scratch, tree: &std::path::Path) -> (Running, PathBuf) {
    let mut demo = Running::start(scratch.erisfs(["demo", text(tree)]).process_group(0));
    demo.line("Ctrl-C");
    let line = demo.line("Look around:");
    let top = PathBuf::from(line.rsplit(' ').next().unwrap());
    assert_eq!(fs::read_to_string(top.join("one")).unwrap(), "the first\n");
    assert_eq!(mounts_in(&scratch.at("tmp")).len(), 1);
    (demo, top)
}

#[track_caller]
fn nothing_is_left(scratch: &Scratch) {
    let tmp = scratch.at("tmp");
    until("mount and directory go away", || {
        mounts_in(&tmp).is_empty() && fs::read_dir(&tmp).unwrap().count() == 0
    });
    scratch.is_quiet();
}

#[test]
fn once_shows_everything_and_ends() {
    let (scratch, tree) = stage();
    let finished = scratch.run(["demo", "--once", text(&tree)]);
    assert_eq!(finished.stderr, "");
    let report = finished.text();
    let words = ["tree", "published", "served", "mounted", "listed", "read", "in all"];
    let mut lines = report.lines();
    for word in words {
        assert!(lines.any(|line| line.starts_with(word)), "no line {word}, or out of order: {report}");
    }
    assert!(report.contains("urn:eris:") && report.contains("http://127.0.0.1:"), "{report}");
    assert!(report.contains("6 files and directories"), "{report}");
    assert!(report.contains("equal to the original"), "{report}");
    assert_eq!(fs::read_dir(scratch.at("tmp")).unwrap().count(), 0);
    scratch.is_quiet();
}

#[test]
fn ctrl_c_ends_it() {
    let (scratch, tree) = stage();
    let (demo, _) = waiting(&scratch, &tree);
    kill_process_group(Pid::from_raw(demo.id() as i32).unwrap(), Signal::INT).unwrap();
    let finished = demo.finish();
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""));
    assert_eq!(fs::read_dir(scratch.at("tmp")).unwrap().count(), 0);
    scratch.is_quiet();
}

#[test]
fn a_demo_that_is_killed_leaves_nothing_either() {
    let (scratch, tree) = stage();
    let (demo, _) = waiting(&scratch, &tree);
    demo.signal(Signal::KILL);
    nothing_is_left(&scratch);
}

#[test]
fn a_demo_that_is_killed_early_leaves_nothing() {
    let (scratch, tree) = stage();
    let mut demo = Running::start(scratch.erisfs(["demo", text(&tree)]).process_group(0));
    demo.line("tree ");
    demo.signal(Signal::KILL);
    nothing_is_left(&scratch);
}

#[test]
fn a_tree_that_is_none_is_refused() {
    let (scratch, tree) = stage();
    assert!(scratch.run(["demo", "/nowhere"]).refusal(1).contains("/nowhere"));
    assert!(scratch.run(["demo", text(&tree.join("one"))]).refusal(1).contains("not a directory"));
    assert_eq!(fs::read_dir(scratch.at("tmp")).unwrap().count(), 0);
}
