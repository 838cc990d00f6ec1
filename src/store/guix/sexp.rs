//! S-expressions as libgcrypt reads and prints them: lists of lists and byte strings.
//!
//! Guix keeps keys, access lists and signatures in the *advanced* form, where a byte string is a token (`ecdsa`),
//! hexadecimal (`#0A#`), quoted (`"a\n"`) or verbatim (`3:abc`). libgcrypt takes whichever it finds fit to print, also
//! for numbers, so all are read. Guix takes the text for ISO 8859-1 inside of UTF-8: a character is a byte.

use std::fmt::{self, Write};

use zeroize::Zeroizing;

/// Longest text that is read, in bytes: an access list of some 5,000 keys.
pub const MAX_LENGTH: usize = 1 << 20;

/// Deepest nesting of lists. A key in an access list is 5 deep.
pub const MAX_DEPTH: usize = 16;

/// Most lists and byte strings together. A key in an access list has 16.
pub const MAX_ITEMS: usize = 1 << 17;

/// Most digits in the length of a verbatim byte string.
const MAX_LENGTH_DIGITS: usize = 7;

/// Why a text is not an s-expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SexpError {
    /// The text is longer than `MAX_LENGTH`.
    #[error("s-expression of {found} bytes: the limit is {MAX_LENGTH}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// Lists are nested deeper than `MAX_DEPTH`.
    #[error("s-expression is nested more than {MAX_DEPTH} lists deep at byte {offset}")]
    TooDeep {
        /// Where in the text.
        offset: usize,
    },
    /// There are more than `MAX_ITEMS` lists and byte strings.
    #[error("s-expression has more than {MAX_ITEMS} parts")]
    TooManyItems,
    /// The text ends before its list does, or has none.
    #[error("s-expression ends before its closing parenthesis")]
    Truncated,
    /// There is something beside the one list.
    #[error("s-expression has something beside its list at byte {offset}")]
    Trailing {
        /// Where in the text.
        offset: usize,
    },
    /// A character that cannot stand there; display hints (`[`), base64 (`|`) and transport form (`{`) among them.
    #[error("s-expression has the character {character:?} out of place at byte {offset}")]
    Character {
        /// Where in the text.
        offset: usize,
        /// The character.
        character: char,
    },
    /// Hexadecimal digits that do not make whole bytes.
    #[error("s-expression has an odd number of hexadecimal digits at byte {offset}")]
    OddHexadecimal {
        /// Where they begin.
        offset: usize,
    },
}

/// An s-expression. What it held is wiped from memory when it goes, as it may be a secret key.
#[derive(Clone, PartialEq, Eq)]
pub enum Sexp {
    /// A byte string.
    Atom(Zeroizing<Vec<u8>>),
    /// A list.
    List(Vec<Sexp>),
}

impl Sexp {
    /// A byte string.
    pub fn atom(bytes: impl AsRef<[u8]>) -> Self {
        Self::Atom(Zeroizing::new(bytes.as_ref().to_vec()))
    }

    /// A list that begins with the word `tag`.
    pub fn tagged(tag: &str, rest: impl IntoIterator<Item = Self>) -> Self {
        Self::List(std::iter::once(Self::atom(tag)).chain(rest).collect())
    }

    /// What follows the word `tag` in a list that begins with it.
    pub fn after(&self, tag: &str) -> Option<&[Self]> {
        match self {
            Self::List(items) => items.split_first().filter(|(first, _)| first.is(tag)).map(|(_, rest)| rest),
            Self::Atom(_) => None,
        }
    }

    /// The byte string.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Atom(bytes) => Some(bytes),
            Self::List(_) => None,
        }
    }

    /// Whether this is the byte string `word`.
    pub fn is(&self, word: &str) -> bool {
        self.bytes() == Some(word.as_bytes())
    }

    /// Reads one list, with nothing but white space around it.
    pub fn parse(text: &str) -> Result<Self, SexpError> {
        if text.len() > MAX_LENGTH {
            return Err(SexpError::TooLong { found: text.len() });
        }
        let mut reader = Reader { text, offset: 0 };
        let mut open: Vec<Vec<Self>> = Vec::new();
        let mut items = 0;
        loop {
            let offset = reader.offset;
            let Some(character) = reader.next() else { return Err(SexpError::Truncated) };
            let item = match character {
                _ if is_space(character) => continue,
                '(' if open.len() == MAX_DEPTH => return Err(SexpError::TooDeep { offset }),
                '(' => {
                    open.push(Vec::new());
                    continue;
                }
                ')' => Self::List(open.pop().ok_or(SexpError::Character { offset, character })?),
                '"' => Self::Atom(reader.quoted()?),
                '#' => Self::Atom(reader.hexadecimal(offset)?),
                '1'..='9' => Self::Atom(reader.verbatim(offset)?),
                _ if is_token(character) && character != '0' => Self::Atom(reader.token(offset)),
                _ => return Err(SexpError::Character { offset, character }),
            };
            items += 1;
            if items > MAX_ITEMS {
                return Err(SexpError::TooManyItems);
            }
            match (open.last_mut(), item) {
                (Some(list), item) => list.push(item),
                (None, Self::Atom(_)) => return Err(SexpError::Trailing { offset }),
                (None, list) => return reader.end().map(|()| list),
            }
        }
    }
}

/// libgcrypt's white space.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\x0b' | '\x0c' | '\r' | '\n')
}

/// What a token is made of; it does not begin with a digit.
fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "-./_:*+=".contains(character)
}

/// A text and how far it was read.
struct Reader<'a> {
    text: &'a str,
    offset: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let character = self.text[self.offset..].chars().next()?;
        self.offset += character.len_utf8();
        Some(character)
    }

    /// The next character, and where it stands.
    fn required(&mut self) -> Result<(usize, char), SexpError> {
        let offset = self.offset;
        self.next().map(|character| (offset, character)).ok_or(SexpError::Truncated)
    }

    fn end(mut self) -> Result<(), SexpError> {
        loop {
            let offset = self.offset;
            match self.next() {
                None => return Ok(()),
                Some(character) if is_space(character) => {}
                Some(_) => return Err(SexpError::Trailing { offset }),
            }
        }
    }

    fn token(&mut self, start: usize) -> Zeroizing<Vec<u8>> {
        let token = &self.text[start..];
        let token = &token[..token.find(|c| !is_token(c)).unwrap_or(token.len())];
        self.offset = start + token.len();
        Zeroizing::new(token.as_bytes().to_vec())
    }

    fn hexadecimal(&mut self, start: usize) -> Result<Zeroizing<Vec<u8>>, SexpError> {
        // All at once: a growing vector would leave copies of a secret behind.
        let most = self.text[self.offset..].find('#').ok_or(SexpError::Truncated)? / 2;
        let mut bytes = Zeroizing::new(Vec::with_capacity(most));
        let mut high = None;
        loop {
            let (offset, character) = self.required()?;
            match (character, character.to_digit(16), high) {
                (_, Some(digit), None) => high = Some(digit),
                (_, Some(digit), Some(before)) => {
                    bytes.push((before << 4 | digit) as u8);
                    high = None;
                }
                ('#', None, None) => return Ok(bytes),
                ('#', None, Some(_)) => return Err(SexpError::OddHexadecimal { offset: start }),
                _ if is_space(character) => {}
                _ => return Err(SexpError::Character { offset, character }),
            }
        }
    }

    fn verbatim(&mut self, start: usize) -> Result<Zeroizing<Vec<u8>>, SexpError> {
        loop {
            let (offset, character) = self.required()?;
            match character {
                '0'..='9' if offset - start < MAX_LENGTH_DIGITS => {}
                ':' => {
                    let length =
                        self.text[start..offset].parse::<usize>().map_err(|_| SexpError::Truncated)?;
                    // No character is shorter than a byte.
                    if length > self.text.len() - self.offset {
                        return Err(SexpError::Truncated);
                    }
                    let mut bytes = Zeroizing::new(Vec::with_capacity(length));
                    for _ in 0..length {
                        let (offset, character) = self.required()?;
                        bytes.push(byte(offset, character)?);
                    }
                    return Ok(bytes);
                }
                _ => return Err(SexpError::Character { offset, character }),
            }
        }
    }

    fn quoted(&mut self) -> Result<Zeroizing<Vec<u8>>, SexpError> {
        let most = self.quoted_length()?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(most));
        loop {
            let (offset, character) = self.required()?;
            bytes.push(match character {
                '"' => return Ok(bytes),
                '\\' => self.escape()?,
                _ => byte(offset, character)?,
            });
        }
    }

    /// Length of the text up to the closing quotation mark, which is not less than what it stands for.
    fn quoted_length(&self) -> Result<usize, SexpError> {
        let mut escaped = false;
        let end = self.text[self.offset..].find(|character| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        });
        end.ok_or(SexpError::Truncated)
    }

    /// The byte for which a backslash and what follows it stand.
    fn escape(&mut self) -> Result<u8, SexpError> {
        let (offset, character) = self.required()?;
        Ok(match character {
            'b' => b'\x08',
            't' => b'\t',
            'v' => b'\x0b',
            'n' => b'\n',
            'f' => b'\x0c',
            'r' => b'\r',
            '"' | '\'' | '\\' => character as u8,
            'x' => (self.digit(16)? << 4 | self.digit(16)?) as u8,
            '0'..='3' => {
                let high = u32::from(character) - u32::from('0');
                (high << 6 | self.digit(8)? << 3 | self.digit(8)?) as u8
            }
            _ => return Err(SexpError::Character { offset, character }),
        })
    }

    fn digit(&mut self, radix: u32) -> Result<u32, SexpError> {
        let (offset, character) = self.required()?;
        character.to_digit(radix).ok_or(SexpError::Character { offset, character })
    }
}

/// The byte for which a character of ISO 8859-1 stands.
fn byte(offset: usize, character: char) -> Result<u8, SexpError> {
    u8::try_from(character).map_err(|_| SexpError::Character { offset, character })
}

impl fmt::Display for Sexp {
    /// As libgcrypt prints it, white space included, with a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print(f, 0)?;
        f.write_char('\n')
    }
}

impl Sexp {
    fn print(&self, f: &mut fmt::Formatter<'_>, depth: usize) -> fmt::Result {
        let items = match self {
            Self::Atom(bytes) => return print_atom(f, bytes),
            Self::List(items) => items,
        };
        f.write_char('(')?;
        for (index, item) in items.iter().enumerate() {
            match (item, index.checked_sub(1).map(|before| &items[before])) {
                (Self::List(_), _) | (_, Some(Self::List(_))) => write!(f, "\n{:1$}", "", depth + 1)?,
                _ => {}
            }
            item.print(f, depth + 1)?;
            // A space follows each byte string but the last, also before a newline.
            if matches!(item, Self::Atom(_)) && index + 1 < items.len() {
                f.write_char(' ')?;
            }
        }
        if let Some(Self::List(_)) = items.last() {
            write!(f, "\n{:1$}", "", depth + 1)?;
        }
        f.write_char(')')
    }
}

/// Prints a byte string in the form that libgcrypt's `suitable_encoding` chooses.
fn print_atom(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    const ESCAPED: [(u8, char); 9] = [
        (b'\x08', 'b'),
        (b'\t', 't'),
        (b'\x0b', 'v'),
        (b'\n', 'n'),
        (b'\x0c', 'f'),
        (b'\r', 'r'),
        (b'"', '"'),
        (b'\'', '\''),
        (b'\\', '\\'),
    ];
    let escape = |byte: u8| ESCAPED.iter().find(|(from, _)| *from == byte).map(|(_, to)| *to);
    let binary = |byte: u8| matches!(byte, ..0x20 | 0x7f..=0xa0) && escape(byte).is_none();
    match bytes {
        [first, ..] if *first >= 0x80 || bytes.iter().any(|&byte| binary(byte)) => {
            f.write_char('#')?;
            bytes.iter().try_for_each(|byte| write!(f, "{byte:02X}"))?;
            f.write_char('#')
        }
        [first, ..] if !first.is_ascii_digit() && bytes.iter().all(|&byte| is_token(char::from(byte))) => {
            bytes.iter().try_for_each(|&byte| f.write_char(char::from(byte)))
        }
        _ => {
            f.write_char('"')?;
            for &byte in bytes {
                match escape(byte) {
                    Some(character) => write!(f, "\\{character}")?,
                    None => f.write_char(char::from(byte))?,
                }
            }
            f.write_char('"')
        }
    }
}

impl fmt::Debug for Sexp {
    /// The words only: a long byte string may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Atom(bytes) if bytes.len() >= 16 => write!(f, "#{} bytes#", bytes.len()),
            Self::Atom(bytes) => print_atom(f, bytes),
            Self::List(items) => f.debug_list().entries(items).finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> Vec<Vec<u8>> {
        let Ok(Sexp::List(items)) = Sexp::parse(text) else { panic!("{text}") };
        items.iter().map(|item| item.bytes().unwrap().to_vec()).collect()
    }

    fn refused(text: &str) -> SexpError {
        Sexp::parse(text).expect_err(text)
    }

    #[test]
    fn every_form_of_a_byte_string_is_read() {
        let abc = b"abc".to_vec();
        assert_eq!(
            words(
                r##"(abc "abc" #616263# # 61 6
            2 63# 3:abc "\x61\142c")"##
            ),
            vec![abc; 6]
        );
        assert_eq!(words(r#"("\b\t\v\n\f\r\"\'\\" "" ##)"#), [&b"\x08\t\x0b\n\x0c\r\"'\\"[..], b"", b""]);
        // Both bytes are one character of ISO 8859-1 each, written as UTF-8.
        assert_eq!(words("(\"\u{e9}\" 2:\u{e9}\u{ff})"), [vec![0xe9], vec![0xe9, 0xff]]);
    }

    #[test]
    fn what_libgcrypt_would_not_read_is_refused() {
        for text in ["", " ", "(", "(a", "(\"a", "(\"\\", "(#61", "(9:abc)", "(3", "(\"\\x6"] {
            assert_eq!(refused(text), SexpError::Truncated, "{text}");
        }
        for text in
            [")", "([a]b)", "(|YQ==|)", "{KGEp}", "(#6g#)", "(0:)", "(1a)", "(\0)", "(\"\\q\")", "(\u{e9})"]
        {
            assert!(matches!(refused(text), SexpError::Character { .. }), "{text}");
        }
        assert_eq!(refused("(\"\u{100}\")"), SexpError::Character { offset: 2, character: '\u{100}' });
        assert_eq!(refused("(#616#)"), SexpError::OddHexadecimal { offset: 1 });
        assert!(matches!(refused("(99999999:a)"), SexpError::Character { .. }));
    }

    #[test]
    fn there_is_exactly_one_list() {
        assert_eq!(refused("a"), SexpError::Trailing { offset: 0 });
        assert_eq!(refused("(a) (b)"), SexpError::Trailing { offset: 4 });
        assert_eq!(refused("(a))"), SexpError::Trailing { offset: 3 });
        assert!(Sexp::parse("\n (a)\n ").is_ok());
    }

    #[test]
    fn hostile_texts_meet_a_bound() {
        let nested = |depth| "(".repeat(depth) + &")".repeat(depth);
        assert!(Sexp::parse(&nested(MAX_DEPTH)).is_ok());
        assert_eq!(refused(&nested(MAX_DEPTH + 1)), SexpError::TooDeep { offset: MAX_DEPTH });
        assert_eq!(refused(&"(".repeat(1000)), SexpError::TooDeep { offset: MAX_DEPTH });
        assert_eq!(refused(&format!("({})", "a ".repeat(MAX_ITEMS + 1))), SexpError::TooManyItems);
        let long = " ".repeat(MAX_LENGTH + 1);
        assert_eq!(refused(&long), SexpError::TooLong { found: long.len() });
    }

    #[test]
    fn numbers_are_printed_as_libgcrypt_does() {
        let print = |bytes: &[u8]| Sexp::List(vec![Sexp::atom(bytes)]).to_string();
        assert_eq!(print(b"a-b"), "(a-b)\n");
        assert_eq!(print(b"1a"), "(\"1a\")\n");
        assert_eq!(print(b"\n\xe9'"), "(\"\\n\u{e9}\\'\")\n");
        assert_eq!(print(b"\x80a"), "(#8061#)\n");
        assert_eq!(print(b"a\x01"), "(#6101#)\n");
        assert_eq!(print(b""), "(\"\")\n");
    }

    #[test]
    fn lists_are_laid_out_as_libgcrypt_does() {
        let text = "(acl \n (entry \n  (a b)\n  c \n  (d)\n  )\n )\n";
        assert_eq!(Sexp::parse("(acl(entry(a b)c(d)))").unwrap().to_string(), text);
    }

    #[test]
    fn a_debug_print_shows_no_key() {
        let secret = Sexp::tagged("d", [Sexp::atom([b'k'; 32])]);
        assert_eq!(format!("{secret:?}"), "[d, #32 bytes#]");
    }

    fn sexps() -> impl Strategy<Value = Sexp> {
        let atom =
            prop_oneof![any::<Vec<u8>>(), "[ -~\n]{0,5}".prop_map(String::into_bytes)].prop_map(Sexp::atom);
        let any =
            atom.prop_recursive(5, 40, 4, |inner| prop::collection::vec(inner, 0..4).prop_map(Sexp::List));
        prop::collection::vec(any, 0..4).prop_map(Sexp::List)
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(sexp in sexps()) {
            prop_assert_eq!(Sexp::parse(&sexp.to_string()), Ok(sexp));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[()\"#\\\\|0-9a-f:é ]{0,40}") {
            let _ = Sexp::parse(&text);
        }
    }
}
