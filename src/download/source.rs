//! Where the bytes of a NAR come from, compressed as they are there.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::compress::Compression;
use crate::content::Fetch;
use crate::eris::ReadCapability;

/// Somebody who may have a NAR.
#[async_trait]
pub trait NarSource: fmt::Debug + Send + Sync {
    /// How messages name it; without secrets. A source that gave something wrong is known by it.
    fn name(&self) -> &str;

    /// How the bytes that it gives are compressed.
    fn compression(&self) -> Compression;

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

impl fmt::Debug for NarStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NarStream")
            .field("from", &self.from)
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

/// An ERIS content that holds a NAR: one that no signature binds, or that has no random access.
#[derive(Debug)]
pub struct FromContent {
    name: String,
    fetch: Arc<Fetch>,
    capability: ReadCapability,
    compression: Compression,
}

impl FromContent {
    /// The content of `capability`, read through `fetch`.
    pub fn new(fetch: Arc<Fetch>, capability: ReadCapability, compression: Compression) -> Self {
        Self { name: crate::content::Name::from(&capability).to_string(), fetch, capability, compression }
    }
}

#[async_trait]
impl NarSource for FromContent {
    fn name(&self) -> &str {
        &self.name
    }

    fn compression(&self) -> Compression {
        self.compression
    }

    async fn open(&self, _from: u64) -> Result<NarStream, SourceError> {
        let _ = (&self.fetch, &self.capability);
        todo!()
    }
}
