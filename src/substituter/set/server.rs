//! One place of the set: what is known of it, and how it is doing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::health::{Health, Turn};
use super::{ServerState, ServerStatus};
use crate::store::{HashPart, Narinfo, StoreDir};
use crate::substituter::{Error, Info, Substituter};

/// Answers in a row of a neighbour that are of no use, after which it is left alone for a while: one that signs with a key that is not
/// trusted here does so each time.
const REFUSALS: u32 = 3;
/// For how long.
const ALONE: Duration = Duration::from_secs(60);

/// What a place is to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A server that the user named.
    Server,
    /// A server that announced itself: a stranger's.
    Neighbour,
    /// An overlay that the user named.
    Overlay,
}

/// A server or an overlay.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) place: Arc<dyn Substituter>,
    role: Role,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    health: Health,
    info: Option<Info>,
    left_out: bool,
    /// What it is preparing, and how many wait for that.
    baking: HashMap<HashPart, usize>,
    asked: u64,
    had: u64,
    refused: u64,
    /// Answers of no use since the last good narinfo.
    refused_in_row: u32,
    /// Until when it is left alone for these.
    left_alone: Option<Instant>,
    failed: u64,
    last_error: Option<String>,
}

impl Server {
    pub(super) fn new(place: Arc<dyn Substituter>, role: Role) -> Self {
        Self { place, role, state: Mutex::default() }
    }

    /// Whether it is a stranger's.
    pub(super) fn is_neighbour(&self) -> bool {
        self.role == Role::Neighbour
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its priority; that of a server that states none as long as it has not said it.
    pub(super) fn priority(&self) -> u32 {
        self.state().info.as_ref().map_or(Info::default().priority, |info| info.priority)
    }

    pub(super) fn is_left_out(&self) -> bool {
        self.state().left_out
    }

    pub(super) fn is_down(&self) -> bool {
        self.state().health.is_down()
    }

    /// Whether its narinfos were of no use again and again. Its NARs may be good all the same, since they are hashed.
    pub(super) fn is_left_alone(&self) -> bool {
        self.state().left_alone.is_some_and(|until| Instant::now() < until)
    }

    /// What to do with it now.
    pub(super) fn turn(&self) -> Turn {
        if self.is_left_alone() {
            return Turn::Pass;
        }
        self.state().health.turn(Instant::now())
    }

    pub(super) fn late(&self) {
        self.state().health.late(Instant::now());
    }

    /// Asks for a narinfo, and in passing what it says of itself, if that is not known yet.
    pub(super) async fn narinfo(
        &self,
        hash_part: HashPart,
        store_dir: &StoreDir,
    ) -> Result<Option<Narinfo>, Error> {
        self.state().asked += 1;
        let known = self.role == Role::Overlay || self.state().info.is_some();
        let info = async { if known { None } else { Some(self.place.info().await) } };
        let (info, answer) = futures::join!(info, self.place.narinfo(hash_part));
        if let Some(info) = info {
            self.learn(&info);
        }
        self.settle(store_dir);
        self.note(&answer);
        match answer {
            Ok(Some(narinfo)) if !self.is_left_out() => {
                self.state().had += 1;
                Ok(Some(narinfo))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks what it says of itself, and remembers it.
    pub(super) async fn info(&self) -> Result<Info, Error> {
        let answer = self.place.info().await;
        self.note(&answer);
        self.learn(&answer);
        answer
    }

    /// What it said of itself.
    pub(super) fn known_info(&self) -> Option<Info> {
        self.state().info.clone()
    }

    /// Takes over what it says of itself. Where that makes no sense, it says nothing; a server that fails is asked
    /// again.
    fn learn(&self, info: &Result<Info, Error>) {
        let info = match info {
            Ok(info) => info.clone(),
            Err(error) if error.is_transient() => return,
            Err(error) => {
                tracing::warn!("{error}");
                Info::default()
            }
        };
        self.state().info = Some(info);
    }

    /// Leaves it out if the paths of the set are in `store_dir` and its own are not.
    pub(super) fn settle(&self, store_dir: &StoreDir) {
        let mut state = self.state();
        let stated = state.info.as_ref().and_then(|info| info.store_dir.as_ref());
        let other = stated.filter(|stated| *stated != store_dir).cloned();
        let was_left_out = std::mem::replace(&mut state.left_out, other.is_some());
        drop(state);
        if let Some(other) = other.filter(|_| !was_left_out) {
            tracing::warn!("{} is left out: its paths are in {other}, not in {store_dir}", self.place.name());
        }
    }

    /// What an answer says of its health. A wrong answer is an answer.
    fn note<T>(&self, answer: &Result<T, Error>) {
        let mut state = self.state();
        let Err(error) = answer else { return state.health.good() };
        match error {
            Error::Baking { .. } => return state.health.good(),
            Error::Unavailable { retry_after, .. } => state.health.failed(Instant::now(), *retry_after),
            Error::TimedOut { .. } => state.health.failed(Instant::now(), None),
            _ => {
                state.health.good();
                self.bear(&mut state);
            }
        }
        state.failed += 1;
        state.last_error = Some(error.to_string());
        drop(state);
        tracing::debug!("{error}");
    }

    /// Its narinfo was refused.
    pub(super) fn refused(&self, error: &Error) {
        let mut state = self.state();
        state.refused += 1;
        state.last_error = Some(error.to_string());
        self.bear(&mut state);
        drop(state);
        tracing::debug!("{error}");
    }

    /// Its narinfo was good.
    pub(super) fn accepted(&self) {
        let mut state = self.state();
        (state.refused_in_row, state.left_alone) = (0, None);
    }

    /// It said something of no use: a stranger may do so only a few times.
    fn bear(&self, state: &mut State) {
        state.refused_in_row = state.refused_in_row.saturating_add(1);
        if self.is_neighbour() && state.refused_in_row >= REFUSALS {
            state.left_alone = Some(Instant::now() + ALONE);
        }
    }

    /// Remembers that it is preparing something, as long as the guard lives.
    pub(super) fn bakes(self: &Arc<Self>, hash_part: HashPart) -> Baking {
        *self.state().baking.entry(hash_part).or_default() += 1;
        Baking { server: Arc::clone(self), hash_part }
    }

    pub(super) fn is_baking(&self, hash_part: HashPart) -> bool {
        self.state().baking.contains_key(&hash_part)
    }

    pub(super) fn status(&self) -> ServerStatus {
        let is_left_alone = self.is_left_alone();
        let state = self.state();
        ServerStatus {
            name: self.place.name().to_owned(),
            overlay: self.role == Role::Overlay,
            state: match (state.left_out, is_left_alone) {
                (true, _) => ServerState::LeftOut,
                (_, true) => ServerState::Down,
                _ => state.health.state(Instant::now()),
            },
            priority: state.info.as_ref().map(|info| info.priority).filter(|_| !self.is_neighbour()),
            asked: state.asked,
            had: state.had,
            refused: state.refused,
            failed: state.failed,
            last_error: state.last_error.clone(),
        }
    }
}

/// Somebody waits for what a server is preparing.
#[derive(Debug)]
pub(super) struct Baking {
    server: Arc<Server>,
    hash_part: HashPart,
}

impl Drop for Baking {
    fn drop(&mut self) {
        let mut state = self.server.state();
        if let Some(waiting) = state.baking.get_mut(&self.hash_part) {
            *waiting -= 1;
            if *waiting == 0 {
                state.baking.remove(&self.hash_part);
            }
        }
    }
}
