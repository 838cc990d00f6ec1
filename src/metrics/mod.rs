//! The figures of this process, as one snapshot: what was fetched, what was answered, what is kept, what is under way.
//!
//! Every layer counts for itself; a [`Process`] knows whom to ask. `erisfs status`, its JSON and the Prometheus text are
//! three views of the same [`Snapshot`], which is taken without waiting for anybody.

mod prometheus;
mod requests;
mod sharing;

pub use prometheus::{CONTENT_TYPE, text};
pub use requests::{BOUNDS, Counted, RequestStatus, Requests};
pub use sharing::{Connected, Sharing, SharingLimits, SharingStatus};

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde::Serialize;

use crate::block::{Stack, StackStatus};
use crate::tree::{Tree, TreeStatus};

/// Who counts in this process.
#[derive(Debug)]
pub struct Process {
    /// Where blocks come from.
    pub stack: Arc<Stack>,
    /// What is shown.
    pub tree: Arc<Tree>,
    /// What was asked.
    pub requests: Arc<Requests>,
    sharing: OnceLock<Arc<Sharing>>,
    started: Instant,
}

/// All figures of a process at one moment. Counters begin with the process.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// How long the process has been at work.
    pub uptime_seconds: f64,
    /// Block stores and caches.
    pub blocks: StackStatus,
    /// The view.
    pub tree: TreeStatus,
    /// What was asked, by kind.
    pub requests: Vec<RequestStatus>,
    /// What neighbours had, where something is shared with them.
    pub sharing: Option<SharingStatus>,
    /// What follows from the figures above.
    pub ratios: Ratios,
}

/// Shares; `None` where nothing was asked yet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratios {
    /// Of the decoded data asked for, the share that was in memory.
    pub frame_hits: Option<f64>,
    /// Of the blocks asked for, the share that was in memory.
    pub memory_hits: Option<f64>,
    /// Of the blocks not in memory, the share that was on disk.
    pub disk_hits: Option<f64>,
    /// Bytes of blocks that sources gave, for each byte that was read.
    pub amplification: Option<f64>,
}

impl Process {
    /// A process that begins now.
    pub fn new(stack: Arc<Stack>, tree: Arc<Tree>, requests: Arc<Requests>) -> Arc<Self> {
        Arc::new(Process { stack, tree, requests, sharing: OnceLock::new(), started: Instant::now() })
    }

    /// Something is shared with neighbours, and this counts it. Only the first call counts.
    pub fn share(&self, sharing: Arc<Sharing>) {
        self.sharing.get_or_init(|| sharing);
    }

    /// The figures as they are now. Asks the index of the disk cache: milliseconds, so not for an async thread.
    pub fn snapshot(&self) -> Snapshot {
        let (blocks, tree) = (self.stack.status(), self.tree.status());
        let disk = blocks.disk.as_ref();
        let ratios = Ratios {
            frame_hits: share(tree.frames.hits, tree.frames.misses),
            memory_hits: share(blocks.memory.hits + blocks.memory.joined, blocks.memory.misses),
            disk_hits: disk.and_then(|disk| share(disk.stat.hits, disk.stat.misses)),
            amplification: (tree.read_bytes > 0)
                .then(|| blocks.fetched_bytes() as f64 / tree.read_bytes as f64),
        };
        let requests = self.requests.status();
        let sharing = self.sharing.get().map(|sharing| sharing.status());
        let uptime_seconds = self.started.elapsed().as_secs_f64();
        Snapshot { uptime_seconds, blocks, tree, requests, sharing, ratios }
    }
}

fn share(hits: u64, misses: u64) -> Option<f64> {
    let all = hits + misses;
    (all > 0).then(|| hits as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::block::{CacheStatus, SourceState, SourceStatus};
    use crate::content::FramesStatus;

    /// The figures of a process with one source that read half of what it fetched.
    pub(super) fn snapshot() -> Snapshot {
        let source = SourceStatus {
            name: "http://blocks.example/".into(),
            state: SourceState::Up,
            latency: Some(Duration::from_millis(50)),
            p95: Some(Duration::from_millis(80)),
            throughput: 1e6,
            limit: 64,
            in_flight: 0,
            asked: 3,
            answered: 2,
            bytes: 65536,
            lacked: 1,
            failed: 0,
            hedges: 0,
            hedges_won: 0,
            last_error: None,
        };
        let memory = CacheStatus {
            bytes: 65856,
            capacity: 1 << 20,
            entries: 2,
            hits: 3,
            misses: 2,
            joined: 1,
            in_flight: 0,
        };
        let frames = FramesStatus { bytes: 32768, capacity: 1 << 20, hits: 1, misses: 1 };
        let requests = Requests::new(&["read"]);
        requests.begin("read").end(false);
        requests.begin("read").end(true);
        let sharing = Sharing::new(SharingLimits { port: 4711, rate: 8 << 20, max_connections: 64 });
        sharing.gave(1024);
        Snapshot {
            uptime_seconds: 1.5,
            blocks: StackStatus { sources: vec![source], disk: None, memory },
            tree: TreeStatus {
                read_bytes: 32768,
                frames,
                in_flight: Default::default(),
                servers: Vec::new(),
                downloads: Vec::new(),
            },
            requests: requests.status(),
            sharing: Some(sharing.status()),
            ratios: Ratios { frame_hits: None, memory_hits: None, disk_hits: None, amplification: None },
        }
    }

    #[test]
    fn shares_of_nothing_are_unknown() {
        assert_eq!((share(0, 0), share(3, 1)), (None, Some(0.75)));
    }
}
