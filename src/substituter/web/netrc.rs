//! Passwords of hosts, from a file in the format of `.netrc`.

/// Passwords by host.
#[derive(Clone, Default, Debug)]
pub struct Netrc {}

/// Why a text is no netrc file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetrcError {
    /// A word that nobody knows.
    #[error("line {line}: unknown")]
    Unknown {
        /// From 1.
        line: usize,
    },
}
