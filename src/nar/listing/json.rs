//! Nix's `.ls` form of a listing: JSON, version 1, members sorted by name as Nix writes them.
//!
//! It is read in one pass and without recursion, so a hostile nesting costs no stack, and written node by node. Entries must be sorted, as they are in
//! everything that Nix has written; that lets every claimed offset be compared with the one that follows from the tree.

use std::borrow::Cow;
use std::io::{self, Write};

use super::{Builder, Kind, Listing, ListingError, NodeId};

impl Listing {
    /// Reads Nix's `.ls` JSON. Offsets that are not where the NAR of this tree has its files are refused, and so is another size of
    /// the whole than `nar_size`, where it is known. Unknown members are passed over.
    pub fn from_json(json: &[u8], nar_size: Option<u64>) -> Result<Self, ListingError> {
        if let Err(error) = std::str::from_utf8(json) {
            return Err(ListingError::Syntax { position: error.valid_up_to(), expected: "UTF-8" });
        }
        let mut reader = Reader { json, at: 0 };
        let (mut listing, mut version) = (None, None);
        reader.begin_object()?;
        let mut first = true;
        while let Some(key) = reader.member(&mut first)? {
            match &*key {
                b"root" if listing.is_none() => listing = Some(read_tree(&mut reader)?),
                b"version" if version.is_none() => version = Some(reader.number()?),
                b"root" | b"version" => return Err(reader.fault("with a member that it had before")),
                _ => reader.skip_value()?,
            }
        }
        reader.end()?;
        match version {
            Some(1) => {}
            Some(found) => return Err(ListingError::Version { found }),
            None => return Err(reader.syntax("a version")),
        }
        let listing = listing.ok_or_else(|| reader.syntax("a root"))?;
        match nar_size {
            Some(expected) if expected != listing.nar_size() => {
                Err(ListingError::Size { expected, found: listing.nar_size() })
            }
            _ => Ok(listing),
        }
    }

    /// Writes the JSON that Nix would write.
    pub fn to_json(&self, mut out: impl Write) -> Result<(), ListingError> {
        out.write_all(b"{\"root\":")?;
        self.begin_node(&mut out, NodeId::ROOT)?;
        let mut open = vec![self.children(NodeId::ROOT)];
        if self.kind(NodeId::ROOT) != Kind::Directory {
            open.clear();
        }
        let mut first = true;
        while let Some(entries) = open.last_mut() {
            let Some(id) = entries.next() else {
                out.write_all(b"},\"type\":\"directory\"}")?;
                open.pop();
                first = false;
                continue;
            };
            if !first {
                out.write_all(b",")?;
            }
            self.write_string(&mut out, id, self.name(id))?;
            out.write_all(b":")?;
            self.begin_node(&mut out, id)?;
            first = self.kind(id) == Kind::Directory;
            if first {
                open.push(self.children(id));
            }
        }
        out.write_all(b",\"version\":1}")?;
        Ok(())
    }

    /// Writes a file or link as a whole, and a directory up to its first entry.
    fn begin_node(&self, out: &mut impl Write, id: NodeId) -> Result<(), ListingError> {
        match self.kind(id) {
            Kind::Directory => out.write_all(b"{\"entries\":{")?,
            Kind::File { executable, size, offset } => {
                let executable = if executable { "\"executable\":true," } else { "" };
                write!(out, "{{{executable}\"narOffset\":{offset},\"size\":{size},\"type\":\"regular\"}}")?;
            }
            Kind::Symlink => {
                out.write_all(b"{\"target\":")?;
                self.write_string(out, id, self.target(id))?;
                out.write_all(b",\"type\":\"symlink\"}")?;
            }
        }
        Ok(())
    }

    fn write_string(&self, out: &mut impl Write, id: NodeId, string: &[u8]) -> Result<(), ListingError> {
        let string = std::str::from_utf8(string).map_err(|_| ListingError::NotUtf8 {
            path: String::from_utf8_lossy(&self.path(id)).into_owned(),
        })?;
        serde_json::to_writer(out, string).map_err(io::Error::from)?;
        Ok(())
    }
}

/// The type of a node, as JSON names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Directory,
    Regular,
    Symlink,
}

/// A node whose closing brace was not seen yet.
struct OpenNode<'a> {
    name: Cow<'a, [u8]>,
    kind: Option<Type>,
    /// Its `entries` were begun, and so it is a directory.
    entries: bool,
    executable: Option<bool>,
    size: Option<u64>,
    offset: Option<u64>,
    target: Option<Cow<'a, [u8]>>,
    first_member: bool,
    first_entry: bool,
}

impl<'a> OpenNode<'a> {
    fn new(name: Cow<'a, [u8]>) -> Self {
        Self {
            name,
            kind: None,
            entries: false,
            executable: None,
            size: None,
            offset: None,
            target: None,
            first_member: true,
            first_entry: true,
        }
    }

    /// Gives a file or link, now that all its members are known, to the builder; a directory is there already.
    fn finish(self, reader: &Reader<'_>, builder: &mut Builder) -> Result<(), ListingError> {
        let OpenNode { name, kind, entries, executable, size, offset, target, .. } = self;
        let file_members = executable.is_some() || size.is_some() || offset.is_some();
        match (kind, entries, size, target) {
            (Some(Type::Directory), true, None, None) if !file_members => Ok(()),
            (Some(Type::Regular), false, Some(size), None) => {
                let computed = builder.file(&name, executable == Some(true), size)?;
                match offset {
                    Some(found) if found != computed => {
                        let name = String::from_utf8_lossy(&name).into_owned();
                        Err(ListingError::Offset { name, found, offset: computed })
                    }
                    _ => Ok(()),
                }
            }
            (Some(Type::Symlink), false, None, Some(target)) if !file_members => {
                builder.symlink(&name, &target)
            }
            (None, ..) => Err(reader.fault("without a type")),
            _ => Err(reader.fault("without what its type needs, or with what another type has")),
        }
    }
}

fn read_tree(reader: &mut Reader<'_>) -> Result<Listing, ListingError> {
    let mut builder = Builder::new();
    reader.begin_object()?;
    let mut open = vec![OpenNode::new(Cow::Borrowed(b""))];
    // Whether the next thing is an entry of the innermost node, or one of its members.
    let mut in_entries = false;
    while let Some(node) = open.last_mut() {
        if in_entries {
            match reader.member(&mut node.first_entry)? {
                Some(name) => {
                    reader.begin_object()?;
                    open.push(OpenNode::new(name));
                    in_entries = false;
                }
                None => {
                    builder.end_directory()?;
                    in_entries = false;
                }
            }
            continue;
        }
        let Some(key) = reader.member(&mut node.first_member)? else {
            let Some(node) = open.pop() else { break };
            node.finish(reader, &mut builder)?;
            in_entries = true;
            continue;
        };
        let again = match &*key {
            b"entries" => {
                reader.begin_object()?;
                if !node.entries {
                    builder.directory(&node.name)?;
                }
                in_entries = true;
                std::mem::replace(&mut node.entries, true)
            }
            b"type" => node.kind.replace(reader.node_type()?).is_some(),
            b"executable" => node.executable.replace(reader.boolean()?).is_some(),
            b"size" => node.size.replace(reader.number()?).is_some(),
            b"narOffset" => node.offset.replace(reader.number()?).is_some(),
            b"target" => node.target.replace(reader.string()?).is_some(),
            _ => {
                reader.skip_value()?;
                false
            }
        };
        if again {
            return Err(reader.fault("with a member that it had before"));
        }
    }
    builder.finish()
}

/// Reads the tokens of JSON (RFC 8259) that a listing is made of. The input is known to be UTF-8.
struct Reader<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn syntax(&self, expected: &'static str) -> ListingError {
        ListingError::Syntax { position: self.at, expected }
    }

    fn fault(&self, fault: &'static str) -> ListingError {
        ListingError::Node { position: self.at, fault }
    }

    /// The next byte that is not white space, which stays.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.json[self.at..];
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).count();
        self.json.get(self.at).copied()
    }

    fn take(&mut self, byte: u8, expected: &'static str) -> Result<(), ListingError> {
        if self.peek() != Some(byte) {
            return Err(self.syntax(expected));
        }
        self.at += 1;
        Ok(())
    }

    fn begin_object(&mut self) -> Result<(), ListingError> {
        self.take(b'{', "an object")
    }

    /// The key of an object's next member, or `None` where the object ends. `first` is true before the first call.
    fn member(&mut self, first: &mut bool) -> Result<Option<Cow<'a, [u8]>>, ListingError> {
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(None);
        }
        if !std::mem::replace(first, false) {
            self.take(b',', "a comma or the end of the object")?;
        }
        let key = self.string()?;
        self.take(b':', "a colon")?;
        Ok(Some(key))
    }

    fn end(&mut self) -> Result<(), ListingError> {
        if self.peek().is_some() { Err(self.syntax("the end")) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<Cow<'a, [u8]>, ListingError> {
        self.take(b'"', "a string")?;
        let mut unescaped: Option<Vec<u8>> = None;
        loop {
            let rest = &self.json[self.at..];
            let plain = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            let plain = &rest[..plain.ok_or_else(|| self.syntax("the end of the string"))?];
            self.at += plain.len() + 1;
            match (rest[plain.len()], &mut unescaped) {
                (b'"', None) => return Ok(Cow::Borrowed(plain)),
                (b'"', Some(string)) => {
                    string.extend_from_slice(plain);
                    return Ok(Cow::Owned(std::mem::take(string)));
                }
                (b'\\', _) => {
                    let string = unescaped.get_or_insert_default();
                    string.extend_from_slice(plain);
                    let character = self.escape()?;
                    string.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                _ => return Err(self.syntax("an escape for the control character")),
            }
        }
    }

    /// The character that an escape stands for; its backslash was taken.
    fn escape(&mut self) -> Result<char, ListingError> {
        let kind = *self.json.get(self.at).ok_or_else(|| self.syntax("an escape"))?;
        self.at += 1;
        Ok(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let mut units = [self.code_unit()?, 0];
                let mut length = 1;
                if (0xD800..0xDC00).contains(&units[0]) && self.json[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    units[1] = self.code_unit()?;
                    length = 2;
                }
                match char::decode_utf16(units.into_iter().take(length)).next() {
                    Some(Ok(character)) => character,
                    _ => return Err(self.syntax("a pair of surrogates before this")),
                }
            }
            _ => return Err(self.syntax("a known escape before this")),
        })
    }

    fn code_unit(&mut self) -> Result<u16, ListingError> {
        let digits =
            self.json.get(self.at..self.at + 4).ok_or_else(|| self.syntax("four hexadecimal digits"))?;
        let mut unit = 0;
        for digit in digits {
            let value =
                char::from(*digit).to_digit(16).ok_or_else(|| self.syntax("four hexadecimal digits"))?;
            unit = unit << 4 | value as u16;
        }
        self.at += 4;
        Ok(unit)
    }

    fn number(&mut self) -> Result<u64, ListingError> {
        const EXPECTED: &str = "a number from 0 to 2^64 - 1";
        self.peek();
        let rest = &self.json[self.at..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let fraction = matches!(rest.get(digits), Some(b'.' | b'e' | b'E'));
        if digits == 0 || (digits > 1 && rest[0] == b'0') || fraction {
            return Err(self.syntax(EXPECTED));
        }
        let value = rest[..digits]
            .iter()
            .try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .ok_or_else(|| self.syntax(EXPECTED))?;
        self.at += digits;
        Ok(value)
    }

    fn boolean(&mut self) -> Result<bool, ListingError> {
        self.peek();
        for (word, value) in [(&b"true"[..], true), (b"false", false)] {
            if self.json[self.at..].starts_with(word) {
                self.at += word.len();
                return Ok(value);
            }
        }
        Err(self.syntax("true or false"))
    }

    fn node_type(&mut self) -> Result<Type, ListingError> {
        match &*self.string()? {
            b"directory" => Ok(Type::Directory),
            b"regular" => Ok(Type::Regular),
            b"symlink" => Ok(Type::Symlink),
            _ => Err(self.syntax("\"directory\", \"regular\" or \"symlink\" before this")),
        }
    }

    /// Passes over the value of a member that we do not know. Brackets must balance; more is not asked of it.
    fn skip_value(&mut self) -> Result<(), ListingError> {
        let mut depth = 0usize;
        loop {
            match self.peek().ok_or_else(|| self.syntax("a value"))? {
                b'"' => drop(self.string()?),
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                    continue;
                }
                b'}' | b']' | b',' | b':' if depth == 0 => return Err(self.syntax("a value")),
                b',' | b':' => {
                    self.at += 1;
                    continue;
                }
                b'}' | b']' => {
                    depth -= 1;
                    self.at += 1;
                }
                _ => {
                    let rest = &self.json[self.at..];
                    self.at += rest.iter().take_while(|byte| !b"\",:{}[] \t\r\n".contains(byte)).count();
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }
}
