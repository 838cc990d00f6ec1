//! Substitute servers: who has a narinfo for a hash part, and the file of its NAR.
//!
//! A [`Substituter`] is one place: a web server, a directory, a database of narinfos. None of them is believed; what
//! comes from it is bounded in size and in time, and a narinfo counts for what its signatures prove to the user
//! ([`Policy`]). [`Substituters`] asks many at once and takes the best good answer.

mod directory;
mod error;
mod info;
mod set;
mod sqlite;
mod validators;
mod web;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use self::directory::Directory;
pub use self::error::{Error, Source};
pub use self::info::{Info, InfoError};
pub use self::set::{
    Found, Offer, Policy, ServerState, ServerStatus, SetSettings, Standing, Substituters, Unsigned,
};
pub use self::sqlite::Sqlite;
pub use self::web::{Http, Ipfs, NotIpfs, Patience, Web, WebSettings};
use crate::store::{HashPart, Narinfo};

/// Longest listing (`HASHPART.ls`) that is read, in bytes as it travels and as it is. That of a path with 100,000
/// files has 10 MB.
pub const MAX_LISTING_LENGTH: usize = 64 << 20;

/// One place that may have narinfos, listings and NAR files. Every method ends within a bounded time.
#[async_trait]
pub trait Substituter: Debug + Send + Sync {
    /// Its URL, without secrets.
    fn name(&self) -> &str;

    /// What it says of itself (`nix-cache-info`); the default where it says nothing.
    async fn info(&self) -> Result<Info, Error>;

    /// The narinfo that it has for a hash part: read, and not judged yet. [`Error::Baking`] where it will have one
    /// soon.
    async fn narinfo(&self, hash_part: HashPart) -> Result<Option<Narinfo>, Error>;

    /// Nix's listing of a path (`HASHPART.ls`): JSON, unsigned, as it came.
    async fn listing(&self, hash_part: HashPart) -> Result<Option<Bytes>, Error>;

    /// The file that the `URL` of a narinfo of this place names, from byte `from` on where that can be had: see
    /// [`NarFile::from`].
    async fn nar(&self, url: &str, from: u64) -> Result<NarFile, Error>;
}

/// The file of a NAR as it comes: compressed as the narinfo says, and checked by nobody.
pub struct NarFile {
    /// Where in the file `body` begins: what was asked for; or 0, where the place cannot begin anywhere else or the
    /// file has changed since it was first asked for.
    pub from: u64,
    /// Length of the whole file in bytes, where it is known.
    pub length: Option<u64>,
    /// The bytes. An end before `length` is an error here; without a `length` it cannot be told.
    pub body: BoxStream<'static, Result<Bytes, Error>>,
}

impl Debug for NarFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NarFile")
            .field("from", &self.from)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// What stands for the servers of neighbours where servers are named: see [`Substituters::with_neighbours`].
pub const NEIGHBOURS: &str = "lan:";

/// Opens the place that a URL names: `http://HOST/PREFIX`, `https://...`, `file:DIR`, `sqlite:FILE`. Nothing is asked
/// of it yet.
pub fn open(url: &str, web: &Arc<Web>) -> Result<Arc<dyn Substituter>, Error> {
    let (scheme, rest) =
        url.split_once(':').ok_or_else(|| bad_url(url, "it has no scheme such as https: or file:"))?;
    // `file:///srv` and `file:/srv` are the same; `file://host/srv` is nothing.
    let path = rest.strip_prefix("//").unwrap_or(rest);
    match scheme {
        "http" | "https" => Ok(Arc::new(Http::new(url, Arc::clone(web))?)),
        "file" | "sqlite" if path.is_empty() => Err(bad_url(url, "the path is missing")),
        "file" | "sqlite" if rest.starts_with("//") && !path.starts_with('/') => {
            Err(bad_url(url, "after `//` an absolute path is expected"))
        }
        "file" => Ok(Arc::new(Directory::new(Path::new(path), Arc::clone(web)))),
        "sqlite" => Ok(Arc::new(Sqlite::open(Path::new(path), Arc::clone(web)))),
        _ => Err(bad_url(
            url,
            "known are http://HOST/, https://HOST/, file:DIR, sqlite:FILE and, for substitute servers, lan:",
        )),
    }
}

fn bad_url(url: &str, reason: &str) -> Error {
    Error::BadUrl { url: crate::http::without_secret(url), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Arc<Web> {
        Arc::new(Web::new(WebSettings::default()).expect("a client"))
    }

    #[test]
    fn a_place_is_named_by_its_url_without_the_secret() {
        for (url, name) in [
            ("http://host/prefix", "http://host/prefix/"),
            ("https://user:hush@host/", "https://host/"),
            ("file:/srv/cache", "file:/srv/cache"),
            ("file:///srv/cache", "file:/srv/cache"),
            ("sqlite:a.db", "sqlite:a.db"),
        ] {
            let place = open(url, &web()).expect(url);
            assert_eq!(place.name(), name);
            assert!(!format!("{place:?}").contains("hush"));
        }
    }

    #[test]
    fn a_text_that_names_no_place_is_refused_with_the_reason() {
        for url in [
            "",
            "cache",
            "file:",
            "file://",
            "file://host/srv",
            "sqlite:",
            "ftp://h/",
            "http://",
            "https://h/?a",
        ] {
            assert!(matches!(open(url, &web()), Err(Error::BadUrl { .. })), "{url}");
        }
        let error = open("https://user:hush@h/?trusted=true", &web()).expect_err("a query");
        assert!(!format!("{error:?} {error}").contains("hush"), "{error}");
    }
}
