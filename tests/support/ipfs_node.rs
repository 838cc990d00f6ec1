//! A node of IPFS as `ipfs://` and `ipfs+http://` see it: the RPC `/api/v0/block` and a trustless gateway, over a block store.
//!
//! It has nobody to ask: what it does not hold, it says at once that nobody has, in the words of Kubo. It is as particular as js-ipfs. What
//! is in the store at first counts as fetched: it is pinned only if it is put.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use data_encoding::BASE32_NOPAD;
use erisfs::{
    block::{BlockStore, Error, cid},
    eris::{Reference, reference_of},
};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinHandle};

/// What is said for a block that a node holds not, and may not search for.
const NOT_HERE: &str = "block was not found locally (offline): ipld: could not find";
/// What is said of a block that is not to be kept.
const NOT_PINNED: &str = "path is not pinned";
/// What is said when the time of a search is over.
const NOT_FOUND: &str = "context deadline exceeded";

/// The node; it ends when this is dropped.
pub struct Node {
    pub address: SocketAddr,
    /// Connections that were made to it.
    #[allow(dead_code, reason = "not every test looks at it")]
    pub connections: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

struct Site {
    store: Arc<dyn BlockStore>,
    authorization: Option<String>,
    pinned: Mutex<HashSet<Reference>>,
    lies: bool,
}

impl Node {
    /// A node over `store`. With a token, its RPC and gateway are only for those who show it.
    pub async fn start(store: Arc<dyn BlockStore>, token: Option<&str>) -> Self {
        let authorization = token.map(|token| format!("Bearer {token}"));
        Self::serve(Site { store, authorization, pinned: Mutex::default(), lies: false }).await
    }

    /// A node that gives another block than the one asked for, of the same length.
    pub async fn lying(store: Arc<dyn BlockStore>) -> Self {
        Self::serve(Site { store, authorization: None, pinned: Mutex::default(), lies: true }).await
    }

    async fn serve(site: Site) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port on loopback");
        let address = listener.local_addr().expect("it is bound");
        let (site, connections) = (Arc::new(site), Arc::<AtomicU64>::default());
        let counter = connections.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Relaxed);
                let site = site.clone();
                let service = service_fn(move |request| answer(site.clone(), request));
                // A client that leaves in the middle is its own affair.
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, connections, task }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(site: Arc<Site>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let allowed = site.authorization.is_none() || shown == site.authorization.as_deref();
    let is_gateway = request.uri().path().starts_with("/ipfs/");
    let (status, body) = if !allowed {
        (401, Bytes::new())
    } else if is_gateway {
        gateway(&site, &request).await
    } else {
        rpc(&site, request).await
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    if is_gateway && status != 200 {
        let kind = header::HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}

fn failure(message: &str) -> (u16, Bytes) {
    (500, format!(r#"{{"Message":"{message}","Code":0,"Type":"error"}}"#).into())
}

fn said(reference: &Reference, size: usize) -> (u16, Bytes) {
    (200, format!(r#"{{"Key":"{}","Size":{size}}}"#, cid(reference)).into())
}

async fn rpc(site: &Site, request: Request<Incoming>) -> (u16, Bytes) {
    if request.method() != Method::POST {
        return (405, Bytes::new());
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let option = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let asked = option("arg").and_then(reference);
    match (request.uri().path(), asked) {
        ("/api/v0/block/get", Some(asked)) => match site.get(&asked).await {
            Some(block) => (200, block),
            None => failure(NOT_FOUND),
        },
        ("/api/v0/block/stat", Some(asked)) => match site.get(&asked).await {
            Some(block) => said(&asked, block.len()),
            None if option("offline") == Some("true") => failure(NOT_HERE),
            None => failure(NOT_FOUND),
        },
        ("/api/v0/pin/ls", Some(asked)) if option("type") == Some("recursive") => {
            match site.pinned.lock().expect("no panic").contains(&asked) {
                true => (200, format!(r#"{{"Keys":{{"{}":{{"Type":"recursive"}}}}}}"#, cid(&asked)).into()),
                false => failure(NOT_PINNED),
            }
        }
        ("/api/v0/block/put", None) => {
            let kind = ["format", "mhtype", "pin"].map(option);
            if kind != [Some("raw"), Some("blake2b-256"), Some("true")] {
                return failure("it would get another CID, or be dropped");
            }
            let form = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            // As js-ipfs does, also where they are letters of the boundary.
            if form.unwrap_or_default().to_ascii_lowercase().contains("json") {
                return failure("No number after minus sign in JSON at position 1");
            }
            let Ok(body) = request.into_body().collect().await else { return (400, Bytes::new()) };
            match file(&body.to_bytes()) {
                Some(block) => {
                    let reference = reference_of(&block);
                    site.store.put(&reference, block.clone()).await.expect("it takes blocks");
                    site.pinned.lock().expect("no panic").insert(reference);
                    said(&reference, block.len())
                }
                None => failure("file argument 'data' is required"),
            }
        }
        _ => (404, Bytes::new()),
    }
}

async fn gateway(site: &Site, request: &Request<Incoming>) -> (u16, Bytes) {
    let asked = request.uri().path().strip_prefix("/ipfs/").and_then(reference);
    let raw = request.headers().get(header::ACCEPT).is_some_and(|kind| kind == "application/vnd.ipld.raw");
    match asked {
        Some(asked) if raw && request.uri().query() == Some("format=raw") => match site.get(&asked).await {
            Some(block) => (200, block),
            None => (504, NOT_FOUND.into()),
        },
        _ => (400, Bytes::new()),
    }
}

impl Site {
    async fn get(&self, reference: &Reference) -> Option<Bytes> {
        match self.store.get(reference).await {
            Ok(block) if self.lies => Some(vec![0; block.len()].into()),
            Ok(block) => Some(block),
            Err(Error::NotFound { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The reference in a CID.
fn reference(cid: &str) -> Option<Reference> {
    let bytes = BASE32_NOPAD.decode(cid.strip_prefix('b')?.to_ascii_uppercase().as_bytes()).ok()?;
    BASE32_NOPAD.encode(bytes.strip_prefix(&[0x01, 0x55, 0xa0, 0xe4, 0x02, 0x20])?).parse().ok()
}

/// The one file in a form.
fn file(form: &[u8]) -> Option<Bytes> {
    let find = |text: &[u8], words: &[u8]| text.windows(words.len()).position(|window| window == words);
    let boundary = &form[..find(form, b"\r\n")?];
    let start = find(form, b"\r\n\r\n")? + 4;
    let length = find(&form[start..], &[b"\r\n", boundary].concat())?;
    Some(Bytes::copy_from_slice(&form[start..start + length]))
}
