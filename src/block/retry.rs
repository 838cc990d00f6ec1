//! A second and a third chance for requests that failed by accident.
//!
//! Only what may pass by itself is tried again: a broken connection, a busy server, and once a block that arrived wrong. A store
//! that kept silent until its time was up is not asked again: the caller has waited enough, and the next store may know.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};

use super::{Block, BlockStore, Error};
use crate::eris::Reference;

/// Tries after the first. Three in all outlive a dropped connection and a server's restart behind a proxy; more would only
/// add load to a server in trouble.
const MORE_TRIES: u32 = 2;
/// The wait before the first further try; each later one is four times as long. Half to all of it is waited, by chance, so
/// that requests that failed together do not come back together.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// A store that is asked again when it fails by accident.
#[derive(Debug)]
pub struct Retry {
    inner: Arc<dyn BlockStore>,
}

impl Retry {
    /// Asks `inner` again where that may help.
    pub fn new(inner: Arc<dyn BlockStore>) -> Self {
        Self { inner }
    }

    /// Runs `request` until it succeeds, fails for good, or has had its tries. `last` is the failure of a try already made.
    async fn tries<T, F>(&self, mut last: Option<Error>, request: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut left = MORE_TRIES;
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(error) = last {
                left = match error {
                    Error::Unavailable { .. } if left > 0 => left - 1,
                    Error::Corrupt { .. } if left == MORE_TRIES => 0,
                    error => return Err(error),
                };
                tokio::time::sleep(jittered(wait)).await;
                wait *= 4;
            }
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
    }
}

/// Between half of `wait` and all of it.
pub(super) fn jittered(wait: Duration) -> Duration {
    // Every RandomState has other keys, so the hash of nothing is a random number.
    let random = (RandomState::new().hash_one(()) >> 32) as u32;
    wait / 2 + (wait / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[async_trait]
impl BlockStore for Retry {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        self.tries(None, || self.inner.get(reference)).await
    }

    fn get_many<'a>(
        &'a self,
        references: Vec<Reference>,
    ) -> BoxStream<'a, (Reference, Result<Block, Error>)> {
        // Never more tries at a time than there are references, and so no bound of its own: one that is reached would leave the
        // inner stream unpolled while its requests hold what the tries wait for, such as the permits of a carrier.
        let most = references.len().max(1);
        self.inner
            .get_many(references)
            .map(move |(reference, answer)| async move {
                let answer = match answer {
                    Ok(block) => Ok(block),
                    Err(error) => self.tries(Some(error), || self.inner.get(&reference)).await,
                };
                (reference, answer)
            })
            .buffer_unordered(most)
            .boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        self.tries(None, || self.inner.has(reference)).await
    }

    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        self.tries(None, || self.inner.keeps(reference)).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.tries(None, || self.inner.put(reference, block.clone())).await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.tries(None, || self.inner.sync()).await
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

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::{Mutex, PoisonError},
    };

    use tokio::sync::Semaphore;

    use super::*;
    use crate::block::{Counted, Fault, Faulty, Memory, Verify};
    use crate::eris::reference_of;

    /// A store that has a permit for each of 64 requests, answers them at different times, and fails at the first for each block.
    #[derive(Debug)]
    struct Permits {
        memory: Memory,
        permits: Semaphore,
        failed: Mutex<HashSet<Reference>>,
    }

    #[async_trait]
    impl BlockStore for Permits {
        fn name(&self) -> &str {
            "permits:"
        }

        async fn get(&self, reference: &Reference) -> Result<Block, Error> {
            let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
            tokio::time::sleep(Duration::from_millis(1 + u64::from(reference.as_bytes()[0] % 16))).await;
            if self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(*reference) {
                let source = Arc::new(std::io::Error::other("the first time"));
                return Err(Error::Unavailable {
                    reference: Some(*reference),
                    store: self.name().into(),
                    retry_after: None,
                    source,
                });
            }
            self.memory.get(reference).await
        }

        async fn has(&self, reference: &Reference) -> Result<bool, Error> {
            self.memory.has(reference).await
        }

        async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
            self.memory.put(reference, block).await
        }

        async fn sync(&self) -> Result<(), Error> {
            Ok(())
        }

        fn concurrency(&self) -> usize {
            64
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_of_which_every_first_try_fails_comes_whole() {
        let permits =
            Permits { memory: Memory::new(), permits: Semaphore::new(64), failed: Mutex::default() };
        let mut references = Vec::new();
        for byte in 0..200 {
            let block = Block::from(vec![byte; 1024]);
            references.push(reference_of(&block));
            permits.put(&references[usize::from(byte)], block).await.expect("memory takes blocks");
        }
        let retry = Retry::new(Arc::new(Verify::new(Arc::new(permits))));
        let answers = retry.get_many(references).collect::<Vec<_>>();
        let answers =
            tokio::time::timeout(Duration::from_secs(60), answers).await.expect("nothing waits for ever");
        assert!(answers.len() == 200 && answers.iter().all(|(_, answer)| answer.is_ok()));
    }

    /// How often a store with this fault is asked for one block, alone and in a batch.
    async fn requests(fault: Faulty) -> [u64; 2] {
        let block = Block::from(vec![1; 1024]);
        let reference = reference_of(&block);
        let memory = Memory::new();
        memory.put(&reference, block).await.expect("memory takes blocks");
        let faulty = Fault::new(Arc::new(memory));
        faulty.set_all(fault);
        let counted = Counted::new(Arc::new(Verify::new(Arc::new(faulty))));
        let counts = counted.counts();
        let retry = Retry::new(Arc::new(counted));
        retry.get(&reference).await.expect_err("a fault");
        let alone = counts.requests();
        counts.reset();
        let answers: Vec<_> = retry.get_many(vec![reference]).collect().await;
        assert!(answers.len() == 1 && answers[0].1.is_err());
        [alone, counts.requests()]
    }

    #[tokio::test(start_paused = true)]
    async fn only_accidents_are_tried_again() {
        assert_eq!(requests(Faulty::Unavailable).await, [3, 3]);
        assert_eq!(requests(Faulty::Corrupt).await, [2, 2]);
        assert_eq!(requests(Faulty::Missing).await, [1, 1]);
    }

    #[test]
    fn waits_are_spread_and_bounded() {
        let waits: Vec<Duration> = (0..100).map(|_| jittered(FIRST_WAIT)).collect();
        assert!(waits.iter().all(|wait| (FIRST_WAIT / 2..=FIRST_WAIT).contains(wait)));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
    }
}
