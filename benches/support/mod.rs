//! What the benches of whole programs share: a published tree behind a shaped link, the program that mounts it, and the rival that fetches
//! everything first.

// Each bench uses its part.
#![allow(dead_code)]

pub mod closure;
pub mod eager;
pub mod mount;
pub mod programs;
pub mod published;
pub mod table;
pub mod trees;

#[path = "../../tests/support/origin/mod.rs"]
pub mod origin;

use std::path::Path;
use std::process::{Command, Output};

/// Samples of everything, of which the median counts: `BENCH_SAMPLES`, 3 without it.
pub fn samples() -> usize {
    number("BENCH_SAMPLES", 3)
}

/// A number that the environment may set.
pub fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name)
        .ok()
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

/// Runs a command that must succeed.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Whether this machine has a program.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Bytes and number of the files below a directory.
pub fn survey(top: &Path) -> (u64, u64) {
    let (mut bytes, mut files, mut folders) = (0, 0, vec![top.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        {
            let entry = entry.expect("a directory that can be read");
            let metadata = entry.path().symlink_metadata().expect("an entry that is still there");
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                (bytes, files) = (bytes + metadata.len(), files + 1);
            }
        }
    }
    (bytes, files)
}
