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
    shelf: Arc<Shelf>,
    /// Somebody who waits for a frame must not join a fetch ahead, which may stand at the gate: each has flights of its own,
    /// which share the requests for blocks (`block::Cache`) and the decoding.
    flights: Flights<(Key, bool), Result<Bytes, Error>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug)]
struct Shelf {
    decoded: Mutex<ByteLru<Key, Bytes>>,
    decoding: Flights<Key, Result<Bytes, Error>>,
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
        let shelf = Shelf { decoded: Mutex::new(ByteLru::new(bytes)), decoding: Flights::default() };
        FrameCache {
            shelf: Arc::new(shelf),
            flights: Flights::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// What it holds now, and how often it was asked since it was made.
    pub fn status(&self) -> FramesStatus {
        let decoded = self.shelf.decoded.lock().expect("no panic while held");
        FramesStatus {
            bytes: decoded.bytes(),
            capacity: decoded.capacity(),
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
        }
    }

    /// Whether `frame` is decoded already.
    pub fn contains(&self, content: &Content, frame: &Frame) -> bool {
        self.shelf.decoded.lock().expect("no panic while held").contains(&(content.id(), frame.index))
    }

    /// The decoded bytes of `frame`. Ready at once when it is in the cache.
    pub async fn get(
        &self,
        content: &Arc<Content>,
        frame: &Frame,
        deadline: Deadline,
    ) -> Result<Bytes, Error> {
        let key = (content.id(), frame.index);
        let mut asked = deadline.is_ahead();
        loop {
            // What is fetched ahead was asked for by nobody.
            let counts = u64::from(!std::mem::replace(&mut asked, true));
            if let Some(bytes) = self.shelf.get(&key) {
                self.hits.fetch_add(counts, Relaxed);
                return Ok(bytes);
            }
            self.misses.fetch_add(counts, Relaxed);
            let flight = self.flights.join((key, deadline.is_ahead()), || {
                let (shelf, content, frame) = (self.shelf.clone(), content.clone(), frame.clone());
                async move {
                    let compressed = content.read_at(frame.compressed.clone(), deadline).await?;
                    shelf.decode(key, content, frame, compressed).await
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

impl FrameCache {
    /// The decoded bytes of consecutive frames, ahead of need. What is missing of them is fetched in one piece: a block that
    /// holds the end of one and the start of the next is asked for once.
    pub async fn get_run(
        &self,
        content: &Arc<Content>,
        frames: &[Frame],
        deadline: Deadline,
    ) -> Result<Vec<Bytes>, Error> {
        let missing = |frame: &&Frame| !self.contains(content, frame);
        let (first, last) = (frames.iter().find(missing), frames.iter().rfind(missing));
        let range = match (first, last) {
            (Some(first), Some(last)) => first.compressed.start..last.compressed.end,
            _ => 0..0,
        };
        let compressed = content.read_at(range.clone(), deadline).await?;
        let mut decoded = Vec::with_capacity(frames.len());
        for frame in frames {
            let key = (content.id(), frame.index);
            let bytes = match self.shelf.get(&key) {
                Some(bytes) => bytes,
                None if range.start <= frame.compressed.start && frame.compressed.end <= range.end => {
                    let place = |at: u64| (at - range.start) as usize;
                    let bytes = compressed.slice(place(frame.compressed.start)..place(frame.compressed.end));
                    self.shelf.clone().decode(key, content.clone(), frame.clone(), bytes).await?
                }
                // Evicted meanwhile.
                None => self.get(content, frame, deadline).await?,
            };
            decoded.push(bytes);
        }
        Ok(decoded)
    }
}

impl Shelf {
    fn get(&self, key: &Key) -> Option<Bytes> {
        self.decoded.lock().expect("no panic while held").get(key).cloned()
    }

    async fn decode(
        self: Arc<Self>,
        key: Key,
        content: Arc<Content>,
        frame: Frame,
        compressed: Bytes,
    ) -> Result<Bytes, Error> {
        if let Some(bytes) = self.get(&key) {
            return Ok(bytes);
        }
        let shelf = self.clone();
        let work = async move {
            let bytes = decompress(&content, &frame, &compressed)?;
            shelf.decoded.lock().expect("no panic while held").put(key, bytes.clone(), bytes.len());
            Ok(bytes)
        };
        self.decoding.join(key, || work.boxed()).await
    }
}

/// Reads and decodes one frame, past the cache.
pub async fn decode_frame(content: &Content, frame: &Frame, deadline: Deadline) -> Result<Bytes, Error> {
    let compressed = content.read_at(frame.compressed.clone(), deadline).await?;
    decompress(content, frame, &compressed)
}

fn decompress(content: &Content, frame: &Frame, compressed: &[u8]) -> Result<Bytes, Error> {
    let length = (frame.decompressed.end - frame.decompressed.start) as usize;
    compress::decode_frame(compressed, length).map(Bytes::from).map_err(|source| Error::Frame {
        content: content.name(),
        offset: frame.compressed.start,
        source: Arc::new(source),
    })
}
