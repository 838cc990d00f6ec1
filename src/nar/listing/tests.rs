//! Listings against the trees they are of, against Nix's own `.ls` files, and against hostile ones.

use proptest::prelude::*;

use super::*;
use crate::nar::arbitrary::{Tree, sample, tree};
use crate::nar::{Indexer, ParseError};

fn listing(nar: &[u8]) -> Listing {
    let mut indexer = Indexer::new();
    indexer.feed(0, nar).unwrap();
    indexer.finish().unwrap()
}

fn json(listing: &Listing) -> String {
    let mut json = Vec::new();
    listing.to_json(&mut json).unwrap();
    String::from_utf8(json).unwrap()
}

/// A tree as large as the largest packages: directories of 40 files, and names as long as usual.
fn large(files: usize) -> Listing {
    let mut builder = Builder::new();
    builder.directory(b"").unwrap();
    for directory in 0..files / 40 {
        builder.directory(format!("package-{directory:05}").as_bytes()).unwrap();
        for file in 0..40 {
            let name = format!("module_{file:02}_interface.py");
            builder.file(name.as_bytes(), false, 1000 + file).unwrap();
        }
        builder.end_directory().unwrap();
    }
    builder.end_directory().unwrap();
    builder.finish().unwrap()
}

#[test]
fn the_listing_of_a_nar_is_the_one_that_nix_wrote() {
    for (nar, ls) in [
        ("hello-offline.nar", "hello-offline.ls"),
        ("hello-offline-lib.nar.zst", "hello-offline-lib.ls"),
        ("tree.nar", "tree.ls"),
    ] {
        let nar = sample(nar);
        let listing = listing(&nar);
        assert_eq!(json(&listing).as_bytes(), sample(ls), "{ls}");
        assert_eq!(Listing::from_json(&sample(ls), Some(nar.len() as u64)).unwrap(), listing, "{ls}");
    }
}

#[test]
fn listings_of_nix_come_back_byte_for_byte() {
    for (ls, nar_size) in [("busybox-static.ls", 1_983_888), ("python3.11.ls", 13_549_768)] {
        let listing = Listing::from_json(&sample(ls), Some(nar_size)).unwrap();
        assert_eq!(json(&listing).as_bytes(), sample(ls), "{ls}");
    }
}

proptest! {
    #[test]
    fn every_node_is_found_where_the_tree_has_it(tree in tree(false)) {
        let nar = tree.nar();
        let listing = listing(&nar);
        let nodes = tree.walk();
        prop_assert_eq!(listing.len(), nodes.len());
        prop_assert_eq!(listing.nar_size(), nar.len() as u64);
        for (id, (path, node)) in listing.nodes().zip(&nodes) {
            prop_assert_eq!(&listing.path(id), path);
            prop_assert_eq!(listing.resolve(path), Some(id));
            prop_assert!(id == NodeId::ROOT || listing.children(listing.parent(id)).any(|child| child == id));
            match (listing.kind(id), node) {
                (Kind::File { executable, size, offset }, Tree::File { executable: expected, contents }) => {
                    prop_assert_eq!(executable, *expected);
                    prop_assert_eq!(&nar[offset as usize..][..size as usize], &contents[..]);
                }
                (Kind::Symlink, Tree::Symlink(target)) => prop_assert_eq!(listing.target(id), &target[..]),
                (Kind::Directory, Tree::Directory(entries)) => {
                    let names: Vec<_> = listing.children(id).map(|child| listing.name(child).to_vec()).collect();
                    prop_assert!(names.iter().eq(entries.keys()));
                    let directories = entries.values().filter(|entry| matches!(entry, Tree::Directory(_))).count();
                    prop_assert_eq!(listing.subdirectories(id) as usize, directories);
                    prop_assert_eq!(listing.lookup(id, b"no such name"), None);
                }
                (kind, node) => prop_assert!(false, "{:?} is listed as {:?}", node, kind),
            }
        }
    }

    #[test]
    fn json_comes_back_as_the_same_listing(tree in tree(true)) {
        let listing = listing(&tree.nar());
        let json = json(&listing);
        prop_assert_eq!(Listing::from_json(json.as_bytes(), Some(listing.nar_size())).unwrap(), listing);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok());
    }

    #[test]
    fn a_changed_byte_is_refused_or_makes_another_sound_listing(tree in tree(true), at: prop::sample::Index, byte: u8) {
        let mut json = json(&listing(&tree.nar())).into_bytes();
        let at = at.index(json.len());
        json[at] = byte;
        if let Ok(listing) = Listing::from_json(&json, None) {
            let mut again = Vec::new();
            listing.to_json(&mut again).unwrap();
            prop_assert_eq!(Listing::from_json(&again, Some(listing.nar_size())).unwrap(), listing);
        }
    }
}

#[test]
fn one_hundred_thousand_files_take_less_than_twenty_megabytes() {
    let listing = large(100_000);
    assert_eq!(listing.len(), 102_501);
    assert!(listing.memory() < 72 * listing.len(), "{} bytes an entry", listing.memory() / listing.len());
    let read = Listing::from_json(json(&listing).as_bytes(), None).unwrap();
    assert_eq!(read.memory(), listing.memory());
}

/// The JSON with this root.
fn rooted(root: &str) -> String {
    format!("{{\"root\":{root},\"version\":1}}")
}

#[test]
fn members_may_come_in_any_order_with_any_white_space_and_unknown_ones() {
    let listing = Listing::from_json(
        b" { \"version\" : 1 ,\n\"more\":[{\"a\":[1,-2.5e3,null]},\"]\"], \"root\":{\"type\":\"directory\",\"entries\":
          {\"a\\u00e9\\ud83d\\ude00\\n\":{\"type\":\"symlink\",\"target\":\"\\u002f\\/\",\"mtime\":0},
           \"b\":{\"size\":3,\"type\":\"regular\",\"executable\":false}}}}\t",
        None,
    )
    .unwrap();
    let link = listing.resolve("aé😀\n".as_bytes()).unwrap();
    assert_eq!(listing.target(link), b"//");
    let file = listing.resolve(b"/b/").unwrap();
    assert!(matches!(listing.kind(file), Kind::File { executable: false, size: 3, .. }));
}

#[test]
fn a_root_may_be_a_file() {
    let file = r#"{"executable":true,"narOffset":128,"size":4,"type":"regular"}"#;
    let listing = Listing::from_json(rooted(file).as_bytes(), Some(152)).unwrap();
    assert_eq!(json(&listing), rooted(file));
    assert_eq!(listing.len(), 1);
}

#[test]
fn an_offset_where_the_file_cannot_be_is_refused() {
    let python = String::from_utf8(sample("python3.11.ls")).unwrap();
    for other in ["\"narOffset\":1096,", "\"narOffset\":248,", "\"narOffset\":18446744073709551615,"] {
        let hostile = python.replacen("\"narOffset\":1088,", other, 1);
        let found = Listing::from_json(hostile.as_bytes(), None).unwrap_err();
        assert!(
            matches!(&found, ListingError::Offset { name, offset: 1088, .. } if name == "LICENSE.txt"),
            "{found}"
        );
    }
    let found = Listing::from_json(python.as_bytes(), Some(13_549_760)).unwrap_err();
    assert!(matches!(found, ListingError::Size { expected: 13_549_760, found: 13_549_768 }), "{found}");
}

#[test]
fn trees_that_no_nar_can_hold_are_refused() {
    let file = r#"{"size":0,"type":"regular"}"#;
    let tree = |entries: &str| {
        let root = rooted(&format!(r#"{{"entries":{{{entries}}},"type":"directory"}}"#));
        match Listing::from_json(root.as_bytes(), None) {
            Err(ListingError::Tree(error)) => error,
            other => panic!("{entries}: {other:?}"),
        }
    };
    for name in ["", ".", "..", "a/b", "a\\u0000", &"x".repeat(256)] {
        let error = tree(&format!(r#""{name}":{file}"#));
        assert!(matches!(error, ParseError::BadName { .. }), "{name}: {error}");
    }
    assert!(matches!(tree(&format!(r#""b":{file},"a":{file}"#)), ParseError::Unsorted { .. }));
    assert!(matches!(tree(&format!(r#""a":{file},"a":{file}"#)), ParseError::Duplicate { .. }));
    assert!(matches!(tree(r#""a":{"type":"symlink","target":""}"#), ParseError::BadTarget { .. }));
    let huge = r#"{"size":18446744073709551615,"type":"regular"}"#;
    assert!(matches!(tree(&format!(r#""a":{huge}"#)), ParseError::FileTooLarge { .. }));
    let half = r#"{"size":3000000000000000000,"type":"regular"}"#;
    assert!(matches!(tree(&format!(r#""a":{half},"b":{half}"#)), ParseError::FileTooLarge { .. }));
}

#[test]
fn bombs_of_nesting_are_refused_without_a_stack_to_overflow() {
    let bomb = format!(r#"{{"version":1,"root":{}"#, r#"{"entries":{"a":"#.repeat(1_000_000));
    let found = Listing::from_json(bomb.as_bytes(), None).unwrap_err();
    assert!(matches!(found, ListingError::Tree(ParseError::TooDeep)), "{found}");
    let unknown = format!(r#"{{"x":{}"#, "[".repeat(1_000_000));
    let found = Listing::from_json(unknown.as_bytes(), None).unwrap_err();
    assert!(matches!(found, ListingError::Syntax { .. }), "{found}");
}

#[test]
fn nodes_that_are_none_are_refused() {
    for root in [
        "{}",
        r#"{"type":"directory"}"#,
        r#"{"entries":{}}"#,
        r#"{"type":"regular"}"#,
        r#"{"type":"symlink"}"#,
        r#"{"type":"regular","size":1,"target":"x"}"#,
        r#"{"type":"regular","size":1,"entries":{}}"#,
        r#"{"type":"symlink","size":1,"target":"x"}"#,
        r#"{"type":"directory","size":1,"entries":{}}"#,
        r#"{"type":"regular","size":1,"size":1}"#,
        r#"{"type":"directory","entries":{},"entries":{}}"#,
    ] {
        let found = Listing::from_json(rooted(root).as_bytes(), None);
        assert!(matches!(found, Err(ListingError::Node { .. } | ListingError::Tree(_))), "{root}: {found:?}");
    }
}

#[test]
fn broken_json_is_refused() {
    let sound = r#"{"root":{"size":1,"type":"regular"},"version":1}"#;
    assert!(Listing::from_json(sound.as_bytes(), None).is_ok());
    for length in 0..sound.len() {
        assert!(Listing::from_json(&sound.as_bytes()[..length], None).is_err(), "cut at {length}");
    }
    for (from, to) in [
        ("\"size\":1", "\"size\":01"),
        ("\"size\":1", "\"size\":-1"),
        ("\"size\":1", "\"size\":1.0"),
        ("\"size\":1", "\"size\":1e3"),
        ("\"size\":1", "\"size\":18446744073709551616"),
        ("\"size\":1", "\"size\":\"1\""),
        ("\"size\":1", "\"size\":1,"),
        ("\"size\":1", ",\"size\":1"),
        ("\"size\":1", "\"size\":1,\"executable\":1"),
        ("regular", "fifo"),
        ("regular", "re\ngular"),
        ("regular", "\\ud800"),
        ("regular", "\\x"),
        ("regular\"}", "regular\"}}"),
        ("\"version\":1}", "\"version\":1}x"),
        ("\"version\":1}", "\"version\":1,}"),
    ] {
        let broken = sound.replacen(from, to, 1);
        let found = Listing::from_json(broken.as_bytes(), None);
        assert!(matches!(found, Err(ListingError::Syntax { .. })), "{broken}: {found:?}");
    }
    assert!(matches!(
        Listing::from_json(b"{\"\xff\":1}", None),
        Err(ListingError::Syntax { position: 2, .. })
    ));
    let version = sound.replace("\"version\":1", "\"version\":2");
    assert!(matches!(Listing::from_json(version.as_bytes(), None), Err(ListingError::Version { found: 2 })));
}

#[test]
fn names_that_are_not_utf8_cannot_be_json() {
    let mut builder = Builder::new();
    builder.directory(b"").unwrap();
    builder.file(b"caf\xe9", false, 1).unwrap();
    builder.end_directory().unwrap();
    let error = builder.finish().unwrap().to_json(std::io::sink()).unwrap_err();
    assert!(matches!(&error, ListingError::NotUtf8 { path } if path == "caf\u{fffd}"), "{error}");
}
