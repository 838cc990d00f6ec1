//! Bringing all blocks of many contents onto the disk: many under way, few in memory.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, stream};
use tokio::sync::mpsc;

use super::NODE_BYTES;
use super::keep::{Keep, Source};
use super::select::Item;
use crate::block::{self, Disk};
use crate::content::{Content, Deadline, Fetch, Inventory, Leaf, Limits};
use crate::tree::{self, Object};

/// Contents that are walked at a time: small ones cost round trips and hardly a byte.
const WALKS: usize = 8;
/// Leaves that were found and for which there was no room in flight yet.
const QUEUE: usize = 1024;
/// So many blocks of a content in a row that nobody gives just now, and no more of it is asked for.
const PATIENCE: u64 = 64;
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
    Item(Item),
}

/// A catalog as messages and pins name it.
pub(super) fn catalog_name(catalog: &Content) -> String {
    format!("catalog {}", catalog.capability().reference)
}

/// From where, and to where.
pub(super) struct Pull<'a> {
    pub(super) disk: &'a Disk,
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
    fn add(&self, part: usize, name: &str, blocks: u64, reason: impl ToString) {
        let mut losses = self.0.lock().expect("no panic while held");
        let loss = losses.entry(part).or_insert_with(|| Loss {
            name: name.to_owned(),
            blocks: 0,
            reason: reason.to_string(),
        });
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
    /// For each part, how many blocks in a row failed by no fault of their own.
    silent: Vec<AtomicU64>,
}

impl Course<'_> {
    fn is_hopeless(&self, part: usize) -> bool {
        self.silent[part].load(Relaxed) >= PATIENCE
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
            silent: parts.iter().map(|_| AtomicU64::new(0)).collect(),
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
        let (keep, mut inventory) = match self.open(part).await {
            Ok(opened) => opened,
            Err(reason) => return course.losses.add(number, &course.names[number], 1, reason),
        };
        if let Part::Item(item) = part {
            let bytes = inventory.range_bytes();
            course.observer.observe(Event::Opened { announced: item.announced(), bytes });
        }
        while let Some(batch) = inventory.next(Deadline::after(self.wait)).await {
            for lost in batch.lost {
                course.losses.add(number, &course.names[number], lost.blocks, lost.error);
            }
            for leaf in batch.leaves {
                if self.disk.contains(&leaf.reference) {
                    course.observer.observe(Event::Here { bytes: leaf.bytes });
                    continue;
                }
                if course.is_hopeless(number) || self.is_useless() {
                    return;
                }
                if jobs.send(Job { part: number, leaf, keep: keep.clone() }).await.is_err() {
                    return;
                }
            }
        }
        course.observer.observe(Event::Walked);
    }

    /// Opens a part, which brings the blocks that opening takes.
    async fn open(&self, part: &Part) -> Result<(Arc<Keep>, Inventory), String> {
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
        let bound = tree::binding(&item.path, item.facts, &item.narinfo);
        let (capability, expected) = bound.map_err(|error| error.to_string())?;
        let (keep, fetch) = through(capability.block_size);
        let Some(below) = &item.below else {
            let limits = Limits { length: expected.limit, tail: 0 };
            let content = Content::open(fetch, capability, limits, deadline).await;
            let content = content.map_err(|error| error.to_string())?;
            return Ok((keep, Arc::new(content).inventory(0..u64::MAX)));
        };
        let object = Object::open(fetch, capability, expected, deadline).await;
        let object = object.map_err(|error| error.to_string())?;
        let node = object.listing().resolve(below).ok_or("there is no such file in it")?;
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
                course.silent[job.part].store(0, Relaxed);
                course.observer.observe(Event::Fetched { bytes: job.leaf.bytes });
            }
            Err(error) => {
                if !matches!(error, block::Error::NotFound { .. } | block::Error::Corrupt { .. }) {
                    course.silent[job.part].fetch_add(1, Relaxed);
                }
                course.losses.add(job.part, &course.names[job.part], 1, error);
            }
        }
    }

    /// Whether the cache keeps nothing.
    fn is_useless(&self) -> bool {
        self.source.dropped.load(Relaxed) >= DROPS
    }
}
