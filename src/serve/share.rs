//! What neighbours get: blocks that are here, and no more of them than the user allows.
//!
//! Whoever knows a block's reference may have it, if this machine holds it: nobody else is asked for the sake of a stranger.
//! There is nothing to look around in: no narinfo, no listing, no figures. What goes out has a rate over all neighbours
//! together; one who would wait too long for his turn hears so at once, and asks somebody else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, StatusCode};
use tokio::sync::Semaphore;

use super::answer::{self, Answer};
use super::blocks::Blocks;
use super::route::Route;
use super::{Limits, PutPolicy};
use crate::block::{self, Block, BlockStore};
use crate::eris::{BlockSize, Reference};
use crate::metrics::{Sharing, SharingLimits};
use crate::pace::Pace;

/// How long a block may wait for its turn. A reader counts a block as late long before his patience ends; a shorter queue would
/// refuse what a reader with 64 blocks in flight asks for at 1 MiB a second, and a longer one keeps him from asking somebody else.
const TURN: Duration = Duration::from_secs(2);
/// Time for a block to come from a disk of this machine: one that sleeps has to spin up.
const DISK: Duration = Duration::from_secs(10);
/// Blocks that are read or looked for at a time. Disks have no more queues, and the user's own reads stand behind no more than these.
const READS: usize = 16;
/// Connections that one address may have where the share of all is fewer: as many as a reader opens.
const MIN_SHARE: usize = 16;
/// Time between two requests on a connection: there are few connections, and a reader that reads keeps his.
const IDLE: Duration = Duration::from_secs(30);

/// What is shared with neighbours, and how much of it.
#[derive(Debug)]
pub struct Share {
    /// The blocks that are here.
    pub store: Arc<dyn BlockStore>,
    /// Bytes of blocks a second, for all neighbours together.
    pub rate: u64,
    /// Connections at a time, of all neighbours together. One address may have a quarter of them, and at least 16.
    pub connections: usize,
}

impl Share {
    /// What a neighbour may ask of this machine.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            connections: self.connections,
            connections_of_one: (self.connections / 4).max(MIN_SHARE),
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
        let store = Arc::new(Bounded { store: share.store, reads: Arc::new(Semaphore::new(READS)) });
        Shared {
            blocks: Blocks::new(store, PutPolicy::Refuse, DISK),
            pace: Pace::new(share.rate),
            figures: Sharing::new(limits),
        }
    }

    /// Answers a request. What may be sent waits for its turn before it is read.
    pub(super) async fn answer(&self, route: Route, request: Request<Incoming>) -> Answer {
        let Route::Block(reference) = route else { return answer::not_found() };
        let mut turn = None;
        if request.method() == Method::GET {
            turn = self.pace.turn_within(BlockSize::MAX as u64, TURN).await;
            if turn.is_none() {
                self.figures.refused();
                return busy();
            }
        }
        let answer = self.blocks.answer(reference, request).await;
        let bytes = answer.body().length();
        match answer.status() {
            StatusCode::NOT_FOUND => self.figures.lacked(),
            StatusCode::OK if bytes > 0 => {
                turn.iter_mut().for_each(|turn| turn.spend(bytes));
                self.figures.gave(bytes);
            }
            _ => {}
        }
        answer
    }
}

/// A store that is asked for no more than so much at a time, however many ask. A read goes on until it ends, and has its place so
/// long, also where whoever asked has gone: it could not be called back.
#[derive(Debug)]
struct Bounded {
    store: Arc<dyn BlockStore>,
    reads: Arc<Semaphore>,
}

impl Bounded {
    /// What a read gives that holds a place until it ends.
    async fn read<T: Send + 'static>(
        &self,
        reference: &Reference,
        read: impl Future<Output = Result<T, block::Error>> + Send + 'static,
    ) -> Result<T, block::Error> {
        let place = Arc::clone(&self.reads).acquire_owned().await.expect("the semaphore is never closed");
        let read = tokio::spawn(async move {
            let _place = place;
            read.await
        });
        read.await.unwrap_or_else(|ended| {
            Err(block::Error::Unavailable {
                reference: Some(*reference),
                store: self.name().into(),
                retry_after: None,
                source: Arc::new(ended),
            })
        })
    }
}

#[async_trait]
impl BlockStore for Bounded {
    fn name(&self) -> &str {
        self.store.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, block::Error> {
        let (store, wanted) = (Arc::clone(&self.store), *reference);
        self.read(reference, async move { store.get(&wanted).await }).await
    }

    async fn has(&self, reference: &Reference) -> Result<bool, block::Error> {
        let (store, wanted) = (Arc::clone(&self.store), *reference);
        self.read(reference, async move { store.has(&wanted).await }).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), block::Error> {
        self.store.put(reference, block).await
    }

    async fn sync(&self) -> Result<(), block::Error> {
        self.store.sync().await
    }

    fn concurrency(&self) -> usize {
        READS
    }
}

/// Others had the rate to themselves for as long as anybody should wait.
fn busy() -> Answer {
    let mut answer = answer::line(StatusCode::SERVICE_UNAVAILABLE, "others are being served");
    answer::set(&mut answer, RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}
