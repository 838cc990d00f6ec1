//! A substitute server on the web.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use reqwest::Url;

use super::Web;
use crate::store::{HashPart, Narinfo};
use crate::substituter::{Error, Info, NarFile, Substituter, bad_url};

/// A substitute server of Nix or Guix: `http://HOST/PREFIX` or `https://...`.
#[derive(Debug)]
pub struct Http {
    base: Url,
    web: Arc<Web>,
}

impl Http {
    /// The server at `url`. Nothing is asked of it yet.
    pub fn new(url: &str, web: Arc<Web>) -> Result<Self, Error> {
        let mut base = Url::parse(url).map_err(|error| bad_url(url, &error.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.query().or(base.fragment()).is_some() {
            return Err(bad_url(url, "it must be http://HOST/PREFIX or https://HOST/PREFIX, without ? or #"));
        }
        let _ = base.set_username("").and(base.set_password(None));
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        Ok(Self { base, web })
    }
}
#[async_trait]
impl Substituter for Http {
    fn name(&self) -> &str {
        self.base.as_str()
    }
    async fn info(&self) -> Result<Info, Error> {
        let _ = (&self.web.client, &self.web.settings);
        Ok(Info::default())
    }
    async fn narinfo(&self, _: HashPart) -> Result<Option<Narinfo>, Error> {
        Ok(None)
    }
    async fn listing(&self, _: HashPart) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }
    async fn nar(&self, url: &str, _: u64) -> Result<NarFile, Error> {
        Err(Error::NoFile { server: self.base.as_str().into(), url: url.to_owned() })
    }
}
