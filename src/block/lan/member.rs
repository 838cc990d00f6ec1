//! One neighbour: its blocks, and how it is doing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::PATIENCE;
use crate::block::race::Health;
use crate::block::{Block, BlockStore, Error, Http, Verify};
use crate::eris::Reference;
use crate::lan::{Neighbour, Neighbours};

/// How long a neighbour may take to say whether it has a block. Whoever has it answers in milliseconds; the rest is for Wi-Fi that sleeps.
const HAS: Duration = Duration::from_secs(1);
/// A neighbour that gave a block in this time is asked for the next ones before others.
const LATELY: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Member {
    neighbour: Neighbour,
    store: Verify,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    health: Health,
    gave: Option<Instant>,
    /// When it last answered anything.
    answered: Option<Instant>,
    in_flight: usize,
    /// Why it is left alone.
    fault: Option<Error>,
}

impl Member {
    /// `None`: the address is none that can be called.
    pub fn new(neighbour: Neighbour) -> Option<Self> {
        let http = match Http::neighbour(neighbour.addr, PATIENCE) {
            Ok(http) => http,
            Err(error) => {
                tracing::warn!("{error}");
                return None;
            }
        };
        let state = State {
            health: Health::new(Instant::now()),
            gave: None,
            answered: None,
            in_flight: 0,
            fault: None,
        };
        Some(Self { neighbour, store: Verify::new(Arc::new(http)), state: Mutex::new(state) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.neighbour.addr
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it may be asked now: it is well, or it is time to find out.
    pub fn is_open(&self) -> bool {
        let mut state = self.state();
        state.health.is_up() || state.health.begin_probe(Instant::now())
    }

    /// Why it is left alone, if it may be well later: an error of this block.
    pub fn fault(&self, wanted: &Reference) -> Option<Error> {
        let mut error = self.state().fault.clone().filter(Error::is_transient)?;
        match &mut error {
            Error::Unavailable { reference, .. } => *reference = Some(*wanted),
            Error::TimedOut { reference, .. } => *reference = *wanted,
            _ => {}
        }
        Some(error)
    }

    /// When it last gave a block, if lately, and what it has to do now.
    pub fn merit(&self) -> Option<(Instant, usize)> {
        let state = self.state();
        let gave = state.gave.filter(|gave| gave.elapsed() < LATELY)?;
        Some((gave, state.in_flight))
    }

    pub async fn get(&self, neighbours: &Neighbours, reference: &Reference) -> Result<Block, Error> {
        let _busy = Busy::begin(self);
        let asked = Instant::now();
        let answer = self.store.get(reference).await;
        self.note(neighbours, asked, answer.as_ref().err());
        if answer.is_ok() {
            self.state().gave = Some(Instant::now());
        }
        answer
    }

    pub async fn has(&self, neighbours: &Neighbours, reference: &Reference) -> Result<bool, Error> {
        let asked = Instant::now();
        let answer = timeout(HAS, self.store.has(reference)).await.unwrap_or_else(|_| {
            Err(Error::TimedOut { reference: *reference, store: self.store.name().into(), after: HAS })
        });
        self.note(neighbours, asked, answer.as_ref().err());
        answer
    }

    /// Somebody else gave a block that it was asked for before. If it has answered nothing since, it is silent rather than slow.
    pub fn overtaken(&self, neighbours: &Neighbours, wanted: &Reference, asked: Instant) {
        if self.state().answered.is_none_or(|answered| answered < asked) {
            let store = self.store.name().into();
            let error = Error::TimedOut { reference: *wanted, store, after: asked.elapsed() };
            self.note(neighbours, asked, Some(&error));
        }
    }

    fn note(&self, neighbours: &Neighbours, asked: Instant, error: Option<&Error>) {
        let now = Instant::now();
        let mut state = self.state();
        let Some(error) = error.filter(|error| !matches!(error, Error::NotFound { .. })) else {
            state.health.good(asked, now);
            state.answered = Some(now);
            state.fault = None;
            return;
        };
        if !matches!(error, Error::TimedOut { .. }) {
            state.answered = Some(now);
        }
        let was_up = state.health.is_up();
        match error {
            // Nobody gives a wrong block by accident.
            Error::Corrupt { .. } | Error::Refused { .. } if was_up => state.health.fall(now),
            _ => state.health.bad(asked, error, now),
        }
        state.fault = Some(error.clone());
        let fell = was_up && !state.health.is_up();
        drop(state);
        if fell {
            tracing::warn!("a neighbour is left alone for a while: {error}");
            if error.is_transient() {
                neighbours.doubt(&self.neighbour);
            }
        }
    }
}

/// A request for a block that is under way.
struct Busy<'a>(&'a Member);

impl<'a> Busy<'a> {
    fn begin(member: &'a Member) -> Self {
        member.state().in_flight += 1;
        Self(member)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.state().in_flight -= 1;
    }
}
