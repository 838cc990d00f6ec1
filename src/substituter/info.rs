//! `nix-cache-info`: what a substitute server says of itself.

use std::str;

use crate::store::StoreDir;
use crate::store::path::PathError;

/// Longest `nix-cache-info` that is read, in bytes. Real ones have three lines.
pub(super) const MAX_LENGTH: usize = 16 << 10;

/// The priority of a server that states none, as in Nix.
const DEFAULT_PRIORITY: u32 = 50;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// `StoreDir`: the store directory that its paths are in; `None`: it does not say.
    pub store_dir: Option<StoreDir>,
    /// `Priority`: the lower, the better; 50 where it does not say. Guix's servers say 100, cache.nixos.org 40.
    pub priority: u32,
    /// `WantMassQuery`: it bears being asked for many paths that it may not have.
    pub want_mass_query: bool,
}

impl Default for Info {
    fn default() -> Self {
        Self { store_dir: None, priority: DEFAULT_PRIORITY, want_mass_query: false }
    }
}

/// Why a text is not a `nix-cache-info`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// It is not UTF-8.
    #[error("nix-cache-info is not UTF-8")]
    NotUtf8,
    /// `StoreDir` is no store directory.
    #[error("nix-cache-info: {0}")]
    StoreDir(PathError),
    /// A field is there twice.
    #[error("nix-cache-info gives {field} twice")]
    Repeated {
        /// The field.
        field: &'static str,
    },
    /// `Priority` is no number.
    #[error("nix-cache-info: Priority {text:?} is not a number")]
    Priority {
        /// What it is, shortened.
        text: String,
    },
}

impl Info {
    /// Reads a `nix-cache-info`. As in Nix, fields and lines that are not known are passed over: web servers that answer
    /// everything with a page say nothing here.
    pub fn parse(bytes: &[u8]) -> Result<Self, InfoError> {
        let text = str::from_utf8(bytes).map_err(|_| InfoError::NotUtf8)?;
        let mut info = Self::default();
        let mut seen = Vec::new();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let known = ["StoreDir", "Priority", "WantMassQuery"].into_iter().find(|known| *known == name);
            let Some(field) = known else { continue };
            if seen.contains(&field) {
                return Err(InfoError::Repeated { field });
            }
            seen.push(field);
            let value = value.trim();
            match field {
                "StoreDir" => info.store_dir = Some(value.parse().map_err(InfoError::StoreDir)?),
                "Priority" => {
                    let refused = || InfoError::Priority { text: value.chars().take(64).collect() };
                    info.priority = value.parse().map_err(|_| refused())?;
                }
                _ => info.want_mass_query = value == "1",
            }
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_nix_and_guix_are_read() {
        let nix = Info::parse(b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n").unwrap();
        assert_eq!(nix, Info { store_dir: Some(StoreDir::nix()), priority: 40, want_mass_query: true });
        let guix = Info::parse(b"StoreDir: /gnu/store\nWantMassQuery: 0\nPriority: 100\n").unwrap();
        assert_eq!(guix, Info { store_dir: Some(StoreDir::guix()), priority: 100, want_mass_query: false });
    }

    #[test]
    fn what_is_not_said_is_the_default() {
        for text in ["", "StoreDirs: /x\n", "<html>\n<a href=\"http://x\">\n", "no field\n\n"] {
            assert_eq!(Info::parse(text.as_bytes()), Ok(Info::default()), "{text}");
        }
        assert_eq!(Info::parse(b"StoreDir: /nix/store").unwrap().priority, 50);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["StoreDir: nix\n", "StoreDir: /nix/../store\n"] {
            assert!(matches!(Info::parse(text.as_bytes()), Err(InfoError::StoreDir(_))), "{text}");
        }
        for text in ["Priority: high\n", "Priority: -1\n", "Priority: 99999999999\n"] {
            assert!(matches!(Info::parse(text.as_bytes()), Err(InfoError::Priority { .. })), "{text}");
        }
        let twice = Info::parse(b"StoreDir: /nix/store\nStoreDir: /gnu/store\n");
        assert_eq!(twice, Err(InfoError::Repeated { field: "StoreDir" }));
        assert_eq!(Info::parse(b"StoreDir: /\xff\n"), Err(InfoError::NotUtf8));
    }
}
