//! Who may download now: a few at a time, and no more together than the disk cache surely keeps.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as Queue, Notify};

/// Downloads at a time: two links' worth of servers, and threads for each of them.
const TOGETHER: usize = 4;
/// Downloads that wait for their turn.
pub(super) const MOST_WAITING: usize = 256;

/// The turns of a process.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whoever is next holds it, and the others wait for it in the order of their coming.
    door: Queue<()>,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    turns: usize,
    bytes: u64,
    waiting: usize,
}

/// The right to download so many bytes, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Arc<Turns>,
    bytes: u64,
}

/// Counts somebody who waits.
struct Waiting<'a>(&'a Turns);

impl Turns {
    /// Waits for a turn: until the downloads under way and this one come to no more than `most` bytes. Too many wait already: how many.
    pub(super) async fn take(self: &Arc<Self>, bytes: u64, most: u64) -> Result<Turn, usize> {
        let _waiting = self.wait()?;
        let _door = self.door.lock().await;
        loop {
            let freed = self.freed.notified();
            if self.try_take(bytes, most) {
                return Ok(Turn { turns: self.clone(), bytes });
            }
            freed.await;
        }
    }

    fn wait(&self) -> Result<Waiting<'_>, usize> {
        let mut taken = self.taken();
        if taken.waiting >= MOST_WAITING {
            return Err(taken.waiting);
        }
        taken.waiting += 1;
        Ok(Waiting(self))
    }

    fn try_take(&self, bytes: u64, most: u64) -> bool {
        let mut taken = self.taken();
        let is_room = taken.turns < TOGETHER && taken.bytes.saturating_add(bytes) <= most.max(bytes);
        if is_room {
            taken.turns += 1;
            taken.bytes += bytes;
        }
        is_room
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.taken().waiting -= 1;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.taken();
        taken.turns -= 1;
        taken.bytes -= self.bytes;
        drop(taken);
        // Only whoever is at the door waits for it. If nobody is there yet, the next one need not wait.
        self.turns.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn try_take(turns: &Arc<Turns>, bytes: u64) -> Option<Turn> {
        turns.take(bytes, 100).now_or_never().map(|turn| turn.expect("few wait"))
    }

    #[test]
    fn a_few_at_a_time_and_the_next_when_one_ends() {
        let turns = Arc::new(Turns::default());
        let mut taken: Vec<_> = (0..TOGETHER).map(|_| try_take(&turns, 1).expect("there is room")).collect();
        let mut next = Box::pin(turns.take(1, 100));
        assert!((&mut next).now_or_never().is_none());
        assert!(try_take(&turns, 1).is_none(), "another one does not overtake");
        taken.pop();
        assert!(next.now_or_never().is_some());
    }

    #[test]
    fn no_more_bytes_than_there_is_room_for() {
        let turns = Arc::new(Turns::default());
        let large = try_take(&turns, 70).expect("there is room");
        assert!(try_take(&turns, 31).is_none());
        let small = try_take(&turns, 30).expect("there is room");
        drop((large, small));
        assert!(try_take(&turns, 100).is_some());
    }

    #[test]
    fn too_many_that_wait_are_turned_away() {
        let turns = Arc::new(Turns::default());
        let _large = try_take(&turns, 100).expect("there is room");
        let mut waiting: Vec<_> = (0..MOST_WAITING).map(|_| Box::pin(turns.take(1, 100))).collect();
        assert!(waiting.iter_mut().all(|turn| turn.now_or_never().is_none()));
        assert!(matches!(turns.take(1, 100).now_or_never(), Some(Err(MOST_WAITING))));
        waiting.pop();
        assert!(turns.take(1, 100).now_or_never().is_none(), "whoever goes away makes room");
    }
}
