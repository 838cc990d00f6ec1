//! Where the bytes of a NAR come from, compressed as they are there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use sha2::{Digest, Sha256};

use crate::compress::{self, Compression};
use crate::content::{self, Content, Deadline, Fetch, Limits};
use crate::eris::ReadCapability;
use crate::store::StoreDir;
use crate::substituter::{self, Offer};

/// How long an ERIS content is waited for, piece by piece. Whoever reads loses patience before.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an ERIS content that are asked for in one piece, so that a slow link is not taken for a dead one.
const PIECE: u64 = 128 * 1024;
/// Such pieces in flight: enough for a link with a latency of 50 ms and 160 Mbit/s.
const PIECES: usize = 8;

/// Somebody who may have a NAR.
#[async_trait]
pub trait NarSource: fmt::Debug + Send + Sync {
    /// How messages name it; without secrets.
    fn name(&self) -> &str;

    /// By what it is known again if it gave something wrong, and nothing else is: a SHA-256, since what tells two sources apart may
    /// be a secret.
    fn identity(&self) -> [u8; 32] {
        Sha256::digest(self.name()).into()
    }

    /// How the bytes that it gives are compressed.
    fn compression(&self) -> Compression;

    /// Whether it is a neighbour's, whom nobody chose: it is borne with less patience while there are others.
    fn is_neighbour(&self) -> bool {
        false
    }

    /// The bytes of the file, from `from` on where the source can do that, else from the beginning. Dropping the stream
    /// ends the transfer.
    async fn open(&self, from: u64) -> Result<NarStream, SourceError>;
}

/// The bytes of a file that holds a NAR, on their way.
pub struct NarStream {
    /// Which byte of the file comes first.
    pub from: u64,
    /// Length of the whole file, where it is known.
    pub length: Option<u64>,
    /// The bytes, in order.
    pub body: BoxStream<'static, Result<Bytes, SourceError>>,
}

/// Why a source gives no (more) bytes.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{source}")]
pub struct SourceError {
    /// Whether asking again may help.
    pub is_transient: bool,
    /// What is wrong.
    pub source: Arc<dyn std::error::Error + Send + Sync>,
}

impl SourceError {
    /// An error that may pass.
    pub fn transient(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { is_transient: true, source: Arc::new(source) }
    }

    /// An error that stays.
    pub fn lasting(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { is_transient: false, source: Arc::new(source) }
    }
}

impl From<substituter::Error> for SourceError {
    fn from(error: substituter::Error) -> Self {
        Self { is_transient: error.is_transient(), source: Arc::new(error) }
    }
}

impl From<content::Error> for SourceError {
    fn from(error: content::Error) -> Self {
        let is_transient = match &error {
            content::Error::Block(error) => error.is_transient(),
            content::Error::TimedOut { .. } => true,
            _ => false,
        };
        Self { is_transient, source: Arc::new(error) }
    }
}

impl fmt::Debug for NarStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NarStream")
            .field("from", &self.from)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// The file that a substitute server has.
#[derive(Debug)]
pub struct FromServer {
    name: String,
    identity: [u8; 32],
    offer: Offer,
    compression: Compression,
}

impl FromServer {
    /// What a narinfo of a path in `store_dir` offers; an error if it is compressed in a way that is not known.
    pub fn new(offer: Offer, store_dir: &StoreDir) -> Result<Self, compress::Error> {
        let compression = offer.download.compression_in(store_dir)?;
        // A query may be a token.
        let url = offer.download.url.split('?').next().unwrap_or_default();
        let name = format!("{} ({url})", offer.server.name());
        let whole = format!("{} ({}) {compression}", offer.server.name(), offer.download.url);
        let identity = Sha256::digest(whole).into();
        Ok(Self { name, identity, offer, compression })
    }
}

#[async_trait]
impl NarSource for FromServer {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> [u8; 32] {
        self.identity
    }

    fn compression(&self) -> Compression {
        self.compression
    }

    fn is_neighbour(&self) -> bool {
        self.offer.is_neighbour
    }

    async fn open(&self, from: u64) -> Result<NarStream, SourceError> {
        let file = self.offer.server.nar(&self.offer.download.url, from).await?;
        let body = file.body.map_err(SourceError::from).boxed();
        Ok(NarStream { from: file.from, length: file.length, body })
    }
}

/// An ERIS content that holds a NAR: one that no signature binds, or that has no random access.
#[derive(Debug)]
pub struct FromContent {
    name: String,
    identity: [u8; 32],
    fetch: Arc<Fetch>,
    capability: ReadCapability,
    compression: Compression,
}

impl FromContent {
    /// The content of `capability`, read through `fetch`.
    pub fn new(fetch: Arc<Fetch>, capability: ReadCapability, compression: Compression) -> Self {
        let name = content::Name::from(&capability).to_string();
        let identity = Sha256::digest(format!("{capability} {compression}")).into();
        Self { name, identity, fetch, capability, compression }
    }
}

#[async_trait]
impl NarSource for FromContent {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> [u8; 32] {
        self.identity
    }

    fn compression(&self) -> Compression {
        self.compression
    }

    async fn open(&self, from: u64) -> Result<NarStream, SourceError> {
        // Whoever reads the stream bounds its length.
        let limits = Limits { length: u64::MAX, tail: 0 };
        let deadline = Deadline::after(PATIENCE);
        let content = Arc::new(Content::open(self.fetch.clone(), self.capability, limits, deadline).await?);
        let length = content.length();
        let from = from.min(length);
        let starts = (from / PIECE..length.div_ceil(PIECE)).map(move |piece| (piece * PIECE).max(from));
        let body = stream::iter(starts)
            .map(move |start| {
                let content = content.clone();
                async move {
                    let end = (start / PIECE + 1).saturating_mul(PIECE).min(length);
                    Ok(content.read_at(start..end, Deadline::after(PATIENCE)).await?)
                }
            })
            .buffered(PIECES)
            .boxed();
        Ok(NarStream { from, length: Some(length), body })
    }
}
