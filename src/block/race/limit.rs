//! How many requests a source across a network is to have in flight: enough to fill the link, and no queue in front of it.
//!
//! The number doubles while that costs no time, as TCP does at first. Later it follows the latency (as TCP Vegas does): answers
//! that take notably longer than the fastest lately have waited in a queue, which a foreground read would have to wait behind.

use std::time::Duration;

use tokio::time::Instant;

/// Before anything is known: half a megabyte of large blocks, which a slow link of 10 MB/s has sent in 50 ms.
const FIRST: usize = 16;
/// Fewer would leave a source idle between an answer and the next request.
const LEAST: usize = 4;
/// Above this nothing is gained on the links in question: 1 Gbit/s at 50 ms is filled by 190 large blocks.
const MOST: usize = 256;
/// How much longer than the fastest an answer may take before it counts as having queued: a quarter, for a link that is just
/// filled, and what a busy server or a scheduler adds now and then.
const TOLERATED: (f64, Duration) = (1.25, Duration::from_millis(3));
/// The fastest answer is believed for so long; then, the queue is let run dry once to see it anew. The route may have changed.
const BELIEVED: Duration = Duration::from_secs(15);

/// The requests that may be in flight to one source.
#[derive(Debug)]
pub struct Limit {
    now: usize,
    most: usize,
    doubling: bool,
    /// Whether somebody had to wait since the last change: a limit that is not reached is not to be judged.
    pressed: bool,
    /// Latencies of requests that were made since the last change.
    window: Vec<Duration>,
    changed: Instant,
    fastest: Option<Duration>,
    /// When an answer was last about as fast as the fastest.
    confirmed: Instant,
    /// When it was last cut for failures.
    cut: Option<Instant>,
    /// The limit to go back to, while the queue is let run dry.
    draining: Option<usize>,
}

impl Limit {
    /// For a source that bears at most `most` requests.
    pub fn new(most: usize, now: Instant) -> Self {
        let most = most.clamp(1, MOST);
        Self {
            now: FIRST.min(most),
            most,
            doubling: true,
            pressed: false,
            window: Vec::new(),
            changed: now,
            fastest: None,
            confirmed: now,
            cut: None,
            draining: None,
        }
    }

    /// Requests that may be in flight now.
    pub fn get(&self) -> usize {
        self.now
    }

    /// Somebody had to wait for a request to end.
    pub fn press(&mut self) {
        self.pressed = true;
    }

    /// A block that was asked for at `asked` came.
    pub fn came(&mut self, asked: Instant, now: Instant) {
        let latency = now - asked;
        let fastest = *self.fastest.get_or_insert(latency);
        if latency <= fastest.mul_f64(1.05) {
            self.confirmed = now;
            self.fastest = Some(fastest.min(latency));
        }
        if asked < self.changed {
            return;
        }
        self.window.push(latency);
        if self.window.len() >= (self.now / 2).clamp(LEAST, 64) {
            self.judge(now);
        }
    }

    /// A request made at `asked` failed in a way that says too much was asked. One burst of failures counts once.
    pub fn cut(&mut self, asked: Instant, now: Instant) {
        if self.cut.is_none_or(|cut| asked >= cut) {
            self.doubling = false;
            self.cut = Some(now);
            self.change(self.now / 2, now);
        }
    }

    fn judge(&mut self, now: Instant) {
        let middle = self.window.len() / 2;
        let latency = *self.window.select_nth_unstable(middle).1;
        if let Some(before) = self.draining.take() {
            let shortest = self.window.iter().min().copied().unwrap_or(latency);
            // A longer way bears more in flight: it is found like a new one.
            self.doubling = self.fastest.is_some_and(|fastest| shortest > fastest.mul_f64(1.25));
            self.fastest = Some(shortest);
            self.confirmed = now;
            return self.change(before, now);
        }
        let fastest = self.fastest.unwrap_or(latency);
        let allowed = fastest.mul_f64(TOLERATED.0) + TOLERATED.1;
        if !self.pressed {
            self.window.clear();
        } else if now - self.confirmed > BELIEVED {
            let before = self.now;
            self.change(before / 2, now);
            self.draining = Some(before);
        } else if latency <= allowed {
            let more = if self.doubling { self.now } else { (self.now / 8).max(1) };
            self.change(self.now + more, now);
        } else {
            self.doubling = false;
            let share = (allowed.as_secs_f64() / latency.as_secs_f64()).max(0.5);
            self.change((self.now as f64 * share) as usize, now);
        }
    }

    fn change(&mut self, limit: usize, now: Instant) {
        self.now = limit.clamp(LEAST.min(self.most), self.most);
        self.changed = now;
        self.pressed = false;
        self.draining = None;
        self.window.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const BLOCK: f64 = 32.0 * 1024.0;

    /// A link with a latency and a rate in bytes a second, which a reader keeps as full as the limit lets it.
    struct Link {
        limit: Limit,
        begun: Instant,
        now: f64,
        free: f64,
        in_flight: VecDeque<(f64, f64)>,
        came: usize,
    }

    impl Link {
        fn new() -> Self {
            let begun = Instant::now();
            let limit = Limit::new(1000, begun);
            Self { limit, begun, now: 0.0, free: 0.0, in_flight: VecDeque::new(), came: 0 }
        }

        /// Reads for `seconds`.
        fn run(&mut self, seconds: f64, latency: f64, rate: f64) {
            let end = self.now + seconds;
            self.came = 0;
            while self.now < end {
                while self.in_flight.len() < self.limit.get() {
                    self.free = self.free.max(self.now + latency) + BLOCK / rate;
                    self.in_flight.push_back((self.now, self.free));
                }
                self.limit.press();
                let (asked, came) = self.in_flight.pop_front().expect("the limit is at least 1");
                self.now = came.max(self.now);
                self.came += 1;
                let at = |seconds| self.begun + Duration::from_secs_f64(seconds);
                self.limit.came(at(asked), at(self.now));
            }
        }

        fn share(&self, seconds: f64, rate: f64) -> f64 {
            self.came as f64 * BLOCK / rate / seconds
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gigabit_at_50_ms_is_filled_within_a_second() {
        let (latency, rate) = (0.050, 125e6);
        let mut link = Link::new();
        link.run(1.0, latency, rate);
        assert!((190..=256).contains(&link.limit.get()), "{}", link.limit.get());
        link.run(60.0, latency, rate);
        assert!(link.share(60.0, rate) > 0.95, "{}", link.share(60.0, rate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_megabit_at_20_ms_is_filled_without_a_queue() {
        let (latency, rate) = (0.020, 12.5e6);
        let mut link = Link::new();
        link.run(1.0, latency, rate);
        link.run(300.0, latency, rate);
        assert!((8..=16).contains(&link.limit.get()), "{}", link.limit.get());
        assert!(link.share(300.0, rate) > 0.95, "{}", link.share(300.0, rate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_longer_or_slower_way_is_noticed() {
        let mut link = Link::new();
        link.run(5.0, 0.005, 50e6);
        link.run(30.0, 0.050, 125e6);
        link.run(5.0, 0.050, 125e6);
        assert!(link.share(5.0, 125e6) > 0.9, "{}", link.share(5.0, 125e6));
        link.run(5.0, 0.050, 10e6);
        assert!(link.limit.get() < 40, "{}", link.limit.get());
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_requests_halve_the_limit_once_a_burst() {
        let mut limit = Limit::new(256, Instant::now());
        let asked = Instant::now();
        tokio::time::advance(Duration::from_millis(10)).await;
        for _ in 0..16 {
            limit.cut(asked, Instant::now());
        }
        assert_eq!(limit.get(), 8);
        tokio::time::advance(Duration::from_millis(10)).await;
        for _ in 0..9 {
            tokio::time::advance(Duration::from_millis(10)).await;
            limit.cut(Instant::now(), Instant::now());
        }
        assert_eq!(limit.get(), LEAST, "never less");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_nobody_reached_stays() {
        let mut limit = Limit::new(256, Instant::now());
        for _ in 0..1000 {
            let asked = Instant::now();
            tokio::time::advance(Duration::from_millis(10)).await;
            limit.came(asked, Instant::now());
        }
        assert_eq!(limit.get(), FIRST);
    }
}
