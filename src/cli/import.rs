use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use super::{Blocks, Session, Signals, print};
use crate::block::{Bundle, Imported};

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
        let store = self.blocks.open_to_put(session)?;
        let style =
            ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}");
        let bar = ProgressBar::new(0).with_style(style.expect("the template is right"));
        let bundle = Bundle::new(&self.file);
        let work = bundle.import(&*store, |read, length| {
            bar.set_length(length);
            bar.set_position(read);
        });
        let done = tokio::select! {
            done = work => done,
            () = signals.any() => {
                bar.finish_and_clear();
                return Err(anyhow!("stopped; what was put stays, and the same command puts the rest"));
            }
        };
        bar.finish_and_clear();
        let imported = done?;
        for capability in &imported.capabilities {
            print(capability)?;
        }
        self.tell(&imported)
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
