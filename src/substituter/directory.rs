//! A binary cache in a directory: `file:DIR`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Error, Info, NarFile, Substituter, Web};
use crate::store::{HashPart, Narinfo};

/// A directory with `HASHPART.narinfo` files, and NARs where they say: what `nix copy --to file://DIR` and
/// `erisfs publish --narinfo DIR` write.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    name: String,
    web: Arc<Web>,
}

impl Directory {
    /// The directory at `root`, which need not be there yet. Absolute URLs in its narinfos are followed by way of `web`.
    pub fn new(root: &Path, web: Arc<Web>) -> Self {
        let name = format!("file:{}", root.display());
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        Self { root, name, web }
    }
}
#[async_trait]
impl Substituter for Directory {
    fn name(&self) -> &str {
        &self.name
    }
    async fn info(&self) -> Result<Info, Error> {
        let _ = (&self.root, &self.web);
        Ok(Info::default())
    }
    async fn narinfo(&self, _: HashPart) -> Result<Option<Narinfo>, Error> {
        Ok(None)
    }
    async fn listing(&self, _: HashPart) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }
    async fn nar(&self, url: &str, _: u64) -> Result<NarFile, Error> {
        Err(Error::NoFile { server: self.name.as_str().into(), url: url.to_owned() })
    }
}
