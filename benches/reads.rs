//! Reading from a cold mount: one large file in order and at random, a library's names, and every file of a tree of small ones.
//!
//! `cargo bench --bench reads [-- NAME...]` runs the parts with one of the names in their own ("large", "names", "small"). Against it stands fetching
//! the whole tree first and reading it from the disk. Every sample has a new daemon and a new cache; samples are interleaved,
//! medians are printed. The large file has `BENCH_LARGE_MB` (1000) megabytes, the tree `BENCH_FILES` (20000) files.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use support::mount::Mount;
use support::origin::Link;
use support::programs::PROGRAMS;
use support::published::Published;
use support::table::{Sample, Table};
use support::{eager, number, run, samples, trees};
use tempfile::TempDir;

/// A thing to do with a tree at this place.
type Act<'a> = (&'a str, &'a dyn Fn(&Path));

/// The buffer of a sequential reader, as cat(1) has it.
const BUFFER: usize = 128 << 10;
/// Random reads of a thread: few enough that one after the other ends soon at 50 ms each.
const RANDOM_READS: u64 = 100;

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str| given.is_empty() || given.iter().any(|wanted| wanted == name);
    let mut table = Table::default();
    if is_wanted("large") {
        large(&mut table);
    }
    if is_wanted("names") {
        names(&mut table);
    }
    if is_wanted("small") {
        small(&mut table);
    }
    table.print();
}

fn large(table: &mut Table) {
    let tree = scratch();
    trees::large_file(tree.path(), number("BENCH_LARGE_MB", 1000) * 1_000_000);
    let published = Published::new(tree.path());
    let whole = |top: &Path| sequential(&top.join("large"));
    let random = |top: &Path| random(&top.join("large"), 1);
    let random_16 = |top: &Path| self::random(&top.join("large"), 16);
    for (name, link) in &Link::ALL[1..] {
        published.origin.set_link(*link);
        measure(table, &published, name, &[("whole file", &whole)], true);
        let reads: [Act; 2] = [("random 4 KiB, 1 thread", &random), ("random 4 KiB, 16 threads", &random_16)];
        measure(table, &published, name, &reads, false);
    }
}

fn names(table: &mut Table) {
    let program = &PROGRAMS[0];
    if let Some(missing) = program.needs.iter().find(|path| !Path::new(path).exists()) {
        return println!("SKIPPED names: this machine has no {missing}");
    }
    let closure = program.make();
    let published = Published::new(&closure.register());
    let list = |top: &Path| quietly(Command::new("ls").arg("-lR").arg(top));
    let find = |top: &Path| quietly(Command::new("find").arg(top));
    let acts: [Act; 3] = [("ls -lR", &list), ("find", &find), ("stat of everything", &stat_storm)];
    for (name, link) in &Link::ALL[1..] {
        published.origin.set_link(*link);
        measure(table, &published, name, &acts, true);
    }
}

fn small(table: &mut Table) {
    let tree = scratch();
    trees::small_files(tree.path(), number("BENCH_FILES", 20_000));
    let published = Published::new(tree.path());
    for (name, link) in Link::ALL {
        published.origin.set_link(link);
        measure(table, &published, name, &[("every small file", &read_all)], true);
    }
}

/// Does each of these from a new mount and, if asked to, from a new copy.
fn measure(table: &mut Table, published: &Published, link: &str, acts: &[Act], against_eager: bool) {
    for _ in 0..samples() {
        for (what, act) in acts {
            let row = format!("{what}, {link}");
            let home = scratch();
            let sample = timed(published, || {
                let mount = Mount::new(published, home.path());
                act(&mount.top);
                mount
            });
            table.add(&row, "mount", sample);
            if against_eager {
                let sample = timed(published, || {
                    let top = home.path().join("store");
                    eager::fetch_all(&published.archives, &top).expect("the origin has the archive");
                    act(&top.join(&published.archives[0].name));
                });
                table.add(&row, "whole first", sample);
            }
        }
    }
}

fn timed<T>(published: &Published, act: impl FnOnce() -> T) -> Sample {
    published.origin.seen();
    let begun = Instant::now();
    let _mount = act();
    Sample { took: begun.elapsed(), seen: published.origin.seen() }
}

fn sequential(path: &Path) {
    let file = File::open(path).expect("the file that was published");
    let (mut buffer, mut at) = (vec![0; BUFFER], 0);
    loop {
        match file.read_at(&mut buffer, at).expect("readable") {
            0 => return,
            length => at += length as u64,
        }
    }
}

/// Reads pages all over the file, others in each thread, the same in each sample.
fn random(path: &Path, threads: u64) {
    let file = File::open(path).expect("the file that was published");
    let pages = file.metadata().expect("it is open").len() / 4096;
    thread::scope(|scope| {
        for number in 0..threads {
            let file = &file;
            scope.spawn(move || {
                let mut state = number + 1;
                for _ in 0..RANDOM_READS {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let page = (state >> 33) % pages;
                    file.read_exact_at(&mut [0; 4096], page * 4096).expect("readable");
                }
            });
        }
    });
}

fn stat_storm(top: &Path) {
    visit(top, &|path| {
        path.symlink_metadata().expect("it was listed");
    });
}

fn read_all(top: &Path) {
    visit(top, &|path| {
        if path.symlink_metadata().expect("it was listed").is_file() {
            fs::read(path).expect("readable");
        }
    });
}

fn visit(top: &Path, act: &dyn Fn(&Path)) {
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a directory") {
            let entry = entry.expect("a directory that can be read");
            act(&entry.path());
            if entry.file_type().expect("it was listed").is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

fn quietly(command: &mut Command) {
    run(command.stdout(Stdio::null()));
}

fn scratch() -> TempDir {
    TempDir::with_prefix("erisfs-bench-").expect("a temporary directory")
}
