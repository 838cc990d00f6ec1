//! Whether a source is worth asking: what it does wrong adds up until it is left alone for a while.
//!
//! The cool-down doubles each time, from a second to a minute, and ends with one request that finds out. Time is the monotonic
//! clock's alone.

use std::time::Duration;

use tokio::time::Instant;

use super::SourceState;
use crate::block::{Error, retry::jittered};

/// The first cool-down, and the longest. With jitter, from half of it to all of it.
const COOL_DOWN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest that a server's Retry-After is followed.
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// Failures that make a source cool down; a single one may be about the block alone.
const TOO_MUCH: f32 = 3.0;
/// What a good answer makes up for. A source that fails at more than one in nine requests sinks.
const AMENDS: f32 = 1.0 / 8.0;
/// Up for so long, a source begins anew with the shortest cool-down.
const TRUSTED: Duration = Duration::from_secs(10);
/// A source that gave a good answer this lately is not dead, whatever else it does.
const LATELY: Duration = Duration::from_secs(5);
/// A probe that has not ended after this long has been lost.
const PROBE_LOST: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug)]
enum Standing {
    Up { since: Instant },
    Cooling { since: Instant, until: Instant },
    Probing { since: Instant },
}

/// The health of one source.
#[derive(Clone, Debug)]
pub struct Health {
    standing: Standing,
    trouble: f32,
    /// Cool-downs in a row.
    falls: u32,
    /// The server has said not to come back before.
    held: Option<Instant>,
    last_good: Option<Instant>,
}

impl Health {
    pub fn new(now: Instant) -> Self {
        Self { standing: Standing::Up { since: now }, trouble: 0.0, falls: 0, held: None, last_good: None }
    }

    pub fn state(&self) -> SourceState {
        match self.standing {
            Standing::Up { .. } => SourceState::Up,
            Standing::Cooling { .. } => SourceState::CoolingDown,
            Standing::Probing { .. } => SourceState::Probing,
        }
    }

    pub fn is_up(&self) -> bool {
        matches!(self.standing, Standing::Up { .. })
    }

    /// Until when the server asked to be left alone.
    pub fn held(&self, now: Instant) -> Option<Instant> {
        self.held.filter(|until| *until > now)
    }

    /// Whether it is up, or gave a good answer so lately that more tries are worth their time.
    pub fn is_alive(&self, now: Instant) -> bool {
        self.is_up() || self.last_good.is_some_and(|last| now - last < LATELY)
    }

    /// Whether the cool-down is over and nobody is finding out yet.
    pub fn is_due(&self, now: Instant) -> bool {
        match self.standing {
            Standing::Up { .. } => false,
            Standing::Cooling { until, .. } => now >= until,
            Standing::Probing { since } => now.saturating_duration_since(since) > PROBE_LOST,
        }
    }

    /// Whether the cool-down is over and nobody is finding out yet; from now on, somebody is.
    pub fn begin_probe(&mut self, now: Instant) -> bool {
        let due = self.is_due(now);
        if due {
            self.standing = Standing::Probing { since: now };
        }
        due
    }

    /// The probe that began then found nothing out: the next one may begin.
    pub fn end_probe(&mut self, begun: Instant) {
        if matches!(self.standing, Standing::Probing { since } if since == begun) {
            self.standing = Standing::Cooling { since: begun, until: begun };
        }
    }

    /// A right answer to a request made at `asked`.
    pub fn good(&mut self, asked: Instant, now: Instant) {
        self.last_good = Some(now);
        self.trouble = (self.trouble - AMENDS).max(0.0);
        match self.standing {
            Standing::Up { since } if now - since > TRUSTED => self.falls = 0,
            // What was under way when it fell says nothing about now.
            Standing::Cooling { since, .. } | Standing::Probing { since } if asked >= since => {
                self.standing = Standing::Up { since: now };
                self.trouble = 0.0;
                self.held = None;
            }
            _ => {}
        }
    }

    /// A failure of a request made at `asked`.
    pub fn bad(&mut self, asked: Instant, error: &Error, now: Instant) {
        let hold = match error {
            Error::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        };
        match self.standing {
            Standing::Up { .. } => {
                let silent = matches!(error, Error::TimedOut { .. });
                self.trouble += if silent || hold.is_some() { TOO_MUCH } else { 1.0 };
                if self.trouble >= TOO_MUCH {
                    self.fall(now);
                }
            }
            Standing::Cooling { since, until } if asked >= since && now >= until => self.fall(now),
            Standing::Probing { since } if asked >= since => self.fall(now),
            _ => {}
        }
        if let Some(hold) = hold {
            let until = now + hold.min(LONGEST_HOLD);
            self.held = self.held.max(Some(until));
            if let Standing::Cooling { until: end, .. } = &mut self.standing {
                *end = until.max(*end);
            }
        }
    }

    /// Leaves the source alone for a while.
    pub fn fall(&mut self, now: Instant) {
        let length = COOL_DOWN.0.saturating_mul(1 << self.falls.min(10)).min(COOL_DOWN.1);
        self.falls += 1;
        self.trouble = 0.0;
        self.standing = Standing::Cooling { since: now, until: now + jittered(length) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;

    use super::*;

    fn unavailable(retry_after: Option<u64>) -> Error {
        let source = Arc::new(std::io::Error::other("busy"));
        let retry_after = retry_after.map(Duration::from_secs);
        Error::Unavailable { reference: None, store: "test:".into(), retry_after, source }
    }

    fn fail(health: &mut Health, times: u32) {
        (0..times).for_each(|_| health.bad(Instant::now(), &unavailable(None), Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn one_failure_is_forgiven_and_three_are_not() {
        let mut health = Health::new(Instant::now());
        fail(&mut health, 2);
        assert!(health.is_up());
        for _ in 0..100 {
            (0..10).for_each(|_| health.good(Instant::now(), Instant::now()));
            fail(&mut health, 1);
        }
        assert!(health.is_up(), "one in ten");
        fail(&mut health, 3);
        assert_eq!(health.state(), SourceState::CoolingDown);
    }

    #[tokio::test(start_paused = true)]
    async fn cool_downs_double_up_to_a_minute_and_one_probe_ends_them() {
        let mut health = Health::new(Instant::now());
        fail(&mut health, 3);
        for length in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            advance(Duration::from_secs(length) / 2 - Duration::from_millis(2)).await;
            assert!(!health.begin_probe(Instant::now()), "half of {length} s have not passed");
            advance(Duration::from_secs(length) / 2 + Duration::from_millis(4)).await;
            assert!(health.begin_probe(Instant::now()), "{length} s have passed");
            assert!(!health.begin_probe(Instant::now()), "one alone");
            fail(&mut health, 1);
        }
        advance(Duration::from_secs(61)).await;
        assert!(health.begin_probe(Instant::now()));
        health.good(Instant::now(), Instant::now());
        assert!(health.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_ended_without_a_verdict_leaves_room_for_the_next() {
        let mut health = Health::new(Instant::now());
        fail(&mut health, 3);
        advance(Duration::from_secs(2)).await;
        let begun = Instant::now();
        assert!(health.is_due(begun) && health.begin_probe(begun) && !health.is_due(begun));
        advance(Duration::from_millis(1)).await;
        health.end_probe(Instant::now());
        assert!(!health.is_due(Instant::now()), "it is another's");
        health.end_probe(begun);
        assert!(health.begin_probe(Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_an_older_request_brings_no_source_back() {
        let mut health = Health::new(Instant::now());
        let before = Instant::now();
        advance(Duration::from_millis(1)).await;
        fail(&mut health, 3);
        advance(Duration::from_millis(1)).await;
        health.good(before, Instant::now());
        assert!(!health.is_up());
        health.good(Instant::now(), Instant::now());
        assert!(health.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_followed_within_reason() {
        for (said, followed) in [(7, 7), (100_000, 300)] {
            let mut health = Health::new(Instant::now());
            health.bad(Instant::now(), &unavailable(Some(said)), Instant::now());
            advance(Duration::from_secs(followed) - Duration::from_millis(1)).await;
            assert!(health.held(Instant::now()).is_some() && !health.begin_probe(Instant::now()));
            advance(Duration::from_millis(2)).await;
            assert!(health.held(Instant::now()).is_none() && health.begin_probe(Instant::now()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flapping_source_is_left_alone_for_longer_each_time() {
        let mut health = Health::new(Instant::now());
        for _ in 0..6 {
            fail(&mut health, 3);
            while !health.begin_probe(Instant::now()) {
                advance(Duration::from_millis(100)).await;
            }
            health.good(Instant::now(), Instant::now());
        }
        let begun = Instant::now();
        fail(&mut health, 3);
        while !health.begin_probe(Instant::now()) {
            advance(Duration::from_millis(100)).await;
        }
        assert!(begun.elapsed() >= Duration::from_secs(30));
        health.good(Instant::now(), Instant::now());
        advance(Duration::from_secs(11)).await;
        health.good(Instant::now(), Instant::now());
        fail(&mut health, 3);
        advance(Duration::from_secs(1)).await;
        assert!(health.begin_probe(Instant::now()), "it begins anew after some time without fault");
    }
}
