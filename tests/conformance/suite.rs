//! The promises of the trait `BlockStore`, each a function over any store.

use std::{any::Any, collections::HashMap, sync::Arc};

use async_trait::async_trait;
use erisfs::{
    block::{Block, BlockStore, Error, Found, Refusal},
    eris::{BlockSize, Reference, reference_of},
};
use futures::{FutureExt as _, StreamExt as _, future::join_all};

/// The token that `http:` is given in these tests; it has a character that a URL must escape.
pub const SECRET: &str = "hush/hush-0123456789";

/// A store under test.
pub struct Subject {
    pub store: Arc<dyn BlockStore>,
    /// The same store as another process finds it, if it outlives this one.
    pub reopened: Option<Box<dyn Fn() -> Arc<dyn BlockStore> + Send + Sync>>,
    pub kept_alive: Box<dyn Any + Send + Sync>,
}

impl Subject {
    pub fn new(store: Arc<dyn BlockStore>) -> Self {
        Self { store, reopened: None, kept_alive: Box::new(()) }
    }
}

/// A store that lacks every block and takes none.
#[derive(Debug)]
pub struct Library;

#[async_trait]
impl BlockStore for Library {
    fn name(&self) -> &str {
        "library:"
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        Err(Error::NotFound { reference: *reference, store: self.name().into() })
    }

    async fn has(&self, _: &Reference) -> Result<bool, Error> {
        Ok(false)
    }

    async fn put(&self, _: &Reference, _: Block) -> Result<(), Error> {
        Err(Error::Refused { store: self.name().into(), reason: Refusal::ReadOnly })
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        3
    }
}

/// The block number `seed` of this size: noise, the same each time.
pub fn block(seed: u64, size: BlockSize) -> (Reference, Block) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ size.bytes() as u64 | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let bytes: Vec<u8> = words.take(size.bytes() / 8).flatten().collect();
    (reference_of(&bytes), bytes.into())
}

const SIZES: [BlockSize; 2] = [BlockSize::Small, BlockSize::Large];

/// 1,000 blocks of both sizes.
fn thousand() -> Vec<(Reference, Block)> {
    (0..1000)
        .map(|seed| block(seed, if seed % 4 == 0 { BlockSize::Large } else { BlockSize::Small }))
        .collect()
}

pub async fn what_was_put_can_be_had(subject: &Subject) {
    for (reference, block) in SIZES.map(|size| block(1, size)) {
        subject.store.put(&reference, block.clone()).await.expect("it takes blocks");
        assert!(subject.store.has(&reference).await.expect("it answers"));
        assert_eq!(subject.store.get(&reference).await.expect("it has the block"), block);
    }
}

pub async fn an_absent_block_is_not_found(subject: &Subject) {
    let (present, bytes) = block(1, BlockSize::Small);
    subject.store.put(&present, bytes).await.expect("it takes blocks");
    let (absent, _) = block(2, BlockSize::Small);
    assert!(!subject.store.has(&absent).await.expect("it answers"));
    match subject.store.get(&absent).await {
        Err(Error::NotFound { reference, store }) => {
            assert_eq!(reference, absent);
            assert!(!store.is_empty());
        }
        other => panic!("expected NotFound, got {other:?}"),
    }
}

pub async fn putting_again_changes_nothing(subject: &Subject) {
    let (reference, block) = block(3, BlockSize::Large);
    for _ in 0..3 {
        subject.store.put(&reference, block.clone()).await.expect("it takes the block each time");
    }
    let twice = vec![(reference, block.clone()), (reference, block.clone())];
    subject.store.put_many(twice).await.expect("it takes the block twice in a batch");
    assert_eq!(subject.store.get(&reference).await.expect("it has the block"), block);
}

pub async fn a_wrong_length_is_refused(subject: &Subject) {
    for length in [0, 1, 1023, 1025, 32767, 32769] {
        let bytes = Block::from(vec![7; length]);
        refused(subject, reference_of(&bytes), bytes, |found| found == Found::Length(length as u64)).await;
    }
}

pub async fn a_wrong_reference_is_refused(subject: &Subject) {
    let ((reference, _), (actual, bytes)) = (block(4, BlockSize::Large), block(5, BlockSize::Large));
    refused(subject, reference, bytes, |found| found == Found::Block(actual)).await;
}

/// Neither alone nor in a batch does the store keep these bytes under this reference.
async fn refused(subject: &Subject, reference: Reference, bytes: Block, expected: impl Fn(Found) -> bool) {
    let alone = subject.store.put(&reference, bytes.clone()).await;
    let in_batch = subject.store.put_many(vec![block(6, BlockSize::Small), (reference, bytes)]).await;
    for put in [alone, in_batch] {
        match put.as_ref().map_err(Error::most_telling) {
            Err(Error::Refused { reason: Refusal::NotTheBlock { reference: named, found }, .. }) => {
                assert_eq!(*named, reference);
                assert!(expected(*found), "found {found}");
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
    assert!(!subject.store.has(&reference).await.expect("it answers"));
}

pub async fn many_blocks_come_each_as_often_as_asked(subject: &Subject) {
    let blocks = thousand();
    subject.store.put_many(blocks.clone()).await.expect("it takes blocks");

    let absent: Vec<Reference> = (5000..5050).map(|seed| block(seed, BlockSize::Small).0).collect();
    let present = blocks.iter().map(|(reference, _)| *reference);
    let twice = blocks.iter().step_by(10).map(|(reference, _)| *reference);
    let asked: Vec<Reference> = present.chain(absent.iter().copied()).chain(twice).collect();
    let mut expected: HashMap<Reference, usize> = HashMap::new();
    asked.iter().for_each(|reference| *expected.entry(*reference).or_default() += 1);

    let contents: HashMap<Reference, Block> = blocks.into_iter().collect();
    let mut arrived: HashMap<Reference, usize> = HashMap::new();
    let mut answers = subject.store.get_many(asked);
    while let Some((reference, answer)) = answers.next().await {
        *arrived.entry(reference).or_default() += 1;
        match (contents.get(&reference), answer) {
            (Some(block), Ok(answer)) => assert_eq!(*block, answer),
            (None, Err(Error::NotFound { reference: named, .. })) => assert_eq!(named, reference),
            (_, answer) => panic!("{reference}: {answer:?}"),
        }
    }
    assert_eq!(arrived, expected);
}

pub async fn an_empty_batch_is_no_work(subject: &Subject) {
    assert!(subject.store.get_many(Vec::new()).next().await.is_none());
    subject.store.put_many(Vec::new()).await.expect("nothing can fail");
    subject.store.sync().await.expect("nothing can fail");
    assert!(subject.store.concurrency() >= 1);
}

pub async fn the_same_block_can_be_put_by_many_at_once(subject: &Subject) {
    let (reference, block) = block(8, BlockSize::Large);
    let puts = (0..32).map(|_| {
        let (store, block) = (subject.store.clone(), block.clone());
        tokio::spawn(async move { store.put(&reference, block).await })
    });
    for put in join_all(puts).await {
        put.expect("no panic").expect("it takes the block from each");
    }
    assert_eq!(subject.store.get(&reference).await.expect("it has the block"), block);
}

pub async fn leaving_in_the_middle_harms_nobody(subject: &Subject) {
    let blocks = thousand();
    subject.store.put_many(blocks.clone()).await.expect("it takes blocks");
    let references: Vec<Reference> = blocks.iter().map(|(reference, _)| *reference).collect();

    // A batch is left after three answers, another before any, and requests and puts after their first poll.
    let mut answers = subject.store.get_many(references.clone());
    for _ in 0..3 {
        answers.next().await.expect("there are a thousand").1.expect("it has the block");
    }
    drop(answers);
    drop(subject.store.get_many(references.clone()));
    let _ = subject.store.get(&references[0]).now_or_never();
    let (new, bytes) = block(9, BlockSize::Large);
    let _ = subject.store.put(&new, bytes.clone()).now_or_never();

    subject.store.put(&new, bytes.clone()).await.expect("it still takes blocks");
    assert_eq!(subject.store.get(&new).await.expect("it has the block"), bytes);
    let came = subject.store.get_many(references).filter(|(_, answer)| std::future::ready(answer.is_ok()));
    assert_eq!(came.count().await, blocks.len());
}

pub async fn synced_blocks_are_there_after_reopening(subject: &Subject) {
    let blocks = SIZES.map(|size| block(10, size));
    subject.store.put_many(blocks.to_vec()).await.expect("it takes blocks");
    subject.store.sync().await.expect("it can sync");
    let reopened = subject.reopened.as_ref().map_or_else(|| subject.store.clone(), |reopen| reopen());
    for (reference, block) in blocks {
        assert_eq!(reopened.get(&reference).await.expect("it kept the block"), block);
    }
}

pub async fn no_secret_is_shown(subject: &Subject) {
    let (absent, _) = block(11, BlockSize::Small);
    let error = subject.store.get(&absent).await.expect_err("it lacks the block");
    let shown =
        [subject.store.name().to_owned(), format!("{:?}", subject.store), format!("{error} {error:?}")];
    for text in shown {
        assert!(!text.is_empty() && !text.contains("hush"), "{text}");
    }
}
