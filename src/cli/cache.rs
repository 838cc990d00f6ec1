use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde_json::json;

use super::disk::{self, DiskFlags};
use super::prefetch::Bring;
use super::{Session, print};
use crate::block::Disk;
use crate::config::Size;

/// Between two draws of the progress of `verify`.
const TICK: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Cache {
    /// Directory of the disk cache [default: that of the config, else erisfs/blocks in the user's cache directory]
    #[arg(long = "cache", value_name = "DIR", global = true)]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Tell what the disk cache holds
    Stat {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Read and check every block; drop what is bad
    Verify,
    /// Give disk space back, of what was used least recently and is not pinned
    Gc {
        /// Until the blocks take no more than this [default: as the free-space floor demands]
        #[arg(long, value_name = "SIZE")]
        to: Option<Size>,
    },
    /// List the pins
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Fetch store paths, and keep them until they are unpinned
    Pin(Box<Bring>),
    /// Take a pin away; its blocks stay until they are evicted
    Unpin {
        /// The name that `list` shows
        name: String,
    },
}

impl Cache {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        let disk = || disk::open_existing(session, self.dir.as_deref());
        match &self.action {
            Action::Stat { json } => stat(&disk()?, *json),
            Action::Verify => verify(&disk()?),
            Action::Gc { to } => {
                let collected = disk()?.gc(to.map(|size| size.0))?;
                let (blocks, bytes) = (HumanCount(collected.evicted), HumanBytes(collected.bytes));
                print(format_args!("evicted {blocks} blocks, {bytes}"))
            }
            Action::List { json } => list(&disk()?, *json),
            Action::Pin(bring) => bring.run(session, &DiskFlags::at(self.dir.clone()), true),
            Action::Unpin { name } => Ok(disk()?.unpin(name)?),
        }
    }
}

fn stat(disk: &Disk, json: bool) -> anyhow::Result<()> {
    let stat = disk.stat();
    if json {
        return print(json!({
            "dir": disk.path(),
            "slots": stat.slots,
            "used": stat.used,
            "pinned": stat.pinned,
            "bytes": stat.bytes,
            "on_disk": stat.on_disk,
            "size": stat.size,
            "free": stat.free,
            "read_through": stat.read_through,
        }));
    }
    print(format_args!("directory  {}", disk.path().display()))?;
    print(format_args!("blocks     {} of {}", HumanCount(stat.used), HumanCount(stat.slots)))?;
    print(format_args!("bytes      {}", HumanBytes(stat.bytes)))?;
    print(format_args!("pinned     {} blocks", HumanCount(stat.pinned)))?;
    print(format_args!("on disk    {} of {}", HumanBytes(stat.on_disk), HumanBytes(stat.size)))?;
    print(format_args!("free       {}", HumanBytes(stat.free)))?;
    match stat.read_through {
        Some(reason) => print(format_args!("keeps      nothing: {reason}")),
        None => Ok(()),
    }
}

fn verify(disk: &Disk) -> anyhow::Result<()> {
    let bar = ProgressBar::new(0);
    let template = "{percent}% checked, {eta} left";
    bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
    bar.enable_steady_tick(TICK);
    let verified = disk.verify(|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let verified = verified?;
    print(format_args!(
        "checked {} blocks, dropped {}",
        HumanCount(verified.checked),
        HumanCount(verified.bad)
    ))
}

fn list(disk: &Disk, json: bool) -> anyhow::Result<()> {
    for pin in disk.pins()? {
        if json {
            print(serde_json::to_string(&pin)?)?;
            continue;
        }
        let missing = match pin.missing {
            0 => String::new(),
            missing => format!(", {} of them missing", HumanCount(missing)),
        };
        // Names are the user's, and may be meant to look like something else.
        let name = pin.name.escape_debug();
        print(format_args!("{name}  {} blocks{missing}, {}", HumanCount(pin.blocks), HumanBytes(pin.bytes)))?;
    }
    Ok(())
}
