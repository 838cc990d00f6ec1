//! What a race tells about its sources, for `erisfs status`, the metrics, and tests.

use std::time::Duration;

/// One source of a [`Race`](super::Race) as it is now. The figures are of what was asked for reading since the race was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SourceStatus {
    /// The URL, without secrets.
    pub name: String,
    /// Whether it is asked.
    pub state: SourceState,
    /// The average time to a block, recent ones weighing most.
    #[serde(rename = "latency_seconds", serialize_with = "seconds")]
    pub latency: Option<Duration>,
    /// The time within which 95 of 100 blocks came lately.
    #[serde(rename = "p95_seconds", serialize_with = "seconds")]
    pub p95: Option<Duration>,
    /// Bytes a second while it was busy, recent ones weighing most.
    pub throughput: f64,
    /// Requests that may be in flight now.
    pub limit: usize,
    /// Requests that are.
    pub in_flight: usize,
    /// Requests made.
    pub asked: u64,
    /// Blocks that came.
    pub answered: u64,
    /// Bytes of those blocks.
    pub bytes: u64,
    /// Answers that it does not have the block.
    pub lacked: u64,
    /// Failures of any other kind.
    pub failed: u64,
    /// Of the requests, those made because a block was late elsewhere.
    pub hedges: u64,
    /// Of the hedges, those that brought the block first.
    pub hedges_won: u64,
    /// The last failure, lacking a block not counted.
    pub last_error: Option<String>,
}

/// A time as other programs read it.
fn seconds<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&time.map(|time| time.as_secs_f64()), serializer)
}

/// Whether a source is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceState {
    /// Yes.
    Up,
    /// No, after failures, unless nothing better is left.
    CoolingDown,
    /// One request is finding out.
    Probing,
}
