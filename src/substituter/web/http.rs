//! A substitute server on the web.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::files::{Files, NarUrl, web_url};
use super::{Web, is_absent, refusal, unavailable};
use crate::compress::{self, Compression};
use crate::http::retry_after;
use crate::store::narinfo;
use crate::store::{HashPart, Narinfo};
use crate::substituter::{Error, Info, MAX_LISTING_LENGTH, NarFile, Substituter, bad_url, info};

/// Narinfos and listings that are asked for at the same time; more wait their turn. As many connections to a server
/// of HTTP/1.
const IN_FLIGHT: usize = 32;

/// Why a file that a neighbour names is not fetched.
const ELSEWHERE: &str = "a neighbour may name files of its own alone";

/// A substitute server of Nix or Guix: `http://HOST/PREFIX` or `https://...`.
///
/// A name and a password in the URL, else those that the netrc file has for its host, are sent to this server and to
/// no other, wherever a narinfo or a redirect leads. A password without a name is sent as a bearer token.
pub struct Http {
    /// Without a secret; ends with a slash.
    base: Url,
    name: Arc<str>,
    authorization: Option<HeaderValue>,
    files: Files,
    turns: Semaphore,
}

impl Http {
    /// The server at `url`. Nothing is asked of it yet.
    pub fn new(url: &str, web: Arc<Web>) -> Result<Self, Error> {
        let mut base = Url::parse(url).map_err(|error| bad_url(url, &error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.query().or(base.fragment()).is_some() {
            return Err(bad_url(url, "it must be http://HOST/PREFIX or https://HOST/PREFIX, without ? or #"));
        }
        let authorization =
            web.settings.access.authorization(&base).map_err(|reason| bad_url(url, reason))?;
        base.set_username("").and(base.set_password(None)).map_err(|()| bad_url(url, "it names no host"))?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let name: Arc<str> = base.as_str().into();
        let files = Files::new(Arc::clone(&name), web);
        Ok(Self { base, name, authorization, files, turns: Semaphore::new(IN_FLIGHT) })
    }

    /// A small file of the server, of which no more is read than `limit`; `Err` holds an answer that it is not there.
    async fn small(&self, file: &str, limit: usize) -> Result<Result<(HeaderMap, Bytes), Response>, Error> {
        let patience = self.files.web().settings.patience;
        let timed_out = |after| Error::TimedOut { server: Arc::clone(&self.name), after };
        let end = Instant::now() + patience.answer + patience.body;
        let _turn = match timeout_at(end, self.turns.acquire()).await {
            Ok(turn) => turn.expect("the semaphore is never closed"),
            Err(_) => return Err(timed_out(patience.answer + patience.body)),
        };
        let url = self.base.join(file).map_err(|error| self.files.bad_url(file, error.to_string()))?;
        let mut request = self.files.web().client.get(url);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let mut response = self.files.web().send(&self.name, request).await?;
        match response.status() {
            StatusCode::OK => {}
            status if is_absent(status) => return Ok(Err(response)),
            _ => return Err(refusal(&self.name, &response)),
        }
        let too_long = || Error::TooLong { server: Arc::clone(&self.name), what: file.to_owned(), limit };
        let announced = response.content_length().unwrap_or(0);
        if announced > limit as u64 {
            return Err(too_long());
        }
        let mut body = BytesMut::new();
        let end = Instant::now() + patience.body;
        loop {
            let stalled = Instant::now() + patience.stall;
            let piece = match timeout_at(end.min(stalled), response.chunk()).await {
                Ok(piece) => piece.map_err(|error| unavailable(&self.name, None, error))?,
                Err(_) if stalled < end => return Err(timed_out(patience.stall)),
                Err(_) => return Err(timed_out(patience.body)),
            };
            let Some(piece) = piece else { break };
            if body.len() + piece.len() > limit {
                return Err(too_long());
            }
            body.extend_from_slice(&piece);
        }
        Ok(Ok((std::mem::take(response.headers_mut()), body.freeze())))
    }

    /// A listing that is stored compressed, unpacked.
    async fn decoded(&self, file: String, encoding: &HeaderValue, body: Bytes) -> Result<Bytes, Error> {
        let server = || Arc::clone(&self.name);
        let refused = |reason: &dyn fmt::Display| Error::Refused {
            server: server(),
            reason: format!("{file} with Content-Encoding {encoding:?}: {reason}"),
        };
        let compression = encoding.to_str().map_err(|error| refused(&error))?;
        let compression = Compression::from_narinfo(compression).map_err(|error| refused(&error))?;
        let unpacked = tokio::task::spawn_blocking(move || {
            let mut listing = Vec::new();
            let decoder = compress::decoder(compression, body.reader());
            decoder.take(MAX_LISTING_LENGTH as u64 + 1).read_to_end(&mut listing).map(|_| listing)
        });
        let listing = unpacked.await.map_err(|ended| refused(&ended))?.map_err(|error| refused(&error))?;
        if listing.len() > MAX_LISTING_LENGTH {
            return Err(Error::TooLong { server: server(), what: file, limit: MAX_LISTING_LENGTH });
        }
        Ok(listing.into())
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("name", &self.name).finish_non_exhaustive()
    }
}

#[async_trait]
impl Substituter for Http {
    fn name(&self) -> &str {
        &self.name
    }

    async fn info(&self) -> Result<Info, Error> {
        match self.small("nix-cache-info", info::MAX_LENGTH).await? {
            Ok((_, text)) => {
                Info::parse(&text).map_err(|source| Error::Info { server: Arc::clone(&self.name), source })
            }
            Err(_) => Ok(Info::default()),
        }
    }

    async fn narinfo(&self, hash_part: HashPart) -> Result<Option<Narinfo>, Error> {
        let server = || Arc::clone(&self.name);
        match self.small(&format!("{hash_part}.narinfo"), narinfo::MAX_LENGTH).await? {
            Ok((_, text)) => Narinfo::parse(&text).map(Some).map_err(|source| Error::Narinfo {
                server: server(),
                hash_part,
                source: Arc::new(source),
            }),
            Err(absent) if absent.headers().get("x-baking").is_some_and(|baking| baking == "1") => {
                Err(Error::Baking { server: server(), hash_part, retry_after: retry_after(absent.headers()) })
            }
            Err(_) => Ok(None),
        }
    }

    async fn listing(&self, hash_part: HashPart) -> Result<Option<Bytes>, Error> {
        let file = format!("{hash_part}.ls");
        let Ok((headers, body)) = self.small(&file, MAX_LISTING_LENGTH).await? else { return Ok(None) };
        // Asked for or not: caches in buckets store it so, cache.nixos.org with brotli.
        match headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            Some(encoding) => self.decoded(file, encoding, body).await.map(Some),
            None => Ok(Some(body)),
        }
    }

    async fn nar(&self, url: &str, from: u64) -> Result<NarFile, Error> {
        let bad = |reason| self.files.bad_url(url, reason);
        let target = match NarUrl::parse(url).map_err(bad)? {
            NarUrl::Ipfs(_) if self.files.web().is_confined => return Err(bad(ELSEWHERE.to_owned())),
            NarUrl::Ipfs(cid) => return self.files.open_ipfs(cid, from).await,
            NarUrl::Web(target) => target,
            // Two slashes at its beginning make it name another host.
            NarUrl::Relative(relative) => {
                let joined = self.base.join(relative).map_err(|error| bad(error.to_string()))?;
                web_url(joined).map_err(bad)?
            }
        };
        let own = target.origin() == self.base.origin();
        if !own && self.files.web().is_confined {
            return Err(bad(ELSEWHERE.to_owned()));
        }
        self.files.open(&target, self.authorization.as_ref().filter(|_| own), from).await
    }
}
