//! Trees for property tests, and their NARs as another implementation writes them.

use std::collections::BTreeMap;

use nix_archive::nar::Encoder;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// A tree with its contents.
#[derive(Debug, Clone)]
pub enum Tree {
    File { executable: bool, contents: Vec<u8> },
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Tree>),
}

/// Any tree of some dozen nodes; names are UTF-8 only if `utf8`.
pub fn tree(utf8: bool) -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        (any::<bool>(), vec(any::<u8>(), 0..200))
            .prop_map(|(executable, contents)| Tree::File { executable, contents }),
        string(utf8, 1..40).prop_map(Tree::Symlink),
    ];
    leaf.prop_recursive(6, 60, 8, move |inner| {
        let name = string(utf8, 1..20).prop_map(|mut name| {
            name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
            if name == b"." || name == b".." { b"...".to_vec() } else { name }
        });
        btree_map(name, inner, 0..8).prop_map(Tree::Directory)
    })
}

fn string(utf8: bool, length: std::ops::Range<usize>) -> BoxedStrategy<Vec<u8>> {
    if utf8 {
        vec(prop_oneof![4 => "[a-z.\"\\\\/-]", 1 => "[^\0]"], length)
            .prop_map(|parts| parts.concat().into_bytes())
            .boxed()
    } else {
        vec(1u8.., length).boxed()
    }
}

impl Tree {
    /// Its NAR, as the crate nix-archive writes it.
    pub fn nar(&self) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new()).expect("a Vec takes everything");
        self.encode(None, &mut encoder);
        encoder.finish().expect("the tree is complete")
    }

    fn encode(&self, name: Option<&[u8]>, encoder: &mut Encoder<Vec<u8>>) {
        match self {
            Self::File { executable, contents } => encoder.regular(name, *executable, contents),
            Self::Symlink(target) => encoder.symlink(name, target),
            Self::Directory(entries) => {
                encoder.start_directory(name).expect("names are in order");
                entries.iter().for_each(|(name, tree)| tree.encode(Some(name), encoder));
                encoder.end_directory()
            }
        }
        .expect("names are in order");
    }

    /// Its nodes in NAR order, each with its path.
    pub fn walk(&self) -> Vec<(Vec<u8>, &Tree)> {
        let mut nodes = vec![(Vec::new(), self)];
        if let Self::Directory(entries) = self {
            for (name, tree) in entries {
                nodes.extend(tree.walk().into_iter().map(|(path, tree)| {
                    let path = if path.is_empty() { name.clone() } else { [name, &path[..]].join(&b'/') };
                    (path, tree)
                }));
            }
        }
        nodes
    }
}

/// A sample of tests/samples/nar.
pub fn sample(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/samples/nar/{name}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    if name.ends_with(".zst") { zstd::decode_all(&bytes[..]).expect("the sample is zstd") } else { bytes }
}

/// The NARs of tests/samples/nar.
pub const NARS: [&str; 8] = [
    "hello-offline.nar",
    "hello-offline-lib.nar.zst",
    "tree.nar",
    "guix-exe-file.nar",
    "guix-flat-file.txt.nar",
    "guix-hello-offline-1.0.drv.nar",
    "guix-hello-offline-1.0.nar",
    "guix-manifest-with-refs.nar",
];
