//! Nix's base32: the alphabet of store paths and hashes, without `e o t u`, last bits first.
//!
//! It is not RFC 4648: the text is the little-endian number written from its most significant digit
//! on, and there is no padding. Every byte string has exactly one text, and only that one is read.

const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Marks a byte that is not in the alphabet.
const INVALID: u8 = 0xff;

const DIGITS: [u8; 256] = {
    let mut digits = [INVALID; 256];
    let mut value = 0;
    while value < ALPHABET.len() {
        digits[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// Why a text is not base32 of the expected number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Base32Error {
    /// The text has another number of characters than the bytes take.
    #[error("base32 text has {found} characters where {expected} are expected")]
    Length {
        /// Characters that the bytes take.
        expected: usize,
        /// Characters that were found.
        found: usize,
    },
    /// A character is outside Nix's alphabet.
    #[error("byte {byte:#04x} at position {position} is not in Nix's base32 alphabet")]
    Alphabet {
        /// The offending byte.
        byte: u8,
        /// Its place in the text, from 0.
        position: usize,
    },
    /// The first character holds bits that no byte takes.
    #[error("base32 text does not fit: its spare bits are not zero")]
    SpareBits,
}

/// Number of characters that `bytes` bytes take.
pub const fn encoded_length(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// The text of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    (0..encoded_length(bytes.len()))
        .rev()
        .map(|digit| {
            let (at, shift) = (digit * 5 / 8, digit * 5 % 8);
            let high = bytes.get(at + 1).copied().unwrap_or(0);
            let window = u16::from_le_bytes([bytes[at], high]) >> shift;
            char::from(ALPHABET[usize::from(window & 31)])
        })
        .collect()
}

/// Reads a text that must stand for exactly `N` bytes.
pub fn decode<const N: usize>(text: &str) -> Result<[u8; N], Base32Error> {
    let expected = encoded_length(N);
    if text.len() != expected {
        return Err(Base32Error::Length { expected, found: text.len() });
    }
    let mut bytes = [0; N];
    for (digit, (position, &byte)) in text.as_bytes().iter().enumerate().rev().enumerate() {
        let value = DIGITS[usize::from(byte)];
        if value == INVALID {
            return Err(Base32Error::Alphabet { byte, position });
        }
        let (at, shift) = (digit * 5 / 8, digit * 5 % 8);
        let [low, high] = (u16::from(value) << shift).to_le_bytes();
        bytes[at] |= low;
        match bytes.get_mut(at + 1) {
            Some(next) => *next |= high,
            None if high == 0 => {}
            None => return Err(Base32Error::SpareBits),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SHA-256 of the empty string, as `nix hash to-base32` prints it.
    const EMPTY: &str = "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";

    #[test]
    fn a_known_hash_reads_and_prints() {
        let bytes: [u8; 32] = decode(EMPTY).unwrap();
        assert_eq!(bytes[..4], [0xe3, 0xb0, 0xc4, 0x42]);
        assert_eq!(encode(&bytes), EMPTY);
    }

    #[test]
    fn spare_bits_must_be_zero() {
        // 32 bytes are 256 bits, 52 characters hold 260: the first may only be 0 or 1.
        let text = format!("2{}", &EMPTY[1..]);
        assert_eq!(decode::<32>(&text), Err(Base32Error::SpareBits));
    }

    #[test]
    fn letters_outside_the_alphabet_are_refused() {
        for letter in ["e", "o", "t", "u", "A", " "] {
            let text = format!("{}{letter}", &EMPTY[..51]);
            let refused = decode::<32>(&text);
            assert!(
                matches!(refused, Err(Base32Error::Alphabet { position: 51, .. })),
                "{letter}: {refused:?}"
            );
        }
    }

    #[test]
    fn another_length_is_refused() {
        let refused = decode::<20>(EMPTY);
        let (expected, found) = (32, 52);
        assert_eq!(refused, Err(Base32Error::Length { expected, found }));
    }

    proptest! {
        #[test]
        fn every_byte_string_comes_back(bytes: [u8; 32], short: [u8; 3]) {
            prop_assert_eq!(decode::<32>(&encode(&bytes)), Ok(bytes));
            prop_assert_eq!(decode::<3>(&encode(&short)), Ok(short));
        }

        #[test]
        fn what_is_read_prints_the_same(text in "[0-9a-df-np-sv-z]{5}") {
            if let Ok(bytes) = decode::<3>(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
