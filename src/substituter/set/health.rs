//! Whether a server is worth waiting for.
//!
//! Two things are told apart. A server that was not ready when another one was is *late*: for a while nobody waits
//! for it who has a good answer, but that it is silent proves nothing. One that failed is *down*: it counts for
//! nothing until a request that nobody waits for finds it well. Time is the monotonic clock's alone.

use std::time::Duration;

use tokio::time::Instant;

use super::ServerState;

/// For how long a late server is not waited for: first, and at most. It doubles, since a server that is far away
/// stays so.
const LATE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));
/// How long after a failure a server is tried again: first, and at most. It doubles.
const DOWN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest that a server's Retry-After is followed.
const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// What to do with a server now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Ask it and wait for it.
    Wait,
    /// Ask it, and wait only while nobody has a good answer.
    Beside,
    /// Ask it to find out whether it is well again; nobody waits for it.
    Probe,
    /// Leave it alone.
    Pass,
}

#[derive(Debug, Default)]
pub(super) struct Health {
    late: Option<Instant>,
    late_times: u32,
    /// When it is tried next, since it is down.
    down: Option<Instant>,
    down_times: u32,
}

impl Health {
    pub(super) fn state(&self, now: Instant) -> ServerState {
        match (self.down, self.late) {
            (Some(_), _) => ServerState::Down,
            (None, Some(until)) if now < until => ServerState::Late,
            _ => ServerState::Up,
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.is_some()
    }

    /// What to do with it now. After [`Turn::Probe`] the next one is due only after the time in which it ends.
    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        match (self.down, self.state(now)) {
            (Some(due), _) if now < due => Turn::Pass,
            (Some(_), _) => {
                self.down = Some(now + DOWN.1);
                Turn::Probe
            }
            (None, ServerState::Late) => Turn::Beside,
            (None, _) => Turn::Wait,
        }
    }

    /// It answered while somebody waited, or was found well.
    pub(super) fn good(&mut self) {
        *self = Self::default();
    }

    /// Another one had a good answer, and this one none in the time that it was given.
    pub(super) fn late(&mut self, now: Instant) {
        self.late = Some(now + doubled(LATE, self.late_times));
        self.late_times += 1;
    }

    /// It failed, and asked to be left alone for so long.
    pub(super) fn failed(&mut self, now: Instant, retry_after: Option<Duration>) {
        let pause = doubled(DOWN, self.down_times).max(retry_after.unwrap_or_default().min(LONGEST_HOLD));
        self.down = Some(now + pause);
        self.down_times += 1;
    }
}

fn doubled((first, most): (Duration, Duration), times: u32) -> Duration {
    first.saturating_mul(1 << times.min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_late_server_is_asked_beside_others_for_a_while() {
        let mut health = Health::default();
        assert_eq!(health.turn(Instant::now()), Turn::Wait);
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            health.late(Instant::now());
            assert_eq!(
                (health.turn(Instant::now()), health.state(Instant::now())),
                (Turn::Beside, ServerState::Late)
            );
            advance(Duration::from_secs(seconds)).await;
            assert_eq!(
                (health.turn(Instant::now()), health.state(Instant::now())),
                (Turn::Wait, ServerState::Up)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_failed_is_down_until_a_probe_finds_it_well() {
        let mut health = Health::default();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            health.failed(Instant::now(), None);
            assert_eq!(
                (health.turn(Instant::now()), health.state(Instant::now())),
                (Turn::Pass, ServerState::Down)
            );
            advance(Duration::from_secs(seconds)).await;
            assert_eq!(health.turn(Instant::now()), Turn::Probe);
            assert_eq!(health.turn(Instant::now()), Turn::Pass, "one probe at a time");
        }
        health.good();
        assert_eq!(health.turn(Instant::now()), Turn::Wait);
        health.failed(Instant::now(), None);
        advance(Duration::from_secs(1)).await;
        assert_eq!(health.turn(Instant::now()), Turn::Probe, "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn retry_after_is_followed_within_reason() {
        let mut health = Health::default();
        health.failed(Instant::now(), Some(Duration::from_secs(86_400)));
        advance(Duration::from_secs(299)).await;
        assert_eq!(health.turn(Instant::now()), Turn::Pass);
        advance(Duration::from_secs(1)).await;
        assert_eq!(health.turn(Instant::now()), Turn::Probe);
    }
}
