//! What a source's answers have taken lately, and how many bytes they carried.

use std::time::Duration;

use tokio::time::Instant;

/// Latencies kept: 128 make 6 that are later than the p95, and forget a bad minute within a few batches.
const KEPT: usize = 128;
/// Fewer than this say nothing about the slowest in twenty.
const ENOUGH: usize = 16;
/// The p95 is worked out anew after so many answers.
const EVERY: usize = 16;
/// Weight of a new latency in the average.
const WEIGHT: f64 = 0.1;
/// Throughput is measured over this much busy time, and a new figure weighs as much as the old ones.
const METERED: Duration = Duration::from_millis(200);

/// The latencies of the last answers.
#[derive(Debug, Default)]
pub struct Latencies {
    last: Vec<Duration>,
    next: usize,
    average: Option<Duration>,
    p95: Option<Duration>,
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        let average = self.average.get_or_insert(latency);
        *average = average.mul_f64(1.0 - WEIGHT) + latency.mul_f64(WEIGHT);
        self.note(latency);
    }

    /// Counts a request that was given up after so long among the latencies, but not in the average: the answer would have
    /// taken longer still.
    pub fn note(&mut self, latency: Duration) {
        if self.last.len() < KEPT {
            self.last.push(latency);
        } else {
            self.last[self.next % KEPT] = latency;
        }
        self.next = self.next.wrapping_add(1);
        if self.last.len() >= ENOUGH && self.next.is_multiple_of(EVERY) {
            let mut sorted = self.last.clone();
            let place = sorted.len() * 95 / 100;
            self.p95 = Some(*sorted.select_nth_unstable(place).1);
        }
    }

    pub fn average(&self) -> Option<Duration> {
        self.average
    }

    /// The time within which 95 of 100 answers came; `None` before there are enough.
    pub fn p95(&self) -> Option<Duration> {
        self.p95
    }
}

/// Bytes a second while something was in flight.
#[derive(Debug, Default)]
pub struct Meter {
    bytes: u64,
    busy: Duration,
    since: Option<Instant>,
    rate: f64,
}

impl Meter {
    /// Requests are in flight from now on, or none is.
    pub fn run(&mut self, busy: bool, now: Instant) {
        if let Some(since) = self.since.take() {
            self.busy += now - since;
        }
        self.since = busy.then_some(now);
    }

    pub fn add(&mut self, bytes: usize, now: Instant) {
        self.bytes += bytes as u64;
        let busy = self.busy + self.since.map_or(Duration::ZERO, |since| now - since);
        if busy >= METERED {
            let rate = self.bytes as f64 / busy.as_secs_f64();
            self.rate = if self.rate == 0.0 { rate } else { (self.rate + rate) / 2.0 };
            (self.bytes, self.busy) = (0, Duration::ZERO);
            self.since = self.since.map(|_| now);
        }
    }

    pub fn rate(&self) -> f64 {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_late_answer_in_twenty_is_beyond_the_p95() {
        let mut latencies = Latencies::default();
        for number in 0..15 {
            latencies.add(Duration::from_millis(10 + number % 2));
            assert_eq!(latencies.p95(), None, "too early to say");
        }
        for number in 0..1000 {
            latencies.add(Duration::from_millis(if number % 25 == 0 { 500 } else { 10 }));
        }
        assert_eq!(latencies.p95(), Some(Duration::from_millis(10)));
        (0..128).for_each(|_| latencies.add(Duration::from_millis(70)));
        assert_eq!(latencies.p95(), Some(Duration::from_millis(70)));
        let average = latencies.average().expect("there were many");
        assert!((69..=70).contains(&average.as_millis()), "{average:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_no_slowness() {
        let mut meter = Meter::default();
        for _ in 0..10 {
            meter.run(true, Instant::now());
            tokio::time::advance(Duration::from_millis(100)).await;
            meter.add(100_000, Instant::now());
            meter.run(false, Instant::now());
            tokio::time::advance(Duration::from_secs(60)).await;
        }
        assert!((meter.rate() - 1e6).abs() < 1e4, "{}", meter.rate());
    }
}
