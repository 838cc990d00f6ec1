//! Many sources, one answer: each block from the best source that can give it now.
//!
//! Sources stand in order of preference, and each has its health. A block goes to the best source that is up and not known to lack
//! it; what fails there goes to the next at once, what is late there is asked of the next too, and a source that fails or falls
//! silent is left alone for a while. That a block is *not found* is said only when every source said so; otherwise the error names
//! each with its reason.

mod batch;
mod budget;
mod health;
mod latency;
mod limit;
mod places;
mod reseed;
mod source;
mod status;
mod want;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream::BoxStream};
use tokio::time::{Instant, timeout};

use super::{Block, BlockStore, Error};
use crate::eris::Reference;
use batch::Batch;
use places::Places;
use reseed::Reseed;
use source::Source;
use want::all_failed;

pub use status::{SourceState, SourceStatus};
pub(super) use {budget::Budget, health::Health, latency::Latencies};

/// How long a source is waited for when asked whether it has a block, if another could be asked.
const HAS: Duration = Duration::from_secs(1);

type Answer = (Reference, Result<Block, Error>);

/// Several sources in order of preference, read as one. A put goes to the first that takes blocks.
///
/// The sources give right blocks only ([`Verify`](super::Verify)) and are not to try again by themselves: what may pass is asked
/// anew of all sources in rounds, for about 6 s. Dropping a request drops all that was asked for its sake.
#[derive(Debug)]
pub struct Race {
    sources: Vec<Arc<Source>>,
    name: Arc<str>,
    places: Arc<Mutex<Places>>,
    budget: Mutex<Budget>,
    reseed: Option<Reseed>,
}

impl Race {
    /// The sources, best first. Without any, every block is absent.
    pub fn new(sources: Vec<Arc<dyn BlockStore>>) -> Self {
        let name = sources.iter().map(|source| source.name()).collect::<Vec<_>>().join(", ").into();
        let sources = sources.into_iter().map(|store| Arc::new(Source::new(store))).collect();
        Self { sources, name, places: Arc::default(), budget: Mutex::default(), reseed: None }
    }

    /// Writes blocks that one of `targets` lacked back to it, in the background, at no more than `rate` bytes a second to each;
    /// where that is not said, at a megabyte a second across networks. A target is any store that takes blocks. One that is among
    /// the sources, under the same name, gets what came from a source after it, or from itself if it gives what it does not keep; another
    /// is asked first whether it keeps a block.
    pub fn with_reseed(mut self, targets: Vec<Arc<dyn BlockStore>>, rate: Option<u64>) -> Self {
        let wanted = !targets.is_empty();
        self.reseed = wanted.then(|| Reseed::new(targets, rate, &self.sources, self.places.clone()));
        self
    }

    /// The sources as they are now, best first.
    pub fn sources(&self) -> Vec<SourceStatus> {
        self.sources.iter().map(|source| source.status()).collect()
    }

    /// The sources on this machine, best first.
    pub fn local(&self) -> Vec<Arc<dyn BlockStore>> {
        let stores = self.sources.iter().map(|source| &source.store);
        stores.filter(|store| !store.is_remote()).cloned().collect()
    }

    /// The name of the source that gave this block, if it did so lately.
    pub fn came_from(&self, reference: &Reference) -> Option<Arc<str>> {
        let source = self.places().origin(reference)?;
        self.sources.get(source).map(|source| source.name.clone())
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_failed(&self, reference: Reference, failures: Vec<Error>) -> Error {
        all_failed(reference, &self.name, failures)
    }

    /// Whether a source says yes.
    async fn any(&self, reference: &Reference, question: Question) -> Result<bool, Error> {
        let now = Instant::now();
        let (mut order, down): (Vec<_>, Vec<_>) =
            self.sources.iter().partition(|source| source.standing(now).up);
        order.extend(down);
        let mut failures = Vec::new();
        for source in &order {
            let asked = async {
                match question {
                    Question::Has => source.store.has(reference).await,
                    Question::Keeps => source.store.keeps(reference).await,
                }
            };
            let answer = match order.len() {
                1 => asked.await,
                _ => timeout(HAS, asked).await.unwrap_or_else(|_| {
                    Err(Error::TimedOut { reference: *reference, store: source.name.clone(), after: HAS })
                }),
            };
            match answer {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        if failures.is_empty() { Ok(false) } else { Err(self.all_failed(*reference, failures)) }
    }
}

/// What is asked of sources that is answered by yes or no.
#[derive(Clone, Copy)]
enum Question {
    Has,
    Keeps,
}

#[async_trait]
impl BlockStore for Race {
    fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let (_, answer) = Batch::new(self, vec![*reference]).next().await.expect("each block has an answer");
        answer
    }

    fn get_many<'a>(&'a self, references: Vec<Reference>) -> BoxStream<'a, Answer> {
        Batch::new(self, references).boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        self.any(reference, Question::Has).await
    }

    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        self.any(reference, Question::Keeps).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        let mut failures = Vec::new();
        for source in &self.sources {
            match source.store.put(reference, block.clone()).await {
                Err(error @ Error::Refused { .. }) => failures.push(error),
                done => return done,
            }
        }
        Err(self.all_failed(*reference, failures))
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        let Some(&(first, _)) = blocks.first() else { return Ok(()) };
        let mut failures = Vec::new();
        for source in &self.sources {
            match source.store.put_many(blocks.clone()).await {
                Err(error @ Error::Refused { .. }) => failures.push(error),
                done => return done,
            }
        }
        Err(self.all_failed(first, failures))
    }

    async fn sync(&self) -> Result<(), Error> {
        for source in &self.sources {
            source.store.sync().await?;
        }
        Ok(())
    }

    /// What the sources that are up bear now: the most of any, since one is mostly asked at a time. One on this machine does not
    /// count beside one across a network, to which what it lacks would go all at once.
    fn concurrency(&self) -> usize {
        let now = Instant::now();
        let most = |wanted: &dyn Fn(&Source) -> bool| {
            self.sources.iter().filter(|source| wanted(source)).map(|source| source.limit()).max()
        };
        most(&|source| source.is_limited() && source.standing(now).up)
            .or_else(|| most(&|source| source.standing(now).up))
            .or_else(|| most(&|_| true))
            .unwrap_or(1)
            .max(1)
    }

    /// The limits of the sources are felt, so that they may rise.
    fn press(&self) {
        self.sources.iter().for_each(|source| source.press());
    }

    fn is_remote(&self) -> bool {
        self.sources.iter().any(|source| source.store.is_remote())
    }
}

#[cfg(test)]
mod tests;
