//! Blocks from a program of anybody's, which speaks a small protocol on its stdin and stdout.
//!
//! So a carrier can be written in any language, without knowing this program. It is started when it is first needed, and again,
//! later each time, when it dies or breaks the protocol. What it gives is checked like what any stranger gives.

mod process;
#[cfg(test)]
mod tests;
mod wire;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};

use self::process::Process;
use self::wire::{Answer, Request};
use super::{Block, BlockStore, Error, Refusal};
use crate::eris::Reference;

/// Requests in flight; how many of them the plug-in gets at a time is its own choice.
const CONCURRENCY: usize = 64;
/// Time for one request, starting the plug-in and waiting for a turn included: less than the 30 s of a read.
const PATIENCE: Duration = Duration::from_secs(25);
/// A plug-in that has answered nothing for so long while it was asked is stopped: it hangs.
const SILENCE: Duration = Duration::from_secs(60);
/// How long to wait before the second start; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// And at the most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A plug-in that ran for so long was well: its next start waits for nothing.
const WELL: Duration = Duration::from_secs(60);

/// A plug-in: `exec:COMMAND`, run by `/bin/sh -c` in a process group of its own (`docs/carriers/exec.md`).
///
/// It runs as the user, with all that the user may do: the command comes from the command line or the config and from nowhere else.
/// It ends, with all that it started, when the store is dropped.
#[derive(Debug)]
pub struct Exec {
    command: String,
    name: Arc<str>,
    life: Mutex<Life>,
}

/// What became of the plug-in so far.
#[derive(Debug)]
struct Life {
    process: Option<Arc<Process>>,
    started: Instant,
    /// When it last gave an answer.
    heard: Instant,
    starts_at: Instant,
    pause: Duration,
}

impl Exec {
    /// The plug-in that `command` runs. Nothing is started yet.
    pub fn new(command: &str) -> Self {
        let now = Instant::now();
        let life = Life { process: None, started: now, heard: now, starts_at: now, pause: FIRST_PAUSE };
        Exec {
            command: command.to_owned(),
            // Arguments may have secrets in them.
            name: format!("exec:{}", command.split_ascii_whitespace().next().unwrap_or_default()).into(),
            life: Mutex::new(life),
        }
    }

    /// The running plug-in. Starts it, unless it is too early for that.
    async fn process(&self, reference: &Reference) -> Result<Arc<Process>, Error> {
        let mut life = self.life.lock().await;
        if let Some(process) = &life.process {
            if !process.is_over() {
                return Ok(process.clone());
            }
            if life.started.elapsed() > WELL {
                life.pause = FIRST_PAUSE;
            }
            life.fail();
        }
        let now = Instant::now();
        if now < life.starts_at {
            return Err(self.unavailable(reference, Some(life.starts_at - now), Early));
        }
        match Process::start(self.name.clone(), &self.command).await {
            Ok(process) => {
                let process = Arc::new(process);
                (life.started, life.heard) = (Instant::now(), Instant::now());
                life.process = Some(process.clone());
                Ok(process)
            }
            Err(error) => {
                tracing::warn!("{}: {error}", self.name);
                life.fail();
                Err(self.unavailable(reference, Some(life.pause), error))
            }
        }
    }

    async fn ask(&self, reference: &Reference, request: Request) -> Result<Answer, Error> {
        let end = Instant::now() + PATIENCE;
        let process =
            timeout_at(end, self.process(reference)).await.map_err(|_| self.timed_out(reference))??;
        match (&request, process.abilities) {
            (Request::Put(..), abilities) if !abilities.put => {
                return Err(Error::Refused { store: self.name.clone(), reason: Refusal::ReadOnly });
            }
            (Request::Has(_), abilities) if !abilities.has => {
                let answer = timeout_at(end, process.ask(&Request::Get(*reference))).await;
                let held = self.answered(reference, &process, answer).await?;
                return Ok(if matches!(held, Answer::Block(_)) { Answer::Present } else { held });
            }
            _ => {}
        }
        let answer = timeout_at(end, process.ask(&request)).await;
        self.answered(reference, &process, answer).await
    }

    async fn answered(
        &self,
        reference: &Reference,
        process: &Arc<Process>,
        answer: Result<Option<Answer>, tokio::time::error::Elapsed>,
    ) -> Result<Answer, Error> {
        match answer {
            Ok(Some(Answer::Error(words))) => {
                self.life.lock().await.heard = Instant::now();
                Err(self.unavailable(reference, None, Words(words)))
            }
            Ok(Some(answer)) => {
                self.life.lock().await.heard = Instant::now();
                Ok(answer)
            }
            Ok(None) => Err(self.unavailable(reference, None, Ended)),
            Err(_) => {
                let life = self.life.lock().await;
                if life.heard.elapsed() > SILENCE {
                    tracing::warn!("{}: it answers nothing; it is stopped", self.name);
                    process.give_up();
                }
                Err(self.timed_out(reference))
            }
        }
    }

    fn strange(&self, answer: &Answer) -> Error {
        let reason = format!("it answered {:.60} to something else", format!("{answer:?}"));
        Error::Refused { store: self.name.clone(), reason: Refusal::Foreign(reason) }
    }

    fn timed_out(&self, reference: &Reference) -> Error {
        Error::TimedOut { reference: *reference, store: self.name.clone(), after: PATIENCE }
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
    fn fail(&mut self) {
        self.process = None;
        self.starts_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it failed before, and is not started again yet")]
struct Early;

#[derive(Debug, thiserror::Error)]
#[error("it ended")]
struct Ended;

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
