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
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use self::process::{End, Process};
use self::wire::{Answer, Request};
use super::{Block, BlockStore, Error, Refusal};
use crate::eris::Reference;

/// Requests in flight; how many of them the plug-in gets at a time is its own choice.
const CONCURRENCY: usize = 64;
/// Time for one request, starting the plug-in and waiting for a turn included: less than the 30 s of a read.
const PATIENCE: Duration = Duration::from_secs(25);
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
#[derive(Debug)]
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
            // Arguments, and variables that are set in front, may have secrets in them.
            name: format!(
                "exec:{}",
                command.split_ascii_whitespace().find(|word| !word.contains('=')).unwrap_or_default()
            )
            .into(),
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
        match timeout_at(Instant::now() + PATIENCE, self.ask_it(&process, reference, request)).await {
            Ok(Ok(Answer::Error(words))) => Err(self.unavailable(reference, None, Words(words))),
            Ok(answer) => answer,
            Err(_) => {
                process.stop_if_it_hangs();
                let (reference, store) = (*reference, self.name.clone());
                Err(Error::TimedOut { reference, store, after: PATIENCE })
            }
        }
    }

    /// Asks what it can be asked.
    async fn ask_it(
        &self,
        process: &Process,
        reference: &Reference,
        request: Request,
    ) -> Result<Answer, Error> {
        let ended = |end| self.unavailable(reference, None, end);
        let abilities = process.abilities().await.map_err(ended)?;
        match request {
            Request::Put(..) if !abilities.put => {
                Err(Error::Refused { store: self.name.clone(), reason: Refusal::ReadOnly })
            }
            Request::Has(_) if !abilities.has => {
                let held = process.ask(&Request::Get(*reference)).await.map_err(ended)?;
                Ok(if matches!(held, Answer::Block(_)) { Answer::Present } else { held })
            }
            request => process.ask(&request).await.map_err(ended),
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
        CONCURRENCY
    }

    fn is_remote(&self) -> bool {
        true
    }
}
