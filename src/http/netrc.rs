//! Names and passwords of hosts, from a file in the format of `.netrc`.
//!
//! Nix hands such a file to curl, so it is read as curl reads it: words between white space, values in quotes, comments,
//! `macdef` passed over. The format has five words, too few for one more dependency.

use std::fmt;

/// Names and passwords by host. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Netrc {
    entries: Vec<Entry>,
}

#[derive(Clone, Default, PartialEq, Eq)]
struct Entry {
    /// `None`: `default`, for all hosts that no entry names.
    host: Option<String>,
    login: String,
    password: String,
}

/// Why a text is no netrc file. It names lines, since words may be passwords.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetrcError {
    /// A word that is none of the format.
    #[error("line {line}: expected machine, default, login, password, account or macdef")]
    Unknown {
        /// From 1.
        line: usize,
    },
    /// A word that wants a value stands last.
    #[error("line {line}: the value of `{word}` is missing")]
    NoValue {
        /// From 1.
        line: usize,
        /// The word.
        word: &'static str,
    },
    /// `login` or `password` before any `machine`.
    #[error("line {line}: `{word}` belongs to no machine")]
    NoMachine {
        /// From 1.
        line: usize,
        /// The word.
        word: &'static str,
    },
    /// A quote that never ends.
    #[error("line {line}: a quote does not end")]
    Quote {
        /// From 1.
        line: usize,
    },
}

impl Netrc {
    /// Reads the text of a netrc file.
    pub fn parse(text: &str) -> Result<Self, NetrcError> {
        let mut words = Words { rest: text, line: 1 };
        let mut entries: Vec<Entry> = Vec::new();
        while let Some((line, word)) = words.next()? {
            let known = ["machine", "default", "login", "password", "account", "macdef"];
            let word = known.into_iter().find(|known| *known == word).ok_or(NetrcError::Unknown { line })?;
            match word {
                "default" => entries.push(Entry::default()),
                "macdef" => words.skip_macro(),
                _ => {
                    let (_, value) = words.next()?.ok_or(NetrcError::NoValue { line, word })?;
                    if word == "machine" {
                        entries.push(Entry { host: Some(value), ..Entry::default() });
                        continue;
                    }
                    let entry = entries.last_mut().ok_or(NetrcError::NoMachine { line, word })?;
                    match word {
                        "login" => entry.login = value,
                        "password" => entry.password = value,
                        // `account` is for FTP.
                        _ => {}
                    }
                }
            }
        }
        Ok(Self { entries })
    }

    /// Name and password for a host: of the first entry that names it, else of the `default`.
    pub(super) fn login(&self, host: &str) -> Option<(&str, &str)> {
        let named =
            |entry: &&Entry| entry.host.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(host));
        let entry = self.entries.iter().find(named);
        let entry = entry.or_else(|| self.entries.iter().find(|entry| entry.host.is_none()))?;
        Some((&entry.login, &entry.password))
    }
}

impl fmt::Debug for Netrc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Netrc of {} hosts", self.entries.len())
    }
}

struct Words<'a> {
    rest: &'a str,
    line: usize,
}

impl Words<'_> {
    /// The next word and its line. A `#` where a word could begin makes the rest of the line a comment.
    fn next(&mut self) -> Result<Option<(usize, String)>, NetrcError> {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.advance(blank);
            if !self.rest.starts_with('#') {
                break;
            }
            self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
        }
        let line = self.line;
        if self.rest.is_empty() {
            return Ok(None);
        }
        if self.rest.starts_with('"') {
            return self.quoted(line).map(|word| Some((line, word)));
        }
        let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
        let word = self.rest[..end].to_owned();
        self.advance(end);
        Ok(Some((line, word)))
    }

    /// A value in quotes, where a backslash takes the next character as it is (or makes it a line break, as curl does).
    fn quoted(&mut self, line: usize) -> Result<String, NetrcError> {
        let mut word = String::new();
        let mut characters = self.rest.char_indices().skip(1);
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    self.advance(at + 1);
                    return Ok(word);
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => word.push('\n'),
                    Some((_, 'r')) => word.push('\r'),
                    Some((_, 't')) => word.push('\t'),
                    Some((_, other)) => word.push(other),
                    None => break,
                },
                other => word.push(other),
            }
        }
        Err(NetrcError::Quote { line })
    }

    /// Passes over a macro: everything up to an empty line.
    fn skip_macro(&mut self) {
        self.advance(self.rest.find("\n\n").unwrap_or(self.rest.len()));
    }

    fn advance(&mut self, bytes: usize) {
        let (passed, rest) = self.rest.split_at(bytes);
        self.line += passed.matches('\n').count();
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_first_entry_that_names_it_else_the_default() {
        let text = "# of the office\nmachine a.example login me password one\nmachine\n  a.example\n password two\n\
                    machine b.example password three # login no\ndefault login anybody password four\n";
        let netrc = Netrc::parse(text).unwrap();
        assert_eq!(netrc.login("A.example"), Some(("me", "one")));
        assert_eq!(netrc.login("b.example"), Some(("", "three")));
        assert_eq!(netrc.login("c.example"), Some(("anybody", "four")));
        assert_eq!(Netrc::parse("machine a password p").unwrap().login("b"), None);
    }

    #[test]
    fn quotes_macros_and_accounts_are_as_in_curl() {
        let text = "machine a account x login \"a b\" password \"q\\\"\\\\#\"\nmacdef init\n machine z\n cd /\n\n\
                    machine b login l password p";
        let netrc = Netrc::parse(text).unwrap();
        assert_eq!(netrc.login("a"), Some(("a b", "q\"\\#")));
        assert_eq!(netrc.login("b"), Some(("l", "p")));
        assert_eq!(netrc.login("z"), None);
    }

    #[test]
    fn a_mistake_is_told_with_its_line_and_without_a_password() {
        for (text, error) in [
            ("machine a\nlogin me\nhush", NetrcError::Unknown { line: 3 }),
            ("machine a login", NetrcError::NoValue { line: 1, word: "login" }),
            ("\npassword hush", NetrcError::NoMachine { line: 2, word: "password" }),
            ("machine a password \"hush", NetrcError::Quote { line: 1 }),
            ("machine a password \"hush\\", NetrcError::Quote { line: 1 }),
        ] {
            let found = Netrc::parse(text).unwrap_err();
            assert!(!found.to_string().contains("hush"));
            assert_eq!(found, error, "{text}");
        }
        let netrc = Netrc::parse("machine a login me password hush").unwrap();
        assert_eq!(format!("{netrc:?}"), "Netrc of 1 hosts");
    }
}
