//! The heads of CBOR items (RFC 8949), as far as a bundle needs them: where an item's contents begin, and how long they are.

/// The head of an item: its major type, and the number that comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// A number, or a simple value: nothing follows.
    Plain,
    /// A byte string of so many bytes; of pieces up to a break if `None`.
    Bytes(Option<u64>),
    /// A text of so many bytes; of pieces up to a break if `None`.
    Text(Option<u64>),
    /// So many items; items up to a break if `None`.
    Array(Option<u64>),
    /// So many pairs of items; pairs up to a break if `None`.
    Map(Option<u64>),
    /// What the next item is.
    Tag(u64),
    /// The end of something whose length was not given.
    Break,
}

/// Longest head in bytes.
pub(super) const MAX_HEAD: usize = 9;

/// "Self-described CBOR": says only that what follows is CBOR.
pub(super) const SELF_DESCRIBED: u64 = 55799;
/// "Array of content-addressed blocks and ERIS read capabilities": `eris` in ASCII.
pub(super) const BUNDLE: u64 = 0x6572_6973;
/// An ERIS read capability.
pub(super) const CAPABILITY: u64 = 276;

/// The head at the start of `bytes`, and its length; `None` if there is no valid one.
pub(super) fn head(bytes: &[u8]) -> Option<(Head, usize)> {
    let (&first, rest) = bytes.split_first()?;
    let (major, short) = (first >> 5, first & 0x1f);
    let (number, length) = match short {
        0..=23 => (Some(short.into()), 1),
        24..=27 => {
            let width = 1 << (short - 24);
            let number = rest.get(..width)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            (Some(number), 1 + width)
        }
        31 => (None, 1),
        _ => return None,
    };
    let head = match (major, number) {
        (0 | 1, Some(_)) | (7, Some(_)) => Head::Plain,
        (2, length) => Head::Bytes(length),
        (3, length) => Head::Text(length),
        (4, length) => Head::Array(length),
        (5, length) => Head::Map(length),
        (6, Some(tag)) => Head::Tag(tag),
        (7, None) => Head::Break,
        _ => return None,
    };
    Some((head, length))
}

/// Appends the shortest head of this major type with this number.
pub(super) fn write_head(major: u8, number: u64, out: &mut Vec<u8>) {
    let major = major << 5;
    match number {
        0..=23 => out.push(major | number as u8),
        24..=0xff => out.extend([major | 24, number as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend((number as u16).to_be_bytes());
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend((number as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend(number.to_be_bytes());
        }
    }
}

/// Major type of byte strings.
pub(super) const BYTES: u8 = 2;
/// Major type of tags.
pub(super) const TAG: u8 = 6;
/// An array of items up to a break.
pub(super) const OPEN_ARRAY: u8 = 0x9f;
/// A map of pairs up to a break.
pub(super) const OPEN_MAP: u8 = 0xbf;
/// Ends what was opened last.
pub(super) const BREAK: u8 = 0xff;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for number in [0, 23, 24, 255, 256, 65_535, 65_536, 0xffff_ffff, 1 << 32, u64::MAX] {
            let mut bytes = Vec::new();
            write_head(BYTES, number, &mut bytes);
            assert_eq!(head(&bytes), Some((Head::Bytes(Some(number)), bytes.len())));
            for cut in 0..bytes.len() {
                assert_eq!(head(&bytes[..cut]), None);
            }
        }
    }

    #[test]
    fn the_heads_of_the_document_mean_what_it_says() {
        assert_eq!(head(&[0xd9, 0xd9, 0xf7]), Some((Head::Tag(SELF_DESCRIBED), 3)));
        assert_eq!(head(b"\xdaeris"), Some((Head::Tag(BUNDLE), 5)));
        assert_eq!(head(&[0xd9, 0x01, 0x14]), Some((Head::Tag(CAPABILITY), 3)));
        assert_eq!(head(&[0x59, 0x80, 0x00]), Some((Head::Bytes(Some(32768)), 3)));
        assert_eq!(head(&[OPEN_ARRAY]), Some((Head::Array(None), 1)));
        assert_eq!(head(&[OPEN_MAP]), Some((Head::Map(None), 1)));
        assert_eq!(head(&[BREAK]), Some((Head::Break, 1)));
    }

    #[test]
    fn reserved_and_unfinished_heads_are_refused() {
        for bytes in [&[][..], &[0x1c], &[0x5d], &[0x1f], &[0xdf], &[0x5b, 0, 0], &[0x3f]] {
            assert_eq!(head(bytes), None, "{bytes:x?}");
        }
    }
}
