//! The rules of the source tree: which module may use which, and who may print, read the environment or name the kernel.
//!
//! The checker reads every file of `src/`, blanks comments and literals, and looks at paths and names that are left. It knows
//! no types: it finds what a reviewer would find with `grep`, and says file, line and rule. The tests at the foot show that
//! each rule can fail.

mod support {
    pub mod source;
}

use std::path::Path;

use support::source::Source;

/// Each module of the crate and the modules that its code may name, besides itself. Arrows go down only, and not sideways.
const ARROWS: [(&str, &[&str]); 23] = [
    ("compress", &[]),
    ("eris", &[]),
    ("nar", &["compress"]),
    ("store", &["compress"]),
    ("flights", &[]),
    ("http", &[]),
    ("lan", &[]),
    ("lru", &[]),
    ("pace", &[]),
    ("substituter", &["compress", "flights", "http", "lan", "lru", "store"]),
    ("block", &["eris", "http", "lan", "lru", "pace"]),
    ("content", &["block", "compress", "eris", "flights", "nar"]),
    ("download", &["block", "compress", "content", "eris", "nar", "store", "substituter"]),
    ("tree", &["block", "compress", "content", "download", "eris", "nar", "store", "substituter"]),
    ("offline", &["block", "content", "download", "eris", "pace", "store", "tree"]),
    ("metrics", &["block", "content", "tree"]),
    ("fuse", &["content", "metrics", "tree"]),
    ("publish", &["block", "compress", "content", "eris", "http", "nar", "store", "substituter", "tree"]),
    (
        "availability",
        &[
            "block",
            "compress",
            "content",
            "eris",
            "offline",
            "pace",
            "publish",
            "store",
            "substituter",
            "tree",
        ],
    ),
    (
        "serve",
        &[
            "availability",
            "block",
            "compress",
            "content",
            "download",
            "eris",
            "lan",
            "metrics",
            "nar",
            "pace",
            "store",
            "tree",
        ],
    ),
    ("control", &["block", "content", "metrics", "store", "tree"]),
    ("config", &[]),
    (
        "cli",
        &[
            "availability",
            "block",
            "compress",
            "config",
            "content",
            "control",
            "download",
            "eris",
            "fuse",
            "http",
            "lan",
            "metrics",
            "nar",
            "offline",
            "publish",
            "serve",
            "store",
            "substituter",
            "tree",
        ],
    ),
];

/// Names that only some files may have in their code. Tests are exempt.
struct Reserved {
    rule: &'static str,
    names: &'static [&'static str],
    /// Where the names are free.
    allowed: fn(&str) -> bool,
}

const RESERVED: [Reserved; 9] = [
    Reserved {
        rule: "only `cli` prints",
        names: &["println!", "eprintln!", "print!", "eprint!"],
        allowed: |file| in_module(file, "cli") || file == "src/main.rs",
    },
    Reserved {
        rule: "only `config` reads the environment",
        names: &["env::var", "env::var_os", "env::vars", "env::vars_os", "env::home_dir"],
        allowed: |file| in_module(file, "config"),
    },
    Reserved {
        rule: "only `fuse` speaks to the kernel's FUSE",
        names: &["fuser"],
        allowed: |file| in_module(file, "fuse"),
    },
    Reserved {
        rule: "only `fuse/errno.rs` turns an error of the view into an errno",
        names: &[
            "Error::NotDirectory",
            "Error::NotSymlink",
            "Error::Stale",
            "Error::Read",
            "Error::Catalog",
            "Error::Object",
            "Errno::ESTALE",
            "Errno::from_i32",
        ],
        allowed: |file| !in_module(file, "fuse") || file == "src/fuse/errno.rs",
    },
    Reserved {
        rule: "`eris`, `nar`, `store` and `compress` are pure: no runtime, clock, network or file system",
        names: &[
            "tokio",
            "futures",
            "async",
            "await",
            "hyper",
            "reqwest",
            "rusqlite",
            "tracing",
            "Instant",
            "SystemTime",
            "std::net",
            "std::fs",
            "std::thread",
            "std::process",
        ],
        allowed: |file| {
            file == "src/nar/dump.rs"
                || !["eris", "nar", "store", "compress"].iter().any(|module| in_module(file, module))
        },
    },
    Reserved {
        rule: "only `block`, `substituter` and `serve` speak HTTP",
        names: &["hyper", "hyper_util", "http_body_util", "reqwest"],
        allowed: |file| {
            ["block", "http", "serve", "substituter"].iter().any(|module| in_module(file, module))
        },
    },
    Reserved {
        rule: "only `block`, `substituter` and `publish` read databases",
        names: &["rusqlite"],
        allowed: |file| ["block", "publish", "substituter"].iter().any(|module| in_module(file, module)),
    },
    Reserved {
        rule: "a clock that jumps harms nobody: waits and lifetimes go by the monotonic one",
        names: &["SystemTime::now", "UNIX_EPOCH.elapsed"],
        allowed: |file| ["publish", "cli", "config"].iter().any(|module| in_module(file, module)),
    },
    Reserved {
        rule: "what is committed is finished",
        names: &["todo!", "unimplemented!", "dbg!"],
        allowed: |_| false,
    },
];

/// The longest file that one can still hold in one's head.
const MAX_LINES: usize = 600;

fn in_module(file: &str, module: &str) -> bool {
    let rest = file.strip_prefix("src/").and_then(|rest| rest.strip_prefix(module));
    rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// The module of the crate that a file belongs to; none for `lib.rs` and `main.rs`.
fn module_of(file: &str) -> Option<&str> {
    let rest = file.strip_prefix("src/")?;
    let module = rest.split('/').next()?;
    Some(module.strip_suffix(".rs").unwrap_or(module)).filter(|module| !matches!(*module, "lib" | "main"))
}

/// Paths that leave their module for one that it may not name.
fn check_arrows(source: &Source) -> Vec<String> {
    let file = source.file();
    let Some(module) = module_of(file) else { return Vec::new() };
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{file}:1: `{module}` has no place among the layers of tests/layers.rs")];
    };
    let paths = source.crate_paths().into_iter();
    paths
        .filter(|(_, target)| target != module && !allowed.contains(&target.as_str()))
        .map(|(line, target)| {
            format!("{file}:{line}: `{module}` may not use `{target}`: arrows go down only")
        })
        .collect()
}

fn check_reserved(source: &Source, reserved: &Reserved) -> Vec<String> {
    let file = source.file();
    if (reserved.allowed)(file) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for name in reserved.names {
        found.extend(source.lines_with(name).into_iter().map(|line| (line, *name)));
    }
    found.sort_unstable();
    found.into_iter().map(|(line, name)| format!("{file}:{line}: `{name}`: {}", reserved.rule)).collect()
}

/// `eris` does not know where blocks come from.
fn check_schemes(source: &Source) -> Vec<String> {
    let file = source.file();
    if !in_module(file, "eris") {
        return Vec::new();
    }
    let found = source.literals_with("http").into_iter();
    found.map(|line| format!("{file}:{line}: `http`: `eris` never names a carrier")).collect()
}

fn check_length(source: &Source) -> Vec<String> {
    let (file, lines) = (source.file(), source.len());
    if lines <= MAX_LINES {
        return Vec::new();
    }
    vec![format!("{file}:{lines}: the file has more than {MAX_LINES} lines")]
}

fn assert_kept(check: impl Fn(&Source) -> Vec<String>) {
    let sources = Source::read_all(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    let broken: Vec<_> = sources.iter().flat_map(check).collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn arrows_go_down_only() {
    assert_kept(check_arrows);
}

#[test]
fn every_module_of_the_crate_has_its_place_and_no_two_use_each_other() {
    for (position, (module, allowed)) in ARROWS.iter().enumerate() {
        for used in *allowed {
            let below = ARROWS.iter().position(|(name, _)| name == used);
            assert!(below.is_some_and(|below| below < position), "{module} -> {used}");
        }
    }
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")).unwrap();
    let modules = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    for module in modules {
        assert!(ARROWS.iter().any(|(name, _)| *name == module), "src/lib.rs: {module}");
    }
}

#[test]
fn names_are_used_where_they_belong() {
    assert_kept(|source| RESERVED.iter().flat_map(|reserved| check_reserved(source, reserved)).collect());
}

#[test]
fn eris_names_no_carrier() {
    assert_kept(check_schemes);
}

#[test]
fn no_file_is_too_long() {
    assert_kept(check_length);
}

/// What the arrow rule finds in a file of this content.
fn arrows(file: &str, text: &str) -> Vec<String> {
    check_arrows(&Source::new(file, text))
}

#[test]
fn an_arrow_that_goes_up_is_found() {
    for text in [
        "use crate::fuse::Session;",
        "use crate::{eris::Key,\n    fuse};",
        "fn f() { let x = crate::fuse::mount(); }",
        "fn f() { g::<crate :: fuse::A>() }",
        "use super::super::fuse;",
        "use super::{super::fuse, inode};",
        "mod tests { use super::super::super::fuse; }",
    ] {
        let found = arrows("src/tree/inode.rs", text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains("`tree` may not use `fuse`"), "{found:?}");
    }
    assert_eq!(arrows("src/tree/inode.rs", "\n\nuse crate::{\n a,\n fuse::{b, c},\n};").len(), 2);
    let found = arrows("src/tree/inode.rs", "\n\nuse crate::{\n eris,\n fuse,\n};");
    assert_eq!(found, ["src/tree/inode.rs:5: `tree` may not use `fuse`: arrows go down only"]);
}

#[test]
fn everything_at_once_is_not_a_way_around() {
    assert_eq!(arrows("src/block/dir.rs", "use crate::*;").len(), 1);
    assert_eq!(arrows("src/block/dir.rs", "use crate as all;").len(), 1);
    assert_eq!(arrows("src/block.rs", "use super::store;").len(), 1);
    assert_eq!(arrows("src/block/mod.rs", "use super::store;").len(), 1);
    assert_eq!(arrows("src/util/mod.rs", "").len(), 1);
    assert_eq!(arrows("src/config.rs", "use crate::eris;").len(), 1);
}

#[test]
fn sideways_is_not_down() {
    assert_eq!(arrows("src/serve/mod.rs", "use crate::publish::publish;").len(), 1);
    assert_eq!(arrows("src/nar/mod.rs", "use crate::store::NarHash;").len(), 1);
    assert_eq!(arrows("src/serve/mod.rs", "use crate::config::Environment;").len(), 1);
}

#[test]
fn an_arrow_that_goes_down_or_stays_is_not_found() {
    for text in [
        "use crate::{block::{self, fuse}, tree::fuse};",
        "use super::fuse;",
        "mod tests { use super::super::fuse; }",
        "//! See [`crate::fuse`].\n/* crate::fuse /* */ crate::fuse */",
        "const A: &str = \"crate::fuse\"; const B: &str = r#\"crate::fuse\"\"#; const C: [char; 2] = ['\"', '\\''];",
        "macro_rules! m { () => { $crate::tree::x } }",
        "use mycrate::fuse;",
        "fn f<'a>(crate_: &'a str) -> &'a str { crate_ }",
    ] {
        assert_eq!(arrows("src/tree/inode.rs", text), [""; 0], "{text}");
    }
    assert_eq!(arrows("src/lib.rs", "use crate::fuse;"), [""; 0]);
}

/// The rules about names that a file of this content breaks.
fn broken(file: &str, text: &str) -> Vec<&'static str> {
    let source = Source::new(file, text);
    RESERVED.iter().filter(|rule| !check_reserved(&source, rule).is_empty()).map(|rule| rule.rule).collect()
}

#[test]
fn each_name_is_found_where_it_does_not_belong() {
    for reserved in &RESERVED {
        for name in reserved.names {
            let module = if reserved.rule.contains("errno") { "fuse" } else { "store" };
            let text = format!("fn f() {{ {name}; }}");
            let found = broken(&format!("src/{module}/path.rs"), &text);
            assert!(found.contains(&reserved.rule), "{name}: {found:?}");
            let inside = format!("fn f() {{ x{name}y(\"{name}\") }} // {name}");
            assert!(!broken(&format!("src/{module}/path.rs"), &inside).contains(&reserved.rule), "{name}");
        }
    }
}

#[test]
fn each_name_is_allowed_where_it_belongs() {
    assert_eq!(broken("src/cli/ls.rs", "fn f() { println!(\"{}\", 1) }"), [""; 0]);
    assert_eq!(broken("src/config/environment.rs", "fn f() { std::env::var(\"A\") }"), [""; 0]);
    assert_eq!(broken("src/fuse/errno.rs", "use fuser::Errno; fn f() { Errno::EIO }"), [""; 0]);
    assert_eq!(broken("src/nar/dump.rs", "use std::fs;"), [""; 0]);
    assert_eq!(broken("src/block/http.rs", "use reqwest::Client;"), [""; 0]);
    assert_eq!(broken("src/cli/serve.rs", "fn f() { tokio::spawn(g()) }"), [""; 0]);
}

#[test]
fn tests_may_do_what_the_program_may_not() {
    let test = "#[cfg(test)]\nmod tests {\n fn f() { println!(\"}\") }\n}";
    assert_eq!(broken("src/eris/block.rs", test), [""; 0]);
    assert_eq!(broken("src/eris/block.rs", &format!("{test}\nfn g() {{ println!() }}")).len(), 1);
    assert_eq!(broken("src/eris/tests.rs", "fn f() { println!() }"), [""; 0]);
    assert_eq!(check_schemes(&Source::new("src/eris/tests.rs", "const A: &str = \"http://a\";")), [""; 0]);
}

#[test]
fn a_carrier_in_eris_is_found() {
    let found = check_schemes(&Source::new("src/eris/block.rs", "\nconst A: &str = \"http://a\";"));
    assert_eq!(found, ["src/eris/block.rs:2: `http`: `eris` never names a carrier"]);
    assert_eq!(check_schemes(&Source::new("src/block/http.rs", "const A: &str = \"http://a\";")), [""; 0]);
}

#[test]
fn a_file_that_is_too_long_is_found() {
    assert_eq!(check_length(&Source::new("src/a.rs", &"\n".repeat(MAX_LINES))), [""; 0]);
    assert_eq!(check_length(&Source::new("src/a.rs", &"\n".repeat(MAX_LINES + 1))).len(), 1);
}
