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

    /// The same once all of it is here and right: for a reader who has none of it yet, whatever others were given before.
    pub async fn read_finished(&self, range: Range<u64>, deadline: Deadline) -> Result<Bytes, Error> {
        let archive = self.finished(deadline).await?;
        self.read_archive(archive.capability, range, deadline).await
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
        Error::Evicted { name: self.name.clone(), source: Box::new(source) }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;

    use super::*;
    use crate::block::{DiskSettings, Memory};
    use crate::eris::{ConvergenceSecret, Encoder};
    use crate::store::NarHash;

    const LENGTH: usize = 5_000_000;

    struct Rig {
        download: Arc<Download>,
        _dir: tempfile::TempDir,
    }

    fn rig() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let settings = DiskSettings { size: 32 << 20, free_floor: 0, resize: true };
        let disk = Disk::open(dir.path(), settings).unwrap();
        let wanted = Wanted {
            name: "some-nar".into(),
            nar_hash: NarHash::of(b""),
            nar_size: LENGTH as u64,
            sources: Vec::new(),
        };
        let fetch = Fetch::new(Arc::new(Memory::new()), 0);
        Rig { download: Arc::new(Download::new(&wanted, disk, fetch)), _dir: dir }
    }

    /// What a source has: they differ from byte 2,000,000 on.
    fn content(source: u8) -> Vec<u8> {
        (0..LENGTH).map(|at| (at / 3000 + at) as u8 ^ (source * u8::from(at >= 2_000_000))).collect()
    }

    impl Rig {
        /// What a source gives, from the beginning: whole batches of leaves.
        fn give(&self, content: &[u8]) {
            let mut encoder = Encoder::new(self.download.block_size(), ConvergenceSecret::NULL);
            let sealed = encoder.push(content);
            let leaves: Vec<_> = sealed.iter().map(|sealed| (sealed.reference, sealed.key)).collect();
            let blocks: Vec<_> = sealed.into_iter().map(|sealed| (sealed.reference, sealed.block)).collect();
            self.download.disk.put_dear(&blocks);
            self.download.arrived(0, &leaves);
        }

        async fn read(&self, range: Range<usize>) -> Result<Bytes, Error> {
            let range = range.start as u64..range.end as u64;
            self.download.read(range, Deadline::after(Duration::from_secs(5))).await
        }
    }

    #[tokio::test]
    async fn what_arrived_can_be_read_and_what_did_not_is_waited_for() {
        let (rig, content) = (rig(), content(0));
        rig.give(&content[..1_500_000]);
        for range in [0..10, 32_760..32_780, 100_000..900_000, 5..5] {
            assert!(rig.read(range.clone()).await.unwrap() == content[range]);
        }
        let mut later = Box::pin(rig.read(2_500_000..2_600_000));
        assert!((&mut later).now_or_never().is_none());
        rig.give(&content[..4_000_000]);
        assert!(later.await.unwrap() == content[2_500_000..2_600_000]);
        assert!(matches!(rig.read(0..LENGTH + 1).await, Err(Error::OutOfRange { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_how_far_it_is() {
        let rig = rig();
        let late = rig.read(0..10).await;
        assert!(matches!(&late, Err(Error::Overdue { progress, .. }) if progress.arrived == 0), "{late:?}");
        rig.give(&content(0)[..2_500_000]);
        let late = rig.download.finished(Deadline::after(Duration::from_secs(5))).await;
        let error = late.expect_err("it never ends");
        assert_eq!(error.to_string(), "some-nar: 2097 of 5000 kB came before the deadline");
    }

    #[tokio::test]
    async fn another_source_that_says_the_same_goes_unnoticed() {
        let (rig, content) = (rig(), content(0));
        rig.give(&content[..4_000_000]);
        rig.read(0..3_000_000).await.unwrap();
        rig.give(&content[..1_500_000]);
        assert_eq!(rig.download.progress().arrived, 3 << 20, "what arrived stays");
        rig.give(&content);
        assert!(rig.read(3_000_000..4_000_000).await.unwrap() == content[3_000_000..4_000_000]);
    }

    #[tokio::test]
    async fn another_source_that_says_otherwise_stops_those_who_read_beyond_that_and_no_others() {
        let rig = rig();
        rig.give(&content(0)[..4_000_000]);
        rig.read(0..1_900_000).await.unwrap();
        rig.give(&content(1)[..4_000_000]);
        assert!(rig.read(2_000_000..3_000_000).await.unwrap() == content(1)[2_000_000..3_000_000]);
        rig.give(&content(2)[..4_000_000]);
        assert!(matches!(rig.read(0..10).await, Err(Error::Contradicted { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_for_a_minute_ends_and_what_somebody_waits_for_does_not() {
        let rig = rig();
        let start = Instant::now();
        {
            let waiting = rig.download.finished(Deadline::after(Duration::from_secs(300)));
            tokio::pin!(waiting);
            tokio::select! {
                _ = &mut waiting => {}
                () = rig.download.unwanted() => panic!("somebody waits"),
            }
        }
        assert!(start.elapsed() >= Duration::from_secs(300));
        rig.download.unwanted().await;
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(360) && waited < Duration::from_secs(362), "{waited:?}");
        assert!(!rig.download.join());
        assert!(matches!(rig.download.outcome(), Some(Err(Error::Unwanted { .. }))));
    }

    #[tokio::test]
    async fn all_who_wait_hear_how_it_ended() {
        let rig = rig();
        let finished = rig.download.finished(Deadline::after(Duration::from_secs(5)));
        let end = async { rig.download.end(Err(Error::Busy { name: "some-nar".into(), waiting: 1 })) };
        let (read, finished, ()) = tokio::join!(rig.read(0..10), finished, end);
        assert!(matches!(read, Err(Error::Busy { .. })) && matches!(finished, Err(Error::Busy { .. })));
    }
}
