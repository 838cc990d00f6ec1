//! The names of ERIS: references, keys, secrets, block sizes, and the read capability that binds them.
//!
//! A read capability is 66 bytes (spec 1.0.0, "Binary Encoding of Read Capability"): size code, level, root
//! reference, root key; as text it is `urn:eris:` and the unpadded base32 of those bytes. The experimental
//! generations before 1.0.0 share the layout and differ in URN prefix and size codes.

use std::fmt;
use std::io;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER_PERMISSIVE};

/// Bytes of a reference, of a key and of a convergence secret.
const WIDTH: usize = 32;
/// Characters of a reference in base32 without padding.
const REFERENCE_CHARACTERS: usize = 52;
/// Characters of a read capability in base32 without padding.
const CAPABILITY_CHARACTERS: usize = 106;

/// Why a text or a byte string is not the name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text does not begin with a URN prefix of ERIS.
    #[error("{text:?} is not an ERIS URN (urn:eris:..., urn:erisx2:... or urn:erisx3:...)")]
    NotAnErisUrn {
        /// The first characters of what was given.
        text: String,
    },
    /// The first experimental generation, which no known tool has written since 2020.
    #[error(
        "urn:erisx: is the ERIS of 2020 (spec 0.1), another encoding that is not supported; encode the content again as urn:eris:"
    )]
    FirstGeneration,
    /// The number of characters or bytes is wrong.
    #[error("{what} has {expected} {unit}, found {found}")]
    Length {
        /// What was being read.
        what: &'static str,
        /// "characters" or "bytes".
        unit: &'static str,
        /// How many there must be.
        expected: usize,
        /// How many there were.
        found: usize,
    },
    /// Not upper-case base32, or the unused bits at its end are not zero.
    #[error("{what} is not upper-case RFC 4648 base32: {source}")]
    Base32 {
        /// What was being read.
        what: &'static str,
        /// Where it goes wrong.
        source: data_encoding::DecodeError,
    },
    /// A convergence secret that is not hexadecimal.
    #[error("a convergence secret is hexadecimal: {source}")]
    Hex {
        /// Where it goes wrong.
        source: data_encoding::DecodeError,
    },
    /// A block size that this generation does not have.
    #[error("{code:#04x} is not a block size code of {prefix}")]
    SizeCode {
        /// The first byte of the capability.
        code: u8,
        /// The URN prefix, which tells the generation.
        prefix: &'static str,
    },
}

/// The name of a block: BLAKE2b-256 of the block as it is stored, that is, encrypted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference([u8; WIDTH]);

impl Reference {
    /// A reference from its 32 bytes.
    pub const fn new(bytes: [u8; WIDTH]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; WIDTH] {
        &self.0
    }
}

impl fmt::Display for Reference {
    /// 52 upper-case base32 characters, the form used in `urn:blake2b:` and as a file name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&BASE32_NOPAD.encode(&self.0))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        base32("a block reference", text, REFERENCE_CHARACTERS).map(Self)
    }
}

/// The ChaCha20 key of one block. Who has it can read the block, so `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; WIDTH]);

impl Key {
    /// A key from its 32 bytes.
    pub const fn new(bytes: [u8; WIDTH]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; WIDTH] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(hidden)")
    }
}

/// What goes into the key of every leaf: equal secrets make equal contents have equal blocks.
///
/// The decoder never needs it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ConvergenceSecret([u8; WIDTH]);

impl ConvergenceSecret {
    /// 32 zero bytes: equal contents have equal capabilities everywhere, and anybody can confirm that a
    /// known content is stored. Right for public stores.
    pub const NULL: Self = Self([0; WIDTH]);

    /// A secret from its 32 bytes.
    pub const fn new(bytes: [u8; WIDTH]) -> Self {
        Self(bytes)
    }

    /// A secret that nobody else has, from the kernel: the blocks tell nothing about the content.
    ///
    /// # Errors
    /// The kernel has no random source (a sandbox without `getrandom`).
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; WIDTH];
        // Requests of up to 256 bytes are never cut short (getrandom(2)).
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        Ok(Self(bytes))
    }

    /// A secret from 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`ParseError::Hex`] or [`ParseError::Length`].
    pub fn from_hex(text: &str) -> Result<Self, ParseError> {
        let bytes =
            HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|source| ParseError::Hex { source })?;
        let found = bytes.len();
        bytes.try_into().map(Self).map_err(|_| ParseError::Length {
            what: "a convergence secret",
            unit: "bytes",
            expected: WIDTH,
            found,
        })
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; WIDTH] {
        &self.0
    }
}

impl fmt::Debug for ConvergenceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConvergenceSecret(hidden)")
    }
}

/// The two block sizes of ERIS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockSize {
    /// 1 KiB: 16 children a node.
    Small,
    /// 32 KiB: 512 children a node.
    Large,
}

impl BlockSize {
    /// Bytes of the larger block size: nothing longer can be a block.
    pub const MAX: usize = Self::Large.bytes();

    /// Content of this many bytes and more is cut into large blocks (the tools' common advice).
    pub const AUTO_THRESHOLD: u64 = 16 << 10;

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Small => 1024,
            Self::Large => 32 * 1024,
        }
    }

    /// Children of a full node: as many pairs of reference and key as a block holds.
    pub const fn arity(self) -> usize {
        self.bytes() / (2 * WIDTH)
    }

    /// The block size that has blocks of this many bytes.
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1024 => Some(Self::Small),
            32768 => Some(Self::Large),
            _ => None,
        }
    }

    /// The block size that the implementations recommend for a content of this many bytes: small ones
    /// below 16 KiB, where a large block would be mostly padding.
    pub const fn for_length(length: u64) -> Self {
        if length < Self::AUTO_THRESHOLD { Self::Small } else { Self::Large }
    }
}

/// Which state of the specification a capability was written for. Only [`Generation::V1`] is ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// 1.0.0, August 2022: `urn:eris:`.
    V1,
    /// 0.2, December 2020: `urn:erisx2:` with size codes 0 and 1.
    X2a,
    /// 0.3, September 2021: `urn:erisx2:`; found in the first narinfos of Guix bug#52555.
    X2b,
    /// 0.4 and its drafts, 2022: `urn:erisx3:`. The root tells the three drafts apart.
    X3,
}

impl Generation {
    /// The URN up to and with the colon before the base32 part.
    const fn prefix(self) -> &'static str {
        match self {
            Self::V1 => "urn:eris:",
            Self::X2a | Self::X2b => "urn:erisx2:",
            Self::X3 => "urn:erisx3:",
        }
    }
}

/// All that is needed to read a content: where its tree begins, and the key to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadCapability {
    /// The state of the specification it was written for.
    pub generation: Generation,
    /// The size of every block of the tree.
    pub block_size: BlockSize,
    /// The height of the tree: 0 when the content is a single leaf. Chosen by whoever made the capability.
    pub level: u8,
    /// The name of the root block.
    pub reference: Reference,
    /// The key of the root block.
    pub key: Key,
}

impl ReadCapability {
    /// Bytes of a capability in binary form.
    pub const BYTES: usize = 2 + 2 * WIDTH;

    /// Reads the binary form of 1.0.0, as CBOR tag 276 holds it.
    ///
    /// # Errors
    /// [`ParseError::Length`] or [`ParseError::SizeCode`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        let bytes = bytes.try_into().map_err(|_| ParseError::Length {
            what: "a read capability",
            unit: "bytes",
            expected: Self::BYTES,
            found: bytes.len(),
        })?;
        Self::of_generation(Generation::V1, bytes)
    }

    /// The 66 bytes of the binary form. They tell the generation only together with the URN prefix.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = match (self.generation, self.block_size) {
            (Generation::X2a, BlockSize::Small) => 0x00,
            (Generation::X2a, BlockSize::Large) => 0x01,
            (_, BlockSize::Small) => 0x0a,
            (_, BlockSize::Large) => 0x0f,
        };
        bytes[1] = self.level;
        bytes[2..][..WIDTH].copy_from_slice(self.reference.as_bytes());
        bytes[2 + WIDTH..].copy_from_slice(self.key.as_bytes());
        bytes
    }

    /// `generation` as the URN prefix tells it: `X2b` stands for both generations with `urn:erisx2:`.
    fn of_generation(generation: Generation, bytes: &[u8; Self::BYTES]) -> Result<Self, ParseError> {
        let (generation, block_size) = match (generation, bytes[0]) {
            (Generation::X2b, 0x00) => (Generation::X2a, BlockSize::Small),
            (Generation::X2b, 0x01) => (Generation::X2a, BlockSize::Large),
            (generation, 0x0a) => (generation, BlockSize::Small),
            (generation, 0x0f) => (generation, BlockSize::Large),
            (generation, code) => {
                return Err(ParseError::SizeCode { code, prefix: generation.prefix() });
            }
        };
        let (mut reference, mut key) = ([0; WIDTH], [0; WIDTH]);
        reference.copy_from_slice(&bytes[2..][..WIDTH]);
        key.copy_from_slice(&bytes[2 + WIDTH..]);
        Ok(Self { generation, block_size, level: bytes[1], reference: Reference(reference), key: Key(key) })
    }
}

impl fmt::Display for ReadCapability {
    /// The URN.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.generation.prefix())?;
        f.write_str(&BASE32_NOPAD.encode(&self.to_bytes()))
    }
}

impl FromStr for ReadCapability {
    type Err = ParseError;

    /// Reads a URN. Components after the name (`#fragment`, `?+resolution`, `?=query`; RFC 8141) are left
    /// aside. The scheme and the namespace may be in any case (RFC 8141), the base32 must be upper case.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let urn = text.split(['#', '?']).next().unwrap_or_default();
        if strip_prefix_ignoring_case(urn, "urn:erisx:").is_some() {
            return Err(ParseError::FirstGeneration);
        }
        let (generation, rest) = [Generation::V1, Generation::X2b, Generation::X3]
            .into_iter()
            .find_map(|generation| Some((generation, strip_prefix_ignoring_case(urn, generation.prefix())?)))
            .ok_or_else(|| ParseError::NotAnErisUrn { text: urn.chars().take(40).collect() })?;
        let bytes = base32("a read capability", rest, CAPABILITY_CHARACTERS)?;
        Self::of_generation(generation, &bytes)
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// Decodes exactly `characters` of strict base32 into exactly `N` bytes.
fn base32<const N: usize>(what: &'static str, text: &str, characters: usize) -> Result<[u8; N], ParseError> {
    let length =
        ParseError::Length { what, unit: "characters", expected: characters, found: text.chars().count() };
    if text.len() != characters {
        return Err(length);
    }
    let bytes = BASE32_NOPAD.decode(text.as_bytes()).map_err(|source| ParseError::Base32 { what, source })?;
    bytes.try_into().map_err(|_| length)
}
