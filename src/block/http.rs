//! Blocks from a web server, by the N2R resolver of RFC 2169 as the ERIS documents use it.
//!
//! `GET`, `HEAD` and `PUT` of `BASE/uri-res/N2R?urn:blake2b:REFERENCE`, over HTTP/2 where TLS negotiates it.

use std::{net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use reqwest::{Client, Method, Response, StatusCode, header::CONTENT_TYPE};

use super::web::{IN_FLIGHT, Patience, Redirects, Turn, Web};
use super::{Block, BlockStore, Error, Refusal};
use crate::eris::{Reference, reference_of};
use crate::http::Access;

/// A web server that resolves `urn:blake2b:`: `http://HOST/PREFIX` or `https://...`.
///
/// It may redirect what is read, but not what is put. [`sync`](BlockStore::sync) promises nothing beyond the server's answer to the put.
#[derive(Debug)]
pub struct Http {
    web: Web,
}

impl Http {
    /// The server at `url`. Nothing is asked of it yet.
    pub fn new(url: &str, patience: Patience, access: &Access) -> Result<Self, Error> {
        Ok(Self { web: Web::new(url, url, Redirects::Followed, patience, access)? })
    }

    /// The server of a neighbour, a stranger on this link, asked by [`neighbours_client`](super::web::neighbours_client).
    pub(super) fn neighbour(addr: SocketAddr, patience: Patience, client: &Client) -> Result<Self, Error> {
        Ok(Self { web: Web::neighbour(addr, patience, client)? })
    }

    async fn send(
        &self,
        turn: &Turn<'_>,
        method: Method,
        reference: &Reference,
        block: Option<Block>,
    ) -> Result<Response, Error> {
        let url = self.web.url("uri-res/N2R", Some(&format!("urn:blake2b:{reference}")));
        let mut request = self.web.request(method, url);
        if let Some(block) = block {
            request = request.header(CONTENT_TYPE, "application/octet-stream").body(block);
        }
        self.web.send(turn, reference, request).await
    }
}

#[async_trait]
impl BlockStore for Http {
    fn name(&self) -> &str {
        self.web.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let turn = self.web.turn(reference).await?;
        let answer = self.send(&turn, Method::GET, reference, None).await?;
        match answer.status() {
            StatusCode::OK => self.web.body(&turn, reference, answer).await,
            _ => Err(self.web.refusal(reference, &answer)),
        }
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let turn = self.web.turn(reference).await?;
        let answer = self.send(&turn, Method::HEAD, reference, None).await?;
        drop(turn);
        match answer.status() {
            status if status.is_success() => self.web.is_of_a_block(&answer).map(|()| true),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(false),
            // A server of GET alone.
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => match self.get(reference).await {
                Ok(block) => Ok(reference_of(&block) == *reference),
                Err(Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            },
            _ => Err(self.web.refusal(reference, &answer)),
        }
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        let turn = self.web.turn(reference).await?;
        let answer = self.send(&turn, Method::PUT, reference, Some(block)).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            // No such resource for a PUT: not an answer about the block.
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => {
                Err(Error::Refused { store: Arc::clone(self.web.name()), reason: Refusal::ReadOnly })
            }
            _ => Err(self.web.refusal(reference, &answer)),
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
            ("http://hush:hush@host/", "http://host/uri-res/N2R"),
        ] {
            let http = Http::new(url, Patience::default(), &Access::default()).expect("a good URL");
            assert_eq!(http.web.url("uri-res/N2R", None).as_str(), resolver);
            assert!(!format!("{http:?}{}", http.name()).contains("hush"));
        }
        for url in ["http://", "http://h/?x", "http://h/#x", "http://:hush%0A@h/", "http://:hush@"] {
            let error = Http::new(url, Patience::default(), &Access::default()).expect_err(url);
            assert!(
                matches!(error, Error::BadUrl { .. }) && !format!("{error:?}").contains("hush"),
                "{error:?}"
            );
        }
    }
}
