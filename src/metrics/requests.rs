//! Requests of one face by their kind: how many, how many failed, how long they took, how many are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Upper bounds of the histogram's buckets, in seconds: from what memory answers to the deadline of a read. What takes longer
/// than the last is in the total alone.
pub const BOUNDS: [f64; 12] = [0.0001, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 30.0];

/// Counts the requests of a face. Every kind is known from the beginning, so that each has its figures, if only zeros.
#[derive(Debug)]
pub struct Requests {
    kinds: Box<[(&'static str, Figures)]>,
}

#[derive(Debug, Default)]
struct Figures {
    begun: AtomicU64,
    ended: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len()],
}

/// The figures of one kind of request.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RequestStatus {
    /// Such as `read` or `narinfo`.
    pub kind: &'static str,
    /// Requests that were answered, or given up.
    pub count: u64,
    /// Of those, the ones that failed for a reason that is not the asker's.
    pub errors: u64,
    /// Requests without an answer yet.
    pub in_flight: u64,
    /// Time that all answered requests took together.
    pub seconds: f64,
    /// How many took no longer than each of [`BOUNDS`], and longer than the one before.
    pub buckets: [u64; BOUNDS.len()],
}

impl Requests {
    /// Nothing counted yet, for these kinds.
    pub fn new(kinds: &[&'static str]) -> Arc<Self> {
        Arc::new(Requests { kinds: kinds.iter().map(|kind| (*kind, Figures::default())).collect() })
    }

    /// A request of `kind` begins; it ends with [`Counted::end`], or when it is dropped. A kind that was not announced is
    /// not counted.
    pub fn begin(self: &Arc<Self>, kind: &str) -> Counted {
        let place = self.kinds.iter().position(|(known, _)| *known == kind);
        if let Some(place) = place {
            self.kinds[place].1.begun.fetch_add(1, Relaxed);
        }
        Counted { requests: self.clone(), place, since: Instant::now() }
    }

    /// The figures of all kinds, in the order in which they were announced.
    pub fn status(&self) -> Vec<RequestStatus> {
        let status = |(kind, figures): &(&'static str, Figures)| {
            // The end is read first: a request that ends in between would count as less than nothing.
            let count = figures.ended.load(Relaxed);
            RequestStatus {
                kind,
                count,
                errors: figures.errors.load(Relaxed),
                in_flight: figures.begun.load(Relaxed).saturating_sub(count),
                seconds: figures.nanos.load(Relaxed) as f64 / 1e9,
                buckets: std::array::from_fn(|at| figures.buckets[at].load(Relaxed)),
            }
        };
        self.kinds.iter().map(status).collect()
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Counted {
    requests: Arc<Requests>,
    place: Option<usize>,
    since: Instant,
}

impl Counted {
    /// It was answered; `failed`: for a reason that is not the asker's.
    pub fn end(mut self, failed: bool) {
        self.count(failed, self.since.elapsed());
    }

    fn count(&mut self, failed: bool, took: Duration) {
        let Some(place) = self.place.take() else { return };
        let figures = &self.requests.kinds[place].1;
        figures.errors.fetch_add(failed.into(), Relaxed);
        figures.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        if let Some(bucket) = BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound) {
            figures.buckets[bucket].fetch_add(1, Relaxed);
        }
        figures.ended.fetch_add(1, Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count(true, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_however_it_ends() {
        let requests = Requests::new(&["read", "lookup"]);
        requests.begin("read").end(false);
        requests.begin("read").end(true);
        drop(requests.begin("read"));
        let under_way = requests.begin("read");
        let [read, lookup] = &requests.status()[..] else { panic!("two kinds") };
        assert_eq!((read.count, read.errors, read.in_flight), (3, 2, 1));
        assert_eq!((lookup.kind, lookup.count, lookup.in_flight), ("lookup", 0, 0));
        under_way.end(false);
        assert_eq!(requests.status()[0].in_flight, 0);
    }

    #[test]
    fn a_request_is_in_the_bucket_of_its_time() {
        let requests = Requests::new(&["read"]);
        for millis in [0, 15, 40_000] {
            requests.begin("read").count(false, Duration::from_millis(millis));
        }
        let read = &requests.status()[0];
        assert_eq!(read.buckets, [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert!((read.seconds - 40.015).abs() < 1e-6, "{}", read.seconds);
    }

    #[test]
    fn a_kind_that_was_not_announced_disturbs_nothing() {
        let requests = Requests::new(&["read"]);
        requests.begin("write").end(true);
        assert_eq!(requests.status()[0].count, 0);
    }
}
