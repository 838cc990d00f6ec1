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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// "Hello world!" in one small block under the null secret, from x2b to 1.0.0.
    const HELLO: &str = "BIAD77QDJMFAKZYH2DXBUZYAP3MXZ3DJZVFYQ5DFWC6T65WSFCU5S2IT4YZGJ7AC4SYQMP2DM2ANS2ZTCP3DJJIRV733CRAAHOSWIYZM3M";

    fn hello() -> ReadCapability {
        format!("urn:eris:{HELLO}").parse().expect("a URN")
    }

    fn parse(text: &str) -> Result<ReadCapability, ParseError> {
        text.parse()
    }

    fn any_capability() -> impl Strategy<Value = ReadCapability> {
        (
            prop_oneof![
                Just(Generation::V1),
                Just(Generation::X2a),
                Just(Generation::X2b),
                Just(Generation::X3)
            ],
            prop_oneof![Just(BlockSize::Small), Just(BlockSize::Large)],
            any::<u8>(),
            any::<[u8; WIDTH]>(),
            any::<[u8; WIDTH]>(),
        )
            .prop_map(|(generation, block_size, level, reference, key)| ReadCapability {
                generation,
                block_size,
                level,
                reference: Reference(reference),
                key: Key(key),
            })
    }

    proptest! {
        #[test]
        fn a_urn_reads_back_as_the_capability_it_was_made_of(capability in any_capability()) {
            prop_assert_eq!(parse(&capability.to_string()), Ok(capability));
            if capability.generation == Generation::V1 {
                prop_assert_eq!(ReadCapability::from_bytes(&capability.to_bytes()), Ok(capability));
            }
        }

        #[test]
        fn whatever_text_is_accepted_prints_back_as_it_was(
            text in prop_oneof!["urn:eris(x[23])?:B[I-L4-7][A-Z2-7]{103}[AEIMQUY4](#.*)?", ".*"],
        ) {
            if let Ok(capability) = parse(&text) {
                prop_assert!(text.starts_with(&capability.to_string()));
            }
        }

        #[test]
        fn arbitrary_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(capability) = ReadCapability::from_bytes(&bytes) {
                prop_assert_eq!(&capability.to_bytes()[..], &bytes[..]);
            }
        }

        #[test]
        fn a_reference_reads_back_from_its_text(bytes in any::<[u8; WIDTH]>()) {
            let reference = Reference::new(bytes);
            prop_assert_eq!(reference.to_string().len(), REFERENCE_CHARACTERS);
            prop_assert_eq!(reference.to_string().parse(), Ok(reference));
        }
    }

    #[test]
    fn components_after_the_name_are_left_aside() {
        for tail in ["#Merlot", "?+n2r=http://example.org", "?=name=a", "#a?b", "#"] {
            assert_eq!(parse(&format!("urn:eris:{HELLO}{tail}")), Ok(hello()), "{tail}");
        }
    }

    #[test]
    fn scheme_and_namespace_are_in_any_case_but_base32_is_upper() {
        assert_eq!(parse(&format!("URN:Eris:{HELLO}")), Ok(hello()));
        let lower = format!("urn:eris:{}", HELLO.to_lowercase());
        assert!(matches!(parse(&lower), Err(ParseError::Base32 { .. })));
    }

    #[test]
    fn a_urn_of_another_length_is_refused() {
        for text in [&HELLO[..105], &format!("{HELLO}A"), &format!("{HELLO}======"), "", "é"] {
            let error = parse(&format!("urn:eris:{text}")).expect_err("a wrong length");
            assert!(matches!(error, ParseError::Length { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn spare_bits_that_are_set_are_refused() {
        // The last character carries three bits of the key and two that must be zero.
        let text = format!("urn:eris:{}N", &HELLO[..105]);
        assert!(matches!(parse(&text), Err(ParseError::Base32 { .. })));
        let reference = hello().reference.to_string();
        let text = format!("{}R", &reference[..51]);
        assert!(matches!(text.parse::<Reference>(), Err(ParseError::Base32 { .. })));
    }

    #[test]
    fn block_sizes_of_another_generation_are_refused() {
        let x2a = format!("urn:erisx2:AA{}", &HELLO[2..]);
        assert_eq!(
            parse(&x2a).map(|capability| (capability.generation, capability.block_size)),
            Ok((Generation::X2a, BlockSize::Small))
        );
        assert_eq!(parse(&x2a).map(|capability| capability.to_string()), Ok(x2a.clone()));
        for prefix in ["urn:eris:", "urn:erisx3:"] {
            let text = x2a.replace("urn:erisx2:", prefix);
            assert!(matches!(parse(&text), Err(ParseError::SizeCode { code: 0, .. })), "{prefix}");
        }
    }

    #[test]
    fn the_first_experimental_generation_is_refused_by_name() {
        let error = parse(&format!("urn:erisx:{HELLO}")).expect_err("another encoding");
        assert_eq!(error, ParseError::FirstGeneration);
        assert!(error.to_string().contains("urn:erisx:"));
    }

    #[test]
    fn other_urns_are_not_eris() {
        for text in ["", "urn:", "urn:blake2b:AAAA", "urn:erisx4:AA", HELLO, " urn:eris:"] {
            assert!(matches!(parse(text), Err(ParseError::NotAnErisUrn { .. })), "{text}");
        }
    }

    #[test]
    fn secrets_are_hexadecimal_random_and_never_shown() {
        let hex = "00112233445566778899aabbccddeeffFFEEDDCCBBAA99887766554433221100";
        let secret = ConvergenceSecret::from_hex(hex).expect("64 digits");
        assert_eq!(secret.as_bytes()[..4], [0x00, 0x11, 0x22, 0x33]);
        assert!(matches!(ConvergenceSecret::from_hex("00"), Err(ParseError::Length { .. })));
        assert!(matches!(ConvergenceSecret::from_hex("zz"), Err(ParseError::Hex { .. })));
        let random = || ConvergenceSecret::random().expect("a random source");
        assert_ne!(random(), random());
        assert_eq!(format!("{secret:?}"), "ConvergenceSecret(hidden)");
        assert_eq!(format!("{:?}", hello().key), "Key(hidden)");
    }

    #[test]
    fn contents_below_16_kib_get_small_blocks() {
        assert_eq!(BlockSize::for_length(0), BlockSize::Small);
        assert_eq!(BlockSize::for_length(16383), BlockSize::Small);
        assert_eq!(BlockSize::for_length(16384), BlockSize::Large);
        assert_eq!((BlockSize::Small.arity(), BlockSize::Large.arity()), (16, 512));
        for size in [BlockSize::Small, BlockSize::Large] {
            assert_eq!(BlockSize::from_bytes(size.bytes()), Some(size));
        }
        assert_eq!(BlockSize::from_bytes(4096), None);
    }
}
