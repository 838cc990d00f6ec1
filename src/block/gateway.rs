//! Blocks in IPFS, by way of a trustless gateway (`specs.ipfs.tech/http-gateways/trustless-gateway`).
//!
//! `GET` and `HEAD` of `BASE/ipfs/CID?format=raw`. Nothing can be put there, and nothing that comes is believed.

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{Method, Response, StatusCode, header::ACCEPT};

use super::ipfs::cid;
use super::web::{Patience, Turn, Web};
use super::{Block, BlockStore, Error, Refusal, bad_url};
use crate::eris::Reference;
use crate::http::Access;

/// Requests in flight. Public gateways answer more of them with 429.
const CONCURRENCY: usize = 32;

/// A trustless gateway: `ipfs+https://HOST/PREFIX` or `ipfs+http://...`.
#[derive(Debug)]
pub struct Gateway {
    web: Web,
}

impl Gateway {
    /// The gateway at `url`. Nothing is asked of it yet.
    pub fn new(url: &str, patience: Patience, access: &Access) -> Result<Self, Error> {
        let address = url.strip_prefix("ipfs+").filter(|address| address.contains("://"));
        let address = address.ok_or_else(|| bad_url(url, "it must be ipfs+https://HOST/PREFIX"))?;
        Ok(Self { web: Web::new(url, address, patience, access)? })
    }

    async fn send(&self, turn: &Turn<'_>, method: Method, reference: &Reference) -> Result<Response, Error> {
        let url = self.web.url(&format!("ipfs/{}", cid(reference)), Some("format=raw"));
        let request = self.web.request(method, url).header(ACCEPT, "application/vnd.ipld.raw");
        self.web.send(turn, reference, request).await
    }

    fn failure(&self, reference: &Reference, answer: &Response) -> Error {
        match answer.status() {
            // It looked for the block among its peers until its own deadline, and nobody had it.
            StatusCode::GATEWAY_TIMEOUT => {
                Error::NotFound { reference: *reference, store: Arc::clone(self.web.name()) }
            }
            _ => self.web.refusal(reference, answer),
        }
    }
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
            _ => Err(self.failure(reference, &answer)),
        }
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let turn = self.web.turn(reference).await?;
        let answer = self.send(&turn, Method::HEAD, reference).await?;
        if answer.status().is_success() {
            return Ok(true);
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
