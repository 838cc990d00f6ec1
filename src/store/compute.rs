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
