//! The SHA-256 of a NAR, in every form that narinfos, databases and lock files write it.
//!
//! Nix and Guix print `sha256:` and 52 base32 characters; their databases hold 64 hexadecimal ones;
//! newer Nix prints SRI (`sha256-` and base64). All are read, the first is printed.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::{Digest, Sha256};

use super::base32::{self, Base32Error};

/// A SHA-256 as narinfos write it: of a NAR (`NarHash`), of a download (`FileHash`), or of the
/// contents of a flat file that a content address names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NarHash([u8; 32]);

/// Why a text is not a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The algorithm is not SHA-256, or is not named.
    #[error("hash {text:?} does not start with `sha256:` or `sha256-`")]
    Algorithm {
        /// The text.
        text: String,
    },
    /// No form of a SHA-256 has this number of characters.
    #[error("hash {text:?} has {found} digits; a SHA-256 has 52 (base32), 64 (hexadecimal) or 44 (base64)")]
    Length {
        /// The text.
        text: String,
        /// Characters after the algorithm.
        found: usize,
    },
    /// The digits are not base32.
    #[error("hash {text:?}: {source}")]
    Base32 {
        /// The text.
        text: String,
        /// What is wrong with the digits.
        source: Base32Error,
    },
    /// The digits are not hexadecimal.
    #[error("hash {text:?} is not hexadecimal: {source}")]
    Hexadecimal {
        /// The text.
        text: String,
        /// What is wrong with the digits.
        source: data_encoding::DecodeError,
    },
    /// The digits are not base64.
    #[error("hash {text:?} is not base64: {source}")]
    Base64 {
        /// The text.
        text: String,
        /// What is wrong with the digits.
        source: data_encoding::DecodeError,
    },
}

impl NarHash {
    /// From the 32 bytes of the digest.
    pub const fn new(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits, without the algorithm.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Subresource Integrity form: `sha256-` and base64.
    pub fn to_sri(&self) -> String {
        format!("sha256-{}", BASE64.encode(&self.0))
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", base32::encode(&self.0))
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NarHash {
    type Err = HashError;

    /// Reads `sha256:` with base32, hexadecimal or base64 digits, or SRI.
    fn from_str(text: &str) -> Result<Self, HashError> {
        let quoted = || text.chars().take(100).collect::<String>();
        let (digits, sri) = match (text.strip_prefix("sha256:"), text.strip_prefix("sha256-")) {
            (Some(digits), _) => (digits, false),
            (None, Some(digits)) => (digits, true),
            (None, None) => return Err(HashError::Algorithm { text: quoted() }),
        };
        match digits.len() {
            52 if !sri => base32::decode(digits)
                .map(Self)
                .map_err(|source| HashError::Base32 { text: quoted(), source }),
            64 if !sri => decode_32(&HEXLOWER_PERMISSIVE, digits)
                .map_err(|source| HashError::Hexadecimal { text: quoted(), source }),
            44 => decode_32(&BASE64, digits).map_err(|source| HashError::Base64 { text: quoted(), source }),
            found => Err(HashError::Length { text: quoted(), found }),
        }
    }
}

fn decode_32(
    encoding: &data_encoding::Encoding,
    digits: &str,
) -> Result<NarHash, data_encoding::DecodeError> {
    let bytes = encoding.decode(digits.as_bytes())?;
    // 44 base64 characters may also stand for 31 or 33 bytes.
    let digest = bytes.try_into().map_err(|bytes: Vec<u8>| data_encoding::DecodeError {
        position: bytes.len(),
        kind: data_encoding::DecodeKind::Length,
    })?;
    Ok(NarHash(digest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_forms_of_one_hash_are_equal() {
        let hash = NarHash::of(b"");
        for text in [
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
            "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        ] {
            assert_eq!(text.parse::<NarHash>(), Ok(hash), "{text}");
        }
    }

    #[test]
    fn other_algorithms_and_broken_digits_are_refused() {
        let refused = |text: &str| text.parse::<NarHash>().unwrap_err();
        for text in ["", "md5:0123", "SHA256:0", "0mdqa9w1p6cm"] {
            assert!(matches!(refused(text), HashError::Algorithm { .. }), "{text}");
        }
        let hex = "g".repeat(64);
        assert!(matches!(refused(&format!("sha256:{hex}")), HashError::Hexadecimal { .. }));
        let short = "A".repeat(43) + "=";
        assert!(format!("sha256-{short}").parse::<NarHash>().is_ok());
        let short = "A".repeat(42) + "==";
        assert!(matches!(refused(&format!("sha256-{short}")), HashError::Base64 { .. }));
        assert!(matches!(refused("sha256:abc"), HashError::Length { found: 3, .. }));
    }

    proptest! {
        #[test]
        fn every_form_comes_back(digest: [u8; 32]) {
            let hash = NarHash::new(digest);
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
            prop_assert_eq!(hash.to_sri().parse(), Ok(hash));
            prop_assert_eq!(format!("sha256:{}", hash.to_hex()).parse(), Ok(hash));
        }
    }
}
