//! The keys of Guix's substitute servers: `signing-key.pub` and `signing-key.sec`.
//!
//! Both are s-expressions. A public key is a point of the curve in Ed25519's compressed form; Guix compares keys by these
//! bytes, so only their one canonical form is taken. A secret key is a number of up to 256 bits; libgcrypt makes it as
//! RFC 8032 does, so that it is above the order of the group.

use std::fmt;
use std::str::FromStr;

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::{EdwardsPoint, Scalar};
use data_encoding::HEXUPPER;
use zeroize::Zeroizing;

use super::ecdsa;
use super::sexp::{Sexp, SexpError};

/// Name of the curve, as Guix writes it.
const CURVE: &str = "Ed25519";

/// Why a text is not a key of Guix, or not one that is understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It is not an s-expression.
    #[error(transparent)]
    Sexp(#[from] SexpError),
    /// It is something else, or a key of another algorithm or curve (RSA, in old access lists).
    #[error("not a key of Guix on the curve {CURVE}: {expected} expected")]
    Shape {
        /// What should be there.
        expected: &'static str,
    },
    /// `q` is not the canonical encoding of a point of the curve.
    #[error("the public key is not a point of the curve {CURVE}")]
    Point,
    /// `d` is zero, modulo the order of the group, or longer than 256 bits.
    #[error("the secret key is not a number of at most 256 bits, or stands for zero")]
    Scalar,
    /// The two halves of a secret key file are not of one key.
    #[error("the secret key does not belong to the public key beside it")]
    Mismatch,
}

/// A public key. Two are equal if Guix would say so.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PublicKey {
    /// The canonical encoding of a point.
    encoded: [u8; 32],
}

impl PublicKey {
    /// From the 32 bytes of `q`.
    pub fn from_bytes(encoded: [u8; 32]) -> Result<Self, KeyError> {
        let point = CompressedEdwardsY(encoded).decompress().ok_or(KeyError::Point)?;
        // dalek also takes a y that is not below the order of the field, which libgcrypt refuses.
        if point.compress().to_bytes() != encoded {
            return Err(KeyError::Point);
        }
        Ok(Self { encoded })
    }

    /// The 32 bytes of `q`.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.encoded
    }

    /// From `(public-key (ecc (curve Ed25519) (q #..#)))`.
    pub fn from_sexp(sexp: &Sexp) -> Result<Self, KeyError> {
        let [q] = parameters(sexp, "public-key", ["q"])?;
        q.try_into().map_err(|_| KeyError::Point).and_then(Self::from_bytes)
    }

    /// `(public-key (ecc (curve Ed25519) (q #..#)))`.
    pub fn to_sexp(&self) -> Sexp {
        let curve = Sexp::tagged("curve", [Sexp::atom(CURVE)]);
        let q = Sexp::tagged("q", [Sexp::atom(self.encoded)]);
        Sexp::tagged("public-key", [Sexp::tagged("ecc", [curve, q])])
    }

    /// Whether (r, s) is a signature of the hash by this key.
    pub(super) fn verifies(&self, hash: &[u8; 32], r: &Scalar, s: &Scalar) -> bool {
        ecdsa::verify(&self.point(), hash, r, s)
    }

    fn point(&self) -> EdwardsPoint {
        CompressedEdwardsY(self.encoded).decompress().expect("it was decompressed when the key was made")
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    /// Reads the text of a `signing-key.pub`.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_sexp(&Sexp::parse(text)?)
    }
}

impl fmt::Display for PublicKey {
    /// `q` in hexadecimal, as the files have it and people compare it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXUPPER.encode(&self.encoded))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret key, wiped from memory when it goes.
#[derive(Clone)]
pub struct SecretKey {
    /// Most significant byte first.
    number: Zeroizing<[u8; 32]>,
    public: PublicKey,
}

impl SecretKey {
    /// Reads the text of a `signing-key.sec`, or a whole key pair as libgcrypt makes it: `(key-data (public-key ..)
    /// (private-key ..))`. The text itself is the caller's to wipe.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let sexp = Sexp::parse(text)?;
        let mut halves = sexp.after("key-data").unwrap_or(std::slice::from_ref(&sexp)).iter();
        let private = halves.find(|half| half.after("private-key").is_some());
        let private = private.ok_or(KeyError::Shape { expected: "private-key" })?;
        let [q, d] = parameters(private, "private-key", ["q", "d"])?;
        let public = q.try_into().map_err(|_| KeyError::Point).and_then(PublicKey::from_bytes)?;
        let number = padded(d).ok_or(KeyError::Scalar)?;
        let secret = ecdsa::scalar_of_secret(&number);
        if *secret == Scalar::ZERO {
            return Err(KeyError::Scalar);
        }
        if EdwardsPoint::mul_base(&secret) != public.point() {
            return Err(KeyError::Mismatch);
        }
        Ok(Self { number, public })
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The signature (r, s) of the hash.
    pub(super) fn sign(&self, hash: &[u8; 32]) -> (Scalar, Scalar) {
        ecdsa::sign(&self.number, hash)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {}", self.public)
    }
}

/// The values of these parameters of a key that has them and no others.
fn parameters<'a, const N: usize>(
    sexp: &'a Sexp,
    kind: &'static str,
    names: [&'static str; N],
) -> Result<[&'a [u8]; N], KeyError> {
    let shape = |expected| KeyError::Shape { expected };
    let Some([key]) = sexp.after(kind) else { return Err(shape(kind)) };
    let Some([curve, values @ ..]) = key.after("ecc") else { return Err(shape("ecc")) };
    match curve.after("curve") {
        Some([name]) if name.is(CURVE) => {}
        _ => return Err(shape("(curve Ed25519)")),
    }
    let values: &[Sexp; N] = values.try_into().map_err(|_| shape("one value for each parameter"))?;
    let mut found = [&[][..]; N];
    for ((slot, value), name) in found.iter_mut().zip(values).zip(names) {
        match value.after(name) {
            Some([Sexp::Atom(bytes)]) => *slot = bytes,
            _ => return Err(shape(name)),
        }
    }
    Ok(found)
}

/// A number of at most 256 bits, most significant byte first, with or without zeros before it.
fn padded(bytes: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let (zeros, digits) = bytes.split_at(bytes.len().saturating_sub(32));
    let mut number = Zeroizing::new([0; 32]);
    number[32 - digits.len()..].copy_from_slice(digits);
    zeros.iter().all(|&byte| byte == 0).then_some(number)
}

/// Such a number, below the order of the group.
pub(super) fn number(bytes: &[u8]) -> Option<Scalar> {
    let mut little_endian = padded(bytes)?;
    little_endian.reverse();
    Scalar::from_canonical_bytes(*little_endian).into_option()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &str = include_str!("../../../tests/samples/guix/signing-key.pub");

    /// A key file as `guix archive --generate-key` writes it, of a secret key that is no secret.
    fn secret_file(d: &str) -> String {
        let q = PublicKey { encoded: EdwardsPoint::mul_base(&Scalar::from(7_u8)).compress().0 };
        format!("(private-key \n (ecc \n  (curve Ed25519)\n  (q #{q}#)\n  (d #{d}#)\n  )\n )\n")
    }

    #[test]
    fn a_public_key_file_reads_and_prints() {
        let key: PublicKey = PUBLIC.parse().unwrap();
        assert_eq!(key.to_string(), "1300A14C2E1567F072542B4EB3E2D331D547F464793D62DA28343AE19989CA29");
        assert_eq!(key.to_sexp().to_string(), PUBLIC);
        assert_eq!(PublicKey::from_bytes(*key.as_bytes()), Ok(key));
    }

    #[test]
    fn a_secret_key_file_reads_with_and_without_zeros_before_its_number() {
        for d in ["07", "00000007", &format!("{:0>80}", 7)] {
            let key = SecretKey::parse(&secret_file(d)).unwrap();
            assert_eq!(
                key.public_key().as_bytes(),
                &EdwardsPoint::mul_base(&Scalar::from(7_u8)).compress().0
            );
            assert_eq!(format!("{key:?}"), format!("SecretKey of {}", key.public_key()));
        }
    }

    #[test]
    fn the_secret_half_of_a_key_pair_is_found() {
        let private = secret_file("07");
        let public = private.replace("private-key", "public-key").replace("  (d #07#)\n", "");
        let pair = format!("(key-data {public} {private})");
        let key = SecretKey::parse(&pair).unwrap();
        assert_eq!(key.public_key(), SecretKey::parse(&private).unwrap().public_key());
        let half = SecretKey::parse(&format!("(key-data {public})")).unwrap_err();
        assert_eq!(half, KeyError::Shape { expected: "private-key" });
    }

    #[test]
    fn numbers_that_are_no_secret_key_are_refused() {
        let order = "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed";
        for d in ["", "00", order, &format!("01{}07", "00".repeat(32))] {
            assert_eq!(SecretKey::parse(&secret_file(d)).unwrap_err(), KeyError::Scalar, "{d}");
        }
        assert_eq!(SecretKey::parse(&secret_file("08")).unwrap_err(), KeyError::Mismatch);
    }

    #[test]
    fn other_keys_are_refused() {
        let shape = |text: &str| match text.parse::<PublicKey>() {
            Err(KeyError::Shape { expected }) => expected,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(shape("(public-key (rsa (n #00#) (e #010001#)))"), "ecc");
        assert_eq!(shape(&PUBLIC.replace("Ed25519", "Ed448")), "(curve Ed25519)");
        assert_eq!(shape(&PUBLIC.replace("(q ", "(flags eddsa) (q ")), "one value for each parameter");
        assert_eq!(shape(&PUBLIC.replace("(q ", "(p ")), "q");
        assert_eq!(shape(&secret_file("07")), "public-key");
        assert_eq!(SecretKey::parse(PUBLIC).unwrap_err(), KeyError::Shape { expected: "private-key" });
        assert!(matches!("(public-key".parse::<PublicKey>(), Err(KeyError::Sexp(SexpError::Truncated))));
    }

    #[test]
    fn a_point_has_one_encoding() {
        let with = |bytes: [u8; 32]| PublicKey::from_bytes(bytes);
        let mut one = [0; 32];
        one[0] = 1;
        assert!(with(one).is_ok());
        let mut negative_zero = one;
        negative_zero[31] = 0x80;
        assert_eq!(with(negative_zero), Err(KeyError::Point));
        // p + 1, which is 1 again.
        let mut beyond = [0xff; 32];
        (beyond[0], beyond[31]) = (0xee, 0x7f);
        assert_eq!(with(beyond), Err(KeyError::Point));
        // Half of all numbers are no y of any point; 2 is one of them.
        let mut two = [0; 32];
        two[0] = 2;
        assert_eq!(with(two), Err(KeyError::Point));
        assert_eq!(PUBLIC.replace("1300A1", "A1").parse::<PublicKey>(), Err(KeyError::Point));
    }
}
