//! Reading the text of a narinfo: lines into fields, fields into what they mean.

use std::ops::Range;

use super::{Download, ErisBinding, Field, MAX_LINES, MAX_VALUE_LENGTH, Narinfo, NarinfoError};
use crate::store::hash::NarHash;
use crate::store::path::quoted;

/// Longest name of a field, in bytes.
const MAX_FIELD_NAME_LENGTH: usize = 64;

/// Fields that may be there once at most, in the order in which [`assemble`] takes them.
const SINGLE: [&str; 9] =
    ["StorePath", "NarHash", "NarSize", "References", "Deriver", "CA", "System", "Signature", "ERISFormat"];

/// Fields that belong to the `URL` before them.
pub(super) const OF_DOWNLOAD: [&str; 3] = ["Compression", "FileHash", "FileSize"];

/// The lines without their newlines, each with its offset.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_terminator('\n').scan(0, |next, line| {
        let offset = *next;
        *next += line.len() + 1;
        Some((offset, line))
    })
}

/// Length of the first line with its newline.
pub(super) fn line_length(text: &str) -> usize {
    text.find('\n').map_or(text.len(), |newline| newline + 1)
}

pub(super) fn split_field(offset: usize, line: &str) -> Option<Field<'_>> {
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

/// Reads the whole text.
pub(super) fn read(text: &str) -> Result<Narinfo, NarinfoError> {
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
            if group.is_some_and(|group| std::mem::replace(&mut groups[group].has_eris, true)) {
                return Err(repeated());
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
