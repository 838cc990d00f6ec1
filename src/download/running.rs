//! One download, under way or ended: what has arrived of it, who waits for it, and how it ended.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::pipeline::Expected;
use super::{Archive, Error, Progress, Wanted};
use crate::block::{Block, BlockStore, Disk};
use crate::content::{self, Content, Deadline, Fetch, Limits};
use crate::eris::{BlockSize, Key, Layout, Position, ReadCapability, Reference};

/// How long a download goes on that nobody wants: a program that was interrupted is often begun again.
const INTEREST: Duration = Duration::from_secs(60);
/// The most bytes of one read: they are in memory at once, encrypted and plain.
const MOST: u64 = 64 << 20;

/// The download of one NAR.
pub struct Download {
    name: String,
    expected: Expected,
    disk: Disk,
    fetch: Arc<Fetch>,
    state: Mutex<State>,
    /// Told of every change of the state that somebody may wait for.
    changed: watch::Sender<()>,
}

struct State {
    /// Reference and key of each leaf that arrived, in order.
    leaves: Vec<(Reference, Key)>,
    /// Bytes of the NAR before this were given to readers.
    given: u64,
    /// A source gave something else than an earlier one where readers were already.
    contradicted: bool,
    received: u64,
    source: Option<String>,
    outcome: Option<Result<Archive, Error>>,
    waiting: usize,
    wanted: Instant,
}

/// Where a reader finds what he wants.
enum Given {
    Leaves(Vec<(Reference, Key)>),
    Archive(ReadCapability),
}

/// Somebody waits for a download.
struct Interest<'a>(&'a Download);

impl Drop for Interest<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.waiting -= 1;
        state.wanted = Instant::now();
    }
}

impl Download {
    pub(super) fn new(wanted: &Wanted, disk: Disk, fetch: Arc<Fetch>) -> Self {
        let state = State {
            leaves: Vec::new(),
            given: 0,
            contradicted: false,
            received: 0,
            source: None,
            outcome: None,
            waiting: 0,
            wanted: Instant::now(),
        };
        Self {
            name: wanted.name.clone(),
            expected: Expected { nar_hash: wanted.nar_hash, nar_size: wanted.nar_size },
            disk,
            fetch,
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
        }
    }

    /// The NAR, once it is here as a whole and its hash is right. [`Error::Overdue`] if that takes too long; the download goes on.
    pub async fn finished(&self, deadline: Deadline) -> Result<Archive, Error> {
        self.wait(deadline, |state| state.outcome.clone()).await
    }

    /// Bytes of the NAR, as soon as they arrived: at most 64 MiB. Its hash may not have been checked yet, but the last bytes (up to 1 MiB) are
    /// given only after it was found right: whoever passes a NAR on in order never completes a wrong one. A reader
    /// that got an error and begins anew does so with [`finished`](Self::finished).
    pub async fn read(&self, range: Range<u64>, deadline: Deadline) -> Result<Bytes, Error> {
        let nar_size = self.expected.nar_size;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if range.end > nar_size || range.end - range.start > MOST {
            return Err(Error::OutOfRange {
                name: self.name.clone(),
                start: range.start,
                end: range.end,
                nar_size,
            });
        }
        let layout = Layout::of_leaves(self.block_size());
        let places = layout.leaf_range(range.clone());
        let leaves = match self.wait(deadline, |state| state.give(&places, range.end, &self.name)).await? {
            Given::Leaves(leaves) => leaves,
            Given::Archive(capability) => return self.read_archive(capability, range, deadline).await,
        };
        let blocks = self.blocks(&leaves, deadline).await?;
        let last = nar_size / self.block_bytes();
        let positions = places.zip(leaves).map(|(index, (reference, key))| {
            (
                Position { reference, key, level: 0, index, right_edge: index == last },
                blocks[&reference].clone(),
            )
        });
        let opened: Result<Vec<_>, _> = layout.open_leaves(positions.collect()).into_iter().collect();
        let opened = opened.expect("they were sealed here, and hashed when they were read");
        let skip = (range.start % self.block_bytes()) as usize;
        let length = (range.end - range.start) as usize;
        if let [leaf] = &opened[..] {
            return Ok(leaf.slice(skip..skip + length));
        }
        let mut bytes = BytesMut::with_capacity(opened.iter().map(Bytes::len).sum());
        opened.iter().for_each(|leaf| bytes.extend_from_slice(leaf));
        Ok(bytes.freeze().slice(skip..skip + length))
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let state = self.state();
        let arrived = match &state.outcome {
            Some(Ok(archive)) => archive.nar_size,
            _ => (state.leaves.len() as u64 * self.block_bytes()).min(self.expected.nar_size),
        };
        let (received, source) = (state.received, state.source.clone());
        Progress { arrived, nar_size: self.expected.nar_size, received, source }
    }

    /// How messages name the NAR.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn expected(&self) -> Expected {
        self.expected
    }

    /// That of whoever else encodes this NAR.
    pub(super) fn block_size(&self) -> BlockSize {
        BlockSize::for_length(self.expected.nar_size)
    }

    fn block_bytes(&self) -> u64 {
        self.block_size().bytes() as u64
    }

    /// Joins it, unless it ended.
    pub(super) fn join(&self) -> bool {
        let mut state = self.state();
        state.wanted = Instant::now();
        state.outcome.is_none()
    }

    pub(super) fn outcome(&self) -> Option<Result<Archive, Error>> {
        self.state().outcome.clone()
    }

    /// Returns once nobody wanted it for a while. It has ended then.
    pub(super) async fn unwanted(&self) {
        loop {
            let due = {
                let mut state = self.state();
                let due = state.wanted + INTEREST;
                match state.waiting {
                    0 if due <= Instant::now() => {
                        state.outcome = Some(Err(Error::Unwanted { name: self.name.clone() }));
                        drop(state);
                        self.changed.send_replace(());
                        return;
                    }
                    0 => due,
                    _ => Instant::now() + INTEREST,
                }
            };
            sleep_until(due).await;
        }
    }

    /// Another source is asked.
    pub(super) fn begin(&self, source: &str) {
        self.state().source = Some(source.to_owned());
    }

    /// Bytes came from the source.
    pub(super) fn received(&self, bytes: u64) {
        self.state().received += bytes;
    }

    /// Leaves came and are in the cache, the first of them leaf number `first`.
    pub(super) fn arrived(&self, first: u64, leaves: &[(Reference, Key)]) {
        let mut state = self.state();
        let bytes = self.block_bytes();
        for (index, leaf) in (first as usize..).zip(leaves) {
            match state.leaves.get(index) {
                Some(known) if known == leaf => continue,
                // Another source says otherwise. Which of them is right shows at the end.
                Some(_) => {
                    state.leaves.truncate(index);
                    state.contradicted |= index as u64 * bytes < state.given;
                }
                None => {}
            }
            state.leaves.push(*leaf);
        }
        drop(state);
        self.changed.send_replace(());
    }

    pub(super) fn end(&self, outcome: Result<Archive, Error>) {
        let mut state = self.state();
        state.source = None;
        state.outcome.get_or_insert(outcome);
        drop(state);
        self.changed.send_replace(());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` has an answer.
    async fn wait<T>(
        &self,
        deadline: Deadline,
        mut ready: impl FnMut(&mut State) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut changes = self.changed.subscribe();
        self.state().waiting += 1;
        let _interest = Interest(self);
        let waited = deadline.bound(async {
            loop {
                if let Some(answer) = ready(&mut self.state()) {
                    return answer;
                }
                changes.changed().await.expect("the sender is in self");
            }
        });
        let late = || Err(Error::Overdue { name: self.name.clone(), progress: self.progress() });
        waited.await.unwrap_or_else(late)
    }

    async fn blocks(
        &self,
        leaves: &[(Reference, Key)],
        deadline: Deadline,
    ) -> Result<HashMap<Reference, Block>, Error> {
        let mut blocks = HashMap::with_capacity(leaves.len());
        let references = leaves.iter().map(|(reference, _)| *reference).collect();
        let got = deadline.bound(async {
            let mut answers = BlockStore::get_many(&self.disk, references);
            while let Some((reference, answer)) = answers.next().await {
                blocks.insert(reference, answer.map_err(|error| self.evicted(error.into()))?);
            }
            Ok(())
        });
        match got.await {
            Some(got) => got.map(|()| blocks),
            None => Err(Error::Overdue { name: self.name.clone(), progress: self.progress() }),
        }
    }

    /// Of a NAR that was here already.
    async fn read_archive(
        &self,
        capability: ReadCapability,
        range: Range<u64>,
        deadline: Deadline,
    ) -> Result<Bytes, Error> {
        let limits = Limits { length: self.expected.nar_size, tail: 0 };
        let read = async {
            let content = Content::open(self.fetch.clone(), capability, limits, deadline).await?;
            content.read_at(range, deadline).await
        };
        read.await.map_err(|source| self.evicted(source))
    }

    fn evicted(&self, source: content::Error) -> Error {
        Error::Evicted { name: self.name.clone(), source }
    }
}

impl State {
    /// The leaves of `places`, if they are there, for a reader of what is before `end`.
    fn give(&mut self, places: &Range<u64>, end: u64, name: &str) -> Option<Result<Given, Error>> {
        if self.contradicted {
            return Some(Err(Error::Contradicted { name: name.to_owned() }));
        }
        match self.leaves.get(places.start as usize..places.end as usize) {
            Some(leaves) => {
                self.given = self.given.max(end);
                Some(Ok(Given::Leaves(leaves.to_vec())))
            }
            None => match self.outcome.as_ref()? {
                Ok(archive) => Some(Ok(Given::Archive(archive.capability))),
                Err(error) => Some(Err(error.clone())),
            },
        }
    }
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download").field("name", &self.name).finish_non_exhaustive()
    }
}
