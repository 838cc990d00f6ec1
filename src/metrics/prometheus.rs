//! A snapshot as OpenMetrics text, which Prometheus reads. No URN, key or token is in it, and URLs are without secrets.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::{BOUNDS, SharingStatus, Snapshot};
use crate::block::{DiskStatus, SourceState, SourceStatus};

/// The media type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "erisfs";

/// One metric.
struct Metric {
    /// Without the prefix, and without the `_total` of counters.
    name: &'static str,
    help: &'static str,
    samples: Samples,
}

/// How the samples come out of a snapshot.
#[derive(Clone, Copy)]
enum Samples {
    Counter(fn(&Snapshot, &mut Take<u64>) -> fmt::Result),
    Gauge(fn(&Snapshot, &mut Take<f64>) -> fmt::Result),
    /// The histogram of requests, by kind.
    Latencies,
}

/// Takes one sample with its labels.
type Take<'a, T> = dyn FnMut(&[(&str, &str)], T) -> fmt::Result + 'a;

const fn counter(
    name: &'static str,
    help: &'static str,
    samples: fn(&Snapshot, &mut Take<u64>) -> fmt::Result,
) -> Metric {
    Metric { name, help, samples: Samples::Counter(samples) }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    samples: fn(&Snapshot, &mut Take<f64>) -> fmt::Result,
) -> Metric {
    Metric { name, help, samples: Samples::Gauge(samples) }
}

/// In the order of docs/operation.md.
const METRICS: [Metric; 38] = [
    gauge("uptime_seconds", "Since this process began", |at, take| take(&[], at.uptime_seconds)),
    gauge("source_up", "1 while the source is asked, 0 while it cools down after failures", |at, take| {
        sources(at, take, |source| f64::from(u8::from(source.state == SourceState::Up)))
    }),
    counter("source_requests", "Blocks the source was asked for", |at, take| {
        sources(at, take, |source| source.asked)
    }),
    counter("source_blocks", "Blocks the source gave", |at, take| {
        sources(at, take, |source| source.answered)
    }),
    counter("source_bytes", "Bytes of the blocks the source gave", |at, take| {
        sources(at, take, |source| source.bytes)
    }),
    counter("source_lacked", "Blocks the source said it does not have", |at, take| {
        sources(at, take, |source| source.lacked)
    }),
    counter("source_failures", "Requests to the source that failed otherwise", |at, take| {
        sources(at, take, |source| source.failed)
    }),
    counter("source_hedges", "Requests to the source because a block was late elsewhere", |at, take| {
        sources(at, take, |source| source.hedges)
    }),
    counter("source_hedges_won", "Hedges that brought the block first", |at, take| {
        sources(at, take, |source| source.hedges_won)
    }),
    gauge("source_in_flight", "Requests to the source under way", |at, take| {
        sources(at, take, |source| source.in_flight as f64)
    }),
    gauge("source_limit", "Requests to the source that may be under way", |at, take| {
        sources(at, take, |source| source.limit as f64)
    }),
    gauge("source_latency_seconds", "Average time to a block, recent ones weighing most", |at, take| {
        timed(at, take, |source| source.latency)
    }),
    gauge("source_latency_p95_seconds", "Time within which 95 of 100 recent blocks came", |at, take| {
        timed(at, take, |source| source.p95)
    }),
    gauge("source_throughput_bytes_per_second", "What the source gave while it was busy", |at, take| {
        sources(at, take, |source| source.throughput)
    }),
    gauge("memory_bytes", "Blocks in memory", |at, take| take(&[], at.blocks.memory.bytes as f64)),
    gauge("memory_capacity_bytes", "Room for blocks in memory", |at, take| {
        take(&[], at.blocks.memory.capacity as f64)
    }),
    counter("memory_hits", "Blocks asked for that were in memory", |at, take| {
        take(&[], at.blocks.memory.hits)
    }),
    counter("memory_joined", "Blocks asked for that were on their way already", |at, take| {
        take(&[], at.blocks.memory.joined)
    }),
    counter("memory_misses", "Blocks asked for that were not in memory", |at, take| {
        take(&[], at.blocks.memory.misses)
    }),
    gauge("blocks_in_flight", "Blocks under way to memory", |at, take| {
        take(&[], at.blocks.memory.in_flight as f64)
    }),
    gauge("disk_bytes", "Blocks in the disk cache", |at, take| disk(at, take, |disk| disk.stat.bytes as f64)),
    gauge("disk_capacity_bytes", "Size of the disk cache", |at, take| {
        disk(at, take, |disk| disk.stat.size as f64)
    }),
    gauge("disk_pinned_blocks", "Blocks in the disk cache that are pinned", |at, take| {
        disk(at, take, |disk| disk.stat.pinned as f64)
    }),
    counter("disk_hits", "Blocks asked for that were on disk", |at, take| {
        disk(at, take, |disk| disk.stat.hits)
    }),
    counter("disk_misses", "Blocks asked for that were not on disk", |at, take| {
        disk(at, take, |disk| disk.stat.misses)
    }),
    counter("disk_evicted", "Blocks that gave way on disk", |at, take| {
        disk(at, take, |disk| disk.stat.evicted)
    }),
    counter("disk_bad", "Blocks on disk that were not what they should be", |at, take| {
        disk(at, take, |disk| disk.stat.bad)
    }),
    gauge("frames_bytes", "Decoded data in memory", |at, take| take(&[], at.tree.frames.bytes as f64)),
    counter("frames_hits", "Frames asked for that were decoded already", |at, take| {
        take(&[], at.tree.frames.hits)
    }),
    counter("frames_misses", "Frames asked for that had to be decoded", |at, take| {
        take(&[], at.tree.frames.misses)
    }),
    counter("read_bytes", "Bytes of files and archives answered", |at, take| take(&[], at.tree.read_bytes)),
    gauge("requests_in_flight", "Requests without an answer yet", |at, take| {
        at.requests.iter().try_for_each(|kind| take(&[("kind", kind.kind)], kind.in_flight as f64))
    }),
    counter("request_errors", "Requests that failed for a reason that is not the asker's", |at, take| {
        at.requests.iter().try_for_each(|kind| take(&[("kind", kind.kind)], kind.errors))
    }),
    gauge("share_connections", "Neighbours' connections that are open", |at, take| {
        shared(at, take, |sharing| sharing.connections as f64)
    }),
    counter("share_blocks", "Blocks that neighbours got", |at, take| {
        shared(at, take, |sharing| sharing.blocks)
    }),
    counter("share_bytes", "Bytes of the blocks that neighbours got", |at, take| {
        shared(at, take, |sharing| sharing.bytes)
    }),
    counter("share_lacked", "Blocks neighbours asked for that are not here", |at, take| {
        shared(at, take, |sharing| sharing.lacked)
    }),
    counter(
        "share_refused",
        "Connections and blocks that neighbours were refused for being too many",
        |at, take| shared(at, take, |sharing| sharing.refused),
    ),
];

/// The one histogram, after all others.
const LATENCIES: Metric = Metric {
    name: "request_seconds",
    help: "Time from a request to its answer",
    samples: Samples::Latencies,
};

fn sources<T>(at: &Snapshot, take: &mut Take<T>, figure: fn(&SourceStatus) -> T) -> fmt::Result {
    at.blocks.sources.iter().try_for_each(|source| take(&[("source", &source.name)], figure(source)))
}

fn timed(
    at: &Snapshot,
    take: &mut Take<f64>,
    figure: fn(&SourceStatus) -> Option<std::time::Duration>,
) -> fmt::Result {
    at.blocks.sources.iter().try_for_each(|source| match figure(source) {
        Some(time) => take(&[("source", &source.name)], time.as_secs_f64()),
        None => Ok(()),
    })
}

fn disk<T>(at: &Snapshot, take: &mut Take<T>, figure: fn(&DiskStatus) -> T) -> fmt::Result {
    at.blocks.disk.as_ref().map_or(Ok(()), |disk| take(&[], figure(disk)))
}

fn shared<T>(at: &Snapshot, take: &mut Take<T>, figure: fn(&SharingStatus) -> T) -> fmt::Result {
    at.sharing.as_ref().map_or(Ok(()), |sharing| take(&[], figure(sharing)))
}

/// The text that a scrape gets.
pub fn text(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Scrape(snapshot)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a string takes everything");
    text
}

#[derive(Debug)]
struct Scrape(Snapshot);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        METRICS.iter().chain([&LATENCIES]).try_for_each(|metric| self.family(metric, &mut encoder))
    }
}

impl Scrape {
    fn family(&self, metric: &Metric, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let kind = match metric.samples {
            Samples::Counter(_) => MetricType::Counter,
            Samples::Gauge(_) => MetricType::Gauge,
            Samples::Latencies => MetricType::Histogram,
        };
        let mut family = encoder.encode_descriptor(metric.name, metric.help, None, kind)?;
        match metric.samples {
            Samples::Counter(samples) => samples(&self.0, &mut |labels, value| {
                labelled(&mut family, labels, |one| one.encode_counter::<NoLabelSet, _, u64>(&value, None))
            }),
            Samples::Gauge(samples) => samples(&self.0, &mut |labels, value| {
                labelled(&mut family, labels, |one| one.encode_gauge(&value))
            }),
            Samples::Latencies => self.0.requests.iter().try_for_each(|kind| {
                let mut buckets: Vec<(f64, u64)> = BOUNDS.into_iter().zip(kind.buckets).collect();
                buckets.push((f64::INFINITY, kind.count - kind.buckets.iter().sum::<u64>().min(kind.count)));
                labelled(&mut family, &[("kind", kind.kind)], |one| {
                    one.encode_histogram::<NoLabelSet>(kind.seconds, kind.count, &buckets, None)
                })
            }),
        }
    }
}

fn labelled(
    family: &mut MetricEncoder,
    labels: &[(&str, &str)],
    encode: impl FnOnce(&mut MetricEncoder) -> fmt::Result,
) -> fmt::Result {
    match labels {
        [] => encode(family),
        labels => encode(&mut family.encode_family(&labels)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::snapshot;

    #[test]
    fn the_documentation_names_the_same_metrics() {
        let page = include_str!("../../docs/operation.md");
        let documented: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `erisfs_")?.split_once('`'))
            .map(|(name, _)| name)
            .collect();
        let text = text(snapshot());
        let shown: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE erisfs_")?.split_once(' '))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(documented, shown);
    }

    #[test]
    fn figures_stand_under_their_names() {
        let text = text(snapshot());
        for line in [
            "erisfs_source_bytes_total{source=\"http://blocks.example/\"} 65536",
            "erisfs_source_up{source=\"http://blocks.example/\"} 1.0",
            "erisfs_source_latency_seconds{source=\"http://blocks.example/\"} 0.05",
            "erisfs_memory_hits_total 3",
            "erisfs_read_bytes_total 32768",
            "erisfs_request_seconds_count{kind=\"read\"} 2",
            "erisfs_request_seconds_bucket{le=\"+Inf\",kind=\"read\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
