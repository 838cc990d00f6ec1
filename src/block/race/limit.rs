//! How many requests a source across a network is to have in flight: enough to fill the link, and no long queue in front of it.
//!
//! What fills a link is its rate times its latency without a queue, as in TCP BBR (Cardwell and others, 2016). Both are measured round by
//! round; twice their product is allowed, because requests come in bursts, so a foreground read waits behind one latency of
//! queue at the most. At first the number doubles, round by round, while that brings more.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Before anything is known: half a megabyte of large blocks, which a slow link of 10 MB/s has sent in 50 ms.
const FIRST: usize = 16;
/// Fewer would leave a source idle between an answer and the next request: a frame that does not compress.
const LEAST: usize = 8;
/// Above this nothing is gained on the links in question: 1 Gbit/s at 50 ms is filled by 190 large blocks.
const MOST: usize = 256;
/// What fills the link is allowed so many times, and so many requests more.
const GAIN: (f64, f64) = (2.0, 4.0);
/// While the number doubles, a round must be so much faster than the best before it.
const GROWTH: f64 = 1.25;
/// So many rounds without such growth end the doubling: one may have had bad luck.
const PATIENCE: usize = 2;
/// Rounds whose best rate counts. A source that became slower is known as such after them.
const ROUNDS: usize = 4;
/// The latency without a queue is taken from one in so many answers of a round, the fastest: a server has some blocks in memory,
/// and those that come at once say nothing about the way of the others.
const FASTEST: usize = 4;
/// Answers that a round has at the least, so that a fourth of them is more than chance.
const ENOUGH: usize = 12;
/// The shortest latency is believed for so long; then the queue is let run dry once to see it anew. The route may have changed.
const BELIEVED: Duration = Duration::from_secs(15);

/// The requests that may be in flight to one source.
#[derive(Debug)]
pub struct Limit {
    now: usize,
    most: usize,
    /// Rounds without growth while the number doubles; `None` once it does no more.
    starting: Option<usize>,
    /// Answers a second of the last rounds.
    rates: VecDeque<f64>,
    shortest: Option<Duration>,
    /// When an answer was last about as fast as the shortest.
    confirmed: Instant,
    round: Round,
    /// When it was last cut for failures.
    cut: Option<Instant>,
    /// The limit to go back to, while the queue is let run dry.
    draining: Option<usize>,
}

/// From its beginning until enough requests that were made since then were answered.
#[derive(Debug)]
struct Round {
    begun: Instant,
    answers: usize,
    /// Latencies of requests that were made in this round.
    own: Vec<Duration>,
    /// Whether somebody had to wait: a limit that is not reached is not to be judged.
    pressed: bool,
}

impl Round {
    fn new(begun: Instant) -> Self {
        Round { begun, answers: 0, own: Vec::new(), pressed: false }
    }
}

impl Limit {
    /// For a source that bears at most `most` requests.
    pub fn new(most: usize, now: Instant) -> Self {
        let most = most.clamp(1, MOST);
        Self {
            now: FIRST.min(most),
            most,
            starting: Some(0),
            rates: VecDeque::with_capacity(ROUNDS),
            shortest: None,
            confirmed: now,
            round: Round::new(now),
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
        self.round.pressed = true;
    }

    /// A block that was asked for at `asked` came.
    pub fn came(&mut self, asked: Instant, now: Instant) {
        let round = &mut self.round;
        round.answers += 1;
        if asked >= round.begun {
            round.own.push(now - asked);
        }
        // Of what is in flight the fast answers come first: most must be there, or only those would be seen.
        if round.own.len() >= (self.now * 3 / 4).max(ENOUGH) {
            self.judge(now);
        }
    }

    /// A request made at `asked` failed in a way that says too much was asked. One burst of failures counts once.
    pub fn cut(&mut self, asked: Instant, now: Instant) {
        if self.cut.is_none_or(|cut| asked >= cut) {
            self.starting = None;
            self.cut = Some(now);
            self.rates.clear();
            self.change(self.now / 2, now);
        }
    }

    /// A round has ended.
    fn judge(&mut self, now: Instant) {
        let elapsed = (now - self.round.begun).max(Duration::from_micros(1));
        let rate = self.round.answers as f64 / elapsed.as_secs_f64();
        let (pressed, best) = (self.round.pressed, self.best());
        let place = self.round.own.len() / FASTEST;
        let fastest = *self.round.own.select_nth_unstable(place).1;
        if let Some(before) = self.draining.take() {
            // A longer way bears more in flight: it is found like a new one.
            let longer = self.shortest.is_some_and(|known| fastest > known.mul_f64(GROWTH));
            self.starting = longer.then_some(0);
            self.shortest = Some(fastest);
            self.confirmed = now;
            return self.change(before, now);
        }
        let shortest = *self.shortest.get_or_insert(fastest);
        if fastest <= shortest.mul_f64(1.05) {
            self.confirmed = now;
            self.shortest = Some(shortest.min(fastest));
        }
        // Of a round in which less was asked for than may be, only that it was faster says something.
        if pressed || rate > best {
            if self.rates.len() == ROUNDS {
                self.rates.pop_front();
            }
            self.rates.push_back(rate);
        }
        if !pressed {
            return self.change(self.now, now);
        }
        if now - self.confirmed > BELIEVED {
            let before = self.now;
            self.change((self.filling() / 2.0) as usize, now);
            self.draining = Some(before);
            return;
        }
        match self.starting {
            Some(_) if rate > best * GROWTH => {
                self.starting = Some(0);
                self.change(self.now * 2, now);
            }
            Some(rounds) if rounds + 1 < PATIENCE => {
                self.starting = Some(rounds + 1);
                self.change(self.now, now);
            }
            _ => {
                self.starting = None;
                self.change((self.filling() * GAIN.0 + GAIN.1) as usize, now);
            }
        }
    }

    /// The best rate lately.
    fn best(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    /// Requests that fill the link without a queue.
    fn filling(&self) -> f64 {
        self.best() * self.shortest.unwrap_or_default().as_secs_f64()
    }

    fn change(&mut self, limit: usize, now: Instant) {
        self.now = limit.clamp(LEAST.min(self.most), self.most);
        self.round = Round::new(now);
        self.draining = None;
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
    async fn a_hundred_megabit_at_20_ms_is_filled_with_a_short_queue() {
        let (latency, rate) = (0.020, 12.5e6);
        let mut link = Link::new();
        link.run(1.0, latency, rate);
        link.run(300.0, latency, rate);
        assert!((8..=32).contains(&link.limit.get()), "{}", link.limit.get());
        assert!(link.share(300.0, rate) > 0.95, "{}", link.share(300.0, rate));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_some_blocks_in_memory_is_asked_for_as_much() {
        let mut limit = Limit::new(256, Instant::now());
        for round in 0..200 {
            let asked = Instant::now();
            limit.press();
            tokio::time::advance(Duration::from_millis(1)).await;
            (0..limit.get() / 10).for_each(|_| limit.came(asked, Instant::now()));
            tokio::time::advance(Duration::from_millis(39)).await;
            (0..limit.get() * 9 / 10).for_each(|_| limit.came(asked, Instant::now()));
            assert!(round < 20 || limit.get() > 100, "{} in round {round}", limit.get());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_longer_or_slower_way_is_noticed() {
        let mut link = Link::new();
        link.run(5.0, 0.005, 50e6);
        link.run(30.0, 0.050, 125e6);
        link.run(5.0, 0.050, 125e6);
        assert!(link.share(5.0, 125e6) > 0.9, "{}", link.share(5.0, 125e6));
        link.run(15.0, 0.050, 10e6);
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
