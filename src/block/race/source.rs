//! One source of a race: the store, what is known of its health, and the requests it has in flight.
//!
//! Every request is an [`Ask`]: whoever makes it holds the ask, and dropping that, at the end or because nobody waits any more,
//! gives back what it held. All knowledge is under one lock, held for some nanoseconds.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

use super::{
    SourceStatus,
    health::Health,
    latency::{Latencies, Meter},
    limit::Limit,
};
use crate::{
    block::{Block, BlockStore, Error},
    eris::Reference,
};

/// The longest silence of a source while requests wait, if another could be asked. It is what a dead first source costs, once.
const SILENCE: Duration = Duration::from_secs(1);
/// The shortest: below it, a lost packet and its repetition would look like death.
const SHORT_SILENCE: Duration = Duration::from_millis(400);
/// A source has to be silent for so many times its p95.
const SILENCE_P95S: u32 = 8;
/// No block is late before this, whatever the p95: schedulers and sleeping radios take as long.
const LATE: Duration = Duration::from_millis(20);
/// A block that took this long, and several times the p95, is asked of another source in any case.
const OVERDUE: (Duration, u32) = (Duration::from_secs(3), 4);
/// After lacking so many blocks in a row, a source is asked for a sample only: it does not have this content.
const HOPELESS: u64 = 32;
/// One in so many blocks is the sample.
const SAMPLE: u64 = 32;
/// So long after the last lack, a hopeless source is asked for everything again.
const HOPELESS_FOR: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Source {
    pub store: Arc<dyn BlockStore>,
    pub name: Arc<str>,
    /// For a source across a network: the requests it may have in flight. Others bound themselves.
    permits: Option<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    health: Health,
    latencies: Latencies,
    meter: Meter,
    limit: Limit,
    /// Permits there are, in the semaphore or held; above the limit until enough are given back.
    permits: usize,
    in_flight: usize,
    /// Since when, with requests in flight, no answer came.
    quiet_since: Instant,
    lacked_in_row: u64,
    lacked_last: Instant,
    skipped: u64,
    asked: u64,
    answered: u64,
    bytes: u64,
    lacked: u64,
    failed: u64,
    hedges: u64,
    hedges_won: u64,
    last_error: Option<Error>,
}

/// When the answers of a source count as late.
#[derive(Clone, Copy, Debug)]
pub struct Lateness {
    /// When its silence has lasted too long, if it lasts.
    pub silent_at: Instant,
    /// After how long a block is late; `None` while too little is known.
    pub late: Option<Duration>,
    /// After how long a block is no longer waited for alone.
    pub overdue: Duration,
}

/// Whether a source can be asked.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    pub up: bool,
    pub alive: bool,
    /// Until when the server asked to be left alone.
    pub held: Option<Instant>,
}

impl Source {
    pub fn new(store: Arc<dyn BlockStore>) -> Self {
        let now = Instant::now();
        let limit = Limit::new(store.concurrency(), now);
        let state = State {
            health: Health::new(now),
            latencies: Latencies::default(),
            meter: Meter::default(),
            permits: limit.get(),
            limit,
            in_flight: 0,
            quiet_since: now,
            lacked_in_row: 0,
            lacked_last: now,
            skipped: 0,
            asked: 0,
            answered: 0,
            bytes: 0,
            lacked: 0,
            failed: 0,
            hedges: 0,
            hedges_won: 0,
            last_error: None,
        };
        let permits = store.is_remote().then(|| Semaphore::new(state.permits));
        Self { name: store.name().into(), store, permits, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests are made one by one, each with a permit.
    pub fn is_limited(&self) -> bool {
        self.permits.is_some()
    }

    /// A permit for one request, if one is free and nobody waits for it.
    pub fn try_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.as_ref()?.try_acquire().ok()
    }

    /// Somebody holds requests back because of the limit.
    pub fn press(&self) {
        self.state().limit.press();
    }

    /// A permit when it is one's turn; the limit is felt.
    pub fn permit(&self) -> BoxFuture<'_, Option<SemaphorePermit<'_>>> {
        self.state().limit.press();
        Box::pin(async { self.permits.as_ref()?.acquire().await.ok() })
    }

    /// Begins requests for `count` blocks.
    pub fn ask<'a>(&'a self, count: usize, permit: Option<SemaphorePermit<'a>>, hedge: bool) -> Ask<'a> {
        let now = Instant::now();
        let mut state = self.state();
        if state.in_flight == 0 {
            state.quiet_since = now;
            state.meter.run(true, now);
        }
        state.in_flight += count;
        state.asked += count as u64;
        state.hedges += u64::from(hedge);
        Ask { source: self, asked: now, open: count, permit }
    }

    pub fn standing(&self, now: Instant) -> Standing {
        let state = self.state();
        let (up, alive) = (state.health.is_up(), state.health.is_alive(now));
        Standing { up, alive, held: state.health.held(now) }
    }

    pub fn lateness(&self) -> Lateness {
        let state = self.state();
        let p95 = state.latencies.p95();
        let silence = p95.map_or(SILENCE, |p95| (p95 * SILENCE_P95S).clamp(SHORT_SILENCE, SILENCE));
        // What is not across a network answers in batches, and its latency says more about the batch than about the source.
        let late = p95.filter(|_| self.is_limited()).map(|p95| p95.max(LATE));
        let overdue = p95.map_or(OVERDUE.0, |p95| OVERDUE.0.max(p95 * OVERDUE.1));
        // Nothing in flight, nothing to be silent about.
        let quiet_since = if state.in_flight > 0 { state.quiet_since } else { Instant::now() };
        Lateness { silent_at: quiet_since + silence, late, overdue }
    }

    /// The source kept silent while others could answer.
    pub fn stalled(&self, reference: Reference) {
        let now = Instant::now();
        let mut state = self.state();
        if state.health.is_up() {
            state.health.fall(now);
            state.failed += 1;
            let after = now - state.quiet_since;
            if state.answered > 0 {
                tracing::warn!("{} is passed over for a while: silent for {after:.1?}", self.name);
            }
            state.last_error = Some(Error::TimedOut { reference, store: self.name.clone(), after });
            state.limit.cut(now, now);
            self.fit(&mut state);
        }
    }

    /// The last failure as one that met this block.
    pub fn last_error(&self, wanted: Reference) -> Option<Error> {
        let mut error = self.state().last_error.clone()?;
        match &mut error {
            Error::Unavailable { reference, .. } => *reference = Some(wanted),
            Error::TimedOut { reference, .. } | Error::Corrupt { reference, .. } => *reference = wanted,
            _ => {}
        }
        Some(error)
    }

    /// Whether to pass the source over for this block, because it lacks whatever it is asked for lately.
    pub fn is_hopeless(&self, now: Instant) -> bool {
        let mut state = self.state();
        if state.lacked_in_row < HOPELESS || now - state.lacked_last >= HOPELESS_FOR {
            return false;
        }
        state.skipped += 1;
        !state.skipped.is_multiple_of(SAMPLE)
    }

    /// A block was put to the source, so it may have more of what it lacked.
    pub fn was_given(&self) {
        self.state().lacked_in_row = 0;
    }

    pub fn hedge_won(&self) {
        self.state().hedges_won += 1;
    }

    /// A request was overtaken by another source after so long.
    pub fn overtaken(&self, asked: Instant) {
        self.state().latencies.note(asked.elapsed());
    }

    /// The limit now; for a source that bounds itself, what it likes.
    pub fn limit(&self) -> usize {
        if self.is_limited() { self.state().limit.get() } else { self.store.concurrency() }
    }

    pub fn status(&self) -> SourceStatus {
        let limit = self.limit();
        let state = self.state();
        SourceStatus {
            name: self.name.to_string(),
            state: state.health.state(),
            latency: state.latencies.average(),
            p95: state.latencies.p95(),
            throughput: state.meter.rate(),
            limit,
            in_flight: state.in_flight,
            asked: state.asked,
            answered: state.answered,
            bytes: state.bytes,
            lacked: state.lacked,
            failed: state.failed,
            hedges: state.hedges,
            hedges_won: state.hedges_won,
            last_error: state.last_error.as_ref().map(Error::to_string),
        }
    }

    /// After a cool-down, asks for one block in the background to find out whether the source is back. Its answer must come
    /// within the silence that is borne of a source that is up.
    pub fn probe_if_due(self: &Arc<Self>, reference: Reference) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if !self.state().health.begin_probe(Instant::now()) {
            return;
        }
        let source = self.clone();
        runtime.spawn(async move {
            let mut ask = source.ask(1, None, false);
            let answer = timeout(SILENCE, source.store.get(&reference)).await.unwrap_or_else(|_| {
                Err(Error::TimedOut { reference, store: source.name.clone(), after: SILENCE })
            });
            ask.answered(&answer);
        });
    }

    /// Notes what became of a request.
    fn note(&self, asked: Instant, answer: &Result<Block, Error>) {
        let now = Instant::now();
        let mut state = self.state();
        state.quiet_since = now;
        match answer {
            Ok(block) => {
                state.answered += 1;
                state.bytes += block.len() as u64;
                state.lacked_in_row = 0;
                state.meter.add(block.len(), now);
                state.latencies.add(now - asked);
                state.limit.came(asked, now);
                state.health.good(asked, now);
            }
            Err(Error::NotFound { .. }) => {
                state.lacked += 1;
                state.lacked_in_row += 1;
                state.lacked_last = now;
                state.health.good(asked, now);
            }
            // The store answers; which of its parts do not is its own concern.
            Err(Error::Partial { .. }) => state.health.good(asked, now),
            Err(error) => {
                state.failed += 1;
                state.last_error = Some(error.clone());
                let was_up = state.health.is_up();
                state.health.bad(asked, error, now);
                let lied = matches!(error, Error::Corrupt { .. });
                // Once for each fall. Of one that never gave anything, whoever asked hears if it matters.
                if was_up && (lied || !state.health.is_up() && state.answered > 0) {
                    tracing::warn!("a source fails: {error}");
                }
                if error.is_transient() {
                    state.limit.cut(asked, now);
                }
            }
        }
        self.fit(&mut state);
    }

    /// Brings the permits there are nearer to the limit.
    fn fit(&self, state: &mut State) {
        let Some(permits) = &self.permits else { return };
        let limit = state.limit.get();
        if state.permits < limit {
            permits.add_permits(limit - state.permits);
            state.permits = limit;
        } else if state.permits > limit {
            state.permits -= permits.forget_permits(state.permits - limit);
        }
    }
}

/// Requests under way to one source, for one block or for many.
#[derive(Debug)]
pub struct Ask<'a> {
    source: &'a Source,
    asked: Instant,
    open: usize,
    permit: Option<SemaphorePermit<'a>>,
}

impl Ask<'_> {
    /// One of the blocks was answered.
    pub fn answered(&mut self, answer: &Result<Block, Error>) {
        self.source.note(self.asked, answer);
        if self.open > 0 {
            self.end(1);
        }
    }

    fn end(&mut self, count: usize) {
        self.open -= count;
        let mut state = self.source.state();
        state.in_flight -= count;
        if state.in_flight == 0 {
            state.meter.run(false, Instant::now());
        }
    }
}

impl Drop for Ask<'_> {
    fn drop(&mut self) {
        self.end(self.open);
        let Some(permit) = self.permit.take() else { return };
        let mut state = self.source.state();
        if state.permits > state.limit.get() {
            state.permits -= 1;
            permit.forget();
        }
    }
}
