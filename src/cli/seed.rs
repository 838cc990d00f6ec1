use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;

use super::contents::Contents;
use super::prefetch::rate;
use super::progress::Progress;
use super::{Session, Signals, Usage, named, opened, print};
use crate::availability::{SeedSettings, Seeded, seed};
use crate::block::{self, BlockStore};
use crate::config::Size;

#[derive(Debug, Args)]
#[command(after_help = "What a store has is skipped: the same command goes on where it was stopped.")]
pub(super) struct Seed {
    /// A block store that has the blocks, in order of preference (repeatable) [default: those of the config]
    #[arg(long, value_name = "STORE")]
    from: Vec<String>,
    /// A block store that is to have them all (repeatable)
    #[arg(long, value_name = "STORE", required = true)]
    to: Vec<String>,
    /// Fetch at most so many bytes a second: 500K, 2M
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<Size>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    contents: Contents,
}

impl Seed {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        session.runtime.block_on(self.seed(session))
    }

    async fn seed(&self, session: &Session) -> anyhow::Result<()> {
        let mut signals = Signals::catch()?;
        let from = if self.from.is_empty() { &session.config.stores } else { &self.from };
        if from.is_empty() {
            let reason =
                "nothing says where the blocks are: give --from STORE, or name `stores` in the config";
            return Err(Usage(reason.into()).into());
        }
        let (mut sources, to) = (named(session, from)?, named(session, &self.to)?);
        // What one target has, another may lack.
        sources.extend(to.iter().cloned());
        let access = session.access_to(&sources)?;
        let from: Arc<dyn BlockStore> = opened(block::open_all(&sources, &access))?;
        let to = to
            .iter()
            .map(|url| opened(block::open_with(url, &access)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let stopped = || anyhow!("stopped; what was copied stays, and the same command does the rest");
        let (subjects, absent) = tokio::select! {
            found = self.contents.find(session, from.clone()) => found?,
            () = signals.any() => return Err(stopped()),
        };
        let settings =
            SeedSettings { wait: self.contents.wait(session), rate: self.limit_rate.map(|rate| rate.0) };
        let (contents, started, progress) = (subjects.len(), Instant::now(), Arc::new(Progress::start()));
        let seeded = tokio::select! {
            seeded = seed(from, to, subjects, settings, progress.clone()) => seeded,
            () = signals.any() => {
                progress.end();
                return Err(stopped());
            }
        };
        progress.end();
        if self.json {
            print(json!({
                "complete": seeded.is_complete() && absent.is_empty(),
                "contents": contents,
                "absent": absent,
                "seeded": seeded,
            }))?;
        }
        for loss in &seeded.losses {
            eprintln!("{}: {} blocks or more could not be had: {}", loss.name, loss.blocks, loss.reason);
        }
        for target in &seeded.targets {
            match &target.failure {
                Some(failure) => {
                    eprintln!("{}: given up after {} blocks: {failure}", target.store, target.put)
                }
                None => eprintln!("{}: {} blocks put, {} were there", target.store, target.put, target.had),
            }
        }
        eprintln!("{}", summary(&seeded, contents, started.elapsed()));
        match (seeded.is_complete(), absent.len()) {
            (true, 0) => Ok(()),
            (true, absent) => Err(anyhow!("{absent} store paths could not be looked up")),
            (false, _) => {
                Err(anyhow!("not all blocks are where they should be; the same command tries the rest"))
            }
        }
    }
}

fn summary(seeded: &Seeded, contents: usize, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    format!(
        "contents: {contents}, {} blocks; {} ({}) fetched in {seconds:.1} s, {}/s",
        seeded.blocks,
        seeded.fetched,
        HumanBytes(seeded.fetched_bytes),
        HumanBytes((seeded.fetched_bytes as f64 / seconds.max(0.001)) as u64),
    )
}
