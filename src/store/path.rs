//! Store directories and store paths, strict as Nix is about them.
//!
//! A store path is a hash part (20 bytes, 32 base32 characters) and a name; the store directory it
//! lies in is kept apart, because narinfos, catalogs and the mount name paths without it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::base32::{self, Base32Error};

/// Characters of a printed hash part.
pub const HASH_PART_LENGTH: usize = base32::encoded_length(20);

/// Longest name of a store path, in bytes (Nix's `StorePath::MaxPathLen`).
pub const MAX_NAME_LENGTH: usize = 211;

/// Longest store directory that is accepted, in bytes.
pub const MAX_STORE_DIR_LENGTH: usize = 1024;

/// Why a text is not a store path or a store directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The hash part is not 32 characters of base32.
    #[error("{text:?} has no valid hash part: {source}")]
    HashPart {
        /// The text.
        text: String,
        /// What is wrong with the hash part.
        source: Base32Error,
    },
    /// There is no `-` after the hash part.
    #[error("{text:?} is not HASH-NAME: no `-` after the first 32 characters")]
    NoName {
        /// The text.
        text: String,
    },
    /// The name is empty or longer than 211 bytes.
    #[error("store path name {name:?} has {found} bytes; 1 to {MAX_NAME_LENGTH} are allowed")]
    NameLength {
        /// The name, shortened.
        name: String,
        /// Its length in bytes.
        found: usize,
    },
    /// The name has a character that store paths do not allow.
    #[error("store path name {name:?} contains {character:?}")]
    NameCharacter {
        /// The name.
        name: String,
        /// The offending character.
        character: char,
    },
    /// The name is `.` or `..`, or starts with one of them and a dash.
    #[error("store path name {name:?} starts with a component `.` or `..`")]
    NameDots {
        /// The name.
        name: String,
    },
    /// The path lies elsewhere.
    #[error("{path:?} is not directly in the store directory {store_dir}")]
    NotInStore {
        /// The path.
        path: String,
        /// Where it should lie.
        store_dir: StoreDir,
    },
    /// The store directory is not an absolute path without `.`, `..` and empty components.
    #[error("{text:?} is not a store directory: {reason}")]
    StoreDir {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A text for an error message, cut so that hostile input does not flood the log.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(256).collect()
}

/// The directory that holds the store paths: `/nix/store`, `/gnu/store` or any other clean
/// absolute path. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreDir(Arc<str>);

impl StoreDir {
    /// `/nix/store`.
    pub fn nix() -> Self {
        Self("/nix/store".into())
    }

    /// `/gnu/store`.
    pub fn guix() -> Self {
        Self("/gnu/store".into())
    }

    /// The directory as text, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The absolute path of `path` in this directory.
    pub fn join(&self, path: &StorePath) -> String {
        format!("{}/{path}", self.0)
    }

    /// Reads an absolute path that lies directly in this directory.
    pub fn parse(&self, path: &str) -> Result<StorePath, PathError> {
        match self.split(path)? {
            (path, "") => Ok(path),
            _ => Err(self.not_in_store(path)),
        }
    }

    /// Reads an absolute path in this directory or below one of its store paths: the store path,
    /// and what follows it (empty, or starting with a slash).
    pub fn split<'a>(&self, path: &'a str) -> Result<(StorePath, &'a str), PathError> {
        let inner = path
            .strip_prefix(&*self.0)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| self.not_in_store(path))?;
        let (name, rest) = inner.split_at(inner.find('/').unwrap_or(inner.len()));
        Ok((name.parse()?, rest))
    }

    fn not_in_store(&self, path: &str) -> PathError {
        PathError::NotInStore { path: quoted(path), store_dir: self.clone() }
    }
}

impl FromStr for StoreDir {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let refuse = |reason| Err(PathError::StoreDir { text: quoted(text), reason });
        let Some(inner) = text.strip_prefix('/') else {
            return refuse("it must be an absolute path");
        };
        if text.len() > MAX_STORE_DIR_LENGTH {
            return refuse("it is longer than 1024 bytes");
        }
        if inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return refuse("it has an empty, `.` or `..` component, or a slash at its end");
        }
        if text.chars().any(char::is_control) {
            return refuse("it contains a control character");
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The 20 bytes by which a store path is known, printed as 32 base32 characters.
///
/// Ordered as its text is: sorting by hash part is sorting by the printed string.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HashPart([u8; 20]); // most significant first, so that the derived order is the text's

impl HashPart {
    /// From the bytes in Nix's order (least significant first).
    pub fn from_digest(mut digest: [u8; 20]) -> Self {
        digest.reverse();
        Self(digest)
    }

    /// From bytes in the order of the text; the inverse of [`HashPart::sortable_bytes`].
    pub const fn from_sortable_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The bytes in the order of the text: comparing them compares the texts.
    pub const fn sortable_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl FromStr for HashPart {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let digest =
            base32::decode(text).map_err(|source| PathError::HashPart { text: quoted(text), source })?;
        Ok(Self::from_digest(digest))
    }
}

impl fmt::Display for HashPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digest = self.0;
        digest.reverse();
        f.pad(&base32::encode(&digest))
    }
}

impl fmt::Debug for HashPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A store path without its directory: `HASH-NAME`. Ordered as its text is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorePath {
    hash_part: HashPart,
    name: Box<str>,
}

impl StorePath {
    /// Puts a store path together; the name must follow Nix's rules.
    pub fn new(hash_part: HashPart, name: &str) -> Result<Self, PathError> {
        check_name(name)?;
        Ok(Self { hash_part, name: name.into() })
    }

    /// The hash part.
    pub fn hash_part(&self) -> HashPart {
        self.hash_part
    }

    /// The name: what follows the hash part and its dash.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Nix's `checkName`, which `StorePath` and `builtins.derivation` use.
pub fn check_name(name: &str) -> Result<(), PathError> {
    if name.is_empty() || name.len() > MAX_NAME_LENGTH {
        return Err(PathError::NameLength { name: quoted(name), found: name.len() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    if let Some(character) = name.chars().find(|&c| !allowed(c)) {
        return Err(PathError::NameCharacter { name: quoted(name), character });
    }
    if matches!(name.split('-').next(), Some("." | "..")) {
        return Err(PathError::NameDots { name: quoted(name) });
    }
    Ok(())
}

impl FromStr for StorePath {
    type Err = PathError;

    /// Reads `HASH-NAME`.
    fn from_str(text: &str) -> Result<Self, PathError> {
        let Some((hash_part, rest)) = text.split_at_checked(HASH_PART_LENGTH) else {
            return Err(PathError::NoName { text: quoted(text) });
        };
        let Some(name) = rest.strip_prefix('-') else {
            return Err(PathError::NoName { text: quoted(text) });
        };
        Self::new(hash_part.parse()?, name)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash_part, self.name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELLO: &str = "81bdcd5x4v50i28h98bfkvvkx9cky63w-hello-2.10";

    #[test]
    fn a_store_path_reads_and_prints() {
        let path: StorePath = HELLO.parse().unwrap();
        assert_eq!(path.name(), "hello-2.10");
        assert_eq!(path.to_string(), HELLO);
        let full = format!("/gnu/store/{HELLO}");
        assert_eq!(StoreDir::guix().parse(&full), Ok(path.clone()));
        assert_eq!(StoreDir::guix().join(&path), full);
    }

    #[test]
    fn what_lies_below_a_store_path_is_split_off() {
        let inside = format!("/gnu/store/{HELLO}/bin/hello");
        let (path, rest) = StoreDir::guix().split(&inside).unwrap();
        assert_eq!((path.to_string().as_str(), rest), (HELLO, "/bin/hello"));
        assert!(StoreDir::guix().parse(&inside).is_err());
    }

    #[test]
    fn a_path_elsewhere_is_refused() {
        for path in ["", "/", "/nix/store", "/nix/storefoo", "/gnu/store/x", HELLO] {
            let refused = StoreDir::nix().parse(path);
            assert!(matches!(refused, Err(PathError::NotInStore { .. })), "{path}");
        }
    }

    #[test]
    fn names_follow_the_rules_of_nix() {
        let long = "a".repeat(211);
        for name in ["a", ".a", "..a", "...", ".a-b", "-", "1", "+-._?=", &long] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", ".", "..", ".-a", "..-a", "a/b", "a b", "ä", "a\0", &(long + "a")] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn broken_store_paths_are_refused() {
        let hash = &HELLO[..32];
        for text in ["", hash, &format!("{hash}-"), &format!("{hash}+a"), &HELLO[1..]] {
            assert!(text.parse::<StorePath>().is_err(), "{text}");
        }
        // A character of two bytes across the place of the dash.
        assert!(format!("{}ä-a", &hash[1..]).parse::<StorePath>().is_err());
        assert!(HELLO.replace('8', "e").parse::<StorePath>().is_err());
    }

    #[test]
    fn store_directories_are_clean_and_absolute() {
        for text in ["/nix/store", "/gnu/store", "/s", "/home/a b/store"] {
            assert_eq!(text.parse::<StoreDir>().unwrap().as_str(), text);
        }
        for text in ["", "/", "nix/store", "/nix/store/", "/nix//store", "/nix/../store", "/a\nb"] {
            assert!(text.parse::<StoreDir>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn hash_parts_are_ordered_as_their_texts(a: [u8; 20], b: [u8; 20]) {
            let (a, b) = (HashPart::from_digest(a), HashPart::from_digest(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
            prop_assert_eq!(a.to_string().parse(), Ok(a));
        }

        #[test]
        fn any_text_is_read_strictly_or_refused(text in "[0-9a-z]{30,33}-[a-z./-]{0,4}") {
            if let Ok(path) = text.parse::<StorePath>() {
                prop_assert_eq!(path.to_string(), text);
            }
        }
    }
}
