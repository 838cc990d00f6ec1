//! Taking all blocks out of a bundle, once, from front to back, as fast as the stick can be read.

use std::{collections::HashMap, fs::File, sync::Arc};

use futures::{TryStreamExt as _, stream};

use super::{
    Bundle, Damage,
    scan::{Entry, Outline, Scan, Stop},
    shared::Shared,
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
/// Spoiled blocks whose places are told; the others are counted.
const MAX_SPOILED: usize = 1000;
/// Spoiled blocks that are remembered, in case that they come once more: a few megabytes.
const MAX_REMEMBERED: usize = 1 << 16;

/// What an import did.
#[derive(Debug, Clone, Default)]
pub struct Imported {
    /// Blocks that were put.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries whose bytes are not the block that they are said to be, and that no later one makes up for: the first thousand.
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
    /// Whether the disk did not give it at all.
    pub is_unreadable: bool,
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
                    if let Some(last) = batch.last {
                        (imported.capabilities, imported.damage) = (last.capabilities, last.damage);
                        (imported.spoiled, imported.spoiled_count) = (last.spoiled, last.spoiled_count);
                    }
                    Ok(())
                }
            })
            .await?;
        store.sync().await?;
        Ok(kept.into_inner().expect("nobody panics with it"))
    }
}

/// A way through a bundle.
struct Through {
    file: Arc<File>,
    outline: Outline,
    length: u64,
    spoiled: HashMap<Reference, Spoiled>,
    /// How many more there are.
    spoiled_more: u64,
}

/// A piece of it.
struct Batch {
    good: Vec<(Reference, Block)>,
    /// Where the next one begins.
    end: u64,
    last: Option<Last>,
}

/// What is known behind the last block.
struct Last {
    capabilities: Vec<ReadCapability>,
    spoiled: Vec<Spoiled>,
    spoiled_count: u64,
    /// Why it did not end well.
    damage: Option<Damage>,
}

impl Through {
    fn begin(shared: &Shared) -> Result<Self, Error> {
        let file =
            single_file::open(&shared.path, Access::Read).map_err(|error| shared.failed(None, error))?;
        let begun =
            Scan::new(&file, 0).map_err(Stop::Io).and_then(|mut scan| Ok((scan.length(), scan.begin()?)));
        let (length, outline) = begun.map_err(|stop| shared.stopped(None, stop))?;
        let (spoiled, spoiled_more) = (HashMap::new(), 0);
        Ok(Through { file: Arc::new(file), outline, length, spoiled, spoiled_more })
    }

    fn next(mut self, shared: &Shared) -> Result<(Batch, Option<Self>), Error> {
        let mut found = Vec::with_capacity(BATCH);
        let read = self.read(&mut found);
        let good = self.check(found);
        let damage = match read {
            Ok(true) => None,
            Ok(false) => return Ok((Batch { good, end: self.outline.entries_end, last: None }, Some(self))),
            Err(Stop::Damage(damage)) => Some(damage),
            Err(stop) => return Err(shared.stopped(None, stop)),
        };
        let spoiled_count = self.spoiled.len() as u64 + self.spoiled_more;
        let mut spoiled: Vec<Spoiled> = self.spoiled.into_values().collect();
        spoiled.sort_unstable_by_key(|spoiled| spoiled.at);
        spoiled.truncate(MAX_SPOILED);
        let last = Last { capabilities: self.outline.capabilities, spoiled, spoiled_count, damage };
        Ok((Batch { good, end: self.length, last: Some(last) }, None))
    }

    /// The blocks that are what they are said to be. The others are remembered until they come once more.
    fn check(&mut self, found: Vec<(Entry, Option<Block>)>) -> Vec<(Reference, Block)> {
        let bytes: Vec<&[u8]> = found.iter().filter_map(|(_, block)| block.as_deref()).collect();
        let mut hashes = references_of(&bytes).into_iter();
        let mut good = Vec::with_capacity(found.len());
        for (Entry { reference, offset: at }, block) in &found {
            let hash = block.as_ref().and_then(|_| hashes.next());
            match block {
                Some(block) if hash == Some(*reference) => {
                    self.spoiled.remove(reference);
                    good.push((*reference, block.clone()));
                }
                _ if self.spoiled.len() >= MAX_REMEMBERED => self.spoiled_more += 1,
                _ => {
                    let is_unreadable = block.is_none();
                    self.spoiled
                        .insert(*reference, Spoiled { at: *at, reference: *reference, is_unreadable });
                }
            }
        }
        good
    }

    /// Reads on, and tells whether that was all. What the disk does not give is passed over.
    fn read(&mut self, found: &mut Vec<(Entry, Option<Block>)>) -> Result<bool, Stop> {
        let file = self.file.clone();
        let mut scan = Scan::new(&file, self.outline.entries_end)?;
        while found.len() < BATCH {
            match self.read_one(&mut scan) {
                Ok(None) => return Ok(true),
                Ok(Some(read)) => found.push(read),
                Err(Stop::Io(error)) => {
                    scan = Scan::new(&file, self.outline.entries_end)?;
                    if scan.at_end_of_map(&self.outline)? {
                        return Err(error.into());
                    }
                    found.push((scan.step(&mut self.outline)?, None));
                }
                Err(stop) => return Err(scan.or_blank(stop)),
            }
        }
        Ok(false)
    }

    fn read_one(&mut self, scan: &mut Scan<'_>) -> Result<Option<(Entry, Option<Block>)>, Stop> {
        if scan.at_end_of_map(&self.outline)? {
            scan.behind(&mut self.outline)?;
            return Ok(None);
        }
        let (entry, block) = scan.step_reading(&mut self.outline)?;
        Ok(Some((entry, Some(block.into()))))
    }
}
