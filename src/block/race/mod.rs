//! Race stores as one, asked in order of preference.
//!
//! A store that lacks a block, lies, or does not answer is passed over for the next. That a block is *not found* is said only
//! when every store said so; otherwise the error names each store with its reason.

mod status;

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _, stream, stream::BoxStream, stream::SelectAll};

use super::{Block, BlockStore, Error};
use crate::eris::Reference;

pub use status::{SourceState, SourceStatus};

/// Race stores in order of preference. A put goes to the first that takes blocks.
#[derive(Debug)]
pub struct Race {
    stores: Vec<Arc<dyn BlockStore>>,
    name: Arc<str>,
}

impl Race {
    /// The stores, best first. Without any, every block is absent.
    pub fn new(stores: Vec<Arc<dyn BlockStore>>) -> Self {
        let name = stores.iter().map(|store| store.name()).collect::<Vec<_>>().join(", ").into();
        Self { stores, name }
    }

    /// Writes blocks that one of `targets` lacked back to it, in the background. A target is a store that takes blocks, mostly one
    /// of the sources under the same name: what came from a source after it, it did not have.
    pub fn with_reseed(self, targets: Vec<Arc<dyn BlockStore>>) -> Self {
        let _ = targets;
        self
    }

    /// The sources as they are now, best first.
    pub fn sources(&self) -> Vec<SourceStatus> {
        Vec::new()
    }

    /// The name of the source that gave this block, if it did so lately.
    pub fn came_from(&self, reference: &Reference) -> Option<Arc<str>> {
        let _ = reference;
        None
    }

    /// The one error that stands for all.
    fn all_failed(&self, reference: Reference, mut failures: Vec<Error>) -> Error {
        if failures.iter().all(|error| matches!(error, Error::NotFound { .. })) {
            return Error::NotFound { reference, store: self.name.clone() };
        }
        match failures.len() {
            1 => failures.remove(0),
            _ => Error::AllFailed { reference, failures: failures.into() },
        }
    }
}

type Answer = (Reference, Result<Block, Error>);

/// A batch on its way through the stores.
struct Batch<'a> {
    race: &'a Race,
    /// What the stores that were asked are sending, with their places in the order.
    running: SelectAll<BoxStream<'a, (usize, Answer)>>,
    /// The blocks without an answer yet.
    open: HashMap<Reference, Open>,
}

/// What is known of a block without an answer.
#[derive(Default)]
struct Open {
    /// How often it was asked for: duplicates are fetched once and answered each.
    asked: usize,
    failures: Vec<Error>,
}

impl<'a> Batch<'a> {
    fn ask(&mut self, place: usize, references: Vec<Reference>) {
        self.running
            .push(self.race.stores[place].get_many(references).map(move |answer| (place, answer)).boxed());
    }

    /// Everything that has arrived by now, at least one answer; `None` at the end.
    async fn arrived(&mut self) -> Option<Vec<(usize, Answer)>> {
        let mut arrived = vec![self.running.next().await?];
        while let Some(Some(more)) = self.running.next().now_or_never() {
            arrived.push(more);
        }
        Some(arrived)
    }

    /// Answers that are final; what one store failed to give is asked of the next, together.
    fn settle(&mut self, arrived: Vec<(usize, Answer)>) -> Vec<Answer> {
        let mut settled = Vec::with_capacity(arrived.len());
        let mut next: HashMap<usize, Vec<Reference>> = HashMap::new();
        for (place, (reference, answer)) in arrived {
            let Some(open) = self.open.get_mut(&reference) else { continue };
            let answer = match answer {
                Ok(block) => Ok(block),
                Err(error) => {
                    open.failures.push(error);
                    if place + 1 < self.race.stores.len() {
                        next.entry(place + 1).or_default().push(reference);
                        continue;
                    }
                    Err(self.race.all_failed(reference, std::mem::take(&mut open.failures)))
                }
            };
            settled.extend(std::iter::repeat_n((reference, answer), open.asked));
            self.open.remove(&reference);
        }
        for (place, references) in next {
            self.ask(place, references);
        }
        settled
    }
}

#[async_trait]
impl BlockStore for Race {
    fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let mut failures = Vec::new();
        for store in &self.stores {
            match store.get(reference).await {
                Ok(block) => return Ok(block),
                Err(error) => failures.push(error),
            }
        }
        Err(self.all_failed(*reference, failures))
    }

    fn get_many<'a>(&'a self, references: Vec<Reference>) -> BoxStream<'a, Answer> {
        if self.stores.is_empty() {
            let absent = move |reference| (reference, Err(self.all_failed(reference, Vec::new())));
            return stream::iter(references).map(absent).boxed();
        }
        let mut open: HashMap<Reference, Open> = HashMap::with_capacity(references.len());
        let mut distinct = Vec::with_capacity(references.len());
        for reference in references {
            let known = open.entry(reference).or_default();
            known.asked += 1;
            if known.asked == 1 {
                distinct.push(reference);
            }
        }
        let mut batch = Batch { race: self, running: SelectAll::new(), open };
        batch.ask(0, distinct);
        stream::unfold(batch, |mut batch| async move {
            let arrived = batch.arrived().await?;
            Some((stream::iter(batch.settle(arrived)), batch))
        })
        .flatten()
        .boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let mut failures = Vec::new();
        for store in &self.stores {
            match store.has(reference).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        if failures.is_empty() { Ok(false) } else { Err(self.all_failed(*reference, failures)) }
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        let mut failures = Vec::new();
        for store in &self.stores {
            match store.put(reference, block.clone()).await {
                Err(error @ Error::Refused { .. }) => failures.push(error),
                done => return done,
            }
        }
        Err(self.all_failed(*reference, failures))
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        let Some(&(first, _)) = blocks.first() else { return Ok(()) };
        let mut failures = Vec::new();
        for store in &self.stores {
            match store.put_many(blocks.clone()).await {
                Err(error @ Error::Refused { .. }) => failures.push(error),
                done => return done,
            }
        }
        Err(self.all_failed(first, failures))
    }

    async fn sync(&self) -> Result<(), Error> {
        for store in &self.stores {
            store.sync().await?;
        }
        Ok(())
    }

    fn concurrency(&self) -> usize {
        self.stores.iter().map(|store| store.concurrency()).max().unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::{Fault, Faulty, Memory, Verify};
    use crate::eris::reference_of;

    fn block(byte: u8) -> (Reference, Block) {
        let block = Block::from(vec![byte; 1024]);
        (reference_of(&block), block)
    }

    /// A checked store that has these blocks, and the handle on its faults.
    async fn store(blocks: &[u8]) -> (Arc<dyn BlockStore>, Arc<Fault>) {
        let memory = Memory::new();
        for &byte in blocks {
            let (reference, block) = block(byte);
            memory.put(&reference, block).await.expect("memory takes blocks");
        }
        let fault = Arc::new(Fault::new(Arc::new(memory)));
        (Arc::new(Verify::new(fault.clone())), fault)
    }

    #[tokio::test]
    async fn what_one_store_lacks_or_spoils_comes_from_the_next() {
        let ((first, fault), (second, _)) = (store(&[1, 2, 3]).await, store(&[2, 3, 4]).await);
        fault.set(block(2).0, Faulty::Corrupt);
        fault.set(block(3).0, Faulty::Unavailable);
        let race = Race::new(vec![first, second]);
        let references: Vec<_> = (1..=5).map(|byte| block(byte).0).collect();
        for byte in 1..=4 {
            assert_eq!(race.get(&block(byte).0).await.expect("one has it"), block(byte).1);
        }
        let answers: HashMap<_, _> = race.get_many(references.clone()).collect().await;
        assert_eq!(
            references.iter().map(|r| answers[r].is_ok()).collect::<Vec<_>>(),
            [true, true, true, true, false]
        );
        assert!(matches!(answers[&references[4]], Err(Error::NotFound { .. })));
    }

    #[tokio::test]
    async fn not_found_is_said_only_when_all_say_so() {
        let ((first, fault), (second, _)) = (store(&[1]).await, store(&[]).await);
        fault.set_all(Faulty::Corrupt);
        let race = Race::new(vec![second.clone(), first, second]);
        let (reference, _) = block(1);
        let alone = race.get(&reference).await.expect_err("spoiled or absent");
        let in_batch =
            race.get_many(vec![reference]).next().await.expect("one answer").1.expect_err("the same");
        for error in [alone, in_batch] {
            assert!(matches!(error.most_telling(), Error::Corrupt { .. }), "{error}");
            assert_eq!(error.to_string().matches("memory:").count(), 3, "each store is named: {error}");
        }
        fault.set_all(Faulty::Missing);
        let absent = race.get(&reference).await.expect_err("absent");
        assert!(matches!(absent, Error::NotFound { .. }), "{absent}");
        assert!(matches!(Race::new(Vec::new()).get(&reference).await, Err(Error::NotFound { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_does_not_wait_for_a_slow_block_before_asking_the_next_store_for_others() {
        let ((first, fault), (second, _)) = (store(&[1]).await, store(&[2]).await);
        fault.set(block(1).0, Faulty::Slow(Duration::from_secs(9)));
        let race = Race::new(vec![first, second]);
        let mut answers = race.get_many(vec![block(1).0, block(2).0]);
        let begun = tokio::time::Instant::now();
        assert_eq!(answers.next().await.expect("two answers").0, block(2).0);
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(answers.next().await.expect("two answers").0, block(1).0);
        assert!(answers.next().await.is_none());
    }
}
