//! Blocks in IPFS, by way of a trustless gateway (`specs.ipfs.tech/http-gateways/trustless-gateway`).
//!
//! `GET` and `HEAD` of `BASE/ipfs/CID?format=raw`. Nothing can be put there, and nothing that comes is believed.

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};

use super::ipfs::cid;
use super::web::{Patience, Redirects, Turn, Web};
use super::{Block, BlockStore, Error, Refusal, bad_url};
use crate::eris::Reference;
use crate::http::Access;

/// Requests in flight. Public gateways answer more of them with 429.
const CONCURRENCY: usize = 32;
/// Longest text that says why there is no block.
const MAX_WORDS: usize = 4 << 10;

/// A trustless gateway: `ipfs+https://HOST/PREFIX` or `ipfs+http://...`.
///
/// It has to give blocks under that address: some redirect each to a host of its own (`CID.ipfs.HOST`), and so to a connection of its own.
#[derive(Debug)]
pub struct Gateway {
    web: Web,
}

impl Gateway {
    /// The gateway at `url`. Nothing is asked of it yet.
    pub fn new(url: &str, patience: Patience, access: &Access) -> Result<Self, Error> {
        let address = url.strip_prefix("ipfs+").filter(|address| address.contains("://"));
        let address = address.ok_or_else(|| bad_url(url, "it must be ipfs+https://HOST/PREFIX"))?;
        Ok(Self { web: Web::new(url, address, Redirects::SameHost, patience, access)? })
    }

    async fn send(&self, turn: &Turn<'_>, method: Method, reference: &Reference) -> Result<Response, Error> {
        let url = self.web.url(&format!("ipfs/{}", cid(reference)), Some("format=raw"));
        let request = self.web.request(method, url).header(ACCEPT, "application/vnd.ipld.raw");
        self.web.send(turn, reference, request).await
    }

    fn failure(&self, reference: &Reference, answer: &Response) -> Error {
        if !answer.status().is_redirection() {
            return self.web.refusal(reference, answer);
        }
        let hint = "it redirects blocks to other hosts; name a gateway that gives them by path, or 127.0.0.1 for localhost";
        Error::Refused { store: Arc::clone(self.web.name()), reason: Refusal::Foreign(hint.to_owned()) }
    }

    /// As [`failure`](Self::failure), of 504: a gateway says so when it searched until its own deadline and nobody had the block, and a
    /// proxy before it when it is down.
    async fn gave_up(&self, turn: &Turn<'_>, reference: &Reference, answer: Response) -> Error {
        let failure = self.failure(reference, &answer);
        let is_text =
            answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
        match self.web.short(turn, reference, answer, MAX_WORDS).await {
            Ok(words) if is_text && is_absence(&String::from_utf8_lossy(&words)) => {
                Error::NotFound { reference: *reference, store: Arc::clone(self.web.name()) }
            }
            _ => failure,
        }
    }
}

/// Whether a gateway says that its time for a search is over, in the words of Kubo.
fn is_absence(words: &str) -> bool {
    ["deadline exceeded", "Unable to retrieve content within timeout period"]
        .iter()
        .any(|said| words.contains(said))
}

#[async_trait]
impl BlockStore for Gateway {
    fn name(&self) -> &str {
        self.web.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let turn = self.web.turn(reference).await?;
        let answer = self.send(&turn, Method::GET, reference).await?;
        match answer.status() {
            StatusCode::OK => self.web.body(&turn, reference, answer).await,
            StatusCode::GATEWAY_TIMEOUT => Err(self.gave_up(&turn, reference, answer).await),
            _ => Err(self.failure(reference, &answer)),
        }
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let turn = self.web.turn(reference).await?;
        let answer = self.send(&turn, Method::HEAD, reference).await?;
        if answer.status().is_success() {
            return self.web.is_of_a_block(&answer).map(|()| true);
        }
        match self.failure(reference, &answer) {
            Error::NotFound { .. } => Ok(false),
            error => Err(error),
        }
    }

    async fn put(&self, _: &Reference, _: Block) -> Result<(), Error> {
        Err(Error::Refused { store: Arc::clone(self.web.name()), reason: Refusal::ReadOnly })
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn is_remote(&self) -> bool {
        true
    }
}
