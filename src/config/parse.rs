//! TOML into a [`Config`], and what to say of a mistake: file, line, key, and what was meant perhaps.

use std::io;
use std::path::PathBuf;

use toml::de::{DeTable, DeValue};

use super::Config;
use super::keys::KEYS;

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file says something that makes no sense.
    #[error("{}, line {line}: {problem}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What it is.
        problem: Problem,
    },
}

impl ConfigError {
    /// Whether it is only that there is no file, or none that this user could see: `su` keeps the HOME of somebody else.
    pub(super) fn is_absence(&self) -> bool {
        let ConfigError::Unreadable { file, source } = self else { return false };
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => true,
            io::ErrorKind::PermissionDenied => file.symlink_metadata().is_err(),
            _ => false,
        }
    }
}

/// What is wrong in a config file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is no TOML.
    #[error("{message}")]
    Syntax {
        /// The parser's words.
        message: String,
    },
    /// Nobody knows the key.
    #[error("`{key}` is no key: perhaps `{nearest}`?")]
    UnknownKey {
        /// As it stands there, with its table.
        key: String,
        /// The known one that looks most like it.
        nearest: &'static str,
    },
    /// The value is of another type, or out of range.
    #[error("`{key}` is {found}, expected {expected}")]
    Value {
        /// The key, with its table.
        key: String,
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
}

/// Takes over what `text` says; on a mistake its line, counted from 1.
pub(super) fn apply(config: &mut Config, text: &str) -> Result<(), (usize, Problem)> {
    let line = |offset: usize| 1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count();
    let table = DeTable::parse(text).map_err(|error| {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        (line(error.span().map_or(0, |span| span.start)), Problem::Syntax { message })
    })?;
    apply_table(config, "", table.get_ref()).map_err(|(offset, problem)| (line(offset), problem))
}

fn apply_table(config: &mut Config, prefix: &str, table: &DeTable) -> Result<(), (usize, Problem)> {
    // The map is sorted by name; the first mistake is the one that stands first in the file.
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        let full = format!("{prefix}{}", name.get_ref());
        let inner = format!("{full}.");
        let is_table = KEYS.iter().any(|key| key.name.starts_with(&inner));
        match KEYS.iter().find(|key| key.name == full) {
            Some(key) => (key.set)(config, value.get_ref()).ok_or_else(|| {
                let found = describe(value.get_ref());
                (value.span().start, Problem::Value { key: full, found, expected: key.expects })
            })?,
            None if is_table => match value.get_ref() {
                DeValue::Table(table) => apply_table(config, &inner, table)?,
                other => {
                    let problem = Problem::Value { key: full, found: describe(other), expected: "a table" };
                    return Err((value.span().start, problem));
                }
            },
            None => {
                // Of a table that nobody knows, its first key is compared: `[caches] size` is near `cache.size`.
                let first = value.get_ref().as_table().and_then(|table| table.keys().next());
                let key = first.map_or(full, |first| format!("{inner}{}", first.get_ref()));
                let nearest = nearest(&key);
                return Err((name.span().start, Problem::UnknownKey { key, nearest }));
            }
        }
    }
    Ok(())
}

/// A value as a message names it.
fn describe(value: &DeValue) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "an array".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

/// The known key that is nearest, with its table or without: who forgets the table is told of it.
fn nearest(key: &str) -> &'static str {
    let last = |name: &'static str| name.rsplit('.').next().unwrap_or(name);
    let alone = key.rsplit('.').next().unwrap_or(key);
    let distance = |name: &'static str| {
        // A wrong or missing table costs as much as two letters.
        edit_distance(key, name).min(edit_distance(alone, last(name)) + 2)
    };
    KEYS.iter().map(|key| key.name).min_by_key(|name| distance(name)).expect("there are keys")
}

/// How many letters have to be put in, taken out or exchanged (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (row, x) in a.chars().enumerate() {
        let mut left = row + 1;
        let mut diagonal = above[0];
        above[0] = left;
        for (column, y) in b.iter().enumerate() {
            let exchanged = diagonal + usize::from(x != *y);
            diagonal = above[column + 1];
            left = exchanged.min(left + 1).min(diagonal + 1);
            above[column + 1] = left;
        }
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> (usize, String) {
        let (line, problem) = apply(&mut Config::default(), text).expect_err(text);
        (line, problem.to_string())
    }

    #[test]
    fn distances_are_those_of_levenshtein() {
        for (a, b, distance) in [("", "", 0), ("size", "", 4), ("size", "sise", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!((edit_distance(a, b), edit_distance(b, a)), (distance, distance), "{a} {b}");
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_the_nearest() {
        for (text, key, nearest) in [
            ("store = []", "store", "stores"),
            ("[cache]\nsise = \"1G\"", "cache.sise", "cache.size"),
            ("[caches]\nsize = \"1G\"", "caches.size", "cache.size"),
            ("memory = \"1G\"", "memory", "cache.memory"),
            ("[prefetch]\nreadahead = true", "prefetch.readahead", "prefetch.read-ahead"),
        ] {
            assert_eq!(problem(text).1, format!("`{key}` is no key: perhaps `{nearest}`?"));
        }
    }

    #[test]
    fn a_wrong_value_is_told_with_what_was_expected_and_its_line() {
        let (line, problem) = problem("# a comment\n\n[cache]\nsize = 5 # bytes?\n");
        assert_eq!((line, problem.starts_with("`cache.size` is 5, expected a size")), (4, true), "{problem}");
        let (line, problem) = self::problem("cache = true");
        assert_eq!((line, &*problem), (1, "`cache` is true, expected a table"));
        let (line, problem) = self::problem("stores = \"dir:/a\"");
        assert_eq!((line, problem.contains("expected an array")), (1, true), "{problem}");
    }

    #[test]
    fn the_first_mistake_of_the_file_is_told() {
        assert_eq!(problem("zebra = 1\napple = 2").0, 1);
    }

    #[test]
    fn what_is_no_toml_is_told_with_its_line() {
        let (line, problem) = problem("stores = []\ncatalogs = [\n");
        assert!(line >= 2 && !problem.contains('\n') && !problem.is_empty(), "{line}: {problem}");
        assert_eq!(self::problem("stores = []\nstores = []").0, 2);
    }
}
