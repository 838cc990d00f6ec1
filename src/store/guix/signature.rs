//! The `Signature` field of Guix's narinfos: `1;HOST;BASE64`.
//!
//! It signs the text above itself, byte for byte, and nothing below. `HOST` is a remark that no signature covers. The
//! fields that Guix wants signed are looked for above it: a narinfo without them counts as unsigned.

use curve25519_dalek::Scalar;
use data_encoding::BASE64;
use sha2::{Digest, Sha256};

use super::key::{KeyError, PublicKey, SecretKey, number};
use super::sexp::{Sexp, SexpError};
use crate::store::narinfo::{Narinfo, NarinfoError};
use crate::store::path::quoted;

/// What begins the field, and ends the signed text at its first occurrence, wherever that is (Guix's `narinfo-sha256`).
const MARK: &str = "Signature:";

/// Fields that must be signed. Guix asks for the first three; the size of the NAR is one of the things we rely on.
const MANDATORY: [&str; 4] = ["StorePath", "NarHash", "References", "NarSize"];

/// Why a signature proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The field is not `VERSION;HOST;BASE64`.
    #[error("the Guix signature is not `VERSION;HOST;BASE64`: {text:?}")]
    Field {
        /// The field, shortened.
        text: String,
    },
    /// The version is not 1, the only one there is.
    #[error("the Guix signature has version {found:?}, not 1")]
    Version {
        /// The version, shortened.
        found: String,
    },
    /// The third part is not base64 of UTF-8.
    #[error("the Guix signature is not base64 of a text")]
    Base64,
    /// It is not an s-expression.
    #[error("the Guix signature: {source}")]
    Sexp {
        /// What is wrong.
        source: SexpError,
    },
    /// It is another s-expression, or a signature of another algorithm.
    #[error("the Guix signature is not one by ECDSA with SHA-256: {expected} expected")]
    Shape {
        /// What should be there.
        expected: &'static str,
    },
    /// The key in it is not understood.
    #[error("the Guix signature: {source}")]
    Key {
        /// What is wrong with the key.
        source: KeyError,
    },
    /// `Signature:` stands above the field too, so that Guix would take another text for the signed one.
    #[error("`{MARK}` stands in the text above the Guix signature")]
    Ambiguous,
    /// A field that has to be signed is not above the signature.
    #[error("the Guix signature does not cover {field}")]
    NotCovered {
        /// The field.
        field: &'static str,
    },
    /// It was made for another text.
    #[error("the Guix signature is of another text: the narinfo was changed")]
    OtherText,
    /// The numbers in it are not what the key's owner would have made.
    #[error("the Guix signature is wrong: it is not by the key {key} that it names")]
    Wrong {
        /// The key that the signature names.
        key: PublicKey,
    },
}

/// Why a narinfo cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// The host's name does not fit in the field.
    #[error("host name {host:?} for a Guix signature has a semicolon or a control character, or is too long")]
    Host {
        /// The name, shortened.
        host: String,
    },
    /// The signature would prove nothing: there is one already, or a field that has to be signed is not there.
    #[error("this narinfo cannot be signed for Guix: {source}")]
    Unprovable {
        /// What a reader would say.
        source: SignatureError,
    },
    /// The narinfo with the signature would not be one.
    #[error(transparent)]
    Narinfo(#[from] NarinfoError),
}

/// A signature that was read, but not checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    host: String,
    hash: [u8; 32],
    r: Scalar,
    s: Scalar,
    key: PublicKey,
}

impl Signature {
    /// Reads the value of a `Signature` field.
    pub fn parse(field: &str) -> Result<Self, SignatureError> {
        let mut parts = field.split(';');
        let (Some(version), Some(host), Some(encoded), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(SignatureError::Field { text: quoted(field) });
        };
        if version != "1" {
            return Err(SignatureError::Version { found: quoted(version) });
        }
        let text = BASE64.decode(encoded.as_bytes()).map_err(|_| SignatureError::Base64)?;
        let text = str::from_utf8(&text).map_err(|_| SignatureError::Base64)?;
        let sexp = Sexp::parse(text).map_err(|source| SignatureError::Sexp { source })?;
        Self::from_sexp(host, &sexp)
    }

    fn from_sexp(host: &str, sexp: &Sexp) -> Result<Self, SignatureError> {
        let shape = |expected| SignatureError::Shape { expected };
        let Some([data, value, key]) = sexp.after("signature") else {
            return Err(shape("(signature DATA VALUE KEY)"));
        };
        let Some([flags, hash]) = data.after("data") else { return Err(shape("data")) };
        if !matches!(flags.after("flags"), Some([flag]) if flag.is("rfc6979")) {
            return Err(shape("(flags rfc6979)"));
        }
        let hash = match hash.after("hash") {
            Some([algorithm, Sexp::Atom(hash)]) if algorithm.is("sha256") => hash.as_slice().try_into().ok(),
            _ => None,
        };
        let hash = hash.ok_or(shape("(hash sha256 #32 bytes#)"))?;
        let Some([ecdsa]) = value.after("sig-val") else { return Err(shape("sig-val")) };
        let Some([r, s]) = ecdsa.after("ecdsa") else { return Err(shape("(ecdsa R S)")) };
        let part = |sexp: &Sexp, name| match sexp.after(name) {
            Some([Sexp::Atom(bytes)]) => number(bytes),
            _ => None,
        };
        let r = part(r, "r").ok_or(shape("(r #number#)"))?;
        let s = part(s, "s").ok_or(shape("(s #number#)"))?;
        let key = PublicKey::from_sexp(key).map_err(|source| SignatureError::Key { source })?;
        Ok(Self { host: host.to_owned(), hash, r, s, key })
    }

    /// The host that the signature says it is from. Not signed.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The key that the signature says it is by.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Checks that the owner of [`Signature::key`] signed this text.
    pub fn verify(&self, text: &str) -> Result<(), SignatureError> {
        if hash(text) != self.hash {
            return Err(SignatureError::OtherText);
        }
        match self.key.verifies(&self.hash, &self.r, &self.s) {
            true => Ok(()),
            false => Err(SignatureError::Wrong { key: self.key }),
        }
    }

    /// The signature of a text: the value of a `Signature` field, in the bytes that Guix and libgcrypt would write.
    pub fn sign(text: &str, host: &str, key: &SecretKey) -> String {
        let hash = hash(text);
        let (r, s) = key.sign(&hash);
        let data = [
            Sexp::tagged("flags", [Sexp::atom("rfc6979")]),
            Sexp::tagged("hash", [Sexp::atom("sha256"), Sexp::atom(hash)]),
        ];
        let ecdsa = Sexp::tagged(
            "ecdsa",
            [Sexp::tagged("r", [Sexp::atom(shortest(&r))]), Sexp::tagged("s", [Sexp::atom(shortest(&s))])],
        );
        let signature = Sexp::tagged(
            "signature",
            [Sexp::tagged("data", data), Sexp::tagged("sig-val", [ecdsa]), key.public_key().to_sexp()],
        );
        format!("1;{host};{}", BASE64.encode(signature.to_string().as_bytes()))
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The number without zeros before it, most significant byte first: libgcrypt's `GCRYMPI_FMT_USG`.
fn shortest(number: &Scalar) -> Vec<u8> {
    let bytes = number.as_bytes();
    bytes.iter().rev().skip_while(|byte| **byte == 0).copied().collect()
}

/// The part of a narinfo that its signature at `offset` speaks of. Fails where Guix would take another part, or no signature.
pub(in crate::store) fn signed_text(narinfo: &Narinfo, offset: usize) -> Result<&str, SignatureError> {
    let text = &narinfo.as_str()[..offset];
    if text.contains(MARK) {
        return Err(SignatureError::Ambiguous);
    }
    for field in MANDATORY {
        if narinfo.field(field).is_none_or(|found| found.offset >= offset) {
            return Err(SignatureError::NotCovered { field });
        }
    }
    Ok(text)
}

/// The narinfo with a signature of all its fields below them. `host` is a remark for people.
pub fn sign(narinfo: &Narinfo, host: &str, key: &SecretKey) -> Result<Narinfo, SigningError> {
    // Longer than any host name of the DNS.
    if host.len() > 255 || host.contains(|c: char| c == ';' || c.is_control()) {
        return Err(SigningError::Host { host: quoted(host) });
    }
    let text = narinfo.as_str();
    signed_text(narinfo, text.len()).map_err(|source| SigningError::Unprovable { source })?;
    Ok(narinfo.with_line("Signature", &Signature::sign(text, host, key))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = include_str!("../../../tests/samples/guix/test-signing-key.sec");
    /// What Guix 1.5 and libgcrypt 1.10 made with this key, the same: a remark, the signed line, the base64 of the signature.
    const SIGNATURES: &str = include_str!("../../../tests/samples/guix/signatures.txt");
    const NARINFO: &str =
        include_str!("../../../tests/samples/guix/cached/rc7mh4hv8bhg85ndx9jhzyhs27ji0q4b.narinfo");

    fn vectors() -> impl Iterator<Item = (&'static str, String, &'static str)> {
        SIGNATURES.lines().map(|line| {
            let columns: Vec<_> = line.split('\t').collect();
            (columns[0], format!("{}\n", columns[1]), columns[2])
        })
    }

    fn key() -> SecretKey {
        SecretKey::parse(SECRET).unwrap()
    }

    #[test]
    fn we_sign_as_libgcrypt_does_to_the_last_bit() {
        for (remark, text, signature) in vectors() {
            assert_eq!(Signature::sign(&text, "host", &key()), format!("1;host;{signature}"), "{remark}");
        }
    }

    #[test]
    fn what_libgcrypt_signed_is_accepted_and_nothing_else() {
        for (remark, text, signature) in vectors() {
            let signature = Signature::parse(&format!("1;;{signature}")).expect(remark);
            assert_eq!((signature.host(), signature.key()), ("", key().public_key()));
            assert_eq!(signature.verify(&text), Ok(()), "{remark}");
            assert_eq!(signature.verify(text.trim_end()), Err(SignatureError::OtherText));
            let other = Signature { s: signature.s + Scalar::ONE, ..signature };
            assert_eq!(other.verify(&text), Err(SignatureError::Wrong { key: *key().public_key() }));
        }
    }

    #[test]
    fn the_vectors_have_numbers_in_every_form() {
        // About one number in 37,000 is printed as text by libgcrypt.
        for remark in ["plain", "r-short", "s-short", "r-quoted", "s-quoted", "hash-quoted"] {
            assert!(vectors().any(|vector| vector.0 == remark), "{remark}");
        }
    }

    #[test]
    fn a_narinfo_is_signed_as_a_whole() {
        let unsigned = NARINFO.parse::<Narinfo>().unwrap().without_field("Signature").unwrap();
        let signed = sign(&unsigned, "host", &key()).unwrap();
        let field = signed.guix_signature().unwrap();
        assert_eq!(signed_text(&signed, field.offset), Ok(unsigned.as_str()));
        assert_eq!(Signature::parse(field.value).unwrap().verify(unsigned.as_str()), Ok(()));
    }

    #[test]
    fn what_guix_would_not_believe_is_not_signed() {
        let signed: Narinfo = NARINFO.parse().unwrap();
        let refused = |narinfo: &Narinfo, host: &str| sign(narinfo, host, &key()).unwrap_err();
        let source = SignatureError::Ambiguous;
        assert_eq!(refused(&signed, "host"), SigningError::Unprovable { source });
        let unsigned = signed.without_field("Signature").unwrap();
        let source = SignatureError::NotCovered { field: "References" };
        assert_eq!(
            refused(&unsigned.without_field("References").unwrap(), "host"),
            SigningError::Unprovable { source }
        );
        for host in ["a;b", "a\nb", &"a".repeat(256)] {
            assert!(matches!(refused(&unsigned, host), SigningError::Host { .. }));
        }
    }
}
