//! What every block store promises, asked of every carrier and every decorator; and how HTTP copes with bad servers.

mod access;
#[path = "../support/certified.rs"]
mod certified;
mod faults;
mod files;
mod https;
mod ipfs;
#[path = "../support/ipfs_node.rs"]
mod ipfs_node;
#[path = "../support/n2r.rs"]
mod n2r;
mod near;
mod readonly;
mod suite;

use std::{any::Any, sync::Arc};

use erisfs::block::{
    self, BlockStore, Cache, Counted, Disk, DiskCache, DiskSettings, Fault, Memory, Race, Retry, Verify,
};
use erisfs::serve::{Limits, PutPolicy, Server, Service, Token};
use near::near;
use suite::Subject;

/// The tests of the suite as tests of the store that `$subject` makes.
macro_rules! conforms {
    ($store:ident, $subject:expr, [$($promise:ident),+ $(,)?]) => {
        mod $store {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    suite::$promise(&$subject.await).await;
                }
            )+
        }
    };
    ($($store:ident: $subject:expr;)+) => {
        $(conforms!($store, $subject, [
            what_was_put_can_be_had,
            an_absent_block_is_not_found,
            putting_again_changes_nothing,
            a_wrong_length_is_refused,
            a_wrong_reference_is_refused,
            many_blocks_come_each_as_often_as_asked,
            an_empty_batch_is_no_work,
            the_same_block_can_be_put_by_many_at_once,
            leaving_in_the_middle_harms_nobody,
            synced_blocks_are_there_after_reopening,
            no_secret_is_shown,
        ]);)+
    };
}

conforms! {
    memory: opened("memory:");
    dir: on_disk("dir", "blocks");
    sqlite: on_disk("sqlite", "blocks.sqlite");
    bundle: on_disk("bundle", "blocks.eris");
    gdbm: on_disk("gdbm", "blocks.gdbm");
    python: run("folder.py");
    shell: run("folder.sh");
    disk: on_disk("cache", "blocks");
    disk_cache: behind_disk();
    http: served();
    serve: served_by_erisfs();
    lan: near();
    ipfs_rpc: in_ipfs();
    cache: decorated(|inner| Arc::new(Cache::new(inner, 1 << 20)));
    race: decorated(last_of_three);
    counted: decorated(|inner| Arc::new(Counted::new(inner)));
    fault: decorated(|inner| Arc::new(Fault::new(inner)));
    retry: decorated(|inner| Arc::new(Retry::new(inner)));
    everything: decorated(all_decorators);
}

async fn opened(url: &str) -> Subject {
    Subject::new(block::open(url).expect("a good URL"))
}

async fn on_disk(scheme: &str, name: &str) -> Subject {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let url = format!("{scheme}:{}", folder.path().join(name).display());
    let mut subject = opened(&url).await;
    subject.reopened = Some(Box::new(move || block::open(&url).expect("it was opened before")));
    subject.kept_alive = Box::new(folder);
    subject
}

/// `exec:` of an example of the documentation.
async fn run(example: &str) -> Subject {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let root = env!("CARGO_MANIFEST_DIR");
    let url =
        format!("exec:{root}/docs/carriers/examples/{example} {}", folder.path().join("blocks").display());
    let mut subject = opened(&url).await;
    subject.reopened = Some(Box::new(move || block::open(&url).expect("it was opened before")));
    subject.kept_alive = Box::new(folder);
    subject
}

/// A disk cache in front of memory.
async fn behind_disk() -> Subject {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let settings = DiskSettings { size: 64 << 20, free_floor: 0, resize: true };
    let disk = Disk::open(folder.path(), settings).expect("a good size");
    let mut subject = decorated(|inner| Arc::new(DiskCache::new(disk, inner))).await;
    subject.kept_alive = Box::new(folder);
    subject
}

/// `http:` with a token, over a server that keeps its blocks in memory.
async fn served() -> Subject {
    let server = n2r::Server::start(Arc::new(Memory::new()), Some(suite::SECRET), None).await;
    let url = format!("http://:{}@{}/prefix/", suite::SECRET.replace('/', "%2F"), server.address);
    let mut subject = opened(&url).await;
    subject.reopened = Some(Box::new(move || block::open(&url).expect("it was opened before")));
    subject.kept_alive = Box::new(server) as Box<dyn Any + Send + Sync>;
    subject
}

/// `http:` with a token, over the server of this program.
async fn served_by_erisfs() -> Subject {
    let put = PutPolicy::Token(Token::new(suite::SECRET).expect("it is long enough"));
    let service = Service { store: Arc::new(Memory::new()), tree: None, put, limits: Limits::default() };
    let server = Server::bind("127.0.0.1:0", service).await.expect("a port on loopback");
    let url = format!("http://:{}@{}/", suite::SECRET.replace('/', "%2F"), server.local_addr());
    // It ends with the runtime of the test.
    tokio::spawn(server.run(std::future::pending()));
    let mut subject = opened(&url).await;
    subject.reopened = Some(Box::new(move || block::open(&url).expect("it was opened before")));
    subject
}

/// `ipfs:` with a token, over a node that keeps its blocks in memory.
async fn in_ipfs() -> Subject {
    let node = ipfs_node::Node::start(Arc::new(Memory::new()), Some(suite::SECRET)).await;
    let url = format!("ipfs://:{}@{}", suite::SECRET.replace('/', "%2F"), node.address);
    let mut subject = opened(&url).await;
    subject.reopened = Some(Box::new(move || block::open(&url).expect("it was opened before")));
    subject.kept_alive = Box::new(node);
    subject
}

async fn decorated(decorate: impl FnOnce(Arc<dyn BlockStore>) -> Arc<dyn BlockStore>) -> Subject {
    Subject::new(decorate(Arc::new(Verify::new(Arc::new(Memory::new())))))
}

/// Two stores that lack everything and take nothing come first.
fn last_of_three(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    let empty = || Arc::new(suite::Library) as Arc<dyn BlockStore>;
    Arc::new(Race::new(vec![empty(), empty(), inner]))
}

fn all_decorators(inner: Arc<dyn BlockStore>) -> Arc<dyn BlockStore> {
    let faultless = Arc::new(Verify::new(Arc::new(Fault::new(inner))));
    let race = last_of_three(Arc::new(Retry::new(faultless)));
    Arc::new(Counted::new(Arc::new(Cache::new(race, 1 << 20))))
}
