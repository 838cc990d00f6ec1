//! Looking through the whole cache: counting, verifying, giving space back, moving to another size.

use std::{io, sync::atomic::Ordering::Relaxed, time::Duration};

use rustix::io::Errno;

use super::{
    Collected, DiskError, Verified,
    layout::{LARGE, Layout, Place, SMALL, size_of},
    page::Word,
    read::BATCH,
    shared::{Locked, PATIENCE, Shared},
    slots::{Slots, Wait},
    write::{Storing, store},
};
use crate::eris::{BlockSize, Reference, references_of};

/// Blocks evicted, or moved, before others get a turn at the lock, or the free space is looked at again.
const STEP: usize = 256;

/// An entry as it was seen.
#[derive(Clone, Copy)]
struct Seen {
    place: Place,
    reference: Reference,
    word: Word,
}

/// All entries with a block, bucket by bucket.
fn entries(slots: &Slots) -> impl Iterator<Item = Seen> {
    (0..slots.layout().buckets()).flat_map(|bucket| {
        let page = slots.page(bucket, Wait::Yes).ok().flatten();
        let blocks = page.map(|page| page.blocks().collect::<Vec<_>>()).unwrap_or_default();
        blocks.into_iter().map(move |(entry, reference, word)| Seen {
            place: Place { bucket, entry },
            reference,
            word,
        })
    })
}

fn bytes(place: Place) -> u64 {
    size_of(place.entry).bytes() as u64
}

/// Blocks, pinned blocks and bytes of a cache.
pub(super) fn count(slots: &Slots, is_pinned: impl Fn(&Reference) -> bool) -> (u64, u64, u64) {
    entries(slots).fold((0, 0, 0), |(blocks, pinned, total), seen| {
        (blocks + 1, pinned + u64::from(is_pinned(&seen.reference)), total + bytes(seen.place))
    })
}

impl Shared {
    /// Reads and hashes every block that the index names.
    pub(super) fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<Verified, DiskError> {
        let attached = match self.attached() {
            Some(attached) => attached,
            None => self.attach(false)?,
        };
        let slots = &attached.slots;
        let (mut verified, buckets) = (Verified::default(), slots.layout().buckets());
        let per_bucket = (LARGE + SMALL) as u64;
        for bucket in 0..buckets {
            progress(bucket * per_bucket, buckets * per_bucket);
            let Some(page) = slots.page(bucket, Wait::Yes).ok().flatten() else { continue };
            let blocks: Vec<_> = page.blocks().collect();
            for batch in blocks.chunks(BATCH) {
                let read = batch.iter().map(|(entry, ..)| {
                    let read = slots.slot(Place { bucket, entry: *entry }, Wait::Yes);
                    read.ok().flatten().unwrap_or_default()
                });
                let read: Vec<_> = read.collect();
                let hashes = references_of(&read.iter().map(|block| &block[..]).collect::<Vec<_>>());
                verified.checked += batch.len() as u64;
                for ((_, reference, _), hash) in batch.iter().zip(hashes) {
                    if hash == *reference {
                        continue;
                    }
                    // It may have been replaced since the page was read.
                    let good = self.locked(PATIENCE, |locked| Ok(self.checked(locked, reference)))?;
                    verified.bad += u64::from(good.is_none());
                }
            }
        }
        progress(buckets * per_bucket, buckets * per_bucket);
        Ok(verified)
    }

    /// Gives disk space back until the floor is kept, and until the blocks take no more than `to` bytes.
    pub(super) fn collect(&self, to: Option<u64>) -> Result<Collected, DiskError> {
        let attached = match self.attached() {
            Some(attached) => attached,
            None => self.attach(false)?,
        };
        let pins = self.locked(PATIENCE, |locked| Ok(locked.pins.clone()))?;
        let clock = self.clock.load(Relaxed);
        let (mut held, mut spared) = (0, Vec::new());
        for seen in entries(&attached.slots) {
            held += bytes(seen.place);
            if !pins.contains(&seen.reference) {
                spared.push((seen.place, seen.word));
            }
        }
        let lacking = self.space(&attached.slots).min(0).unsigned_abs();
        let goal = to.map_or(0, |to| held.saturating_sub(to)).max(lacking);
        spared.sort_unstable_by_key(|(_, word)| (word.is_used(), word.time(clock)));
        let mut collected = Collected::default();
        for step in spared.chunks(STEP) {
            if collected.bytes >= goal {
                break;
            }
            let left = goal - collected.bytes;
            let freed = self.locked(PATIENCE, |locked| self.evict(locked, step, left))?;
            collected.evicted += freed.evicted;
            collected.bytes += freed.bytes;
            self.take_space(-i64::try_from(freed.bytes).unwrap_or(0));
        }
        self.counts.evicted.fetch_add(collected.evicted, Relaxed);
        Ok(collected)
    }

    fn evict(&self, locked: &Locked<'_>, step: &[(Place, Word)], goal: u64) -> Result<Collected, DiskError> {
        let mut freed = Collected::default();
        let slots = locked.slots;
        let failed = |error: io::Error| {
            let errno = Errno::from_io_error(&error);
            if matches!(errno, Some(Errno::OPNOTSUPP | Errno::NOSYS)) {
                self.keeps_space.store(true, Relaxed);
            }
            self.failed("give back space of", &self.path, error)
        };
        // The cache may have got another size since they were seen.
        for &(place, word) in step.iter().filter(|(place, _)| place.bucket < slots.layout().buckets()) {
            if freed.bytes >= goal {
                break;
            }
            let Ok(Some(page)) = slots.page(place.bucket, Wait::Yes) else { continue };
            // Used or replaced meanwhile, or pinned.
            let is_same = page.word(place.entry) == word;
            if !is_same || page.reference(place.entry).is_none_or(|reference| locked.is_pinned(&reference)) {
                continue;
            }
            // Where no space can be given back, the block stays.
            match size_of(place.entry) {
                BlockSize::Large => {
                    slots.punch(place).map_err(failed)?;
                    slots.clear(place, Word::HOLE).map_err(failed)?;
                }
                BlockSize::Small => {
                    if !page.blocks().any(|(entry, ..)| entry >= LARGE && entry != place.entry) {
                        slots.punch_small(place.bucket).map_err(failed)?;
                    }
                    slots.clear(place, Word::EMPTY).map_err(failed)?;
                }
            }
            freed.evicted += 1;
            freed.bytes += bytes(place);
        }
        Ok(freed)
    }

    /// Moves the cache to a file of another size: the pinned blocks first, then those used last, as many as there is room for in it
    /// and on the file system. Refused if the pinned do not fit. Meanwhile nothing is kept; reading goes on, and other processes change
    /// over when it is done.
    pub(super) fn resize(&self, size: u64, patience: Duration) -> Result<(), DiskError> {
        let moved = self.locked(patience, |locked| {
            let layout = Layout::of(size);
            if layout == *locked.slots.layout() {
                return Ok(false);
            }
            self.check_move(locked, &layout)?;
            let new = self.create(layout, locked.clock, locked.pins_generation.wrapping_add(1))?;
            if let Err(error) = self.carry_over(locked, &new) {
                self.discard();
                return Err(error);
            }
            self.replace()?;
            Ok(true)
        })?;
        if moved {
            self.attach(true)?;
        }
        Ok(())
    }

    fn carry_over(&self, locked: &Locked<'_>, new: &Slots) -> Result<(), DiskError> {
        let clock = locked.clock;
        let mut seen: Vec<_> =
            entries(locked.slots).map(|seen| (locked.is_pinned(&seen.reference), seen)).collect();
        seen.sort_unstable_by_key(|(is_pinned, seen)| {
            std::cmp::Reverse((*is_pinned, seen.word.is_used(), seen.word.time(clock)))
        });
        for (step, (is_pinned, seen)) in seen.iter().enumerate() {
            if step % STEP == 0 && self.queue.is_closed() {
                return Err(DiskError::Busy { dir: self.path.clone() });
            }
            let bytes = bytes(seen.place) as i64;
            if self.space(locked.slots) < bytes {
                break;
            }
            let Ok(Some(block)) = locked.slots.slot(seen.place, Wait::Yes) else { continue };
            let how = Storing {
                clock,
                word: seen.word,
                may_fill: true,
                // What is there already was used later.
                before: if *is_pinned { u64::MAX } else { 0 },
                is_pinned: &|reference| locked.is_pinned(reference),
            };
            let stored = store(new, &seen.reference, &block, &how);
            stored.map_err(|error| self.failed("write to", &self.path, error))?;
            self.take_space(bytes);
        }
        Ok(())
    }
}
