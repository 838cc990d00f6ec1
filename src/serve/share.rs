//! What neighbours get: blocks that are here, and no more of them than the user allows.
//!
//! Whoever knows a block's reference may have it, if this machine holds it: nobody else is asked for the sake of a stranger.
//! There is nothing to look around in: no narinfo, no listing, no figures. What goes out has a rate over all neighbours
//! together; one who would wait too long for his turn hears so at once, and asks somebody else.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Request, StatusCode};

use super::answer::{self, Answer};
use super::blocks::Blocks;
use super::route::Route;
use super::{Limits, PutPolicy};
use crate::block::BlockStore;
use crate::metrics::{Sharing, SharingLimits};
use crate::pace::Pace;

/// How long a block may wait for its turn. A reader counts a block as late long before his patience ends; a shorter queue would
/// refuse what a reader with 64 blocks in flight asks for at 1 MiB a second, and a longer one holds more blocks in memory.
const TURN: Duration = Duration::from_secs(2);
/// Time for a block to come from a disk of this machine: one that sleeps has to spin up.
const DISK: Duration = Duration::from_secs(10);
/// Requests at a time on an HTTP/2 connection: with [`Share::connections`] it bounds the blocks in memory that wait to be sent.
const STREAMS: u32 = 32;
/// Time between two requests on a connection: there are few connections, and a reader that reads keeps his.
const IDLE: Duration = Duration::from_secs(30);

/// What is shared with neighbours, and how much of it.
#[derive(Debug)]
pub struct Share {
    /// The blocks that are here.
    pub store: Arc<dyn BlockStore>,
    /// Bytes of blocks a second, for all neighbours together.
    pub rate: u64,
    /// Connections at a time, of all neighbours together.
    pub connections: usize,
}

impl Share {
    /// What a neighbour may ask of this machine.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            connections: self.connections,
            streams: STREAMS,
            fetch: DISK,
            idle: IDLE,
            ..Limits::default()
        }
    }
}

/// The blocks as neighbours get them.
#[derive(Debug)]
pub(super) struct Shared {
    blocks: Blocks,
    pace: Pace,
    pub(super) figures: Arc<Sharing>,
}

impl Shared {
    /// What a listener at `port` gives.
    pub(super) fn new(share: Share, port: u16) -> Self {
        let limits = SharingLimits { port, rate: share.rate, max_connections: share.connections };
        Shared {
            blocks: Blocks::new(share.store, PutPolicy::Refuse, DISK),
            pace: Pace::new(share.rate),
            figures: Sharing::new(limits),
        }
    }

    /// Answers a request. What is sent waits for its turn.
    pub(super) async fn answer(&self, route: Route, request: Request<Incoming>) -> Answer {
        let Route::Block(reference) = route else { return answer::not_found() };
        let answer = self.blocks.answer(reference, request).await;
        let bytes = answer.body().length();
        match answer.status() {
            StatusCode::NOT_FOUND => self.figures.lacked(),
            StatusCode::OK if bytes > 0 => {
                if !self.pace.wait_at_most(bytes, TURN).await {
                    self.figures.refused();
                    return busy();
                }
                self.figures.gave(bytes);
            }
            _ => {}
        }
        answer
    }
}

/// Others had the rate to themselves for as long as anybody should wait.
fn busy() -> Answer {
    let mut answer = answer::line(StatusCode::SERVICE_UNAVAILABLE, "others are being served");
    answer::set(&mut answer, RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}
