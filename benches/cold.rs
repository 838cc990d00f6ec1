//! Cold start: a program with many files, run from a mount that was just made, against fetching its whole closure first.
//!
//! `cargo bench --bench cold [-- NAME...]` runs what has one of the names in its own ("Python", "gcc"). The closure is copied from this
//! machine ([`programs`](support::programs) says what it holds), published, and served by an origin at the four links of issue 3. The time
//! runs from the start of the daemon (or of the fetch) to the end of the program. "With a profile" has what a mount with `--record` left on
//! another day. Each sample has a new daemon, a new cache, new connections; samples are interleaved, medians are printed.

mod support;

use std::fs;
use std::path::Path;
use std::time::Instant;

use support::mount::Mount;
use support::origin::Link;
use support::programs::{PROGRAMS, Program};
use support::published::Published;
use support::table::{Sample, Table};
use support::{eager, samples, survey};
use tempfile::TempDir;

/// Where the program keeps profiles, below the user's cache directory.
const PROFILES: &str = "erisfs/profiles";

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for program in &PROGRAMS {
        if !given.is_empty() && !given.iter().any(|name| program.name.contains(name.as_str())) {
            continue;
        }
        match program.needs.iter().find(|path| !Path::new(path).exists()) {
            Some(missing) => println!("SKIPPED {}: this machine has no {missing}\n", program.name),
            None => measure(program),
        }
    }
}

fn measure(program: &Program) {
    let closure = program.make();
    let published = Published::closure(&closure);
    let (bytes, files) = survey(&closure.store());
    println!(
        "{}: a closure of {} store paths, {files} files, {:.1} MB; {:.1} MB as blocks, {:.1} MB as archives\n",
        program.name,
        published.archives.len(),
        bytes as f64 / 1e6,
        published.packed_bytes as f64 / 1e6,
        published.archive_bytes() as f64 / 1e6,
    );
    let profiles = record(program, &published);
    let mut table = Table::default();
    for (name, link) in Link::ALL {
        published.origin.set_link(link);
        for _ in 0..samples() {
            table.add(name, "mount", sample(&published, None, |home| from_mount(program, &published, home)));
            table.add(
                name,
                "mount with a profile",
                sample(&published, Some(&profiles), |home| from_mount(program, &published, home)),
            );
            table.add(
                name,
                "whole closure first",
                sample(&published, None, |home| from_disk(program, &published, home)),
            );
        }
    }
    table.print();
}

/// Times something that may use a new directory, with profiles or without.
fn sample<T>(published: &Published, profiles: Option<&TempDir>, act: impl FnOnce(&Path) -> T) -> Sample {
    let home = scratch();
    if let Some(profiles) = profiles {
        copy(profiles.path(), &home.path().join(PROFILES));
    }
    published.origin.seen();
    let begun = Instant::now();
    // To take a mount away is not part of a start.
    let _mount = act(home.path());
    Sample { took: begun.elapsed(), seen: published.origin.seen() }
}

/// The profile that a first run leaves.
fn record(program: &Program, published: &Published) -> TempDir {
    let (first, kept) = (scratch(), scratch());
    let mount = Mount::recording(published, first.path());
    program.run(mount.store(), &work(first.path()));
    drop(mount);
    copy(&first.path().join(PROFILES), kept.path());
    kept
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a writable directory");
    for entry in fs::read_dir(from).expect("a directory").flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("room");
    }
}

fn from_mount(program: &Program, published: &Published, home: &Path) -> Mount {
    let mount = Mount::new(published, home);
    program.run(mount.store(), &work(home));
    mount
}

fn from_disk(program: &Program, published: &Published, home: &Path) {
    let top = home.join("store");
    eager::fetch_all(&published.archives, &top).expect("the origin has the archives");
    program.run(&top, &work(home));
}

fn work(home: &Path) -> std::path::PathBuf {
    let work = home.join("work");
    fs::create_dir(&work).expect("a writable directory");
    work
}

fn scratch() -> TempDir {
    TempDir::with_prefix("erisfs-bench-").expect("a temporary directory")
}
