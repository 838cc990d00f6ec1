//! HTTP: blocks by reference, and for stock `nix` and `guix` what the catalogs list.
//!
//! HTTP/1.1, and HTTP/2 by prior knowledge, on one port. The server holds no knowledge of its own: blocks
//! come from a [`BlockStore`], everything else from the [`Tree`] that the mount shows. Whatever a client
//! does costs bounded memory and ends in bounded time, and one client's fault is not another's.

mod activity;
mod answer;
mod binary_cache;
mod blocks;
mod body;
mod budget;
mod checked;
mod listener;
mod range;
mod room;
mod route;
mod seed;
mod share;
mod token;

pub use seed::Seeding;
pub use share::Share;
pub use token::{MIN_TOKEN_LENGTH, PutPolicy, Token, TokenError};

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::block::{BlockStore, Stack};
use crate::lan::is_near;
use crate::metrics::{self, Process, Requests, Sharing};
use crate::tree::Tree;
use activity::{Activity, Watched};
use answer::Answer;
use binary_cache::BinaryCache;
use blocks::Blocks;
use body::{Body, Payload};
use budget::Budget;
use listener::bind;
use route::Route;
use share::Shared;

/// How long to wait after a connection could not be accepted: mostly there are too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// How long a connection may take to part in the manner of its protocol once its time is over.
const PARTING: Duration = Duration::from_millis(500);
/// hyper takes no smaller buffer.
const MIN_HEAD_BYTES: u32 = 8192;
/// Connections at a time to a mount's figures: a few scrapers, and a person.
const METRICS_CONNECTIONS: usize = 16;
/// What a client hears for whom there is no room.
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";

/// Clients for whom there is no room and who are told so in good form; more of them hear it before they have asked, which some take for
/// nonsense.
const TURNED_AWAY: usize = 64;
/// How long one of them may take to ask.
const ASKING: Duration = Duration::from_secs(1);

/// The requests that are counted; `other` is for what names no resource.
const KINDS: [&str; 8] = ["block", "put", "narinfo", "listing", "archive", "info", "seed", "other"];

/// What is served, and to whom.
#[derive(Debug)]
pub struct Service {
    /// The blocks.
    pub store: Arc<dyn BlockStore>,
    /// The store paths, if there are any.
    pub tree: Option<Arc<Tree>>,
    /// Whether blocks are taken, too.
    pub put: PutPolicy,
    /// What clients may ask of this machine.
    pub limits: Limits,
}

/// What clients may ask of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; the next one is answered with 503 and closed.
    pub connections: usize,
    /// And from one address.
    pub connections_of_one: usize,
    /// Requests at a time on an HTTP/2 connection.
    pub streams: u32,
    /// Archives and listings that are sent at a time; all archives together hold two pieces of 1 MiB
    /// for each.
    pub archives: usize,
    /// Bytes of a request head; at least 8192 are allowed.
    pub head_bytes: u32,
    /// Time for a request head, from its first byte; for the first of a connection, from its opening.
    pub head: Duration,
    /// Time between two requests on a connection.
    pub idle: Duration,
    /// Time in which a client has to take some bytes of its answer.
    pub stall: Duration,
    /// Time for a narinfo to come, wherever it comes from.
    pub lookup: Duration,
    /// Time for a block or a piece of an archive to come, and for a block that is put. An archive has to begin within this and
    /// half a [`stall`](Self::stall).
    pub fetch: Duration,
    /// Time that running requests have to end when the server is shut down.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 512,
            // Behind a reverse proxy all have one.
            connections_of_one: usize::MAX,
            streams: 128,
            archives: 128,
            head_bytes: 16 << 10,
            head: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            // A client asks for many, one after the other on its connection.
            lookup: Duration::from_secs(10),
            fetch: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

/// A server that listens, and answers once it is run.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local_addr: SocketAddr,
    site: Arc<Site>,
}

impl Server {
    /// Listens at `addr`; port 0 lets the system choose.
    pub async fn bind(addr: impl ToSocketAddrs, service: Service) -> io::Result<Self> {
        Self::listen(addr, |_| Site::new(service)).await
    }

    /// Listens at `addr` and answers `GET /metrics` with the figures of `process`, and nothing else.
    pub async fn bind_metrics(addr: impl ToSocketAddrs, process: Arc<Process>) -> io::Result<Self> {
        let limits = Limits { connections: METRICS_CONNECTIONS, ..Limits::default() };
        let site = Site {
            blocks: None,
            binary_cache: None,
            seeding: OnceLock::new(),
            limits,
            budget: Arc::new(Budget::new(&limits)),
            requests: Requests::new(&[]),
            process: OnceLock::from(process),
            shared: None,
        };
        Self::listen(addr, |_| site).await
    }

    /// Listens at `addr` for neighbours: gives them blocks, and nothing else.
    pub async fn bind_share(addr: impl ToSocketAddrs, share: Share) -> io::Result<Self> {
        let site = |local_addr: SocketAddr| {
            let limits = share.limits();
            Site {
                blocks: None,
                binary_cache: None,
                seeding: OnceLock::new(),
                limits,
                budget: Arc::new(Budget::new(&limits)),
                requests: Requests::new(&[]),
                process: OnceLock::new(),
                shared: Some(Shared::new(share, local_addr.port())),
            }
        };
        Self::listen(addr, site).await
    }

    async fn listen(addr: impl ToSocketAddrs, site: impl FnOnce(SocketAddr) -> Site) -> io::Result<Self> {
        let listener = bind(addr).await?;
        let local_addr = listener.local_addr()?;
        Ok(Server { listener, local_addr, site: Arc::new(site(local_addr)) })
    }

    /// Answers `GET /metrics` from now on, with the figures of these stores, this view and this server. Only the first
    /// call counts.
    pub fn observe(&self, stack: Arc<Stack>, tree: Arc<Tree>) -> Arc<Process> {
        self.site.process.get_or_init(|| Process::new(stack, tree, self.site.requests.clone())).clone()
    }

    /// What neighbours had of it, if it [shares](Self::bind_share).
    pub fn sharing(&self) -> Option<&Arc<Sharing>> {
        Some(&self.site.shared.as_ref()?.figures)
    }

    /// Takes requests to keep store paths from now on. Only the first call counts.
    pub fn keep_by(&self, seeding: Seeding) {
        self.site.seeding.get_or_init(|| seeding);
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers until `shutdown` is ready, then finishes what is running, as long as the limits allow.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let limits = self.site.limits;
        let room = room::Room::new(limits.connections, limits.connections_of_one);
        let (ending, ended) = watch::channel(false);
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY));
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((_, peer)) if self.site.shared.is_some() && !is_near(peer.ip()) => {
                    tracing::debug!("{peer}: not on a link of this machine");
                }
                Ok((socket, peer)) => match room.take(peer.ip()) {
                    Some(seat) => {
                        let (site, ended) = (self.site.clone(), ended.clone());
                        let connected = self.sharing().map(Sharing::connected);
                        connections.spawn(async move {
                            let _connected = connected;
                            serve_connection(site, socket, peer, ended).await;
                            drop(seat);
                        });
                    }
                    None => {
                        tracing::debug!("{peer}: no room for another connection");
                        self.sharing().inspect(|sharing| sharing.refused());
                        match turned_away.clone().try_acquire_owned() {
                            Ok(permit) => {
                                connections.spawn(async move {
                                    turn_away(socket).await;
                                    drop(permit);
                                });
                            }
                            Err(_) => drop(socket.try_write(NO_ROOM)),
                        }
                    }
                },
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(self.listener);
        let _ = ending.send(true);
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(limits.grace, all).await.is_err() {
            tracing::warn!("{} connections are cut: they took too long to finish", connections.len());
        }
    }
}

/// Says that there is no room, once the client has asked.
async fn turn_away(socket: TcpStream) {
    let _ = timeout(ASKING, socket.readable()).await;
    // What is left unread at the end would take the answer with it.
    let _ = socket.try_read(&mut [0; 4096]);
    let _ = socket.try_write(NO_ROOM);
}

async fn serve_connection(
    site: Arc<Site>,
    socket: TcpStream,
    peer: SocketAddr,
    mut ended: watch::Receiver<bool>,
) {
    // Without it the end of an answer may wait for the client's acknowledgement of its start.
    let _ = socket.set_nodelay(true);
    let limits = site.limits;
    let head_bytes = limits.head_bytes.max(MIN_HEAD_BYTES);
    let activity = Activity::new(limits);
    let mut builder = Builder::new(TokioExecutor::new());
    // hyper's own timer for heads would run between requests, too; see activity.rs.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(head_bytes as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(head_bytes);
    if site.shared.is_some() {
        // Neighbours speak nothing else, and so there are no more requests at a time than connections.
        builder = builder.http1_only();
    }
    let service = service_fn(|request| {
        let (site, request_lasts) = (site.clone(), activity.begin());
        async move {
            let answer = site.answer(request).await;
            Ok::<_, Infallible>(answer.map(|payload| Body::new(payload, site.budget.clone(), request_lasts)))
        }
    });
    let io = TokioIo::new(Watched::new(socket, activity.clone()));
    let mut connection = pin!(builder.serve_connection(io, service));
    let ended = async { drop(ended.wait_for(|ended| *ended).await) };
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = activity.overdue() => {
            connection.as_mut().graceful_shutdown();
            timeout(PARTING, connection).await.unwrap_or_else(|_| Err("too slow".into()))
        }
        () = ended => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = connection => outcome,
                () = activity.overdue() => Err("too slow".into()),
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!("{peer}: {error}");
    }
}

/// All resources.
#[derive(Debug)]
struct Site {
    /// None where there are figures only.
    blocks: Option<Blocks>,
    binary_cache: Option<BinaryCache>,
    /// Set where store paths are kept for those who ask.
    seeding: OnceLock<Seeding>,
    limits: Limits,
    budget: Arc<Budget>,
    requests: Arc<Requests>,
    process: OnceLock<Arc<Process>>,
    /// Where neighbours are served, and nobody else.
    shared: Option<Shared>,
}

impl Site {
    fn new(Service { store, tree, put, limits }: Service) -> Self {
        let budget = Arc::new(Budget::new(&limits));
        let binary_cache = tree.map(|tree| BinaryCache::new(tree, budget.clone(), limits.lookup));
        let blocks = Some(Blocks::new(store, put, limits.fetch));
        let (seeding, requests, process) = (OnceLock::new(), Requests::new(&KINDS), OnceLock::new());
        Site { blocks, binary_cache, seeding, limits, budget, requests, process, shared: None }
    }

    /// Answers a request. A panic on the way is this request's fault alone.
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let is_head = request.method() == Method::HEAD;
        // Not the query: it may hold a read capability, which does not belong into a log.
        let what = format!("{} {}", request.method(), request.uri().path());
        let route = Route::of(request.uri());
        let counted = self.requests.begin(match &route {
            Some(Route::Block(_)) if request.method() == Method::PUT => "put",
            Some(route) => route.kind(),
            None => "other",
        });
        let answered = AssertUnwindSafe(self.route(route, request)).catch_unwind().await;
        let answer = answered.unwrap_or_else(|_| {
            tracing::error!("{what}: panicked");
            answer::line(StatusCode::INTERNAL_SERVER_ERROR, "internal server error")
        });
        counted.end(answer.status().is_server_error());
        tracing::debug!("{what}: {}", answer.status());
        match is_head {
            true => answer.map(|_| Payload::Whole(bytes::Bytes::new())),
            false => answer,
        }
    }

    async fn route(&self, route: Option<Route>, request: Request<Incoming>) -> Answer {
        let Some(route) = route else { return answer::not_found() };
        if let Some(shared) = &self.shared {
            return shared.answer(route, request).await;
        }
        if let (Route::Block(reference), Some(blocks)) = (&route, &self.blocks) {
            return blocks.answer(*reference, request).await;
        }
        let (method, headers) = (request.method(), request.headers());
        if let (Route::Seed(hash_part), Some(_)) = (&route, &self.blocks) {
            return seed::answer(self.seeding.get(), method, headers, *hash_part).await;
        }
        if method != Method::GET && method != Method::HEAD {
            return answer::wrong_method("GET, HEAD");
        }
        match (&route, &self.process) {
            (Route::Metrics, process) => return self.metrics(process.get()).await,
            (Route::About, _) if self.blocks.is_some() => return self.about(),
            _ => {}
        }
        let Some(cache) = &self.binary_cache else { return answer::not_found() };
        match route {
            Route::About | Route::Block(_) | Route::Metrics | Route::Seed(_) => answer::not_found(),
            Route::CacheInfo => cache.info().await,
            Route::Narinfo(hash_part) => cache.narinfo(hash_part).await,
            Route::Listing(hash_part) => cache.listing(hash_part).await,
            Route::Encoded(hash_part) => cache.encoded(hash_part, method, headers).await,
            Route::Nar(hash_part) => cache.nar(hash_part, method, headers).await,
        }
    }

    /// The figures, for Prometheus.
    async fn metrics(&self, process: Option<&Arc<Process>>) -> Answer {
        let Some(process) = process.cloned() else { return answer::not_found() };
        // The index of the disk cache may have to be read.
        match tokio::task::spawn_blocking(move || metrics::text(process.snapshot())).await {
            Ok(text) => uncached(answer::whole(StatusCode::OK, metrics::CONTENT_TYPE, text)),
            Err(error) => {
                tracing::error!("metrics: {error}");
                answer::line(StatusCode::INTERNAL_SERVER_ERROR, "internal server error")
            }
        }
    }

    fn about(&self) -> Answer {
        let catalogs = self.binary_cache.as_ref().map(BinaryCache::description).unwrap_or_default();
        let about = format!(
            "erisfs {}\nERIS blocks: /uri-res/N2R?urn:blake2b:REFERENCE\n{catalogs}",
            env!("CARGO_PKG_VERSION")
        );
        uncached(answer::whole(StatusCode::OK, "text/plain; charset=utf-8", about))
    }
}

/// Says that the answer may be another one the next time.
fn uncached(mut answer: Answer) -> Answer {
    let no_cache = hyper::header::HeaderValue::from_static("no-cache");
    answer::set(&mut answer, hyper::header::CACHE_CONTROL, no_cache);
    answer
}
