//! What a program says of the libraries that it will load: as much of ELF as that takes.
//!
//! Only the files of 64-bit little-endian machines are read (x86-64, AArch64, RISC-V, POWER). The bytes are
//! a stranger's: whatever does not fit gives `None`, and nothing is longer than it may be.

use std::ops::Range;

/// The header and the program headers of all but odd files are in the first page.
pub(super) const HEADER: u64 = 4096;
/// The largest dynamic section that is read: 2048 entries.
const MAX_DYNAMIC: u64 = 32 << 10;
/// The largest string table that is read. Those of C++ libraries have some hundred KiB; names of libraries come at any place.
const MAX_STRINGS: u64 = 4 << 20;
/// The most libraries that one file may name.
const MAX_NEEDED: usize = 256;
/// The longest path or list of paths.
const MAX_STRING: usize = 64 << 10;

const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;

const END: u64 = 0;
const NEEDED: u64 = 1;
const STRINGS: u64 = 5;
const STRINGS_SIZE: u64 = 10;
const RPATH: u64 = 15;
const RUNPATH: u64 = 29;

/// Where in a program the parts are that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// The path of the dynamic loader.
    pub(super) interpreter: Option<Range<u64>>,
    /// The dynamic section.
    pub(super) dynamic: Option<Range<u64>>,
    /// Address, place in the file and length of what is loaded.
    loads: Vec<(u64, u64, u64)>,
}

/// What the dynamic section says; names are places in the string table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dynamic {
    /// The string table, as a place in the file.
    pub(super) strings: Range<u64>,
    /// The libraries by name.
    pub(super) needed: Vec<u64>,
    /// Where they are looked for: directories with colons between them.
    pub(super) run_path: Option<u64>,
}

impl Program {
    /// Reads the first [`HEADER`] bytes of a file (fewer where it is shorter).
    pub(super) fn parse(first: &[u8]) -> Option<Self> {
        // Magic number, 64 bits, little-endian, version 1.
        if !first.starts_with(b"\x7fELF\x02\x01\x01") {
            return None;
        }
        let (at, size, count) = (le(first, 32, 8)?, le(first, 54, 2)?, le(first, 56, 2)?);
        let mut program = Program { interpreter: None, dynamic: None, loads: Vec::new() };
        for number in 0..count {
            let header = at.checked_add(number.checked_mul(size)?)?;
            let field =
                |offset: u64, width| le(first, usize::try_from(header.checked_add(offset)?).ok()?, width);
            let (offset, address, length) = (field(8, 8)?, field(16, 8)?, field(32, 8)?);
            let range = offset..offset.checked_add(length)?;
            match field(0, 4)? as u32 {
                LOAD => program.loads.push((address, offset, length)),
                DYNAMIC if length <= MAX_DYNAMIC => program.dynamic = Some(range),
                INTERPRETER if length <= MAX_STRING as u64 => program.interpreter = Some(range),
                _ => {}
            }
        }
        Some(program)
    }

    /// Reads the dynamic section.
    pub(super) fn dynamic(&self, section: &[u8]) -> Option<Dynamic> {
        let (mut strings, mut size, mut needed, mut run_path) = (None, None, Vec::new(), None);
        for entry in section.chunks_exact(16) {
            let (tag, value) = (le(entry, 0, 8)?, le(entry, 8, 8)?);
            match tag {
                END => break,
                NEEDED if needed.len() < MAX_NEEDED => needed.push(value),
                STRINGS => strings = Some(value),
                STRINGS_SIZE => size = Some(value),
                RUNPATH => run_path = Some(value),
                RPATH => run_path = run_path.or(Some(value)),
                _ => {}
            }
        }
        let start = self.place(strings?)?;
        let end = start.checked_add(size?.min(MAX_STRINGS))?;
        Some(Dynamic { strings: start..end, needed, run_path })
    }

    /// Where in the file an address is.
    fn place(&self, address: u64) -> Option<u64> {
        let load =
            self.loads.iter().find(|(start, _, length)| address >= *start && address - start < *length)?;
        load.1.checked_add(address - load.0)
    }
}

/// The string at a place of a string table.
pub(super) fn string(table: &[u8], at: u64) -> Option<&str> {
    let rest = table.get(usize::try_from(at).ok()?..)?;
    let rest = &rest[..rest.len().min(MAX_STRING)];
    let end = rest.iter().position(|&byte| byte == 0)?;
    std::str::from_utf8(&rest[..end]).ok()
}

fn le(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(file: &[u8]) -> Option<(Option<String>, Vec<String>)> {
        let slice = |range: Range<u64>| file.get(range.start as usize..(range.end as usize).min(file.len()));
        let program = Program::parse(&file[..file.len().min(HEADER as usize)])?;
        let interpreter = program.interpreter.clone().and_then(slice).and_then(|path| string(path, 0));
        let dynamic = program.dynamic(slice(program.dynamic.clone()?)?)?;
        let strings = slice(dynamic.strings.clone())?;
        let needed = dynamic.needed.iter().filter_map(|&at| string(strings, at).map(str::to_owned)).collect();
        Some((interpreter.map(str::to_owned), needed))
    }

    #[test]
    fn a_program_names_its_loader_and_its_libraries() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        let (interpreter, needed) = names(&file).unwrap();
        assert!(interpreter.unwrap().contains("ld-"));
        assert!(needed.iter().any(|name| name.starts_with("libc.")), "{needed:?}");
    }

    #[test]
    fn hostile_bytes_give_nothing_and_do_no_harm() {
        let file = std::fs::read("/proc/self/exe").unwrap();
        let file = &file[..file.len().min(1 << 20)];
        let mut state = 1u64;
        for _ in 0..5000 {
            let mut spoiled = file[..HEADER as usize].to_vec();
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                spoiled[(state >> 40) as usize % 1024] = (state >> 30) as u8;
            }
            names(&spoiled);
            if let Some(program) = Program::parse(&spoiled) {
                program.dynamic(&file[..4096]);
            }
        }
        assert_eq!(Program::parse(b"#!/bin/sh"), None);
        assert_eq!(Program::parse(b"\x7fELF\x02\x01\x01"), None);
        assert_eq!(string(b"abc", 1), None);
        assert_eq!(string(b"abc\0", 9), None);
    }
}
