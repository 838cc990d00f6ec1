//! The blocks used last, in memory, and one request for many askers.
//!
//! Two who want the same block at the same time share one request to the store below (single flight); it is cancelled when the
//! last of them leaves. Failures go to everyone who waited and are not kept.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared, WeakShared},
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::{sync::oneshot, task::AbortHandle};

use super::{Block, BlockStore, ByteLru, Error};
use crate::eris::Reference;

/// What an entry takes besides the bytes of its block: keys, links, the allocation's own overhead. Counted so that a cache full
/// of small blocks keeps to its budget too.
const ENTRY_BYTES: usize = 160;

/// A store in front of which the blocks used last are kept. A hit is ready at the first poll, in or out of a runtime.
pub struct Cache {
    inner: Arc<dyn BlockStore>,
    shelf: Arc<Mutex<Shelf>>,
}

type Landed = Result<Block, Error>;
type Flight = Shared<BoxFuture<'static, Landed>>;

/// What a [`Cache`] holds, and how often it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct CacheStatus {
    /// Bytes kept, with what keeping them costs.
    pub bytes: usize,
    /// Bytes that may be kept.
    pub capacity: usize,
    /// Blocks kept.
    pub entries: usize,
    /// Blocks asked for that were kept.
    pub hits: u64,
    /// Blocks asked for that began a request to the store below.
    pub misses: u64,
    /// Blocks asked for that joined a request under way.
    pub joined: u64,
    /// Requests to the store below that are under way.
    pub in_flight: usize,
}

/// Everything under the one lock: a block is kept, on its way, or neither.
struct Shelf {
    kept: ByteLru<Reference, Block>,
    hits: u64,
    misses: u64,
    joined: u64,
    /// Requests under way. Held weakly: the askers alone keep a flight in the air.
    flights: HashMap<Reference, (Ticket, WeakShared<BoxFuture<'static, Landed>>)>,
    next: Ticket,
}

/// Tells a flight from a later one for the same block.
type Ticket = u64;

/// How a block can be had.
enum Way {
    Here(Block),
    Flying(Flight),
}

impl Cache {
    /// Keeps up to `capacity` bytes of what `inner` gives.
    pub fn new(inner: Arc<dyn BlockStore>, capacity: usize) -> Self {
        let shelf = Shelf {
            kept: ByteLru::new(capacity),
            hits: 0,
            misses: 0,
            joined: 0,
            flights: HashMap::new(),
            next: 0,
        };
        Self { inner, shelf: Arc::new(Mutex::new(shelf)) }
    }

    /// The block if it is in memory, without asking anybody.
    pub fn peek(&self, reference: &Reference) -> Option<Block> {
        lock(&self.shelf).kept.get(reference).cloned()
    }

    /// What it holds now, and how often it was asked since it was made.
    pub fn status(&self) -> CacheStatus {
        let shelf = lock(&self.shelf);
        CacheStatus {
            bytes: shelf.kept.bytes(),
            capacity: shelf.kept.capacity(),
            entries: shelf.kept.len(),
            hits: shelf.hits,
            misses: shelf.misses,
            joined: shelf.joined,
            in_flight: shelf.flights.len(),
        }
    }

    /// The way to one block, by a request of its own if need be.
    fn way(&self, reference: Reference) -> Way {
        lock(&self.shelf).way(reference, |ticket| {
            let (inner, pass) = (self.inner.clone(), self.pass(reference, ticket));
            async move { pass.land(inner.get(&reference).await) }.boxed()
        })
    }

    /// The ways to many blocks, in the order given; those that are nowhere yet go into one request to the store below.
    fn ways(&self, references: &[Reference]) -> Vec<(Reference, Way)> {
        let convoy = Arc::new(Convoy::default());
        let mut missing = HashMap::new();
        let mut shelf = lock(&self.shelf);
        let ways: Vec<_> = references
            .iter()
            .map(|&reference| {
                let way = shelf.way(reference, |ticket| {
                    let (sender, receiver) = oneshot::channel();
                    missing.insert(reference, sender);
                    let (inner, pass, convoy) =
                        (self.inner.clone(), self.pass(reference, ticket), convoy.clone());
                    async move {
                        let answer = receiver.await;
                        drop(convoy);
                        // A store below that leaves a block out of its answer is asked for it alone.
                        pass.land(match answer {
                            Ok(answer) => answer,
                            Err(_) => inner.get(&reference).await,
                        })
                    }
                    .boxed()
                });
                (reference, way)
            })
            .collect();
        drop(shelf);
        if !missing.is_empty() {
            convoy.depart(self.inner.clone(), missing);
        }
        ways
    }

    fn pass(&self, reference: Reference, ticket: Ticket) -> Pass {
        Pass { shelf: self.shelf.clone(), reference, ticket }
    }
}

impl Shelf {
    /// The block itself, or the flight that brings it: the one under way, or the one that `depart` begins.
    fn way(
        &mut self,
        reference: Reference,
        depart: impl FnOnce(Ticket) -> BoxFuture<'static, Landed>,
    ) -> Way {
        if let Some(block) = self.kept.get(&reference) {
            self.hits += 1;
            return Way::Here(block.clone());
        }
        if let Some(flight) = self.flights.get(&reference).and_then(|(_, flight)| flight.upgrade()) {
            self.joined += 1;
            return Way::Flying(flight);
        }
        self.misses += 1;
        let ticket = self.next;
        self.next += 1;
        let flight = depart(ticket).shared();
        let weak = flight.downgrade().expect("it has not been polled yet");
        self.flights.insert(reference, (ticket, weak));
        Way::Flying(flight)
    }

    fn keep(&mut self, reference: Reference, block: Block) {
        let weight = block.len() + ENTRY_BYTES;
        self.kept.put(reference, block, weight);
    }
}

/// A flight's right to land, once. Dropped without landing, the flight was cancelled and is struck off.
struct Pass {
    shelf: Arc<Mutex<Shelf>>,
    reference: Reference,
    ticket: Ticket,
}

impl Pass {
    fn land(self, landed: Landed) -> Landed {
        if let Ok(block) = &landed {
            // Kept before the flight is struck off by the drop below: in between, askers find either.
            lock(&self.shelf).keep(self.reference, block.clone());
        }
        landed
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut shelf = lock(&self.shelf);
        if shelf.flights.get(&self.reference).is_some_and(|(ticket, _)| *ticket == self.ticket) {
            shelf.flights.remove(&self.reference);
        }
    }
}

/// One request for many blocks, in a task of its own; aborted when the last flight that hangs on it is gone.
#[derive(Default)]
struct Convoy(OnceLock<AbortHandle>);

impl Convoy {
    fn depart(&self, inner: Arc<dyn BlockStore>, mut missing: HashMap<Reference, oneshot::Sender<Landed>>) {
        let task = tokio::spawn(async move {
            let mut answers = inner.get_many(missing.keys().copied().collect());
            while let Some((reference, answer)) = answers.next().await {
                if let Some(sender) = missing.remove(&reference) {
                    // Whoever wanted this one may have left.
                    let _ = sender.send(answer);
                }
            }
        });
        self.0.set(task.abort_handle()).expect("a convoy departs once");
    }
}

impl Drop for Convoy {
    fn drop(&mut self) {
        if let Some(task) = self.0.get() {
            task.abort();
        }
    }
}

fn lock(shelf: &Mutex<Shelf>) -> MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shelf = lock(&self.shelf);
        f.debug_struct("Cache")
            .field("inner", &self.inner)
            .field("bytes", &shelf.kept.bytes())
            .field("capacity", &shelf.kept.capacity())
            .field("flights", &shelf.flights.len())
            .finish()
    }
}

#[async_trait]
impl BlockStore for Cache {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        match self.way(*reference) {
            Way::Here(block) => Ok(block),
            Way::Flying(flight) => flight.await,
        }
    }

    fn get_many<'a>(&'a self, references: Vec<Reference>) -> BoxStream<'a, (Reference, Landed)> {
        let (mut here, flying) = (Vec::new(), FuturesUnordered::new());
        for (reference, way) in self.ways(&references) {
            match way {
                Way::Here(block) => here.push((reference, Ok(block))),
                Way::Flying(flight) => flying.push(flight.map(move |landed| (reference, landed))),
            }
        }
        stream::iter(here).chain(flying).boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        if lock(&self.shelf).kept.contains(reference) {
            return Ok(true);
        }
        self.inner.has(reference).await
    }

    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        self.inner.keeps(reference).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.inner.put(reference, block).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        self.inner.put_many(blocks).await
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

    fn is_remote(&self) -> bool {
        self.inner.is_remote()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::{Counted, Counts, Fault, Faulty, Memory};
    use crate::eris::reference_of;

    /// A cache over a store with faults that counts what reaches it, and four small blocks in that store.
    struct Rig {
        cache: Arc<Cache>,
        fault: Arc<Fault>,
        counts: Arc<Counts>,
        references: Vec<Reference>,
    }

    async fn rig(capacity: usize) -> Rig {
        let memory = Memory::new();
        let mut references = Vec::new();
        for byte in 0..4 {
            let block = Block::from(vec![byte; 1024]);
            references.push(reference_of(&block));
            memory.put(&references[byte as usize], block).await.expect("memory takes blocks");
        }
        let fault = Arc::new(Fault::new(Arc::new(memory)));
        let counted = Counted::new(fault.clone());
        let counts = counted.counts();
        Rig { cache: Arc::new(Cache::new(Arc::new(counted), capacity)), fault, counts, references }
    }

    fn slow(rig: &Rig) {
        rig.fault.set_all(Faulty::Slow(Duration::from_millis(50)));
    }

    fn flights(cache: &Cache) -> usize {
        lock(&cache.shelf).flights.len()
    }

    #[tokio::test]
    async fn a_hit_is_ready_at_the_first_poll() {
        let rig = rig(1 << 20).await;
        let expected = rig.cache.get(&rig.references[0]).await.expect("it is below");
        let hit = rig.cache.get(&rig.references[0]).now_or_never().expect("ready").expect("kept");
        assert_eq!(hit, expected);
        let answers: Vec<_> =
            rig.cache.get_many(vec![rig.references[0]; 2]).collect().now_or_never().expect("ready");
        assert_eq!(answers.len(), 2);
        assert_eq!(rig.counts.requests(), 1);
        assert!(rig.cache.peek(&rig.references[1]).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn many_askers_share_one_request_alone_or_in_batches() {
        let rig = rig(1 << 20).await;
        slow(&rig);
        let alone = futures::future::join_all((0..5).map(|_| rig.cache.get(&rig.references[0])));
        let batch =
            rig.cache.get_many([rig.references.clone(), rig.references.clone()].concat()).collect::<Vec<_>>();
        let (alone, batch) = tokio::join!(alone, batch);
        assert!(alone.iter().all(Result::is_ok) && batch.iter().all(|(_, answer)| answer.is_ok()));
        assert_eq!((alone.len(), batch.len()), (5, 8));
        assert_eq!(rig.counts.requests(), 4);
        assert_eq!(flights(&rig.cache), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_cancelled_when_the_last_asker_leaves_and_not_before() {
        let rig = rig(1 << 20).await;
        slow(&rig);
        let reference = rig.references[0];
        let mut first = rig.cache.get(&reference);
        let mut second = rig.cache.get(&reference);
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        drop(first);
        assert_eq!(flights(&rig.cache), 1);
        drop(second);
        assert_eq!(flights(&rig.cache), 0);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((rig.counts.requests(), rig.counts.blocks()), (1, 0), "the request below was dropped");
        assert!(rig.cache.get(&reference).await.is_ok(), "a later asker begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_cancelled_when_its_last_asker_leaves_and_goes_on_for_a_joiner() {
        let rig = rig(1 << 20).await;
        slow(&rig);
        let mut batch = rig.cache.get_many(rig.references.clone());
        assert!(batch.next().now_or_never().is_none());
        tokio::task::yield_now().await;
        let joined = rig.cache.clone();
        let reference = rig.references[2];
        let mut joiner = joined.get(&reference);
        assert!((&mut joiner).now_or_never().is_none());
        drop(batch);
        assert_eq!(flights(&rig.cache), 1);
        assert!(joiner.await.is_ok());
        assert_eq!(rig.counts.requests(), 4, "the joiner asked for nothing of its own");

        let rest = rig.cache.get_many(rig.references.clone());
        drop(rest);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(flights(&rig.cache), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_to_all_who_wait_and_not_kept() {
        let rig = rig(1 << 20).await;
        rig.fault.set_all(Faulty::Unavailable);
        let late = Arc::new(Fault::new(rig.cache.inner.clone()));
        late.set_all(Faulty::Slow(Duration::from_millis(50)));
        let cache = Cache::new(late, 1 << 20);
        let (one, other) = tokio::join!(cache.get(&rig.references[0]), cache.get(&rig.references[0]));
        assert!(one.is_err() && other.is_err());
        assert_eq!(rig.counts.requests(), 1);
        rig.fault.clear();
        assert!(cache.get(&rig.references[0]).await.is_ok());
    }

    #[tokio::test]
    async fn the_budget_is_kept_and_the_block_used_last_stays() {
        let rig = rig(2 * (1024 + ENTRY_BYTES)).await;
        for place in [0, 1, 0, 2] {
            rig.cache.get(&rig.references[place]).await.expect("it is below");
        }
        let kept = [0, 1, 2].map(|place| rig.cache.peek(&rig.references[place]).is_some());
        assert_eq!(kept, [true, false, true]);
        let shelf = lock(&rig.cache.shelf);
        assert_eq!(shelf.kept.bytes(), 2 * (1024 + ENTRY_BYTES));
    }

    #[tokio::test(start_paused = true)]
    async fn hits_misses_and_what_was_joined_are_counted() {
        let rig = rig(1 << 20).await;
        slow(&rig);
        let (one, other) = tokio::join!(rig.cache.get(&rig.references[0]), rig.cache.get(&rig.references[0]));
        assert!(one.is_ok() && other.is_ok());
        let hits = rig.cache.get_many(rig.references.clone()).collect::<Vec<_>>().await;
        assert!(hits.iter().all(|(_, answer)| answer.is_ok()));
        let status = rig.cache.status();
        assert_eq!((status.hits, status.misses, status.joined), (1, 4, 1));
        assert_eq!((status.entries, status.in_flight), (4, 0));
    }

    #[tokio::test]
    async fn a_block_larger_than_the_budget_is_given_and_not_kept() {
        let rig = rig(100).await;
        assert!(rig.cache.get(&rig.references[0]).await.is_ok());
        assert!(rig.cache.peek(&rig.references[0]).is_none());
        assert_eq!(lock(&rig.cache.shelf).kept.bytes(), 0);
    }
}
