//! Programs with their closures, copied from this machine and cut into store paths as nixpkgs and Guix have them.
//!
//! *Python*: the interpreter with its whole library, compiled for all three levels of optimization as nixpkgs does it; glibc with
//! character sets and locales; OpenSSL, SQLite, readline, ncurses with its terminals, bash, time zones and the small libraries. nixpkgs'
//! `python3` has also its test suite. *gcc*: all front ends that this machine has, with their static libraries, binutils, the headers of
//! libc, Linux and C++, gmp, mpfr, mpc and isl.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::closure::{Closure, copy, copy_all, copy_some};
use super::run;

const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";
const GCC_PARTS: &str = "/usr/lib/gcc/x86_64-linux-gnu/12";

/// Store paths. What their hashes are does not matter, as long as no two are the same.
const GLIBC: &str = "00000000000000000000000000000000-glibc-2.36";
const BASH: &str = "11111111111111111111111111111111-bash-5.2";
const OPENSSL: &str = "22222222222222222222222222222222-openssl-3.0";
const SQLITE: &str = "33333333333333333333333333333333-sqlite-3.40";
const NCURSES: &str = "44444444444444444444444444444444-ncurses-6.4";
const READLINE: &str = "55555555555555555555555555555555-readline-8.2";
const SMALL: &str = "66666666666666666666666666666666-small-libraries";
const ZONES: &str = "77777777777777777777777777777777-tzdata-2024";
const PYTHON: &str = "88888888888888888888888888888888-python3-3.11";
const HEADERS: &str = "99999999999999999999999999999999-linux-headers-6.1";
const NUMBERS: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-gmp-mpfr-mpc-isl";
const BINUTILS: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-binutils-2.40";
const GCC: &str = "cccccccccccccccccccccccccccccccc-gcc-12";

/// A program and its closure, and how it is run from a store.
pub struct Program {
    pub name: &'static str,
    /// What [`Program::make`] needs of this machine.
    pub needs: &'static [&'static str],
    make: fn(&mut Closure),
    command: fn(&Path, &Path) -> Command,
}

impl Program {
    /// Copies the closure; the program is in the last store path.
    pub fn make(&self) -> Closure {
        let mut closure = Closure::new();
        (self.make)(&mut closure);
        closure
    }

    /// Runs the program of the store in a directory, with an empty directory to work in.
    pub fn run(&self, store: &Path, work: &Path) {
        run(&mut (self.command)(store, work));
    }
}

pub const PROGRAMS: [Program; 2] = [
    Program {
        name: "Python importing 30 modules",
        needs: &["/usr/bin/python3.11", "/usr/lib/python3.11/os.py"],
        make: python,
        command: import,
    },
    Program {
        name: "gcc compiling hello world",
        needs: &[
            "/usr/bin/gcc-12",
            "/usr/lib/gcc/x86_64-linux-gnu/12/cc1",
            "/usr/bin/as",
            "/usr/include/stdio.h",
        ],
        make: gcc,
        command: compile,
    },
];

const MODULES: &str = "argparse, collections, configparser, csv, dataclasses, datetime, decimal, email.message, fractions, \
                       functools, hashlib, http.client, inspect, json, logging, multiprocessing, pathlib, pickle, random, \
                       shutil, socket, sqlite3, ssl, statistics, subprocess, tempfile, threading, unittest, urllib.request, zipfile";

/// libc and what is always beside it.
fn glibc(closure: &mut Closure) -> PathBuf {
    let glibc = closure.add(GLIBC, &[]);
    let names = [
        LOADER,
        "libc.so.6",
        "libm.so.6",
        "libdl.so.2",
        "libpthread.so.0",
        "librt.so.1",
        "libutil.so.1",
        "libmvec.so.1",
        "libresolv.so.2",
        "libnss_files.so.2",
        "libnss_dns.so.2",
        "libnss_compat.so.2",
        "libanl.so.1",
        "libthread_db.so.1",
        "libBrokenLocale.so.1",
        "libnsl.so.1",
        "libgcc_s.so.1",
        "gconv",
    ];
    copy_some(LIBRARIES, &names, &glibc.join("lib"));
    copy_some("/usr/lib", &["locale"], &glibc.join("lib"));
    copy_some("/usr/share", &["i18n"], &glibc.join("share"));
    copy_some("/usr/bin", &["getent", "iconv", "locale", "localedef", "ldd", "getconf"], &glibc.join("bin"));
    glibc
}

fn python(closure: &mut Closure) {
    glibc(closure);
    let bash = closure.add(BASH, &[GLIBC]);
    copy_some("/usr/bin", &["bash"], &bash.join("bin"));
    let openssl = closure.add(OPENSSL, &[GLIBC]);
    copy_some(
        LIBRARIES,
        &["libcrypto.so.3", "libssl.so.3", "ossl-modules", "engines-3"],
        &openssl.join("lib"),
    );
    copy_some("/etc", &["ssl"], &openssl.join("etc"));
    let sqlite = closure.add(SQLITE, &[GLIBC, SMALL]);
    copy_some(LIBRARIES, &["libsqlite3.so.0"], &sqlite.join("lib"));
    let ncurses = closure.add(NCURSES, &[GLIBC]);
    let names = ["libncursesw.so.6", "libtinfo.so.6", "libpanelw.so.6", "libformw.so.6", "libmenuw.so.6"];
    copy_some(LIBRARIES, &names, &ncurses.join("lib"));
    copy_some("/usr/share", &["terminfo"], &ncurses.join("share"));
    copy_some("/lib", &["terminfo"], &ncurses.join("share"));
    let readline = closure.add(READLINE, &[GLIBC, NCURSES]);
    copy_some(LIBRARIES, &["libreadline.so.8", "libhistory.so.8"], &readline.join("lib"));
    let small = closure.add(SMALL, &[GLIBC]);
    let names = [
        "libz.so.1",
        "libbz2.so.1.0",
        "liblzma.so.5",
        "libexpat.so.1",
        "libffi.so.8",
        "libgdbm.so.6",
        "libgdbm_compat.so.4",
        "libcrypt.so.1",
        "libuuid.so.1",
        "libdb-5.3.so",
        "libidn2.so.0",
        "libunistring.so.2",
        "libtirpc.so.3",
        "libnsl.so.2",
    ];
    copy_some(LIBRARIES, &names, &small.join("lib"));
    let zones = closure.add(ZONES, &[]);
    copy_some("/usr/share", &["zoneinfo"], &zones.join("share"));
    let python = closure.add(PYTHON, &[GLIBC, BASH, OPENSSL, SQLITE, NCURSES, READLINE, SMALL, ZONES]);
    copy(Path::new("/usr/bin/python3.11"), &python.join("bin/python3.11"));
    copy_some("/usr/include", &["python3.11"], &python.join("include"));
    let library = python.join("lib/python3.11");
    copy_all(Path::new("/usr/lib/python3.11"), &library);
    // As a store has them: compiled, and not compared with times, which are all the same there.
    run(Command::new("/usr/bin/python3.11")
        .args(["-m", "compileall", "-q", "-f", "-j", "0", "-o", "0", "-o", "1", "-o", "2"])
        .args(["--invalidation-mode", "unchecked-hash"])
        .arg(library));
}

fn import(store: &Path, work: &Path) -> Command {
    let paths = [GLIBC, OPENSSL, SQLITE, NCURSES, READLINE, SMALL].map(|path| store.join(path).join("lib"));
    let mut command = Command::new(store.join(GLIBC).join("lib").join(LOADER));
    command.arg("--library-path").arg(std::env::join_paths(paths).expect("no colon in a name"));
    command.arg(store.join(PYTHON).join("bin/python3.11")).args([
        "-S",
        "-B",
        "-c",
        &format!("import {MODULES}"),
    ]);
    command.env_clear().env("PYTHONHOME", store.join(PYTHON)).current_dir(work);
    command
}

/// libc is laid out as a root for `--sysroot`, which the linker script `libc.so` is made for.
fn gcc(closure: &mut Closure) {
    let glibc = glibc(closure);
    fs::create_dir_all(glibc.join("lib64")).expect("a writable directory");
    copy(&Path::new("/lib64").join(LOADER), &glibc.join("lib64").join(LOADER));
    copy_some(LIBRARIES, &["libc.so.6", "libm.so.6", LOADER], &glibc.join(&LIBRARIES["/usr/".len()..]));
    let names = [
        "crt1.o",
        "Scrt1.o",
        "gcrt1.o",
        "rcrt1.o",
        "grcrt1.o",
        "Mcrt1.o",
        "crti.o",
        "crtn.o",
        "libc.so",
        "libc.a",
        "libm.so",
        "libm.a",
        "libm-2.36.a",
        "libmvec.a",
        "libc_nonshared.a",
        "libg.a",
        "libresolv.a",
        "libpthread.a",
        "libdl.a",
        "librt.a",
        "libutil.a",
        "libanl.a",
        "libBrokenLocale.a",
        "libmcheck.a",
        "libgcc_s.so.1",
    ];
    copy_some(LIBRARIES, &names, &glibc.join(&LIBRARIES[1..]));
    let headers = of_package("libc6-dev", "/usr/include/");
    headers
        .iter()
        .for_each(|header| copy(header, &glibc.join(header.strip_prefix("/").expect("it is absolute"))));
    let linux = closure.add(HEADERS, &[]);
    for header in of_package("linux-libc-dev", "/usr/include/") {
        let below = header.strip_prefix("/").expect("it is absolute");
        copy(&header, &linux.join(below));
    }
    let small = closure.add(SMALL, &[GLIBC]);
    copy_some(LIBRARIES, &["libz.so.1", "libzstd.so.1", "libjansson.so.4"], &small.join("lib"));
    let numbers = closure.add(NUMBERS, &[GLIBC]);
    copy_some(
        LIBRARIES,
        &["libgmp.so.10", "libmpfr.so.6", "libmpc.so.3", "libisl.so.23"],
        &numbers.join("lib"),
    );
    let binutils = closure.add(BINUTILS, &[GLIBC, SMALL]);
    let names = [
        "addr2line",
        "ar",
        "as",
        "c++filt",
        "dwp",
        "elfedit",
        "gold",
        "gprof",
        "ld",
        "ld.bfd",
        "ld.gold",
        "nm",
        "objcopy",
        "objdump",
        "ranlib",
        "readelf",
        "size",
        "strings",
        "strip",
    ];
    copy_some("/usr/bin", &names, &binutils.join("bin"));
    let libraries = of_package("libbinutils", LIBRARIES).into_iter().chain(of_package("libctf0", LIBRARIES));
    for library in
        libraries.chain(of_package("libctf-nobfd0", LIBRARIES)).chain(of_package("libgprofng0", LIBRARIES))
    {
        copy(&library, &binutils.join("lib").join(library.file_name().expect("a file has a name")));
    }
    let gcc = closure.add(GCC, &[GLIBC, HEADERS, SMALL, NUMBERS, BINUTILS]);
    copy_all(Path::new(GCC_PARTS), &gcc.join(&GCC_PARTS[1..]));
    copy_some(
        "/usr/bin",
        &["gcc-12", "g++-12", "cpp-12", "gcov-12", "gcov-tool-12", "lto-dump-12"],
        &gcc.join("usr/bin"),
    );
    copy_all(Path::new("/usr/include/c++/12"), &gcc.join("usr/include/c++/12"));
    copy_all(
        Path::new("/usr/include/x86_64-linux-gnu/c++/12"),
        &gcc.join("usr/include/x86_64-linux-gnu/c++/12"),
    );
}

/// The files of a package of Debian below a directory.
fn of_package(package: &str, below: &str) -> Vec<PathBuf> {
    let output = Command::new("dpkg").args(["-L", package]).output();
    let listed =
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    listed
        .lines()
        .filter(|line| line.starts_with(below))
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect()
}

fn compile(store: &Path, work: &Path) -> Command {
    fs::write(
        work.join("hello.c"),
        "#include <stdio.h>\nint main(void) { puts(\"hello, world\"); return 0; }\n",
    )
    .expect("a writable directory");
    let paths = [GLIBC, SMALL, NUMBERS, BINUTILS].map(|path| store.join(path).join("lib"));
    let mut command = Command::new(store.join(GCC).join("usr/bin/gcc-12"));
    command.arg(format!("--sysroot={}", store.join(GLIBC).display()));
    command.arg("-idirafter").arg(store.join(HEADERS).join("usr/include"));
    command.arg("-idirafter").arg(store.join(HEADERS).join("usr/include/x86_64-linux-gnu"));
    command.args(["-O2", "-o", "hello", "hello.c"]).current_dir(work);
    command
        .env("LD_LIBRARY_PATH", std::env::join_paths(paths).expect("no colon in a name"))
        .env("PATH", store.join(BINUTILS).join("bin"))
        .env("TMPDIR", work);
    command
}
