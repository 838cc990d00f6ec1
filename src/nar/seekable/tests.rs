//! Seekable NARs against every decoder of zstd at hand, against the crate zeekstd, and against hostile tails.

use std::io::{Cursor, Read, Write};
use std::ops::Range;

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::compress::decode_frame;
use crate::nar::arbitrary::{NARS, Tree, sample, tree};
use crate::nar::{Hasher, Indexer, Kind, Listing};

/// Frames of 4 KiB, so that small NARs have many of them.
const SMALL: Settings = Settings { frame_size: 4096, level: 3 };

fn pack(nar: &[u8], settings: Settings) -> (Vec<u8>, Packed) {
    let mut object = Vec::new();
    let mut packer = Packer::with(&mut object, settings);
    // Pieces of a size that fits nothing.
    nar.chunks(1021).for_each(|piece| packer.write_all(piece).unwrap());
    let packed = packer.finish().unwrap();
    (object, packed)
}

/// Reads the tail as a reader of a network would: as much as it takes, from little on.
fn open(object: &[u8]) -> Result<(SeekTable, Option<Range<u64>>), TailError> {
    let mut take = 1;
    loop {
        match Tail::parse(&object[object.len() - take..], object.len() as u64)? {
            Tail::Needs(more) => {
                assert!(take < more as usize && more as usize <= object.len(), "{take} given, {more} wanted");
                take = more as usize;
            }
            Tail::Absent => panic!("there is a seek table"),
            Tail::Seekable { table, listing, .. } => return Ok((table, listing)),
        }
    }
}

fn bytes(object: &[u8], range: &Range<u64>) -> Vec<u8> {
    object[range.start as usize..range.end as usize].to_vec()
}

/// Reads a range of the NAR by decoding the frames that cover it.
fn read(object: &[u8], table: &SeekTable, range: Range<u64>) -> Vec<u8> {
    let mut read = Vec::new();
    let mut start = range.start;
    for frame in table.frames_covering(range.clone()) {
        let size = (frame.decompressed.end - frame.decompressed.start) as usize;
        let content = decode_frame(&bytes(object, &frame.compressed), size).unwrap();
        let end = range.end.min(frame.decompressed.end);
        read.extend_from_slice(
            &content[(start - frame.decompressed.start) as usize..(end - frame.decompressed.start) as usize],
        );
        start = end;
    }
    read
}

/// Files of all sizes that matter for frames of 4 KiB, with bytes that do not compress.
fn files() -> Tree {
    let mut seed = 1u32;
    let mut random = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    let sizes = [10, 2000, 2048, 100, 9000, 4096, 1, 0, 1500, 1500, 1500, 700, 20_000, 2047, 1999, 5000];
    let entries = sizes.iter().enumerate().map(|(number, size)| {
        let contents = (0..*size).map(|_| random()).collect();
        (format!("{number:02}").into_bytes(), Tree::File { executable: number % 2 == 0, contents })
    });
    Tree::Directory(entries.collect())
}

#[test]
fn any_zstd_decoder_gives_the_nar_and_its_hash_is_the_nar_hash() {
    for name in NARS {
        let nar = sample(name);
        for settings in [Settings::default(), SMALL] {
            let (object, packed) = pack(&nar, settings);
            assert!(zstd::decode_all(&object[..]).unwrap() == nar, "{name}");
            assert_eq!(packed.nar_hash, <[u8; 32]>::from(Sha256::digest(&nar)), "{name}");
            assert_eq!(
                (packed.nar_size, packed.packed_size),
                (nar.len() as u64, object.len() as u64),
                "{name}"
            );
        }
    }
}

#[test]
fn the_zstd_command_gives_the_nar() {
    let nar = files().nar();
    let (object, _) = pack(&nar, SMALL);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&object).unwrap();
    match std::process::Command::new("zstd").args(["-q", "-d", "-c"]).stdin(file.reopen().unwrap()).output() {
        Ok(output) => assert!(output.status.success() && output.stdout == nar, "{output:?}"),
        Err(error) => {
            eprintln!("the command zstd cannot be run ({error}); its library decoded in the test above")
        }
    }
}

#[test]
fn the_tail_holds_the_listing() {
    let nar = sample("hello-offline-lib.nar.zst");
    let (object, packed) = pack(&nar, SMALL);
    let (table, listing) = open(&object).unwrap();
    assert!(packed.listed);
    assert_eq!(table.content_size(), nar.len() as u64);
    let listing = read_listing(&bytes(&object, &listing.unwrap()), table.content_size()).unwrap();
    assert_eq!(listing, packed.listing);
    assert_eq!(listing, Listing::from_json(&sample("hello-offline-lib.ls"), None).unwrap());
}

#[test]
fn one_fetch_of_the_last_64_kib_opens_an_object() {
    let (object, _) = pack(&sample("tree.nar"), Settings::default());
    let last = &object[object.len() - (64 << 10)..];
    assert!(matches!(Tail::parse(last, object.len() as u64), Ok(Tail::Seekable { listing: Some(_), .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_range_is_read_from_its_frames_alone(tree in tree(false), frame_size in 1usize..3000, a: prop::sample::Index, b: prop::sample::Index) {
        let nar = tree.nar();
        let (object, packed) = pack(&nar, Settings { frame_size, level: 1 });
        let (table, listing) = open(&object).unwrap();
        prop_assert_eq!(packed.listed, listing.is_some());
        let (a, b) = (a.index(nar.len() + 1), b.index(nar.len() + 1));
        let range = a.min(b)..a.max(b);
        let found = read(&object, &table, range.start as u64..range.end as u64);
        prop_assert!(found == nar[range]);
        prop_assert!(read(&object, &table, 0..nar.len() as u64) == nar);
        prop_assert_eq!(table.frames_covering(nar.len() as u64..u64::MAX).count(), 0);
        for frame in (0..table.len()).filter_map(|index| table.frame(index)) {
            prop_assert!(frame.decompressed.end - frame.decompressed.start <= frame_size as u64);
        }
    }

    #[test]
    fn zeekstd_reads_any_range(a in 0u64..60_000, b in 0u64..60_000) {
        let nar = files().nar();
        let (object, _) = pack(&nar, SMALL);
        let (a, b) = (a.min(nar.len() as u64), b.min(nar.len() as u64));
        let mut decoder = zeekstd::DecodeOptions::new(Cursor::new(&object)).offset(a.min(b)).offset_limit(a.max(b)).into_decoder().unwrap();
        let mut found = Vec::new();
        decoder.read_to_end(&mut found).unwrap();
        prop_assert!(found == nar[a.min(b) as usize..a.max(b) as usize]);
    }

    #[test]
    fn a_changed_byte_of_the_tail_is_refused_or_names_frames_within_the_object(at in 0usize..300, byte: u8) {
        let (mut object, _) = pack(&files().nar(), SMALL);
        let at = object.len() - 1 - at;
        object[at] = byte;
        if let Ok(Tail::Seekable { table, listing, .. }) = Tail::parse(&object, object.len() as u64) {
            for frame in table.frames_covering(0..u64::MAX) {
                prop_assert!(frame.compressed.end <= object.len() as u64);
            }
            if let Some(listing) = listing {
                // A sound listing or an error, but no panic.
                let _ = read_listing(&bytes(&object, &listing), table.content_size());
            }
        }
    }

    #[test]
    fn any_bytes_are_a_tail_or_an_error(mut last in prop::collection::vec(any::<u8>(), 0..200), more in 0u64..1000, seekable: bool) {
        if let Some(magic) = last.last_chunk_mut::<4>().filter(|_| seekable) {
            *magic = SEEKABLE_MAGIC.to_le_bytes();
        }
        let length = last.len() as u64 + more;
        if let Ok(Tail::Needs(needs)) = Tail::parse(&last, length) {
            prop_assert!(needs > last.len() as u64 && needs <= length);
        }
    }
}

#[test]
fn zeekstd_sees_the_listing_as_a_frame_without_content() {
    let (object, _) = pack(&files().nar(), SMALL);
    let (table, _) = open(&object).unwrap();
    let theirs = zeekstd::SeekTable::from_seekable(&mut Cursor::new(&object)).unwrap();
    assert_eq!(theirs.num_frames(), table.len());
    assert_eq!(theirs.size_decomp(), table.content_size());
    for index in 0..table.len() {
        let frame = table.frame(index).unwrap();
        assert_eq!(theirs.frame_start_comp(index).unwrap(), frame.compressed.start);
        assert_eq!(theirs.frame_end_decomp(index).unwrap(), frame.decompressed.end);
    }
}

#[test]
fn archives_of_others_are_read_without_a_listing() {
    let nar = files().nar();
    let policy = zeekstd::FrameSizePolicy::Uncompressed(3000);
    let mut object = Vec::new();
    let options = zeekstd::EncodeOptions::new().frame_size_policy(policy).checksum_flag(true);
    let mut encoder = options.into_encoder(&mut object).unwrap();
    encoder.write_all(&nar).unwrap();
    encoder.finish().unwrap();

    let (table, listing) = open(&object).unwrap();
    assert_eq!(listing, None);
    let mut indexer = Indexer::new();
    while let Some(at) = indexer.wants() {
        let frame = table.frames_covering(at..at + 1).next().unwrap();
        let content = read(&object, &table, frame.decompressed.clone());
        indexer.feed(frame.decompressed.start, &content).unwrap();
    }
    let mut hasher = Hasher::new();
    hasher.write_all(&nar).unwrap();
    assert_eq!(indexer.finish().unwrap(), hasher.finish().unwrap().listing);
}

#[test]
fn a_file_of_up_to_half_a_frame_lies_in_one_frame() {
    let (object, packed) = pack(&files().nar(), SMALL);
    let (table, _) = open(&object).unwrap();
    let mut small = 0;
    for id in packed.listing.nodes() {
        let Kind::File { size, offset, .. } = packed.listing.kind(id) else { continue };
        if (1..=2048).contains(&size) {
            assert_eq!(
                table.frames_covering(offset..offset + size).count(),
                1,
                "{:?}",
                packed.listing.name(id)
            );
            small += 1;
        }
    }
    assert_eq!(small, 11);
    let frames: Vec<_> = table.frames_covering(0..u64::MAX).collect();
    for frame in &frames[..frames.len() - 1] {
        let size = frame.decompressed.end - frame.decompressed.start;
        assert!((2048..=4096).contains(&size), "a frame of {size} bytes");
    }
}

#[test]
fn what_is_no_canonical_nar_is_not_packed() {
    let nar = sample("hello-offline.nar");
    let mut packer = Packer::new(Vec::new());
    packer.write_all(&nar).unwrap();
    assert_eq!(packer.write_all(b"more").unwrap_err().kind(), std::io::ErrorKind::InvalidData);
    let mut packer = Packer::new(Vec::new());
    packer.write_all(&nar[..nar.len() - 8]).unwrap();
    assert_eq!(packer.finish().unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_name_that_is_not_utf8_costs_the_listing_only() {
    let nar = Tree::Directory([(b"caf\xe9".to_vec(), Tree::Symlink(b"x".to_vec()))].into()).nar();
    let (object, packed) = pack(&nar, SMALL);
    assert!(!packed.listed);
    let (table, listing) = open(&object).unwrap();
    assert_eq!((table.content_size(), listing), (nar.len() as u64, None));
}

#[test]
fn one_thread_of_rayons_own_can_pack_and_packs_the_same() {
    let nar = files().nar();
    let (expected, _) = pack(&nar, SMALL);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert!(pool.install(|| pack(&nar, SMALL).0) == expected);
}

/// Skippable frames, by magic number and payload, then the seek table of these and what is before them.
fn with_trailer(frames: &[(u32, u32)], content: &[u8], trailer: &[(u32, &[u8])]) -> Vec<u8> {
    let mut object = content.to_vec();
    let mut entries = frames.to_vec();
    for (magic, payload) in trailer {
        object.extend_from_slice(&magic.to_le_bytes());
        object.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        object.extend_from_slice(payload);
        entries.push((payload.len() as u32 + 8, 0));
    }
    object.extend_from_slice(&seek_table(&entries));
    object
}

fn seek_table(entries: &[(u32, u32)]) -> Vec<u8> {
    let mut table = SEEK_TABLE_MAGIC.to_le_bytes().to_vec();
    table.extend_from_slice(&(entries.len() as u32 * 8 + 9).to_le_bytes());
    for (compressed, decompressed) in entries {
        table.extend_from_slice(&compressed.to_le_bytes());
        table.extend_from_slice(&decompressed.to_le_bytes());
    }
    table.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    table.push(0);
    table.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
    table
}

#[test]
fn unknown_skippable_frames_around_the_listing_are_passed_over() {
    let listing = [&LISTING_TAG[..], b"listing"].concat();
    let trailer: &[(u32, &[u8])] = &[
        (0x184D_2A50, b"a pad"),
        (LISTING_MAGIC, b"PROFILE1"),
        (LISTING_MAGIC, &listing),
        (0x184D_2A5F, b""),
    ];
    let object = with_trailer(&[(4, 100), (0, 0), (6, 50)], b"0123456789", trailer);
    let (table, listing) = open(&object).unwrap();
    assert_eq!((table.len(), table.content_size()), (7, 150));
    assert_eq!(bytes(&object, &listing.unwrap()), b"listing");
    let covering: Vec<_> = table.frames_covering(99..101).collect();
    assert_eq!(
        covering,
        [
            Frame { index: 0, compressed: 0..4, decompressed: 0..100 },
            Frame { index: 2, compressed: 4..10, decompressed: 100..150 }
        ]
    );
}

#[test]
fn hostile_tails_are_refused() {
    let refused = |object: &[u8]| Tail::parse(object, object.len() as u64).unwrap_err();
    let sound = with_trailer(&[(4, 100)], b"0123", &[]);
    assert!(open(&sound).is_ok());

    let error = refused(&with_trailer(&[(5, 100)], b"0123", &[]));
    assert!(matches!(error, TailError::Sum { expected: 4, found: 5 }), "{error}");
    let error = refused(&with_trailer(&[(u32::MAX, 0), (u32::MAX, 0)], b"0123", &[]));
    assert!(matches!(error, TailError::Sum { .. }), "{error}");
    let error = refused(&with_trailer(&[(4, 1), (u32::MAX, 1)], b"0123", &[]));
    assert!(matches!(error, TailError::CompressedTooLarge { frame: 1, size: u32::MAX }), "{error}");
    let error = refused(&with_trailer(&[(4, MAX_FRAME + 1)], b"0123", &[]));
    assert!(matches!(error, TailError::FrameTooLarge { frame: 0, .. }), "{error}");
    let error = refused(&with_trailer(&[(4, 1), (0, 1)], b"0123", &[]));
    assert!(matches!(error, TailError::FrameTooSmall { frame: 1, size: 1 }), "{error}");
    let error = refused(&with_trailer(&[(4, 1), (9, 0)], b"0123 not skip", &[]));
    assert!(matches!(error, TailError::Trailer { frame: 1 }), "{error}");
    let error = refused(&with_trailer(&[(4, 1), (1, 0)], b"01234", &[]));
    assert!(matches!(error, TailError::Trailer { frame: 1 }), "{error}");

    let changed = |from_end: usize, bytes: &[u8]| {
        let mut object = sound.clone();
        let at = object.len() - from_end;
        object[at..at + bytes.len()].copy_from_slice(bytes);
        refused(&object)
    };
    assert!(matches!(changed(5, &[0x40]), TailError::Descriptor { descriptor: 0x40 }));
    assert!(matches!(changed(9, &[2, 0, 0, 0]), TailError::TooManyFrames { frames: 2, .. }));
    assert!(matches!(changed(9, &[0xFF; 4]), TailError::TooManyFrames { frames: u32::MAX, .. }));
    assert!(matches!(changed(9, &[0, 0, 0, 0]), TailError::Header { .. }));
    assert!(matches!(changed(25, &[0]), TailError::Header { .. }));
    assert!(matches!(changed(21, &[0xFF; 4]), TailError::Header { .. }));

    let footer = &sound[sound.len() - 9..];
    assert!(matches!(Tail::parse(footer, 8), Err(TailError::Longer { given: 9, object: 8 })));
    let mut many = footer.to_vec();
    many[..4].copy_from_slice(&(MAX_FRAMES + 1).to_le_bytes());
    assert!(matches!(Tail::parse(&many, 1 << 40), Err(TailError::TooManyFrames { .. })));
    let table = seek_table(&[(4, 1), (MAX_TRAILER as u32 + 1, 0)]);
    let length = table.len() as u64 + 4 + MAX_TRAILER + 1;
    assert!(matches!(Tail::parse(&table, length), Err(TailError::TrailerTooLarge { .. })));
}

#[test]
fn what_has_no_seek_table_is_told_apart() {
    for object in [&b""[..], b"short", &[0; 100], &zstd::encode_all(&[7u8; 5000][..], 3).unwrap()] {
        assert_eq!(Tail::parse(object, object.len() as u64).unwrap(), Tail::Absent);
    }
    let (object, _) = pack(&files().nar(), SMALL);
    let cut = &object[..object.len() - 1];
    assert_eq!(Tail::parse(cut, cut.len() as u64).unwrap(), Tail::Absent);
}

#[test]
fn listings_that_are_none_are_refused() {
    let encode = |json: &[u8]| crate::compress::FrameEncoder::new(3).unwrap().encode(json).unwrap();
    let json = sample("tree.ls");
    let size = sample("tree.nar").len() as u64;
    assert!(read_listing(&encode(&json), size).is_ok());
    assert!(matches!(read_listing(&encode(&json), size + 8), Err(TailError::Listing(_))));
    assert!(matches!(read_listing(&encode(b"{}"), size), Err(TailError::Listing(_))));
    assert!(matches!(read_listing(b"no zstd", size), Err(TailError::ListingSize { size: None })));
    let whole = encode(&json);
    assert!(matches!(read_listing(&whole[..whole.len() - 1], size), Err(TailError::ListingFrame(_))));
    // A frame header that announces 2^62 bytes: single segment, eight bytes of size.
    let huge = [0x28, 0xB5, 0x2F, 0xFD, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0];
    assert!(matches!(read_listing(&huge, size), Err(TailError::ListingSize { size: Some(_) })));
}
