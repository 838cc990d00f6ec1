//! `ls`, `cat` and `stat`: a published store without a mount.

use serde_json::Value;

use super::noise::noise;
use super::process::Finished;
use super::scratch::{Published, Scratch, text};
use super::trees::small;

struct Shelf {
    scratch: Scratch,
    published: Published,
}

impl Shelf {
    fn new() -> Self {
        let scratch = Scratch::new();
        small(&scratch.folder("tree"));
        std::fs::write(scratch.at("leaf"), "a file as a store path\n").unwrap();
        let published = scratch.publish(&[&scratch.at("tree"), &scratch.at("leaf")]);
        Shelf { scratch, published }
    }

    #[track_caller]
    fn run(&self, command: &str, more: &[&str]) -> Finished {
        let blocks = self.scratch.blocks();
        let fixed = [command, "--blocks", &blocks, "--catalog", &self.published.catalog];
        self.scratch.run(fixed.iter().chain(more))
    }

    #[track_caller]
    fn json(&self, command: &str, more: &[&str]) -> Vec<Value> {
        let text = self.run(command, &[&["--json"], more].concat()).text();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn store_paths_go_by_name_hash_part_full_path_and_urn() {
    let shelf = Shelf::new();
    let (full, name) = (&shelf.published.paths[0], shelf.published.name());
    let described = &shelf.json("stat", &[name])[0];
    let urn = described["urn"].as_str().unwrap();
    for top in [name, &name[..32], full, urn] {
        let file = format!("{top}/two");
        assert_eq!(shelf.run("cat", &[&file]).bytes(), noise(40_000), "{top}");
        assert_eq!(shelf.run("ls", &[top]).text(), "bin\nlink\none\nthree\ntwo\n", "{top}");
        let stat = &shelf.json("stat", &[&file])[0];
        assert_eq!((&stat["type"], &stat["size"]), (&"regular".into(), &40_000.into()), "{top}");
        assert_eq!(stat["urn"], urn, "{top}");
    }
}

#[test]
fn ls_lists_the_store_paths() {
    let shelf = Shelf::new();
    let mut names: Vec<_> =
        shelf.published.paths.iter().map(|path| path.rsplit('/').next().unwrap()).collect();
    names.sort();
    assert_eq!(shelf.run("ls", &[]).text().lines().collect::<Vec<_>>(), names);
}

#[test]
fn ls_l_shows_what_ls_of_a_mount_would() {
    let shelf = Shelf::new();
    let text = shelf.run("ls", &["-l", shelf.published.name()]).text();
    let columns: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(columns[0], ["dr-xr-xr-x", "2", "0", "bin"]);
    assert_eq!(columns[1], ["lrwxrwxrwx", "1", "6", "link", "->", "bin/sh"]);
    assert_eq!(columns[2], ["-r--r--r--", "1", "10", "one"]);
    let program = shelf.run("ls", &["-l", &format!("{}/bin", shelf.published.name())]).text();
    assert!(program.starts_with("-r-xr-xr-x"), "{program}");
}

#[test]
fn ls_lr_walks_everything() {
    let shelf = Shelf::new();
    let text = shelf.run("ls", &["-lR"]).text();
    let name = shelf.published.name();
    for heading in [".:", &format!("{name}:"), &format!("{name}/bin:")] {
        assert!(text.lines().any(|line| line == heading), "{heading} in {text}");
    }
    assert!(text.lines().any(|line| line.ends_with(" 70000 three")), "{text}");
    let below = shelf.json("ls", &["-R", name]);
    let paths: Vec<_> = below.iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&format!("{name}/bin/sh").as_str()), "{paths:?}");
    assert_eq!(paths.len(), 6);
}

#[test]
fn json_has_the_words_of_a_nar_listing() {
    let shelf = Shelf::new();
    let name = shelf.published.name();
    let lines = shelf.json("ls", &[name]);
    let line = |last: &str| {
        let path = format!("{name}/{last}");
        lines.iter().find(|line| line["path"] == path.as_str()).unwrap()
    };
    assert_eq!(line("bin")["type"], "directory");
    assert_eq!((&line("link")["type"], &line("link")["target"]), (&"symlink".into(), &"bin/sh".into()));
    assert_eq!((&line("one")["size"], &line("one")["executable"]), (&10.into(), &false.into()));

    let stat = &shelf.json("stat", &[&format!("{name}/bin/sh")])[0];
    assert_eq!((&stat["executable"], &stat["links"]), (&true.into(), &1.into()));
    assert_eq!(stat["storepath"], shelf.published.paths[0].as_str());
    assert!(stat["narhash"].as_str().unwrap().starts_with("sha256:"));
}

#[test]
fn a_file_can_be_a_store_path() {
    let shelf = Shelf::new();
    let name = shelf.published.paths[1].rsplit('/').next().unwrap();
    assert_eq!(shelf.run("cat", &[name]).text(), "a file as a store path\n");
    assert_eq!(shelf.run("ls", &[name]).text().trim_end(), name);
    let refusal = shelf.run("cat", &[&format!("{name}/below")]).refusal(1);
    assert!(refusal.contains("not a directory"), "{refusal}");
}

#[test]
fn the_root_of_a_urn_needs_no_catalog() {
    let shelf = Shelf::new();
    let urn = shelf.json("stat", &[shelf.published.name()])[0]["urn"].as_str().unwrap().to_owned();
    let blocks = shelf.scratch.blocks();
    assert_eq!(shelf.scratch.run(["cat", "--blocks", &blocks, &format!("{urn}/one")]).text(), "the first\n");
    let plain = shelf.scratch.run(["put", "--blocks", &blocks, text(&shelf.scratch.at("leaf"))]).text();
    let content = shelf.scratch.run(["cat", "--blocks", &blocks, plain.trim_end()]).text();
    assert_eq!(content, "a file as a store path\n");
}
