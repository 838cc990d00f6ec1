//! A web server on loopback that behaves as if it were far away, and goes wrong on command.
//!
//! It serves ERIS blocks by N2R and whole files, over HTTP/1.1 and HTTP/2, from a thread of its own, so that a busy test does not
//! disturb it. Every request costs the latency of the link, and all connections share its bandwidth; requests, connections and bytes are
//! counted. What cannot be told in user space is not there: lost packets, and the slow start of a TCP connection.

// Each test and bench uses its part.
#![allow(dead_code)]

mod answer;
#[path = "../certified.rs"]
mod certified;
mod link;
mod timer;

use std::{
    net::SocketAddr,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc as blocking,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use erisfs::block::BlockStore;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use answer::{Counts, Site};
use link::Line;
pub use link::Link;
use timer::Timer;

/// A way for the origin to go wrong; requests that are under way when it begins or ends may be answered either way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// Nobody listens, and connections that were there are cut.
    Refused,
    /// Connections are accepted, and nothing is ever said on them.
    Silent,
    /// Each answer is this status and no body.
    Status(u16),
    /// 429 Too Many Requests, with the time after which to come again, in whole seconds.
    Busy { retry_after: Duration },
    /// The head of the answer comes this much later.
    SlowFirstByte(Duration),
    /// Half a body, and then nothing.
    Stalled,
    /// Half a body, and then the end of the connection.
    Truncated,
    /// A body that goes on after the block, without saying its length.
    TooLong,
    /// Other bytes, as many as there should be.
    OtherBlock,
    /// Half a body, and then a TCP reset.
    Reset,
    /// The answer to everything is to look elsewhere.
    RedirectLoop,
    /// Well for some time, then [`Refused`](Self::Refused) for some, again and again.
    Flapping { up: Duration, down: Duration },
}

/// What the origin saw, since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub connections: u64,
    pub requests: u64,
    /// Of bodies.
    pub bytes: u64,
    /// Requests at a time, at the most.
    pub most: u64,
}

/// The server; when it is dropped, it ends and its port is free.
pub struct Origin {
    address: SocketAddr,
    scheme: &'static str,
    authority: Option<String>,
    site: Arc<Site>,
    orders: Option<mpsc::UnboundedSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

/// A fault that begins, or the end of one; and whom to tell once that is so.
type Order = (Option<Fault>, blocking::Sender<()>);

impl Origin {
    /// Serves these blocks over plain HTTP.
    pub fn start(blocks: Arc<dyn BlockStore>, link: Link) -> Self {
        Self::new(blocks, link, None)
    }

    /// Serves these blocks over HTTPS, with a certificate of an [authority](Self::authority) that nobody trusts yet.
    pub fn start_tls(blocks: Arc<dyn BlockStore>, link: Link) -> Self {
        Self::new(blocks, link, Some(certified::certified()))
    }

    fn new(blocks: Arc<dyn BlockStore>, link: Link, tls: Option<(String, TlsAcceptor)>) -> Self {
        let (authority, acceptor) = tls.unzip();
        let site = Arc::new(Site {
            blocks,
            files: Default::default(),
            line: Line::new(link),
            timer: Timer::start(),
            fault: watch::Sender::new(None),
            counts: Counts::default(),
        });
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let (orders, inbox) = mpsc::unbounded_channel();
        let (bound, address) = blocking::channel();
        let running = site.clone();
        let thread = thread::Builder::new().name("origin".into()).spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let place = Place::take();
                let listener = place.listen();
                bound.send(place.address).expect("somebody waits for it");
                run(running, place, listener, acceptor, inbox).await;
            });
        });
        let thread = Some(thread.expect("a thread"));
        let address = address.recv().expect("a port on loopback");
        Origin { address, scheme, authority, site, orders: Some(orders), thread }
    }

    /// The block store as the program is told of it.
    pub fn url(&self) -> String {
        format!("{}://{}/", self.scheme, self.address)
    }

    /// The certificate of the authority behind an HTTPS origin, PEM, as `SSL_CERT_FILE` wants it.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// Serves these bytes at `/NAME`, and gives the URL.
    pub fn add_file(&self, name: &str, bytes: impl Into<Bytes>) -> String {
        let mut files = self.site.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(format!("/{name}"), bytes.into());
        format!("{}{name}", self.url())
    }

    /// Moves the origin nearer or farther.
    pub fn set_link(&self, link: Link) {
        self.site.line.set(link);
    }

    /// Goes wrong from now on.
    pub fn break_with(&self, fault: Fault) {
        self.order(Some(fault));
    }

    /// All is well again.
    pub fn heal(&self) {
        self.order(None);
    }

    fn order(&self, fault: Option<Fault>) {
        let (done, wait) = blocking::channel();
        let orders = self.orders.as_ref().expect("it is there until this is dropped");
        orders.send((fault, done)).expect("the origin runs");
        wait.recv().expect("the origin runs");
    }

    /// What was seen since the last call.
    pub fn seen(&self) -> Seen {
        let counts = &self.site.counts;
        Seen {
            connections: counts.connections.swap(0, Relaxed),
            requests: counts.requests.swap(0, Relaxed),
            bytes: counts.bytes.swap(0, Relaxed),
            most: counts.most.swap(counts.now.load(Relaxed), Relaxed),
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // Not a second panic, if this is dropped because of one.
            let _ = thread.join();
        }
    }
}

/// A port that stays taken while nobody listens at it, so that no other process gets it meanwhile.
struct Place {
    address: SocketAddr,
    _holder: TcpSocket,
}

impl Place {
    fn take() -> Self {
        let holder = Self::socket("127.0.0.1:0".parse().expect("an address"));
        Place { address: holder.local_addr().expect("it is bound"), _holder: holder }
    }

    fn socket(address: SocketAddr) -> TcpSocket {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseport(true).expect("Linux has it");
        socket.bind(address).expect("a port on loopback");
        socket
    }

    fn listen(&self) -> TcpListener {
        let socket = Self::socket(self.address);
        // Connections that have ended are remembered for a minute, and would keep the port from the next one to want it.
        socket.set_reuseaddr(true).expect("a TCP socket");
        socket.listen(1024).expect("the port is ours")
    }
}

async fn run(
    site: Arc<Site>,
    place: Place,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    mut orders: mpsc::UnboundedReceiver<Order>,
) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    let mut phase: Option<Instant> = None;
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            (up, down) = turn(&site, phase) => {
                (listener, phase) = match listener.take() {
                    Some(_) => (None, Some(Instant::now() + down)),
                    None => (Some(place.listen()), Some(Instant::now() + up)),
                };
                connections.shutdown().await;
                continue;
            }
            Some(accepted) = accept(&listener) => {
                let stream = accepted.expect("a connection");
                site.counts.connections.fetch_add(1, Relaxed);
                connections.spawn(connection(site.clone(), stream, tls.clone()));
                continue;
            }
            Some(_) = connections.join_next() => continue,
        };
        let Some((fault, done)) = order else { return };
        site.fault.send_replace(fault);
        phase = match fault {
            Some(Fault::Flapping { up, .. }) => Some(Instant::now() + up),
            _ => None,
        };
        if matches!(fault, Some(Fault::Refused | Fault::Reset)) {
            connections.shutdown().await;
        }
        listener = match fault {
            Some(Fault::Refused) => None,
            _ => Some(listener.take().unwrap_or_else(|| place.listen())),
        };
        // The test may have gone.
        let _ = done.send(());
    }
}

/// Waits for the end of a phase of flapping; gives how long the phases are.
async fn turn(site: &Site, phase: Option<Instant>) -> (Duration, Duration) {
    let fault = *site.fault.borrow();
    match (fault, phase) {
        (Some(Fault::Flapping { up, down }), Some(end)) => {
            tokio::time::sleep_until(end.into()).await;
            (up, down)
        }
        _ => std::future::pending().await,
    }
}

async fn accept(listener: &Option<TcpListener>) -> Option<std::io::Result<TcpStream>> {
    match listener {
        Some(listener) => Some(listener.accept().await.map(|(stream, _)| stream)),
        None => None,
    }
}

async fn connection(site: Arc<Site>, stream: TcpStream, tls: Option<TlsAcceptor>) {
    stream.set_nodelay(true).expect("a TCP socket");
    if *site.fault.borrow() == Some(Fault::Reset) {
        stream.set_zero_linger().expect("a TCP socket");
    }
    site.spoken().await;
    match tls {
        None => serve(site, stream).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                serve(site, stream).await;
            }
        }
    }
}

async fn serve(site: Arc<Site>, stream: impl AsyncRead + AsyncWrite + Unpin + 'static) {
    let is_new = Arc::new(AtomicBool::new(true));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http2().max_concurrent_streams(1024);
    let service = service_fn(|request| site.clone().answer(is_new.clone(), request));
    // A client that leaves in the middle is its own affair, and a fault ends in an error.
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
}
