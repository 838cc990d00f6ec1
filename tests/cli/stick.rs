//! Nothing but a bundle on a stick, and no network at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{Finished, Running, run};
use super::scratch::{Published, Scratch, text};
use super::trees;

/// Two trees in a catalog, of which the second refers to nothing; and the file that is carried.
struct Stick {
    scratch: Scratch,
    published: Published,
    file: PathBuf,
}

impl Stick {
    fn new() -> Self {
        let scratch = Scratch::new();
        trees::small(&scratch.folder("tree"));
        fs::write(scratch.folder("other").join("file"), "of the other tree\n").unwrap();
        let mut published = scratch.publish(&[&scratch.at("tree"), &scratch.at("other")]);
        published.paths.sort_by_key(|path| path.ends_with("-other"));
        let file = scratch.folder("stick").join("trees.eris");
        Stick { scratch, published, file }
    }

    #[track_caller]
    fn export(&self, more: &[&str]) -> Finished {
        let blocks = self.scratch.blocks();
        let fixed = ["export", "--blocks", &blocks, "-o", text(&self.file)];
        self.scratch.run(fixed.iter().chain(more))
    }

    fn url(&self) -> String {
        format!("bundle:{}", self.file.display())
    }

    /// A mount of the stick alone, in a network namespace where not even loopback is up.
    #[track_caller]
    fn mount(&self, name: &str) -> Running {
        let at = self.scratch.folder(name);
        let arguments =
            ["mount", "--foreground", "--blocks", &self.url(), "--catalog", &self.published.catalog];
        let mut mount =
            Running::start(&mut without_network(&self.scratch.erisfs(arguments.iter().chain(&[text(&at)]))));
        mount.line("mounted at ");
        mount
    }

    #[track_caller]
    fn is_shown(&self, at: &Path) {
        for (tree, path) in ["tree", "other"].iter().zip(&self.published.paths) {
            let mounted = at.join(path.rsplit('/').next().unwrap());
            let compared = run(Command::new("diff")
                .args(["-r", "--no-dereference"])
                .args([&self.scratch.at(tree), &mounted]));
            assert_eq!(compared.code, Some(0), "{}", String::from_utf8_lossy(&compared.stdout));
        }
    }
}

/// The same call without any network. Only root may have it so and mount as before; others keep theirs, which is asked for nothing.
fn without_network(command: &Command) -> Command {
    let mut alone = match rustix::process::geteuid().is_root() {
        true => {
            let mut alone = Command::new("unshare");
            alone.args(["--net", "--"]).arg(command.get_program());
            alone
        }
        false => Command::new(command.get_program()),
    };
    alone.args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => alone.env(name, value),
            None => alone.env_remove(name),
        };
    }
    alone
}

#[test]
fn a_stick_alone_is_mounted_without_any_network() {
    let stick = Stick::new();
    stick.export(&["--catalog", &stick.published.catalog]).text();
    // What it was made from is gone.
    fs::remove_dir_all(stick.scratch.at("blocks")).unwrap();
    let _mount = stick.mount("mnt");
    stick.is_shown(&stick.scratch.at("mnt"));
}

#[test]
fn what_is_imported_is_all_and_the_urns_are_printed() {
    let stick = Stick::new();
    stick.export(&["--catalog", &stick.published.catalog]).text();
    let imported = stick.scratch.run(["import", text(&stick.file), "--blocks", "dir:here"]);
    assert_eq!(imported.text().trim_end(), stick.published.catalog);
    let names = |folder: &str| {
        let entries = fs::read_dir(stick.scratch.at(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("here"), names("blocks"));
    // Once more, and nothing is written; without the URNs, nobody is told what it is.
    let length = fs::metadata(&stick.file).unwrap().len();
    let again = stick.export(&["--catalog", &stick.published.catalog]);
    assert!(again.stderr.contains(": 0 blocks"), "{}", again.stderr);
    assert_eq!(fs::metadata(&stick.file).unwrap().len(), length);
    fs::remove_file(&stick.file).unwrap();
    stick.export(&["--no-capabilities", "--catalog", &stick.published.catalog]).text();
    let silent = stick.scratch.run(["import", text(&stick.file), "--blocks", "dir:there"]);
    assert_eq!(silent.text(), "");
}

#[test]
fn a_store_path_of_a_catalog_comes_with_the_catalog_and_without_the_others() {
    let stick = Stick::new();
    let name = stick.published.name();
    stick.export(&["--catalog", &stick.published.catalog, "--closure", name]).text();
    fs::remove_dir_all(stick.scratch.at("blocks")).unwrap();
    let looked = |path: &str| {
        let (url, catalog) = (stick.url(), &stick.published.catalog);
        stick.scratch.run(["cat", "--timeout", "5", "--blocks", &url, "--catalog", catalog, path])
    };
    assert_eq!(looked(&format!("{name}/one")).text(), "the first\n");
    let other = stick.published.paths[1].rsplit('/').next().unwrap();
    assert_eq!(looked(&format!("{other}/file")).code, Some(1));
}

#[test]
fn a_damaged_file_says_where_and_gives_the_rest() {
    let stick = Stick::new();
    stick.export(&["--catalog", &stick.published.catalog]).text();
    let mut bytes = fs::read(&stick.file).unwrap();
    let whole = stick.scratch.run(["import", text(&stick.file), "--blocks", "dir:whole"]);
    assert_eq!(whole.code, Some(0));
    // In the middle of the first block, which begins at byte 10: behind its two heads and its reference.
    bytes[10 + 37 + 100] ^= 1;
    fs::write(&stick.file, &bytes).unwrap();
    let spoiled = stick.scratch.run(["import", text(&stick.file), "--blocks", "dir:spoiled"]);
    assert_eq!(spoiled.code, Some(1));
    assert!(spoiled.stderr.contains("at byte 10 is not the block "), "{}", spoiled.stderr);
    let count = |folder: &str| fs::read_dir(stick.scratch.at(folder)).unwrap().count();
    assert_eq!(count("spoiled"), count("whole") - 1);
    // Another export repairs it.
    let repaired = stick.export(&["--catalog", &stick.published.catalog]);
    assert!(repaired.stderr.contains(": 1 blocks written"), "{}", repaired.stderr);
    let again = stick.scratch.run(["import", text(&stick.file), "--blocks", "dir:repaired"]);
    assert_eq!((again.code, count("repaired")), (Some(0), count("whole")), "{}", again.stderr);
    fs::write(&stick.file, &bytes[..bytes.len() - 1]).unwrap();
    let cut = stick.scratch.run(["import", text(&stick.file), "--blocks", "dir:cut"]);
    let place = format!("the file ends at byte {}, before the bundle does", bytes.len() - 1);
    assert!(cut.stderr.contains(&place), "{}", cut.stderr);
    let none = stick.scratch.run(["import", "/etc/hostname", "--blocks", "dir:cut"]).refusal(1);
    assert!(none.contains("at byte "), "{none}");
}

#[test]
fn one_store_that_is_down_keeps_no_other_from_what_is_imported() {
    let stick = Stick::new();
    stick.export(&["--catalog", &stick.published.catalog]).text();
    fs::write(stick.scratch.at("occupied"), "").unwrap();
    let both = ["import", text(&stick.file), "--blocks", "dir:occupied", "--blocks", "dir:here"];
    let imported = stick.scratch.run(both);
    assert_eq!(imported.code, Some(1));
    for words in ["occupied", "1 of 2 block stores"] {
        assert!(imported.stderr.contains(words), "{}", imported.stderr);
    }
    let count = |folder: &str| fs::read_dir(stick.scratch.at(folder)).unwrap().count();
    assert_eq!(count("here"), count("blocks"));
}

#[test]
fn a_file_that_cannot_be_written_is_an_error_at_once() {
    let stick = Stick::new();
    for (output, words) in
        [("stick", "no regular file"), ("nowhere/t.eris", "No such file"), ("/proc/t.eris", "/proc")]
    {
        let call = ["export", "--blocks", &stick.scratch.blocks(), "-o", output, &stick.published.catalog];
        let refusal = stick.scratch.run(call).refusal(1);
        assert!(refusal.contains(words), "{refusal}");
    }
    assert!(!stick.scratch.at("nowhere").exists());
}
