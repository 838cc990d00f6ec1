//! What a read of one file costs now, or did cost, for people and as JSON.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{DecimalBytes, HumanCount};
use serde::Deserialize;

use super::view::Look;
use super::{Session, print};
use crate::control::{self, Peer, Places, Request};

#[derive(Debug, Args)]
pub(super) struct Why {
    #[command(flatten)]
    look: Look,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// A file below a mount, or HASH-NAME/PATH of a catalog
    path: OsString,
}

impl Why {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        let told = session.complete(self.find(session))?;
        if self.json {
            return print(serde_json::to_string(&told)?);
        }
        print(text(&told))
    }

    async fn find(&self, session: &Session) -> anyhow::Result<control::Why> {
        let path = std::path::absolute(&self.path).context("cannot find this directory")?;
        if let Some((peer, below)) = mount_of(session, &path).await? {
            let path = below.to_str().ok_or_else(|| anyhow!("{}: it is not UTF-8", below.display()))?;
            return Ok(peer.ask(&Request::Why { path: path.to_owned() }).await?);
        }
        let opened = self.look.open(session).await?;
        let attr = self.look.find(session, &opened.tree, &self.path).await?;
        let located = opened.tree.locate_inode(attr.inode, self.look.deadline(session)).await?;
        let told =
            tokio::task::spawn_blocking(move || control::Why::of(&located, &opened.tree, &opened.stack));
        told.await?.ok_or_else(|| {
            anyhow!("{} is no file: listing it costs nothing more", Path::new(&self.path).display())
        })
    }
}

/// What the status of a process says of where it is.
#[derive(Deserialize)]
struct Place {
    face: control::Face,
    place: PathBuf,
}

/// The process whose mount holds `path`, and the rest of the path below it. Nothing below a mountpoint is looked at: that
/// might wait for a block.
async fn mount_of(session: &Session, path: &Path) -> anyhow::Result<Option<(Peer, PathBuf)>> {
    let mut mounts = Vec::new();
    for peer in control::peers(&control::directory(session.environment.runtime_dir.as_deref()))? {
        if let Ok(Place { face: control::Face::Mount, place }) = peer.ask(&Request::Status).await {
            mounts.push((place, peer));
        }
    }
    let mut seen = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        if component == Component::ParentDir {
            seen.pop();
            continue;
        }
        seen.push(component);
        seen = seen.canonicalize().unwrap_or(seen);
        if let Some((_, peer)) = mounts.iter().find(|(place, _)| *place == seen) {
            return Ok(Some((peer.clone(), components.as_path().to_owned())));
        }
    }
    Ok(None)
}

fn text(why: &control::Why) -> String {
    let mut lines =
        vec![format!("path       {}", why.path), format!("size       {}", DecimalBytes(why.size))];
    if why.frames > 0 {
        lines.push(format!(
            "frames     {}, {} of them decoded in memory",
            HumanCount(why.frames.into()),
            why.decoded_frames
        ));
    }
    lines.push(format!("nodes      {}", places(&why.nodes)));
    let unknown = match why.unknown_leaves {
        0 => String::new(),
        unknown => format!(", {} not known yet", HumanCount(unknown)),
    };
    lines.push(format!(
        "data       {}{unknown}, {} each",
        places(&why.leaves),
        DecimalBytes(why.block_bytes)
    ));
    for (source, blocks) in &why.came_from {
        lines.push(format!("came from  {source}: {} blocks", HumanCount(*blocks)));
    }
    let at_most = if why.unknown_leaves > 0 { "at most " } else { "" };
    lines.push(match why.round_trips {
        0 => "a read     costs nothing: all of it is here".into(),
        1 => format!("a read     waits {at_most}once for a source, for {}", DecimalBytes(why.missing_bytes)),
        trips => format!(
            "a read     waits {at_most}{trips} times for a source, for {}",
            DecimalBytes(why.missing_bytes)
        ),
    });
    if let Some(source) = why.would_ask.as_ref().filter(|_| why.round_trips > 0) {
        let time = why
            .seconds
            .map_or("no figures of it yet".into(), |seconds| format!("about {:.0} ms", seconds * 1e3));
        lines.push(format!("it asks    {source}: {time}"));
    }
    lines.join("\n")
}

fn places(places: &Places) -> String {
    let parts = [(places.memory, "in memory"), (places.disk, "on disk"), (places.missing, "missing")];
    let parts = parts.iter().filter(|(count, _)| *count > 0);
    let parts: Vec<_> = parts.map(|(count, place)| format!("{} {place}", HumanCount(*count))).collect();
    let all = match places.all() {
        1 => "1 block".to_owned(),
        all => format!("{} blocks", HumanCount(all)),
    };
    if parts.is_empty() { all } else { format!("{all}: {}", parts.join(", ")) }
}
