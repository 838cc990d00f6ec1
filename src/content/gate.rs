//! Foreground before prefetch: who may ask the block store for how many blocks, and when.
//!
//! What somebody waits for is only counted. What is fetched ahead of need gets through while there is
//! room beside it, in portions, first come first served; so a queue of prefetches never stands before a
//! read, and no request below the gate ever waits behind one. Dropping a wait or a [`Pass`] gives its
//! place back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::block::BlockStore;
use crate::eris::BlockSize;

/// Blocks that one asker gets through before the next one's turn: a frame that does not compress.
const PORTION: usize = 9;
/// One in so many requests of the store is kept free for the foreground.
const RESERVE: usize = 8;
/// With fewer blocks in flight it is the latency that is measured, not the throughput; unless the store bears no more.
const BUSY: usize = 16;
/// So long with so many in flight says how fast the link is too, however few came.
const LONG: Duration = Duration::from_secs(2);
/// So many blocks say how fast the link is; older ones count half each time that as many came.
const SAMPLE: u32 = 256;

/// Lets prefetches through to a block store while there is room beside what somebody waits for.
#[derive(Debug)]
pub struct Gate {
    store: Arc<dyn BlockStore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    foreground: usize,
    ahead: usize,
    /// What the store bore when it was asked last.
    limit: Option<usize>,
    /// Those who wait, by their turn. Each belongs to a future that is being polled, so there are as many
    /// as there are fetches ahead, which their starters bound.
    waiting: BTreeMap<u64, Waiting>,
    next: u64,
    measured: Measured,
}

/// How fast blocks came while enough of them were in flight to tell.
#[derive(Debug, Default)]
struct Measured {
    busy_since: Option<Instant>,
    busy: Duration,
    blocks: u32,
}

#[derive(Debug)]
struct Waiting {
    wanted: usize,
    admitted: oneshot::Sender<usize>,
}

/// How many blocks are in flight, and how many prefetches wait for room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct InFlight {
    /// Blocks that somebody waits for.
    pub foreground: usize,
    /// Blocks that are fetched ahead.
    pub ahead: usize,
    /// Requests for blocks ahead that were not let through yet.
    pub waiting: usize,
}

/// Whose blocks they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Foreground,
    Ahead,
}

/// The place of some blocks in flight, given back one by one as they arrive and as a whole by dropping it.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    side: Side,
    blocks: usize,
}

/// A place in the order in which prefetches get through, kept for a whole portion.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turn {
    number: Option<u64>,
    left: usize,
}

impl Gate {
    /// The gate before `store`, whose [`BlockStore::concurrency`] says how much room there is.
    pub fn new(store: Arc<dyn BlockStore>) -> Arc<Self> {
        Arc::new(Gate { store, state: Mutex::default() })
    }

    /// What is in flight now.
    pub fn in_flight(&self) -> InFlight {
        let state = self.state.lock().expect("no panic while held");
        InFlight { foreground: state.foreground, ahead: state.ahead, waiting: state.waiting.len() }
    }

    /// Bytes a second that blocks came at, lately and while many were in flight; `None` while too few came to tell. Blocks
    /// count as those of 32 KiB, and those that a cache had count too, so it is rather too much than too little.
    pub fn throughput(&self) -> Option<f64> {
        let state = self.state.lock().expect("no panic while held");
        let Measured { busy_since, busy, blocks } = state.measured;
        let busy = busy + busy_since.map_or(Duration::ZERO, |since| since.elapsed());
        let bytes = f64::from(blocks) * BlockSize::Large.bytes() as f64;
        let tells = !busy.is_zero() && (blocks >= SAMPLE / 2 || busy >= LONG);
        tells.then(|| bytes / busy.as_secs_f64())
    }

    /// Takes note of `blocks` that somebody waits for. They go at once.
    pub fn foreground(self: &Arc<Self>, blocks: usize) -> Pass {
        let mut state = self.state.lock().expect("no panic while held");
        state.foreground += blocks;
        state.measure(0);
        drop(state);
        Pass { gate: self.clone(), side: Side::Foreground, blocks }
    }

    /// Waits until there is room for some of `blocks` (at least one) beside the foreground. The next call with the same
    /// `turn` keeps its place in the order until a portion went through.
    pub async fn ahead(self: &Arc<Self>, blocks: usize, turn: &mut Turn) -> Pass {
        if turn.left == 0 {
            *turn = Turn { number: None, left: PORTION };
        }
        let wanted = blocks.clamp(1, turn.left);
        let (admitted, answer) = oneshot::channel();
        let waiter = {
            let mut state = self.state.lock().expect("no panic while held");
            let number = *turn.number.get_or_insert(state.next);
            state.next = state.next.max(number + 1);
            state.waiting.insert(number, Waiting { wanted, admitted });
            // Made while locked: nobody else can have admitted it before it is guarded.
            Waiter { gate: self, number, answer: Some(answer) }
        };
        self.admit();
        let blocks = waiter.admitted().await;
        turn.left -= blocks.min(turn.left);
        Pass { gate: self.clone(), side: Side::Ahead, blocks }
    }

    /// Lets through those who come first, while there is room.
    fn admit(&self) {
        // Asked before locking: it may take locks of its own.
        let limit = self.store.concurrency();
        let mut state = self.state.lock().expect("no panic while held");
        state.limit = Some(limit);
        loop {
            let room = room(limit, state.foreground, state.ahead);
            if room == 0 {
                let waits = !state.waiting.is_empty();
                drop(state);
                if waits {
                    // A store that finds out what it bears would never hear of those whom the gate holds back.
                    self.store.press();
                }
                return;
            }
            let Some((_, first)) = state.waiting.pop_first() else { return };
            let blocks = first.wanted.min(room);
            // Counted here, so that it is counted when the asker is dropped before it hears of it.
            if first.admitted.send(blocks).is_ok() {
                state.ahead += blocks;
                state.measure(0);
            }
        }
    }

    /// So many `blocks` are no longer in flight, of which so many came.
    fn give_back(&self, side: Side, blocks: usize, came: u32) {
        if blocks == 0 {
            return;
        }
        {
            let mut state = self.state.lock().expect("no panic while held");
            match side {
                Side::Foreground => state.foreground -= blocks,
                Side::Ahead => state.ahead -= blocks,
            }
            state.measure(came);
            if state.waiting.is_empty() {
                return;
            }
        }
        self.admit();
    }
}

impl State {
    /// Takes note of what is in flight from now on, and of blocks that came.
    fn measure(&mut self, came: u32) {
        let busy = self.limit.map_or(BUSY, |limit| allowed(limit).clamp(1, BUSY));
        let many = self.foreground.saturating_add(self.ahead) >= busy;
        let measured = &mut self.measured;
        if !many && measured.busy_since.is_none() {
            return;
        }
        let now = Instant::now();
        if let Some(since) = measured.busy_since {
            measured.busy += now - since;
            measured.blocks += came;
        }
        measured.busy_since = many.then_some(now);
        // An outage counts no longer than that.
        while measured.blocks >= 2 * SAMPLE || measured.busy >= 4 * LONG {
            (measured.blocks, measured.busy) = (measured.blocks / 2, measured.busy / 2);
        }
    }
}

/// Blocks that may be fetched ahead now. One may always be when nothing is in flight, so nobody waits for ever.
fn room(limit: usize, foreground: usize, ahead: usize) -> usize {
    let room = allowed(limit).saturating_sub(foreground.saturating_add(ahead));
    if foreground == 0 && ahead == 0 { room.max(1) } else { room }
}

/// Blocks in flight beyond which none are fetched ahead.
fn allowed(limit: usize) -> usize {
    limit.saturating_sub((limit / RESERVE).max(1))
}

/// One who waits. Dropped before it was let through, it leaves the order; after, it gives its room back.
struct Waiter<'a> {
    gate: &'a Gate,
    number: u64,
    answer: Option<oneshot::Receiver<usize>>,
}

impl Waiter<'_> {
    async fn admitted(mut self) -> usize {
        let answer = self.answer.as_mut().expect("it is taken only here and by the drop");
        let blocks = answer.await.expect("the gate, which is borrowed, answers those who wait");
        self.answer = None;
        blocks
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let Some(mut answer) = self.answer.take() else { return };
        self.gate.state.lock().expect("no panic while held").waiting.remove(&self.number);
        if let Ok(blocks) = answer.try_recv() {
            self.gate.give_back(Side::Ahead, blocks, 0);
        }
    }
}

impl Pass {
    /// For how many blocks it still stands.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// One of the blocks is there (or will never be).
    pub fn arrived(&mut self) {
        if self.blocks > 0 {
            self.blocks -= 1;
            self.gate.give_back(self.side, 1, 1);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.give_back(self.side, self.blocks, 0);
    }
}

#[cfg(test)]
mod tests;
