//! Decoded frames of seekable objects: a cache by bytes, and one decoding however many readers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::FutureExt;

use super::{Content, Deadline, Error, Flights};
use crate::block::ByteLru;
use crate::compress;
use crate::nar::seekable::Frame;

type Key = (u64, u32);

/// The frames decoded last, by content and frame number.
#[derive(Debug)]
pub struct FrameCache {
    decoded: Arc<Mutex<ByteLru<Key, Bytes>>>,
    flights: Flights<Key, Result<Bytes, Error>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What a [`FrameCache`] holds, and how often it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct FramesStatus {
    /// Decoded bytes kept.
    pub bytes: usize,
    /// Decoded bytes that may be kept.
    pub capacity: usize,
    /// Frames asked for that were kept.
    pub hits: u64,
    /// Frames asked for that had to be decoded, or waited for.
    pub misses: u64,
}

impl FrameCache {
    /// Keeps at most `bytes` of decoded data.
    pub fn new(bytes: usize) -> Self {
        FrameCache {
            decoded: Arc::new(Mutex::new(ByteLru::new(bytes))),
            flights: Flights::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// What it holds now, and how often it was asked since it was made.
    pub fn status(&self) -> FramesStatus {
        let decoded = self.decoded.lock().expect("no panic while held");
        FramesStatus {
            bytes: decoded.bytes(),
            capacity: decoded.capacity(),
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
        }
    }

    /// Whether `frame` is decoded already.
    pub fn contains(&self, content: &Content, frame: &Frame) -> bool {
        self.decoded.lock().expect("no panic while held").contains(&(content.id(), frame.index))
    }

    /// The decoded bytes of `frame`. Ready at once when it is in the cache.
    pub async fn get(
        &self,
        content: &Arc<Content>,
        frame: &Frame,
        deadline: Deadline,
    ) -> Result<Bytes, Error> {
        let key = (content.id(), frame.index);
        let mut asked = false;
        loop {
            if let Some(bytes) = self.decoded.lock().expect("no panic while held").get(&key).cloned() {
                self.hits.fetch_add(u64::from(!asked), Relaxed);
                return Ok(bytes);
            }
            self.misses.fetch_add(u64::from(!asked), Relaxed);
            asked = true;
            let flight = self.flights.join(key, || {
                let (decoded, content, frame) = (self.decoded.clone(), content.clone(), frame.clone());
                async move {
                    let bytes = decode_frame(&content, &frame, deadline).await?;
                    let weight = bytes.len();
                    decoded.lock().expect("no panic while held").put(key, bytes.clone(), weight);
                    Ok(bytes)
                }
                .boxed()
            });
            match flight.await {
                // The flight had the deadline of whoever started it; ours may be later.
                Err(Error::TimedOut { .. }) if !deadline.has_passed() => continue,
                answer => return answer,
            }
        }
    }
}

/// Reads and decodes one frame, past the cache.
pub async fn decode_frame(content: &Content, frame: &Frame, deadline: Deadline) -> Result<Bytes, Error> {
    let compressed = content.read_at(frame.compressed.clone(), deadline).await?;
    let length = (frame.decompressed.end - frame.decompressed.start) as usize;
    compress::decode_frame(&compressed, length).map(Bytes::from).map_err(|source| Error::Frame {
        content: content.name(),
        offset: frame.compressed.start,
        source: Arc::new(source),
    })
}
