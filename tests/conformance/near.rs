//! Neighbours as a block store: what is put with them is had from them by `lan:`.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use erisfs::{
    block::{Block, BlockStore, Error, Lan, Memory, Verify},
    eris::Reference,
    lan::Neighbours,
    serve::{Limits, PutPolicy, Server, Service},
};

use crate::suite::Subject;

/// `lan:` never puts: somebody else fills the neighbour.
#[derive(Debug)]
struct Filled {
    lan: Lan,
    shelf: Verify,
}

#[async_trait]
impl BlockStore for Filled {
    fn name(&self) -> &str {
        self.lan.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        self.lan.get(reference).await
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        self.lan.has(reference).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.shelf.put(reference, block).await
    }

    async fn sync(&self) -> Result<(), Error> {
        self.lan.sync().await
    }

    fn concurrency(&self) -> usize {
        self.lan.concurrency()
    }
}

/// `lan:` with two neighbours, of whom one has nothing. They end with the runtime of the test.
pub async fn near() -> Subject {
    let shelf = Arc::new(Memory::new());
    let neighbours = [neighbour(Arc::new(Memory::new())).await, neighbour(shelf.clone()).await];
    let lan = Lan::of(Neighbours::given(neighbours)).expect("a client");
    Subject::new(Arc::new(Filled { lan, shelf: Verify::new(shelf) }))
}

async fn neighbour(store: Arc<dyn BlockStore>) -> SocketAddr {
    let service = Service { store, tree: None, put: PutPolicy::Refuse, limits: Limits::default() };
    let server = Server::bind("127.0.0.1:0", service).await.expect("a port on loopback");
    let addr = server.local_addr();
    tokio::spawn(server.run(std::future::pending()));
    addr
}
