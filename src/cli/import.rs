use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use futures::future;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{Blocks, Session, Signals, opened, print};
use crate::block::{self, Bundle, Imported};

#[derive(Debug, Args)]
#[command(
    after_help = "Every block is checked; those that are damaged are left out, and told with their place in the file."
)]
pub(super) struct Import {
    #[command(flatten)]
    blocks: Blocks,
    /// The bundle
    file: PathBuf,
}

impl Import {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        session.runtime.block_on(self.import(session))
    }

    async fn import(&self, session: &Session) -> anyhow::Result<()> {
        let mut signals = Signals::catch()?;
        let urls = self.blocks.urls(session)?;
        let access = session.access_to(&urls)?;
        let stores = urls.iter().map(|url| opened(block::open_with(url, &access)));
        let stores = stores.collect::<anyhow::Result<Vec<_>>>()?;
        let style =
            ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}");
        let bar = ProgressBar::new(0).with_style(style.expect("the template is right"));
        let bundle = Bundle::new(&self.file);
        // Each goes through the file by itself, so that one that is down holds up no other.
        let work = future::join_all(stores.iter().map(|store| {
            bundle.import(&**store, |read, length| {
                bar.set_length(length);
                bar.set_position(bar.position().max(read));
            })
        }));
        let done = tokio::select! {
            done = work => done,
            () = signals.any() => {
                bar.finish_and_clear();
                return Err(anyhow!("stopped; what was put stays, and the same command puts the rest"));
            }
        };
        bar.finish_and_clear();
        let (mut imported, mut failures) = (Vec::new(), Vec::new());
        for done in done {
            match done {
                Ok(done) => imported.push(done),
                Err(error) => failures.push(error),
            }
        }
        let Some(imported) = imported.first() else {
            let last = failures.pop().expect("there is a store, and each has an outcome");
            // What is wrong with the file is told once.
            let others = failures.iter().map(ToString::to_string).filter(|error| *error != last.to_string());
            others.for_each(|error| eprintln!("{error}"));
            return Err(last.into());
        };
        failures.iter().for_each(|error| eprintln!("{error}"));
        for capability in &imported.capabilities {
            print(capability)?;
        }
        self.tell(imported)?;
        match failures.len() {
            0 => Ok(()),
            failed => Err(anyhow!("{failed} of {} block stores did not take all blocks", urls.len())),
        }
    }

    fn tell(&self, imported: &Imported) -> anyhow::Result<()> {
        let file = self.file.display();
        for spoiled in &imported.spoiled {
            let what = if spoiled.is_unreadable { "cannot be read" } else { "is not" };
            eprintln!("{file}: at byte {} {what} the block {}", spoiled.at, spoiled.reference);
        }
        if let Some(damage) = &imported.damage {
            eprintln!("{file}: {damage}");
        }
        eprintln!(
            "{} blocks ({}) imported, {} URNs",
            imported.blocks,
            HumanBytes(imported.bytes),
            imported.capabilities.len()
        );
        match (imported.spoiled_count, &imported.damage) {
            (0, None) => Ok(()),
            (0, Some(_)) => Err(anyhow!("{file} is damaged; what stands before the damage was imported")),
            (spoiled, _) => Err(anyhow!("{file} is damaged: {spoiled} blocks were left out")),
        }
    }
}
