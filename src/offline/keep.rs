//! A block store whose every answer is on the disk before it is given.
//!
//! The disk cache of a mount writes behind, and drops what it has no time for; whoever prefetches wants to know. Without a
//! source it gives what the disk holds and nothing else.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::block::{Block, BlockStore, Disk, Error, Refusal, Stored};
use crate::eris::{BlockSize, Reference};
use crate::pace::Pace;

/// Where blocks come from, and how fast.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) store: Arc<dyn BlockStore>,
    pub(super) pace: Option<Pace>,
    /// How long one block may take.
    pub(super) wait: Duration,
    /// Blocks that came, and their bytes.
    pub(super) blocks: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Blocks that came and that the disk did not keep.
    pub(super) dropped: AtomicU64,
}

impl Source {
    pub(super) fn new(store: Arc<dyn BlockStore>, rate: Option<u64>, wait: Duration) -> Self {
        let (blocks, bytes, dropped) = Default::default();
        Source { store, pace: rate.map(Pace::new), wait, blocks, bytes, dropped }
    }
}

/// Blocks that are read and hashed at a time to see whether they are there: 8 MiB.
const BATCH: usize = 256;

/// Which of these blocks are on the disk and good. The index alone does not tell: after a power cut it may name blocks that were
/// never written.
pub(super) async fn here(disk: &Disk, references: &[Reference]) -> Vec<bool> {
    let mut here = Vec::with_capacity(references.len());
    for batch in references.chunks(BATCH) {
        let (disk, wanted) = (disk.clone(), batch.to_vec());
        let read = move || disk.get_many(&wanted).iter().map(Option::is_some).collect::<Vec<_>>();
        // A read that panicked is a miss like any other.
        here.extend(spawn_blocking(read).await.unwrap_or_else(|_| vec![false; batch.len()]));
    }
    here
}

/// The disk in front of a source, written through.
#[derive(Debug)]
pub(super) struct Keep {
    disk: Disk,
    source: Option<Arc<Source>>,
    block_size: BlockSize,
    /// What was asked for.
    asked: Mutex<HashSet<Reference>>,
}

impl Keep {
    /// A store of blocks of one size.
    pub(super) fn new(disk: Disk, source: Option<Arc<Source>>, block_size: BlockSize) -> Self {
        Keep { disk, source, block_size, asked: Mutex::default() }
    }

    /// The blocks that were asked for by [`BlockStore::get`] so far.
    pub(super) fn asked(&self) -> Vec<Reference> {
        self.asked.lock().expect("no panic while held").iter().copied().collect()
    }

    /// Brings a block that is known not to be on the disk.
    pub(super) async fn bring(&self, reference: &Reference) -> Result<Block, Error> {
        let name = || Arc::from(self.name());
        let Some(source) = &self.source else {
            return Err(Error::NotFound { reference: *reference, store: name() });
        };
        if let Some(pace) = &source.pace {
            pace.wait(self.block_size.bytes() as u64).await;
        }
        let late = |_| Error::TimedOut {
            reference: *reference,
            store: source.store.name().into(),
            after: source.wait,
        };
        let block = timeout(source.wait, source.store.get(reference)).await.map_err(late)??;
        let (disk, reference, kept) = (self.disk.clone(), *reference, block.clone());
        let stored = spawn_blocking(move || disk.put(&reference, &kept)).await.unwrap_or(Stored::Dropped);
        if stored == Stored::Dropped {
            source.dropped.fetch_add(1, Relaxed);
        }
        source.blocks.fetch_add(1, Relaxed);
        source.bytes.fetch_add(block.len() as u64, Relaxed);
        Ok(block)
    }
}

#[async_trait]
impl BlockStore for Keep {
    fn name(&self) -> &str {
        self.disk.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        self.asked.lock().expect("no panic while held").insert(*reference);
        let (disk, wanted) = (self.disk.clone(), *reference);
        // A read that panicked is a miss like any other.
        match spawn_blocking(move || disk.get(&wanted)).await.unwrap_or(None) {
            Some(block) => Ok(block),
            None => self.bring(reference).await,
        }
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        Ok(self.disk.contains(reference))
    }

    async fn put(&self, _: &Reference, _: Block) -> Result<(), Error> {
        Err(Error::Refused { store: self.name().into(), reason: Refusal::ReadOnly })
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        self.source.as_ref().map_or(1, |source| source.store.concurrency()).max(1)
    }
}
