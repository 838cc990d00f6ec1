//! Copying all blocks of contents to stores that lack them.
//!
//! A few contents are walked at a time; their blocks go through one queue and from there in batches that may be of several
//! contents: each target is asked what it lacks of the batch, that much is fetched, and put. What is there is skipped, which is
//! all that resuming takes.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, future, stream};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;

use super::nodes::Nodes;
use super::opening::Opening;
use super::{PATIENCE, Subject, WAIT, WALKS};
use crate::block::{self, Block, BlockStore, Cache};
use crate::content::{self, Batch, Deadline};
use crate::eris::{BlockSize, Reference};
use crate::offline::{Event, Loss, Observer};
use crate::pace::Pace;

/// Blocks that were found and for which there was no room in flight yet.
const QUEUE: usize = 1024;
/// Blocks that are asked after, fetched and put together: 8 MiB.
const BATCH: usize = 256;
/// Batches under way: one is asked after and one fetched while others are put.
const BATCHES: usize = 4;
/// Batches that a target is given at a time: beside the end of one, where few of its puts are left, the next begins.
const PUTS: usize = 2;
/// Memory for interior nodes that were fetched for the walk, and are wanted again for being copied.
const NODE_BLOCKS: usize = 16 << 20;
/// Under a limit to the rate, blocks that are asked for at a time: a quarter of a megabyte.
const PACED: usize = 8;
/// How often a batch is put to a target before that is given up; each put is tried several times by itself.
const ATTEMPTS: u32 = 3;
/// Before the second attempt; four times as long before the third.
const PAUSE: Duration = Duration::from_secs(2);

/// How blocks are copied.
#[derive(Debug, Clone, Copy)]
pub struct SeedSettings {
    /// How long an interior node may take.
    pub wait: Duration,
    /// Bytes a second that are fetched at the most.
    pub rate: Option<u64>,
}

impl Default for SeedSettings {
    fn default() -> Self {
        SeedSettings { wait: WAIT, rate: None }
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seeded {
    /// Blocks that were looked at; one that stands in several places or contents may count more than once.
    pub blocks: u64,
    /// Of these, blocks that were fetched.
    pub fetched: u64,
    /// Bytes of those.
    pub fetched_bytes: u64,
    /// The stores that were given blocks.
    pub targets: Vec<Target>,
    /// What could not be had, by content.
    pub losses: Vec<Loss>,
    /// Whether some of that may be had at another time, since a source gave no answer.
    pub outage: bool,
}

/// What one store was given.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Its name.
    pub store: String,
    /// Blocks that it had.
    pub had: u64,
    /// Blocks that were put.
    pub put: u64,
    /// Why it was given up.
    pub failure: Option<String>,
}

impl Seeded {
    /// Whether every store has every block now.
    pub fn is_complete(&self) -> bool {
        self.losses.is_empty() && self.targets.iter().all(|target| target.failure.is_none())
    }
}

/// Copies all blocks of `subjects` from `from` to those of `to` that lack them, and syncs these.
///
/// Dropping the future loses at most the batches under way; the same call goes on from there.
pub async fn seed(
    from: Arc<dyn BlockStore>,
    to: Vec<Arc<dyn BlockStore>>,
    subjects: Vec<Subject>,
    settings: SeedSettings,
    observer: Arc<dyn Observer>,
) -> Seeded {
    carry(from, to, subjects, settings, observer, true).await
}

/// Copies as [`seed`] does; without `believe` every block is put, also what a target says that it has: what lies there spoiled is mended.
pub(super) async fn carry(
    from: Arc<dyn BlockStore>,
    to: Vec<Arc<dyn BlockStore>>,
    subjects: Vec<Subject>,
    settings: SeedSettings,
    observer: Arc<dyn Observer>,
    believe: bool,
) -> Seeded {
    let walked = Arc::new(Nodes::new(from.clone(), if believe { &to } else { &[] }));
    let carrying = Carrying {
        nodes: Arc::new(Cache::new(walked.clone(), NODE_BLOCKS)),
        walked,
        from,
        to: to.into_iter().map(|store| Receiver::new(store, believe)).collect(),
        pace: settings.rate.map(Pace::new),
        wait: settings.wait,
        subjects,
        observer,
        blocks: AtomicU64::new(0),
        fetched: AtomicU64::new(0),
        fetched_bytes: AtomicU64::new(0),
        outages: AtomicU32::new(0),
        outage: AtomicBool::new(false),
        losses: Mutex::default(),
    };
    carrying.run().await;
    carrying.conclude().await
}

/// A store that is given blocks.
struct Receiver {
    store: Arc<dyn BlockStore>,
    turns: Semaphore,
    /// Whether it is not given what it says that it has.
    is_believed: bool,
    had: AtomicU64,
    put: AtomicU64,
    failure: Mutex<Option<String>>,
}

impl Receiver {
    fn new(store: Arc<dyn BlockStore>, is_believed: bool) -> Self {
        let (had, put, failure) = Default::default();
        Receiver { store, turns: Semaphore::new(PUTS), is_believed, had, put, failure }
    }

    fn has_failed(&self) -> bool {
        self.failure.lock().expect("no panic while held").is_some()
    }

    fn fail(&self, error: &block::Error) {
        self.failure.lock().expect("no panic while held").get_or_insert_with(|| error.to_string());
    }

    /// Which of these it lacks, or will drop. What it cannot say of a block is no reason not to put it. On this machine they are read:
    /// what is there but spoiled is put once more, and reading costs less there than finding it out later.
    async fn lacks(&self, references: &[Reference]) -> HashSet<Reference> {
        if self.has_failed() {
            return HashSet::new();
        }
        if !self.is_believed {
            return references.iter().copied().collect();
        }
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let asked = match self.store.is_remote() {
            true => stream::iter(references)
                .map(async |reference| (*reference, self.store.keeps(reference).await.unwrap_or(false)))
                .buffer_unordered(self.store.concurrency().max(1))
                .boxed(),
            false => {
                let read = self.store.get_many(references.to_vec());
                read.map(|(reference, answer)| (reference, answer.is_ok())).boxed()
            }
        };
        let lacks = asked.filter_map(async |(reference, has)| (!has).then_some(reference));
        let lacks: HashSet<_> = lacks.collect().await;
        self.had.fetch_add((references.len() - lacks.len()) as u64, Relaxed);
        lacks
    }

    /// Puts blocks; after some attempts without success it is given none any more.
    async fn give(&self, blocks: Vec<(Reference, Block)>) {
        if blocks.is_empty() || self.has_failed() {
            return;
        }
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let mut pause = PAUSE;
        for attempt in 1.. {
            if self.has_failed() {
                return;
            }
            match self.store.put_many(blocks.clone()).await {
                Ok(()) => {
                    self.put.fetch_add(blocks.len() as u64, Relaxed);
                    return;
                }
                Err(error) if !error.is_transient() || attempt == ATTEMPTS => return self.fail(&error),
                Err(error) => tracing::warn!("{error}; trying again"),
            }
            sleep(pause).await;
            pause *= 4;
        }
    }
}

/// A block that belongs to a content.
#[derive(Debug, Clone, Copy)]
struct Job {
    subject: usize,
    reference: Reference,
    is_node: bool,
    /// Bytes of the content in it.
    bytes: u64,
}

struct Carrying {
    from: Arc<dyn BlockStore>,
    /// What was read for the walks, and beneath it where that is read.
    nodes: Arc<Cache>,
    walked: Arc<Nodes>,
    to: Vec<Receiver>,
    pace: Option<Pace>,
    wait: Duration,
    subjects: Vec<Subject>,
    observer: Arc<dyn Observer>,
    blocks: AtomicU64,
    fetched: AtomicU64,
    fetched_bytes: AtomicU64,
    /// Failures in a row that only the network is to blame for.
    outages: AtomicU32,
    /// Whether a source gave no answer for something that could not be had.
    outage: AtomicBool,
    losses: Mutex<HashMap<usize, Loss>>,
}

impl Carrying {
    async fn run(&self) {
        let bytes = self.subjects.iter().filter_map(|subject| subject.announced);
        let bytes = bytes.fold(0, u64::saturating_add);
        self.observer.observe(Event::Selected { paths: self.subjects.len() as u64, bytes });
        let (sender, jobs) = mpsc::channel(QUEUE);
        let walks = async {
            // The last clone of the sender must go with the last walk.
            let sender = sender;
            let walks = (0..self.subjects.len()).map(|subject| self.walk(subject, &sender));
            stream::iter(walks).buffer_unordered(WALKS).for_each(async |()| ()).await;
        };
        tokio::join!(walks, self.carry_all(jobs));
    }

    async fn conclude(self) -> Seeded {
        let syncs = self.to.iter().map(async |receiver| {
            if !receiver.has_failed()
                && let Err(error) = receiver.store.sync().await
            {
                receiver.fail(&error);
            }
        });
        future::join_all(syncs).await;
        let target = |receiver: Receiver| Target {
            store: receiver.store.name().to_owned(),
            had: receiver.had.into_inner(),
            put: receiver.put.into_inner(),
            failure: receiver.failure.into_inner().expect("no panic while held"),
        };
        let mut losses: Vec<_> = self.losses.into_inner().expect("no panic while held").into_iter().collect();
        losses.sort_by_key(|(subject, _)| *subject);
        Seeded {
            blocks: self.blocks.into_inner(),
            fetched: self.fetched.into_inner(),
            fetched_bytes: self.fetched_bytes.into_inner(),
            targets: self.to.into_iter().map(target).collect(),
            losses: losses.into_iter().map(|(_, loss)| loss).collect(),
            outage: self.outage.into_inner(),
        }
    }

    /// Names the blocks of one content.
    async fn walk(&self, number: usize, jobs: &mpsc::Sender<Job>) {
        if self.is_hopeless() {
            return;
        }
        let subject = &self.subjects[number];
        let opening = match Opening::new(self.nodes.clone(), subject, Deadline::after(self.wait)).await {
            Ok(opening) => opening,
            Err(error) => return self.lose_content(number, 1, &error),
        };
        let end = opening.end.as_ref();
        let is_end = |reference: &Reference| end.is_some_and(|end| end.reference == *reference);
        let mut is_end_met = end.is_none();
        let mut inventory = opening.inventory();
        if end.is_none() {
            let (announced, bytes) = (subject.announced.unwrap_or(0), inventory.range_bytes());
            self.observer.observe(Event::Opened { announced, bytes });
        }
        while let Some(Batch { nodes, leaves, lost }) = inventory.next(Deadline::after(self.wait)).await {
            self.keep_pace(0).await;
            for lost in lost {
                is_end_met |= is_end(&lost.reference);
                self.lose_content(number, lost.blocks, &lost.error);
            }
            is_end_met |= nodes.iter().any(is_end);
            let nodes = nodes.into_iter().map(|reference| (reference, true, 0));
            let leaves = leaves.into_iter().map(|leaf| (leaf.reference, false, leaf.bytes));
            for (reference, is_node, bytes) in nodes.chain(leaves) {
                if let Some(end) = end.filter(|end| !is_node && end.reference == reference) {
                    // Nobody gave it when it was wanted, whatever a target says of it.
                    is_end_met = true;
                    self.lose_content(number, 1, &end.error);
                    continue;
                }
                let job = Job { subject: number, reference, is_node, bytes };
                if self.is_hopeless() || jobs.send(job).await.is_err() {
                    return;
                }
            }
        }
        if let Some(end) = end.filter(|_| !is_end_met) {
            self.lose_content(number, 1, &end.error);
        }
        self.observer.observe(Event::Walked);
    }

    async fn carry_all(&self, mut jobs: mpsc::Receiver<Job>) {
        let (mut batches, mut waiting, mut more) = (FuturesUnordered::new(), Vec::new(), true);
        loop {
            tokio::select! {
                received = jobs.recv_many(&mut waiting, BATCH), if more && batches.len() < BATCHES => {
                    more = received > 0;
                    if more {
                        batches.push(self.carry(std::mem::take(&mut waiting)));
                    }
                }
                Some(()) = batches.next(), if !batches.is_empty() => {}
                else => return,
            }
        }
    }

    /// Brings blocks where they are lacked.
    async fn carry(&self, jobs: Vec<Job>) {
        if self.is_hopeless() {
            return;
        }
        self.blocks.fetch_add(jobs.len() as u64, Relaxed);
        let mut places: HashMap<Reference, Vec<Job>> = HashMap::with_capacity(jobs.len());
        for job in jobs {
            places.entry(job.reference).or_default().push(job);
        }
        let references: Vec<_> = places.keys().copied().collect();
        let lacks = future::join_all(self.to.iter().map(|receiver| receiver.lacks(&references))).await;
        let (wanted, here): (Vec<_>, Vec<_>) =
            references.into_iter().partition(|reference| lacks.iter().any(|lacks| lacks.contains(reference)));
        for job in here.iter().flat_map(|reference| &places[reference]) {
            self.observer.observe(Event::Here { bytes: job.bytes });
        }
        let blocks = self.fetch(&wanted, &places).await;
        let gifts = self.to.iter().zip(&lacks).map(|(receiver, lacks)| {
            let gift = blocks.iter().filter(|(reference, _)| lacks.contains(reference)).cloned();
            receiver.give(gift.collect())
        });
        future::join_all(gifts).await;
        for (reference, _) in &blocks {
            for job in &places[reference] {
                self.observer.observe(Event::Fetched { bytes: job.bytes });
            }
        }
    }

    /// Gets blocks, and tells of those that cannot be had.
    async fn fetch(
        &self,
        wanted: &[Reference],
        places: &HashMap<Reference, Vec<Job>>,
    ) -> Vec<(Reference, Block)> {
        let mut blocks = Vec::with_capacity(wanted.len());
        for piece in wanted.chunks(if self.pace.is_some() { PACED } else { BATCH }) {
            if self.is_hopeless() {
                break;
            }
            let (nodes, leaves): (Vec<Reference>, Vec<Reference>) =
                piece.iter().partition(|reference| places[*reference].iter().any(|job| job.is_node));
            let size = |reference| self.block_size(&places[reference]).bytes() as u64;
            self.keep_pace(leaves.iter().map(size).sum()).await;
            let mut answers = stream::select(self.nodes.get_many(nodes), self.from.get_many(leaves));
            while let Some((reference, answer)) = answers.next().await {
                match answer {
                    Ok(block) => {
                        self.outages.store(0, Relaxed);
                        self.fetched.fetch_add(1, Relaxed);
                        self.fetched_bytes.fetch_add(block.len() as u64, Relaxed);
                        blocks.push((reference, block));
                    }
                    Err(error) => {
                        for job in &places[&reference] {
                            self.lose(job.subject, 1, &error, error.is_transient());
                        }
                        if self.is_outage(&error) {
                            self.outages.fetch_add(1, Relaxed);
                        }
                    }
                }
            }
        }
        blocks
    }

    fn block_size(&self, jobs: &[Job]) -> BlockSize {
        jobs.first().map_or(BlockSize::Large, |job| self.subjects[job.subject].capability.block_size)
    }

    /// Waits until it is the turn of `leaves`, bytes that are to be fetched, and of nodes, which were fetched when they were needed.
    async fn keep_pace(&self, leaves: u64) {
        let bytes = self.walked.take_fetched() + leaves;
        if let Some(pace) = self.pace.as_ref().filter(|_| bytes > 0) {
            pace.wait(bytes).await;
        }
    }

    /// Blocks could not be had on a walk.
    fn lose_content(&self, subject: usize, blocks: u64, error: &content::Error) {
        let (is_outage, may_pass) = match error {
            content::Error::Block(error) => (self.is_outage(error), error.is_transient()),
            content::Error::TimedOut { .. } => (true, true),
            _ => (false, false),
        };
        if is_outage {
            self.outages.fetch_add(1, Relaxed);
        }
        self.lose(subject, blocks, error, may_pass);
    }

    fn lose(&self, subject: usize, blocks: u64, reason: &dyn Display, may_pass: bool) {
        self.outage.fetch_or(may_pass, Relaxed);
        let name = &self.subjects[subject].name;
        let mut losses = self.losses.lock().expect("no panic while held");
        let loss = losses.entry(subject).or_insert_with(|| Loss {
            name: name.clone(),
            blocks: 0,
            reason: reason.to_string(),
        });
        loss.blocks = loss.blocks.saturating_add(blocks);
    }

    /// Whether nobody who might have the block answered. That a target lacks it is why it is fetched, and no answer.
    fn is_outage(&self, error: &block::Error) -> bool {
        let lacks = |error: &block::Error| match error {
            block::Error::NotFound { store, .. } => {
                self.to.iter().any(|receiver| receiver.store.name() == &**store)
            }
            _ => false,
        };
        match error {
            block::Error::AllFailed { failures, .. } => {
                error.is_transient() && failures.iter().all(|error| self.is_outage(error) || lacks(error))
            }
            error => error.is_transient(),
        }
    }

    /// Whether there is nobody left to ask, or to give to.
    fn is_hopeless(&self) -> bool {
        self.outages.load(Relaxed) >= PATIENCE || self.to.iter().all(Receiver::has_failed)
    }
}
