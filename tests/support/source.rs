//! A source file as `tests/layers.rs` looks at it: its code without comments and literals, and the paths in it.

use std::fs;
use std::path::Path;

/// One file of `src/`.
pub struct Source {
    file: String,
    lines: usize,
    /// The text with comments, literals and test modules blanked; every line break stays.
    code: String,
    /// The text of the string literals outside of tests alone, likewise.
    literals: String,
    /// The code, tests included.
    code_and_tests: String,
}

/// What a byte of the text belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Code,
    Literal,
    Comment,
}

impl Source {
    /// The file `file` (such as `src/eris/mod.rs`) with this content.
    pub fn new(file: &str, text: &str) -> Self {
        let classes = classify(text.as_bytes());
        let only = |class: Class| -> String {
            let byte = |(byte, found): (u8, &Class)| match byte {
                b'\n' => '\n',
                _ if *found == class => char::from(byte),
                _ => ' ',
            };
            text.bytes().zip(&classes).map(byte).collect()
        };
        let code_and_tests = only(Class::Code);
        let (mut code, mut literals) = (code_and_tests.clone(), only(Class::Literal));
        let whole = [(0, code.len())];
        let tests = if is_test_file(file) { whole.to_vec() } else { test_modules(&code) };
        for (start, end) in tests {
            code = blanked(&code, start, end);
            literals = blanked(&literals, start, end);
        }
        Self { file: file.to_owned(), lines: text.lines().count(), code, literals, code_and_tests }
    }

    /// All files of `src/` in the project at `root`.
    pub fn read_all(root: &Path) -> Vec<Self> {
        let (mut sources, mut ahead) = (Vec::new(), vec![root.join("src")]);
        while let Some(path) = ahead.pop() {
            if path.is_dir() {
                ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(root).unwrap().to_str().unwrap();
                sources.push(Self::new(file, &fs::read_to_string(&path).unwrap()));
            }
        }
        sources
    }

    /// The path from the root of the project.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// How many lines it has.
    pub fn len(&self) -> usize {
        self.lines
    }

    /// The lines (from 1) of the code outside of tests where `name` stands as a word or a path of its own.
    pub fn lines_with(&self, name: &str) -> Vec<usize> {
        occurrences(&self.code, name).map(|at| line_of(&self.code, at)).collect()
    }

    /// The lines (from 1) where a string literal outside of tests has `text` in it.
    pub fn literals_with(&self, text: &str) -> Vec<usize> {
        self.literals.match_indices(text).map(|(at, _)| line_of(&self.literals, at)).collect()
    }

    /// The first names after the crate's root of all paths that start there, spelt with `crate` or with `super`, each with its
    /// line. Tests are included. `*` and `crate` itself are named as such.
    pub fn crate_paths(&self) -> Vec<(usize, String)> {
        let code = &self.code_and_tests;
        let mut found = Vec::new();
        for at in occurrences(code, "crate").filter(|at| !ends_with_visibility(&code[..*at])) {
            heads(code, at + "crate".len(), &mut found);
        }
        for at in occurrences(code, "super").filter(|at| !ends_with_visibility(&code[..*at])) {
            // The rest of a chain `super::super` that was begun before.
            if code[..at].trim_end().ends_with("super::") {
                continue;
            }
            let (mut ups, mut end) = (prefix_ups(&code[..at]) + 1, at + "super".len());
            while let Some(rest) = code[end..].trim_start().strip_prefix("::")
                && let Some(rest) = rest.trim_start().strip_prefix("super")
            {
                end = code.len() - rest.len();
                ups += 1;
            }
            if ups > inline_modules(&code[..at]) + depth(&self.file) - 1 {
                heads(code, end, &mut found);
            }
        }
        found.into_iter().map(|(at, name)| (line_of(code, at), name)).collect()
    }
}

/// `tests.rs` and `tests/`, and what declares itself by its name a part of the tests.
fn is_test_file(file: &str) -> bool {
    file.ends_with("/tests.rs") || file.contains("/tests/") || file.ends_with("/arbitrary.rs")
}

/// How many modules down from the crate's root the file is: 1 for `src/eris/mod.rs`.
fn depth(file: &str) -> usize {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').count()
}

fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

fn blanked(text: &str, start: usize, end: usize) -> String {
    let blank: String = text[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
    format!("{}{blank}{}", &text[..start], &text[end..])
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where `name` stands without a letter, digit or underscore at either side.
fn occurrences<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(name).map(|(at, _)| at).filter(move |&at| {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        let after = bytes.get(at + name.len()).copied();
        let ends_itself = name.ends_with('!');
        !before.is_some_and(is_word) && (ends_itself || !after.is_some_and(is_word))
    })
}

/// Whether `pub(` stands before: its `crate` or `super` is no path.
fn ends_with_visibility(before: &str) -> bool {
    before.trim_end().ends_with("pub(")
}

/// How many `super` stand before a brace that is open here, as in `super::{super::x}`.
fn prefix_ups(before: &str) -> usize {
    let (mut closed, mut ups) = (0usize, 0);
    for (at, byte) in before.bytes().enumerate().rev() {
        match byte {
            b';' => break,
            b'}' => closed += 1,
            b'{' if closed > 0 => closed -= 1,
            b'{' => {
                let mut prefix = before[..at].trim_end();
                while let Some(rest) = prefix.strip_suffix("super::") {
                    prefix = rest;
                    ups += 1;
                }
            }
            _ => {}
        }
    }
    ups
}

/// How many `mod name {` are open at the end of `before`.
fn inline_modules(before: &str) -> usize {
    let (mut open, mut word) = (Vec::new(), Vec::new());
    let separated = before.replace('{', " { ").replace('}', " } ").replace(';', " ; ");
    for token in separated.split_whitespace() {
        match token {
            "{" => open.push(matches!(word.as_slice(), [.., "mod", _])),
            "}" => drop(open.pop()),
            _ => {}
        }
        word.push(token);
    }
    open.into_iter().filter(|is_module| *is_module).count()
}

/// The names that a path goes on with after `end`: one, or each of a group in braces.
fn heads(code: &str, end: usize, found: &mut Vec<(usize, String)>) {
    let start_of = |rest: &str| code.len() - rest.len();
    let Some(rest) = code[end..].trim_start().strip_prefix("::") else {
        found.push((end, "crate".to_owned()));
        return;
    };
    let rest = rest.trim_start();
    let Some(group) = rest.strip_prefix('{') else {
        found.push((start_of(rest), first_name(rest)));
        return;
    };
    let (mut level, mut expects_name) = (0usize, true);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'}' if level == 0 => return,
            b'{' => level += 1,
            b'}' => level -= 1,
            b',' if level == 0 => expects_name = true,
            _ if byte.is_ascii_whitespace() => {}
            _ if expects_name => {
                expects_name = false;
                let name = first_name(&group[at..]);
                // `super::{super::x}` is found by its inner `super`.
                if name != "super" {
                    found.push((start_of(&group[at..]), name));
                }
            }
            _ => {}
        }
    }
}

fn first_name(rest: &str) -> String {
    let name: String = rest.bytes().take_while(|byte| is_word(*byte)).map(char::from).collect();
    if name.is_empty() { rest.chars().take(1).collect() } else { name }
}

/// The ranges of `#[cfg(test)] mod name { ... }`.
fn test_modules(code: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let rest = &code[start + attribute.len()..];
        let Some(item) = rest.find(['{', ';']) else { continue };
        if rest.as_bytes()[item] == b';' || !rest[..item].split_whitespace().any(|word| word == "mod") {
            continue;
        }
        let mut level = 0usize;
        let end = rest[item..].bytes().position(|byte| {
            level += usize::from(byte == b'{');
            level -= usize::from(byte == b'}');
            level == 0
        });
        let end = end.map_or(code.len(), |end| start + attribute.len() + item + end + 1);
        found.push((start, end));
    }
    found
}

/// Tells code, literals and comments apart, as far as rustc's lexer needs it: nested comments, raw strings, characters and
/// lifetimes.
fn classify(text: &[u8]) -> Vec<Class> {
    let mut classes = Vec::with_capacity(text.len());
    while let Some(&byte) = text.get(classes.len()) {
        let at = classes.len();
        let rest = &text[at..];
        let (length, class) = match byte {
            b'/' if rest.starts_with(b"//") => {
                (rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()), Class::Comment)
            }
            b'/' if rest.starts_with(b"/*") => (block_comment(rest), Class::Comment),
            b'"' => (string(rest), Class::Literal),
            b'r' if at == 0 || !is_word(text[at - 1]) || text[at - 1] == b'b' => match raw_string(rest) {
                Some(length) => (length, Class::Literal),
                None => (1, Class::Code),
            },
            b'\'' => match character(rest) {
                Some(length) => (length, Class::Literal),
                None => (1, Class::Code),
            },
            _ => (1, Class::Code),
        };
        classes.resize(at + length, class);
    }
    classes
}

fn block_comment(text: &[u8]) -> usize {
    let (mut level, mut at) = (0usize, 0);
    while at < text.len() {
        let (open, close) = (text[at..].starts_with(b"/*"), text[at..].starts_with(b"*/"));
        level += usize::from(open);
        level -= usize::from(close);
        at += if open || close { 2 } else { 1 };
        if level == 0 {
            break;
        }
    }
    at.min(text.len())
}

fn string(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

fn raw_string(text: &[u8]) -> Option<usize> {
    let hashes = text[1..].iter().take_while(|byte| **byte == b'#').count();
    if text.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let start = 2 + hashes;
    let content = text[start..].windows(end.len()).position(|window| window == end);
    Some(content.map_or(text.len(), |content| start + content + end.len()))
}

/// A character literal; a lifetime is none.
fn character(text: &[u8]) -> Option<usize> {
    match text.get(1)? {
        b'\\' => Some(3 + text.get(3..)?.iter().position(|byte| *byte == b'\'')? + 1),
        byte => {
            let width = match byte {
                0..0x80 => 1,
                0x80..0xE0 => 2,
                0xE0..0xF0 => 3,
                _ => 4,
            };
            (text.get(1 + width) == Some(&b'\'')).then_some(2 + width)
        }
    }
}
