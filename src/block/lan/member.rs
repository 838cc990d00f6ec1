//! One neighbour: its blocks, and how it is doing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Client;
use tokio::time::{Instant, timeout};

use super::PATIENCE;
use crate::block::race::{Health, Latencies};
use crate::block::retry::jittered;
use crate::block::{Block, BlockStore, Error, Http, Verify};
use crate::eris::Reference;
use crate::lan::{Neighbour, Neighbours};

/// How long a neighbour may take to say whether it has a block. Whoever has it answers in milliseconds; the rest is for Wi-Fi that sleeps.
const HAS: Duration = Duration::from_secs(1);
/// A neighbour that gave a block in this time is asked for the next ones before others.
const LATELY: Duration = Duration::from_secs(30);
/// The soonest that a block is late. On a link it comes in milliseconds; a neighbour that is busy with others, or that stalls, costs no
/// more than this where another one has the block.
pub const LATE: Duration = Duration::from_millis(250);
/// A block is late after so many times what this neighbour's blocks usually take: 16 of them in flight share a slow Wi-Fi.
const LATE_TIMES: u32 = 3;
/// And no later than this.
const LATEST: Duration = Duration::from_secs(2);
/// One that asks for no more than this has others to serve, and is well.
const SHORT_HOLD: Duration = Duration::from_secs(2);
/// Short holds in a row, with no block between them, after which it is a neighbour that fails.
const HOLDS: u32 = 4;
/// All who were told the same are not to come back at the same moment.
const SPREAD: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub struct Member {
    addr: SocketAddr,
    store: Verify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    neighbour: Neighbour,
    health: Health,
    latencies: Latencies,
    gave: Option<Instant>,
    /// When a request for a block was last answered, whatever the answer, and when any request was.
    answered: Option<Instant>,
    heard: Option<Instant>,
    in_flight: usize,
    /// Why it is left alone.
    fault: Option<Error>,
    /// Until when it has others to serve; how often in a row it said so.
    busy_until: Option<Instant>,
    holds: u32,
}

/// Whether a neighbour may be asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// It is well, or it is time to find out.
    Open,
    /// It is well, and has no time for blocks until then.
    Busy(Instant),
    /// It is left alone.
    Shut,
}

impl Member {
    /// Nothing is known of it but what was known `before` of another service of the same host. `None`: the address is none that can be
    /// called.
    pub fn new(neighbour: Neighbour, client: &Client, before: Option<&Member>) -> Option<Self> {
        let addr = neighbour.addr;
        let http = match Http::neighbour(addr, PATIENCE, client) {
            Ok(http) => http,
            Err(error) => {
                tracing::warn!("{error}");
                return None;
            }
        };
        let before = before.map(|before| {
            let state = before.state();
            (state.health.clone(), state.fault.clone())
        });
        let (health, fault) = before.unwrap_or_else(|| (Health::new(Instant::now()), None));
        let state = State {
            neighbour,
            health,
            latencies: Latencies::default(),
            gave: None,
            answered: None,
            heard: None,
            in_flight: 0,
            fault,
            busy_until: None,
            holds: 0,
        };
        Some(Self { addr, store: Verify::new(Arc::new(http)), state: Mutex::new(state) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// It is announced like this now.
    pub fn renew(&self, neighbour: &Neighbour) {
        self.state().neighbour = neighbour.clone();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn standing(&self) -> Standing {
        let (state, now) = (self.state(), Instant::now());
        match state.busy_until.filter(|until| *until > now) {
            _ if !state.health.is_up() && !state.health.is_due(now) => Standing::Shut,
            Some(until) if state.health.is_up() => Standing::Busy(until),
            _ => Standing::Open,
        }
    }

    /// Why it is left alone, or was.
    pub fn fault(&self) -> Option<Error> {
        self.state().fault.clone()
    }

    /// When it last gave a block, if lately, and what it has to do now.
    pub fn merit(&self) -> Option<(Instant, usize)> {
        let state = self.state();
        let gave = state.gave.filter(|gave| gave.elapsed() < LATELY)?;
        Some((gave, state.in_flight))
    }

    /// After how long a block of it is late.
    pub fn late(&self) -> Duration {
        let state = self.state();
        let usual = state.latencies.p95().or(state.latencies.average());
        usual.map_or(LATE, |usual| (usual * LATE_TIMES).clamp(LATE, LATEST))
    }

    /// Whether no request for a block was answered since then.
    pub fn is_silent_since(&self, asked: Instant) -> bool {
        self.state().answered.is_none_or(|answered| answered < asked)
    }

    pub async fn get(&self, neighbours: &Neighbours, reference: &Reference) -> Result<Block, Error> {
        let mut request = Request::begin(self, neighbours, reference, true);
        let answer = self.store.get(reference).await;
        request.is_ended = true;
        let (asked, now) = (request.asked, Instant::now());
        if !matches!(answer, Err(Error::TimedOut { .. })) {
            self.state().answered = Some(now);
        }
        match &answer {
            Ok(_) => {
                self.well(asked, now);
                let mut state = self.state();
                state.latencies.add(now - asked);
                (state.gave, state.holds, state.busy_until) = (Some(now), 0, None);
            }
            Err(Error::NotFound { .. }) => self.well(asked, now),
            Err(error) => self.failed(neighbours, asked, error),
        }
        answer
    }

    /// `None`: it has fallen, and somebody else is finding out how it is.
    pub async fn has(&self, neighbours: &Neighbours, reference: &Reference) -> Option<Result<bool, Error>> {
        let mut request = Request::begin(self, neighbours, reference, false);
        if !request.is_probe && !self.state().health.is_up() {
            request.is_ended = true;
            return None;
        }
        let answer = timeout(HAS, self.store.has(reference)).await.unwrap_or_else(|_| {
            Err(Error::TimedOut { reference: *reference, store: self.store.name().into(), after: HAS })
        });
        request.is_ended = true;
        let asked = request.asked;
        match &answer {
            // To say so is easy: whether it is well shows when it gives the block.
            Ok(true) => {
                let mut state = self.state();
                state.heard = Some(Instant::now());
                state.health.end_probe(asked);
            }
            Ok(false) => self.well(asked, Instant::now()),
            Err(error) => self.failed(neighbours, asked, error),
        }
        Some(answer)
    }

    /// It gave a right answer.
    fn well(&self, asked: Instant, now: Instant) {
        let mut state = self.state();
        state.health.good(asked, now);
        state.heard = Some(now);
        state.fault = None;
    }

    fn failed(&self, neighbours: &Neighbours, asked: Instant, error: &Error) {
        let now = Instant::now();
        let mut state = self.state();
        if !matches!(error, Error::TimedOut { .. }) {
            state.heard = Some(now);
        }
        let was_up = state.health.is_up();
        match error {
            Error::Unavailable { retry_after: Some(hold), .. }
                if *hold <= SHORT_HOLD && was_up && state.holds < HOLDS =>
            {
                // Answers to what was asked before say the same once more.
                if state.busy_until.is_none_or(|until| until <= asked) {
                    state.holds += 1;
                    state.busy_until = Some(now + *hold + jittered(SPREAD));
                }
            }
            // Nobody gives a wrong block by accident.
            Error::Corrupt { .. } | Error::Refused { .. } if was_up => state.health.fall(now),
            _ => state.health.bad(asked, error, now),
        }
        state.fault = Some(error.clone());
        if !was_up || state.health.is_up() {
            return;
        }
        (state.gave, state.busy_until, state.holds) = (None, None, 0);
        let neighbour = state.neighbour.clone();
        drop(state);
        tracing::warn!("a neighbour is left alone for a while: {error}");
        if error.is_transient() {
            neighbours.doubt(&neighbour);
        }
    }
}

/// A request that is under way. One that nobody waits for any more is noted, too, if the answer was late: else a neighbour that
/// stalls would never be held to account, because whoever asked has gone elsewhere long before.
struct Request<'a> {
    member: &'a Member,
    neighbours: &'a Neighbours,
    reference: Reference,
    asked: Instant,
    is_get: bool,
    /// It finds out whether a neighbour that had fallen is back.
    is_probe: bool,
    is_ended: bool,
}

impl<'a> Request<'a> {
    fn begin(member: &'a Member, neighbours: &'a Neighbours, reference: &Reference, is_get: bool) -> Self {
        let asked = Instant::now();
        let mut state = member.state();
        let is_probe = state.health.begin_probe(asked);
        state.in_flight += usize::from(is_get);
        drop(state);
        Self { member, neighbours, reference: *reference, asked, is_get, is_probe, is_ended: false }
    }

    /// Nobody waits any more.
    fn abandoned(&self) {
        let after = self.asked.elapsed();
        if after >= self.member.late() {
            let mut state = self.member.state();
            let last = if self.is_get { state.answered } else { state.heard };
            if last.is_none_or(|last| last < self.asked) {
                drop(state);
                let store = self.member.store.name().into();
                let error = Error::TimedOut { reference: self.reference, store, after };
                return self.member.failed(self.neighbours, self.asked, &error);
            }
            // It answers others: it is slow rather than silent.
            if self.is_get {
                state.latencies.note(after);
                state.gave = None;
            }
        }
        if self.is_probe {
            self.member.state().health.end_probe(self.asked);
        }
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.member.state().in_flight -= usize::from(self.is_get);
        if !self.is_ended {
            self.abandoned();
        }
    }
}
