//! The line between the origin and its clients: a latency for each request, and a bandwidth that all connections share.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// From a request to the first byte of its answer: one round trip. A new connection costs another.
    pub latency: Duration,
    /// Bytes a second that all connections share; `None` for as many as the machine can.
    pub bandwidth: Option<u64>,
}

impl Link {
    /// Nothing in the way.
    pub const LOOPBACK: Link = Link::new(0, None);
    /// The links on which issue 3 wants figures.
    pub const ALL: [(&str, Link); 4] = [
        ("0 ms", Link::LOOPBACK),
        ("20 ms, 100 Mbit/s", Link::new(20, Some(12_500_000))),
        ("50 ms, 1 Gbit/s", Link::new(50, Some(125_000_000))),
        ("5 ms, 10 MB/s", Link::new(5, Some(10_000_000))),
    ];

    pub const fn new(milliseconds: u64, bandwidth: Option<u64>) -> Self {
        Link { latency: Duration::from_millis(milliseconds), bandwidth }
    }
}

/// How much a body that is late makes up for: threads wake late on a busy machine. A client that does not read is no reason.
const CATCH_UP: Duration = Duration::from_millis(20);
/// A piece of a body takes so long on the line, within the bounds of a piece: finer costs CPU and shows nowhere.
const PIECE_TIME: Duration = Duration::from_micros(500);
const PIECE_BYTES: (usize, usize) = (4 << 10, 32 << 10);

/// The line at work: who sends books time on it, piece by piece, so that connections take turns.
#[derive(Debug)]
pub struct Line(Mutex<(Link, Instant)>);

impl Line {
    pub fn new(link: Link) -> Self {
        Line(Mutex::new((link, Instant::now())))
    }

    pub fn link(&self) -> Link {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    pub fn set(&self, link: Link) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (link, Instant::now());
    }

    /// How many of `left` bytes, which were to be sent from `ready` on, go next, and when they have passed the line; at once without
    /// a bandwidth.
    pub fn book(&self, left: usize, ready: Instant) -> (usize, Option<Instant>) {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (Link { bandwidth: Some(bandwidth), .. }, free) = *line else { return (left, None) };
        let piece = (bandwidth as f64 * PIECE_TIME.as_secs_f64()) as usize;
        let piece = piece.clamp(PIECE_BYTES.0, PIECE_BYTES.1).min(left);
        let begin = free.max(ready).max(Instant::now() - CATCH_UP);
        line.1 = begin + Duration::from_secs_f64(piece as f64 / bandwidth as f64);
        (piece, Some(line.1))
    }
}
