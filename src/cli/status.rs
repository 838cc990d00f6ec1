//! How the mounts and servers of this user are doing: for people in less than 100 columns, or as JSON.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use indicatif::{DecimalBytes, HumanCount, HumanDuration};
use serde::Deserialize;
use serde_json::Value;

use super::{Session, print};
use crate::control::{self, Request};

/// A process that is well answers at once. One that hangs must not keep people from the others.
const WAIT: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct Status {
    /// One JSON object a line for each process
    #[arg(long)]
    json: bool,
    /// Only the mount that is there
    mountpoint: Option<PathBuf>,
}

impl Status {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        session.runtime.block_on(self.tell(session))
    }

    async fn tell(&self, session: &Session) -> anyhow::Result<()> {
        let dir = control::directory(session.environment.runtime_dir.as_deref());
        let wanted = self.mountpoint.as_ref().map(|given| {
            // One whose process is gone cannot be looked at any more.
            let found = given.canonicalize().or_else(|_| std::path::absolute(given));
            found.unwrap_or_else(|_| given.clone())
        });
        let mut told = 0;
        let peers = control::peers(&dir)?;
        let answers = peers.iter().map(|peer| peer.ask_within::<Value>(WAIT, &Request::Status));
        for answer in futures::future::join_all(answers).await {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    tracing::warn!("{error}");
                    continue;
                }
            };
            let shown =
                Shown::deserialize(&answer).context("another version of erisfs is running: try --json")?;
            if wanted.as_ref().is_some_and(|wanted| wanted.as_os_str() != shown.place.as_str()) {
                continue;
            }
            if told > 0 && !self.json {
                print("")?;
            }
            told += 1;
            if self.json { print(answer)? } else { print(shown.text())? }
        }
        match (told, &self.mountpoint) {
            (0, Some(given)) => Err(anyhow!("{}: no mount of this user is there", given.display())),
            (0, None) if !self.json => print("nothing is mounted or served by this user"),
            _ => Ok(()),
        }
    }
}

/// What people are shown of a status.
#[derive(Debug, Deserialize)]
struct Shown {
    pid: u32,
    face: String,
    place: String,
    uptime_seconds: f64,
    blocks: Blocks,
    tree: Tree,
    requests: Vec<Requests>,
    sharing: Option<Sharing>,
    ratios: Ratios,
}

#[derive(Debug, Deserialize)]
struct Blocks {
    sources: Vec<Source>,
    disk: Option<Disk>,
    memory: Memory,
}

#[derive(Debug, Deserialize)]
struct Source {
    name: String,
    state: String,
    latency_seconds: Option<f64>,
    p95_seconds: Option<f64>,
    throughput: f64,
    limit: usize,
    in_flight: usize,
    answered: u64,
    bytes: u64,
    failed: u64,
    last_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Disk {
    dir: String,
    bytes: u64,
    size: u64,
    pinned: u64,
    read_through: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Memory {
    bytes: u64,
    capacity: u64,
    in_flight: usize,
}

#[derive(Debug, Deserialize)]
struct Tree {
    read_bytes: u64,
    frames: Frames,
    servers: Vec<Server>,
    downloads: Vec<Download>,
}

#[derive(Debug, Deserialize)]
struct Server {
    name: String,
    state: String,
    asked: u64,
    had: u64,
    refused: u64,
    failed: u64,
    last_error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Download {
    name: String,
    arrived: u64,
    nar_size: u64,
    source: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Frames {
    bytes: u64,
    capacity: u64,
}

#[derive(Debug, Deserialize)]
struct Requests {
    kind: String,
    count: u64,
    errors: u64,
    in_flight: u64,
}

#[derive(Debug, Deserialize)]
struct Sharing {
    port: u16,
    rate: u64,
    max_connections: usize,
    connections: u64,
    blocks: u64,
    bytes: u64,
    lacked: u64,
    refused: u64,
}

#[derive(Debug, Deserialize)]
struct Ratios {
    frame_hits: Option<f64>,
    memory_hits: Option<f64>,
    disk_hits: Option<f64>,
    amplification: Option<f64>,
}

/// Characters of a source's name in the table; a longer one stands on a line of its own.
const NAME: usize = 26;

impl Shown {
    fn text(&self) -> String {
        let up = HumanDuration(Duration::from_secs_f64(self.uptime_seconds.max(0.0)));
        let mut lines = vec![
            format!("{}  ({}, process {}, up {up})", self.place, self.face, self.pid),
            format!(
                "  {:<NAME$} {:<8} {:>7} {:>7} {:>11} {:>9} {:>8} {:>6}",
                "source", "state", "latency", "p95", "throughput", "in flight", "blocks", "errors"
            ),
        ];
        self.blocks.sources.iter().for_each(|source| source.tell(&mut lines));
        self.tree.servers.iter().for_each(|server| server.tell(&mut lines));
        self.tree.downloads.iter().for_each(|download| download.tell(&mut lines));
        lines.push(match &self.blocks.disk {
            None => "  disk      no cache".into(),
            Some(disk) => disk.text(),
        });
        lines.push(format!(
            "  memory    {} of {} blocks, {} of {} decoded",
            DecimalBytes(self.blocks.memory.bytes),
            DecimalBytes(self.blocks.memory.capacity),
            DecimalBytes(self.tree.frames.bytes),
            DecimalBytes(self.tree.frames.capacity)
        ));
        lines.push(format!(
            "  hits      decoded {}, memory {}, disk {}",
            percent(self.ratios.frame_hits),
            percent(self.ratios.memory_hits),
            percent(self.ratios.disk_hits)
        ));
        let fetched: u64 = self.blocks.sources.iter().map(|source| source.bytes).sum();
        let times = self.ratios.amplification.map(|times| format!(", {times:.2} times as much"));
        lines.push(format!(
            "  traffic   {} read, {} fetched{}",
            DecimalBytes(self.tree.read_bytes),
            DecimalBytes(fetched),
            times.unwrap_or_default()
        ));
        self.sharing.iter().for_each(|sharing| sharing.tell(&mut lines));
        let asked = self.requests.iter().filter(|requests| requests.count > 0);
        let asked: Vec<_> =
            asked.map(|requests| format!("{} {}", HumanCount(requests.count), requests.kind)).collect();
        let (errors, under_way) = self.requests.iter().fold((0, 0), |(errors, under_way), requests| {
            (errors + requests.errors, under_way + requests.in_flight)
        });
        let asked = if asked.is_empty() { "none".into() } else { asked.join(", ") };
        lines.push(format!("  requests  {asked}"));
        lines.push(format!(
            "            {} failed, {} under way, {} blocks under way",
            HumanCount(errors),
            HumanCount(under_way),
            self.blocks.memory.in_flight
        ));
        lines.join("\n")
    }
}

impl Source {
    fn tell(&self, lines: &mut Vec<String>) {
        let mut name = self.name.as_str();
        if name.chars().count() > NAME {
            lines.push(format!("  {name}"));
            name = "";
        }
        lines.push(format!(
            "  {name:<NAME$} {:<8} {:>7} {:>7} {:>11} {:>9} {:>8} {:>6}",
            self.state.split('-').next().unwrap_or_default(),
            millis(self.latency_seconds),
            millis(self.p95_seconds),
            format!("{}/s", DecimalBytes(self.throughput as u64)),
            format!("{} of {}", self.in_flight, self.limit),
            self.answered,
            self.failed
        ));
        if let Some(error) = &self.last_error {
            lines.push(format!("    last error: {error}"));
        }
    }
}

impl Server {
    fn tell(&self, lines: &mut Vec<String>) {
        lines.push(format!("  server    {}", self.name));
        lines.push(format!(
            "            {}: {} narinfos of {} asked for, {} refused, {} errors",
            self.state,
            HumanCount(self.had),
            HumanCount(self.asked),
            HumanCount(self.refused),
            HumanCount(self.failed)
        ));
        if let Some(error) = &self.last_error {
            lines.push(format!("    last error: {error}"));
        }
    }
}

impl Download {
    fn tell(&self, lines: &mut Vec<String>) {
        lines.push(format!("  download  {}", self.name));
        let source = self.source.as_ref().map(|source| format!(" from {source}"));
        let (arrived, size) = (DecimalBytes(self.arrived), DecimalBytes(self.nar_size));
        lines.push(format!("            {arrived} of {size}{}", source.unwrap_or_default()));
    }
}

impl Sharing {
    fn tell(&self, lines: &mut Vec<String>) {
        lines.push(format!(
            "  sharing   {} in {} blocks given, {} not here, {} refused",
            DecimalBytes(self.bytes),
            HumanCount(self.blocks),
            HumanCount(self.lacked),
            HumanCount(self.refused)
        ));
        lines.push(format!(
            "            {} of {} connections, at most {}/s, port {}",
            self.connections,
            self.max_connections,
            DecimalBytes(self.rate),
            self.port
        ));
    }
}

impl Disk {
    fn text(&self) -> String {
        let pinned = match self.pinned {
            0 => String::new(),
            pinned => format!(", {} blocks pinned", HumanCount(pinned)),
        };
        let state = match &self.read_through {
            Some(reason) => format!("\n            keeps nothing now: {reason}"),
            None => String::new(),
        };
        let (bytes, size) = (DecimalBytes(self.bytes), DecimalBytes(self.size));
        format!("  disk      {bytes} of {size}{pinned}, {}{state}", self.dir)
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or("-".into(), |share| format!("{:.1} %", share * 100.0))
}

fn millis(seconds: Option<f64>) -> String {
    seconds.map_or("-".into(), |seconds| match seconds * 1000.0 {
        millis if millis < 10.0 => format!("{millis:.1} ms"),
        millis => format!("{millis:.0} ms"),
    })
}
