//! NAR files from the web, as streams: from where they broke off, if that can be had safely.
//!
//! Where a narinfo's `URL` leads is decided here, for all places alike: below the place itself, or to http, https and
//! ipfs, and nowhere with a password that is meant for another host.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED,
    RANGE,
};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use tokio::time::timeout;

use super::ipfs::{self, Ipfs};
use super::{Web, is_absent, refusal, unavailable};
use crate::http::without_secrets;
use crate::substituter::validators::Validators;
use crate::substituter::{Error, NarFile};

/// Where the `URL` of a narinfo leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::substituter) enum NarUrl<'a> {
    /// To a file of the same place.
    Relative(&'a str),
    /// To a web server.
    Web(Url),
    /// To a content of IPFS.
    Ipfs(&'a str),
}

impl<'a> NarUrl<'a> {
    /// Reads the `URL` of a narinfo; the error says why it is not followed.
    pub(in crate::substituter) fn parse(text: &'a str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("it is empty".to_owned());
        }
        if text.starts_with("ipfs:") {
            return ipfs::cid(text).map(Self::Ipfs).ok_or_else(|| "it is not ipfs://CID".to_owned());
        }
        if !has_scheme(text) {
            return Ok(Self::Relative(text));
        }
        Url::parse(text).map_err(|error| error.to_string()).and_then(web_url).map(Self::Web)
    }
}

/// Whether a URL is absolute (RFC 3986, 3.1).
fn has_scheme(url: &str) -> bool {
    let Some((scheme, _)) = url.split_once(':') else { return false };
    scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// A URL that may be followed, without its fragment.
pub(super) fn web_url(mut url: Url) -> Result<Url, String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err("only http, https and ipfs are followed".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a narinfo gives no names and passwords".to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

/// What a file on the web was when it was first asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Validator {
    /// A strong ETag, else the date of the last change: what `If-Range` takes.
    value: HeaderValue,
    length: Option<u64>,
}

impl Validator {
    fn of(headers: &HeaderMap, length: Option<u64>) -> Option<Self> {
        let strong = headers.get(ETAG).filter(|etag| etag.as_bytes().starts_with(b"\""));
        let value = strong.or_else(|| headers.get(LAST_MODIFIED))?.clone();
        Some(Self { value, length })
    }
}

/// The files that the narinfos of one place name, beyond that place itself.
#[derive(Debug)]
pub(in crate::substituter) struct Files {
    server: Arc<str>,
    web: Arc<Web>,
    validators: Validators<Validator>,
}

impl Files {
    /// For the place of this name.
    pub(in crate::substituter) fn new(server: Arc<str>, web: Arc<Web>) -> Self {
        Self { server, web, validators: Validators::new() }
    }

    /// The client.
    pub(in crate::substituter) fn web(&self) -> &Web {
        &self.web
    }

    /// Why a narinfo's `URL` is not followed.
    pub(in crate::substituter) fn bad_url(&self, url: &str, reason: String) -> Error {
        let url = without_secrets(url).chars().take(256).collect();
        Error::BadNarUrl { server: Arc::clone(&self.server), url, reason }
    }

    /// That a file is not there.
    pub(in crate::substituter) fn no_file(&self, url: &str) -> Error {
        Error::NoFile { server: Arc::clone(&self.server), url: without_secrets(url) }
    }

    /// The file at `url`, from byte `from` on where that can be had. Only the server's own files are asked for with
    /// its password.
    pub(in crate::substituter) async fn open(
        &self,
        url: &Url,
        authorization: Option<&HeaderValue>,
        from: u64,
    ) -> Result<NarFile, Error> {
        let known = if from == 0 { None } else { self.validators.get(url.as_str()) };
        let request = || {
            let request = self.web.client.get(url.clone());
            match authorization {
                Some(authorization) => request.header(AUTHORIZATION, authorization),
                None => request,
            }
        };
        if let Some(known) = &known {
            let ranged = request().header(RANGE, format!("bytes={from}-")).header(IF_RANGE, &known.value);
            let response = self.web.send(&self.server, ranged).await?;
            match response.status() {
                StatusCode::PARTIAL_CONTENT => {
                    if continues(response.headers(), known, from) {
                        self.check_encoding(&response)?;
                        return Ok(self.stream(url.as_str(), response, from, known.length));
                    }
                }
                // There is nothing behind `from`, or not any more.
                StatusCode::RANGE_NOT_SATISFIABLE => {}
                _ => return self.whole(url, response),
            }
        }
        let response = self.web.send(&self.server, request()).await?;
        self.whole(url, response)
    }

    /// The content of IPFS with this CID.
    pub(in crate::substituter) async fn open_ipfs(&self, cid: &str, from: u64) -> Result<NarFile, Error> {
        let url = format!("ipfs://{cid}");
        match &self.web.settings.ipfs {
            Some(Ipfs::Gateway(gateway)) => self.open(&Ipfs::gateway_url(gateway, cid), None, from).await,
            Some(Ipfs::Rpc(rpc)) => {
                let request: RequestBuilder = Ipfs::rpc_request(&self.web.client, rpc, cid, from);
                let response = self.web.send(&self.server, request).await?;
                match response.status() {
                    StatusCode::OK => Ok(self.stream(&url, response, from, None)),
                    _ => Err(refusal(&self.server, &response)),
                }
            }
            None => Err(self.bad_url(&url, "no way to IPFS is configured (--ipfs URL)".to_owned())),
        }
    }

    /// An answer to a request for the whole file, or the whole file in answer to a request for a part of it.
    fn whole(&self, url: &Url, response: Response) -> Result<NarFile, Error> {
        match response.status() {
            StatusCode::OK => {
                self.check_encoding(&response)?;
                let length = response.content_length();
                self.validators.set(url.as_str(), Validator::of(response.headers(), length));
                Ok(self.stream(url.as_str(), response, 0, length))
            }
            status if is_absent(status) => Err(self.no_file(url.as_str())),
            _ => Err(refusal(&self.server, &response)),
        }
    }

    /// The file is compressed as the narinfo says. If the server says that it has compressed it once more, it cannot
    /// be read.
    fn check_encoding(&self, response: &Response) -> Result<(), Error> {
        match response.headers().get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
            Some(encoding) => Err(Error::Refused {
                server: Arc::clone(&self.server),
                reason: format!(
                    "it sends the NAR with Content-Encoding {encoding:?}, which was not asked for"
                ),
            }),
            None => Ok(()),
        }
    }

    fn stream(&self, url: &str, response: Response, from: u64, length: Option<u64>) -> NarFile {
        let arriving = Arriving {
            response,
            server: Arc::clone(&self.server),
            stall: self.web.settings.patience.stall,
            url: without_secrets(url),
            at: from,
            length,
        };
        NarFile { from, length, body: arriving.stream() }
    }
}

/// Whether an answer to a request for a part is that part, of the file that was first asked for.
fn continues(headers: &HeaderMap, known: &Validator, from: u64) -> bool {
    let range = headers.get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).and_then(content_range);
    let Some((first, last, length)) = range else { return false };
    let same_length = known.length.is_none() || length.is_none() || known.length == length;
    let to_the_end = length.or(known.length).is_none_or(|length| last.checked_add(1) == Some(length));
    // A server that does not know If-Range would send a part of whatever is there now.
    let same_file = Validator::of(headers, known.length).is_none_or(|now| now.value == known.value);
    first == from && same_length && to_the_end && same_file
}

/// `bytes FIRST-LAST/LENGTH`, where the length may be `*`.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, length) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let length = if length == "*" { None } else { Some(length.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, length))
}

/// A body on its way.
struct Arriving {
    response: Response,
    server: Arc<str>,
    stall: Duration,
    url: String,
    at: u64,
    length: Option<u64>,
}

impl Arriving {
    fn stream(self) -> BoxStream<'static, Result<Bytes, Error>> {
        // Behind an error there is nothing more.
        stream::unfold(Some(self), |arriving| async {
            let mut arriving = arriving?;
            match arriving.next().await.transpose()? {
                Ok(piece) => Some((Ok(piece), Some(arriving))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = match timeout(self.stall, self.response.chunk()).await {
            Ok(piece) => piece.map_err(|error| unavailable(&self.server, None, error))?,
            Err(_) => return Err(Error::TimedOut { server: Arc::clone(&self.server), after: self.stall }),
        };
        match (piece, self.length) {
            (Some(piece), _) => {
                self.at += piece.len() as u64;
                Ok(Some(piece))
            }
            (None, Some(expected)) if self.at != expected => Err(Error::Truncated {
                server: Arc::clone(&self.server),
                url: self.url.clone(),
                found: self.at,
                expected,
            }),
            (None, _) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_below_the_place_or_to_the_web() {
        for relative in ["nar/a.nar.zst", "./a", "/nar/a", "../a", "nar/a:b", "//host/a", "a b"] {
            assert_eq!(NarUrl::parse(relative), Ok(NarUrl::Relative(relative)));
        }
        let parsed = NarUrl::parse("https://host/nar/a?x#y").expect("it may be followed");
        assert_eq!(parsed, NarUrl::Web(Url::parse("https://host/nar/a?x").expect("a URL")));
        assert_eq!(NarUrl::parse("ipfs://Qm1"), Ok(NarUrl::Ipfs("Qm1")));
        for refused in [
            "",
            "file:///etc/passwd",
            "ftp://host/a",
            "FILE:/a",
            "http://me:hush@host/",
            "http://me@host/",
            "ipfs://a/../b",
            "data:,a",
        ] {
            let reason = NarUrl::parse(refused).expect_err(refused);
            assert!(!reason.contains("hush"), "{reason}");
        }
    }

    #[test]
    fn a_part_continues_only_the_same_file_at_the_same_place() {
        let known = Validator { value: HeaderValue::from_static("\"a\""), length: Some(10) };
        let part = |range: &'static str, etag: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, HeaderValue::from_static(range));
            headers.extend(etag.map(|etag| (ETAG, HeaderValue::from_static(etag))));
            continues(&headers, &known, 4)
        };
        assert!(part("bytes 4-9/10", Some("\"a\"")));
        assert!(part("bytes 4-9/*", None));
        for range in
            ["bytes 3-9/10", "bytes 4-8/10", "bytes 4-9/11", "bytes 4-/10", "items 4-9/10", "bytes */10"]
        {
            assert!(!part(range, Some("\"a\"")), "{range}");
        }
        assert!(!part("bytes 4-9/10", Some("\"b\"")));
    }
}
