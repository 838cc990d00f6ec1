//! Blocks from a web server, by the N2R resolver of RFC 2169 as the ERIS documents use it.
//!
//! `GET`, `HEAD` and `PUT` of `BASE/uri-res/N2R?urn:blake2b:REFERENCE`, over HTTP/2 where TLS negotiates it. Connections are
//! reused, requests in flight are bounded, and so is every wait and every byte read: a server may be slow, silent or hostile.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use tokio::{
    sync::{MutexGuard, Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};

use super::{Block, BlockStore, Error, Found, Refusal, bad_url};
use crate::eris::{BlockSize, Reference};
use crate::http::{self, percent_decoded, retry_after};

/// Requests in flight at the most: 1 Gbit/s at 50 ms wants 191 blocks of 32 KiB, and the rest is for answers that are late. As many
/// connections to a server of HTTP/1; what a server and a line can bear is found out above.
const IN_FLIGHT: usize = 256;
/// What an HTTP/2 server may send of one answer before it is read: a block and the frames around it.
const STREAM_WINDOW: u32 = 64 << 10;
/// And of all answers on a connection: as many as there can be, so that no block waits for another to be read. A window is what travels
/// in one round trip: 16 MiB are 1 Gbit/s at 130 ms.
const CONNECTION_WINDOW: u32 = IN_FLIGHT as u32 * STREAM_WINDOW;
/// For how long the first request to an HTTPS server goes alone. Only its answer shows whether requests can share a connection
/// (HTTP/2); without the head start, a first batch would open a connection for each block. Longer is no use: slower is broken.
const HEAD_START: Duration = Duration::from_secs(1);
/// After so long without an answer, the next request counts as the first again: servers close idle connections.
const WARM: Duration = Duration::from_secs(30);

/// How long a server is waited for. One request, from the wait for its turn to its last byte, takes no longer than
/// `first_byte` and `body` together: by default 25 s, below the 30 s that a read of the mount may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the connection, TLS included. 5 s is one lost SYN and its two repetitions.
    pub connect: Duration,
    /// From the request, connecting included, to the head of the answer. 10 s lets a disk spin up.
    pub first_byte: Duration,
    /// Between two pieces of the body. 10 s without a byte is a dead connection.
    pub stall: Duration,
    /// For the whole body: 256 blocks at once over 4.5 Mbit/s take 15 s, and as many as a thinner line bears are fewer.
    pub body: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), first_byte: seconds(10), stall: seconds(10), body: seconds(15) }
    }
}

/// A request that has its turn, and until when it may take.
struct Turn<'a> {
    _permit: SemaphorePermit<'a>,
    end: Instant,
    whole: Duration,
}

impl Turn<'_> {
    /// The end of a wait that begins now, and the bound that sets it: its own or that of the request.
    fn bound(&self, wait: Duration) -> (Instant, Duration) {
        let end = Instant::now() + wait;
        if end <= self.end { (end, wait) } else { (self.end, self.whole) }
    }
}

/// A web server that resolves `urn:blake2b:`: `http://HOST/PREFIX` or `https://...`.
///
/// The password of the URL, if there is one (`https://:TOKEN@HOST/`), is sent as a bearer token (RFC 6750) and shown nowhere;
/// it does not follow a redirect to another host. [`sync`](BlockStore::sync) promises nothing beyond the server's answer to the
/// put.
pub struct Http {
    client: Client,
    /// The resolver, without its query and without the secret.
    resolver: Url,
    name: Arc<str>,
    permits: Semaphore,
    first: tokio::sync::Mutex<()>,
    answered: Mutex<Option<Instant>>,
    patience: Patience,
}

impl Http {
    /// The server at `url`. Nothing is asked of it yet.
    pub fn new(url: &str, patience: Patience) -> Result<Self, Error> {
        let mut resolver = Url::parse(url).map_err(|error| bad_url(url, &error.to_string()))?;
        if !matches!(resolver.scheme(), "http" | "https")
            || resolver.query().or(resolver.fragment()).is_some()
        {
            return Err(bad_url(url, "it must be http://HOST/PREFIX or https://HOST/PREFIX, without ? or #"));
        }
        if !resolver.username().is_empty() {
            return Err(bad_url(
                url,
                "a token is written as the password, without a user: https://:TOKEN@HOST/",
            ));
        }
        let mut headers = HeaderMap::new();
        if let Some(token) = resolver.password() {
            let mut value = HeaderValue::try_from(format!("Bearer {}", percent_decoded(token)))
                .map_err(|_| bad_url(url, "the token has characters that HTTP does not allow"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        resolver.set_password(None).map_err(|()| bad_url(url, "it names no host"))?;
        let name = resolver.as_str().into();
        let path = format!("{}/uri-res/N2R", resolver.path().trim_end_matches('/'));
        resolver.set_path(&path);
        let client = client(headers, patience).map_err(|error| Error::Unavailable {
            reference: None,
            store: Arc::clone(&name),
            retry_after: None,
            source: Arc::new(error),
        })?;
        let permits = Semaphore::new(IN_FLIGHT);
        Ok(Self {
            client,
            resolver,
            name,
            permits,
            first: Default::default(),
            answered: Mutex::default(),
            patience,
        })
    }

    /// Waits until another request has made first contact; what it returns is held by the one that makes it.
    async fn head_start(&self) -> Option<MutexGuard<'_, ()>> {
        if self.resolver.scheme() == "http" || self.is_warm() {
            return None;
        }
        timeout(HEAD_START, self.first.lock()).await.ok().filter(|_| !self.is_warm())
    }

    fn is_warm(&self) -> bool {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|last| last.elapsed() < WARM)
    }

    async fn send(
        &self,
        turn: &Turn<'_>,
        method: Method,
        reference: &Reference,
        block: Option<Block>,
    ) -> Result<Response, Error> {
        let mut url = self.resolver.clone();
        url.set_query(Some(&format!("urn:blake2b:{reference}")));
        let mut request = self.client.request(method, url);
        if let Some(block) = block {
            request = request.header(CONTENT_TYPE, "application/octet-stream").body(block);
        }
        let _first = self.head_start().await;
        let (end, after) = turn.bound(self.patience.first_byte);
        let sent = timeout_at(end, request.send()).await;
        // A failure ends the head start too: the others need not wait in line to see it for themselves.
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        match sent {
            Ok(answer) => answer.map_err(|error| self.failed(reference, error)),
            Err(_) => Err(self.timed_out(reference, after)),
        }
    }

    /// The body, of which no more is read than a block can have.
    async fn body(
        &self,
        turn: &Turn<'_>,
        reference: &Reference,
        mut answer: Response,
    ) -> Result<Block, Error> {
        let too_long =
            || Error::Corrupt { reference: *reference, store: self.name.clone(), found: Found::TooLong };
        let declared = answer.content_length().unwrap_or(0);
        if declared > BlockSize::MAX as u64 {
            return Err(too_long());
        }
        let mut block = Vec::with_capacity(declared as usize);
        let whole = turn.bound(self.patience.body);
        loop {
            let (end, after) = whole.min((Instant::now() + self.patience.stall, self.patience.stall));
            let piece = match timeout_at(end, answer.chunk()).await {
                Ok(piece) => piece.map_err(|error| self.failed(reference, error))?,
                Err(_) => return Err(self.timed_out(reference, after)),
            };
            let Some(piece) = piece else { return Ok(block.into()) };
            if block.len() + piece.len() > BlockSize::MAX {
                return Err(too_long());
            }
            block.extend_from_slice(&piece);
        }
    }

    /// What an answer other than success means.
    fn refusal(&self, reference: &Reference, answer: &Response) -> Error {
        let (status, store) = (answer.status(), self.name.clone());
        match status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Error::NotFound { reference: *reference, store },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::Refused { store, reason: Refusal::Denied(status.to_string()) }
            }
            status
                if status.is_server_error()
                    || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) =>
            {
                let source = Arc::new(NotNow(status));
                Error::Unavailable {
                    reference: Some(*reference),
                    store,
                    retry_after: retry_after(answer.headers()),
                    source,
                }
            }
            status => Error::Refused { store, reason: Refusal::Status(status.as_u16()) },
        }
    }

    fn failed(&self, reference: &Reference, error: reqwest::Error) -> Error {
        let (reference, store) = (*reference, self.name.clone());
        if error.is_redirect() {
            return Error::Refused { store, reason: Refusal::Redirects };
        }
        if error.is_timeout() {
            return self.timed_out(&reference, self.patience.connect);
        }
        // The address may be that of a redirect, with a secret in it.
        Error::Unavailable {
            reference: Some(reference),
            store,
            retry_after: None,
            source: Arc::new(error.without_url()),
        }
    }

    fn timed_out(&self, reference: &Reference, after: Duration) -> Error {
        Error::TimedOut { reference: *reference, store: self.name.clone(), after }
    }

    /// Waits until fewer than [`IN_FLIGHT`] requests are under way.
    async fn turn(&self, reference: &Reference) -> Result<Turn<'_>, Error> {
        let whole = self.patience.first_byte + self.patience.body;
        let end = Instant::now() + whole;
        match timeout_at(end, self.permits.acquire()).await {
            Ok(permit) => Ok(Turn { _permit: permit.expect("the semaphore is never closed"), end, whole }),
            Err(_) => Err(self.timed_out(reference, whole)),
        }
    }
}

/// A status by which a server says that it cannot answer now.
#[derive(Debug, thiserror::Error)]
#[error("HTTP status {0}")]
struct NotNow(StatusCode);

fn client(headers: HeaderMap, patience: Patience) -> Result<Client, reqwest::Error> {
    http::client(|builder| {
        builder
            .default_headers(headers.clone())
            .connect_timeout(patience.connect)
            .pool_max_idle_per_host(IN_FLIGHT)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            // A connection that has died (the machine was asleep, or moved) is found out while a request waits on it.
            .http2_keep_alive_interval(patience.first_byte / 4)
            .http2_keep_alive_timeout(patience.first_byte / 4)
    })
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("name", &self.name)
            .field("patience", &self.patience)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl BlockStore for Http {
    fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let turn = self.turn(reference).await?;
        let answer = self.send(&turn, Method::GET, reference, None).await?;
        match answer.status() {
            StatusCode::OK => self.body(&turn, reference, answer).await,
            _ => Err(self.refusal(reference, &answer)),
        }
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let turn = self.turn(reference).await?;
        let answer = self.send(&turn, Method::HEAD, reference, None).await?;
        drop(turn);
        match answer.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(false),
            // A server of GET alone.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => match self.get(reference).await {
                Ok(_) => Ok(true),
                Err(Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            },
            _ => Err(self.refusal(reference, &answer)),
        }
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        let turn = self.turn(reference).await?;
        let answer = self.send(&turn, Method::PUT, reference, Some(block)).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            // No such resource for a PUT: not an answer about the block.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Err(Error::Refused { store: self.name.clone(), reason: Refusal::ReadOnly })
            }
            _ => Err(self.refusal(reference, &answer)),
        }
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        IN_FLIGHT
    }

    fn is_remote(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_resolver_and_its_secret_is_shown_nowhere() {
        for (url, resolver) in [
            ("http://host", "http://host/uri-res/N2R"),
            ("https://host:8/a/b/", "https://host:8/a/b/uri-res/N2R"),
            ("http://:hush%2Fhush@[::1]:8/", "http://[::1]:8/uri-res/N2R"),
        ] {
            let http = Http::new(url, Patience::default()).expect("a good URL");
            assert_eq!(http.resolver.as_str(), resolver);
            assert!(!format!("{http:?}{}", http.name()).contains("hush"));
        }
        for url in [
            "http://",
            "http://h/?x",
            "http://h/#x",
            "http://user:hush@h/",
            "http://:hush%0A@h/",
            "http://:hush@",
        ] {
            let error = Http::new(url, Patience::default()).expect_err(url);
            assert!(
                matches!(error, Error::BadUrl { .. }) && !format!("{error:?}").contains("hush"),
                "{error:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_takes_30_s_even_if_its_turn_never_comes() {
        let http = Http::new("http://[::1]:1/", Patience::default()).expect("a good URL");
        let _all = http.permits.acquire_many(IN_FLIGHT as u32).await.expect("the semaphore is never closed");
        let reference = crate::eris::reference_of(b"a block");
        let begun = Instant::now();
        for asked in [http.get(&reference).await.map(drop), http.put(&reference, Block::new()).await] {
            let error = asked.expect_err("its turn never comes");
            assert!(
                matches!(error, Error::TimedOut { .. }) && error.to_string().contains("http://[::1]:1/"),
                "{error}"
            );
        }
        assert!(begun.elapsed() < 2 * Duration::from_secs(30), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_turn_shortens_what_follows() {
        let http = Http::new("http://[::1]:1/", Patience::default()).expect("a good URL");
        let all = http.permits.acquire_many(IN_FLIGHT as u32).await.expect("the semaphore is never closed");
        let reference = crate::eris::reference_of(b"a block");
        let begun = Instant::now();
        let release = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            drop(all);
        };
        let (turn, ()) = tokio::join!(http.turn(&reference), release);
        let (end, after) = turn.expect("its turn came").bound(http.patience.first_byte);
        assert_eq!((end - begun, after), (Duration::from_secs(25), Duration::from_secs(25)));
    }
}
