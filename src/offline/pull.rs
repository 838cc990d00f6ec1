//! Bringing all blocks of many contents onto the disk: many under way, few in memory.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::sync::mpsc;

use super::NODE_BYTES;
use super::check::NO_FILE;
use super::keep::{Keep, Source, here};
use super::select::Item;
use crate::block::{self, Disk};
use crate::content::{self, Content, Deadline, Fetch, Inventory, Leaf, Limits};
use crate::download;
use crate::tree::{self, Object, Substitutes};

/// Contents that are walked at a time: small ones cost round trips and hardly a byte.
const WALKS: usize = 8;
/// Leaves that were found and for which there was no room in flight yet.
const QUEUE: usize = 1024;
/// So many failures in a row that only the network is to blame for, and no more is asked for.
const PATIENCE: u64 = 32;
/// So many blocks that the cache did not keep, and it is no use to go on.
const DROPS: u64 = 64;

/// Something that happened, for whoever watches. Bytes are those of contents, as they are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is known which store paths are wanted, and how large they should be together.
    Selected {
        /// How many.
        paths: u64,
        /// Their bytes, as announced.
        bytes: u64,
    },
    /// The true size of one of them is known.
    Opened {
        /// What was announced.
        announced: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// Bytes that were here already.
    Here {
        /// How many.
        bytes: u64,
    },
    /// Bytes that came.
    Fetched {
        /// How many.
        bytes: u64,
    },
    /// All blocks of one store path are here or asked for.
    Walked,
}

/// Is told what happens; must not wait.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn observe(&self, event: Event);
}

/// Nobody watches.
pub(super) struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _: Event) {}
}

/// Blocks of a store path that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The store path, or the catalog.
    pub name: String,
    /// How many blocks, at the least.
    pub blocks: u64,
    /// Why the first of them could not be had.
    pub reason: String,
}

/// Something whose blocks are wanted.
#[derive(Debug)]
pub(super) enum Part {
    Catalog(Arc<Content>),
    Item(Box<Item>),
}

/// What is said of a store path that has no ERIS content and no server.
const NO_CONTENT: &str = "its narinfo names no ERIS content";

/// A catalog as messages and pins name it.
pub(super) fn catalog_name(catalog: &Content) -> String {
    format!("catalog {}", catalog.capability().reference)
}

/// From where, and to where.
pub(super) struct Pull<'a> {
    pub(super) disk: &'a Disk,
    pub(super) substitutes: Option<&'a Substitutes>,
    pub(super) source: Arc<Source>,
    /// How long a block may take with what stands before it.
    pub(super) wait: Duration,
}

/// A leaf to be brought.
struct Job {
    part: usize,
    leaf: Leaf,
    keep: Arc<Keep>,
}

/// What went wrong so far, by part.
#[derive(Default)]
struct Losses(Mutex<HashMap<usize, Loss>>);

impl Losses {
    fn add(&self, part: usize, name: &str, blocks: u64, reason: String) {
        let mut losses = self.0.lock().expect("no panic while held");
        let loss = losses.entry(part).or_insert(Loss { name: name.to_owned(), blocks: 0, reason });
        loss.blocks += blocks;
    }

    fn into_sorted(self) -> Vec<Loss> {
        let mut losses: Vec<_> = self.0.into_inner().expect("no panic while held").into_iter().collect();
        losses.sort_by_key(|(part, _)| *part);
        losses.into_iter().map(|(_, loss)| loss).collect()
    }
}

/// What walks and flights tell each other.
struct Course<'a> {
    observer: &'a dyn Observer,
    names: Vec<String>,
    losses: Losses,
    /// How many failures in a row only the network is to blame for.
    outages: AtomicU64,
}

impl Course<'_> {
    fn lose(&self, part: usize, blocks: u64, failure: Failure) {
        if failure.is_outage {
            self.outages.fetch_add(1, Relaxed);
        }
        self.losses.add(part, &self.names[part], blocks, failure.reason);
    }
}

/// Why something could not be had.
struct Failure {
    reason: String,
    /// Whether it might be had at another time.
    is_outage: bool,
}

impl From<block::Error> for Failure {
    fn from(error: block::Error) -> Self {
        let is_outage = !matches!(error, block::Error::NotFound { .. } | block::Error::Corrupt { .. });
        Failure { reason: error.to_string(), is_outage }
    }
}

impl From<content::Error> for Failure {
    fn from(error: content::Error) -> Self {
        match error {
            content::Error::Block(error) => error.into(),
            error => {
                let is_outage = matches!(error, content::Error::TimedOut { .. });
                Failure { reason: error.to_string(), is_outage }
            }
        }
    }
}

impl From<download::Error> for Failure {
    fn from(error: download::Error) -> Self {
        Failure { reason: error.to_string(), is_outage: false }
    }
}

impl From<tree::Error> for Failure {
    fn from(error: tree::Error) -> Self {
        match error {
            tree::Error::Read { source, .. } => source.into(),
            error => Failure { reason: error.to_string(), is_outage: false },
        }
    }
}

impl Pull<'_> {
    /// Brings what is not on the disk yet; what could not be had is told by part.
    pub(super) async fn all(&self, parts: &[Part], observer: &dyn Observer) -> Vec<Loss> {
        let names = parts.iter().map(|part| match part {
            Part::Catalog(content) => catalog_name(content),
            Part::Item(item) => item.name.clone(),
        });
        let course = Course {
            observer,
            names: names.collect(),
            losses: Losses::default(),
            outages: AtomicU64::new(0),
        };
        let (sender, jobs) = mpsc::channel(QUEUE);
        let walks = async {
            // The last clone of the sender must go with the last walk.
            let sender = sender;
            let walks =
                parts.iter().enumerate().map(|(number, part)| self.walk(number, part, &course, &sender));
            stream::iter(walks).buffer_unordered(WALKS).for_each(|()| async {}).await;
        };
        tokio::join!(walks, self.fly(jobs, &course));
        course.losses.into_sorted()
    }

    /// Finds the leaves of a part that are not here; the nodes come along.
    async fn walk(&self, number: usize, part: &Part, course: &Course<'_>, jobs: &mpsc::Sender<Job>) {
        if self.is_hopeless(course) {
            return;
        }
        if let (Part::Item(item), Some(substitutes)) = (part, self.substitutes)
            && item.is_whole()
        {
            match self.download(item, substitutes).await {
                Ok(()) => course.observer.observe(Event::Fetched { bytes: item.announced() }),
                Err(error) => course.lose(number, 1, error.into()),
            }
            return course.observer.observe(Event::Walked);
        }
        let (keep, mut inventory) = match self.open(part).await {
            Ok(opened) => opened,
            Err(failure) => return course.lose(number, 1, failure),
        };
        if let Part::Item(item) = part {
            let bytes = inventory.range_bytes();
            course.observer.observe(Event::Opened { announced: item.announced(), bytes });
        }
        while let Some(batch) = inventory.next(Deadline::after(self.wait)).await {
            for lost in batch.lost {
                course.lose(number, lost.blocks, lost.error.into());
            }
            let leaves: Vec<_> = batch.leaves.iter().map(|leaf| leaf.reference).collect();
            let here = here(self.disk, &leaves).await;
            for (leaf, is_here) in batch.leaves.into_iter().zip(here) {
                if is_here {
                    course.observer.observe(Event::Here { bytes: leaf.bytes });
                    continue;
                }
                if self.is_hopeless(course) {
                    return;
                }
                if jobs.send(Job { part: number, leaf, keep: keep.clone() }).await.is_err() {
                    return;
                }
            }
        }
        course.observer.observe(Event::Walked);
    }

    /// Downloads the whole NAR of a store path into the cache; waits as long as it makes progress.
    async fn download(&self, item: &Item, substitutes: &Substitutes) -> Result<(), download::Error> {
        let fetch = Fetch::new(self.source.store.clone(), NODE_BYTES);
        let download = substitutes.download(&item.resolved, &fetch, Deadline::after(self.wait)).await;
        let mut arrived = None;
        loop {
            match download.finished(Deadline::after(self.wait)).await {
                Err(download::Error::Overdue { progress, .. }) if arrived != Some(progress.arrived) => {
                    arrived = Some(progress.arrived);
                }
                answer => return answer.map(drop),
            }
        }
    }

    /// Opens a part, which brings the blocks that opening takes.
    async fn open(&self, part: &Part) -> Result<(Arc<Keep>, Inventory), Failure> {
        let deadline = Deadline::after(self.wait);
        let through = |block_size| {
            let keep = Arc::new(Keep::new(self.disk.clone(), Some(self.source.clone()), block_size));
            (keep.clone(), Fetch::new(keep, NODE_BYTES))
        };
        let item = match part {
            Part::Catalog(content) => {
                let (keep, _) = through(content.capability().block_size);
                return Ok((keep, content.inventory(0..u64::MAX)));
            }
            Part::Item(item) => item,
        };
        let nothing = || Failure { reason: NO_CONTENT.into(), is_outage: false };
        let (capability, expected) = item.content(None).await?.ok_or_else(nothing)?;
        let (keep, fetch) = through(capability.block_size);
        let Some(below) = &item.below else {
            let limits = Limits { length: expected.limit, tail: 0 };
            let content = Content::open(fetch, capability, limits, deadline).await?;
            return Ok((keep, Arc::new(content).inventory(0..u64::MAX)));
        };
        let object = Object::open(fetch, capability, expected, deadline).await?;
        let absent = || Failure { reason: NO_FILE.into(), is_outage: false };
        let node = object.listing().resolve(below).ok_or_else(absent)?;
        Ok((keep, object.content().inventory(object.encoded_range(node))))
    }

    /// Brings the leaves, as many at a time as the source bears now.
    async fn fly(&self, mut jobs: mpsc::Receiver<Job>, course: &Course<'_>) {
        let mut flights = FuturesUnordered::new();
        let (mut flying, mut more) = (HashSet::new(), true);
        loop {
            let room = flights.len() < self.source.store.concurrency().max(1);
            tokio::select! {
                job = jobs.recv(), if room && more => match job {
                    None => more = false,
                    // What waits in the queue is not tried any more either.
                    Some(_) if self.is_hopeless(course) => {}
                    // One that is under way for another place needs no second request.
                    Some(job) if !flying.insert(job.leaf.reference) => {
                        course.observer.observe(Event::Here { bytes: job.leaf.bytes });
                    }
                    Some(job) => flights.push(async move {
                        let result = job.keep.bring(&job.leaf.reference).await;
                        (job, result.map(drop))
                    }),
                },
                Some((job, result)) = flights.next(), if !flights.is_empty() => {
                    flying.remove(&job.leaf.reference);
                    self.land(&job, result, course);
                }
                else => return,
            }
        }
    }

    fn land(&self, job: &Job, result: Result<(), block::Error>, course: &Course<'_>) {
        match result {
            Ok(()) => {
                course.outages.store(0, Relaxed);
                course.observer.observe(Event::Fetched { bytes: job.leaf.bytes });
            }
            Err(error) => course.lose(job.part, 1, error.into()),
        }
    }

    /// Whether the network is gone, or the cache keeps nothing.
    fn is_hopeless(&self, course: &Course<'_>) -> bool {
        course.outages.load(Relaxed) >= PATIENCE || self.source.dropped.load(Relaxed) >= DROPS
    }
}
