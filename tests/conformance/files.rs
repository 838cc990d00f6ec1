//! `files:` keeps the promises of a block store that takes no blocks. Its blocks are those of files, so it cannot be filled by
//! the suite of the others.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use erisfs::block::{self, BlockStore, Error, Refusal};
use erisfs::eris::{BlockSize, ConvergenceSecret, Encoder, Reference, reference_of};
use futures::{FutureExt as _, StreamExt as _, future::join_all};
use tempfile::TempDir;

use crate::suite::{self, Subject};

/// A directory of files of both block sizes, indexed, and the references of its leaves and nodes.
struct Shelf {
    dir: TempDir,
    references: Vec<Reference>,
}

impl Shelf {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("files")).expect("a writable directory");
        let mut references = Vec::new();
        for (seed, length) in [100, 10_000, 40_000, 2_000_000].into_iter().enumerate() {
            let noise =
                (0..length / 1024 + 1).flat_map(|i| suite::block(seed as u64 * 1000 + i, BlockSize::Small).1);
            let content: Vec<u8> = noise.take(length as usize).collect();
            fs::write(dir.path().join(format!("files/{length}")), &content).expect("a writable directory");
            let mut encoder = Encoder::new(BlockSize::for_length(length), ConvergenceSecret::NULL);
            references.extend(encoder.push(&content).iter().map(|block| block.reference));
            references.extend(encoder.finish().1.iter().map(|block| block.reference));
        }
        let (root, index) = (dir.path().join("files"), dir.path().join("index"));
        block::update_index(&root, &index, SystemTime::now(), &mut |_| ()).expect("it can be indexed");
        Self { dir, references }
    }

    fn url(&self) -> String {
        let [root, index]: [PathBuf; 2] = ["files", "index"].map(|name| self.dir.path().join(name));
        format!("files:{}?index={}", root.display(), index.display())
    }

    fn open(&self) -> Arc<dyn BlockStore> {
        block::open(&self.url()).expect("a good URL")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_blocks_come_each_as_often_as_asked() {
    let shelf = Shelf::new();
    let store = shelf.open();
    let absent: HashSet<Reference> = (0..50).map(|seed| suite::block(seed, BlockSize::Large).0).collect();
    let twice = shelf.references.iter().chain(&shelf.references).chain(&absent);
    let asked: Vec<Reference> = twice.copied().collect();
    let mut answers = store.get_many(asked.clone());
    let mut arrived = Vec::new();
    while let Some((reference, answer)) = answers.next().await {
        match answer {
            Ok(block) => assert_eq!(reference_of(&block), reference),
            Err(Error::NotFound { reference: named, .. }) => {
                assert!(named == reference && absent.contains(&reference));
            }
            Err(error) => panic!("{error}"),
        }
        arrived.push(reference);
    }
    let sorted = |mut references: Vec<Reference>| {
        references.sort_unstable();
        references
    };
    assert_eq!(sorted(arrived), sorted(asked));
    suite::an_empty_batch_is_no_work(&Subject::new(store.clone())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_block_is_not_found_and_no_secret_is_shown() {
    let shelf = Shelf::new();
    let subject = Subject::new(shelf.open());
    let (absent, _) = suite::block(2, BlockSize::Small);
    assert!(!subject.store.has(&absent).await.expect("it answers"));
    assert!(matches!(subject.store.get(&absent).await, Err(Error::NotFound { .. })));
    suite::no_secret_is_shown(&subject).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_can_be_put() {
    let shelf = Shelf::new();
    let store = shelf.open();
    let (reference, block) = suite::block(3, BlockSize::Large);
    let puts = [store.put(&reference, block.clone()).await, store.put_many(vec![(reference, block)]).await];
    for put in puts {
        assert!(matches!(put, Err(Error::Refused { reason: Refusal::ReadOnly, .. })), "{put:?}");
    }
    assert!(!store.has(&reference).await.expect("it answers"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_in_the_middle_harms_nobody_and_many_may_ask_at_once() {
    let shelf = Shelf::new();
    let store = shelf.open();
    let mut answers = store.get_many(shelf.references.clone());
    answers.next().await.expect("there are many").1.expect("it has the block");
    drop(answers);
    let _ = store.get(&shelf.references[0]).now_or_never();
    let all = (0..8).map(|_| {
        let (store, references) = (shelf.open(), shelf.references.clone());
        tokio::spawn(async move {
            store.get_many(references).all(|(_, answer)| async move { answer.is_ok() }).await
        })
    });
    for complete in join_all(all).await {
        assert!(complete.expect("no panic"));
    }
}
