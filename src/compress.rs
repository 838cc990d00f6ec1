//! Compression of NARs: the names that narinfo and `ERISFormat` give it, and one frame at a time of it.
//!
//! A frame is decoded into exactly the size that was announced for it, never more, and the contexts of
//! zstd are used again from frame to frame, since making a new one costs a third of a small frame.

use std::cell::RefCell;
use std::fmt;
use std::io;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe;

/// The media type of a NAR, which is what `ERISFormat` starts with (Guix bug#52555).
const NAR_MEDIA_TYPE: &str = "application/x-nix-archive";

/// How the bytes of a NAR are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all: the object is the NAR.
    None,
    /// Zstandard (RFC 8878), in one frame or in many.
    Zstd,
}

impl Compression {
    /// Reads the `Compression` field of a narinfo, of Nix or of Guix.
    pub fn from_narinfo(name: &str) -> Result<Self, Error> {
        match name {
            "none" => Ok(Self::None),
            "zstd" => Ok(Self::Zstd),
            _ => Err(Error::UnknownCompression { name: name.to_owned() }),
        }
    }

    /// Reads an `ERISFormat` field: the media type of NARs, then `+zstd` or `+zstd-LEVEL` where compressed.
    pub fn from_eris_format(format: &str) -> Result<Self, Error> {
        let unknown = || Error::UnknownFormat { format: format.to_owned() };
        let suffix = format.strip_prefix(NAR_MEDIA_TYPE).ok_or_else(unknown)?;
        if suffix.is_empty() {
            return Ok(Self::None);
        }
        let name = suffix.strip_prefix('+').ok_or_else(unknown)?;
        let (name, level) = match name.split_once('-') {
            Some((name, level)) => (name, Some(level)),
            None => (name, None),
        };
        if level.is_some_and(|level| level.is_empty() || !level.bytes().all(|b| b.is_ascii_digit())) {
            return Err(unknown());
        }
        match name {
            "zstd" => Ok(Self::Zstd),
            _ => Err(unknown()),
        }
    }

    /// The `ERISFormat` that we write for it.
    pub fn eris_format(self) -> &'static str {
        match self {
            Self::None => "application/x-nix-archive",
            Self::Zstd => "application/x-nix-archive+zstd",
        }
    }
}

/// The name in a narinfo's `Compression` field.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        })
    }
}

/// What can be wrong with a compressed thing or its name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A narinfo names a compression that this program does not read.
    #[error("compression {name:?} is not supported (supported: none, zstd)")]
    UnknownCompression {
        /// The name as it was found.
        name: String,
    },
    /// An `ERISFormat` that this program does not read.
    #[error("ERISFormat {format:?} is not supported (supported: {NAR_MEDIA_TYPE}, +zstd, +zstd-LEVEL)")]
    UnknownFormat {
        /// The value as it was found.
        format: String,
    },
    /// zstd refused the frame, among others because it holds more than announced.
    #[error("a zstd frame announced to hold {announced} bytes cannot be decoded")]
    Decode {
        /// Decompressed size that was announced.
        announced: usize,
        /// What zstd said.
        source: io::Error,
    },
    /// The frame holds another number of bytes than announced.
    #[error("a zstd frame announced to hold {announced} bytes holds {found}")]
    Size {
        /// Decompressed size that was announced.
        announced: usize,
        /// Decompressed size that was found.
        found: usize,
    },
    /// zstd could not compress: it has no memory, or does not know the level.
    #[error("zstd cannot compress")]
    Encode {
        /// What zstd said.
        source: io::Error,
    },
}

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
