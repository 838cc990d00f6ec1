//! What all clients share: how many archives are sent at once, and who gives way to whom.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::Limits;
use crate::content::Deadline;

/// Bytes a second below which a client, on the average, gives way to those who wait for their turn: one at this rate has a NAR of
/// 100 MB in 50 minutes.
const SLOW: u64 = 32 << 10;

/// How much may be read for all clients together.
#[derive(Debug)]
pub(super) struct Budget {
    /// Answers in pieces, each of which has always one piece at least, and listings.
    bodies: Arc<Semaphore>,
    /// Pieces beyond the first of each.
    ahead: Arc<Semaphore>,
    /// For a piece, or anything else that has to be fetched.
    patience: Duration,
    /// For all that comes before the first byte of an answer.
    beginning: Duration,
    /// When somebody last had to wait for a turn.
    wanted: Mutex<Option<Instant>>,
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        Budget {
            bodies: Arc::new(Semaphore::new(limits.archives)),
            ahead: Arc::new(Semaphore::new(limits.archives)),
            patience: limits.fetch,
            // A connection without news is cut after the whole of both (activity.rs): a status has to come before.
            beginning: limits.fetch + limits.stall / 2,
            wanted: Mutex::default(),
        }
    }

    /// How long a piece, or anything else that has to be fetched, may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// The right to send an archive or a listing; `None` if it is not to be had within the time of a piece.
    pub(super) async fn turn(&self) -> Option<Turn> {
        let begins_by = Instant::now() + self.beginning;
        let permit = match self.bodies.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                *self.wanted.lock().expect("no panic while held") = Some(Instant::now());
                timeout(self.patience, self.bodies.clone().acquire_owned()).await.ok()?.ok()?
            }
        };
        Some(Turn { begins_by, patience: self.patience, _permit: permit })
    }

    /// Room for a piece that is not the first of its answer, if there is any.
    pub(super) fn ahead(&self) -> Option<OwnedSemaphorePermit> {
        self.ahead.clone().try_acquire_owned().ok()
    }

    /// Whether a client that takes its answer like this should make room, since others wait or were turned away. Within the time that
    /// is looked at here, each answer has its next byte or is cut.
    pub(super) fn needs_room_of(&self, pace: &Pace) -> bool {
        let wanted = *self.wanted.lock().expect("no panic while held");
        let recently = 2 * self.patience;
        pace.is_slow(recently) && wanted.is_some_and(|wanted| wanted.elapsed() < recently)
    }
}

/// The right to send an archive or a listing, which lasts until this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    begins_by: Instant,
    patience: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Until when the next step on the way to the first byte may take: no longer than anything may, and all of them together no
    /// longer than the connection bears.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.patience.min(self.begins_by.saturating_duration_since(Instant::now())))
    }
}

/// How fast a client takes its answer. Time in which there was nothing for it does not count.
#[derive(Debug, Default)]
pub(super) struct Pace {
    bytes: u64,
    taking: Duration,
    given: Option<Instant>,
}

impl Pace {
    /// The client has taken what it was given, and asks for more.
    pub(super) fn asked(&mut self) {
        if let Some(given) = self.given.take() {
            self.taking += given.elapsed();
        }
    }

    /// So many bytes are there for the client.
    pub(super) fn gave(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.given = Some(Instant::now());
    }

    /// Bytes that it was given.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it was slow for longer than `grace`.
    fn is_slow(&self, grace: Duration) -> bool {
        self.taking > grace && self.bytes < SLOW.saturating_mul(self.taking.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn budget() -> Budget {
        let limits = Limits { archives: 1, fetch: 30 * SECOND, stall: 30 * SECOND, ..Limits::default() };
        Budget::new(&limits)
    }

    /// Takes a frame every so many seconds, three times.
    async fn pace(seconds: u32, frame: usize) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..3 {
            pace.gave(frame);
            advance(seconds * SECOND).await;
            pace.asked();
        }
        pace
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_little_gives_way_to_who_waits() {
        let (budget, slow) = (budget(), pace(30, 64 << 10).await);
        let _held = budget.turn().await.expect("the first one");
        assert!(!budget.needs_room_of(&slow), "nobody waits");
        assert!(budget.turn().await.is_none());
        assert!(budget.needs_room_of(&slow));
        assert!(!budget.needs_room_of(&pace(30, 1 << 20).await), "it takes enough");
        let (budget, brief) = (self::budget(), pace(10, 1).await);
        let _held = budget.turn().await;
        assert!(budget.turn().await.is_none());
        assert!(!budget.needs_room_of(&brief), "it may still come to take more");
        advance(60 * SECOND).await;
        assert!(!budget.needs_room_of(&slow), "nobody has waited lately");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_not_slow_because_there_is_nothing_for_it() {
        let budget = budget();
        let mut waits = Pace::default();
        for _ in 0..3 {
            waits.gave(1);
            waits.asked();
            advance(60 * SECOND).await;
        }
        let _held = budget.turn().await;
        assert!(budget.turn().await.is_none());
        assert!(!budget.needs_room_of(&waits));
    }

    #[tokio::test(start_paused = true)]
    async fn all_that_comes_before_the_first_byte_ends_before_the_connection_is_cut() {
        let budget = budget();
        let (held, begun) = (budget.turn().await.expect("the first one"), Instant::now());
        let leaves = async {
            advance(25 * SECOND).await;
            drop(held);
        };
        let (turn, ()) = tokio::join!(budget.turn(), leaves);
        let turn = turn.expect("the second one");
        assert_eq!(turn.deadline().instant() - begun, 45 * SECOND);
        let fresh = self::budget().turn().await.expect("nobody else");
        assert_eq!(fresh.deadline().instant() - Instant::now(), 30 * SECOND);
        advance(10 * SECOND).await;
        assert_eq!(turn.deadline().instant() - begun, 45 * SECOND);
    }
}
