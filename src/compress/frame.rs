//! Frames of zstd whose size is known, one at a time, as a seekable archive has them.
//!
//! A frame is decoded into exactly the size that was announced for it, never more, and the contexts of zstd are used again from frame
//! to frame, since making a new one costs a third of a small frame.

use std::cell::RefCell;
use std::fmt;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

use super::Error;

/// Decodes a zstd frame (or several, one after another) that holds exactly `size` bytes.
///
/// `size` is the bound on memory: the caller checks it against what is sane before.
pub fn decode_frame(frame: &[u8], size: usize) -> Result<Vec<u8>, Error> {
    thread_local! {
        static CONTEXT: RefCell<Decompressor<'static>> = RefCell::default();
    }
    let mut content = Vec::with_capacity(size);
    CONTEXT
        .with_borrow_mut(|context| context.decompress_to_buffer(frame, &mut content))
        .map_err(|source| Error::Decode { announced: size, source })?;
    if content.len() != size {
        return Err(Error::Size { announced: size, found: content.len() });
    }
    Ok(content)
}

/// The decompressed size that the header of a zstd frame announces, where it does.
pub fn announced_size(frame: &[u8]) -> Option<u64> {
    zstd_safe::get_frame_content_size(frame).ok().flatten()
}

/// Compresses frames at one level, using one zstd context for all of them.
pub struct FrameEncoder {
    context: Compressor<'static>,
}

impl FrameEncoder {
    /// An encoder for zstd `level` (1 to 22).
    pub fn new(level: i32) -> Result<Self, Error> {
        let context = Compressor::new(level).map_err(|source| Error::Encode { source })?;
        Ok(Self { context })
    }

    /// One complete frame that holds `content` and says its size; without a checksum, since blocks are
    /// verified before anything of them is decoded.
    pub fn encode(&mut self, content: &[u8]) -> Result<Vec<u8>, Error> {
        self.context.compress(content).map_err(|source| Error::Encode { source })
    }
}

impl fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameEncoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_gives_exactly_what_was_announced_or_an_error() {
        let mut encoder = FrameEncoder::new(3).unwrap();
        let content: Vec<u8> = (0..100_000u32).flat_map(|n| (n % 1000).to_le_bytes()).collect();
        let frame = encoder.encode(&content).unwrap();
        assert_eq!(announced_size(&frame), Some(content.len() as u64));
        assert!(decode_frame(&frame, content.len()).unwrap() == content);
        assert!(matches!(decode_frame(&frame, content.len() - 1), Err(Error::Decode { .. })));
        assert!(matches!(decode_frame(&frame, content.len() + 1), Err(Error::Size { .. })));
        assert!(matches!(decode_frame(&frame[..frame.len() - 1], content.len()), Err(Error::Decode { .. })));
        assert!(matches!(decode_frame(b"no frame", 8), Err(Error::Decode { .. })));
        // The context that failed is as good as a new one.
        assert!(decode_frame(&frame, content.len()).unwrap() == content);
        assert!(encoder.encode(&content).unwrap() == frame);
    }
}
