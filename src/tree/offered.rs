//! The file of a NAR at a substitute server, as a source of a download.

use async_trait::async_trait;
use futures::StreamExt;

use crate::compress::Compression;
use crate::download::{NarSource, NarStream, SourceError};
use crate::substituter::Offer;

/// What a server offers.
#[derive(Debug)]
pub(super) struct FromServer {
    offer: Offer,
    compression: Compression,
}

impl FromServer {
    /// `None` where it is compressed in a way that nobody here knows.
    pub(super) fn new(offer: Offer) -> Option<Self> {
        let compression = match offer.download.compression.as_deref() {
            // Nix takes no word for this one, Guix for none; Guix always says it.
            None => Compression::Bzip2,
            Some(name) => Compression::from_narinfo(name).ok()?,
        };
        Some(FromServer { offer, compression })
    }
}

fn error(error: crate::substituter::Error) -> SourceError {
    match error.is_transient() {
        true => SourceError::transient(error),
        false => SourceError::lasting(error),
    }
}

#[async_trait]
impl NarSource for FromServer {
    fn name(&self) -> &str {
        self.offer.server.name()
    }

    fn compression(&self) -> Compression {
        self.compression
    }

    async fn open(&self, from: u64) -> Result<NarStream, SourceError> {
        let file = self.offer.server.nar(&self.offer.download.url, from).await.map_err(error)?;
        let body = file.body.map(|piece| piece.map_err(error)).boxed();
        Ok(NarStream { from: file.from, length: file.length, body })
    }
}
