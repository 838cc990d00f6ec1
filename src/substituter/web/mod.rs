//! The web as the substitute servers of this process reach it: one client, its patience, proxies, certificates, passwords.

mod http;
mod ipfs;
mod netrc;
mod proxies;

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Certificate, Client};

pub use self::http::Http;
pub use self::ipfs::Ipfs;
pub use self::netrc::{Netrc, NetrcError};
pub use self::proxies::Proxies;
use super::Error;

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
    /// Passwords by host.
    pub netrc: Netrc,
    /// Who stands between.
    pub proxies: Proxies,
    /// Certificates of authorities in PEM, in place of the system's.
    pub ca: Option<Vec<u8>>,
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
}

impl Web {
    /// A client with these settings.
    pub fn new(settings: WebSettings) -> Result<Self, Error> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: reqwest::Error| Error::Web { what, source: Arc::new(error.without_url()) }
        };
        let certificates = settings.ca.as_deref().map(Certificate::from_pem_bundle).transpose();
        let certificates = certificates.map_err(failed("the certificates"))?;
        let client = crate::http::client(|builder| {
            let builder = builder.no_proxy().connect_timeout(settings.patience.connect);
            match &certificates {
                Some(certificates) => builder.tls_certs_only(certificates.iter().cloned()),
                None => builder,
            }
        });
        Ok(Self { client: client.map_err(failed("the HTTP client"))?, settings })
    }
}
