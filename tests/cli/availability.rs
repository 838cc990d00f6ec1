//! Copies to other stores, what is lost and where, and a server that keeps what it is asked to keep.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::noise::noise;
use super::scratch::{Published, Scratch, text};
use super::trees;

const TOKEN: &str = "0123456789abcdef";

/// Two trees, published with narinfos and archives.
struct Kept {
    scratch: Scratch,
    published: Published,
}

impl Kept {
    fn new() -> Self {
        let scratch = Scratch::new();
        trees::small(&scratch.folder("tree"));
        fs::write(scratch.folder("other").join("file"), noise(500_000)).unwrap();
        let blocks = scratch.blocks();
        let narinfo = scratch.at("mirror");
        let arguments = ["publish", "--blocks", &blocks, "--narinfo", text(&narinfo), "--nars"];
        let trees = [scratch.at("tree"), scratch.at("other")];
        let printed = scratch.run(arguments.into_iter().chain(trees.iter().map(|tree| text(tree)))).text();
        let mut paths: Vec<String> = printed.lines().map(str::to_owned).collect();
        let catalog = paths.pop().unwrap();
        paths.sort_by_key(|path| path.ends_with("-tree"));
        Kept { scratch, published: Published { paths, catalog } }
    }

    /// What `audit --json` says, and its exit status.
    fn audit(&self, more: &[&str]) -> (Value, Option<i32>) {
        let fixed = ["audit", "--json", "--catalog", &self.published.catalog];
        let finished = self.scratch.run(fixed.iter().chain(more));
        (serde_json::from_slice(&finished.stdout).expect("JSON"), finished.code)
    }

    fn files(&self, store: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.scratch.at(store)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false => files.push(entry.path()),
                }
            }
        }
        files.sort();
        files
    }
}

fn lose(file: &Path) -> String {
    fs::remove_file(file).unwrap();
    file.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_catalog_with_all_that_it_lists_is_copied_and_can_be_mounted_from_the_copy() {
    let kept = Kept::new();
    let (from, copy) = (kept.scratch.blocks(), format!("dir:{}", kept.scratch.at("copy").display()));
    let other = format!("sqlite:{}", kept.scratch.at("copy.sqlite").display());
    let catalog = &kept.published.catalog;
    let seed = ["seed", "--from", &from, "--to", &copy, "--to", &other, "--catalog", catalog];
    let first = kept.scratch.run(seed);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    assert_eq!(kept.files("copy").len(), kept.files("blocks").len());
    // What was lost of the copy is copied again, and nothing else.
    lose(&kept.files("copy")[3]);
    let again = kept.scratch.run(seed);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("copy: 1 blocks put"), "{}", again.stderr);
    assert!(again.stderr.contains("copy.sqlite: 0 blocks put"), "{}", again.stderr);

    fs::remove_dir_all(kept.scratch.at("blocks")).unwrap();
    for store in [copy, other] {
        let looked = kept.scratch.run(["ls", "--blocks", &store, "--catalog", catalog]).text();
        assert_eq!(looked.lines().count(), 2, "{looked}");
        let path = format!("{}/file", kept.published.name());
        let read = kept.scratch.run(["cat", "--blocks", &store, "--catalog", catalog, &path]);
        assert_eq!(read.stdout, fs::read(kept.scratch.at("other/file")).unwrap());
    }
}

#[test]
fn an_audit_says_what_each_store_lacks_and_fails_when_something_is_nowhere() {
    let kept = Kept::new();
    let (one, other) = (kept.scratch.blocks(), format!("dir:{}", kept.scratch.at("copy").display()));
    let catalog = &kept.published.catalog;
    assert_eq!(
        kept.scratch.run(["seed", "--from", &one, "--to", &other, "--catalog", catalog]).code,
        Some(0)
    );
    // One of a store path: without the catalog nobody knows what there is.
    let listing = format!("dir:{}", kept.scratch.at("listing").display());
    assert_eq!(kept.scratch.run(["seed", "--from", &one, "--to", &listing, catalog]).code, Some(0));
    let of_catalog: Vec<_> =
        kept.files("listing").iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    let mut files = kept.files("copy");
    files.retain(|file| !of_catalog.iter().any(|name| file.ends_with(name)));
    let lost = lose(&files[0]);
    let both = ["--blocks", &one, "--blocks", &other];
    let (told, code) = kept.audit(&both);
    assert_eq!((told["available"].as_bool(), code), (Some(true), Some(0)), "{told}");
    let lacking: Vec<&Value> =
        told["contents"].as_array().unwrap().iter().map(|content| &content["stores"][1]["blocks"]).collect();
    assert!(lacking.iter().any(|blocks| blocks.as_array().unwrap().contains(&Value::from(lost.as_str()))));

    lose(kept.files("blocks").iter().find(|file| file.ends_with(&lost)).unwrap());
    let (told, code) = kept.audit(&both);
    assert_eq!((told["available"].as_bool(), code), (Some(false), Some(1)), "{told}");
    let finished = kept.scratch.run(["audit", "--list", "--catalog", catalog].iter().chain(&both));
    let lines = String::from_utf8(finished.stdout).unwrap();
    assert!(
        lines.contains("lost       ") && lines.contains(&format!("lacks      {lost} {other}")),
        "{lines}"
    );
    assert!(finished.stderr.contains("1 of 3 contents are not available"), "{}", finished.stderr);
}

#[test]
fn a_store_that_is_not_there_says_nothing_of_what_it_lacks() {
    let kept = Kept::new();
    let (here, catalog) = (kept.scratch.blocks(), kept.published.catalog.as_str());
    for absent in ["dir:absent", "bundle:absent.eris", "sqlite:absent.sqlite", "gdbm:absent.gdbm"] {
        let stores = ["--blocks", &here, "--blocks", absent];
        let told = kept.scratch.run(["audit", "--catalog", catalog].iter().chain(&stores));
        let lines = String::from_utf8_lossy(&told.stdout);
        assert_eq!(told.code, Some(0), "{lines}{}", told.stderr);
        assert!(lines.contains(&format!("{absent} did not say")) && !lines.contains("lacks"), "{lines}");
    }
}

#[test]
fn names_of_all_kinds_are_taken_and_others_refused() {
    let kept = Kept::new();
    let (from, copy) = (kept.scratch.blocks(), format!("dir:{}", kept.scratch.at("copy").display()));
    let (catalog, path) = (kept.published.catalog.as_str(), kept.published.paths[0].as_str());
    let seed =
        |more: &[&str]| kept.scratch.run(["seed", "--from", &from, "--to", &copy].iter().chain(more)).code;
    assert_eq!(seed(&[catalog]), Some(0));
    let of_catalog = kept.files("copy").len();
    assert_eq!(seed(&["--catalog", catalog, "--closure", path]), Some(0));
    assert!(of_catalog < kept.files("copy").len() && kept.files("copy").len() < kept.files("blocks").len());
    assert_eq!(seed(&["--catalog", catalog, "0123456789abcdfghijklmnpqrsvwxyz"]), Some(1));
    for wrong in [&[][..], &["urn:eris:A"], &[path], &["--catalog", catalog, "hello"]] {
        assert!([Some(1), Some(2)].contains(&seed(wrong)), "{wrong:?}");
    }
    assert_eq!(seed(&[]), Some(2));
}

/// Status and body of a POST.
fn post(url: &str, token: &str, path: &str) -> (u16, Value) {
    let address = url.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// A server that keeps in `copy` what it is asked to keep.
struct Server {
    url: String,
    _running: super::process::Running,
}

impl Server {
    fn start(kept: &Kept, more: &[&str]) -> Self {
        let copy = format!("dir:{}", kept.scratch.at("copy").display());
        let cache = format!("file:{}", kept.scratch.at("mirror").display());
        let blocks = kept.scratch.blocks();
        let arguments = ["serve", "--listen", "127.0.0.1:0", "--blocks", &blocks, "--substituter", &cache];
        let mut command =
            kept.scratch.erisfs(arguments.iter().chain(&["--seed-to", &copy, "--insecure"]).chain(more));
        let mut running = super::process::Running::start(command.env("ERISFS_TOKEN", TOKEN));
        let url = running.line("listening on ").split_once("listening on ").unwrap().1.to_owned();
        Server { url, _running: running }
    }

    /// The final answer.
    fn ask(&self, hash_part: &str, token: &str) -> (u16, Value) {
        let begun = Instant::now();
        loop {
            match post(&self.url, token, &format!("/erisfs/seed/{hash_part}")) {
                (202, told) => {
                    assert_eq!(told["state"], "under-way");
                    assert!(begun.elapsed() < Duration::from_secs(120));
                    std::thread::sleep(Duration::from_millis(200));
                }
                answer => return answer,
            }
        }
    }
}

#[test]
fn a_server_keeps_what_it_is_asked_to_keep_also_where_blocks_are_lost() {
    let kept = Kept::new();
    let copy = format!("dir:{}", kept.scratch.at("copy").display());
    let server = Server::start(&kept, &[]);
    let hash_part = &kept.published.name()[..32];
    assert_eq!(server.ask(hash_part, "another-token-of-16").0, 401);
    assert_eq!(server.ask("0123456789abcdfghijklmnpqrsvwxyz", TOKEN).0, 404);
    assert_eq!(server.ask("hello", TOKEN).0, 400);

    // All but a few of its blocks are gone, also the root.
    let files = kept.files("blocks");
    files.iter().skip(2).for_each(|file| drop(lose(file)));
    let (status, told) = server.ask(hash_part, TOKEN);
    assert_eq!(
        (status, &told["state"], &told["anew"]),
        (200, &Value::from("complete"), &Value::from(true)),
        "{told}"
    );
    let narinfo = fs::read_to_string(kept.scratch.at("mirror").join(format!("{hash_part}.narinfo"))).unwrap();
    let urn = narinfo.lines().find_map(|line| line.strip_prefix("ERIS: ")).unwrap();
    let audited = kept.scratch.run(["audit", "--blocks", &copy, urn]);
    assert_eq!(audited.code, Some(0), "{}", audited.stderr);

    // Neither all of its blocks nor its archive are left: nothing is put but what is left of them.
    let other = kept.published.paths[1].rsplit('/').next().unwrap()[..32].to_owned();
    let nars = [kept.scratch.at("mirror/nar"), kept.scratch.at("elsewhere")];
    fs::rename(&nars[0], &nars[1]).unwrap();
    let before = kept.files("copy");
    let (status, told) = server.ask(&other, TOKEN);
    assert_eq!((status, &told["state"]), (409, &Value::from("lost")), "{told}");
    let left: Vec<_> = kept.files("blocks").iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    let is_left = |file: &PathBuf| left.iter().any(|name| name == file.file_name().unwrap());
    assert!(kept.files("copy").iter().all(|file| before.contains(file) || is_left(file)));
    let before = kept.files("copy");

    // Its archive is that of another: what is made of it is thrown away.
    fs::rename(&nars[1], &nars[0]).unwrap();
    let archive = |hash_part: &str| {
        let narinfo = kept.scratch.at("mirror").join(format!("{hash_part}.narinfo"));
        let text = fs::read_to_string(narinfo).unwrap();
        let url = text.lines().find_map(|line| line.strip_prefix("URL: ")).unwrap();
        kept.scratch.at("mirror").join(url)
    };
    fs::copy(archive(hash_part), archive(&other)).unwrap();
    let server = Server::start(&kept, &[]);
    let (status, told) = server.ask(&other, TOKEN);
    assert_eq!((status, &told["state"]), (409, &Value::from("lost")), "{told}");
    assert_eq!(kept.files("copy"), before);
}

#[test]
fn a_content_is_made_again_from_a_nar_that_is_packed_otherwise() {
    let kept = Kept::new();
    let hash_part = &kept.published.name()[..32];
    // Another server has the same NAR, as it is.
    let (mirror, plain) = (kept.scratch.at("mirror"), kept.scratch.folder("plain"));
    fs::create_dir(plain.join("nar")).unwrap();
    fs::copy(mirror.join("nix-cache-info"), plain.join("nix-cache-info")).unwrap();
    let nar = fs::File::create(plain.join("nar/it.nar")).unwrap();
    erisfs::nar::dump(&kept.scratch.at("other"), nar).unwrap();
    let narinfo = fs::read_to_string(mirror.join(format!("{hash_part}.narinfo"))).unwrap();
    let is_kept = |line: &&str| {
        ["StorePath:", "NarHash:", "NarSize:", "References:"].iter().any(|field| line.starts_with(field))
    };
    let lines: Vec<&str> =
        narinfo.lines().filter(is_kept).chain(["URL: nar/it.nar", "Compression: none", ""]).collect();
    fs::write(plain.join(format!("{hash_part}.narinfo")), lines.join("\n")).unwrap();

    kept.files("blocks").iter().for_each(|file| drop(lose(file)));
    fs::remove_dir_all(mirror.join("nar")).unwrap();
    let plain = format!("file:{}", plain.display());
    let (status, told) = Server::start(&kept, &["--substituter", &plain]).ask(hash_part, TOKEN);
    assert_eq!((status, &told["anew"]), (200, &Value::from(true)), "{told}");
    let urn = narinfo.lines().find_map(|line| line.strip_prefix("ERIS: ")).unwrap();
    let copy = format!("dir:{}", kept.scratch.at("copy").display());
    let audited = kept.scratch.run(["audit", "--blocks", &copy, urn]);
    assert_eq!(audited.code, Some(0), "{}", audited.stderr);
}

#[test]
fn a_server_without_a_place_to_keep_blocks_refuses() {
    let kept = Kept::new();
    let (_server, url) = kept.scratch.serve(&["--catalog", &kept.published.catalog]);
    let path = format!("/erisfs/seed/{}", &kept.published.name()[..32]);
    assert_eq!(post(&url, TOKEN, &path).0, 403);
}
