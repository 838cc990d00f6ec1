//! A database that grows, one that others spoiled, and one that others hold.

use std::fs;

use super::*;
use crate::eris::reference_of;

fn block(seed: u32, size: BlockSize) -> (Reference, Block) {
    let block = Block::from(seed.to_le_bytes().repeat(size.bytes() / 4));
    (reference_of(&block), block)
}

fn database() -> (tempfile::TempDir, Gdbm) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let gdbm = Gdbm::new(folder.path().join("new/blocks"));
    (folder, gdbm)
}

async fn holds(gdbm: &Gdbm, blocks: &[(Reference, Block)]) {
    for (reference, block) in blocks {
        assert_eq!(gdbm.get(reference).await.expect("it was put"), block);
    }
}

#[tokio::test]
async fn a_database_grows_by_splits_until_its_directory_doubles() {
    let (_folder, gdbm) = database();
    let blocks: Vec<_> = (0..3000).map(|seed| block(seed, BlockSize::Small)).collect();
    assert!(!gdbm.has(&blocks[0].0).await.expect("there is no file yet"));
    gdbm.put_many(blocks.clone()).await.expect("it is made");
    holds(&gdbm, &blocks).await;
    let length = fs::metadata(&gdbm.shared.path).expect("a file").len();
    gdbm.put_many(blocks.clone()).await.expect("nothing is new");
    assert_eq!(fs::metadata(&gdbm.shared.path).expect("a file").len(), length);
    let (absent, _) = block(9999, BlockSize::Small);
    assert!(matches!(gdbm.get(&absent).await, Err(Error::NotFound { .. })));
}

#[test]
fn a_directory_doubles_where_the_first_bits_of_hashes_agree() {
    let file = tempfile::tempfile().expect("a temporary file");
    std::os::unix::fs::FileExt::write_all_at(&file, &format::empty(), 0).expect("room");
    let mut database = Database::open(&file).expect("our own");
    // Keys that all come into the first bucket of 512, more than fit into two.
    let keys: Vec<[u8; format::KEY]> = (0_u64..)
        .map(|number| *reference_of(&number.to_le_bytes()).as_bytes())
        .filter(|key| format::hash(key, database::SIGNED) >> 22 == 0)
        .take(400)
        .collect();
    let value = Block::from(vec![7; 1024]);
    for key in &keys {
        database.insert(key, &value, BlockSize::Small).expect("it grows");
    }
    let again = Database::open(&file).expect("our own");
    for key in &keys {
        let place = again.find(key).expect("it is sound").expect("it was put");
        assert_eq!(again.read(place).expect("it is sound"), value);
    }
}

#[test]
fn a_split_that_is_cut_short_loses_nothing() {
    let value = Block::from(vec![7; 1024]);
    // Keys that all come into the first 32 entries of the directory, so that buckets split several times.
    let keys: Vec<[u8; format::KEY]> = (0_u64..)
        .map(|number| *reference_of(&number.to_le_bytes()).as_bytes())
        .filter(|key| format::hash(key, database::SIGNED) >> 26 == 0)
        .take(600)
        .collect();
    for writes in 0..12 {
        let file = tempfile::tempfile().expect("a temporary file");
        std::os::unix::fs::FileExt::write_all_at(&file, &format::empty(), 0).expect("room");
        for key in &keys {
            let mut killed = Database::open(&file).expect("our own");
            killed.writes_left = writes;
            if killed.insert(key, &value, BlockSize::Small).is_err() {
                let mut again = Database::open(&file).expect("our own");
                again.insert(key, &value, BlockSize::Small).expect("nobody kills it");
            }
        }
        let database = Database::open(&file).expect("our own");
        for key in &keys {
            let place = database.find(key).expect("it is sound");
            let place = place.unwrap_or_else(|| panic!("lost by a kill after {writes} writes"));
            assert_eq!(database.read(place).expect("it is sound"), value);
        }
    }
}

#[tokio::test]
async fn a_spoiled_block_and_one_of_another_length_are_mended_by_the_next_put() {
    let (_folder, gdbm) = database();
    let (reference, good) = block(1, BlockSize::Large);
    gdbm.put(&reference, Block::from(vec![1; 32768])).await.expect("it is made");
    gdbm.put(&reference, good.clone()).await.expect("it is mended");
    holds(&gdbm, &[(reference, good.clone())]).await;
    let mut bytes = fs::read(&gdbm.shared.path).expect("a file");
    let size = 32768_u32.to_le_bytes();
    let at = bytes[8192..12288].windows(4).position(|window| window == size).expect("an element") + 8192;
    bytes[at..at + 4].copy_from_slice(&500_u32.to_le_bytes());
    fs::write(&gdbm.shared.path, &bytes).expect("our own file");
    let error = gdbm.get(&reference).await.expect_err("it is no block");
    assert!(matches!(error, Error::Corrupt { found: Found::Length(500), .. }), "{error}");
    assert!(!gdbm.has(&reference).await.expect("an answer"));
    gdbm.put(&reference, good.clone()).await.expect("it is mended");
    holds(&gdbm, &[(reference, good)]).await;
}

#[tokio::test]
async fn damage_is_refused_with_its_place_wherever_it_is() {
    let (folder, gdbm) = database();
    let blocks: Vec<_> = (0..200).map(|seed| block(seed, BlockSize::Small)).collect();
    gdbm.put_many(blocks.clone()).await.expect("it is made");
    let whole = fs::read(&gdbm.shared.path).expect("a file");
    let spoiled = folder.path().join("spoiled");
    // Every field of the header, the directory and the first bucket.
    for at in (0..40).chain(4096..4104).chain(8192..8192 + 400) {
        for byte in [0, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = byte;
            fs::write(&spoiled, bytes).expect("a writable directory");
            let gdbm = Gdbm::new(&spoiled);
            for (reference, answer) in
                gdbm.shared.read_many(blocks.iter().step_by(5).map(|(r, _)| *r).collect())
            {
                match answer {
                    Ok(_) | Err(Error::NotFound { .. } | Error::Corrupt { .. }) => {}
                    Err(Error::Refused { reason: Refusal::Foreign(what), .. }) => {
                        assert!(what.contains("at byte "), "{what}");
                    }
                    Err(error) => panic!("{reference}: {error}"),
                }
            }
        }
    }
    // Every number of 8 bytes: the directory, the end of the file, an entry of the directory, and where records are.
    let records = (8192 + 112 + 8..8192 + 400).step_by(24);
    for at in [8, 32, 4096].into_iter().chain(records) {
        for number in
            [u64::MAX, u64::MAX - 7, 1 << 63, (1 << 63) - 1, (1 << 63) - 33, 1 << 62, u64::MAX - 4095]
        {
            let mut bytes = whole.clone();
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            fs::write(&spoiled, bytes).expect("a writable directory");
            let gdbm = Gdbm::new(&spoiled);
            gdbm.shared.read_many(blocks.iter().map(|(r, _)| *r).collect());
            // Where it says that its end is far away, a put may be refused, or make a file with a hole.
            for (reference, block) in (200..210).map(|seed| block(seed, BlockSize::Small)) {
                let _ = gdbm.shared.write(&[(reference, block)]);
            }
        }
    }
    for cut in [0, 1, 39, 40, 5000, 9000, 12_288, 12_300] {
        fs::write(&spoiled, &whole[..cut]).expect("a writable directory");
        let answers = Gdbm::new(&spoiled).shared.read_many(vec![blocks[0].0]);
        assert!(answers[0].1.is_err(), "{cut}");
    }
}

#[tokio::test]
async fn what_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let path = folder.path().join("notes.txt");
    fs::write(&path, "not a database, but somebody's notes of some length").expect("a writable directory");
    let (reference, good) = block(1, BlockSize::Small);
    let error = Gdbm::new(&path).put(&reference, good).await.expect_err("it is none");
    assert!(error.to_string().contains("at byte 0 stands no GDBM database"), "{error}");
    assert!(fs::read(&path).expect("it is there").starts_with(b"not a database"));
}

#[tokio::test]
async fn several_stores_write_to_one_file() {
    let (_folder, gdbm) = database();
    let blocks: Vec<_> = (0..400).map(|seed| block(seed, BlockSize::Small)).collect();
    let puts = blocks.chunks(100).map(|part| {
        let (gdbm, part) = (Gdbm::new(&gdbm.shared.path), part.to_vec());
        tokio::spawn(async move { gdbm.put_many(part).await })
    });
    for put in futures::future::join_all(puts).await {
        put.expect("no panic").expect("each has its turn");
    }
    holds(&gdbm, &blocks).await;
}
