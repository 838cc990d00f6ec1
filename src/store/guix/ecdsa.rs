//! ECDSA over the curve of Ed25519 with SHA-256, as libgcrypt computes it.
//!
//! The group is edwards25519 with its base point, of order L (253 bits): a hash is cut to its leftmost 253 bits, and `r`
//! is the affine x coordinate of the nonce's point, modulo L. Points and scalars are curve25519-dalek's. What handles a
//! secret takes the same time whatever its value, but for the rejected nonces, which are not used.

use crypto_bigint::{NonZero, U256};
use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::{EdwardsPoint, Scalar};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// A SHA-256 has 256 bits, the order of the group 253.
const EXCESS_BITS: u32 = 3;

/// 2^255 - 19, the order of the field.
const P: NonZero<U256> = NonZero::<U256>::new_unwrap(U256::from_be_hex(
    "7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed",
));

/// The inverse of the x coordinate of `EIGHT_TORSION[2]`, a square root of -1.
const INVERSE_OF_TORSION_X: U256 =
    U256::from_be_hex("2b8324804fc1df0b2b4d00993dfbd7a72f431806ad2fe478c4ee1b274a0ea0b0");

/// Whether (r, s) is a signature of the hash by the key that the point is.
pub(super) fn verify(key: &EdwardsPoint, hash: &[u8; 32], r: &Scalar, s: &Scalar) -> bool {
    if *r == Scalar::ZERO || *s == Scalar::ZERO {
        return false;
    }
    let inverse = s.invert();
    let (of_key, of_base) = (r * inverse, scalar_of_hash(hash) * inverse);
    x_coordinate(&EdwardsPoint::vartime_double_scalar_mul_basepoint(&of_key, key, &of_base)) == *r
}

/// The signature (r, s) of the hash by the secret key, a number whose most significant byte comes first.
pub(super) fn sign(secret: &[u8; 32], hash: &[u8; 32]) -> (Scalar, Scalar) {
    let hashed = scalar_of_hash(hash);
    let mut nonces = Nonces::new(secret, &hashed);
    let secret = scalar_of_secret(secret);
    loop {
        let nonce = nonces.next();
        let r = x_coordinate(&EdwardsPoint::mul_base(&nonce));
        let inverse = Zeroizing::new(nonce.invert());
        let s = *inverse * (hashed + r * *secret);
        // Neither happens, but the standard asks for it.
        if r != Scalar::ZERO && s != Scalar::ZERO {
            return (r, s);
        }
    }
}

/// A number of at most 253 bits that 32 bytes begin with; most significant byte first.
fn leading_bits(bytes: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    let mut number = Zeroizing::new(U256::from_be_slice(bytes));
    *number = number.shr_vartime(EXCESS_BITS);
    Zeroizing::new(number.to_le_bytes().into())
}

/// The hash as a scalar: its leading bits, modulo the order of the group.
fn scalar_of_hash(hash: &[u8; 32]) -> Scalar {
    Scalar::from_bytes_mod_order(*leading_bits(hash))
}

/// A secret key as a scalar: modulo the order of the group, above which libgcrypt's keys are.
pub(super) fn scalar_of_secret(secret: &[u8; 32]) -> Zeroizing<Scalar> {
    let mut little_endian = Zeroizing::new(*secret);
    little_endian.reverse();
    Zeroizing::new(Scalar::from_bytes_mod_order(*little_endian))
}

/// The affine x coordinate, modulo the order of the group.
///
/// dalek gives no x, but a point's encoding holds its y. Adding T = (t, 0), a point of order 4, turns (x, y) into a point
/// whose y is t·x: the sum's y is (y·0 + x·t) / (1 - d·x·t·y·0).
fn x_coordinate(point: &EdwardsPoint) -> Scalar {
    let mut encoded = (point + EIGHT_TORSION[2]).compress().to_bytes();
    encoded[31] &= 0x7f; // the sign of the sum's x
    let x = U256::from_le_slice(&encoded).mul_mod(&INVERSE_OF_TORSION_X, &P);
    Scalar::from_bytes_mod_order(x.to_le_bytes().into())
}

/// The nonces of RFC 6979, section 3.2, for a key and a hash.
struct Nonces {
    key: Zeroizing<[u8; 32]>,
    value: Zeroizing<[u8; 32]>,
    /// Whether a nonce was given out, and is not wanted.
    used: bool,
}

impl Nonces {
    /// The standard has the secret key below the order of the group. libgcrypt takes it as it is, and so does this.
    fn new(secret: &[u8; 32], hashed: &Scalar) -> Self {
        let mut hashed = hashed.to_bytes();
        hashed.reverse();
        let mut nonces = Self { key: Zeroizing::new([0; 32]), value: Zeroizing::new([1; 32]), used: false };
        for step in [0, 1] {
            nonces.rekey(&[&[step], secret, &hashed]);
        }
        nonces
    }

    fn next(&mut self) -> Zeroizing<Scalar> {
        loop {
            if std::mem::replace(&mut self.used, true) {
                self.rekey(&[&[0]]);
            }
            self.value = self.mac(&[]);
            let nonce = Scalar::from_canonical_bytes(*leading_bits(&self.value)).map(Zeroizing::new);
            if let Some(nonce) = nonce.into_option().filter(|nonce| **nonce != Scalar::ZERO) {
                return nonce;
            }
        }
    }

    /// K = HMAC(K, V ‖ parts), V = HMAC(K, V).
    fn rekey(&mut self, parts: &[&[u8]]) {
        self.key = self.mac(parts);
        self.value = self.mac(&[]);
    }

    /// HMAC(K, V ‖ parts).
    fn mac(&self, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.key).expect("HMAC takes keys of any length");
        mac.update(&*self.value);
        parts.iter().for_each(|part| mac.update(part));
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
    use sha2::Digest;

    use super::*;

    #[test]
    fn the_x_coordinate_of_the_base_point_is_the_known_one() {
        // RFC 8032, section 5.1: 15112221349535400772501151409588531511454012693041857206046113283949847762202.
        let x = U256::from_be_hex("216936d3cd6e53fec0a4e231fdd6dc5c692cc7609525a7b2c9562d608f25d51a");
        let expected = Scalar::from_bytes_mod_order(x.to_le_bytes().into());
        assert_eq!(x_coordinate(&ED25519_BASEPOINT_POINT), expected);
        assert_eq!(x_coordinate(&-ED25519_BASEPOINT_POINT), {
            let negative = P.get().wrapping_sub(&x);
            Scalar::from_bytes_mod_order(negative.to_le_bytes().into())
        });
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else_does() {
        for number in 1..20_u8 {
            // Below the order of the group, and above it.
            let secret = [number << 3; 32];
            let key = EdwardsPoint::mul_base(&scalar_of_secret(&secret));
            let hash = Sha256::digest([number]).into();
            let (r, s) = sign(&secret, &hash);
            assert!(verify(&key, &hash, &r, &s));
            assert!(!verify(&key, &Sha256::digest(b"other").into(), &r, &s));
            assert!(!verify(&(key + ED25519_BASEPOINT_POINT), &hash, &r, &s));
            assert!(!verify(&key, &hash, &(r + Scalar::ONE), &s));
            assert!(!verify(&key, &hash, &r, &(s + Scalar::ONE)));
            assert!(!verify(&key, &hash, &s, &r));
        }
    }

    #[test]
    fn zero_is_no_part_of_a_signature() {
        let key = EdwardsPoint::mul_base(&scalar_of_secret(&[5; 32]));
        let hash = [7; 32];
        let (r, s) = sign(&[5; 32], &hash);
        assert!(!verify(&key, &hash, &Scalar::ZERO, &s));
        assert!(!verify(&key, &hash, &r, &Scalar::ZERO));
        // With the neutral element for a key, r = 0 would be forged at will.
        assert!(!verify(&EIGHT_TORSION[0], &[0; 32], &Scalar::ZERO, &Scalar::ONE));
    }

    #[test]
    fn a_second_nonce_differs_from_the_first() {
        let mut nonces = Nonces::new(&[3; 32], &Scalar::from(4_u8));
        let first = nonces.next();
        assert_ne!(*first, *nonces.next());
        assert_eq!(*first, *Nonces::new(&[3; 32], &Scalar::from(4_u8)).next());
    }
}
