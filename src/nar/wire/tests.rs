//! Parser and writer against each other, against the crate nix-archive, and against what Nix refuses.

use nix_archive::nar as oracle;
use proptest::prelude::*;

use super::*;
use crate::nar::arbitrary::{NARS, sample, tree};

/// A NAR of these strings, right or wrong.
fn nar(strings: &[&[u8]]) -> Vec<u8> {
    let mut nar = Vec::new();
    for string in std::iter::once(&MAGIC).chain(strings) {
        nar.extend_from_slice(&(string.len() as u64).to_le_bytes());
        nar.extend_from_slice(string);
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    nar
}

/// A directory of empty directories with these names.
fn directory(names: &[&[u8]]) -> Vec<u8> {
    let mut strings: Vec<&[u8]> = vec![b"(", b"type", b"directory"];
    for name in names {
        strings.extend([
            &b"entry"[..],
            b"(",
            b"name",
            name,
            b"node",
            b"(",
            b"type",
            b"directory",
            b")",
            b")",
        ]);
    }
    strings.push(b")");
    nar(&strings)
}

/// An event that owns its names, in the form of both implementations.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Directory(Vec<u8>),
    EndDirectory,
    File { name: Vec<u8>, executable: bool, contents: Vec<u8> },
    Symlink { name: Vec<u8>, target: Vec<u8> },
}

/// Feeds the parser pieces of `step` bytes, hopping over contents as a reader of a network would.
fn parse(nar: &[u8], step: usize) -> Result<Vec<Seen>, ParseError> {
    let mut parser = Parser::new();
    let mut seen = Vec::new();
    while let Some(rest) = usize::try_from(parser.position()).ok().and_then(|at| nar.get(at..)) {
        if rest.is_empty() {
            break;
        }
        let mut piece = &rest[..step.min(rest.len())];
        let Some(event) = parser.next(&mut piece)? else { continue };
        seen.push(match event {
            Event::Directory { name } => Seen::Directory(name.to_vec()),
            Event::EndDirectory => Seen::EndDirectory,
            Event::File { name, executable, size, offset } => {
                let contents = nar.get(offset as usize..).and_then(|rest| rest.get(..size as usize));
                let contents = contents.unwrap_or_default().to_vec();
                Seen::File { name: name.to_vec(), executable, contents }
            }
            Event::Symlink { name, target } => Seen::Symlink { name: name.to_vec(), target: target.to_vec() },
        });
    }
    parser.finish()?;
    Ok(seen)
}

fn oracle_parse(nar: &[u8]) -> Result<Vec<Seen>, oracle::Error> {
    let mut seen = Vec::new();
    let name = |name: Option<&[u8]>| name.unwrap_or_default().to_vec();
    oracle::decode_events(nar, |event| {
        seen.push(match event {
            oracle::Event::DirectoryStart { name: n } => Seen::Directory(name(n)),
            oracle::Event::DirectoryEnd { .. } => Seen::EndDirectory,
            oracle::Event::Regular { name: n, executable, contents } => {
                Seen::File { name: name(n), executable, contents: contents.to_vec() }
            }
            oracle::Event::Symlink { name: n, target } => {
                Seen::Symlink { name: name(n), target: target.to_vec() }
            }
        });
        Ok(())
    })?;
    Ok(seen)
}

fn write(seen: &[Seen]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    for event in seen {
        match event {
            Seen::Directory(name) => writer.directory(name),
            Seen::EndDirectory => writer.end_directory(),
            Seen::File { name, executable, contents } => {
                writer.file(name, *executable, contents.len() as u64, &contents[..])
            }
            Seen::Symlink { name, target } => writer.symlink(name, target),
        }
        .unwrap();
    }
    writer.finish().unwrap()
}

#[test]
fn real_nars_are_read_as_nix_archive_reads_them_and_written_byte_for_byte() {
    for name in NARS {
        let nar = sample(name);
        let seen = parse(&nar, usize::MAX).unwrap();
        assert_eq!(seen, oracle_parse(&nar).unwrap(), "{name}");
        assert!(write(&seen) == nar, "{name} is written differently");
    }
}

proptest! {
    #[test]
    fn any_tree_is_read_as_nix_archive_wrote_it(tree in tree(false), step in 1usize..50) {
        let nar = tree.nar();
        let seen = parse(&nar, step).unwrap();
        prop_assert_eq!(&seen, &oracle_parse(&nar).unwrap());
        prop_assert!(write(&seen) == nar);
    }

    #[test]
    fn a_flipped_bit_is_refused_wherever_nix_archive_refuses_it(tree in tree(false), at: prop::sample::Index, bit in 0..8) {
        let mut nar = tree.nar();
        let at = at.index(nar.len());
        nar[at] ^= 1u8 << bit;
        match (parse(&nar, 4096), oracle_parse(&nar)) {
            (Ok(ours), Ok(theirs)) => prop_assert_eq!(ours, theirs),
            // What no Linux file system can hold is refused here, and passed there.
            (Err(ParseError::BadTarget { .. }), Ok(_)) | (Err(_), Err(_)) => {}
            (ours, theirs) => prop_assert!(false, "{:?} here, {:?} there", ours, theirs),
        }
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(parse(&bytes, 7).is_err());
    }
}

#[test]
fn every_cut_is_noticed() {
    let nar = sample("hello-offline.nar");
    for length in 0..nar.len() {
        let error = parse(&nar[..length], usize::MAX).unwrap_err();
        assert!(matches!(error, ParseError::Truncated { .. }), "cut at {length}: {error}");
    }
}

#[test]
fn names_that_no_file_can_have_are_refused() {
    let long = vec![b'x'; MAX_NAME + 1];
    assert!(parse(&directory(&[&long[1..]]), 9).is_ok());
    for (name, expected) in [
        (&b""[..], NameFault::Empty),
        (b".", NameFault::Reserved),
        (b"..", NameFault::Reserved),
        (b"a/b", NameFault::Slash),
        (b"/", NameFault::Slash),
        (b"a\0", NameFault::Nul),
    ] {
        let found = parse(&directory(&[name]), 9);
        assert!(matches!(&found, Err(ParseError::BadName { fault, .. }) if *fault == expected), "{found:?}");
    }
    let found = parse(&directory(&[&long]), 9);
    assert!(matches!(found, Err(ParseError::TooLong { limit: MAX_NAME, .. })), "{found:?}");
}

#[test]
fn entries_in_another_order_or_twice_are_refused() {
    assert!(parse(&directory(&[b"B", b"a", b"ab", b"\xff"]), 9).is_ok());
    assert!(matches!(parse(&directory(&[b"a", b"B"]), 9), Err(ParseError::Unsorted { .. })));
    assert!(matches!(parse(&directory(&[b"ab", b"a"]), 9), Err(ParseError::Unsorted { .. })));
    assert!(matches!(parse(&directory(&[b"a", b"a"]), 9), Err(ParseError::Duplicate { .. })));
}

#[test]
fn data_after_the_end_is_refused() {
    let mut nar = directory(&[]);
    nar.push(0);
    assert_eq!(parse(&nar, 9), Err(ParseError::TrailingData { position: nar.len() as u64 - 1 }));
}

#[test]
fn padding_must_be_zero() {
    let file = nar(&[b"(", b"type", b"regular", b"contents", b"12345", b")"]);
    assert!(parse(&file, 9).is_ok());
    let contents = file.windows(5).position(|window| window == b"12345").unwrap();
    for at in [contents + 5, contents + 7, 24 + 9, 23] {
        let mut file = file.clone();
        file[at] = 1;
        assert!(matches!(parse(&file, 9), Err(ParseError::Padding { .. })), "byte {at}");
    }
}

#[test]
fn a_bomb_of_directories_is_refused() {
    let nested = |depth: usize| {
        let mut strings: Vec<&[u8]> = vec![b"(", b"type", b"directory"];
        for _ in 1..depth {
            strings.extend([&b"entry"[..], b"(", b"name", b"d", b"node", b"(", b"type", b"directory"]);
        }
        strings.extend(vec![&b")"[..]; 2 * depth - 1]);
        nar(&strings)
    };
    assert!(parse(&nested(MAX_DEPTH), usize::MAX).is_ok());
    assert_eq!(parse(&nested(MAX_DEPTH + 1), usize::MAX), Err(ParseError::TooDeep));
}

#[test]
fn sizes_beyond_64_bits_are_refused_before_anything_is_allocated() {
    let mut file = nar(&[b"(", b"type", b"regular", b"contents"]);
    for size in [u64::MAX, u64::MAX - 7, u64::MAX - 200, MAX_NAR] {
        file.truncate(104 - 8);
        file.extend_from_slice(&size.to_le_bytes());
        let found = parse(&file, 9);
        assert!(matches!(found, Err(ParseError::FileTooLarge { .. })), "{size}: {found:?}");
    }
    let mut name = MAGIC.len().to_le_bytes().to_vec();
    name[7] = 0x7F;
    assert!(matches!(parse(&name, 9), Err(ParseError::TooLong { .. })));
}

#[test]
fn links_without_a_target_that_linux_allows_are_refused() {
    let link = |target: &[u8]| parse(&nar(&[b"(", b"type", b"symlink", b"target", target, b")"]), 9);
    assert!(link(&[b'x'; MAX_TARGET]).is_ok());
    assert!(matches!(link(b""), Err(ParseError::BadTarget { fault: NameFault::Empty, .. })));
    assert!(matches!(link(b"a\0b"), Err(ParseError::BadTarget { fault: NameFault::Nul, .. })));
    assert!(matches!(link(&[b'x'; MAX_TARGET + 1]), Err(ParseError::TooLong { limit: MAX_TARGET, .. })));
}

#[test]
fn other_words_than_the_grammars_are_refused() {
    for strings in [
        &[&b"["[..]][..],
        &[b"(", b"kind"],
        &[b"(", b"type", b"fifo"],
        &[b"(", b"type", b"regular", b")"],
        &[b"(", b"type", b"regular", b"executable", b"x"],
        &[b"(", b"type", b"regular", b"executable", b"", b"executable"],
        &[b"(", b"type", b"symlink", b")"],
        &[b"(", b"type", b"directory", b"name"],
        &[b"(", b"type", b"directory", b"entry", b"(", b"node"],
        &[b"(", b"type", b"directory", b"entry", b"(", b"name", b"a", b")"],
    ] {
        let found = parse(&nar(strings), 9);
        assert!(matches!(found, Err(ParseError::Unexpected { .. })), "{strings:?}: {found:?}");
    }
    let mut other = directory(&[]);
    other[8 + MAGIC.len() - 1] = b'2';
    assert!(matches!(parse(&other, 9), Err(ParseError::Unexpected { .. })));
}

#[test]
fn the_writer_refuses_what_the_parser_would_refuse() {
    let refused = |result: io::Result<()>| result.unwrap_err().downcast::<ParseError>().unwrap();
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.directory(b"").unwrap();
    writer.symlink(b"b", b"x").unwrap();
    assert!(matches!(refused(writer.symlink(b"a", b"x")), ParseError::Unsorted { .. }));
    assert!(matches!(refused(writer.directory(b"b")), ParseError::Duplicate { .. }));
    assert!(matches!(refused(writer.directory(b"..")), ParseError::BadName { .. }));
    assert!(matches!(refused(writer.symlink(b"c", b"")), ParseError::BadTarget { .. }));
    let short = writer.file(b"d", false, 3, &b"12"[..]).unwrap_err();
    assert_eq!(short.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(refused(writer.finish().map(drop)), ParseError::Unbalanced);
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.symlink(b"", b"x").unwrap();
    assert_eq!(refused(writer.symlink(b"", b"x")), ParseError::Unbalanced);
    assert_eq!(refused(writer.end_directory()), ParseError::Unbalanced);
}
