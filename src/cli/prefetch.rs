use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use clap::Args;
use indicatif::HumanBytes;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::disk::DiskFlags;
use super::offline::{Local, absent_line, line, outcome};
use super::progress::Progress;
use super::{Blocks, Session, Signals, Usage};
use crate::block::{Disk, Memory};
use crate::config::Size;
use crate::offline::{Order, Prefetched};

/// How long a cache is waited for that gets another size: a quarter of a terabyte on a fast disk, and a tenth of that on a slow one.
const RESIZE: Duration = Duration::from_secs(600);
/// So long nothing is said about it.
const SILENT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Prefetch {
    #[command(flatten)]
    bring: Bring,
    #[command(flatten)]
    disk: DiskFlags,
    /// Pin what was fetched: it stays until `cache unpin`
    #[arg(long)]
    pin: bool,
}

/// What is brought into the cache, and from where.
#[derive(Debug, Args)]
pub(super) struct Bring {
    #[command(flatten)]
    blocks: Blocks,
    #[command(flatten)]
    local: Local,
    /// Fetch at most so many bytes a second: 500K, 2M
    #[arg(long, value_name = "RATE", value_parser = rate)]
    limit_rate: Option<Size>,
}

impl Prefetch {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        self.bring.run(session, &self.disk, self.pin)
    }
}

impl Bring {
    /// Brings it all into the cache that the flags mean.
    pub(super) fn run(&self, session: &Session, disk: &DiskFlags, pin: bool) -> anyhow::Result<()> {
        session.runtime.block_on(self.bring(session, disk, pin))
    }

    async fn bring(&self, session: &Session, disk: &DiskFlags, pin: bool) -> anyhow::Result<()> {
        let mut signals = Signals::catch()?;
        let no_cache = || Usage("no disk cache to fetch into: it is turned off, or there is no HOME".into());
        let (dir, settings) = disk.settings(session).ok_or_else(no_cache)?;
        let cache = Disk::open(&dir, settings)?;
        let stopped = || anyhow!("stopped; what came is kept, and the same command goes on from there");
        tokio::select! {
            ready = ready(&cache) => ready?,
            () = signals.any() => return Err(stopped()),
        }
        let offline = self.local.open(session, cache)?;
        let named = self.blocks.urls_if_any(session)?;
        let store = match named {
            // Plain NARs need none, and what is to be pinned may all be here.
            None if offline.has_substitutes() || pin => Arc::new(Memory::new()),
            _ => self.blocks.open(session)?,
        };
        let order = Order { closure: self.local.closure, rate: self.limit_rate.map(|rate| rate.0), pin };
        let progress = Progress::start();
        let started = Instant::now();
        let work = offline.prefetch(store, &self.local.paths, order, &progress);
        let done = tokio::select! {
            done = work => done,
            () = signals.any() => {
                progress.end();
                return Err(stopped());
            }
        };
        progress.end();
        let missing = |reason| match offline.has_substitutes() || named.is_some() {
            true => reason,
            false => {
                anyhow!("{reason:#}; no block store was named to fetch the rest from: give --blocks URL")
            }
        };
        let done = done.map_err(|error| missing(error.into()))?;
        for loss in &done.losses {
            eprintln!("{}: {} blocks or more could not be had: {}", loss.name, loss.blocks, loss.reason);
        }
        done.report.absent.iter().for_each(|absent| eprintln!("{}", absent_line(absent)));
        done.report
            .paths
            .iter()
            .filter(|held| !held.is_complete())
            .for_each(|held| eprintln!("{}", line(held)));
        if done.dropped > 0 {
            eprintln!(
                "the cache did not keep {} blocks: see `erisfs cache stat` for its size and state",
                done.dropped
            );
        }
        eprintln!("{}", summary(&done, started.elapsed()));
        outcome(&done.report).map_err(missing)
    }
}

/// Waits while the cache gets another size: meanwhile it would keep nothing.
async fn ready(cache: &Disk) -> anyhow::Result<()> {
    let waiting = cache.clone();
    let mut ready = spawn_blocking(move || waiting.ready(RESIZE));
    let done = match timeout(SILENT, &mut ready).await {
        Ok(done) => done,
        Err(_) => {
            eprintln!("waiting: the cache in {} gets another size", cache.path().display());
            ready.await
        }
    };
    Ok(done.context("the cache could not be waited for")??)
}

pub(super) fn rate(text: &str) -> Result<Size, String> {
    match text.parse::<Size>() {
        // Slower than a block a second, and deadlines would be longer than anybody waits.
        Ok(Size(rate)) if rate < 32 << 10 => Err("32K a second is the least".into()),
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

fn summary(done: &Prefetched, took: Duration) -> String {
    let total = done.report.total();
    let here = (total.blocks - total.missing_blocks).saturating_sub(done.blocks);
    let seconds = took.as_secs_f64();
    format!(
        "store paths: {}, {} in {} blocks; {} blocks ({}) fetched in {seconds:.1} s, {}/s; {here} were here already",
        done.report.paths.len(),
        HumanBytes(total.bytes),
        total.blocks,
        done.blocks,
        HumanBytes(done.bytes),
        HumanBytes((done.bytes as f64 / seconds.max(0.001)) as u64),
    )
}
