//! One place of the set: what is known of it, and how it is doing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::health::{Health, Turn};
use super::{ServerState, ServerStatus};
use crate::store::{HashPart, Narinfo, StoreDir};
use crate::substituter::{Error, Info, Substituter};

/// A server or an overlay.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) place: Arc<dyn Substituter>,
    overlay: bool,
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
    failed: u64,
    last_error: Option<String>,
}

impl Server {
    pub(super) fn new(place: Arc<dyn Substituter>, overlay: bool) -> Self {
        Self { place, overlay, state: Mutex::default() }
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

    /// What to do with it now.
    pub(super) fn turn(&self) -> Turn {
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
        let known = self.overlay || self.state().info.is_some();
        let info = async { if known { None } else { Some(self.place.info().await) } };
        let (info, answer) = futures::join!(info, self.place.narinfo(hash_part));
        if let Some(info) = info {
            self.learn(&info, store_dir);
        }
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

    /// Asks what it says of itself, for [`learn`](Self::learn).
    pub(super) async fn info(&self) -> Result<Info, Error> {
        let answer = self.place.info().await;
        self.note(&answer);
        answer
    }

    /// Takes over what it says of itself. Where that makes no sense, it says nothing; a server that fails is asked
    /// again.
    pub(super) fn learn(&self, info: &Result<Info, Error>, store_dir: &StoreDir) {
        let info = match info {
            Ok(info) => info.clone(),
            Err(error) if error.is_transient() => return,
            Err(error) => {
                tracing::warn!("{error}");
                Info::default()
            }
        };
        let other = info.store_dir.as_ref().filter(|other| *other != store_dir);
        let mut state = self.state();
        if let Some(other) = other
            && !state.left_out
        {
            tracing::warn!("{} is left out: its paths are in {other}, not in {store_dir}", self.place.name());
            state.left_out = true;
        }
        state.info = Some(info);
    }

    /// What an answer says of its health. A wrong answer is an answer.
    fn note<T>(&self, answer: &Result<T, Error>) {
        let mut state = self.state();
        let Err(error) = answer else { return state.health.good() };
        match error {
            Error::Baking { .. } => return state.health.good(),
            Error::Unavailable { retry_after, .. } => state.health.failed(Instant::now(), *retry_after),
            Error::TimedOut { .. } => state.health.failed(Instant::now(), None),
            _ => state.health.good(),
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
        drop(state);
        tracing::debug!("{error}");
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
        let state = self.state();
        ServerStatus {
            name: self.place.name().to_owned(),
            overlay: self.overlay,
            state: if state.left_out { ServerState::LeftOut } else { state.health.state(Instant::now()) },
            priority: state.info.as_ref().map(|info| info.priority),
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
