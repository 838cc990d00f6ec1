//! The store path that contents get: what `nix-store --add` and Guix's `add-to-store` compute.
//!
//! A store path's hash part is a SHA-256, folded to 20 bytes, over a text that names the kind, the
//! contents' hash, the store directory and the name, so the same contents have other paths under
//! another store directory. (Nix manual, "Complete Store Path Calculation".)

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::hash::{HashError, NarHash};
use super::path::{HashPart, PathError, StoreDir, StorePath, check_name};

/// How a store path follows from its contents: the `CA` field of a narinfo, SHA-256 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentAddress {
    /// `fixed:r:`: the hash of the NAR. What adding a directory or a file gives.
    Nar(NarHash),
    /// `fixed:`: the hash of a file's bytes. What `nix-store --add-fixed sha256` gives.
    Flat(NarHash),
    /// `text:`: the hash of a text's bytes: derivations, `builtins.toFile`.
    Text(NarHash),
}

/// Why a text is not a [`ContentAddress`], or why it cannot give the path asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentAddressError {
    /// Neither `fixed:r:`, `fixed:` nor `text:`.
    #[error("content address {text:?} starts with none of `fixed:r:`, `fixed:`, `text:`")]
    Method {
        /// The text.
        text: String,
    },
    /// The hash after the method is not a SHA-256.
    #[error("content address: {source}")]
    Hash {
        /// What is wrong with it.
        source: HashError,
    },
    /// The name is not one for a store path.
    #[error(transparent)]
    Name(#[from] PathError),
    /// The method has no way to write references (or one to itself) down.
    #[error("a content address {address} cannot have such references")]
    References {
        /// The content address.
        address: ContentAddress,
    },
}

impl ContentAddress {
    /// The store path that these contents have in `store_dir` under `name`.
    ///
    /// `references` are other paths in `store_dir`; a reference of the path to itself is said by
    /// `refers_to_itself` and, as Nix has it, only NARs can have one (the NAR is then hashed with
    /// the path's own hash part zeroed).
    pub fn store_path(
        &self,
        store_dir: &StoreDir,
        name: &str,
        references: &[StorePath],
        refers_to_itself: bool,
    ) -> Result<StorePath, ContentAddressError> {
        check_name(name)?;
        let unfit = match self {
            Self::Nar(_) => false,
            Self::Flat(_) => refers_to_itself || !references.is_empty(),
            Self::Text(_) => refers_to_itself,
        };
        if unfit {
            return Err(ContentAddressError::References { address: *self });
        }
        let mut sorted: Vec<_> = references.iter().collect();
        sorted.sort();
        sorted.dedup();
        let with_references = |kind: &str| {
            let mut kind = kind.to_owned();
            for reference in sorted {
                kind += ":";
                kind += &store_dir.join(reference);
            }
            if refers_to_itself {
                kind += ":self";
            }
            kind
        };
        let hash_part = match self {
            Self::Nar(hash) => fold(store_dir, name, &with_references("source"), hash),
            Self::Text(hash) => fold(store_dir, name, &with_references("text"), hash),
            Self::Flat(hash) => {
                let inner = NarHash::of(format!("fixed:out:sha256:{}:", hash.to_hex()).as_bytes());
                fold(store_dir, name, "output:out", &inner)
            }
        };
        Ok(StorePath::new(hash_part, name)?)
    }
}

/// Nix's `makeStorePath`: SHA-256 of the description, its 32 bytes folded into 20.
fn fold(store_dir: &StoreDir, name: &str, kind: &str, hash: &NarHash) -> HashPart {
    let description = format!("{kind}:sha256:{}:{store_dir}:{name}", hash.to_hex());
    let mut folded = [0; 20];
    for (index, byte) in Sha256::digest(description.as_bytes()).iter().enumerate() {
        folded[index % 20] ^= byte;
    }
    HashPart::from_digest(folded)
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nar(hash) => write!(f, "fixed:r:{hash}"),
            Self::Flat(hash) => write!(f, "fixed:{hash}"),
            Self::Text(hash) => write!(f, "text:{hash}"),
        }
    }
}

impl FromStr for ContentAddress {
    type Err = ContentAddressError;

    fn from_str(text: &str) -> Result<Self, ContentAddressError> {
        let (method, digits): (fn(NarHash) -> Self, _) = if let Some(digits) = text.strip_prefix("fixed:r:") {
            (Self::Nar, digits)
        } else if let Some(digits) = text.strip_prefix("fixed:") {
            (Self::Flat, digits)
        } else if let Some(digits) = text.strip_prefix("text:") {
            (Self::Text, digits)
        } else {
            let text = super::path::quoted(text);
            return Err(ContentAddressError::Method { text });
        };
        digits.parse().map(method).map_err(|source| ContentAddressError::Hash { source })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::store::narinfo::Narinfo;

    fn narinfos(folder: &str) -> Vec<Narinfo> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(folder);
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        files.map(|file| Narinfo::parse(&fs::read(file).unwrap()).unwrap()).collect()
    }

    fn added(narinfo: &Narinfo, store_dir: &StoreDir) -> StorePath {
        let name = narinfo.store_path().name();
        ContentAddress::Nar(narinfo.nar_hash()).store_path(store_dir, name, &[], false).unwrap()
    }

    #[test]
    fn what_guix_interned_has_the_path_that_is_computed() {
        let same = |narinfo: &&Narinfo| added(narinfo, narinfo.store_dir()) == *narinfo.store_path();
        let narinfos = narinfos("guix/cached");
        let mut found: Vec<_> = narinfos.iter().filter(same).map(|n| n.store_path().name()).collect();
        found.sort_unstable();
        // The others are flat, texts, or built.
        let interned =
            ["busybox-static", "exe-file", "guix-modules", "python3-lib", "share-doc", "tiny-tree"];
        assert_eq!(found, interned);
    }

    #[test]
    fn what_nix_added_has_the_path_that_is_computed() {
        let mut checked = 0;
        for narinfo in narinfos("nix/none") {
            let Some(ca) = narinfo.ca() else { continue };
            let ca: ContentAddress = ca.parse().unwrap();
            assert_eq!(ca, ContentAddress::Nar(narinfo.nar_hash()));
            assert_eq!(Some(ca.to_string().as_str()), narinfo.ca());
            assert_eq!(added(&narinfo, &StoreDir::nix()), *narinfo.store_path());
            assert_ne!(added(&narinfo, &StoreDir::guix()), *narinfo.store_path());
            checked += 1;
        }
        assert_eq!(checked, 3);
    }

    #[test]
    fn a_flat_file_and_a_text_with_references_as_guix_interned_them() {
        let flat = ContentAddress::Flat(NarHash::of(b"hello\n"));
        let path = flat.store_path(&StoreDir::guix(), "flat-file.txt", &[], false).unwrap();
        assert_eq!(path.to_string(), "zgmidwbnr63g56vaz0qrl65xy25lk7y6-flat-file.txt");

        let tree = "xd1rjhrh2iwavikvfqz94i51ni40y17j-tiny-tree";
        let python = "jhb1m2b5mg9x842d5v4r17xk7l47jah0-python3-lib";
        let text = format!("tree=/gnu/store/{tree}\npython=/gnu/store/{python}\n");
        let text = ContentAddress::Text(NarHash::of(text.as_bytes()));
        let references = [tree, python, tree].map(|path| path.parse().unwrap());
        let name = "manifest-with-refs";
        let path = text.store_path(&StoreDir::guix(), name, &references, false).unwrap();
        assert_eq!(path.to_string(), "mjgi32nyz5vkwzvfaq433imzp0dvmn05-manifest-with-refs");
        assert!(text.store_path(&StoreDir::guix(), name, &[], true).is_err());
        assert!(flat.store_path(&StoreDir::guix(), name, &references, false).is_err());
    }

    #[test]
    fn references_and_the_name_change_the_path_of_a_nar() {
        let nar = ContentAddress::Nar(NarHash::of(b""));
        let reference = ["xd1rjhrh2iwavikvfqz94i51ni40y17j-tiny-tree".parse().unwrap()];
        let path = |name, references: &[_], itself| {
            nar.store_path(&StoreDir::nix(), name, references, itself).unwrap().hash_part()
        };
        let paths = [
            path("a", &[], false),
            path("b", &[], false),
            path("a", &reference, false),
            path("a", &[], true),
            path("a", &reference, true),
        ];
        for (index, one) in paths.iter().enumerate() {
            assert!(!paths[..index].contains(one), "{index}");
        }
        assert!(nar.store_path(&StoreDir::nix(), "a/b", &[], false).is_err());
    }

    #[test]
    fn other_content_addresses_are_refused() {
        for text in ["", "fixed:", "fixed:git:sha1:x", "fixed:r:sha1:x", "text:r:x"] {
            assert!(text.parse::<ContentAddress>().is_err(), "{text}");
        }
    }
}
