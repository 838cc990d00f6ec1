use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::Args;
use futures::TryFutureExt;
use indicatif::HumanBytes;

use super::contents::Contents;
use super::progress::Progress;
use super::{Blocks, Session, Signals};
use crate::availability::{SeedSettings, Seeded, Subject, seed};
use crate::block::{BlockStore, Bundle, Verify};
use crate::eris::{ReadCapability, Reference};

#[derive(Debug, Args)]
#[command(
    after_help = "What the file has is skipped: the same command goes on where it was stopped, and another one adds to it.\n\
                  `erisfs mount --blocks bundle:FILE --catalog URN` reads straight from it, `erisfs import FILE` copies it."
)]
pub(super) struct Export {
    #[command(flatten)]
    blocks: Blocks,
    #[command(flatten)]
    contents: Contents,
    /// Leave the URNs out of the file: whoever finds it can read nothing without being told them
    #[arg(long)]
    no_capabilities: bool,
    /// The bundle to write, or to add to
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Export {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        session.runtime.block_on(self.export(session))
    }

    async fn export(&self, session: &Session) -> anyhow::Result<()> {
        let mut signals = Signals::catch()?;
        let progress = Arc::new(Progress::start());
        let outcome = tokio::select! {
            outcome = self.copy(session, progress.clone()) => outcome,
            () = signals.any() => Err(anyhow!("stopped; what was written stays, and the same command does the rest")),
        };
        progress.end();
        outcome
    }

    async fn copy(&self, session: &Session, progress: Arc<Progress>) -> anyhow::Result<()> {
        let started = Instant::now();
        check_output(&self.output).with_context(|| self.output.display().to_string())?;
        let from = self.blocks.open(session)?;
        let catalogs = self.contents.catalogs(session)?;
        let (mut subjects, absent) = self.contents.find(session, from.clone()).await?;
        let known: HashSet<Reference> = subjects.iter().map(|subject| subject.capability.reference).collect();
        if self.contents.names_store_paths() {
            // The file alone has to be enough to find them in it.
            let missing = catalogs.iter().filter(|catalog| !known.contains(&catalog.reference));
            subjects.extend(missing.copied().map(Subject::catalog));
        }
        let capabilities = capabilities(&subjects, &catalogs);
        // Catalogs go first, where a reader of the file looks first.
        let (first, rest): (Vec<_>, Vec<_>) =
            subjects.into_iter().partition(|subject| catalogs.contains(&subject.capability));
        let bundle = Bundle::new(&self.output);
        let to: Arc<dyn BlockStore> = Arc::new(Verify::new(Arc::new(bundle.clone())));
        let settings = SeedSettings { wait: self.contents.wait(session), rate: None };
        let mut is_complete = absent.is_empty();
        let (mut put, mut had) = (0, 0);
        for subjects in [first, rest] {
            let seeded = seed(from.clone(), vec![to.clone()], subjects, settings, progress.clone()).await;
            tell(&seeded);
            is_complete &= seeded.is_complete();
            put += seeded.targets.iter().map(|target| target.put).sum::<u64>();
            had += seeded.targets.iter().map(|target| target.had).sum::<u64>();
        }
        let told = match self.no_capabilities {
            true => Ok(()),
            false => bundle.add_capabilities(capabilities).and_then(|()| bundle.sync()).await,
        };
        let (file, took) = (self.output.display(), started.elapsed().as_secs_f64());
        let length = HumanBytes(fs::metadata(&self.output).map_or(0, |status| status.len()));
        eprintln!("{file}: {put} blocks written in {took:.1} s, {had} were there; {length} in all");
        // On a stick that is full they find no room either; what was written is told all the same.
        told?;
        match is_complete {
            true => Ok(()),
            false => Err(anyhow!("{file} is not complete; the same command tries the rest")),
        }
    }
}

/// Whether the file is one that can be written, or can be made. Nobody is to wait for that until blocks have come.
fn check_output(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(status) if !status.is_file() => Err(io::Error::other("it is no regular file")),
        Ok(_) => File::options().read(true).write(true).open(path).map(drop),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::create_new(path)?;
            // If nothing comes, nothing is to be left.
            fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

fn tell(seeded: &Seeded) {
    for loss in &seeded.losses {
        eprintln!("{}: {} blocks or more could not be had: {}", loss.name, loss.blocks, loss.reason);
    }
    for failure in seeded.targets.iter().filter_map(|target| target.failure.as_ref()) {
        eprintln!("{failure}");
    }
}

/// What a reader of the file is told: the catalogs, which tell the rest, and contents that were named by themselves; without a
/// catalog the contents of the store paths.
fn capabilities(subjects: &[Subject], catalogs: &[ReadCapability]) -> Vec<ReadCapability> {
    let told = subjects.iter().filter(|subject| {
        catalogs.is_empty() || catalogs.contains(&subject.capability) || subject.announced.is_none()
    });
    told.map(|subject| subject.capability).collect()
}
