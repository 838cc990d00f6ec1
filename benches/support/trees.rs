//! Trees to publish, made of what this machine has: each holds a program with everything that it needs, as a closure does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run;

const PYTHON: &str = "/usr/bin/python3.11";
const GCC: &str = "/usr/lib/gcc/x86_64-linux-gnu/12";
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";

/// A program in a tree, and how it is run there.
pub struct Program {
    pub name: &'static str,
    /// What [`Program::make`] needs of this machine.
    pub needs: &'static [&'static str],
    make: fn(&Path),
    command: fn(&Path, &Path) -> Command,
}

impl Program {
    /// Builds the tree.
    pub fn make(&self, tree: &Path) {
        (self.make)(tree);
    }

    /// Runs the program of the tree at `top`, with an empty directory to work in.
    pub fn run(&self, top: &Path, work: &Path) {
        run(&mut (self.command)(top, work));
    }
}

pub const PROGRAMS: [Program; 2] = [
    Program {
        name: "Python importing 30 modules",
        needs: &[PYTHON, "/usr/lib/python3.11/os.py"],
        make: python,
        command: import,
    },
    Program {
        name: "gcc compiling hello world",
        needs: &[GCC, "/usr/bin/gcc-12", "/usr/bin/as", "/usr/bin/ld", "/usr/include/stdio.h"],
        make: gcc,
        command: compile,
    },
];

const MODULES: &str = "argparse, collections, configparser, csv, dataclasses, datetime, decimal, email.message, fractions, \
                       functools, hashlib, http.client, inspect, json, logging, multiprocessing, pathlib, pickle, random, \
                       shutil, socket, sqlite3, ssl, statistics, subprocess, tempfile, threading, unittest, urllib.request, zipfile";

fn python(tree: &Path) {
    copy(Path::new(PYTHON), &tree.join("bin/python3.11"));
    copy_all(Path::new("/usr/lib/python3.11"), &tree.join("lib/python3.11"));
    let extensions = fs::read_dir("/usr/lib/python3.11/lib-dynload").into_iter().flatten().flatten();
    let binaries: Vec<_> = extensions.map(|entry| entry.path()).chain([PYTHON.into()]).collect();
    copy_libraries(&binaries, &tree.join("lib"));
    // As a store has them: compiled, and not compared with times, which are all the same there.
    run(Command::new(PYTHON)
        .args(["-m", "compileall", "-q", "-f", "-j", "0", "--invalidation-mode", "unchecked-hash"])
        .arg(tree.join("lib/python3.11")));
}

fn import(top: &Path, work: &Path) -> Command {
    let mut command = Command::new(top.join("lib/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(top.join("lib")).arg(top.join("bin/python3.11"));
    command.args(["-S", "-B", "-c", &format!("import {MODULES}")]);
    command.env_clear().env("PYTHONHOME", top).current_dir(work);
    command
}

fn gcc(tree: &Path) {
    let programs = ["/usr/bin/gcc-12", "/usr/bin/as", "/usr/bin/ld"];
    for program in programs {
        copy(Path::new(program), &tree.join(&program[1..]));
    }
    copy_all(Path::new(GCC), &tree.join(&GCC[1..]));
    copy_all(Path::new("/usr/include"), &tree.join("usr/include"));
    let parts = ["cc1", "collect2", "lto-wrapper", "liblto_plugin.so"].map(|part| Path::new(GCC).join(part));
    let binaries: Vec<_> = programs.iter().map(PathBuf::from).chain(parts).collect();
    copy_libraries(&binaries, &tree.join(&LIBRARIES[1..]));
    for start in ["crt1.o", "Scrt1.o", "crti.o", "crtn.o", "libc.so", "libc_nonshared.a", "libgcc_s.so.1"] {
        for folder in ["/usr/lib/x86_64-linux-gnu", LIBRARIES] {
            if Path::new(folder).join(start).is_file() {
                copy(&Path::new(folder).join(start), &tree.join(&folder[1..]).join(start));
            }
        }
    }
    copy(Path::new("/lib64/ld-linux-x86-64.so.2"), &tree.join("lib64/ld-linux-x86-64.so.2"));
}

fn compile(top: &Path, work: &Path) -> Command {
    fs::write(
        work.join("hello.c"),
        "#include <stdio.h>\nint main(void) { puts(\"hello, world\"); return 0; }\n",
    )
    .expect("a writable directory");
    let mut command = Command::new(top.join("usr/bin/gcc-12"));
    command
        .arg(format!("--sysroot={}", top.display()))
        .args(["-O2", "-o", "hello", "hello.c"])
        .current_dir(work);
    command
        .env("LD_LIBRARY_PATH", top.join(&LIBRARIES[1..]))
        .env("PATH", top.join("usr/bin"))
        .env("TMPDIR", work);
    command
}

/// A tree of so many small files in folders of 100, of 1.6 KB on average; about half of that when compressed, as programs are.
pub fn small_files(tree: &Path, count: usize) {
    let mut numbers = xorshift64();
    for number in 0..count {
        let folder = tree.join(format!("{:03}", number / 100));
        fs::create_dir_all(&folder).expect("a writable directory");
        let lines = (0..1 + number % 193).map(|_| format!("{:016x}", numbers()));
        fs::write(folder.join(format!("file-{number:05}.txt")), lines.collect::<Vec<_>>().join("\n"))
            .expect("room");
    }
}

/// One file of so many bytes, which no compression makes smaller.
pub fn large_file(tree: &Path, bytes: usize) {
    let mut numbers = xorshift64();
    let mut noise = vec![0; bytes];
    for piece in noise.chunks_mut(8) {
        piece.copy_from_slice(&numbers().to_le_bytes()[..piece.len()]);
    }
    fs::create_dir_all(tree).expect("a writable directory");
    fs::write(tree.join("large"), noise).expect("room");
}

/// Numbers that look random, the same each time (Marsaglia, 2003).
fn xorshift64() -> impl FnMut() -> u64 {
    let mut state = 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("it is in the tree")).expect("a writable directory");
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// Copies a directory; links that lead out of it become what they lead to, and what is not there any more is left out.
fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a writable directory");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let path = entry.expect("a directory that can be read").path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        match fs::read_link(&path) {
            Ok(link) if link.is_relative() && !link.starts_with("..") => symlink(link, target).expect("room"),
            _ if path.is_dir() => copy_all(&path, &target),
            _ if path.is_file() => copy(&path, &target),
            _ => {}
        }
    }
}

/// Copies the shared libraries of some programs, and the loader.
fn copy_libraries(binaries: &[PathBuf], to: &Path) {
    let output = Command::new("ldd").args(binaries).output().expect("ldd");
    for word in
        String::from_utf8_lossy(&output.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let library = Path::new(word);
        if let Some(name) =
            library.file_name().filter(|_| library.is_file() && !binaries.iter().any(|b| b == library))
        {
            copy(library, &to.join(name));
        }
    }
}
