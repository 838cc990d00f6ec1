//! Blocks from a program of anybody's, which speaks a small protocol on its stdin and stdout.
//!
//! So a carrier can be written in any language, without knowing this program. It is started when it is first needed, and again,
//! later each time, when it dies or breaks the protocol. What it gives is checked like what any stranger gives.

mod log;
mod process;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{Instant, timeout, timeout_at};

use self::process::{End, Process, Turn};
use self::wire::{Answer, Request};
use super::{Block, BlockStore, Error, Refusal};
use crate::eris::Reference;

/// Requests in flight as long as the plug-in has not said how many it likes to have.
const CONCURRENCY: usize = 64;
/// Time for one request: less than the 30 s of a read. For a get, starting the plug-in and waiting for a turn are included.
const PATIENCE: Duration = Duration::from_secs(25);
/// How long other requests wait for their turn. Whoever publishes or audits has some hundreds of them in flight, and a plug-in may
/// honestly take a second for each.
const TURN_PATIENCE: Duration = Duration::from_secs(600);
/// How long to wait before the second start; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// And at the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A plug-in that ran for so long was well: its next start waits for nothing.
const WELL: Duration = Duration::from_secs(60);

/// A plug-in: `exec:COMMAND`, run by `/bin/sh -c` in a process group of its own (`docs/carriers/exec.md`).
///
/// It runs as the user, with all that the user may do, in the directory in which this was made: the command comes from the command line
/// or the config and from nowhere else. It ends, with all that it started, when the store is dropped.
pub struct Exec {
    command: String,
    directory: PathBuf,
    name: Arc<str>,
    life: Mutex<Life>,
}

/// What became of the plug-in so far.
#[derive(Debug)]
struct Life {
    process: Option<Arc<Process>>,
    started: Instant,
    /// How the last one ended.
    end: Option<Arc<End>>,
    starts_at: Instant,
    pause: Duration,
}

impl Exec {
    /// The plug-in that `command` runs. Nothing is started yet.
    pub fn new(command: &str) -> Self {
        let now = Instant::now();
        let life = Life { process: None, started: now, end: None, starts_at: now, pause: FIRST_PAUSE };
        Exec {
            command: command.to_owned(),
            // The process may change its directory later, as a mount in the background does.
            directory: std::env::current_dir().unwrap_or_else(|_| "/".into()),
            name: format!("exec:{}", shown(command)).into(),
            life: Mutex::new(life),
        }
    }

    /// The plug-in as it runs. Starts it, unless it is too early for that.
    fn process(&self, reference: &Reference) -> Result<Arc<Process>, Error> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(process) = &life.process {
            match process.over() {
                None => return Ok(process.clone()),
                Some((when, end)) => {
                    life.pass_over(when, end.was_well());
                    life.end = Some(end);
                }
            }
        }
        let now = Instant::now();
        if now < life.starts_at {
            return Err(self.unavailable(reference, Some(life.starts_at - now), Early(life.end.clone())));
        }
        match Process::start(self.name.clone(), &self.command, &self.directory) {
            Ok(process) => {
                let process = Arc::new(process);
                life.started = now;
                life.process = Some(process.clone());
                Ok(process)
            }
            Err(error) => {
                tracing::warn!("{}: it cannot be started: {error}", self.name);
                life.put_off(now);
                Err(self.unavailable(reference, Some(life.starts_at - now), error))
            }
        }
    }

    async fn ask(&self, reference: &Reference, request: Request) -> Result<Answer, Error> {
        let process = self.process(reference)?;
        let is_read = matches!(request, Request::Get(_));
        let late = |after| {
            process.stop_if_it_hangs();
            Error::TimedOut { reference: *reference, store: self.name.clone(), after }
        };
        let begun = Instant::now();
        let wait = if is_read { PATIENCE } else { TURN_PATIENCE };
        let turn =
            timeout(wait, self.turn(&process, reference, &request)).await.map_err(|_| late(wait))??;
        let end = if is_read { begun } else { Instant::now() } + PATIENCE;
        match timeout_at(end, self.ask_it(&process, turn, reference, request)).await {
            Ok(Ok(Answer::Error(words))) => Err(self.unavailable(reference, None, Words(words))),
            Ok(answer) => answer,
            Err(_) => Err(late(PATIENCE)),
        }
    }

    /// Waits for its hello, and until it likes another request.
    async fn turn(&self, process: &Process, reference: &Reference, request: &Request) -> Result<Turn, Error> {
        let ended = |end| self.unavailable(reference, None, end);
        let abilities = process.abilities().await.map_err(ended)?;
        if matches!(request, Request::Put(..)) && !abilities.put {
            return Err(Error::Refused { store: self.name.clone(), reason: Refusal::ReadOnly });
        }
        process.turn().await.map_err(ended)
    }

    /// Asks it, or what comes to the same.
    async fn ask_it(
        &self,
        process: &Process,
        turn: Turn,
        reference: &Reference,
        request: Request,
    ) -> Result<Answer, Error> {
        let ended = |end| self.unavailable(reference, None, end);
        match request {
            Request::Has(_) if process.known_abilities().is_some_and(|abilities| !abilities.has) => {
                let held = process.ask(turn, &Request::Get(*reference)).await.map_err(ended)?;
                Ok(if matches!(held, Answer::Block(_)) { Answer::Present } else { held })
            }
            request => process.ask(turn, &request).await.map_err(ended),
        }
    }

    fn strange(&self, answer: &Answer) -> Error {
        let reason = format!("it answered {:.60} to something else", format!("{answer:?}"));
        Error::Refused { store: self.name.clone(), reason: Refusal::Foreign(reason) }
    }

    fn unavailable(
        &self,
        reference: &Reference,
        retry_after: Option<Duration>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        let source = Arc::new(source);
        Error::Unavailable { reference: Some(*reference), store: self.name.clone(), retry_after, source }
    }
}

/// As much of a command as has no secret in it: its first word, if that is a plain one. Arguments may have some, and so may variables that
/// are set in front.
fn shown(command: &str) -> &str {
    let first = command.split_ascii_whitespace().next().unwrap_or_default();
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+~".contains(letter);
    if first.chars().all(is_plain) { first } else { "…" }
}

/// Without the command.
impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("name", &self.name).field("life", &self.life).finish_non_exhaustive()
    }
}

impl Life {
    /// It ended, `when`, and up to then it answered or did not.
    fn pass_over(&mut self, when: Instant, was_well: bool) {
        self.process = None;
        if was_well && when.duration_since(self.started) > WELL {
            (self.starts_at, self.pause) = (when, FIRST_PAUSE);
        } else {
            self.put_off(when);
        }
    }

    fn put_off(&mut self, when: Instant) {
        self.starts_at = when + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it failed, and is not started again yet")]
struct Early(#[source] Option<Arc<End>>);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Words(String);

#[async_trait]
impl BlockStore for Exec {
    fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        match self.ask(reference, Request::Get(*reference)).await? {
            Answer::Block(block) => Ok(block),
            Answer::Absent => Err(Error::NotFound { reference: *reference, store: self.name.clone() }),
            answer => Err(self.strange(&answer)),
        }
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        match self.ask(reference, Request::Has(*reference)).await? {
            Answer::Present => Ok(true),
            Answer::Absent => Ok(false),
            answer => Err(self.strange(&answer)),
        }
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        match self.ask(reference, Request::Put(*reference, block)).await? {
            Answer::Stored => Ok(()),
            answer => Err(self.strange(&answer)),
        }
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        let abilities = life.process.as_ref().and_then(|process| process.known_abilities());
        abilities.map_or(CONCURRENCY, |abilities| abilities.concurrency)
    }

    fn is_remote(&self) -> bool {
        true
    }
}
