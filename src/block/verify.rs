//! Every block is checked against its reference before anything above sees it.
//!
//! [`open`](super::open) puts this decorator on every carrier, so that no other part of the program has to ask whether a block is
//! genuine. Blocks that arrive together are hashed together, which is several times faster than one by one, and large batches
//! are hashed off the async threads.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};

use super::{Block, BlockStore, Error, Found, Refusal, is_block_size};
use crate::eris::{Reference, reference_of, references_of};

/// Blocks hashed in one go at most: enough to fill the lanes of the hash twice over, and under a millisecond of work.
const BATCH: usize = 32;
/// Batches of more bytes than this go to a blocking thread; below it, the hand-over costs more than the hash.
const INLINE_BYTES: usize = 128 * 1024;
/// Batches hashed at the same time, while more blocks arrive.
const BATCHES: usize = 2;

/// A store whose blocks have been checked, in both directions.
#[derive(Debug)]
pub struct Verify {
    inner: Arc<dyn BlockStore>,
    name: Arc<str>,
}

impl Verify {
    /// Checks what `inner` gives and what it is given.
    pub fn new(inner: Arc<dyn BlockStore>) -> Self {
        let name = inner.name().into();
        Self { inner, name }
    }

    fn corrupt(&self, reference: Reference, found: Found) -> Error {
        Error::Corrupt { reference, store: self.name.clone(), found }
    }

    fn not_the_block(&self, reference: Reference, found: Found) -> Error {
        Error::Refused { store: self.name.clone(), reason: Refusal::NotTheBlock { reference, found } }
    }
}

type Answer = (Reference, Result<Block, Error>);

#[async_trait]
impl BlockStore for Verify {
    fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let block = self.inner.get(reference).await?;
        match mismatch(reference, &block) {
            None => Ok(block),
            Some(found) => Err(self.corrupt(*reference, found)),
        }
    }

    fn get_many<'a>(&'a self, references: Vec<Reference>) -> BoxStream<'a, Answer> {
        self.inner
            .get_many(references)
            .ready_chunks(BATCH)
            .map(move |answers| self.check(answers))
            .buffer_unordered(BATCHES)
            .flat_map(stream::iter)
            .boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        self.inner.has(reference).await
    }

    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        self.inner.keeps(reference).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        match mismatch(reference, &block) {
            None => self.inner.put(reference, block).await,
            Some(found) => Err(self.not_the_block(*reference, found)),
        }
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        let found = hash_batch(blocks.clone()).await;
        match blocks.iter().zip(found).find_map(|((reference, _), found)| Some((*reference, found?))) {
            None => self.inner.put_many(blocks).await,
            Some((reference, found)) => Err(self.not_the_block(reference, found)),
        }
    }

    async fn sync(&self) -> Result<(), Error> {
        self.inner.sync().await
    }

    fn concurrency(&self) -> usize {
        self.inner.concurrency()
    }

    fn press(&self) {
        self.inner.press();
    }

    fn gives_unkept(&self) -> bool {
        self.inner.gives_unkept()
    }

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

impl Verify {
    async fn check(&self, answers: Vec<Answer>) -> Vec<Answer> {
        let blocks =
            answers.iter().filter_map(|(reference, answer)| Some((*reference, answer.clone().ok()?)));
        let mut found = hash_batch(blocks.collect()).await.into_iter();
        let checked = answers.into_iter().map(|(reference, answer)| {
            let answer = answer.and_then(|block| match found.next().flatten() {
                None => Ok(block),
                Some(found) => Err(self.corrupt(reference, found)),
            });
            (reference, answer)
        });
        checked.collect()
    }
}

/// For each block, what it is if it is not the one that its reference names. Many bytes are hashed on a blocking thread.
async fn hash_batch(blocks: Vec<(Reference, Block)>) -> Vec<Option<Found>> {
    let bytes: usize = blocks.iter().map(|(_, block)| block.len()).sum();
    if bytes <= INLINE_BYTES {
        return mismatches(&blocks);
    }
    tokio::task::spawn_blocking(move || mismatches(&blocks))
        .await
        .expect("hashing neither panics nor is aborted")
}

/// For each block, what it is if it is not the one that its reference names. On the calling thread.
pub(super) fn mismatches(blocks: &[(Reference, Block)]) -> Vec<Option<Found>> {
    // Wrong lengths are not worth hashing, and an endless one would be expensive to.
    let right_size: Vec<&[u8]> =
        blocks.iter().map(|(_, block)| &block[..]).filter(|b| is_block_size(b.len() as u64)).collect();
    let mut references = references_of(&right_size).into_iter();
    let found = blocks.iter().map(|(reference, block)| {
        if !is_block_size(block.len() as u64) {
            return Some(Found::Length(block.len() as u64));
        }
        references.next().filter(|actual| actual != reference).map(Found::Block)
    });
    found.collect()
}

fn mismatch(reference: &Reference, block: &[u8]) -> Option<Found> {
    if !is_block_size(block.len() as u64) {
        return Some(Found::Length(block.len() as u64));
    }
    let actual = reference_of(block);
    (actual != *reference).then_some(Found::Block(actual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::{Fault, Faulty, Memory};
    use crate::eris::BlockSize;

    fn blocks(count: usize, size: BlockSize) -> Vec<(Reference, Block)> {
        let block = |number: usize| {
            let mut bytes = vec![0; size.bytes()];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            (reference_of(&bytes), Block::from(bytes))
        };
        (0..count).map(block).collect()
    }

    #[tokio::test]
    async fn every_lie_is_caught_alone_and_in_a_batch_and_harms_no_other_block() {
        for size in [BlockSize::Small, BlockSize::Large] {
            let blocks = blocks(100, size);
            let memory = Memory::new();
            memory.put_many(blocks.clone()).await.expect("memory takes blocks");
            let fault = Arc::new(Fault::new(Arc::new(memory)));
            let lies =
                [(3, Faulty::Corrupt), (40, Faulty::Truncated), (41, Faulty::TooLong), (99, Faulty::Corrupt)];
            lies.iter().for_each(|&(place, lie)| fault.set(blocks[place].0, lie));
            fault.set(blocks[50].0, Faulty::Missing);
            let verify = Verify::new(fault);

            let mut wrong = Vec::new();
            let mut answers = verify.get_many(blocks.iter().map(|(reference, _)| *reference).collect());
            while let Some((reference, answer)) = answers.next().await {
                let place =
                    blocks.iter().position(|(known, _)| *known == reference).expect("it was asked for");
                match answer {
                    Ok(block) => assert_eq!(block, blocks[place].1),
                    Err(error) => wrong.push((place, error)),
                }
            }
            wrong.sort_by_key(|(place, _)| *place);
            assert_eq!(wrong.iter().map(|(place, _)| *place).collect::<Vec<_>>(), [3, 40, 41, 50, 99]);
            for (place, error) in &wrong {
                let alone = verify.get(&blocks[*place].0).await.expect_err("a lie");
                assert_eq!(alone.to_string(), error.to_string());
                let cut = Found::Length(size.bytes() as u64 - 1);
                match (*place, error) {
                    (50, Error::NotFound { .. }) => {}
                    (40, Error::Corrupt { found, .. }) => assert_eq!(*found, cut),
                    (41, Error::Corrupt { found: Found::Length(_), .. }) => {}
                    (3 | 99, Error::Corrupt { found: Found::Block(_), .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}
