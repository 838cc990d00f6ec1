//! A limit to bytes a second.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What may be made up for: after a pause this much goes at once, so that short hiccups do not cost rate.
const BURST: Duration = Duration::from_millis(250);

/// Lets so many bytes a second pass. Whoever waits first goes first.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_a_second: u64,
    /// When the next byte is due.
    next: Mutex<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_a_second: u64) -> Self {
        Pace { bytes_a_second: bytes_a_second.max(1), next: Mutex::new(Instant::now()) }
    }

    /// How long so many bytes take.
    pub(super) fn time(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.bytes_a_second as f64)
    }

    /// Returns when it is the turn of these bytes.
    pub(super) async fn wait(&self, bytes: u64) {
        let turn = {
            let mut next = self.next.lock().expect("no panic while held");
            let now = Instant::now();
            let turn = now.checked_sub(BURST).map_or(*next, |earliest| earliest.max(*next));
            *next = turn + self.time(bytes);
            turn
        };
        sleep_until(turn).await;
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
}
