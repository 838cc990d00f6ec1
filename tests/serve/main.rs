//! The server on real sockets: what it answers, what it refuses, and what bad clients cannot do to it.

mod archives;
mod blocks;
mod limits;
#[path = "../support/origin/mod.rs"]
mod origin;
mod share;
#[path = "../support/shelf.rs"]
mod shelf;
mod stores;
mod upstream;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use erisfs::block::{BlockStore, Counted, Fault, Verify};
use erisfs::content::{Deadline, Fetch};
use erisfs::eris::{ReadCapability, Reference, decode};
use erisfs::nar::dump;
use erisfs::serve::{Limits, PutPolicy, Server, Service};
use erisfs::store::StorePath;
use erisfs::tree::{Catalog, Catalogs, Settings, Tree};
use futures::FutureExt;
use reqwest::{Client, Response};
use shelf::Shelf;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing in these tests takes longer unless it hangs.
const SOON: Duration = Duration::from_secs(20);

/// A server with one store path.
struct Site {
    address: SocketAddr,
    shelf: Shelf,
    fault: Arc<Fault>,
    counted: Arc<Counted>,
    catalog: ReadCapability,
    path: StorePath,
    /// The NAR of the store path.
    nar: Vec<u8>,
    shutdown: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
    _specimen: TempDir,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// How a store path is published.
#[derive(Clone, Copy, PartialEq)]
enum Published {
    Seekable,
    Plain,
    /// As an ERIS content alone.
    WithoutUrl,
}

impl Site {
    async fn new() -> Self {
        Self::with(3_000_000, Published::Seekable, PutPolicy::Refuse, Limits::default()).await
    }

    async fn limited(limits: Limits) -> Self {
        Self::with(30_000_000, Published::Seekable, PutPolicy::Refuse, limits).await
    }

    async fn with(noise: usize, published: Published, put: PutPolicy, limits: Limits) -> Self {
        let specimen = specimen(noise);
        let mut nar = Vec::new();
        dump(specimen.path(), &mut nar).unwrap();
        let mut shelf = Shelf::new();
        let path = match published {
            Published::Seekable | Published::WithoutUrl => shelf.add("specimen-1.0", specimen.path()),
            Published::Plain => shelf.add_plain("specimen-1.0", specimen.path()),
        };
        if published == Published::WithoutUrl {
            shelf.without_url();
        }
        let catalog = shelf.catalog();
        let fault = Arc::new(Fault::new(shelf.blocks.clone()));
        let counted = Arc::new(Counted::new(Arc::new(Verify::new(fault.clone()))));
        let fetch = Fetch::new(counted.clone(), 1 << 20);
        let opened = Catalog::open(fetch.clone(), catalog, Deadline::after(SOON)).await.unwrap();
        let tree = Tree::new(fetch, Catalogs::new(vec![opened]), Settings::default());
        let service = Service { store: counted.clone(), tree: Some(Arc::new(tree)), put, limits };
        let (address, shutdown, running) = start(service).await;
        let shutdown = Some(shutdown);
        Site { address, shelf, fault, counted, catalog, path, nar, shutdown, running, _specimen: specimen }
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    async fn get(&self, target: &str) -> Response {
        client().get(self.url(target)).send().await.unwrap()
    }

    async fn head(&self, target: &str) -> Response {
        client().head(self.url(target)).send().await.unwrap()
    }

    fn archive(&self, suffix: &str) -> String {
        format!("/nar/{}.{suffix}", self.path.hash_part())
    }

    /// The encoded object, and the references of its blocks in the order of its bytes.
    fn object(&self) -> (Vec<u8>, Vec<Reference>) {
        let narinfo = self.shelf.narinfo(&self.path);
        let capability: ReadCapability = narinfo.eris()[0].urn.parse().unwrap();
        let mut order = Vec::new();
        let fetch = |reference: &Reference| {
            order.push(*reference);
            self.shelf.blocks.get(reference).now_or_never().unwrap().ok()
        };
        let object = decode(&capability, fetch, u64::MAX).unwrap();
        (object, order)
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `request` as it is, and gives everything that comes until the server closes.
    async fn raw(&self, request: &str) -> String {
        let mut socket = self.connect().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&read_to_close(&mut socket).await).into_owned()
    }
}

async fn start(service: Service) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
    let server = Server::bind("127.0.0.1:0", service).await.unwrap();
    let address = server.local_addr();
    let (shutdown, asked) = oneshot::channel();
    let running = tokio::spawn(server.run(async { drop(asked.await) }));
    (address, shutdown, running)
}

/// What comes until the server closes or resets the connection; panics if it does neither.
async fn read_to_close(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _closed_or_reset = timeout(SOON, socket.read_to_end(&mut bytes)).await.expect("the server closes");
    bytes
}

fn client() -> Client {
    builder().build().unwrap()
}

fn builder() -> reqwest::ClientBuilder {
    // Only the first call of this process installs it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder().timeout(SOON)
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

fn specimen(noise_bytes: usize) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("bin")).unwrap();
    std::fs::write(dir.path().join("bin/tool"), "#!/bin/sh\n").unwrap();
    write_noise(&dir.path().join("noise"), noise_bytes);
    std::os::unix::fs::symlink("bin/tool", dir.path().join("tool")).unwrap();
    dir
}

fn write_noise(path: &Path, length: usize) {
    let mut state = 1u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    let mut file = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
    words.take(length / 8).for_each(|word| file.write_all(&word).unwrap());
}
