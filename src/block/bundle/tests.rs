//! A bundle read in every form that the format allows, damaged in every place, and added to.

use std::fs::{self, File};

use super::{shared::EMPTY, *};
use crate::{
    block::{
        Memory,
        single_file::{self, Access},
    },
    eris::{BlockSize, Generation, Key, reference_of},
};

fn block(seed: u8, size: BlockSize) -> (Reference, Block) {
    let block = Block::from(vec![seed; size.bytes()]);
    (reference_of(&block), block)
}

fn blocks() -> Vec<(Reference, Block)> {
    (0..10).map(|seed| block(seed, if seed % 3 == 0 { BlockSize::Large } else { BlockSize::Small })).collect()
}

fn capability(seed: u8) -> ReadCapability {
    ReadCapability {
        generation: Generation::V1,
        block_size: BlockSize::Small,
        level: 0,
        reference: Reference::new([seed; 32]),
        key: Key::new([seed; 32]),
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    cbor::write_head(cbor::BYTES, bytes.len() as u64, &mut out);
    out.extend_from_slice(bytes);
    out
}

/// The same in pieces.
fn chunked(bytes: &[u8]) -> Vec<u8> {
    let pieces = bytes.chunks(700).flat_map(string);
    [0x5f].into_iter().chain(pieces).chain([cbor::BREAK]).collect()
}

fn tagged(capability: &ReadCapability) -> Vec<u8> {
    let mut out = Vec::new();
    cbor::write_head(cbor::TAG, cbor::CAPABILITY, &mut out);
    [out, string(&capability.to_bytes())].concat()
}

fn written(bytes: &[u8]) -> (tempfile::TempDir, Bundle) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("bundle");
    fs::write(&path, bytes).expect("a writable directory");
    (folder, Bundle::new(path))
}

async fn holds(bundle: &Bundle, blocks: &[(Reference, Block)]) {
    for (reference, block) in blocks {
        assert_eq!(bundle.get(reference).await.expect("it is in the bundle"), block);
        assert!(bundle.has(reference).await.expect("an answer"));
    }
}

#[tokio::test]
async fn every_form_that_the_format_allows_is_read() {
    let (blocks, capability) = (blocks(), capability(7));
    let pairs: Vec<u8> =
        blocks.iter().flat_map(|(r, b)| [string(r.as_bytes()), string(b)].concat()).collect();
    let pieces: Vec<u8> =
        blocks.iter().flat_map(|(r, b)| [chunked(r.as_bytes()), chunked(b)].concat()).collect();
    // A head longer than it need be, as some writers make.
    let wide: Vec<u8> = blocks
        .iter()
        .flat_map(|(r, b)| [&[0x5b, 0, 0, 0, 0, 0, 0, 0, 32], &r.as_bytes()[..], &string(b)].concat())
        .collect();
    let map = |pairs: &[u8]| [&[0xa0 | 10], pairs].concat();
    let open = |pairs: &[u8]| [&[cbor::OPEN_MAP], pairs, &[cbor::BREAK]].concat();
    // {"later": [1, h'00', {}, 1.5, (_ "x")]}
    let foreign = b"\xa1\x65later\x85\x01\x41\x00\xa0\xf9\x3e\x00\x7f\x61x\xff";
    for bytes in [
        [&[0x82], &map(&pairs)[..], &tagged(&capability)].concat(),
        [b"\xd9\xd9\xf7\xdaeris\x82", &map(&pairs)[..], &tagged(&capability)].concat(),
        [b"\xdaeris\x83", &map(&pieces)[..], &tagged(&capability), foreign].concat(),
        [b"\xd9\xd9\xf7\x9f", &open(&pairs)[..], foreign, &tagged(&capability), b"\xff"].concat(),
        [b"\x9f", &open(&wide)[..], &tagged(&capability), b"\xff"].concat(),
    ] {
        let (_folder, bundle) = written(&bytes);
        holds(&bundle, &blocks).await;
        let (absent, _) = block(99, BlockSize::Small);
        assert!(matches!(bundle.get(&absent).await, Err(Error::NotFound { .. })));
        assert_eq!(bundle.contents().await.expect("a bundle"), (vec![capability], None));
        let store = Memory::new();
        let imported = bundle.import(&store, |_, _| {}).await.expect("a bundle");
        assert_eq!((imported.blocks, imported.spoiled_count, imported.damage), (10, 0, None));
        assert_eq!((store.len(), imported.capabilities), (10, vec![capability]));
    }
}

#[tokio::test]
async fn what_is_put_is_there_for_the_next_reader_with_its_capabilities() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("new/bundle");
    let (writer, reader, blocks) = (Bundle::new(&path), Bundle::new(&path), blocks());
    assert!(matches!(reader.get(&blocks[0].0).await, Err(Error::Unavailable { .. })));
    writer.put_many(blocks[..5].to_vec()).await.expect("it is made");
    writer.add_capabilities(vec![capability(1)]).await.expect("it is added");
    holds(&reader, &blocks[..5]).await;
    writer.put_many(blocks.clone()).await.expect("it is added");
    writer.add_capabilities(vec![capability(1), capability(2)]).await.expect("it is added");
    writer.sync().await.expect("a file");
    // The one that was open already, and a new one.
    holds(&reader, &blocks).await;
    holds(&Bundle::new(&path), &blocks).await;
    let contents = (vec![capability(1), capability(2)], None);
    assert_eq!(Bundle::new(&path).contents().await.expect("a bundle"), contents);
    let length = fs::metadata(&path).expect("a file").len();
    reader.put_many(blocks).await.expect("nothing is new");
    assert_eq!(fs::metadata(&path).expect("a file").len(), length);
    assert!(fs::read(&path).expect("a file").starts_with(b"\xd9\xd9\xf7\xdaeris\x9f\xbf\x58\x20"));
}

#[tokio::test]
async fn a_file_cut_anywhere_gives_what_is_whole_says_where_and_is_mended_by_a_put() {
    let (source, bundle) = written(EMPTY);
    let blocks = blocks();
    bundle.put_many(blocks.clone()).await.expect("it is open");
    bundle.add_capabilities(vec![capability(3)]).await.expect("it is open");
    let bytes = fs::read(source.path().join("bundle")).expect("a file");
    for cut in [EMPTY.len() - 2, 20, 60, 1000, 33_000, 40_000, bytes.len() - 30, bytes.len() - 1] {
        let (_folder, bundle) = written(&bytes[..cut]);
        let (_, damage) = bundle.contents().await.expect("the start of a bundle");
        assert_eq!(damage, Some(Damage::Truncated { at: cut as u64 }), "{cut}");
        let mut whole = 0;
        for (reference, block) in &blocks {
            match bundle.get(reference).await {
                Ok(found) => {
                    assert_eq!(found, block);
                    whole += 1;
                }
                Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{error}"),
            }
        }
        assert!(cut < 32_900 || whole > 0, "{cut}");
        bundle.put_many(blocks.clone()).await.expect("it is mended");
        assert_eq!(bundle.contents().await.expect("a bundle").1, None);
        holds(&bundle, &blocks).await;
    }
}

#[tokio::test]
async fn what_is_no_bundle_or_damaged_inside_says_where_and_is_left_alone() {
    for bytes in [&b""[..], b"PK\x03\x04", b"\x80", b"\x81\x01", b"\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0"]
    {
        let (folder, bundle) = written(bytes);
        let (reference, block) = block(1, BlockSize::Small);
        if !bytes.is_empty() {
            assert!(matches!(bundle.put(&reference, block).await, Err(Error::Refused { .. })), "{bytes:x?}");
            assert_eq!(fs::read(folder.path().join("bundle")).expect("a file"), bytes);
        }
        assert!(matches!(
            bundle.get(&Reference::new([0; 32])).await,
            Err(Error::Refused { .. } | Error::NotFound { .. })
        ));
    }
    let (reference, good) = block(1, BlockSize::Small);
    let first = [string(reference.as_bytes()), string(&good)].concat();
    for (second, at) in [
        ([string(&[0; 31]), string(&good)].concat(), 0),
        ([string(&[0; 33]), string(&good)].concat(), 0),
        ([string(&[0; 32]), string(&[0; 1023])].concat(), 34),
        (b"\x01\x02".to_vec(), 0),
        (vec![0x58, 32], 0),
    ] {
        let bytes = [b"\x9f\xbf", &first[..], &second, &[0x1c; 70_000]].concat();
        let (_folder, bundle) = written(&bytes);
        holds(&bundle, &[(reference, good.clone())]).await;
        let damage = bundle.contents().await.expect("it begins as a bundle").1;
        let place = 2 + first.len() as u64;
        match damage {
            Some(Damage::Unexpected { at: found, .. }) if second.len() > 2 => assert_eq!(found, place + at),
            Some(Damage::Unexpected { at: found, .. }) => assert!(found >= place),
            other => panic!("{other:?}"),
        }
        let error = bundle.put(&Reference::new([0; 32]), good.clone()).await.expect_err("it is damaged");
        assert!(error.to_string().contains("at byte"), "{error}");
    }
}

#[tokio::test]
async fn a_spoiled_block_is_mended_by_the_next_put() {
    let (reference, good) = block(1, BlockSize::Small);
    let entry = [string(reference.as_bytes()), string(&[0; 1024])].concat();
    let (_folder, bundle) = written(&[b"\x9f\xbf", &entry[..], b"\xff\xff"].concat());
    assert_ne!(bundle.get(&reference).await.expect("some bytes"), good);
    bundle.put(&reference, good.clone()).await.expect("it is open");
    assert_eq!(bundle.get(&reference).await.expect("it is mended"), good);
}

#[tokio::test]
async fn a_map_that_says_its_length_is_read_only() {
    let (reference, good) = block(1, BlockSize::Small);
    let bytes = [b"\x81\xa1", &string(reference.as_bytes())[..], &string(&good)].concat();
    let (_folder, bundle) = written(&bytes);
    let (other, more) = block(2, BlockSize::Small);
    assert!(matches!(bundle.put(&other, more).await, Err(Error::Refused { .. })));
    holds(&bundle, &[(reference, good)]).await;
}

#[tokio::test]
async fn nesting_that_would_never_end_is_refused() {
    let bytes = [b"\x9f\xbf\xff".to_vec(), vec![0x81; 100_000]].concat();
    let (_folder, bundle) = written(&bytes);
    let damage = bundle.contents().await.expect("it begins as a bundle").1;
    assert!(matches!(damage, Some(Damage::Unexpected { .. })), "{damage:?}");
}

#[tokio::test]
async fn items_behind_the_blocks_that_would_never_end_are_refused() {
    let bytes = [b"\x9f\xbf\xff".to_vec(), vec![1; 2 << 20]].concat();
    let (_folder, bundle) = written(&bytes);
    let damage = bundle.contents().await.expect("it begins as a bundle").1;
    assert!(matches!(damage, Some(Damage::Unexpected { at, .. }) if at < 2 << 20), "{damage:?}");
}

#[tokio::test]
async fn an_import_leaves_out_what_is_spoiled_and_says_where() {
    let blocks = blocks();
    let mut bytes = b"\x9f\xbf".to_vec();
    let mut places = Vec::new();
    for (number, (reference, block)) in blocks.iter().enumerate() {
        if number % 4 == 1 {
            places.push(Spoiled { at: bytes.len() as u64, reference: *reference, is_unreadable: false });
        }
        let stored = if number % 4 == 1 { vec![0xee; block.len()] } else { block.to_vec() };
        bytes.extend([string(reference.as_bytes()), string(&stored)].concat());
    }
    let cut = bytes.len() as u64;
    let (_folder, bundle) = written(&bytes);
    let store = Memory::new();
    let imported = bundle.import(&store, |_, _| {}).await.expect("the start of a bundle");
    assert_eq!(imported.spoiled, places);
    assert_eq!((imported.blocks, imported.spoiled_count), (7, 3));
    assert_eq!((store.len(), imported.damage), (7, Some(Damage::Truncated { at: cut })));
}

#[tokio::test]
async fn a_writer_that_is_refused_does_not_keep_others_out() {
    let (reference, good) = block(1, BlockSize::Small);
    let (folder, bundle) =
        written(&[b"\x81\xa1", &string(reference.as_bytes())[..], &string(&good)].concat());
    bundle.put(&reference, good).await.expect_err("its length is fixed");
    let file = File::open(folder.path().join("bundle")).expect("it is there");
    assert!(single_file::lock(&file, Access::Write, Duration::ZERO).expect("a lock").is_some());
}

#[tokio::test]
async fn a_file_that_took_its_place_is_read_instead() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("bundle");
    let (bundle, [one, other]) = (Bundle::new(&path), [1, 2].map(|seed| block(seed, BlockSize::Small)));
    bundle.put(&one.0, one.1).await.expect("it is made");
    let incoming = folder.path().join("incoming");
    Bundle::new(&incoming).put(&other.0, other.1.clone()).await.expect("it is made");
    fs::rename(&incoming, &path).expect("a writable directory");
    assert_eq!(bundle.get(&other.0).await.expect("it is in the new file"), other.1);
    assert!(!bundle.has(&one.0).await.expect("an answer"));
}

#[tokio::test]
async fn a_look_up_reads_no_more_than_it_must() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("bundle");
    let many: Vec<_> = (0..400_u32)
        .map(|seed| Block::from(seed.to_le_bytes().repeat(256)))
        .map(|block| (reference_of(&block), block))
        .collect();
    Bundle::new(&path).put_many(many.clone()).await.expect("it is made");
    let reader = Bundle::new(&path);
    assert_eq!(reader.get(&many[0].0).await.expect("the first"), many[0].1);
    let read = reader.turn().await.as_ref().map(|index| index.outline.entries_end);
    assert!(read.is_some_and(|read| read < 200 * 1100), "{read:?}");
    assert_eq!(reader.get(&many[399].0).await.expect("the last"), many[399].1);
}

/// A bundle of the ten blocks with one capability, as it is written.
async fn good_bytes() -> Vec<u8> {
    let (folder, bundle) = written(EMPTY);
    bundle.put_many(blocks()).await.expect("it is open");
    bundle.add_capabilities(vec![capability(3)]).await.expect("it is open");
    fs::read(folder.path().join("bundle")).expect("a file")
}

#[tokio::test]
async fn a_file_that_is_rewritten_in_place_is_read_anew() {
    let bytes = good_bytes().await;
    let others: Vec<_> = (100..120).map(|seed| block(seed, BlockSize::Small)).collect();
    let (folder, other) = written(EMPTY);
    other.put_many(others.clone()).await.expect("it is open");
    let other_bytes = fs::read(folder.path().join("bundle")).expect("a file");
    for new in [other_bytes.clone(), [b"\x9f", &other_bytes[9..]].concat()] {
        let (folder, bundle) = written(&bytes);
        holds(&bundle, &blocks()).await;
        let path = folder.path().join("bundle");
        let file = fs::OpenOptions::new().write(true).truncate(true).open(&path).expect("it is there");
        std::os::unix::fs::FileExt::write_all_at(&file, &new, 0).expect("room");
        // What is sought first: what is there now, what was there, or where to put something.
        let (reference, _) = blocks()[9].clone();
        assert!(matches!(bundle.get(&reference).await, Err(Error::NotFound { .. })));
        holds(&bundle, &others).await;
    }
    let (folder, bundle) = written(&bytes);
    holds(&bundle, &blocks()).await;
    fs::write(folder.path().join("bundle"), &other_bytes).expect("it is there");
    let (reference, more) = block(200, BlockSize::Large);
    bundle.put(&reference, more.clone()).await.expect("it is open");
    let again = Bundle::new(folder.path().join("bundle"));
    holds(&again, &others).await;
    holds(&again, &[(reference, more)]).await;
    assert_eq!(again.contents().await.expect("a bundle").1, None);
}

#[tokio::test]
async fn what_stands_behind_the_blocks_is_kept_whatever_it_is() {
    let told: Vec<ReadCapability> = (0..5000_u32)
        .map(|number| ReadCapability { reference: reference_of(&number.to_le_bytes()), ..capability(1) })
        .collect();
    let foreign = b"\xa1\x65later\x85\x01\x41\x00\xa0\xf9\x3e\x00\x7f\x61x\xff\x00";
    let items: Vec<u8> = told.iter().flat_map(tagged).collect();
    let (folder, bundle) = written(&[b"\x9f\xbf\xff", &items[..], foreign, &items[..71], b"\xff"].concat());
    let (reference, good) = block(1, BlockSize::Small);
    bundle.put(&reference, good.clone()).await.expect("it is open");
    bundle.add_capabilities(vec![told[4999], capability(2)]).await.expect("it is open");
    let bytes = fs::read(folder.path().join("bundle")).expect("a file");
    let entry = [string(reference.as_bytes()), string(&good)].concat();
    let end = [&items[..], foreign, &items[..71], &tagged(&capability(2)), b"\xff"].concat();
    assert!(bytes == [b"\x9f\xbf", &entry[..], b"\xff", &end].concat());
}

#[tokio::test]
async fn a_file_whose_end_is_blank_is_mended_by_a_put() {
    let (bytes, blocks) = (good_bytes().await, blocks());
    let mut cuts: Vec<usize> = (10..60).chain(bytes.len() - 80..bytes.len()).collect();
    cuts.extend([1000, 33_000, 40_000]);
    for cut in cuts {
        for zeros in [16, 5000] {
            let blank = [&bytes[..cut], &vec![0; zeros]].concat();
            let (_folder, bundle) = written(&blank);
            let (_, damage) = bundle.contents().await.expect("the start of a bundle");
            assert!(damage.is_some(), "{cut}");
            let imported = bundle.import(&Memory::new(), |_, _| {}).await.expect("the start of a bundle");
            assert_eq!(imported.damage, damage, "{cut}");
            bundle.put_many(blocks.clone()).await.expect("it is mended");
            assert_eq!(bundle.contents().await.expect("a bundle").1, None, "{cut}");
            holds(&bundle, &blocks).await;
        }
    }
    // Behind the first block; at the end is something that is no zero, so it is somebody else's.
    let (_folder, bundle) = written(&[&bytes[..10 + 37 + 32_768], &[0; 5000], &[1; 10]].concat());
    bundle.put_many(blocks).await.expect_err("it is damaged inside");
}

#[tokio::test]
async fn a_spoiled_block_that_comes_once_more_is_not_missed() {
    let mut bytes = good_bytes().await;
    bytes[10 + 37 + 100] ^= 1;
    let (_folder, bundle) = written(&bytes);
    let spoiled = bundle.import(&Memory::new(), |_, _| {}).await.expect("a bundle");
    assert_eq!((spoiled.blocks, spoiled.spoiled_count, spoiled.spoiled[0].at), (9, 1, 10));
    bundle.put_many(blocks()).await.expect("it is mended");
    let mended = bundle.import(&Memory::new(), |_, _| {}).await.expect("a bundle");
    assert_eq!((mended.blocks, mended.spoiled_count), (10, 0));
}

#[tokio::test]
async fn puts_are_synced_even_if_the_file_was_read_anew_since() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("bundle");
    let bundle = Bundle::new(&path);
    let (reference, good) = block(1, BlockSize::Small);
    bundle.put(&reference, good).await.expect("it is made");
    *bundle.turn().await = None;
    let written = |bundle: &Bundle| bundle.shared.unsynced().as_ref().map(|(_, bytes)| *bytes);
    assert!(written(&bundle) > Some(1024));
    bundle.sync().await.expect("a file");
    assert_eq!(written(&bundle), Some(0));
}

#[tokio::test]
async fn a_file_that_another_keeps_locked_is_unavailable_and_the_index_stays() {
    let bytes = good_bytes().await;
    let (folder, mut bundle) = written(&bytes);
    Arc::get_mut(&mut bundle.shared).expect("nobody else has it").patience = Duration::from_millis(20);
    holds(&bundle, &blocks()).await;
    let file = File::open(folder.path().join("bundle")).expect("it is there");
    let _held = single_file::lock(&file, Access::Write, Duration::ZERO).expect("a lock").expect("it is free");
    // What is known is read all the same.
    holds(&bundle, &blocks()).await;
    let (absent, _) = block(99, BlockSize::Small);
    assert!(matches!(bundle.has(&absent).await, Err(Error::Unavailable { .. })));
    holds(&bundle, &blocks()).await;
}

#[tokio::test]
async fn a_look_up_that_is_given_up_reads_no_further() {
    let (_folder, bundle) = written(&good_bytes().await);
    let turn = bundle.turn().await;
    let (absent, _) = block(99, BlockSize::Large);
    // Many of them, and none takes a thread while another reads.
    let look_ups = futures::future::join_all((0..1000).map(|_| bundle.get(&absent)));
    tokio::time::timeout(Duration::from_millis(50), look_ups).await.expect_err("it is not their turn");
    drop(turn);
    assert!(bundle.turn().await.is_none(), "nobody reads for those who are gone");
}
