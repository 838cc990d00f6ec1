//! The disk cache for async callers, and as a block store of its own: `cache:DIR`.

use std::{io, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream, stream::Stream};

use super::{
    Disk, DiskError, Stored,
    read::{BATCH, Found},
    slots::Wait,
    write::Told,
};
use crate::{
    block::{Block, BlockStore, Error, Refusal, verify},
    eris::Reference,
};

/// Batches that wait for the disk at a time: enough to keep its queue filled, few enough to leave threads to others.
pub(super) const BATCHES: usize = 8;

/// What a look at a batch gives without waiting for the disk.
#[derive(Default)]
pub(super) struct Near {
    pub hits: Vec<(Reference, Block)>,
    /// Went between the look at the index and now; counted as misses.
    pub absent: Vec<Reference>,
    /// Only the disk can tell.
    pub waiting: Vec<Reference>,
}

type Answer = (Reference, Result<Block, Error>);

impl Disk {
    /// The block as far as it is in the kernel's memory.
    pub(super) fn look_up(&self, reference: Reference) -> Found {
        self.read(&[reference], Wait::No).pop().unwrap_or(Found::Miss)
    }

    /// References that the index has or may have, and those that it has not.
    pub(super) fn sort_out(&self, references: Vec<Reference>) -> (Vec<Reference>, Vec<Reference>) {
        let shared = &self.handle.shared;
        let (near, absent): (Vec<_>, Vec<_>) =
            references.into_iter().partition(|reference| shared.has(reference, Wait::No) != Ok(false));
        shared.counts.misses.fetch_add(absent.len() as u64, std::sync::atomic::Ordering::Relaxed);
        (near, absent)
    }

    /// Batch by batch, what is in the kernel's memory. Between two batches others have their turn.
    pub(super) fn read_near(&self, references: Vec<Reference>) -> impl Stream<Item = Near> + Send + use<'_> {
        let batches: Vec<Vec<Reference>> = references.chunks(BATCH).map(<[_]>::to_vec).collect();
        stream::iter(batches.into_iter().enumerate()).then(async move |(number, batch)| {
            if number > 0 {
                tokio::task::yield_now().await;
            }
            let mut near = Near::default();
            for (reference, found) in batch.iter().zip(self.read(&batch, Wait::No)) {
                match found {
                    Found::Block(block) => near.hits.push((*reference, block)),
                    Found::Miss => near.absent.push(*reference),
                    Found::WouldWait => near.waiting.push(*reference),
                }
            }
            near
        })
    }

    /// The block, by a thread that may wait for the disk.
    pub(super) async fn wait(&self, reference: Reference) -> Option<Block> {
        self.blocking(move |disk| disk.get(&reference)).await.flatten()
    }

    /// The blocks, by threads that may wait for the disk.
    pub(super) fn wait_many(
        &self,
        references: Vec<Reference>,
    ) -> impl Stream<Item = (Reference, Option<Block>)> + Send + use<'_> {
        let batches: Vec<Vec<Reference>> = references.chunks(BATCH).map(<[_]>::to_vec).collect();
        stream::iter(batches)
            .map(async move |batch| {
                let wanted = batch.clone();
                let blocks = self.blocking(move |disk| disk.get_many(&wanted)).await;
                let blocks = blocks.unwrap_or_else(|| vec![None; batch.len()]);
                stream::iter(batch.into_iter().zip(blocks))
            })
            .buffer_unordered(BATCHES)
            .flatten()
    }

    /// Whether the index has the block.
    pub(super) async fn holds(&self, reference: Reference) -> bool {
        match self.handle.shared.has(&reference, Wait::No) {
            Ok(is_there) => is_there,
            Err(_) => self.blocking(move |disk| disk.contains(&reference)).await.unwrap_or(false),
        }
    }

    /// Nothing if the runtime ends, which begins no such work any more: then nobody waits for the answer either.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Disk) -> T + Send + 'static) -> Option<T> {
        let disk = self.clone();
        tokio::task::spawn_blocking(move || work(&disk)).await.ok()
    }

    fn ended(&self) -> Error {
        self.unavailable(None, "the process ends".to_owned())
    }

    fn not_found(&self, reference: Reference) -> Error {
        Error::NotFound { reference, store: self.handle.shared.name.clone() }
    }

    fn unavailable(&self, reference: Option<Reference>, reason: String) -> Error {
        let source = Arc::new(io::Error::other(reason));
        Error::Unavailable { reference, store: self.handle.shared.name.clone(), source, retry_after: None }
    }

    /// Keeps what is what it is said to be.
    fn put_checked(&self, blocks: &[(Reference, Block)]) -> Result<(), Error> {
        for ((reference, _), found) in blocks.iter().zip(verify::mismatches(blocks)) {
            if let Some(found) = found {
                let reason = Refusal::NotTheBlock { reference: *reference, found };
                return Err(Error::Refused { store: self.handle.shared.name.clone(), reason });
            }
        }
        let dropped = self.put_many(blocks).iter().position(|stored| *stored == Stored::Dropped);
        dropped.map_or(Ok(()), |at| {
            let reason = self.handle.shared.trouble();
            let reason = reason.unwrap_or_else(|| "it has no room for the block".to_owned());
            Err(self.unavailable(Some(blocks[at].0), reason))
        })
    }
}

#[async_trait]
impl BlockStore for Disk {
    fn name(&self) -> &str {
        &self.handle.shared.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let found = match self.look_up(*reference) {
            Found::Block(block) => Some(block),
            Found::Miss => None,
            Found::WouldWait => self.wait(*reference).await,
        };
        found.ok_or_else(|| self.not_found(*reference))
    }

    fn get_many<'a>(&'a self, references: Vec<Reference>) -> BoxStream<'a, Answer> {
        let (near, absent) = self.sort_out(references);
        let not_found = move |reference| (reference, Err(self.not_found(reference)));
        let near = self.read_near(near).map(move |near| {
            let hits = near.hits.into_iter().map(|(reference, block)| (reference, Ok(block)));
            let waited = self
                .wait_many(near.waiting)
                .map(move |(reference, block)| (reference, block.ok_or_else(|| self.not_found(reference))));
            stream::iter(hits.chain(near.absent.into_iter().map(not_found))).chain(waited)
        });
        stream::iter(absent.into_iter().map(not_found)).chain(near.flatten_unordered(BATCHES)).boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        Ok(self.holds(*reference).await)
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        BlockStore::put_many(self, vec![(*reference, block)]).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        for batch in blocks.chunks(BATCH) {
            let batch = batch.to_vec();
            self.blocking(move |disk| disk.put_checked(&batch)).await.ok_or_else(|| self.ended())??;
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), Error> {
        let synced: Result<(), DiskError> = self.blocking(Disk::sync).await.ok_or_else(|| self.ended())?;
        synced.map_err(|error| self.unavailable(None, Told(&error).to_string()))
    }

    fn concurrency(&self) -> usize {
        BATCHES * BATCH
    }
}
