//! The web as the substitute servers of this process reach it: one client and its patience.

mod files;
mod http;
mod ipfs;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, HeaderValue};
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, StatusCode, redirect};
use tokio::time::timeout;

pub(super) use self::files::{Files, NarUrl};
pub use self::http::Http;
pub use self::ipfs::{Ipfs, NotIpfs};
use super::Error;
use crate::http::Access;

/// What an HTTP/2 server may send of one NAR before it is read: a window is what travels in one round trip, and 8 MiB
/// are 1 Gbit/s at 65 ms.
const STREAM_WINDOW: u32 = 8 << 20;
/// And of all NARs on a connection.
const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// For neighbours: their machines are near, but may be small and have disks that sleep.
const NEAR: Patience = Patience {
    connect: Duration::from_secs(1),
    answer: Duration::from_secs(5),
    stall: Duration::from_secs(5),
    body: Duration::from_secs(5),
};

/// How long a server is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the connection, TLS included. 5 s is one lost SYN and its two repetitions.
    pub connect: Duration,
    /// From the request, connecting included, to the head of the answer. 10 s lets a disk spin up.
    pub answer: Duration,
    /// Between two pieces of a body. 10 s without a byte is a dead connection.
    pub stall: Duration,
    /// For the whole of a narinfo or a listing. A NAR may take as long as it comes.
    pub body: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), answer: seconds(10), stall: seconds(10), body: seconds(15) }
    }
}

/// What all substitute servers of a process share.
#[derive(Debug, Clone, Default)]
pub struct WebSettings {
    /// Through whom, believing whom, and with which passwords.
    pub access: Access,
    /// Who fetches `ipfs://CID`.
    pub ipfs: Option<Ipfs>,
    /// How long servers are waited for.
    pub patience: Patience,
}

/// A client of the web.
#[derive(Debug)]
pub struct Web {
    client: Client,
    settings: WebSettings,
    /// Whether a server is believed when it says that something is elsewhere.
    is_confined: bool,
}

impl Web {
    /// A client with these settings.
    pub fn new(settings: WebSettings) -> Result<Self, Error> {
        let client = client(&settings, |builder| builder)?;
        Ok(Self { client, settings, is_confined: false })
    }

    /// A client for neighbours, strangers on this link: they are asked directly, wherever else the way leads through proxies, are not waited
    /// for long, and lead nowhere else.
    pub fn for_neighbours() -> Result<Self, Error> {
        let settings = WebSettings { patience: NEAR, ..WebSettings::default() };
        let client = client(&settings, |builder| builder.redirect(redirect::Policy::none()))?;
        Ok(Self { client, settings, is_confined: true })
    }

    /// Sends a request of `server` and waits for the head of the answer.
    async fn send(&self, server: &Arc<str>, request: RequestBuilder) -> Result<Response, Error> {
        let Patience { answer, connect, .. } = self.settings.patience;
        let timed_out = |after| Error::TimedOut { server: Arc::clone(server), after };
        // A compressed answer would have to be told from a compressed file.
        let request = request.header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        match timeout(answer, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_redirect() => {
                Err(Error::Refused { server: Arc::clone(server), reason: "too many redirects".to_owned() })
            }
            Ok(Err(error)) if error.is_timeout() => Err(timed_out(connect)),
            Ok(Err(error)) => Err(unavailable(server, None, error)),
            Err(_) => Err(timed_out(answer)),
        }
    }
}

/// The client that these settings want, with what `more` says besides.
fn client(settings: &WebSettings, more: impl Fn(ClientBuilder) -> ClientBuilder) -> Result<Client, Error> {
    let patience = settings.patience;
    let client = settings.access.client(|builder| {
        more(builder)
            .connect_timeout(patience.connect)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            // A connection that has died (the machine was asleep, or moved) is found out while a request waits on it.
            .http2_keep_alive_interval(patience.answer / 4)
            .http2_keep_alive_timeout(patience.answer / 4)
    });
    client.map_err(|error| Error::Client(Arc::new(error.without_url())))
}

/// The address is left out: it may be that of a redirect, with a secret in it.
fn unavailable(server: &Arc<str>, retry_after: Option<Duration>, error: reqwest::Error) -> Error {
    Error::Unavailable { server: Arc::clone(server), retry_after, source: Arc::new(error.without_url()) }
}

/// What an answer means that is neither the thing nor that it is not there.
fn refusal(server: &Arc<str>, response: &Response) -> Error {
    let (status, server) = (response.status(), Arc::clone(server));
    let now = status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
    if now {
        let retry_after = crate::http::retry_after(response.headers());
        return Error::Unavailable { server, retry_after, source: Arc::new(NotNow(status)) };
    }
    Error::Refused { server, reason: format!("HTTP status {status}") }
}

/// A status by which a server says that it cannot answer now.
#[derive(Debug, thiserror::Error)]
#[error("HTTP status {0}")]
struct NotNow(StatusCode);

/// Whether a server says that it does not have a thing. A bucket of S3 that may not be listed says 403 for what is
/// not there, and so Nix takes it for the same.
fn is_absent(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN)
}
