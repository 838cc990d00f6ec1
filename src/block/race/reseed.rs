//! Giving back: blocks that a preferred store lacked are put to it, so that they are there the next time.
//!
//! In a task of its own for each target, a few blocks at a time, no faster than the rate for targets across a network allows, never
//! while somebody reads, and never for certain: when the queue is full, blocks are left out.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use tokio::{
    sync::{Notify, mpsc},
    time::sleep,
};

use super::{places::Places, source::Source};
use crate::{
    block::{Block, BlockStore, Error, Refusal, retry::jittered},
    eris::Reference,
    pace::Pace,
};

/// Blocks that wait for a target: 8 MiB at the most.
const QUEUE: usize = 256;
/// Puts in flight to one target.
const AT_ONCE: usize = 4;
/// The wait after a failed put, doubled each time up to a minute.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Bytes a second to a target across a network, where nobody says: less than the uplink of most homes, which is where readers are.
/// What is on this machine gets what it lacked as fast as it takes it.
pub const FAR_RATE: u64 = 1 << 20;

/// The stores that blocks are written back to.
#[derive(Debug)]
pub struct Reseed {
    targets: Vec<Target>,
    places: Arc<Mutex<Places>>,
    readers: Arc<Readers>,
}

#[derive(Debug)]
struct Target {
    store: Arc<dyn BlockStore>,
    /// The source that is the same store.
    source: Option<(usize, Arc<Source>)>,
    pace: Option<Arc<Pace>>,
    /// Made with the first block, because a task needs a runtime.
    queue: OnceLock<mpsc::Sender<Seed>>,
}

#[derive(Debug)]
struct Seed {
    reference: Reference,
    block: Block,
    /// The target has said that it lacks the block.
    lacked: bool,
}

/// How many read now.
#[derive(Debug, Default)]
struct Readers {
    count: AtomicUsize,
    none_left: Notify,
}

/// Somebody reads for as long as this is kept.
pub struct Foreground(Arc<Readers>);

impl Drop for Foreground {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, SeqCst) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

impl Readers {
    async fn wait_for_none(&self) {
        loop {
            let notified = self.none_left.notified();
            if self.count.load(SeqCst) == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Reseed {
    /// For a race of these sources; `rate` is in bytes a second to each target, whether near or far.
    pub fn new(
        targets: Vec<Arc<dyn BlockStore>>,
        rate: Option<u64>,
        sources: &[Arc<Source>],
        places: Arc<Mutex<Places>>,
    ) -> Self {
        let target = |store: Arc<dyn BlockStore>| {
            let named = |source: &Arc<Source>| *source.name == *store.name();
            let source = sources.iter().position(named).map(|place| (place, sources[place].clone()));
            let rate = rate.or(store.is_remote().then_some(FAR_RATE));
            Target { store, source, pace: rate.map(Pace::new).map(Arc::new), queue: OnceLock::new() }
        };
        Self { targets: targets.into_iter().map(target).collect(), places, readers: Arc::default() }
    }

    /// Says that somebody reads, until it is dropped.
    pub fn foreground(&self) -> Foreground {
        self.readers.count.fetch_add(1, SeqCst);
        Foreground(self.readers.clone())
    }

    /// A block came from a source; targets that may lack it, or drop it, get it when there is time.
    pub fn offer(&self, reference: Reference, block: &Block, from: usize, lacked_by: impl Fn(usize) -> bool) {
        for target in &self.targets {
            let place = target.source.as_ref().map(|(place, _)| *place);
            let lacked = place.is_some_and(&lacked_by);
            let may_want = |place| place < from || (place == from && target.store.gives_unkept());
            if place.is_none_or(may_want) || lacked {
                let Some(queue) = self.queue(target) else { continue };
                // When it is full, or the target takes nothing, the block is left out.
                let _ = queue.try_send(Seed { reference, block: block.clone(), lacked });
            }
        }
    }

    fn queue<'a>(&self, target: &'a Target) -> Option<&'a mpsc::Sender<Seed>> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        Some(target.queue.get_or_init(|| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let gardener = Gardener {
                store: target.store.clone(),
                source: target.source.clone(),
                pace: target.pace.clone(),
                places: self.places.clone(),
                readers: self.readers.clone(),
            };
            runtime.spawn(gardener.work(receiver));
            sender
        }))
    }
}

/// Puts what is in the queue of one target, until the race is gone or the target turns out to take no blocks ever.
struct Gardener {
    store: Arc<dyn BlockStore>,
    source: Option<(usize, Arc<Source>)>,
    pace: Option<Arc<Pace>>,
    places: Arc<Mutex<Places>>,
    readers: Arc<Readers>,
}

impl Gardener {
    async fn work(self, mut queue: mpsc::Receiver<Seed>) {
        let (mut pause, mut is_failing) = (PAUSE, false);
        loop {
            let mut seeds = Vec::with_capacity(AT_ONCE);
            if queue.recv_many(&mut seeds, AT_ONCE).await == 0 {
                return;
            }
            let puts = seeds.into_iter().map(|seed| self.put(seed).boxed());
            let done: Vec<Result<(), Error>> = stream::iter(puts).buffer_unordered(AT_ONCE).collect().await;
            let failures = || done.iter().filter_map(|done| done.as_ref().err());
            if let Some(error) = failures().find(|error| is_final(error)) {
                tracing::warn!("nothing is put back any more: {error}");
                return;
            }
            if let Some(error) = failures().next() {
                if !is_failing {
                    tracing::warn!("putting back: {error}; it is tried again");
                }
                is_failing = true;
                if failures().any(|error| matches!(error, Error::Refused { .. })) {
                    pause = LONGEST_PAUSE;
                }
                sleep(jittered(pause)).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            } else {
                if is_failing {
                    tracing::warn!("putting back to {} works again", self.store.name());
                }
                (pause, is_failing) = (PAUSE, false);
            }
        }
    }

    async fn put(&self, seed: Seed) -> Result<(), Error> {
        self.readers.wait_for_none().await;
        if seed.lacked || !self.store.keeps(&seed.reference).await? {
            if let Some(pace) = &self.pace {
                pace.wait(seed.block.len() as u64).await;
                // Somebody may have begun to read meanwhile.
                self.readers.wait_for_none().await;
            }
            self.store.put(&seed.reference, seed.block).await?;
        }
        if let Some((place, source)) = &self.source {
            source.was_given();
            self.places.lock().unwrap_or_else(PoisonError::into_inner).has_now(&seed.reference, *place);
        }
        Ok(())
    }
}

/// Whether the target will take nothing whatever happens: others that refuse may be mended by somebody.
fn is_final(error: &Error) -> bool {
    matches!(error, Error::Refused { reason: Refusal::ReadOnly | Refusal::Foreign(_), .. })
}
