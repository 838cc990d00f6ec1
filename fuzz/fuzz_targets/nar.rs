//! NARs in pieces of odd length. Whatever is accepted is canonical: written again it has the same bytes.

#![no_main]

use std::io::Write as _;

use erisfs::nar::wire::{Event, Parser, Writer};
use erisfs::nar::{Hasher, Indexer, Kind, Listing, NodeId};
use erisfs_fuzz::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let step = usize::from(input.byte()).max(1);
    let nar = input.0;

    let whole = hash(nar, nar.len().max(1));
    assert_eq!(whole, hash(nar, step), "pieces of {step} bytes make a difference");

    // The indexer takes pieces that overlap, and hops over what it does not want.
    let mut indexer = Indexer::new();
    let mut failed = false;
    while let Some(at) = indexer.wants().filter(|at| *at < nar.len() as u64) {
        let start = (at as usize).saturating_sub(step / 2);
        failed = indexer.feed(start as u64, &nar[start..nar.len().min(start + 2 * step)]).is_err();
        if failed {
            break;
        }
    }
    let indexed = if failed { None } else { indexer.finish().ok() };

    let Some(listing) = whole else { return };
    assert_eq!(indexed.as_ref(), Some(&listing));
    assert_eq!(listing.nar_size(), nar.len() as u64);
    assert!(rewritten(nar) == nar, "written again it has other bytes");
    check(&listing, nar);
});

/// The tree of a complete NAR that is given in pieces.
fn hash(nar: &[u8], step: usize) -> Option<Listing> {
    let mut hasher = Hasher::new();
    for piece in nar.chunks(step) {
        hasher.write_all(piece).ok()?;
    }
    hasher.finish().ok().map(|hashed| hashed.listing)
}

/// What the writer makes of the parser's events.
fn rewritten(nar: &[u8]) -> Vec<u8> {
    let (mut parser, mut rest) = (Parser::new(), nar);
    let mut writer = Writer::new(Vec::new()).expect("writing to memory");
    while let Some(event) = parser.next(&mut rest).expect("accepted before") {
        let skip = match event {
            Event::Directory { name } => writer.directory(name).map(|()| 0),
            Event::EndDirectory => writer.end_directory().map(|()| 0),
            Event::Symlink { name, target } => writer.symlink(name, target).map(|()| 0),
            Event::File { name, executable, size, offset } => {
                assert_eq!(offset, (nar.len() - rest.len()) as u64);
                writer.file(name, executable, size, &rest[..size as usize]).map(|()| size as usize)
            }
        };
        rest = &rest[skip.expect("the parser accepted it")..];
    }
    writer.finish().expect("the parser accepted it")
}

/// The tree agrees with itself, and with its JSON.
fn check(listing: &Listing, nar: &[u8]) {
    for id in listing.nodes() {
        assert_eq!(listing.resolve(&listing.path(id)), Some(id));
        if let Kind::File { size, offset, .. } = listing.kind(id) {
            assert!(offset + size <= nar.len() as u64);
        }
        if id != NodeId::ROOT {
            assert_eq!(listing.lookup(listing.parent(id), listing.name(id)), Some(id));
        }
    }
    let mut json = Vec::new();
    if listing.to_json(&mut json).is_ok() {
        let again = Listing::from_json(&json, Some(nar.len() as u64)).expect("our own JSON");
        assert_eq!(again, *listing);
    }
}
