use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::disk::open_existing;
use super::offline::{Local, absent_line, line, outcome};
use super::{Session, print};

#[derive(Debug, Args)]
#[command(after_help = "Every block is read and hashed: a gigabyte a second or so.")]
pub(super) struct Check {
    #[command(flatten)]
    local: Local,
    /// The disk cache [default: that of the config, else erisfs/blocks in the user's cache directory]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        let disk = open_existing(session, self.cache.as_deref())?;
        let offline = self.local.open_offline(session, disk)?;
        let report = session.runtime.block_on(offline.check(&self.local.paths, self.local.closure))?;
        let total = report.total();
        if self.json {
            print(json!({
                "complete": report.is_complete(),
                "paths": report.paths,
                "absent": report.absent,
                "total": total,
            }))?;
            return outcome(&report);
        }
        for held in &report.paths {
            print(line(held))?;
        }
        for absent in &report.absent {
            print(absent_line(absent))?;
        }
        if report.paths.len() > 1 {
            print(line(&total))?;
        }
        outcome(&report)
    }
}
