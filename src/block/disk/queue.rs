//! What waits to be done in the background: blocks to write, uses to note.
//!
//! It is bounded and never waited for: what does not fit is left undone, since a cache that slows its readers down is worse than
//! one that forgets.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{layout::Place, shared::lock};
use crate::{block::Block, eris::Reference};

/// Bytes of blocks that wait. A gigabit link brings as many in a quarter of a second, and a disk writes them in a tenth.
const MAX_BYTES: usize = 32 << 20;
/// Uses that wait to be noted. One that is forgotten makes a block look a little older than it is.
const MAX_TOUCHES: usize = 4096;
/// Blocks handed out together: under a few milliseconds of the lock.
const BATCH: usize = 64;

/// The work of one background thread.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    blocks: VecDeque<(Reference, Block)>,
    bytes: usize,
    touches: Vec<Touch>,
    look: bool,
    is_closed: bool,
    /// How much was ever accepted and finished, to know when all that was there is done.
    accepted: u64,
    finished: u64,
}

/// A use of a block that is to be noted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    pub place: Place,
    pub reference: Reference,
}

/// What is to be done next.
#[derive(Default)]
pub(super) struct Work {
    pub blocks: Vec<(Reference, Block)>,
    pub touches: Vec<Touch>,
    /// Whether all is as it was in the directory and on the file system is to be looked at.
    pub look: bool,
    weight: u64,
}

impl Queue {
    /// Whether the block was accepted.
    pub(super) fn write(&self, reference: Reference, block: Block) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.is_closed || waiting.bytes + block.len() > MAX_BYTES {
            return false;
        }
        waiting.bytes += block.len();
        waiting.blocks.push_back((reference, block));
        self.accept(waiting);
        true
    }

    pub(super) fn touch(&self, touch: Touch) {
        let mut waiting = lock(&self.waiting);
        if !waiting.is_closed && waiting.touches.len() < MAX_TOUCHES {
            waiting.touches.push(touch);
            self.accept(waiting);
        }
    }

    pub(super) fn look(&self) {
        let mut waiting = lock(&self.waiting);
        if !std::mem::replace(&mut waiting.look, true) {
            self.accept(waiting);
        }
    }

    fn accept(&self, mut waiting: std::sync::MutexGuard<'_, Waiting>) {
        waiting.accepted += 1;
        drop(waiting);
        self.changed.notify_all();
    }

    /// The next work, once there is some; nothing after the end.
    pub(super) fn next(&self) -> Option<Work> {
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting.accepted > waiting.finished {
                return Some(waiting.take());
            }
            if waiting.is_closed {
                return None;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether anything is to be done.
    pub(super) fn is_waiting(&self) -> bool {
        let waiting = lock(&self.waiting);
        waiting.accepted > waiting.finished
    }

    /// What [`next`](Self::next) gave is done.
    pub(super) fn finish(&self, work: &Work) {
        lock(&self.waiting).finished += work.weight;
        self.changed.notify_all();
    }

    /// Waits until all that was accepted before is done; false if that takes too long.
    pub(super) fn drain(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        let mut waiting = lock(&self.waiting);
        let accepted = waiting.accepted;
        while waiting.finished < accepted {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            waiting = self.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Accepts nothing more. What is there is still done.
    pub(super) fn close(&self) {
        lock(&self.waiting).is_closed = true;
        self.changed.notify_all();
    }

    /// Whether long work should stop.
    pub(super) fn is_closed(&self) -> bool {
        lock(&self.waiting).is_closed
    }
}

impl Waiting {
    fn take(&mut self) -> Work {
        let count = self.blocks.len().min(BATCH);
        let blocks: Vec<_> = self.blocks.drain(..count).collect();
        self.bytes -= blocks.iter().map(|(_, block)| block.len()).sum::<usize>();
        let touches = std::mem::take(&mut self.touches);
        let look = std::mem::take(&mut self.look);
        let weight = blocks.len() + touches.len() + usize::from(look);
        Work { blocks, touches, look, weight: weight as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eris::reference_of;

    #[test]
    fn what_does_not_fit_is_refused_and_the_rest_comes_in_order() {
        let queue = Queue::default();
        let block = Block::from(vec![0; 32768]);
        let name = |number: usize| reference_of(&number.to_le_bytes());
        let room = MAX_BYTES / block.len();
        for number in 0..room + 5 {
            assert_eq!(queue.write(name(number), block.clone()), number < room);
        }
        queue.close();
        assert!(!queue.write(name(0), block));
        let mut seen = 0;
        while let Some(work) = queue.next() {
            for (reference, _) in &work.blocks {
                assert_eq!(*reference, name(seen));
                seen += 1;
            }
            assert!(!queue.drain(Duration::ZERO));
            queue.finish(&work);
        }
        assert!(seen == room && queue.drain(Duration::ZERO));
    }
}
