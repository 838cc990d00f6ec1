//! Who can give me block R?
//!
//! A [`BlockStore`] is a carrier of blocks (a directory, a database, a web server) or a decorator of another one (checking,
//! caching, trying several in turn). Carriers know how to move bytes and nothing else; whatever holds for all of them is a
//! decorator, written once. [`open`] turns a URL into a store that never lets a wrong block through.

mod bundle;
mod cache;
mod counted;
mod dir;
mod disk;
mod error;
mod every;
mod exec;
mod fault;
mod files;
mod gateway;
mod gdbm;
mod http;
mod ipfs;
mod lan;
mod memory;
mod race;
pub(crate) mod read_only;
mod retry;
mod single_file;
mod sqlite;
mod stack;
mod verify;
mod web;

use std::{fmt, path::Path, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};

use crate::eris::{BlockSize, Reference};
use crate::http::Access;

pub use crate::lru::ByteLru;
pub use bundle::{Bundle, Damage, Imported, Spoiled};
pub use cache::{Cache, CacheStatus};
pub use counted::{Counted, Counts};
pub use dir::Dir;
pub use disk::{Collected, Disk, DiskCache, DiskError, DiskSettings, DiskStat, Pin, Stored, Verified};
pub use error::{Error, Found, Refusal, Source};
pub use every::Every;
pub use exec::Exec;
pub use fault::{Fault, Faulty};
pub(crate) use files::UNFINISHED;
pub use files::{Files, Index, IndexError, Indexed, IndexedFile, Met, update_index};
pub use gateway::Gateway;
pub use gdbm::Gdbm;
pub use http::Http;
pub use ipfs::{Ipfs, cid};
pub use lan::Lan;
pub use memory::Memory;
pub use race::{Race, SourceState, SourceStatus};
pub use retry::Retry;
pub use sqlite::Sqlite;
pub use stack::{DiskStatus, Held, Stack, StackSettings, StackStatus};
pub use verify::Verify;
pub use web::Patience;

/// The bytes of one block, encrypted as they travel: 1 KiB or 32 KiB.
pub type Block = bytes::Bytes;

/// Somewhere that blocks can be had from, and perhaps put to.
///
/// Dropping a future or a stream cancels what it was doing. Every carrier bounds its own waits. Inside a tokio runtime only,
/// unless a store says otherwise.
#[async_trait]
pub trait BlockStore: Send + Sync + fmt::Debug {
    /// The URL of the store, for messages; without secrets.
    fn name(&self) -> &str;

    /// The block with this reference. Carriers alone give what they find; [`Verify`] makes it certain.
    async fn get(&self, reference: &Reference) -> Result<Block, Error>;

    /// Many blocks, in order of arrival: one answer for each reference given, so two for one that was given twice.
    fn get_many<'a>(
        &'a self,
        references: Vec<Reference>,
    ) -> BoxStream<'a, (Reference, Result<Block, Error>)> {
        stream::iter(references)
            .map(move |reference| async move { (reference, self.get(&reference).await) })
            .buffer_unordered(self.concurrency())
            .boxed()
    }

    /// Whether the store holds the block, without fetching it.
    async fn has(&self, reference: &Reference) -> Result<bool, Error>;

    /// Whether the store holds the block and goes on holding it, so that it need not be put. Some give blocks, too, that they drop
    /// when they need room; a decorator passes it on.
    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        self.has(reference).await
    }

    /// Keeps a block. Putting one that is there already changes nothing and is no error; one that lies spoiled is mended.
    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error>;

    /// Keeps many blocks. After an error some of them may be kept.
    async fn put_many(&self, blocks: Vec<(Reference, Block)>) -> Result<(), Error> {
        let concurrency = self.concurrency();
        stream::iter(blocks.into_iter().map(Ok))
            .try_for_each_concurrent(concurrency, |(reference, block)| async move {
                self.put(&reference, block).await
            })
            .await
    }

    /// Returns once all puts that ended before it would survive a power cut, as far as the store can promise that.
    async fn sync(&self) -> Result<(), Error>;

    /// How many requests the store likes to have in flight; at least 1.
    fn concurrency(&self) -> usize;

    /// Says that more is wanted than [`concurrency`](Self::concurrency) allows, by somebody who keeps to it. A store whose limit
    /// adapts may raise it then; a decorator passes it on.
    fn press(&self) {}

    /// Whether it gives blocks that it does not [keep](Self::keeps).
    fn gives_unkept(&self) -> bool {
        false
    }

    /// Whether answers come over a network, so that their latency and the requests that may be in flight are worth measuring.
    fn is_remote(&self) -> bool {
        false
    }
}

/// Opens the block store that a URL names: `dir:PATH`, `sqlite:PATH`, `bundle:FILE`, `gdbm:FILE`, `files:PATH?index=FILE`, `cache:DIR`,
/// `http://HOST/PREFIX`, `https://...`, `ipfs://HOST:5001`, `ipfs+https://GATEWAY`, `exec:COMMAND`, `lan:`, `memory:`.
///
/// Nothing is asked of a server yet (but `lan:` begins to listen for neighbours), and nothing is created: a directory or database comes
/// into being with the first put. Every block that the store gives has been checked against its reference. Web servers are reached
/// directly ([`open_with`] knows of proxies, certificates and passwords).
pub fn open(url: &str) -> Result<Arc<dyn BlockStore>, Error> {
    open_with(url, &Access::default())
}

/// Opens a URL as [`open`] does; `access` says how web servers are reached.
pub fn open_with(url: &str, access: &Access) -> Result<Arc<dyn BlockStore>, Error> {
    let source = open_source(url, access)?;
    if source.is_remote() { Ok(Arc::new(Retry::new(source))) } else { Ok(source) }
}

/// Opens one URL as [`open_with`] does, for a [`Race`]: checked too, but not tried again, which is what the race does itself.
pub fn open_source(url: &str, access: &Access) -> Result<Arc<dyn BlockStore>, Error> {
    let (scheme, rest) =
        url.split_once(':').ok_or_else(|| bad_url(url, "it has no scheme such as dir: or https:"))?;
    match scheme {
        "dir" | "sqlite" | "bundle" | "gdbm" | "files" if rest.is_empty() => {
            Err(bad_url(url, "the path is missing"))
        }
        "dir" => Ok(Arc::new(Verify::new(Arc::new(Dir::new(rest))))),
        "sqlite" => Ok(Arc::new(Verify::new(Arc::new(Sqlite::new(rest))))),
        "bundle" => Ok(Arc::new(Verify::new(Arc::new(Bundle::new(rest))))),
        "gdbm" => Ok(Arc::new(Verify::new(Arc::new(Gdbm::new(rest))))),
        // It checks what it makes.
        "files" => match Files::split_url(rest) {
            (root, Some(index)) => Ok(Arc::new(Files::new(root, index))),
            (_, None) => Err(bad_url(url, "the index is missing: files:PATH?index=FILE")),
        },
        "http" | "https" => Ok(Arc::new(Verify::new(Arc::new(Http::new(url, Patience::default(), access)?)))),
        "ipfs" => Ok(Arc::new(Verify::new(Arc::new(Ipfs::new(url, Patience::default(), access)?)))),
        "ipfs+http" | "ipfs+https" => {
            Ok(Arc::new(Verify::new(Arc::new(Gateway::new(url, Patience::default(), access)?))))
        }
        // It checks what neighbours give.
        "lan" if rest.is_empty() => Ok(Arc::new(Lan::browse()?)),
        "exec" if rest.is_empty() => Err(bad_url(url, "the command is missing")),
        "exec" => Ok(Arc::new(Verify::new(Arc::new(Exec::new(rest))))),
        "cache" if rest.is_empty() => Err(bad_url(url, "the directory of the cache is missing")),
        // It checks what it reads and what it is given.
        "cache" => Ok(Arc::new(Disk::open_later(Path::new(rest)))),
        "memory" if rest.is_empty() => Ok(Arc::new(Verify::new(Arc::new(Memory::new())))),
        _ => Err(bad_url(
            url,
            "known are dir:PATH, sqlite:PATH, bundle:FILE, gdbm:FILE, files:PATH, cache:DIR, http://HOST/, https://HOST/, \
             ipfs://HOST:5001, ipfs+https://GATEWAY/, exec:COMMAND, lan: and memory:",
        )),
    }
}

/// Opens the sources that URLs name, best first, as one store ([`Race`]).
pub fn open_race<S: AsRef<str>>(urls: &[S], access: &Access) -> Result<Race, Error> {
    Ok(Race::new(open_each(urls, access, open_source)?))
}

/// Opens URLs, best first, as one store for reading ([`Race`]).
pub fn open_all<S: AsRef<str>>(urls: &[S], access: &Access) -> Result<Arc<dyn BlockStore>, Error> {
    Ok(Arc::new(open_race(urls, access)?))
}

/// Opens several URLs as one store that puts blocks into each of them ([`Every`]).
pub fn open_every<S: AsRef<str>>(urls: &[S], access: &Access) -> Result<Arc<dyn BlockStore>, Error> {
    let mut stores = open_each(urls, access, open_with)?;
    if stores.len() == 1 { Ok(stores.remove(0)) } else { Ok(Arc::new(Every::new(stores))) }
}

type Opened = Result<Arc<dyn BlockStore>, Error>;

fn open_each<S: AsRef<str>>(
    urls: &[S],
    access: &Access,
    open: fn(&str, &Access) -> Opened,
) -> Result<Vec<Arc<dyn BlockStore>>, Error> {
    if urls.is_empty() {
        return Err(bad_url("", "no block store was named"));
    }
    urls.iter().map(|url| open(url.as_ref(), access)).collect()
}

fn bad_url(url: &str, reason: &str) -> Error {
    Error::BadUrl { url: crate::http::without_secret(url), reason: reason.to_owned() }
}

/// Whether a block can have this many bytes.
fn is_block_size(length: u64) -> bool {
    length == BlockSize::Small.bytes() as u64 || length == BlockSize::Large.bytes() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_names_no_store_is_refused_with_the_reason() {
        for url in [
            "",
            "blocks",
            "dir:",
            "sqlite:",
            "files:",
            "files:x",
            "bundle:",
            "gdbm:",
            "cache:",
            "memory:x",
            "lan:x",
            "ftp://host/",
            "http://",
            "https:",
        ] {
            assert!(matches!(open(url), Err(Error::BadUrl { .. })), "{url}");
        }
        let access = Access::default();
        assert!(matches!(open_all::<&str>(&[], &access), Err(Error::BadUrl { .. })));
        assert!(matches!(open_all(&["memory:", "blocks"], &access), Err(Error::BadUrl { .. })));
    }

    #[test]
    fn a_store_is_named_by_its_url() {
        for url in
            ["dir:/a b/c", "sqlite:x.db", "bundle:x", "gdbm:x", "cache:x", "http://host/prefix", "memory:"]
        {
            assert_eq!(open(url).expect(url).name(), url);
        }
        assert_eq!(
            open_all(&["memory:", "dir:x"], &Access::default()).expect("good URLs").name(),
            "memory:, dir:x"
        );
    }
}
