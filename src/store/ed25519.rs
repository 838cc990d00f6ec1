//! Nix's keys and signatures: `NAME:BASE64`, all three.
//!
//! A signature counts if a trusted key has its name *and* verifies it: the name only says where to look. The same keys sign
//! `Sig`, which stock Nix checks, and `ERISSig`, which binds an ERIS content to the store path.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, DecodeError};
use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use super::fingerprint::{eris_fingerprint, fingerprint};
use super::narinfo::{Narinfo, NarinfoError};
use super::path::quoted;

/// Field of a signature of the fingerprint.
pub const SIG: &str = "Sig";

/// Field of a signature of an ERIS content.
pub const ERIS_SIG: &str = "ERISSig";

/// Why a text is not a key or a signature of Nix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is no colon, or nothing before it.
    #[error("not `NAME:BASE64`: no name before a colon")]
    NoName,
    /// What follows the colon is not base64.
    #[error("{name}: what follows the colon is not base64: {source}")]
    Base64 {
        /// The name.
        name: String,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// It does not have as many bytes as its kind has.
    #[error("{name}: {found} bytes follow the colon; {expected} expected")]
    Length {
        /// The name.
        name: String,
        /// Their number.
        found: usize,
        /// The number that is right.
        expected: usize,
    },
    /// The bytes are no public key, or one whose signatures anybody can make.
    #[error("{name}: not a public key of Ed25519")]
    Point {
        /// The name.
        name: String,
    },
    /// The second half of a secret key is not its public key.
    #[error("{name}: the secret key does not belong to the public key in its second half")]
    Mismatch {
        /// The name.
        name: String,
    },
}

/// Splits `NAME:BASE64`.
fn parse<const N: usize>(text: &str) -> Result<(&str, Zeroizing<[u8; N]>), KeyError> {
    let (name, encoded) =
        text.trim_ascii().split_once(':').filter(|(name, _)| !name.is_empty()).ok_or(KeyError::NoName)?;
    let bytes = BASE64
        .decode(encoded.as_bytes())
        .map(Zeroizing::new)
        .map_err(|source| KeyError::Base64 { name: quoted(name), source })?;
    let length = || KeyError::Length { name: quoted(name), found: bytes.len(), expected: N };
    Ok((name, Zeroizing::new(bytes.as_slice().try_into().map_err(|_| length())?)))
}

/// A public key with its name, as in Nix's `trusted-public-keys`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// The name, such as `cache.nixos.org-1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the signature is by this key and bears its name.
    pub fn verifies(&self, text: &str, signature: &Signature) -> bool {
        let by_dalek = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        self.name == signature.name && self.key.verify_strict(text.as_bytes(), &by_dalek).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads `NAME:BASE64` of 32 bytes, with white space around it.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = parse::<32>(text)?;
        let key = VerifyingKey::from_bytes(&bytes).ok().filter(|key| !key.is_weak());
        let key = key.ok_or_else(|| KeyError::Point { name: quoted(name) })?;
        Ok(Self { name: name.to_owned(), key })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret key with its name, as `nix key generate-secret` writes it; wiped from memory when it goes.
#[derive(Clone)]
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

impl SecretKey {
    /// Reads `NAME:BASE64` of 64 bytes: the secret, then its public key. The text itself is the caller's to wipe.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = parse::<64>(text)?;
        let key =
            SigningKey::from_keypair_bytes(&bytes).map_err(|_| KeyError::Mismatch { name: quoted(name) })?;
        Ok(Self { name: name.to_owned(), key })
    }

    /// A key of this name, made of 32 random bytes. The name is what stands before the colon: not empty, and without one.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        match name.is_empty() || name.contains(|c: char| c == ':' || c.is_control() || c.is_whitespace()) {
            true => Err(KeyError::NoName),
            false => Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(seed) }),
        }
    }

    /// The text of a secret key file, without a newline.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(self.key.to_keypair_bytes());
        Zeroizing::new(format!("{}:{}", self.name, *Zeroizing::new(BASE64.encode(&*bytes))))
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs a text.
    pub fn sign(&self, text: &str) -> Signature {
        Signature { name: self.name.clone(), bytes: self.key.sign(text.as_bytes()).to_bytes() }
    }

    /// The narinfo with a `Sig`, and an `ERISSig` for each ERIS content that it names.
    ///
    /// Stock Nix accepts the first and ignores the others. A content whose format or URN has a semicolon is left unsigned. A
    /// signature that is there already is not written twice.
    pub fn sign_narinfo(&self, narinfo: &Narinfo) -> Result<Narinfo, NarinfoError> {
        let signature = self.sign(&fingerprint(narinfo)).to_string();
        self.sign_contents(&with_line_once(narinfo, SIG, &signature)?)
    }

    /// The narinfo with an `ERISSig` for each ERIS content that it names, and no `Sig`: what a mirror adds to the signatures of
    /// the cache that it mirrors.
    pub fn sign_contents(&self, narinfo: &Narinfo) -> Result<Narinfo, NarinfoError> {
        let mut signed = narinfo.clone();
        for text in narinfo.eris().iter().filter_map(|content| eris_fingerprint(narinfo, content)) {
            signed = with_line_once(&signed, ERIS_SIG, &self.sign(&text).to_string())?;
        }
        Ok(signed)
    }
}

fn with_line_once(narinfo: &Narinfo, name: &str, value: &str) -> Result<Narinfo, NarinfoError> {
    match narinfo.fields().any(|field| field.name == name && field.value == value) {
        true => Ok(narinfo.clone()),
        false => narinfo.with_line(name, value),
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {}", self.public_key())
    }
}

/// A signature with the name of the key that it is said to be by.
#[derive(Clone, PartialEq, Eq)]
pub struct Signature {
    name: String,
    bytes: [u8; 64],
}

impl Signature {
    /// The name of the key.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Signature {
    type Err = KeyError;

    /// Reads `NAME:BASE64` of 64 bytes.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, bytes) = parse::<64>(text)?;
        Ok(Self { name: name.to_owned(), bytes: *bytes })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(&self.bytes))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Public key of cache.nixos.org, from the manual of Nix.
    const NIXOS: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    const PUBLIC: &str = include_str!("../../tests/samples/nix/key.pub");
    const NARINFO: &str =
        include_str!("../../tests/samples/nix/cache-zstd/v6aq93ycagivwjd24sdq6bk8mm0h4jj1.narinfo");

    fn secret() -> SecretKey {
        SecretKey::from_seed("ours-1", &[1; 32]).unwrap()
    }

    #[test]
    fn keys_and_signatures_read_and_print() {
        for text in [NIXOS, PUBLIC] {
            let key: PublicKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text.trim_end());
        }
        let key = secret();
        assert_eq!(SecretKey::parse(&key.to_text()).unwrap().public_key(), key.public_key());
        let signature = key.sign("text");
        assert_eq!(signature.to_string().parse(), Ok(signature.clone()));
        assert_eq!(
            (signature.name(), format!("{key:?}")),
            ("ours-1", format!("SecretKey of {}", key.public_key()))
        );
    }

    #[test]
    fn the_signature_of_a_real_cache_verifies() {
        let narinfo: Narinfo = NARINFO.parse().unwrap();
        let key: PublicKey = PUBLIC.parse().unwrap();
        let signature = narinfo.sigs().next().unwrap().parse().unwrap();
        let text = fingerprint(&narinfo);
        assert!(key.verifies(&text, &signature));
        assert!(!key.verifies(&text.replacen('1', "2", 1), &signature));
        assert!(!NIXOS.parse::<PublicKey>().unwrap().verifies(&text, &signature));
        let renamed: PublicKey = PUBLIC.replacen("test", "best", 1).parse().unwrap();
        assert!(!renamed.verifies(&text, &signature));
    }

    #[test]
    fn broken_keys_are_refused() {
        let refused = |text: &str| text.parse::<PublicKey>().expect_err(text);
        assert_eq!(refused(""), KeyError::NoName);
        assert_eq!(refused("name"), KeyError::NoName);
        assert_eq!(refused(":AAAA"), KeyError::NoName);
        assert!(matches!(refused("name:*"), KeyError::Base64 { .. }));
        assert!(matches!(refused(&format!("{NIXOS}=")), KeyError::Base64 { .. }));
        assert!(matches!(refused("name:AAAA"), KeyError::Length { found: 3, expected: 32, .. }));
        assert!(matches!(refused(&secret().to_text()), KeyError::Length { found: 64, expected: 32, .. }));
        // The neutral element: every signature with s = 0 would be right.
        let neutral = format!("name:AQ{}=", "A".repeat(41));
        assert!(matches!(refused(&neutral), KeyError::Point { .. }));
        let parse = |text: &str| SecretKey::parse(text).unwrap_err();
        assert!(matches!(parse(NIXOS), KeyError::Length { found: 32, expected: 64, .. }));
        let halves = [[1; 32], [2; 32]].concat();
        assert!(matches!(parse(&format!("name:{}", BASE64.encode(&halves))), KeyError::Mismatch { .. }));
        for name in ["", "a:b", "a b", "a\n"] {
            assert_eq!(SecretKey::from_seed(name, &[1; 32]).unwrap_err(), KeyError::NoName);
        }
    }

    #[test]
    fn a_narinfo_gets_a_signature_for_the_path_and_one_for_each_content() {
        let narinfo: Narinfo = NARINFO.parse().unwrap();
        let key = secret();
        let plain = key.sign_narinfo(&narinfo).unwrap();
        assert_eq!((plain.sigs().count(), plain.field(ERIS_SIG)), (2, None));
        let lines = "ERIS: urn:eris:A\nERIS: urn:eris:B\n";
        let signed = key.sign_narinfo(&format!("{NARINFO}{lines}").parse().unwrap()).unwrap();
        let signatures = signed.fields().filter(|field| field.name == ERIS_SIG);
        for (field, content) in signatures.zip(signed.eris()) {
            let text = eris_fingerprint(&signed, content).unwrap();
            assert!(key.public_key().verifies(&text, &field.value.parse().unwrap()));
        }
        assert_eq!(signed.fields().filter(|field| field.name == ERIS_SIG).count(), 2);
        assert_eq!(key.sign_narinfo(&signed), Ok(signed), "signing again adds nothing");
    }
}
