//! How many pieces to fetch at a time for nobody in particular: as many as come about as fast as one alone.
//!
//! A link that is full only makes every request wait longer, those that somebody waits for among them. So there is one more at a time
//! while pieces come within twice the shortest time, and one less when they do not (as TCP Vegas does it; Brakmo and Peterson, 1995).

use std::time::Duration;

use tokio::time::Instant;

/// The most pieces at a time: 8 MiB, what a gigabit holds at 65 ms.
const MOST: usize = 64;
/// A piece that came sooner was here already.
const HERE: Duration = Duration::from_millis(2);
/// The first piece of a link that is worth it takes less than this: 256 KB/s.
const PROBE: Duration = Duration::from_millis(500);
/// A link of less than so many bytes a second is left to what is waited for.
const THIN: f64 = 1e6;
/// After so many pieces the rate says something.
const TELLING: u32 = 16;
/// A link that was thin may be another one after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// What was seen of the link.
#[derive(Debug)]
pub(super) struct Pace {
    window: usize,
    shortest: Option<Duration>,
    /// Bytes a second, smoothed.
    rate: f64,
    pieces: u32,
    thin_since: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Pace { window: 1, shortest: None, rate: 0.0, pieces: 0, thin_since: None }
    }
}

impl Pace {
    /// Pieces that may be asked for at a time.
    pub(super) fn window(&self) -> usize {
        self.window
    }

    /// Whether the link is too thin to fetch what nobody may ever ask for.
    pub(super) fn is_thin(&mut self) -> bool {
        if self.thin_since.is_some_and(|since| since.elapsed() > AGAIN) {
            *self = Pace::default();
        }
        self.thin_since.is_some()
    }

    /// Whether so many bytes come within this time, as far as it is known.
    pub(super) fn is_soon(&self, bytes: u64, time: Duration) -> bool {
        self.pieces < TELLING || bytes as f64 <= self.rate * time.as_secs_f64()
    }

    /// A piece came after this time, one of so many that were asked for together.
    pub(super) fn came(&mut self, bytes: u64, took: Duration, together: usize) {
        let full = together >= self.window;
        if took < HERE {
            self.window = (self.window + 1).min(MOST);
            return;
        }
        let shortest = self.shortest.map_or(took, |shortest| shortest.min(took));
        self.shortest = Some(shortest);
        let rate = together as f64 * bytes as f64 / took.as_secs_f64();
        self.rate = if self.pieces == 0 { rate } else { self.rate * 0.75 + rate * 0.25 };
        self.pieces = self.pieces.saturating_add(1);
        let thin = match self.pieces {
            1 => took > PROBE,
            pieces => pieces >= TELLING && self.rate < THIN,
        };
        if thin {
            self.thin_since = Some(Instant::now());
        }
        self.window = match took > 2 * shortest {
            true => (self.window - 1).max(1),
            false => (self.window + usize::from(full)).min(MOST),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 128 << 10;

    /// The window after many pieces over a link, and the rate that was seen.
    fn settled(latency: Duration, bytes_a_second: f64) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..500 {
            let full = pace.window() as f64 * PIECE as f64 / bytes_a_second;
            let alone = latency.as_secs_f64() + PIECE as f64 / bytes_a_second;
            pace.came(PIECE, Duration::from_secs_f64(full.max(alone)), pace.window());
            if pace.is_thin() {
                break;
            }
        }
        pace
    }

    #[test]
    fn the_link_is_full_and_hardly_more() {
        for (latency, rate) in [(20, 12.5e6), (50, 125e6), (5, 10e6), (100, 5e6)] {
            let latency = Duration::from_millis(latency);
            let mut pace = settled(latency, rate);
            assert!(!pace.is_thin());
            assert!(pace.rate > 0.8 * rate, "{latency:?} {rate}: {}", pace.rate);
            let queued = pace.window() as f64 * PIECE as f64 / rate;
            let alone = latency.as_secs_f64() + PIECE as f64 / rate;
            assert!(queued < 2.5 * alone, "{latency:?} {rate}: {queued} s");
            assert!(pace.is_soon(rate as u64, Duration::from_secs(2)));
            assert!(!pace.is_soon(rate as u64 * 4, Duration::from_secs(2)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thin_link_is_noticed_and_tried_again_later() {
        for rate in [50e3, 200e3, 800e3] {
            let mut pace = settled(Duration::from_millis(20), rate);
            assert!(pace.is_thin(), "{rate}");
            tokio::time::sleep(AGAIN + Duration::from_secs(1)).await;
            assert!(!pace.is_thin());
        }
    }
}
