//! Blocks in one file: the CBOR serialization of ERIS, for a stick or a mail, and for `erisfs export` and `import`.
//!
//! The file is gone through once, hopping from head to head, and what stays in memory is 16 bytes for each block; the blocks
//! are read from where they stand, so a mount can read straight from the stick. What others wrote is read in all forms that CBOR
//! allows; blocks are added to files whose map and array do not say their length, as all that we write.

mod adding;
mod cbor;
mod import;
mod index;
mod scan;
mod shared;
mod table;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio::{sync::OwnedMutexGuard, time::sleep};

pub use self::import::{Imported, Spoiled};
pub use self::scan::Damage;
use self::{
    index::Index,
    shared::{Explored, Shared},
    table::{Reading, Sought},
};
use super::{Block, BlockStore, Error};
use crate::eris::{ReadCapability, Reference};

/// Blocks that one blocking task reads, as in a directory.
const CHUNK: usize = 32;
/// Tasks at a time: a stick answers one after another.
const CHUNKS: usize = 4;
/// Between two stretches of reading on: a writer that waits for the lock of the file asks every 2 ms.
const GAP: Duration = Duration::from_millis(5);

/// One file of blocks and read capabilities: `bundle:FILE` (`cbor.xml` of the ERIS documents).
///
/// The first put makes it. A file that is damaged in the middle gives the blocks that stand before the damage, and is not added to;
/// one whose end was cut off or never written, as a crash leaves it, is mended by the next put.
#[derive(Debug, Clone)]
pub struct Bundle {
    shared: Arc<Shared>,
}

impl Bundle {
    /// The file at `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Bundle { shared: Arc::new(Shared::new(path.into())) }
    }

    /// The read capabilities that are in it, and what is wrong with it. Reads all heads of the file.
    pub async fn contents(&self) -> Result<(Vec<ReadCapability>, Option<Damage>), Error> {
        loop {
            let (explored, turn) = self.explore(None, 0).await;
            match explored? {
                Explored::More | Explored::Found => self.pause(turn).await,
                Explored::All => {
                    let index = turn.as_ref().expect("it was read");
                    return Ok((index.outline.capabilities.clone(), index.damage.clone()));
                }
            }
        }
    }

    /// Says what is in it, besides blocks: keeps those capabilities that it does not have yet. The first put or this makes the file.
    pub async fn add_capabilities(&self, capabilities: Vec<ReadCapability>) -> Result<(), Error> {
        // They must not be on the disk before the blocks that they name.
        self.blocking(|shared| shared.settle(0)).await?;
        self.write(Vec::new(), capabilities).await
    }

    /// One that whoever asks may give up any time: a stretch of reading that is under way is then ended by itself.
    async fn find<T: Send + 'static>(
        &self,
        reference: Reference,
        read: Reading<T>,
    ) -> Result<Option<T>, Error> {
        let mut was_stale = false;
        loop {
            let places = match self.blocking(move |shared| shared.seek(&reference, read)).await? {
                Sought::Here(found) => return Ok(Some(found)),
                Sought::Unknown { places } => places,
                Sought::Stale if was_stale => return Err(self.shared.rewritten(&reference)),
                Sought::Stale => {
                    was_stale = true;
                    0
                }
            };
            let (explored, turn) = self.explore(Some(reference), places).await;
            match explored? {
                Explored::Found => {}
                Explored::More => self.pause(turn).await,
                Explored::All => return Ok(None),
            }
        }
    }

    /// Reads on for a while, as soon as nobody else does; until there are more than so many places for the block.
    async fn explore(&self, reference: Option<Reference>, places: usize) -> (Result<Explored, Error>, Turn) {
        let mut turn = self.turn().await;
        self.blocking(move |shared| {
            let explored = shared.explore(&mut turn, reference.as_ref(), places);
            (explored, turn)
        })
        .await
    }

    async fn write(
        &self,
        blocks: Vec<(Reference, Block)>,
        capabilities: Vec<ReadCapability>,
    ) -> Result<(), Error> {
        let given = Arc::new((blocks, capabilities));
        loop {
            let (mut turn, given) = (self.turn().await, given.clone());
            let (written, turn) = self
                .blocking(move |shared| {
                    let written = shared.write(&mut turn, &given.0, &given.1);
                    (written, turn)
                })
                .await;
            match written? {
                true => break,
                false => self.pause(turn).await,
            }
        }
        self.blocking(|shared| shared.settle(shared::UNSYNCED)).await
    }

    /// Waits until nobody else reads on or writes. Who gets it may give it to a blocking task, and it lasts as long as that.
    async fn turn(&self) -> Turn {
        self.shared.turn.clone().lock_owned().await
    }

    async fn pause(&self, turn: Turn) {
        sleep(GAP).await;
        drop(turn);
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> T {
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .expect("file access neither panics nor is aborted")
    }
}

/// What only one at a time may have: how far the file was read.
type Turn = OwnedMutexGuard<Option<Index>>;

#[async_trait]
impl BlockStore for Bundle {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let found = self.find(*reference, |scan| scan.entry()).await?;
        let absent = || Error::NotFound { reference: *reference, store: self.shared.name.clone() };
        found.map(Block::from).ok_or_else(absent)
    }

    fn get_many<'a>(
        &'a self,
        references: Vec<Reference>,
    ) -> BoxStream<'a, (Reference, Result<Block, Error>)> {
        let chunks: Vec<Vec<Reference>> = references.chunks(CHUNK).map(<[_]>::to_vec).collect();
        stream::iter(chunks)
            .map(move |chunk| {
                self.blocking(move |shared| {
                    let seek = |reference| (reference, shared.seek(&reference, |scan| scan.entry()));
                    chunk.into_iter().map(seek).collect::<Vec<_>>()
                })
            })
            .buffer_unordered(CHUNKS)
            .flat_map(stream::iter)
            .map(async |(reference, sought)| match sought {
                Ok(Sought::Here(block)) => (reference, Ok(block.into())),
                Ok(_) => (reference, self.get(&reference).await),
                Err(error) => (reference, Err(error)),
            })
            .buffer_unordered(CHUNKS)
            .boxed()
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        match self.find(*reference, |scan| Ok((scan.reference()?, ()))).await {
            // Before the first put there is no file.
            Err(Error::Unavailable { .. }) if !self.shared.path.exists() => Ok(false),
            found => Ok(found?.is_some()),
        }
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.write(vec![(*reference, block)], Vec::new()).await
    }

    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        for chunk in blocks.chunks(CHUNK) {
            self.write(chunk.to_vec(), Vec::new()).await?;
        }
        Ok(())
    }

    async fn sync(&self) -> Result<(), Error> {
        self.blocking(Shared::sync).await
    }

    fn concurrency(&self) -> usize {
        CHUNKS
    }
}
