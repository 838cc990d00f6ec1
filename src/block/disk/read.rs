//! Reading: look up, read, hash; what does not stand the test is no hit.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{
    layout::{Place, size_of},
    page::Word,
    queue::Touch,
    shared::{Attached, Locked, Shared},
    slots::{Wait, WouldWait},
};
use crate::{
    block::Block,
    eris::{Reference, reference_of, references_of},
};

/// Blocks that are read and hashed in one go: enough to fill the lanes of the hash four times over, and half a millisecond of work.
pub(super) const BATCH: usize = 32;
/// A use is noted again once as many blocks were stored as are in this part of the cache. So the order of blocks is right within
/// 3 %, and reading the same blocks again and again writes nothing.
const TOUCH_PART: u64 = 32;

/// What a look into the cache found.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Block(Block),
    Miss,
    /// Only the disk can tell.
    WouldWait,
}

impl Shared {
    /// Whether the index has the block, as far as can be told.
    pub(super) fn has(&self, reference: &Reference, wait: Wait) -> Result<bool, WouldWait> {
        let Some(attached) = self.attached() else { return Ok(false) };
        attached.slots.find(reference, wait).map(|found| found.is_some())
    }

    /// The blocks, verified together, in the order asked for. Counts what it is certain of.
    pub(super) fn read(&self, references: &[Reference], wait: Wait) -> Vec<Found> {
        let Some(attached) = self.attached() else {
            self.counts.misses.fetch_add(references.len() as u64, Relaxed);
            return vec![Found::Miss; references.len()];
        };
        let mut found = Vec::with_capacity(references.len());
        for batch in references.chunks(BATCH) {
            found.extend(self.read_batch(&attached, batch, wait));
        }
        let count = |is: fn(&Found) -> bool| found.iter().filter(|found| is(found)).count() as u64;
        self.counts.hits.fetch_add(count(|found| matches!(found, Found::Block(_))), Relaxed);
        self.counts.misses.fetch_add(count(|found| matches!(found, Found::Miss)), Relaxed);
        found
    }

    fn read_batch(&self, attached: &Attached, references: &[Reference], wait: Wait) -> Vec<Found> {
        let slots = &attached.slots;
        let read = |reference: &Reference| -> Result<Option<(Place, Word, Option<Block>)>, WouldWait> {
            let Some((place, word)) = slots.find(reference, wait)? else { return Ok(None) };
            Ok(Some((place, word, slots.slot(place, wait)?)))
        };
        let read: Vec<_> = references.iter().map(read).collect();
        let blocks: Vec<&[u8]> =
            read.iter().filter_map(|read| read.as_ref().ok()?.as_ref()?.2.as_deref()).collect();
        let mut hashes = references_of(&blocks).into_iter();
        let mut found = Vec::with_capacity(read.len());
        for (reference, read) in references.iter().zip(read) {
            found.push(match read {
                Err(WouldWait) => Found::WouldWait,
                Ok(None) => Found::Miss,
                Ok(Some((place, word, block))) => match block {
                    Some(block) if hashes.next() == Some(*reference) => {
                        self.note_use(attached, place, reference, word);
                        Found::Block(block)
                    }
                    _ if wait == Wait::No => Found::WouldWait,
                    _ => self.look_again(reference).map_or(Found::Miss, Found::Block),
                },
            });
        }
        found
    }

    fn note_use(&self, attached: &Attached, place: Place, reference: &Reference, word: Word) {
        let age = self.clock.load(Relaxed).saturating_sub(word.time(u64::MAX));
        let slots = attached.slots.layout().slots(size_of(place.entry));
        if attached.is_writable() && (!word.is_used() || age > slots / TOUCH_PART) {
            self.queue.touch(Touch { place, reference: *reference });
        }
    }

    /// A block that did not stand the test, once more while nobody else changes the cache: it may have been replaced while it was
    /// read. If it is bad indeed, its entry is dropped. Without the lock at once it stays for the next reader.
    fn look_again(&self, reference: &Reference) -> Option<Block> {
        self.locked(Duration::ZERO, |locked| Ok(self.checked(locked, reference))).ok().flatten()
    }

    /// The block if it is there and good. If it is bad its entry is dropped.
    pub(super) fn checked(&self, locked: &Locked<'_>, reference: &Reference) -> Option<Block> {
        let (place, _) = locked.slots.find(reference, Wait::Yes).ok().flatten()?;
        let block = locked.slots.slot(place, Wait::Yes).ok().flatten();
        let good = block.filter(|block| reference_of(block) == *reference);
        if good.is_none() {
            self.counts.bad.fetch_add(1, Relaxed);
            tracing::debug!("{}: block {reference} was bad and is dropped", self.name);
            // If this cannot be written either, reading it stays a miss.
            let _ = locked.slots.clear(place, Word::EMPTY);
        }
        good
    }
}
