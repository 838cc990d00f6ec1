//! Writing: find a place, write the block, then its entry; and the thread that does it for readers.

use std::{io, sync::Arc, sync::atomic::Ordering::Relaxed};

use super::{
    DiskError, Stored,
    layout::PAGE,
    page::{Room, Rules, Word, room},
    queue::{Touch, Work},
    shared::{Locked, PATIENCE, Shared},
    slots::{Slots, Wait},
};
use crate::{
    block::Block,
    eris::{BlockSize, Reference},
};

/// How a block is stored.
pub(super) struct Storing<'a> {
    pub clock: u64,
    pub word: Word,
    pub may_fill: bool,
    /// Only blocks that were used before this time give way to it.
    pub before: u64,
    pub is_pinned: &'a dyn Fn(&Reference) -> bool,
}

/// What became of a block.
pub(super) enum Placed {
    AlreadyThere,
    Free,
    Instead,
    NoRoom,
}

/// Stores a block. The lock must be held, or the file not be in use yet.
pub(super) fn store(
    slots: &Slots,
    reference: &Reference,
    block: &[u8],
    how: &Storing<'_>,
) -> io::Result<Placed> {
    let Some(size) = BlockSize::from_bytes(block.len()) else { return Ok(Placed::NoRoom) };
    if let Ok(Some((place, word))) = slots.find(reference, Wait::Yes) {
        // It may be spoiled: who asks for it to be stored did not find it.
        let is_there = slots.slot(place, Wait::Yes).is_ok_and(|kept| kept.as_deref() == Some(block));
        if is_there {
            if how.word.is_used() {
                slots.touch(place, how.word)?;
            }
            return Ok(Placed::AlreadyThere);
        }
        if super::layout::size_of(place.entry) == size {
            slots.store(place, reference, block, word)?;
            return Ok(Placed::Instead);
        }
        slots.clear(place, Word::EMPTY)?;
    }
    let [first, second] = slots.layout().candidates(reference);
    let page = |bucket| slots.page(bucket, Wait::Yes).ok().flatten();
    let (Some(one), Some(other)) = (page(first), page(second)) else {
        return Err(io::Error::other("the index cannot be read"));
    };
    let rules =
        Rules { clock: how.clock, may_fill: how.may_fill, before: how.before, is_pinned: how.is_pinned };
    let Some(room) = room([(first, &one), (second, &other)], size, &rules) else { return Ok(Placed::NoRoom) };
    match room {
        Room::Free(place) => slots.store(place, reference, block, how.word).map(|()| Placed::Free),
        Room::Instead(place) => slots.store(place, reference, block, how.word).map(|()| Placed::Instead),
    }
}

impl Shared {
    /// Keeps blocks that are verified, if it can.
    pub(super) fn write(&self, blocks: &[(Reference, Block)], word: fn(u64) -> Word) -> Vec<Stored> {
        self.write_or_busy(blocks, word).0
    }

    /// What became of the blocks, and whether others had the lock all the time.
    fn write_or_busy(&self, blocks: &[(Reference, Block)], word: fn(u64) -> Word) -> (Vec<Stored>, bool) {
        let mut stored = Vec::with_capacity(blocks.len());
        let mut is_busy = false;
        if !self.is_paused() {
            let written =
                self.locked(PATIENCE, |locked| self.write_locked(locked, blocks, word, &mut stored));
            match written {
                Ok(()) if stored.contains(&Stored::Written) => self.recover(),
                Ok(()) => {}
                // That is not the fault of the cache.
                Err(DiskError::Busy { .. }) => is_busy = true,
                Err(error) => self.fail(Told(&error).to_string()),
            }
        }
        stored.resize(blocks.len(), Stored::Dropped);
        let count = |what| stored.iter().filter(|stored| **stored == what).count() as u64;
        self.counts.writes.fetch_add(count(Stored::Written), Relaxed);
        self.counts.dropped.fetch_add(count(Stored::Dropped), Relaxed);
        (stored, is_busy)
    }

    fn write_locked(
        &self,
        locked: &Locked<'_>,
        blocks: &[(Reference, Block)],
        word: fn(u64) -> Word,
        stored: &mut Vec<Stored>,
    ) -> Result<(), DiskError> {
        let mut clock = locked.clock;
        let mut failure = None;
        for (reference, block) in blocks {
            let how = Storing {
                clock,
                word: word(clock),
                may_fill: self.space(locked.slots) >= footprint(block),
                before: u64::MAX,
                is_pinned: &|reference| locked.is_pinned(reference),
            };
            match store(locked.slots, reference, block, &how) {
                Ok(Placed::AlreadyThere) => stored.push(Stored::Present),
                Ok(Placed::NoRoom) => stored.push(Stored::Dropped),
                Ok(placed) => {
                    clock += 1;
                    stored.push(Stored::Written);
                    match placed {
                        Placed::Free => self.take_space(footprint(block)),
                        _ => drop(self.counts.evicted.fetch_add(1, Relaxed)),
                    }
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let written = if clock > locked.clock { locked.slots.set_clock(clock) } else { Ok(()) };
        self.clock.store(clock, Relaxed);
        match failure.map_or(written, Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed("write to", &self.path, error)),
        }
    }

    fn note(&self, touches: &[Touch]) {
        let Some(attached) = self.attached() else { return };
        let word = Word::used(self.clock.load(Relaxed));
        for touch in touches {
            let page = attached.slots.page(touch.place.bucket, Wait::Yes).ok().flatten();
            let is_there =
                page.is_some_and(|page| page.reference(touch.place.entry) == Some(touch.reference));
            // A use that cannot be noted is forgotten.
            if is_there && attached.slots.touch(touch.place, word).is_err() {
                return;
            }
        }
    }

    /// Whether the directory still holds the cache that is open, and the file system enough free space.
    fn look(&self) {
        let attached = self.attached().filter(|attached| self.is_current(attached));
        let Some(attached) = attached else {
            if !self.is_paused() {
                self.reopen();
            }
            return;
        };
        if let Ok((clock, _)) = attached.slots.numbers() {
            self.clock.store(clock, Relaxed);
        }
        if self.is_due() {
            return self.settle(PATIENCE);
        }
        let can_give = attached.is_writable() && !self.keeps_space.load(Relaxed);
        if can_give && self.space(&attached.slots) < 0 {
            match self.collect(None) {
                Ok(collected) if collected.evicted > 0 => {
                    tracing::info!("{}: gave {} bytes back to the file system", self.name, collected.bytes);
                }
                Ok(_) | Err(DiskError::Busy { .. }) => {}
                Err(error) => tracing::debug!("{}: {}", self.name, Told(&error)),
            }
        }
    }

    /// Opens the cache, or does without it for a while.
    pub(super) fn reopen(&self) {
        match self.attach(self.makes) {
            Err(DiskError::Absent { .. }) if !self.makes => {}
            Err(error) => self.fail(Told(&error).to_string()),
            Ok(_) => {}
        }
    }

    /// Whether others had the lock all the time.
    fn work(&self, work: &Work) -> bool {
        if work.look {
            self.look();
        }
        let is_busy = !work.blocks.is_empty() && self.write_or_busy(&work.blocks, Word::stored).1;
        self.note(&work.touches);
        is_busy
    }
}

/// What a slot takes of the file system when it is first filled: whole pages, and perhaps one of the index.
fn footprint(block: &[u8]) -> i64 {
    (block.len().next_multiple_of(PAGE) + PAGE) as i64
}

/// Does what is queued until the queue is closed and empty. Once it is closed, the lock is waited for once: a process that ends
/// does not hang for the sake of a cache.
pub(super) fn run(shared: &Arc<Shared>) {
    while let Some(work) = shared.queue.next() {
        let is_busy = shared.work(&work);
        shared.queue.finish(&work);
        if is_busy && shared.queue.is_closed() {
            return;
        }
    }
}

/// An error with its cause.
pub(super) struct Told<'a>(pub &'a DiskError);

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        match std::error::Error::source(self.0) {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}
