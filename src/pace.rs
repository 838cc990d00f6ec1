//! A limit to bytes a second, which several layers need: for what is fetched ahead of time, and for what strangers get.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What may be made up for: after a pause this much goes at once, so that short hiccups do not cost rate.
const BURST: Duration = Duration::from_millis(250);

/// Lets so many bytes a second pass. Whoever waits first goes first.
#[derive(Debug)]
pub struct Pace {
    bytes_a_second: u64,
    /// When the next byte is due.
    next: Mutex<Instant>,
}

impl Pace {
    /// At least one byte a second.
    pub fn new(bytes_a_second: u64) -> Self {
        Pace { bytes_a_second: bytes_a_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// How long so many bytes take.
    pub fn time(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_a_second as f64)
    }

    /// Returns when it is the turn of these bytes.
    pub async fn wait(&self, bytes: u64) {
        if let Some(turn) = self.turn(bytes, Duration::MAX) {
            sleep_until(turn).await;
        }
    }

    /// Returns when it is the turn of up to so many bytes; at once, and with `None`, if that would take longer than `patience`. What is
    /// not [spent](Turn::spend) does not count, also if whoever waits gives up.
    pub async fn turn_within(&self, bytes: u64, patience: Duration) -> Option<Turn<'_>> {
        let due = self.turn(bytes, patience)?;
        let turn = Turn { pace: self, left: bytes };
        sleep_until(due).await;
        Some(turn)
    }

    /// When these bytes are due, unless that is later than `patience` allows.
    fn turn(&self, bytes: u64, patience: Duration) -> Option<Instant> {
        let mut next = self.next.lock().expect("no panic while held");
        let now = Instant::now();
        let turn = now.checked_sub(BURST).map_or(*next, |earliest| earliest.max(*next));
        if turn.saturating_duration_since(now) > patience {
            return None;
        }
        *next = turn + self.time(bytes);
        Some(turn)
    }

    fn give_back(&self, bytes: u64) {
        let mut next = self.next.lock().expect("no panic while held");
        *next = next.checked_sub(self.time(bytes)).unwrap_or(*next);
    }
}

/// The turn of some bytes. Those that are not spent while it lasts are others' again.
#[derive(Debug)]
pub struct Turn<'a> {
    pace: &'a Pace,
    left: u64,
}

impl Turn<'_> {
    /// So many bytes pass.
    pub fn spend(&mut self, bytes: u64) {
        self.left = self.left.saturating_sub(bytes);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.pace.give_back(self.left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_rate_passes_whoever_asks() {
        let pace = Pace::new(1_000_000);
        let started = Instant::now();
        futures::future::join_all((0..100).map(|_| pace.wait(32_768))).await;
        // The last waits for the 99 before it.
        let took = started.elapsed().as_secs_f64();
        assert!((3.2..3.3).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_not_saved_up() {
        let pace = Pace::new(1000);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let started = Instant::now();
        futures::future::join_all((0..11).map(|_| pace.wait(1000))).await;
        let took = started.elapsed().as_secs_f64();
        assert!((9.7..10.0).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_told_so_at_once_and_takes_nobodys_turn() {
        let pace = Pace::new(1000);
        let started = Instant::now();
        let patience = Duration::from_secs(2);
        let asked = futures::future::join_all((0..10).map(|_| spend(&pace, 1000, patience))).await;
        // Those whose turn is at -0.25, 0.75 and 1.75 seconds, or later by a hair.
        let served = asked.iter().filter(|served| **served).count();
        assert!((2..=3).contains(&served), "{asked:?}");
        assert!(started.elapsed() <= patience, "{:?}", started.elapsed());
        tokio::time::sleep(patience).await;
        assert!(spend(&pace, 1000, patience).await);
    }

    /// Whether these bytes passed in time.
    async fn spend(pace: &Pace, bytes: u64, patience: Duration) -> bool {
        let turn = pace.turn_within(bytes, patience).await;
        turn.map(|mut turn| turn.spend(bytes)).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_spent_does_not_count() {
        let (pace, patience) = (Pace::new(1000), Duration::from_secs(2));
        for _ in 0..100 {
            // One who goes before his turn, one who does not need it, and one who needs a tenth.
            let gone = tokio::time::timeout(Duration::ZERO, pace.turn_within(2000, patience)).await;
            drop(gone);
            drop(pace.turn_within(1000, patience).await.expect("nobody is before it"));
        }
        let started = Instant::now();
        assert!(spend(&pace, 1000, Duration::ZERO).await);
        let mut turn = pace.turn_within(1000, patience).await.expect("it is the second");
        turn.spend(100);
        drop(turn);
        pace.wait(1).await;
        let took = started.elapsed().as_secs_f64();
        assert!((0.8..1.2).contains(&took), "a thousand and a hundred bytes: {took}");
    }
}
