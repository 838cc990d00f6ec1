//! The NAR in a content as readers will get it, from the first byte to the last: what is hashed before anything is believed.
//!
//! A seekable archive can be read in two ways, as a stream and through its seek table, and whoever made it can have them differ. So
//! the one that readers take is the one that is hashed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};

use super::Object;
use super::encoded::Encoded;
use crate::compress::Compression;
use crate::content::{Deadline, FrameCache};
use crate::download::{NarSource, NarStream, SourceError};

/// How long one piece is waited for. Whoever wants the hash loses patience before.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read in one piece.
const PIECE: u64 = 128 * 1024;
/// Such pieces in flight: enough for a link with a latency of 50 ms and 160 Mbit/s.
const PIECES: usize = 8;
/// Memory for decoded frames while it lasts: each is needed by a few pieces in a row, and the largest has this size.
const FRAME_BYTES: usize = 16 << 20;

/// An opened content as a source of its NAR, which is not compressed any more.
#[derive(Debug)]
pub(super) struct AsRead {
    name: String,
    encoded: Arc<Encoded>,
}

impl AsRead {
    /// What `object` is read from now.
    pub(super) fn new(object: &Object) -> Self {
        Self { name: format!("the ERIS content of {}", object.name()), encoded: object.shared().clone() }
    }
}

#[async_trait]
impl NarSource for AsRead {
    fn name(&self) -> &str {
        &self.name
    }

    fn compression(&self) -> Compression {
        Compression::None
    }

    async fn open(&self, from: u64) -> Result<NarStream, SourceError> {
        let (encoded, length) = (self.encoded.clone(), self.encoded.nar_size());
        let from = from.min(length);
        let frames = Arc::new(FrameCache::new(FRAME_BYTES));
        let starts = (from / PIECE..length.div_ceil(PIECE)).map(move |piece| (piece * PIECE).max(from));
        let body = stream::iter(starts)
            .map(move |start| {
                let (encoded, frames) = (encoded.clone(), frames.clone());
                async move {
                    let end = (start / PIECE + 1).saturating_mul(PIECE).min(length);
                    Ok(encoded.read_range(start..end, &frames, Deadline::after(PATIENCE)).await?)
                }
            })
            .buffered(PIECES)
            .boxed();
        Ok(NarStream { from, length: Some(length), body })
    }
}
