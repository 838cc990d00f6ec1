//! The keys that a `nix.conf` trusts, read as Nix reads it.
//!
//! Only `trusted-public-keys` and `extra-trusted-public-keys` count, in the file and in those that it includes. The
//! user's own `nix.conf` and `NIX_CONFIG` are not looked at: the file is the one that was named.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The key that Nix trusts where its config says nothing: that of cache.nixos.org.
const DEFAULT_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// How deep files may include others. Deeper is a circle.
const MAX_DEPTH: usize = 8;

/// Longest file that is read, in bytes.
const MAX_LENGTH: u64 = 1 << 20;

/// Why the keys of a `nix.conf` are not known.
#[derive(Debug, thiserror::Error)]
pub enum NixConfError {
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line is neither `NAME = VALUE` nor an include.
    #[error("{}, line {line}: neither `NAME = VALUE` nor `include FILE`", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// Files include each other.
    #[error("{}: included more than {MAX_DEPTH} files deep", file.display())]
    TooDeep {
        /// The file.
        file: PathBuf,
    },
}

/// The keys, as written: those of the file, or the one of cache.nixos.org where the file does not replace it.
pub fn trusted_public_keys(file: &Path) -> Result<Vec<String>, NixConfError> {
    let mut keys = vec![DEFAULT_KEY.to_owned()];
    read(file, &mut keys, 0)?;
    Ok(keys)
}

fn read(file: &Path, keys: &mut Vec<String>, depth: usize) -> Result<(), NixConfError> {
    if depth > MAX_DEPTH {
        return Err(NixConfError::TooDeep { file: file.to_owned() });
    }
    let text = text(file).map_err(|source| NixConfError::Unreadable { file: file.to_owned(), source })?;
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let (Some(name), rest) = (words.next(), words.collect::<Vec<_>>()) else { continue };
        match (name, &rest[..]) {
            ("include" | "!include", [path]) => {
                let path = file.parent().unwrap_or(Path::new("/")).join(path);
                match read(&path, keys, depth + 1) {
                    Err(NixConfError::Unreadable { file, source })
                        if name == "!include" && file == path && source.kind() == io::ErrorKind::NotFound => {
                    }
                    outcome => outcome?,
                }
            }
            (_, ["=", values @ ..]) => {
                let values = values.iter().map(|value| (*value).to_owned());
                match name {
                    "trusted-public-keys" | "binary-cache-public-keys" => *keys = values.collect(),
                    "extra-trusted-public-keys" => keys.extend(values),
                    _ => {}
                }
            }
            _ => return Err(NixConfError::Syntax { file: file.to_owned(), line: index + 1 }),
        }
    }
    Ok(())
}

fn text(file: &Path) -> io::Result<String> {
    let length = fs::metadata(file)?.len();
    if length > MAX_LENGTH {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("{length} bytes are too much for a config"),
        ));
    }
    fs::read_to_string(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of a `nix.conf` beside which these files lie.
    fn keys(text: &str, beside: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in beside.iter().chain(&[("nix.conf", text)]) {
            fs::write(folder.path().join(name), text).unwrap();
        }
        trusted_public_keys(&folder.path().join("nix.conf")).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_are_replaced_and_added_to_in_order() {
        assert_eq!(keys("", &[]).unwrap(), [DEFAULT_KEY]);
        assert_eq!(keys("cores = 4\nextra-trusted-public-keys = a:1\n", &[]).unwrap(), [DEFAULT_KEY, "a:1"]);
        assert_eq!(keys("trusted-public-keys = a:1  b:2 # c:3\n# d:4\n", &[]).unwrap(), ["a:1", "b:2"]);
        let text =
            "extra-trusted-public-keys = a:1\ntrusted-public-keys = b:2\nextra-trusted-public-keys = c:3";
        assert_eq!(keys(text, &[]).unwrap(), ["b:2", "c:3"]);
        assert_eq!(keys("trusted-public-keys =\n", &[]).unwrap(), [""; 0]);
    }

    #[test]
    fn included_files_are_read_from_beside() {
        let beside = [("more.conf", "extra-trusted-public-keys = b:2\n")];
        let text = "trusted-public-keys = a:1\ninclude more.conf\n!include none.conf\n";
        assert_eq!(keys(text, &beside).unwrap(), ["a:1", "b:2"]);
        assert!(keys("include none.conf\n", &[]).unwrap_err().contains("none.conf"));
        assert!(keys("include nix.conf\n", &[]).unwrap_err().contains("8 files deep"));
    }

    #[test]
    fn a_mistake_is_told_with_file_and_line() {
        for text in ["a = b\n\nthis is no line\n", "a = b\n\ntrusted-public-keys a:1\n", "\n\ninclude a b\n"]
        {
            let error = keys(text, &[]).unwrap_err();
            assert!(error.contains("nix.conf, line 3"), "{error}");
        }
        let error = trusted_public_keys(Path::new("/none/nix.conf")).unwrap_err().to_string();
        assert!(error.contains("/none/nix.conf"), "{error}");
    }
}
