//! What a server does when it is asked to make sure that a store path stays available.
//!
//! Each path once at a time, however many ask; a few at a time, and no more waiting than that. What is asked for goes on when
//! whoever asked has left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::anew::Anew;
use super::{SeedSettings, Seeded, Subject, WAIT, seed};
use crate::block::{BlockStore, Every};
use crate::content::Deadline;
use crate::offline::{Event, Observer};
use crate::store::HashPart;
use crate::tree::{Expected, Tree};

/// Paths that are worked on at a time: each has some tens of megabytes in flight.
const AT_ONCE: usize = 2;
/// Paths that are worked on or wait.
const QUEUE: usize = 16;
/// Outcomes that are remembered.
const REMEMBERED: usize = 256;
/// For how long: whoever was told to come back should find the outcome, and later the stores are to be asked again.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

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
    task: AbortHandle,
    begun: Instant,
    /// Ends the work when it is dropped.
    _wanted: oneshot::Sender<()>,
}

impl Job {
    /// Whether the outcome is known, and for so long that it may have changed.
    fn is_stale(&self) -> bool {
        self.task.is_finished() && self.begun.elapsed() > REMEMBERED_FOR
    }
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
        /// Blocks that were put, where it was copied.
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
        if jobs.values().filter(|job| !job.task.is_finished()).count() >= QUEUE {
            return None;
        }
        if jobs.len() >= REMEMBERED {
            let done = jobs.iter().filter(|(_, job)| job.task.is_finished());
            let oldest = done.min_by_key(|(_, job)| job.begun).map(|(hash_part, _)| *hash_part);
            oldest.and_then(|oldest| jobs.remove(&oldest));
        }
        let work = self.work.clone();
        let (wanted, unwanted) = oneshot::channel();
        let runtime = Handle::current();
        // On a thread of its own: the many references that the walks borrow are not known to be `Send`.
        let running = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                tokio::select! {
                    outcome = work.keep(hash_part) => outcome,
                    _ = unwanted => Outcome::Failed { reason: "the server ended".into() },
                }
            })
        });
        let task = running.abort_handle();
        let outcome = running.map(|done| {
            Arc::new(done.unwrap_or_else(|error| {
                tracing::error!("{error}");
                Outcome::Failed { reason: "internal error".into() }
            }))
        });
        let outcome = outcome.boxed().shared();
        let job = Job { outcome: outcome.clone(), task, begun: Instant::now(), _wanted: wanted };
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
        let Some((capability, Expected { form, limit, .. })) = resolved.named().find_map(Result::ok) else {
            return Outcome::NoContent { path };
        };
        let subject = Subject { name: path.clone(), capability, limit, announced: None };
        let from = self.tree.store().clone();
        let subjects = vec![subject.clone()];
        let seeded =
            seed(from, self.to.clone(), subjects, SeedSettings::default(), Arc::new(Unobserved)).await;
        let Seeded { blocks, targets, losses, .. } = seeded;
        if let Some(failed) = targets.iter().find_map(|target| target.failure.as_ref()) {
            tracing::warn!("seeding {path}: {failed}");
            return Outcome::Failed { reason: "the block stores of this server take no blocks now".into() };
        }
        let put = targets.iter().map(|target| target.put).sum();
        let Some(loss) = losses.into_iter().next() else {
            return Outcome::Complete { path, blocks, put, anew: false };
        };
        tracing::info!("seeding {path}: {} blocks could not be had: {}", loss.blocks, loss.reason);
        let every: Arc<dyn BlockStore> = Arc::new(Every::new(self.to.clone()));
        let anew = Anew { tree: self.tree.clone(), subject, resolved, form, store: every.clone() };
        if let Err(reason) = anew.put().await {
            tracing::warn!("seeding {path}: {} blocks are lost: {reason}", loss.blocks);
            return Outcome::Lost { path, blocks: loss.blocks };
        }
        match every.sync().await {
            Ok(()) => Outcome::Complete { path, blocks, put, anew: true },
            Err(error) => {
                tracing::warn!("seeding {path}: {error}");
                Outcome::Failed { reason: "the block stores of this server take no blocks now".into() }
            }
        }
    }
}

/// Nobody watches.
struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _: Event) {}
}
