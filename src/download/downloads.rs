//! All downloads of a process: started, joined, brought to an end one source after the other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::pipeline::{self, Expected, Fault, Kept};
use super::pump::Patience;
use super::turns::Turns;
use super::{Archive, Download, Error, Failure, Known, NarSource, Progress, Reason, Verified, Wanted, pump};
use crate::block::{Cache, Disk, DiskStat};
use crate::compress::Compression;
use crate::content::{Content, Deadline, Fetch, Limits};
use crate::eris::{BlockSize, ReadCapability};
use crate::nar::{Indexer, Listing};
use crate::store::NarHash;

/// Memory for blocks of downloaded NARs: they are on this disk, so it only spares the hashing.
const BLOCK_BYTES: usize = 16 << 20;
/// Memory for their interior nodes: those of 8 GiB of NARs.
const NODE_BYTES: usize = 16 << 20;
/// How long a failed download is not tried again: a program that reads file after file would have every server asked for each.
const FAILED: Duration = Duration::from_secs(10);
/// Sources that are remembered for having given something else than the NAR.
const LIARS: usize = 1024;
/// And for how long: the file may be put right.
const LIED: Duration = Duration::from_secs(600);
/// How long this disk is waited for.
const DISK_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read at a time to find the tree of a NAR that is here already.
const STEP: u64 = 64 * 1024;
/// What a file may have beyond twice the size of its NAR: compressing something that is compressed makes it a little larger, and
/// a seekable archive has its listing at the end.
const SLACK: u64 = 1 << 20;

/// The downloads of a process: each NAR is downloaded once, however many want it. (Another process may download the same NAR at
/// the same time; the blocks are the same.)
#[derive(Debug)]
pub struct Downloads {
    disk: Disk,
    verified: Arc<Verified>,
    fetch: Arc<Fetch>,
    turns: Arc<Turns>,
    /// Under way, or failed a moment ago.
    known: Mutex<HashMap<Expected, Entry>>,
    /// Sources that gave something else than what was expected, the one that was found out last at the end.
    liars: Mutex<VecDeque<Liar>>,
}

#[derive(Debug)]
struct Entry {
    download: Arc<Download>,
    /// When it failed.
    failed: Option<Instant>,
    /// The identities of its sources.
    asked: Vec<[u8; 32]>,
}

/// A source that gave another NAR.
#[derive(Debug)]
struct Liar {
    expected: Expected,
    identity: [u8; 32],
    found_out: Instant,
}

impl Entry {
    /// Whether it failed a moment ago, and what is wanted now knows no other source.
    fn has_failed(&self, wanted: &Wanted) -> bool {
        match self.download.outcome() {
            Some(Err(Error::NotKept { .. })) => self.failed.is_some(),
            Some(Err(Error::Failed { .. })) => {
                self.failed.is_some()
                    && wanted.sources.iter().all(|source| self.asked.contains(&source.identity()))
            }
            _ => false,
        }
    }
}

impl Downloads {
    /// Keeps NARs in `disk`, and in `verified` which of its contents hold them.
    pub fn new(disk: Disk, verified: Verified) -> Arc<Self> {
        let store = Arc::new(Cache::new(Arc::new(disk.clone()), BLOCK_BYTES));
        Arc::new(Self {
            disk,
            verified: Arc::new(verified),
            fetch: Fetch::new(store, NODE_BYTES),
            turns: Arc::default(),
            known: Mutex::default(),
            liars: Mutex::default(),
        })
    }

    /// What an [`Archive`] is read through: memory over the disk cache alone. Nobody else is asked for blocks that only we have.
    pub fn fetch(&self) -> &Arc<Fetch> {
        &self.fetch
    }

    /// The disk cache.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Which contents are known to hold which NAR.
    pub fn verified(&self) -> &Arc<Verified> {
        &self.verified
    }

    /// Downloads a NAR that is not here yet, or joins the download of it. To be called inside a tokio runtime.
    ///
    /// It goes on while it makes progress and somebody wanted it within the last 60 s: by this, by waiting for it or by reading it. One that
    /// failed is begun anew only after 10 s.
    pub fn start(self: &Arc<Self>, wanted: Wanted) -> Arc<Download> {
        let mut known = self.known();
        known.retain(|_, entry| entry.failed.is_none_or(|failed| failed.elapsed() < FAILED));
        let expected = Expected { nar_hash: wanted.nar_hash, nar_size: wanted.nar_size };
        if let Some(entry) = known.get(&expected)
            && (entry.download.join() || entry.has_failed(&wanted))
        {
            return entry.download.clone();
        }
        let download = Arc::new(Download::new(&wanted, self.disk.clone(), self.fetch.clone()));
        let asked = wanted.sources.iter().map(|source| source.identity()).collect();
        known.insert(expected, Entry { download: download.clone(), failed: None, asked });
        drop(known);
        tokio::spawn(self.clone().run(download.clone(), wanted.sources));
        download
    }

    /// Joins the download of a NAR, if one is under way.
    pub fn join(&self, nar_hash: NarHash, nar_size: u64) -> Option<Arc<Download>> {
        let known = self.known();
        let entry = known.get(&Expected { nar_hash, nar_size })?;
        entry.download.join().then(|| entry.download.clone())
    }

    /// Each download that has not ended, by its name.
    pub fn under_way(&self) -> Vec<(String, Progress)> {
        let known = self.known();
        let downloads = known.values().map(|entry| &entry.download);
        let under_way = downloads.filter(|download| download.outcome().is_none());
        let mut under_way: Vec<_> =
            under_way.map(|download| (download.name().to_owned(), download.progress())).collect();
        under_way.sort_by(|(one, _), (other, _)| one.cmp(other));
        under_way
    }

    /// Reads the whole NAR from a source, checks size and hash, and gives its tree. Nothing is kept.
    pub async fn check(
        &self,
        source: Arc<dyn NarSource>,
        nar_hash: NarHash,
        nar_size: u64,
        deadline: Deadline,
    ) -> Result<Listing, Error> {
        let expected = Expected { nar_hash, nar_size };
        let name = source.name().to_owned();
        let checked = deadline.bound(async {
            let turn = self.turns.take(0, u64::MAX).await;
            let _turn = turn.map_err(|waiting| Error::Busy { name: name.clone(), waiting })?;
            let (inlet, outlet) = pump::pipe();
            let (pumped, listing) = tokio::join!(
                pump::pump(&*source, inlet, file_limit(nar_size), Patience::ALONE, |_| ()),
                pipeline::hash(outlet, source.compression(), expected),
            );
            settle(pumped.ended, listing).map_err(|fault| {
                let reason = match fault {
                    Fault::Source(reason) => reason,
                    Fault::Cache(_) => unreachable!("nothing is kept"),
                };
                let failures = [Failure { source: name.clone(), reason }].into();
                Error::Failed { name: name.clone(), failures }
            })
        });
        let progress = Progress { arrived: 0, nar_size, received: 0, source: None };
        checked.await.unwrap_or(Err(Error::Overdue { name: name.clone(), progress }))
    }

    async fn run(self: Arc<Self>, download: Arc<Download>, sources: Vec<Arc<dyn NarSource>>) {
        let outcome = tokio::select! {
            outcome = self.obtain(&download, &sources) => outcome,
            () = download.unwanted() => Err(Error::Unwanted { name: download.name().to_owned() }),
        };
        match &outcome {
            Ok(archive) => tracing::debug!("{} is here: {} bytes", download.name(), archive.nar_size),
            Err(error) => tracing::debug!("{error}"),
        }
        let mut known = self.known();
        if let Some(entry) = known.get_mut(&download.expected())
            && Arc::ptr_eq(&entry.download, &download)
        {
            match outcome {
                Err(Error::Failed { .. } | Error::NotKept { .. }) => entry.failed = Some(Instant::now()),
                _ => drop(known.remove(&download.expected())),
            }
        }
        // Under the lock: whoever comes next finds it under way, or how it failed.
        download.end(outcome);
    }

    async fn obtain(
        &self,
        download: &Arc<Download>,
        sources: &[Arc<dyn NarSource>],
    ) -> Result<Archive, Error> {
        if let Some(archive) = self.here(download.expected()).await {
            return Ok(archive);
        }
        let name = || download.name().to_owned();
        let expected @ Expected { nar_hash, nar_size } = download.expected();
        let disk = self.disk.clone();
        // A cache that is just being moved to another size keeps nothing until it is done.
        let ready = spawn_blocking(move || disk.ready(DISK_PATIENCE).map(|()| disk.stat())).await;
        let not_kept = |reason: String| Error::NotKept { name: name(), reason };
        let stat = ready.map_err(|error| not_kept(error.to_string()))?;
        let stat = stat.map_err(|error| not_kept(error.to_string()))?;
        let (limit, advice) = room(&stat);
        if nar_size > limit {
            return Err(match stat.read_through {
                Some(reason) => not_kept(reason),
                None => Error::TooLarge { name: name(), nar_size, limit, advice },
            });
        }
        let turn = self.turns.take(nar_size, limit).await;
        let _turn = turn.map_err(|waiting| Error::Busy { name: name(), waiting })?;
        let mut failures = Vec::new();
        let mut left: Vec<&Arc<dyn NarSource>> = sources.iter().collect();
        // What is slow or breaks off gets its full time only after all others had their chance.
        let rounds = [Patience::BESIDE_OTHERS, Patience::ALONE];
        for round in rounds.into_iter().skip(usize::from(sources.len() < 2)) {
            for source in std::mem::take(&mut left) {
                let patience = match round == Patience::BESIDE_OTHERS && source.is_neighbour() {
                    true => Patience::OF_NEIGHBOUR,
                    false => round,
                };
                if self.is_liar(expected, source.identity()) {
                    let reason = Reason::Distrusted;
                    failures.push(Failure { source: source.name().to_owned(), reason });
                    continue;
                }
                download.begin(source.name());
                let (mut kept, mut is_excused) = self.take(download, &**source, patience).await;
                if is_excused {
                    tracing::debug!("{} is asked for all of {} again", source.name(), name());
                    (kept, is_excused) = self.take(download, &**source, patience).await;
                }
                match kept {
                    Ok(kept) => {
                        self.remember(nar_hash, kept.capability).await;
                        return Ok(Archive {
                            capability: kept.capability,
                            listing: kept.listing.into(),
                            nar_size,
                        });
                    }
                    Err(Fault::Cache(reason)) => return Err(not_kept(reason)),
                    Err(Fault::Source(reason)) if reason.may_pass() && patience != Patience::ALONE => {
                        tracing::debug!("{}: {reason}; others are asked first", source.name());
                        left.push(source);
                    }
                    Err(Fault::Source(reason)) => {
                        if reason.is_lie() && !is_excused {
                            tracing::warn!("{} is not {}: {reason}", source.name(), download.name());
                            self.distrust(expected, source.identity());
                        }
                        failures.push(Failure { source: source.name().to_owned(), reason });
                    }
                }
            }
        }
        Err(Error::Failed { name: name(), failures: failures.into() })
    }

    /// All that a source gives, and whether it may be right although that is another NAR.
    async fn take(
        &self,
        download: &Arc<Download>,
        source: &dyn NarSource,
        patience: Patience,
    ) -> (Result<Kept, Fault>, bool) {
        let limit = file_limit(download.expected().nar_size);
        let (inlet, outlet) = pump::pipe();
        let (mut pumped, kept) = tokio::join!(
            pump::pump(source, inlet, limit, patience, |bytes| download.received(bytes)),
            pipeline::keep(outlet, source.compression(), download.clone(), self.disk.clone()),
        );
        let kept = settle(std::mem::replace(&mut pumped.ended, Ok(())), kept);
        let is_excused =
            matches!(&kept, Err(Fault::Source(reason)) if reason.is_lie() && pumped.excuses(reason));
        (kept, is_excused)
    }

    /// The NAR if it was downloaded before and all its blocks are still in the cache.
    async fn here(&self, expected: Expected) -> Option<Archive> {
        let verified = self.verified.clone();
        let known = spawn_blocking(move || verified.get(expected.nar_hash)).await.ok()?;
        // What was downloaded here has one form, and one block size.
        let is_plain = |known: &&Known| {
            known.form == Compression::None
                && known.capability.block_size == BlockSize::for_length(expected.nar_size)
        };
        let capability = known.iter().find(is_plain)?.capability;
        let limits = Limits { length: expected.nar_size, tail: 0 };
        let deadline = Deadline::after(DISK_PATIENCE);
        let content = Content::open(self.fetch.clone(), capability, limits, deadline).await.ok()?;
        let content = Arc::new(content);
        if content.length() != expected.nar_size || !self.is_whole(&content, deadline).await {
            return None;
        }
        let listing = Arc::new(read_listing(&content, deadline).await?);
        Some(Archive { capability, listing, nar_size: expected.nar_size })
    }

    async fn is_whole(&self, content: &Arc<Content>, deadline: Deadline) -> bool {
        let mut inventory = content.inventory(0..u64::MAX);
        while let Some(batch) = inventory.next(deadline).await {
            let disk = self.disk.clone();
            let is_whole = batch.lost.is_empty()
                && spawn_blocking(move || {
                    let leaves = batch.leaves.iter().map(|leaf| &leaf.reference);
                    batch.nodes.iter().chain(leaves).all(|reference| disk.contains(reference))
                })
                .await
                .unwrap_or(false);
            if !is_whole {
                return false;
            }
        }
        true
    }

    async fn remember(&self, nar_hash: NarHash, capability: ReadCapability) {
        let verified = self.verified.clone();
        let known = Known { capability, form: Compression::None };
        // A record that cannot be written costs another download some day.
        let _ = spawn_blocking(move || verified.remember(nar_hash, known)).await;
    }

    fn is_liar(&self, expected: Expected, identity: [u8; 32]) -> bool {
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        liars.retain(|liar| liar.found_out.elapsed() < LIED);
        liars.iter().any(|liar| liar.expected == expected && liar.identity == identity)
    }

    fn distrust(&self, expected: Expected, identity: [u8; 32]) {
        let mut liars = self.liars.lock().unwrap_or_else(PoisonError::into_inner);
        liars.push_back(Liar { expected, identity, found_out: Instant::now() });
        if liars.len() > LIARS {
            liars.pop_front();
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Expected, Entry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The most bytes that a file with a NAR of this size may have.
fn file_limit(nar_size: u64) -> u64 {
    nar_size.saturating_mul(2).saturating_add(SLACK)
}

/// What a source that broke off leaves behind explains nothing.
fn settle<T>(pumped: Result<(), Reason>, done: Result<T, Fault>) -> Result<T, Fault> {
    match (pumped, done) {
        (_, Err(fault @ Fault::Cache(_))) => Err(fault),
        (Err(reason), _) => Err(Fault::Source(reason)),
        (Ok(()), done) => done,
    }
}

/// The largest NAR that the cache surely keeps, and what the user can do for a larger one.
///
/// Half of what the cache can have: then the two buckets of a block have room for it among blocks of others (docs/decisions/0010). Pinned blocks
/// do not give way, and where the disk is full only slots that are filled already can be used.
fn room(stat: &DiskStat) -> (u64, &'static str) {
    let free = stat.free.saturating_sub(stat.free_floor);
    let pinned = stat.pinned.saturating_mul(BlockSize::Large.bytes() as u64);
    let limits = [
        (stat.size / 2, "half of its size, so set a larger one (--cache-size)"),
        (
            stat.on_disk.saturating_add(free) / 2,
            "the file system is nearly full (cache.free-floor in the config says how much stays free; --no-cache keeps it elsewhere)",
        ),
        ((stat.size / 5 * 4).saturating_sub(pinned), "too much of it is pinned"),
    ];
    limits.into_iter().min_by_key(|(limit, _)| *limit).expect("there are three")
}

/// The tree of a NAR that is here.
async fn read_listing(content: &Content, deadline: Deadline) -> Option<Listing> {
    let mut indexer = Indexer::new();
    while let Some(wanted) = indexer.wants().filter(|wanted| *wanted < content.length()) {
        let end = wanted.saturating_add(STEP).min(content.length());
        let bytes = content.read_at(wanted..end, deadline).await.ok()?;
        indexer.feed(wanted, &bytes).ok()?;
    }
    indexer.finish().ok().filter(|listing| listing.nar_size() == content.length())
}
