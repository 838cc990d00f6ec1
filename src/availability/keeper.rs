//! What a server does when it is asked to make sure that a store path stays available.
//!
//! Each path once at a time, however many ask; a few at a time, and no more waiting than that. What is asked for goes on when
//! whoever asked has left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, BoxFuture, Shared};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, timeout};

use super::anew::{Anew, NotMade};
use super::seed::carry;
use super::{SeedSettings, Seeded, Subject, WAIT, seed};
use crate::block::BlockStore;
use crate::content::Deadline;
use crate::eris::ReadCapability;
use crate::offline::{Event, Observer};
use crate::store::HashPart;
use crate::tree::{Expected, Resolved, Tree};

/// Paths that are worked on at a time: each has some tens of megabytes in flight.
const AT_ONCE: usize = 2;
/// Paths that are worked on or wait.
const QUEUE: usize = 16;
/// Outcomes that are remembered.
const REMEMBERED: usize = 256;
/// For how long: whoever was told to come back should find the outcome, and later the stores are to be asked again.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// The same for what may work at another time: only those who were told to come back, after 5 s, should find it.
const FAILED_FOR: Duration = Duration::from_secs(10);
/// How long a content that nobody vouches for may take to be hashed.
const HASHING: Duration = Duration::from_secs(600);
/// What is told where a target refuses or fails.
const NOT_PUT: &str = "the block stores of this server take no blocks now";

/// Keeps store paths available in some block stores.
#[derive(Debug)]
pub struct Keeper {
    work: Arc<Work>,
    jobs: Mutex<HashMap<HashPart, Job>>,
}

/// What has to be known to work on a path.
#[derive(Debug)]
struct Work {
    tree: Arc<Tree>,
    to: Vec<Arc<dyn BlockStore>>,
    room: Semaphore,
}

#[derive(Debug)]
struct Job {
    outcome: Shared<BoxFuture<'static, Arc<Outcome>>>,
    ended: Arc<OnceLock<Ended>>,
    /// Ends the work when it is dropped.
    _wanted: oneshot::Sender<()>,
}

/// When the work on a path ended, and how long its outcome is remembered.
#[derive(Debug)]
struct Ended {
    at: Instant,
    remembered_for: Duration,
}

impl Job {
    /// Begins `work`, which ends when nobody wants it any more. Inside a runtime only.
    fn begin(work: impl Future<Output = Outcome> + Send + 'static, wanted: oneshot::Sender<()>) -> Self {
        let ended = Arc::new(OnceLock::new());
        let end = ended.clone();
        let running = tokio::spawn(async move {
            let outcome = work.await;
            let is_failed = matches!(outcome, Outcome::Failed { .. });
            let remembered_for = if is_failed { FAILED_FOR } else { REMEMBERED_FOR };
            end.get_or_init(|| Ended { at: Instant::now(), remembered_for });
            outcome
        });
        let outcome = running.map(|done| Arc::new(done.unwrap_or_else(internal_error)));
        Job { outcome: outcome.boxed().shared(), ended, _wanted: wanted }
    }

    fn is_done(&self) -> bool {
        self.ended.get().is_some()
    }

    /// Whether the outcome is known, and for so long that it may have changed.
    fn is_stale(&self) -> bool {
        self.ended.get().is_some_and(|ended| ended.at.elapsed() > ended.remembered_for)
    }
}

fn internal_error(error: JoinError) -> Outcome {
    tracing::error!("{error}");
    Outcome::Failed { reason: "internal error".into() }
}

/// How it stands with a path that was asked for.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It is known what came of it.
    Done(Arc<Outcome>),
    /// It is being worked on, or its turn will come.
    UnderWay,
    /// Too many others are.
    Busy,
}

/// What came of it, as clients are told: nothing of where blocks are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// All blocks of its content are in the stores of the server.
    Complete {
        /// `HASH-NAME`.
        path: String,
        /// Blocks that were looked at.
        blocks: u64,
        /// Blocks that were put.
        put: u64,
        /// Whether it had to be made again from the NAR.
        anew: bool,
    },
    /// No catalog lists it and no substitute server has it.
    Absent,
    /// Nobody says in which ERIS content it is.
    NoContent {
        /// `HASH-NAME`.
        path: String,
    },
    /// Blocks are nowhere, and the same content cannot be made from what there is.
    Lost {
        /// `HASH-NAME`.
        path: String,
        /// How many, at the least.
        blocks: u64,
        /// Whether a source gave no answer, so that they may only be out of reach.
        #[serde(skip)]
        outage: bool,
    },
    /// It may work at another time.
    Failed {
        /// What did not.
        reason: String,
    },
}

impl Keeper {
    /// Keeps what `tree` shows in all of `to`. Inside a runtime only.
    pub fn new(tree: Arc<Tree>, to: Vec<Arc<dyn BlockStore>>) -> Self {
        let work = Arc::new(Work { tree, to, room: Semaphore::new(AT_ONCE) });
        Keeper { work, jobs: Mutex::default() }
    }

    /// Begins to make sure that the blocks of a path are in the stores, or joins what was begun; waits for it no longer than
    /// `patience`.
    pub async fn ask(&self, hash_part: HashPart, patience: Duration) -> Standing {
        let Some(outcome) = self.join(hash_part) else { return Standing::Busy };
        timeout(patience, outcome).await.map_or(Standing::UnderWay, Standing::Done)
    }

    fn join(&self, hash_part: HashPart) -> Option<Shared<BoxFuture<'static, Arc<Outcome>>>> {
        let mut jobs = self.jobs.lock().expect("no panic while held");
        jobs.retain(|_, job| !job.is_stale());
        if let Some(job) = jobs.get(&hash_part) {
            return Some(job.outcome.clone());
        }
        if jobs.values().filter(|job| !job.is_done()).count() >= QUEUE {
            return None;
        }
        if jobs.len() >= REMEMBERED {
            let done = jobs.iter().filter_map(|(hash_part, job)| Some((*hash_part, job.ended.get()?.at)));
            let oldest = done.min_by_key(|(_, at)| *at).map(|(hash_part, _)| hash_part);
            oldest.and_then(|oldest| jobs.remove(&oldest));
        }
        let work = self.work.clone();
        let (wanted, unwanted) = oneshot::channel();
        let runtime = Handle::current();
        // On a thread of its own: the many references that the walks borrow are not known to be `Send`.
        let keep = async move || {
            tokio::select! {
                outcome = work.keep(hash_part) => outcome,
                _ = unwanted => Outcome::Failed { reason: "the server ended".into() },
            }
        };
        let running = spawn_blocking(move || runtime.block_on(keep()));
        let running = running.map(|done| done.unwrap_or_else(internal_error));
        let job = Job::begin(running, wanted);
        let outcome = job.outcome.clone();
        jobs.insert(hash_part, job);
        Some(outcome)
    }
}

impl Work {
    async fn keep(&self, hash_part: HashPart) -> Outcome {
        let _room = self.room.acquire().await.expect("it is never closed");
        let resolved = match self.tree.sources().resolve(hash_part, Deadline::after(WAIT)).await {
            Ok(Some(resolved)) => resolved,
            Ok(None) => return Outcome::Absent,
            Err(error) => {
                tracing::warn!("seeding {hash_part}: {error}");
                return Outcome::Failed { reason: "nobody could say what it is".into() };
            }
        };
        let path = resolved.narinfo().store_path().to_string();
        let contents = self.contents(&resolved).await;
        let mut worst = Outcome::NoContent { path: path.clone() };
        let mut lost = Vec::new();
        for (capability, expected) in contents {
            let limit = expected.limit;
            let subject = Subject { name: path.clone(), capability, limit, announced: None };
            match self.copy(&subject).await {
                Ok(complete) => return complete,
                Err(outcome @ Outcome::Failed { .. }) => worst = outcome,
                Err(outcome) => lost.push((subject, expected, outcome)),
            }
        }
        for (subject, Expected { form, .. }, outcome) in lost {
            let anew = Anew { tree: self.tree.clone(), subject, resolved: resolved.clone(), form };
            match self.make_anew(anew, outcome).await {
                complete @ Outcome::Complete { .. } => return complete,
                outcome => {
                    if !matches!(worst, Outcome::Failed { .. }) {
                        worst = outcome;
                    }
                }
            }
        }
        worst
    }

    /// The contents that are known to hold a path: those that somebody bound to it whose word counts; others only if they were hashed to
    /// its NAR, which is done here where there is nothing else.
    async fn contents(&self, resolved: &Resolved) -> Vec<(ReadCapability, Expected)> {
        let contents: Vec<_> = resolved.bound().filter_map(Result::ok).collect();
        let unbound: Vec<_> = resolved.unbound().filter_map(Result::ok).collect();
        let Some(substitutes) = &self.tree.sources().substitutes else { return contents };
        if !contents.is_empty() || unbound.is_empty() {
            return contents;
        }
        let hashed = async || {
            let of = unbound.iter().map(async |(capability, expected)| {
                let is_hashed = substitutes.is_hashed(resolved, capability, Deadline::after(WAIT)).await;
                is_hashed.then(|| (*capability, expected.clone()))
            });
            future::join_all(of).await.into_iter().flatten().collect::<Vec<_>>()
        };
        let known = hashed().await;
        if !known.is_empty() {
            return known;
        }
        let hash_part = resolved.narinfo().store_path().hash_part();
        if let Err(error) = self.tree.object(hash_part, Deadline::after(HASHING)).await {
            tracing::info!("seeding {}: {error}", resolved.narinfo().store_path());
        }
        hashed().await
    }

    /// Copies a content from wherever its blocks are; else what is to be told where it cannot be made again.
    async fn copy(&self, subject: &Subject) -> Result<Outcome, Outcome> {
        let (from, path) = (self.tree.store().clone(), subject.name.clone());
        let subjects = vec![subject.clone()];
        let seeded =
            seed(from, self.to.clone(), subjects, SeedSettings::default(), Arc::new(Unobserved)).await;
        let Seeded { blocks, targets, losses, outage, .. } = seeded;
        if let Some(failed) = targets.iter().find_map(|target| target.failure.as_ref()) {
            tracing::warn!("seeding {path}: {failed}");
            return Err(Outcome::Failed { reason: NOT_PUT.into() });
        }
        let put = targets.iter().map(|target| target.put).sum();
        let Some(loss) = losses.into_iter().next() else {
            return Ok(Outcome::Complete { path, blocks, put, anew: false });
        };
        tracing::info!("seeding {path}: {} blocks could not be had: {}", loss.blocks, loss.reason);
        Err(Outcome::Lost { path, blocks: loss.blocks, outage })
    }

    /// Makes a content again and copies it; else `lost`, unless that may change.
    async fn make_anew(&self, anew: Anew, lost: Outcome) -> Outcome {
        let path = anew.subject.name.clone();
        let made = match anew.make().await {
            Ok(made) => made,
            Err(reason) => {
                let may_pass = matches!(lost, Outcome::Lost { outage: true, .. })
                    || matches!(reason, NotMade::Failed(_));
                let (NotMade::Lost(reason) | NotMade::Failed(reason)) = reason;
                tracing::warn!("seeding {path}: blocks could not be had, nor made again: {reason}");
                return match may_pass {
                    true => Outcome::Failed { reason: "not all that is needed can be reached now".into() },
                    false => lost,
                };
            }
        };
        let (from, to, subjects) = (made.blocks.clone(), self.to.clone(), vec![anew.subject]);
        let settings = SeedSettings::default();
        // What was seen to be lost may lie spoiled in a target that says it has it.
        let seeded = carry(from, to, subjects, settings, Arc::new(Unobserved), false).await;
        let put = seeded.targets.iter().map(|target| target.put).sum();
        let failure = seeded.targets.iter().find_map(|target| target.failure.as_ref());
        let failure = failure.or(seeded.losses.first().map(|loss| &loss.reason));
        match failure {
            None => Outcome::Complete { path, blocks: seeded.blocks, put, anew: true },
            Some(failure) => {
                tracing::warn!("seeding {path}: {failure}");
                Outcome::Failed { reason: NOT_PUT.into() }
            }
        }
    }
}

/// Nobody watches.
struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _: Event) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(outcome: Outcome, takes: Duration) -> Job {
        let work = async move {
            tokio::time::sleep(takes).await;
            outcome
        };
        Job::begin(work, oneshot::channel().0)
    }

    #[tokio::test(start_paused = true)]
    async fn what_took_long_is_remembered_from_its_end_on() {
        let job = job(Outcome::Absent, Duration::from_secs(70));
        tokio::time::sleep(Duration::from_secs(69)).await;
        assert!(!job.is_done());
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(job.is_done() && !job.is_stale());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(job.is_stale());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_forgotten_soon() {
        let job = job(Outcome::Failed { reason: "".into() }, Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(job.is_done() && !job.is_stale());
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(job.is_stale());
    }
}
