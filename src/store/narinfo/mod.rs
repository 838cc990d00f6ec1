//! Narinfos of both dialects, Nix's and Guix's, without loss: the text is kept as it came.
//!
//! A narinfo says where a store path can be had, what it hashes to and what it refers to. Guix
//! repeats `URL`, `Compression` and `FileSize` as a group for each compression and signs the text
//! above its `Signature:` line, so fields are known with their place in the text. `ERIS` and
//! `ERISFormat` are those of Guix bug#52555, in all its versions. No signature is checked here.

mod builder;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

pub use self::builder::NarinfoBuilder;
use super::hash::{HashError, NarHash};
use super::path::{PathError, StoreDir, StorePath, quoted};

/// Longest narinfo that is read, in bytes.
pub const MAX_LENGTH: usize = 1 << 20;

/// Longest value of a field other than `References`, in bytes.
pub const MAX_VALUE_LENGTH: usize = 16 << 10;

/// Most lines that a narinfo may have.
pub const MAX_LINES: usize = 1024;

/// Longest name of a field, in bytes.
const MAX_FIELD_NAME_LENGTH: usize = 64;

/// Fields that may be there once at most.
const SINGLE: [&str; 9] =
    ["StorePath", "NarHash", "NarSize", "References", "Deriver", "CA", "System", "Signature", "ERISFormat"];

/// Fields that belong to the `URL` before them.
const OF_DOWNLOAD: [&str; 3] = ["Compression", "FileHash", "FileSize"];

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
    /// `none`, `gzip`, `zstd`, ...; Nix takes an absent one for `bzip2`, Guix for `none`.
    pub compression: Option<String>,
    /// Hash of the file as it is downloaded (Nix).
    pub file_hash: Option<NarHash>,
    /// Size of the file as it is downloaded, in bytes.
    pub file_size: Option<u64>,
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
            Ok(text) => read(text),
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

/// The lines without their newlines, each with its offset.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_terminator('\n').scan(0, |next, line| {
        let offset = *next;
        *next += line.len() + 1;
        Some((offset, line))
    })
}

/// Length of the first line with its newline.
fn line_length(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |newline| newline + 1)
}

fn split_field(offset: usize, line: &str) -> Option<Field<'_>> {
    let (name, value) = line.split_once(':')?;
    let well_named = !name.is_empty()
        && name.len() <= MAX_FIELD_NAME_LENGTH
        && name.bytes().all(|byte| byte.is_ascii_graphic());
    well_named.then(|| Field { name, value: value.strip_prefix(' ').unwrap_or(value), offset })
}

/// A `Compression`, `ERIS`, ... group while it is read.
#[derive(Default)]
struct Group {
    download: Download,
    has_url: bool,
    has_eris: bool,
    compression_end: usize,
}

/// An `ERIS` line before its format is known.
struct ErisLine<'a> {
    urn: &'a str,
    span: Range<usize>,
    group: Option<usize>,
}

fn read(text: &str) -> Result<Narinfo, NarinfoError> {
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(NarinfoError::Truncated);
    }
    let mut single: [Option<Field<'_>>; SINGLE.len()] = [None; SINGLE.len()];
    let mut groups: Vec<Group> = Vec::new();
    let mut eris: Vec<ErisLine<'_>> = Vec::new();
    // Whether the line before was part of a group: bug#52555 v1 puts `ERIS` right behind it.
    let mut in_group = false;
    for (index, (offset, line)) in lines(text).enumerate() {
        let number = index + 1;
        let field = check_line(number, offset, line)?;
        let repeated = || NarinfoError::Repeated { line: number, field: field.name.to_owned() };
        let end = offset + line.len() + 1;
        if let Some(slot) = SINGLE.iter().position(|name| *name == field.name) {
            if single[slot].replace(field).is_some() {
                return Err(repeated());
            }
            in_group = false;
        } else if field.name == "URL" {
            // Fields of a download that came before any URL are those of the first.
            match groups.first_mut().filter(|first| !first.has_url) {
                Some(first) => first.set_url(field.value),
                None => {
                    groups.push(Group::default());
                    groups.last_mut().expect("just pushed").set_url(field.value);
                }
            }
            in_group = true;
        } else if OF_DOWNLOAD.contains(&field.name) {
            if groups.is_empty() {
                groups.push(Group::default());
            }
            let group = groups.last_mut().expect("not empty");
            if !group.set(field, end)? {
                return Err(repeated());
            }
            in_group = true;
        } else if field.name == "ERIS" {
            let group = if in_group { groups.len().checked_sub(1) } else { None };
            if let Some(group) = group {
                if std::mem::replace(&mut groups[group].has_eris, true) {
                    return Err(repeated());
                }
            }
            eris.push(ErisLine { urn: field.value, span: offset..end, group });
        } else {
            in_group = false;
        }
    }
    assemble(text, single, groups, eris)
}

fn check_line(number: usize, offset: usize, line: &str) -> Result<Field<'_>, NarinfoError> {
    if number > MAX_LINES {
        return Err(NarinfoError::TooManyLines);
    }
    if let Some(character) = line.chars().find(|c| c.is_control()) {
        return Err(NarinfoError::ControlCharacter { line: number, character });
    }
    let field = split_field(offset, line)
        .ok_or_else(|| NarinfoError::NotAField { line: number, text: quoted(line) })?;
    if field.name != "References" && field.value.len() > MAX_VALUE_LENGTH {
        return Err(NarinfoError::ValueTooLong { field: field.name.to_owned(), found: field.value.len() });
    }
    Ok(field)
}

impl Group {
    fn set_url(&mut self, url: &str) {
        url.clone_into(&mut self.download.url);
        self.has_url = true;
    }

    /// Takes a field of [`OF_DOWNLOAD`]; false if it was there already.
    fn set(&mut self, field: Field<'_>, end: usize) -> Result<bool, NarinfoError> {
        let download = &mut self.download;
        let fresh = match field.name {
            "Compression" => {
                self.compression_end = end;
                download.compression.replace(field.value.to_owned()).is_none()
            }
            "FileHash" => {
                let hash = parse_hash("FileHash", field.value)?;
                download.file_hash.replace(hash).is_none()
            }
            _ => {
                let size = parse_size("FileSize", field.value)?;
                download.file_size.replace(size).is_none()
            }
        };
        Ok(fresh)
    }
}

fn assemble(
    text: &str,
    single: [Option<Field<'_>>; SINGLE.len()],
    groups: Vec<Group>,
    eris: Vec<ErisLine<'_>>,
) -> Result<Narinfo, NarinfoError> {
    let [store_path, nar_hash, nar_size, references, deriver, .., format] = single;
    let required = |field: Option<Field<'_>>, name| {
        field.map(|field| field.value.to_owned()).ok_or(NarinfoError::Missing { field: name })
    };
    let path_error = |field| move |source| NarinfoError::Path { field, source };
    let full_path = required(store_path, "StorePath")?;
    let (store_dir, base_name) = full_path.rsplit_once('/').unwrap_or(("", &full_path));
    let nar_size = parse_size("NarSize", &required(nar_size, "NarSize")?)?;
    if nar_size == 0 {
        return Err(NarinfoError::Size { field: "NarSize", text: "0".to_owned() });
    }
    let references = references
        .map_or("", |field| field.value)
        .split(' ')
        .filter(|name| !name.is_empty())
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(path_error("References"))?;
    let deriver = deriver
        .map(|field| field.value)
        .filter(|value| !matches!(*value, "" | "unknown-deriver"))
        .map(str::parse)
        .transpose()
        .map_err(path_error("Deriver"))?;
    let eris = bind(text, format, &groups, eris)?;
    Ok(Narinfo {
        store_dir: store_dir.parse().map_err(path_error("StorePath"))?,
        store_path: base_name.parse().map_err(path_error("StorePath"))?,
        nar_hash: parse_hash("NarHash", &required(nar_hash, "NarHash")?)?,
        nar_size,
        references,
        deriver,
        downloads: groups.into_iter().filter(|group| group.has_url).map(|group| group.download).collect(),
        eris,
        text: text.to_owned(),
    })
}

/// Settles the format of each `ERIS` line.
fn bind(
    text: &str,
    format: Option<Field<'_>>,
    groups: &[Group],
    eris: Vec<ErisLine<'_>>,
) -> Result<Vec<ErisBinding>, NarinfoError> {
    if let (Some(_), [_, second, ..]) = (format, &eris[..]) {
        // One format for several contents: which it speaks of cannot be told.
        return Err(NarinfoError::Repeated {
            line: text[..second.span.start].lines().count() + 1,
            field: "ERIS".to_owned(),
        });
    }
    let bindings = eris.into_iter().map(|line| {
        let compressed = line.group.map(|group| &groups[group]);
        let (format, depends_on) = match (format, compressed) {
            (Some(field), _) => {
                let end = field.offset + line_length(&text[field.offset..]);
                (Some(field.value.to_owned()), end)
            }
            (None, Some(group)) => (group.media_type(), group.compression_end),
            (None, None) => (None, 0),
        };
        ErisBinding {
            urn: line.urn.to_owned(),
            format,
            offset_in_text: line.span.start,
            end_in_text: line.span.end.max(depends_on),
        }
    });
    Ok(bindings.collect())
}

impl Group {
    fn media_type(&self) -> Option<String> {
        let compression = self.download.compression.as_deref()?;
        Some(match compression {
            "none" => "application/x-nix-archive".to_owned(),
            other => format!("application/x-nix-archive+{other}"),
        })
    }
}

fn parse_hash(field: &'static str, text: &str) -> Result<NarHash, NarinfoError> {
    text.parse().map_err(|source| NarinfoError::Hash { field, source })
}

fn parse_size(field: &'static str, text: &str) -> Result<u64, NarinfoError> {
    // `u64::from_str` would also take a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| NarinfoError::Size { field, text: quoted(text) })
}
