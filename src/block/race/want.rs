//! One block of a batch that has no answer yet: who was asked, what they said, and whom to ask next.

use std::{sync::Arc, time::Duration};

use futures::future::AbortHandle;
use tokio::time::Instant;

use super::source::Standing;
use crate::block::{Error, retry::jittered};
use crate::eris::Reference;

/// How long after its first failure at every source a block is tried anew. A server's restart, or a network that comes back,
/// fits in; whoever asks has a deadline of its own.
const ROUNDS: Duration = Duration::from_secs(6);
/// The wait before the second round, half to all of it by chance; each later one is three times as long. Four rounds more.
const FIRST_PAUSE: Duration = Duration::from_millis(150);

/// Sources for which is noted that others should be asked first; that many fit in a word, and nobody has more.
pub const HINTS: usize = u64::BITS as usize;

/// A block that is to be had.
#[derive(Debug)]
pub struct Want {
    pub reference: Reference,
    /// How often it was asked for: duplicates are fetched once and answered each.
    pub copies: usize,
    /// Answered; kept in its place because requests know it by that.
    pub settled: bool,
    /// Requests under way.
    pub asks: Vec<Asked>,
    /// The source that it waits for a turn at.
    pub queued: Option<usize>,
    /// Nobody better being left, a source that cools down is asked, until then.
    pub forced_until: Option<Instant>,
    /// When its next round begins, if one was set.
    pub again_at: Option<Instant>,
    /// A bit for each source that is not to be asked before the others.
    pub unlikely: u64,
    failures: Vec<Failure>,
    round: u32,
    rounds_end: Option<Instant>,
}

#[derive(Debug)]
pub struct Asked {
    pub source: usize,
    pub at: Instant,
    pub hedge: bool,
    /// Cancels it; a request for many blocks goes on for the others.
    pub abort: Option<AbortHandle>,
}

impl Asked {
    pub fn cancel(self) {
        if let Some(abort) = self.abort {
            abort.abort();
        }
    }
}

/// The last failure of one source at this block.
#[derive(Debug)]
struct Failure {
    source: usize,
    error: Error,
    round: u32,
    times: u32,
}

impl Failure {
    /// Whether asking again may help: what is transient, and once a block that came wrong.
    fn may_pass(&self) -> bool {
        self.error.is_transient() || matches!(self.error, Error::Corrupt { .. }) && self.times < 2
    }
}

/// What to do when every source has failed.
pub enum Outcome {
    /// Begin anew then.
    Again(Instant),
    /// Only a source that cools down may still answer.
    Wait,
    Failed(Vec<Error>),
}

impl Want {
    pub fn new(reference: Reference) -> Self {
        Self {
            reference,
            copies: 1,
            settled: false,
            asks: Vec::new(),
            queued: None,
            forced_until: None,
            again_at: None,
            unlikely: 0,
            failures: Vec::new(),
            round: 0,
            rounds_end: None,
        }
    }

    pub fn failed(&mut self, source: usize, error: Error) {
        let round = self.round;
        match self.failures.iter_mut().find(|failure| failure.source == source) {
            Some(failure) => {
                (failure.error, failure.round) = (error, round);
                failure.times += 1;
            }
            None => self.failures.push(Failure { source, error, round, times: 1 }),
        }
    }

    fn is_likely(&self, source: usize) -> bool {
        source >= HINTS || self.unlikely & 1 << source == 0
    }

    /// Whether the source has said that it lacks the block.
    pub fn is_lacked_by(&self, source: usize) -> bool {
        self.failures.iter().any(|f| f.source == source && matches!(f.error, Error::NotFound { .. }))
    }

    pub fn is_asked_of(&self, source: usize) -> bool {
        self.asks.iter().any(|ask| ask.source == source)
    }

    /// Whether this source can still be asked in this round.
    fn is_left(&self, source: usize) -> bool {
        let spent = |f: &Failure| f.source == source && (f.round == self.round || !f.may_pass());
        self.queued != Some(source) && !self.is_asked_of(source) && !self.failures.iter().any(spent)
    }

    /// The best source left that is up: first of those that may have the block, then of the others.
    pub fn next_up(&self, standings: &[Standing]) -> Option<usize> {
        let left = |source: &usize| standings[*source].up && self.is_left(*source);
        let sources = 0..standings.len();
        sources
            .clone()
            .find(|source| self.is_likely(*source) && left(source))
            .or_else(|| sources.clone().find(left))
    }

    /// The best source that is up and may have the block.
    pub fn next_likely(&self, standings: &[Standing]) -> Option<usize> {
        self.next_up(standings).filter(|source| self.is_likely(*source))
    }

    /// The best source left that cools down, unless it asked to be left alone: first of those that were well lately.
    pub fn next_down(&self, standings: &[Standing]) -> Option<usize> {
        let left = |source: &usize| {
            !standings[*source].up && standings[*source].held.is_none() && self.is_left(*source)
        };
        let mut sources = (0..standings.len()).filter(left);
        sources.clone().find(|source| standings[*source].alive).or_else(|| sources.next())
    }

    /// Whether a source that is well, or was lately, failed by accident in this round: a new round is more likely to help than
    /// the others.
    pub fn may_come_again(&self, standings: &[Standing]) -> bool {
        // What is out of reach of a source that is well is rather to be had elsewhere.
        let by_accident = |f: &Failure| f.may_pass() && !matches!(f.error, Error::Partial { .. });
        let hopeful = |f: &Failure| f.round == self.round && standings[f.source].alive && by_accident(f);
        self.failures.iter().any(hopeful)
    }

    /// Every source that is up was asked in this round and failed.
    pub fn conclude(
        &mut self,
        standings: &[Standing],
        alive: &[bool],
        now: Instant,
        last_error: impl Fn(usize) -> Option<Error>,
    ) -> Outcome {
        let end = *self.rounds_end.get_or_insert(now + ROUNDS);
        let mut again: Option<Instant> = None;
        for (source, standing) in standings.iter().enumerate() {
            let failure = self.failures.iter().find(|failure| failure.source == source);
            let hopeful = failure.is_none_or(Failure::may_pass) && (alive[source] || standing.alive);
            // One that asked for a time may be worth waiting for, dead or alive.
            let waited_for = failure.is_none_or(Failure::may_pass) && standing.held.is_some();
            if hopeful || waited_for {
                let from = standing.held.unwrap_or(now);
                again = Some(again.map_or(from, |again| again.min(from)));
            }
        }
        let pause = jittered(FIRST_PAUSE * 3_u32.pow(self.round.min(8)));
        if let Some(again) = again.map(|from| from + pause).filter(|again| *again <= end) {
            self.round += 1;
            return Outcome::Again(again);
        }
        if !self.asks.is_empty() || self.queued.is_some() {
            return Outcome::Wait;
        }
        // A source that was left alone has no failure of this block; its last one tells why.
        let unasked = (0..standings.len())
            .filter(|source| self.failures.iter().all(|failure| failure.source != *source))
            .filter_map(last_error)
            .collect::<Vec<_>>();
        let failures = std::mem::take(&mut self.failures).into_iter().map(|failure| failure.error);
        Outcome::Failed(failures.chain(unasked).collect())
    }
}

/// The one error that stands for the failures of all sources.
pub fn all_failed(reference: Reference, name: &Arc<str>, mut failures: Vec<Error>) -> Error {
    if failures.iter().all(|error| matches!(error, Error::NotFound { .. })) {
        return Error::NotFound { reference, store: name.clone() };
    }
    match failures.len() {
        1 => failures.remove(0),
        _ => Error::AllFailed { reference, failures: failures.into() },
    }
}
