//! What all carriers over HTTP share: whose turn it is, until when, how an answer is read, and what its status means.
//!
//! Connections are reused, requests in flight are bounded, and so is every wait and every byte read: a server may be slow, silent or
//! hostile. A carrier says which request asks for a block, and reads what is its own in the answer.

use std::{
    future::ready,
    iter,
    net::{SocketAddr, SocketAddrV6},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Client, Method, Request, RequestBuilder, Response, StatusCode, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue, LOCATION},
    redirect,
};
use tokio::{
    sync::{MutexGuard, Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};

use super::{Block, Error, Found, Refusal, bad_url, is_block_size};
use crate::eris::{BlockSize, Reference};
use crate::http::{Access, REDIRECTS, retry_after};

/// Requests in flight at the most: 1 Gbit/s at 50 ms wants 191 blocks of 32 KiB, and the rest is for answers that are late. As many
/// connections to a server of HTTP/1; what a server and a line can bear is found out above.
pub(super) const IN_FLIGHT: usize = 256;
/// The same, with a neighbour: it has 32 connections for one address by default, and there may be another reader at ours.
const NEIGHBOUR_IN_FLIGHT: usize = 16;
/// What an HTTP/2 server may send of one answer before it is read: a block and the frames around it.
const STREAM_WINDOW: u32 = 64 << 10;
/// And of all answers on a connection: as many as there can be, so that no block waits for another to be read. A window is what travels
/// in one round trip: 16 MiB are 1 Gbit/s at 130 ms.
const CONNECTION_WINDOW: u32 = IN_FLIGHT as u32 * STREAM_WINDOW;
/// For how long the first request to an HTTPS server goes alone. Only its answer shows whether requests can share a connection
/// (HTTP/2); without the head start, a first batch would open a connection for each block. Longer is no use: slower is broken.
const HEAD_START: Duration = Duration::from_secs(1);
/// After so long without an answer, the next request counts as the first again: servers close idle connections, and so do we, lest those
/// to hosts that we were once redirected to pile up.
const WARM: Duration = Duration::from_secs(30);
/// Connections to a neighbour are given up before it does so itself, after 30 s: a request on one that is being closed is lost.
const NEIGHBOUR_IDLE: Duration = Duration::from_secs(20);
/// What stands for neighbours that have only an address of the link (IPv6), below their [`scoped`] names; no DNS has it (RFC 6761).
const SCOPED: &str = ".neighbour.invalid";

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

/// Where a server is believed when it says that something else has what was asked of it. Only what is read (`GET`, `HEAD`) goes there,
/// and nothing from `https` to `http`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redirects {
    /// Nowhere.
    Ignored,
    /// To somewhere on the same host.
    SameHost,
    /// Anywhere.
    Followed,
}

/// Stands in an answer that came by a redirect.
#[derive(Clone, Copy)]
struct Redirected;

/// A request that has its turn, and until when it may take.
pub(super) struct Turn<'a> {
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

/// A web server, and what is under way with it.
///
/// The password of its URL (`https://:TOKEN@HOST/` is a bearer token, RFC 6750), else that of the user's netrc file for its host, is sent
/// to it and shown nowhere; it does not follow a redirect to another origin.
#[derive(Debug)]
pub(super) struct Web {
    client: Client,
    /// Without the secret.
    base: Url,
    authorization: Option<HeaderValue>,
    redirects: Redirects,
    name: Arc<str>,
    permits: Semaphore,
    first: tokio::sync::Mutex<()>,
    answered: Mutex<Option<Instant>>,
    patience: Patience,
}

impl Web {
    /// The server at `address`, an `http` or `https` URL that stands in the URL of the store, `url`. Nothing is asked of it yet.
    pub(super) fn new(
        url: &str,
        address: &str,
        redirects: Redirects,
        patience: Patience,
        access: &Access,
    ) -> Result<Self, Error> {
        let mut base = Url::parse(address).map_err(|error| bad_url(url, &error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.query().or(base.fragment()).is_some() {
            return Err(bad_url(url, "what follows must be //HOST/PREFIX, without ? or #"));
        }
        let authorization = access.authorization(&base).map_err(|reason| bad_url(url, reason))?;
        base.set_username("").and(base.set_password(None)).map_err(|()| bad_url(url, "it names no host"))?;
        // As the parser writes the address, with the scheme of the store.
        let scheme = url.split_once(':').map_or(base.scheme(), |(scheme, _)| scheme);
        let rest = base.as_str().split_once(':').map_or("", |(_, rest)| rest);
        let name: Arc<str> = format!("{scheme}:{rest}").into();
        let web = Self::with(client(access, patience), base, name, patience)?;
        Ok(Self { authorization, redirects, ..web })
    }

    /// The server at an address of this link, asked by [`neighbours_client`].
    pub(super) fn neighbour(addr: SocketAddr, patience: Patience, client: &Client) -> Result<Self, Error> {
        let name: Arc<str> = format!("http://{addr}/").into();
        let base = match addr {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => format!("http://{}:{}/", scoped(&v6), v6.port()),
            _ => name.to_string(),
        };
        let base = Url::parse(&base).map_err(|error| bad_url(&name, &error.to_string()))?;
        let web = Self::with(Ok(client.clone()), base, name, patience)?;
        Ok(Self { permits: Semaphore::new(NEIGHBOUR_IN_FLIGHT), ..web })
    }

    fn with(
        client: Result<Client, reqwest::Error>,
        base: Url,
        name: Arc<str>,
        patience: Patience,
    ) -> Result<Self, Error> {
        let client = client.map_err(|error| Error::Unavailable {
            reference: None,
            store: Arc::clone(&name),
            retry_after: None,
            source: Arc::new(error),
        })?;
        let permits = Semaphore::new(IN_FLIGHT);
        Ok(Self {
            client,
            base,
            authorization: None,
            redirects: Redirects::Ignored,
            name,
            permits,
            first: Default::default(),
            answered: Mutex::default(),
            patience,
        })
    }

    /// The URL of the store, without the secret.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The URL of something below the address.
    pub(super) fn url(&self, path: &str, query: Option<&str>) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url.set_query(query);
        url
    }

    /// A request, to be completed and then [sent](Self::send).
    pub(super) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value),
            None => request,
        }
    }

    /// Waits until another request has made first contact; what it returns is held by the one that makes it.
    async fn head_start(&self) -> Option<MutexGuard<'_, ()>> {
        if self.base.scheme() == "http" || self.is_warm() {
            return None;
        }
        timeout(HEAD_START, self.first.lock()).await.ok().filter(|_| !self.is_warm())
    }

    fn is_warm(&self) -> bool {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|last| last.elapsed() < WARM)
    }

    /// The head of the answer, where it is found by redirects.
    pub(super) async fn send(
        &self,
        turn: &Turn<'_>,
        reference: &Reference,
        request: RequestBuilder,
    ) -> Result<Response, Error> {
        let _first = self.head_start().await;
        let (end, after) = turn.bound(self.patience.first_byte);
        let sent = timeout_at(end, self.follow(reference, request)).await;
        // A failure ends the head start too: the others need not wait in line to see it for themselves.
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        sent.unwrap_or_else(|_| Err(self.timed_out(reference, after)))
    }

    async fn follow(&self, reference: &Reference, request: RequestBuilder) -> Result<Response, Error> {
        let failed = |error| self.failed(reference, error);
        let mut request = request.build().map_err(failed)?;
        for redirects in 0..=REDIRECTS {
            let (method, url, mut headers) =
                (request.method().clone(), request.url().clone(), request.headers().clone());
            let mut answer = self.client.execute(request).await.map_err(failed)?;
            let Some(next) = self.next(&method, &url, &answer) else {
                if redirects > 0 {
                    answer.extensions_mut().insert(Redirected);
                }
                return Ok(answer);
            };
            if next.origin() != self.base.origin() {
                headers.remove(AUTHORIZATION);
            }
            request = Request::new(method, next);
            *request.headers_mut() = headers;
        }
        Err(Error::Refused { store: self.name.clone(), reason: Refusal::Redirects })
    }

    /// Where a redirect leads, if it is one to follow.
    fn next(&self, method: &Method, from: &Url, answer: &Response) -> Option<Url> {
        if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308)
            || !matches!(*method, Method::GET | Method::HEAD)
        {
            return None;
        }
        let to = from.join(answer.headers().get(LOCATION)?.to_str().ok()?).ok()?;
        let is_as_safe = matches!((from.scheme(), to.scheme()), (_, "https") | ("http", "http"));
        let is_believed = match self.redirects {
            Redirects::Ignored => false,
            Redirects::SameHost => to.host() == self.base.host(),
            Redirects::Followed => true,
        };
        (is_as_safe && is_believed).then_some(to)
    }

    /// That a success in answer to `HEAD` is about a block and not, say, about the login page of whoever stands between: what length it
    /// says is that of a block, and it says one if it came by a redirect.
    pub(super) fn is_of_a_block(&self, answer: &Response) -> Result<(), Error> {
        let length = answer.headers().get(CONTENT_LENGTH).map(|length| {
            length.to_str().ok().and_then(|length| length.parse().ok()).is_some_and(is_block_size)
        });
        match length.unwrap_or_else(|| answer.extensions().get::<Redirected>().is_none()) {
            true => Ok(()),
            false => Err(Error::Refused {
                store: self.name.clone(),
                reason: Refusal::Foreign("it says that it has a block, but not of the length of one".into()),
            }),
        }
    }

    /// The body, of which no more is read than a block can have.
    pub(super) async fn body(
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

    /// The body of an answer that is no block: at most `limit` bytes of it.
    pub(super) async fn short(
        &self,
        turn: &Turn<'_>,
        reference: &Reference,
        mut answer: Response,
        limit: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        let (end, after) = turn.bound(self.patience.stall);
        while text.len() < limit {
            match timeout_at(end, answer.chunk()).await {
                Ok(Ok(Some(piece))) => text.extend_from_slice(&piece[..piece.len().min(limit - text.len())]),
                Ok(Ok(None)) => break,
                Ok(Err(error)) => return Err(self.failed(reference, error)),
                Err(_) => return Err(self.timed_out(reference, after)),
            }
        }
        Ok(text)
    }

    /// What an answer other than success means.
    pub(super) fn refusal(&self, reference: &Reference, answer: &Response) -> Error {
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
    pub(super) async fn turn(&self, reference: &Reference) -> Result<Turn<'_>, Error> {
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

/// The client for all neighbours. It speaks plain HTTP, so it loads no certificates, and asks directly, whatever proxy the user has. A
/// neighbour is not believed to say where else to go: no redirect is followed.
pub(super) fn neighbours_client(patience: Patience) -> Result<Client, reqwest::Error> {
    Access::default().client(|builder| {
        builder
            .tls_certs_only([])
            .redirect(redirect::Policy::none())
            .dns_resolver(Scoped)
            .connect_timeout(patience.connect)
            .pool_idle_timeout(NEIGHBOUR_IDLE)
    })
}

/// A URL cannot tell the link of an address that every link has. This name can; it is resolved here, and sent to nobody but the
/// neighbour.
fn scoped(addr: &SocketAddrV6) -> String {
    format!("{:032x}-{}{SCOPED}", u128::from(*addr.ip()), addr.scope_id())
}

/// The address that a name stands for; the port is in the URL.
fn unscoped(name: &str) -> Option<SocketAddr> {
    let (ip, scope) = name.strip_suffix(SCOPED)?.split_once('-')?;
    let ip = u128::from_str_radix(ip, 16).ok()?.into();
    Some(SocketAddrV6::new(ip, 0, 0, scope.parse().ok()?).into())
}

/// Resolves no names but those of neighbours.
struct Scoped;

impl Resolve for Scoped {
    fn resolve(&self, name: Name) -> Resolving {
        let addr = unscoped(name.as_str());
        let addrs = addr.map(|addr| Box::new(iter::once(addr)) as Addrs);
        Box::pin(ready(addrs.ok_or_else(|| "it is no name of a neighbour".into())))
    }
}

fn client(access: &Access, patience: Patience) -> Result<Client, reqwest::Error> {
    access.client(|builder| {
        builder
            .redirect(redirect::Policy::none())
            .connect_timeout(patience.connect)
            .pool_idle_timeout(WARM)
            .pool_max_idle_per_host(IN_FLIGHT)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            // A connection that has died (the machine was asleep, or moved) is found out while a request waits on it.
            .http2_keep_alive_interval(patience.first_byte / 4)
            .http2_keep_alive_timeout(patience.first_byte / 4)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://[::1]:1/";

    #[test]
    fn the_name_of_a_neighbour_tells_its_link() {
        let addr = SocketAddrV6::new("fe80::1:2".parse().expect("an address"), 0, 0, 7);
        assert_eq!(unscoped(&scoped(&addr)), Some(addr.into()));
        let web = Web::neighbour(
            SocketAddrV6::new(*addr.ip(), 80, 0, 7).into(),
            Patience::default(),
            &neighbours_client(Patience::default()).expect("a client"),
        );
        assert_eq!(web.expect("a URL").base.host_str(), Some(&*scoped(&addr)));
        for name in ["host", "x-7.neighbour.invalid", "fe80-x.neighbour.invalid", ".neighbour.invalid"] {
            assert_eq!(unscoped(name), None, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_takes_30_s_even_if_its_turn_never_comes() {
        let web = Web::new(URL, URL, Redirects::Ignored, Patience::default(), &Access::default())
            .expect("a good URL");
        let _all = web.permits.acquire_many(IN_FLIGHT as u32).await.expect("the semaphore is never closed");
        let reference = crate::eris::reference_of(b"a block");
        let begun = Instant::now();
        let error = web.turn(&reference).await.map(drop).expect_err("its turn never comes");
        assert!(matches!(error, Error::TimedOut { .. }) && error.to_string().contains(URL), "{error}");
        assert!(begun.elapsed() < 2 * Duration::from_secs(30), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_turn_shortens_what_follows() {
        let web = Web::new(URL, URL, Redirects::Ignored, Patience::default(), &Access::default())
            .expect("a good URL");
        let all = web.permits.acquire_many(IN_FLIGHT as u32).await.expect("the semaphore is never closed");
        let reference = crate::eris::reference_of(b"a block");
        let begun = Instant::now();
        let release = async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            drop(all);
        };
        let (turn, ()) = tokio::join!(web.turn(&reference), release);
        let (end, after) = turn.expect("its turn came").bound(web.patience.first_byte);
        assert_eq!((end - begun, after), (Duration::from_secs(25), Duration::from_secs(25)));
    }

    #[test]
    fn redirects_are_followed_for_what_is_read_to_where_the_server_is_believed_and_never_out_of_tls() {
        let answer = |status: u16, to: &str| {
            let answer = hyper::Response::builder().status(status).header(LOCATION, to).body("");
            Response::from(answer.expect("a good answer"))
        };
        let leads = |redirects, method: Method, from: &str, status, to: &str| {
            let web =
                Web::new(from, from, redirects, Patience::default(), &Access::default()).expect("a good URL");
            web.next(&method, &from.parse().expect("a URL"), &answer(status, to)).is_some()
        };
        let (ignored, same, followed) = (Redirects::Ignored, Redirects::SameHost, Redirects::Followed);
        for (redirects, from, to, is_followed) in [
            (followed, "http://host/", "https://other/x", true),
            (followed, "http://host/", "http://other/x", true),
            (followed, "https://host/", "/x", true),
            (followed, "https://host/", "http://host/", false),
            (followed, "http://host/", "ftp://host/", false),
            (same, "http://host/", "https://host/x", true),
            (same, "http://host/", "http://cid.host/", false),
            (ignored, "http://host/", "/x", false),
        ] {
            assert_eq!(
                leads(redirects, Method::GET, from, 302, to),
                is_followed,
                "{redirects:?} {from} {to}"
            );
        }
        for status in [301, 302, 303, 307, 308] {
            assert!(leads(followed, Method::HEAD, "http://host/", status, "/x"), "{status}");
            for method in [Method::PUT, Method::POST] {
                assert!(!leads(followed, method, "http://host/", status, "/x"), "{status}");
            }
        }
        assert!(!leads(followed, Method::GET, "http://host/", 304, "/x"));
    }
}
