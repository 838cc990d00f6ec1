//! Taking all blocks out of a bundle, once, from front to back, as fast as the stick can be read.

use std::{fs::File, sync::Arc};

use futures::{TryStreamExt as _, stream};

use super::{
    Bundle, Damage, Shared,
    scan::{Entry, Outline, Scan, Stop},
};
use crate::{
    block::{
        Block, BlockStore, Error,
        single_file::{self, Access},
    },
    eris::{ReadCapability, Reference, references_of},
};

/// Blocks that are read, hashed and put together: a megabyte.
const BATCH: usize = 32;
/// Batches under way, so that the stick is read while others are put.
const BATCHES: usize = 4;
/// Spoiled blocks whose places are kept; the others are counted.
const MAX_SPOILED: usize = 1000;

/// What an import did.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    /// Blocks that were put.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries whose bytes are not the block that they are said to be: the first thousand.
    pub spoiled: Vec<Spoiled>,
    /// How many such entries there are.
    pub spoiled_count: u64,
    /// The read capabilities in it.
    pub capabilities: Vec<ReadCapability>,
    /// Where it stopped being a bundle, if it did.
    pub damage: Option<Damage>,
}

/// An entry of a bundle that is not the block that it is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoiled {
    /// Where the entry begins in the file.
    pub at: u64,
    /// The block that should be there.
    pub reference: Reference,
}

impl Bundle {
    /// Puts all blocks into `store`; each is checked first. `progress` is told how many bytes of the file have been read, and how
    /// many there are. Memory does not grow with the file.
    ///
    /// # Errors
    /// If the file cannot be read, is no bundle, or the store takes a block not. That blocks in it are damaged is no error.
    pub async fn import(
        &self,
        store: &dyn BlockStore,
        progress: impl Fn(u64, u64) + Sync,
    ) -> Result<Imported, Error> {
        let through = self.blocking(Through::begin).await?;
        let length = through.length;
        let batches = stream::try_unfold(Some(through), |through| async {
            let Some(through) = through else { return Ok::<_, Error>(None) };
            self.blocking(move |shared| through.next(shared)).await.map(Some)
        });
        let kept = std::sync::Mutex::new(Imported::default());
        batches
            .try_for_each_concurrent(BATCHES, |batch| {
                let (kept, progress) = (&kept, &progress);
                async move {
                    let blocks = batch.good.len() as u64;
                    let bytes = batch.good.iter().map(|(_, block)| block.len() as u64).sum::<u64>();
                    store.put_many(batch.good).await?;
                    progress(batch.end.min(length), length);
                    let mut imported = kept.lock().expect("nobody panics with it");
                    imported.blocks += blocks;
                    imported.bytes += bytes;
                    imported.spoiled_count += batch.spoiled.len() as u64;
                    let room = MAX_SPOILED - imported.spoiled.len();
                    imported.spoiled.extend(batch.spoiled.into_iter().take(room));
                    if let Some((capabilities, damage)) = batch.last {
                        (imported.capabilities, imported.damage) = (capabilities, damage);
                    }
                    Ok(())
                }
            })
            .await?;
        store.sync().await?;
        let mut imported = kept.into_inner().expect("nobody panics with it");
        imported.spoiled.sort_unstable_by_key(|spoiled| spoiled.at);
        Ok(imported)
    }
}

/// A way through a bundle.
struct Through {
    file: Arc<File>,
    outline: Outline,
    length: u64,
}

/// A piece of it.
struct Batch {
    good: Vec<(Reference, Block)>,
    spoiled: Vec<Spoiled>,
    /// Where the next one begins.
    end: u64,
    /// What stands behind the blocks, and whether it ended well; of the last batch.
    last: Option<(Vec<ReadCapability>, Option<Damage>)>,
}

impl Through {
    fn begin(shared: &Shared) -> Result<Self, Error> {
        let file =
            single_file::open(&shared.path, Access::Read).map_err(|error| shared.failed(None, error))?;
        let begun =
            Scan::new(&file, 0).map_err(Stop::Io).and_then(|mut scan| Ok((scan.length(), scan.begin()?)));
        let (length, outline) = begun.map_err(|stop| shared.stopped(None, stop))?;
        Ok(Through { file: Arc::new(file), outline, length })
    }

    fn next(mut self, shared: &Shared) -> Result<(Batch, Option<Self>), Error> {
        let mut found = Vec::with_capacity(BATCH);
        let read = self.read(&mut found);
        let (entries, blocks): (Vec<Entry>, Vec<Block>) = found.into_iter().unzip();
        let (mut good, mut spoiled) = (Vec::with_capacity(entries.len()), Vec::new());
        let bytes: Vec<&[u8]> = blocks.iter().map(|block| &block[..]).collect();
        for ((entry, block), hash) in entries.iter().zip(&blocks).zip(references_of(&bytes)) {
            match hash == entry.reference {
                true => good.push((entry.reference, block.clone())),
                false => spoiled.push(Spoiled { at: entry.offset, reference: entry.reference }),
            }
        }
        let damage = match read {
            Ok(true) => None,
            Ok(false) => {
                let batch = Batch { good, spoiled, end: self.outline.entries_end, last: None };
                return Ok((batch, Some(self)));
            }
            Err(Stop::Damage(damage)) => Some(damage),
            Err(stop) => return Err(shared.stopped(None, stop)),
        };
        let last = Some((self.outline.capabilities, damage));
        Ok((Batch { good, spoiled, end: self.length, last }, None))
    }

    /// Reads on, and tells whether that was all.
    fn read(&mut self, found: &mut Vec<(Entry, Block)>) -> Result<bool, Stop> {
        let mut scan = Scan::new(&self.file, self.outline.entries_end)?;
        while found.len() < BATCH {
            if scan.at_end_of_map(&self.outline)? {
                scan.behind(&mut self.outline)?;
                return Ok(true);
            }
            let (entry, block) = scan.step_reading(&mut self.outline)?;
            found.push((entry, block.into()));
        }
        Ok(false)
    }
}
