//! A small web server that resolves `urn:blake2b:`, over a block store, with or without TLS.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use erisfs::{
    block::{BlockStore, Error},
    eris::Reference,
};
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, StatusCode, Version, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::TlsAcceptor;

/// The server; it ends when this is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    task: JoinHandle<()>,
}

/// What the server saw.
#[derive(Default)]
pub struct Seen {
    pub connections: AtomicU64,
    pub requests: AtomicU64,
    pub http2: AtomicU64,
    /// Requests that are being answered now, and the most there were at one time.
    now: AtomicU64,
    pub most: AtomicU64,
}

impl Server {
    /// Serves `store` on loopback. With a token, only to those who show it.
    pub async fn start(store: Arc<dyn BlockStore>, token: Option<&str>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let seen: Arc<Seen> = Arc::default();
        let authorization = token.map(|token| format!("Bearer {token}"));
        let task = tokio::spawn(accept(listener, store, authorization, tls, seen.clone()));
        Self { address, seen, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    store: Arc<dyn BlockStore>,
    authorization: Option<String>,
    tls: Option<TlsAcceptor>,
    seen: Arc<Seen>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        seen.connections.fetch_add(1, Relaxed);
        let (store, authorization, seen, tls) =
            (store.clone(), authorization.clone(), seen.clone(), tls.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            seen.requests.fetch_add(1, Relaxed);
            seen.http2.fetch_add(u64::from(request.version() == Version::HTTP_2), Relaxed);
            let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let allowed = authorization.is_none() || shown == authorization.as_deref();
            let (store, seen) = (store.clone(), seen.clone());
            async move {
                seen.most.fetch_max(seen.now.fetch_add(1, Relaxed) + 1, Relaxed);
                // Long enough for other requests to come meanwhile.
                tokio::task::yield_now().await;
                let (status, body) =
                    if allowed { answer(&*store, request).await } else { (401, Bytes::new()) };
                seen.now.fetch_sub(1, Relaxed);
                let mut response = Response::new(Full::new(body));
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                Ok::<_, hyper::Error>(response)
            }
        });
        tokio::spawn(async move {
            let server = auto::Builder::new(TokioExecutor::new());
            // A client that leaves in the middle is its own affair.
            match tls {
                None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(server.serve_connection(TokioIo::new(stream), service).await);
                    }
                }
            }
        });
    }
}

async fn answer(store: &dyn BlockStore, request: Request<Incoming>) -> (u16, Bytes) {
    if request.uri().path() != "/prefix/uri-res/N2R" {
        return (404, Bytes::new());
    }
    let query = request.uri().query().and_then(|query| query.strip_prefix("urn:blake2b:"));
    let Some(reference) = query.and_then(|text| text.parse::<Reference>().ok()) else {
        return (400, Bytes::new());
    };
    match *request.method() {
        Method::GET => match store.get(&reference).await {
            Ok(block) => (200, block),
            Err(Error::NotFound { .. }) => (404, Bytes::from_static(b"no such block")),
            Err(_) => (500, Bytes::new()),
        },
        Method::HEAD => (if store.has(&reference).await.unwrap_or(false) { 200 } else { 404 }, Bytes::new()),
        Method::PUT => {
            let Ok(body) = request.into_body().collect().await else { return (400, Bytes::new()) };
            match store.put(&reference, body.to_bytes()).await {
                Ok(()) => (201, Bytes::new()),
                Err(_) => (400, Bytes::new()),
            }
        }
        _ => (405, Bytes::new()),
    }
}
