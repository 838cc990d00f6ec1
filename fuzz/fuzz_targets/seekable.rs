//! The end of a seekable NAR: seek table, listing frame, and the listing's JSON.
//!
//! The first byte chooses: an object as it is; a seek table whose frame, footer and sum are made right around the fuzzer's
//! entries; JSON.

#![no_main]

use erisfs::nar::Listing;
use erisfs::nar::seekable::{MAX_FRAME, SeekTable, Tail, read_listing, read_profile};
use erisfs_fuzz::Input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    match input.byte() % 3 {
        0 => object(input.0),
        1 => object(&sound(&mut input)),
        _ => json(input.0),
    }
});

/// An object with some content, then skippable frames, then a seek table that fits.
fn sound(input: &mut Input<'_>) -> Vec<u8> {
    let (mut object, mut entries) = (Vec::new(), Vec::new());
    for _ in 0..input.byte() {
        let (compressed, decompressed) = (u32::from(input.byte()), input.u32() % (MAX_FRAME + 2));
        object.resize(object.len() + compressed as usize, 0xAA);
        entries.push((compressed, decompressed));
    }
    let nar_size = entries.iter().map(|(_, decompressed)| u64::from(*decompressed)).sum::<u64>();
    for _ in 0..input.byte() % 4 {
        let kind = input.byte();
        let length = usize::from(input.u16());
        let mut payload = input.bytes(length).to_vec();
        if kind & 0x80 != 0 {
            // A listing whose compression is right, of the JSON that the fuzzer gives.
            let _ = Listing::from_json(&payload, Some(nar_size));
            payload = zstd::bulk::compress(&payload, 1).expect("zstd compresses anything");
        }
        if kind & 0x40 != 0 {
            payload.splice(0..0, *b"NARLIST1");
        }
        object.extend((0x184D_2A50 + u32::from(kind & 0xF)).to_le_bytes());
        object.extend((payload.len() as u32).to_le_bytes());
        object.extend(&payload);
        entries.push((payload.len() as u32 + 8, 0));
    }
    let checksums = input.byte() & 1 != 0;
    let entry = if checksums { 12 } else { 8 };
    object.extend(0x184D_2A5E_u32.to_le_bytes());
    object.extend((entries.len() as u32 * entry + 9).to_le_bytes());
    for (compressed, decompressed) in &entries {
        object.extend(compressed.to_le_bytes());
        object.extend(decompressed.to_le_bytes());
        object.extend(&[0x55; 4][..entry as usize - 8]);
    }
    object.extend((entries.len() as u32).to_le_bytes());
    object.push(u8::from(checksums) << 7);
    object.extend(0x8F92_EAB1_u32.to_le_bytes());
    object
}

/// Opens an object as a reader does: from its last bytes, more of them as they are asked for.
fn object(object: &[u8]) {
    let length = object.len() as u64;
    let mut wanted = 9.min(length);
    loop {
        let last = &object[(length - wanted) as usize..];
        match Tail::parse(last, length) {
            Ok(Tail::Needs(more)) => {
                assert!(more > wanted && more <= length, "{more} bytes after {wanted} of {length}");
                wanted = more;
            }
            Ok(Tail::Seekable { table, listing, profile }) => {
                check(&table, length);
                if let Some(listing) = listing {
                    assert!(listing.start <= listing.end && length - listing.start <= wanted);
                    let listing = &object[listing.start as usize..listing.end as usize];
                    if let Ok(listing) = read_listing(listing, table.content_size()) {
                        assert_eq!(listing.nar_size(), table.content_size());
                    }
                }
                if let Some(profile) = profile {
                    read_profile(&object[profile.start as usize..profile.end as usize]);
                }
                return;
            }
            Ok(Tail::Absent) | Err(_) => return,
        }
    }
}

/// Frames lie one after another, and those that cover a range hold it.
fn check(table: &SeekTable, length: u64) {
    let mut end = (0, 0);
    for index in 0..table.len() {
        let frame = table.frame(index).expect("an index within the table");
        assert_eq!((frame.compressed.start, frame.decompressed.start), end);
        assert!(frame.compressed.end <= length);
        assert!(frame.decompressed.end - frame.decompressed.start <= u64::from(MAX_FRAME));
        end = (frame.compressed.end, frame.decompressed.end);
    }
    assert!(table.frame(table.len()).is_none());
    assert_eq!(end.1, table.content_size());
    let size = table.content_size();
    for range in [0..size, 0..u64::MAX, size / 2..size / 2 + 1, size / 3..size, size..size + 1, 5..5] {
        let mut next = range.start;
        for frame in table.frames_covering(range.clone()) {
            assert!(frame.decompressed.start <= next && frame.decompressed.end > next, "{range:?}");
            next = frame.decompressed.end;
        }
        assert!(range.is_empty() || next >= range.end.min(size), "{range:?}");
    }
}

fn json(json: &[u8]) {
    let Ok(listing) = Listing::from_json(json, None) else { return };
    let mut written = Vec::new();
    listing.to_json(&mut written).expect("what came from JSON can be JSON again");
    let again = Listing::from_json(&written, Some(listing.nar_size())).expect("our own JSON");
    assert_eq!(again, listing);
    let mut twice = Vec::new();
    again.to_json(&mut twice).expect("as before");
    assert!(twice == written, "a second time it is other JSON");
    assert!(Listing::from_json(&written, Some(listing.nar_size() + 8)).is_err());
}
