//! Narinfos of both dialects, Nix's and Guix's, without loss: the text is kept as it came.
//!
//! A narinfo says where a store path can be had, what it hashes to and what it refers to. Guix
//! repeats `URL`, `Compression` and `FileSize` as a group for each compression and signs the text
//! above its `Signature:` line, so fields are known with their place in the text. `ERIS` and
//! `ERISFormat` are those of Guix bug#52555, in all its versions. No signature is checked here.

mod builder;
mod parse;
mod redirect;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

pub use self::builder::NarinfoBuilder;
use self::parse::{line_length, lines, split_field};
use super::hash::{HashError, NarHash};
use super::path::{PathError, StoreDir, StorePath, quoted};
use crate::compress::{self, Compression};

/// Longest narinfo that is read, in bytes.
pub const MAX_LENGTH: usize = 1 << 20;

/// Longest value of a field other than `References`, in bytes.
pub const MAX_VALUE_LENGTH: usize = 16 << 10;

/// Most lines that a narinfo may have.
pub const MAX_LINES: usize = 1024;

/// Why a text is not a narinfo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarinfoError {
    /// The text is longer than [`MAX_LENGTH`].
    #[error("narinfo of {found} bytes: the limit is {MAX_LENGTH}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// There are more than [`MAX_LINES`] lines.
    #[error("narinfo has more than {MAX_LINES} lines")]
    TooManyLines,
    /// The text is not UTF-8.
    #[error("narinfo is not UTF-8 from byte {offset} on")]
    NotUtf8 {
        /// Where it stops being UTF-8.
        offset: usize,
    },
    /// The last line does not end.
    #[error("narinfo ends within a line")]
    Truncated,
    /// A control character, carriage returns among them.
    #[error("narinfo line {line} contains the control character {character:?}")]
    ControlCharacter {
        /// Line number, from 1.
        line: usize,
        /// The character.
        character: char,
    },
    /// A line is not `Name: value`, or is empty.
    #[error("narinfo line {line} is not `Name: value`: {text:?}")]
    NotAField {
        /// Line number, from 1.
        line: usize,
        /// The line, shortened.
        text: String,
    },
    /// A value is longer than [`MAX_VALUE_LENGTH`].
    #[error("narinfo field {field} has {found} bytes: the limit is {MAX_VALUE_LENGTH}")]
    ValueTooLong {
        /// The field.
        field: String,
        /// Length of its value.
        found: usize,
    },
    /// A field that must be there is not.
    #[error("narinfo has no {field}")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A field that may be there only once, or once for each URL, is there again.
    #[error("narinfo line {line} gives {field} a second time")]
    Repeated {
        /// Line number, from 1; 0 where no line is to blame.
        line: usize,
        /// The field.
        field: String,
    },
    /// A field does not hold a store path.
    #[error("narinfo field {field}: {source}")]
    Path {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: PathError,
    },
    /// A field does not hold a SHA-256.
    #[error("narinfo field {field}: {source}")]
    Hash {
        /// The field.
        field: &'static str,
        /// What is wrong.
        source: HashError,
    },
    /// A field does not hold a number of bytes.
    #[error("narinfo field {field} is not a number of bytes: {text:?}")]
    Size {
        /// The field.
        field: &'static str,
        /// The value, shortened.
        text: String,
    },
}

/// One `URL` of a narinfo with what belongs to it. Nix has one, Guix one for each compression.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Download {
    /// Where the file is, relative to the narinfo's server or absolute.
    pub url: String,
    /// `none`, `gzip`, `zstd`, ... For what an absent one means see [`Download::compression_in`].
    pub compression: Option<String>,
    /// Hash of the file as it is downloaded (Nix).
    pub file_hash: Option<NarHash>,
    /// Size of the file as it is downloaded, in bytes.
    pub file_size: Option<u64>,
}

impl Download {
    /// How the file is compressed. Where the narinfo does not say, Nix takes it for `bzip2` and Guix for `none`, so it depends on whose store
    /// the path is in: `/gnu/store` is Guix's, and any other is taken for one of Nix. (`guix publish` always says it.)
    pub fn compression_in(&self, store_dir: &StoreDir) -> Result<Compression, compress::Error> {
        match &self.compression {
            Some(name) => Compression::from_narinfo(name),
            None if *store_dir == StoreDir::guix() => Ok(Compression::None),
            None => Ok(Compression::Bzip2),
        }
    }
}

/// An `ERIS` line: the read capability under which the NAR, in some format, can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErisBinding {
    /// The URN, as written.
    pub urn: String,
    /// Media type of the content: `ERISFormat`, or made of the compression of the URL that the
    /// line belongs to (bug#52555 v1); none where the narinfo does not say.
    pub format: Option<String>,
    /// Where the `ERIS` line starts in the text.
    pub offset_in_text: usize,
    /// Where the last line ends that this binding depends on: its own, or the one that says its
    /// format. A signature over the text before some offset covers the binding only if this is not
    /// beyond that offset.
    pub end_in_text: usize,
}

/// A field with its place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// What stands before the colon.
    pub name: &'a str,
    /// What stands after the colon and its space.
    pub value: &'a str,
    /// Where its line starts in the text.
    pub offset: usize,
}

/// A narinfo: its text, and what was read from it.
#[derive(Clone, PartialEq, Eq)]
pub struct Narinfo {
    text: String,
    store_dir: StoreDir,
    store_path: StorePath,
    nar_hash: NarHash,
    nar_size: u64,
    references: Vec<StorePath>,
    deriver: Option<StorePath>,
    downloads: Vec<Download>,
    eris: Vec<ErisBinding>,
}

impl Narinfo {
    /// Reads a narinfo in either dialect.
    pub fn parse(bytes: &[u8]) -> Result<Self, NarinfoError> {
        if bytes.len() > MAX_LENGTH {
            return Err(NarinfoError::TooLong { found: bytes.len() });
        }
        match str::from_utf8(bytes) {
            Ok(text) => parse::read(text),
            Err(error) => Err(NarinfoError::NotUtf8 { offset: error.valid_up_to() }),
        }
    }

    /// The text, byte for byte as it was read.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The store directory that `StorePath` names.
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// The store path.
    pub fn store_path(&self) -> &StorePath {
        &self.store_path
    }

    /// SHA-256 of the uncompressed NAR.
    pub fn nar_hash(&self) -> NarHash {
        self.nar_hash
    }

    /// Size of the uncompressed NAR, in bytes; never 0.
    pub fn nar_size(&self) -> u64 {
        self.nar_size
    }

    /// The store paths that this one refers to, in the order written; it may be among them.
    pub fn references(&self) -> &[StorePath] {
        &self.references
    }

    /// The derivation that built it, where known.
    pub fn deriver(&self) -> Option<&StorePath> {
        self.deriver.as_ref()
    }

    /// `CA`: the content address of a path whose name follows from its contents (Nix).
    pub fn ca(&self) -> Option<&str> {
        self.field("CA").map(|field| field.value)
    }

    /// `System`: what the derivation was built for, such as `x86_64-linux` (Guix).
    pub fn system(&self) -> Option<&str> {
        self.field("System").map(|field| field.value)
    }

    /// The URLs, each with what belongs to it, in the order written.
    pub fn downloads(&self) -> &[Download] {
        &self.downloads
    }

    /// The `ERIS` lines, in the order written.
    pub fn eris(&self) -> &[ErisBinding] {
        &self.eris
    }

    /// The values of Nix's `Sig` lines, `KEY-NAME:BASE64`, unchecked.
    pub fn sigs(&self) -> impl Iterator<Item = &str> {
        self.fields().filter(|field| field.name == "Sig").map(|field| field.value)
    }

    /// Guix's `Signature` line, `1;HOST;BASE64`, unchecked. It speaks of the text before its offset.
    pub fn guix_signature(&self) -> Option<Field<'_>> {
        self.field("Signature")
    }

    /// All fields in order, also those that this program does not know.
    pub fn fields(&self) -> impl Iterator<Item = Field<'_>> {
        lines(&self.text).filter_map(|(offset, line)| split_field(offset, line))
    }

    /// The first field of this name.
    pub fn field(&self, name: &str) -> Option<Field<'_>> {
        self.fields().find(|field| field.name == name)
    }

    /// This narinfo with another value for the one field `name`, in its place; appended where there
    /// was none. A name that is there several times is refused.
    pub fn with_field(&self, name: &str, value: &str) -> Result<Self, NarinfoError> {
        let mut found = self.fields().filter(|field| field.name == name);
        let Some(field) = found.next() else {
            return self.with_line(name, value);
        };
        if found.next().is_some() {
            let field = quoted(name);
            return Err(NarinfoError::Repeated { line: 0, field });
        }
        let mut text = self.text.clone();
        let line = field.offset..field.offset + line_length(&self.text[field.offset..]);
        text.replace_range(line, &format!("{name}: {value}\n"));
        Self::parse(text.as_bytes())
    }

    /// This narinfo with a line added at its end: a signature, for example.
    pub fn with_line(&self, name: &str, value: &str) -> Result<Self, NarinfoError> {
        Self::parse(format!("{}{name}: {value}\n", self.text).as_bytes())
    }

    /// This narinfo without any field of this name.
    pub fn without_field(&self, name: &str) -> Result<Self, NarinfoError> {
        let kept = lines(&self.text)
            .filter(|&(offset, line)| split_field(offset, line).is_none_or(|f| f.name != name))
            .fold(String::with_capacity(self.text.len()), |text, (_, line)| text + line + "\n");
        Self::parse(kept.as_bytes())
    }

    /// Starts a narinfo to be published.
    pub fn builder(
        store_dir: StoreDir,
        store_path: StorePath,
        nar_hash: NarHash,
        nar_size: u64,
    ) -> NarinfoBuilder {
        NarinfoBuilder::new(store_dir, store_path, nar_hash, nar_size)
    }
}

impl FromStr for Narinfo {
    type Err = NarinfoError;

    fn from_str(text: &str) -> Result<Self, NarinfoError> {
        Self::parse(text.as_bytes())
    }
}

impl fmt::Display for Narinfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Narinfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Narinfo").field(&self.text).finish()
    }
}
