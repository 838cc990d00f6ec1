//! Compression of NARs: the names that narinfo and `ERISFormat` give it, decoders of whole streams, and single frames of zstd.
//!
//! A decoder takes what anybody sent: memory is bounded whatever the headers ask for, a stream that is cut off or goes on after its end is an
//! error, and so is one without a byte in it.

mod frame;
mod lz4;
mod stream;

use std::fmt;
use std::io;

pub use frame::{FrameEncoder, announced_size, decode_frame};
pub use stream::decoder;

/// The media type of a NAR, which is what `ERISFormat` starts with (Guix bug#52555).
const NAR_MEDIA_TYPE: &str = "application/x-nix-archive";

/// How the bytes of a NAR are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all: the object is the NAR.
    None,
    /// RFC 1952, in one member or in many.
    Gzip,
    /// The `.xz` format, in one stream or in many.
    Xz,
    /// The `.lz` format, in one member or in many.
    Lzip,
    /// Zstandard (RFC 8878), in one frame or in many. The only one that may have a seek table.
    Zstd,
    /// The `.bz2` format, in one stream or in many.
    Bzip2,
    /// RFC 7932: one stream.
    Brotli,
    /// The LZ4 frame format, in one frame or in many.
    Lz4,
}

/// What a narinfo or `ERISFormat` may say, for messages.
const NAMES: &str = "none, gzip, xz, lzip, zstd, bzip2, br, lz4";

impl Compression {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::None, Self::Gzip, Self::Xz, Self::Lzip, Self::Zstd, Self::Bzip2, Self::Brotli, Self::Lz4];

    /// Reads the `Compression` field of a narinfo, of Nix or of Guix.
    pub fn from_narinfo(name: &str) -> Result<Self, Error> {
        Self::named(name).ok_or_else(|| Error::UnknownCompression { name: name.to_owned() })
    }

    /// Reads an `ERISFormat` field: the media type of NARs, then `+zstd` or `+zstd-LEVEL` (or another name) where compressed.
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
        match Self::named(name) {
            Some(Self::None) | None => Err(unknown()),
            Some(compression) => Ok(compression),
        }
    }

    /// The `ERISFormat` that we write for it.
    pub fn eris_format(self) -> String {
        match self {
            Self::None => NAR_MEDIA_TYPE.to_owned(),
            compressed => format!("{NAR_MEDIA_TYPE}+{compressed}"),
        }
    }

    fn named(name: &str) -> Option<Self> {
        match name {
            // What Nix calls it, and what people do.
            "brotli" => Some(Self::Brotli),
            _ => Self::ALL.into_iter().find(|compression| compression.name() == name),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lzip => "lzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Brotli => "br",
            Self::Lz4 => "lz4",
        }
    }
}

/// The name in a narinfo's `Compression` field.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What can be wrong with a compressed thing or its name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A narinfo names a compression that this program does not read.
    #[error("compression {name:?} is not supported (supported: {NAMES})")]
    UnknownCompression {
        /// The name as it was found.
        name: String,
    },
    /// An `ERISFormat` that this program does not read.
    #[error(
        "ERISFormat {format:?} is not supported (supported: {NAR_MEDIA_TYPE} alone, or +NAME or +NAME-LEVEL, NAME one of {NAMES})"
    )]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_guix_bug_52555_are_read() {
        for (format, expected) in [
            ("application/x-nix-archive", Compression::None),
            ("application/x-nix-archive+zstd", Compression::Zstd),
            ("application/x-nix-archive+zstd-19", Compression::Zstd),
            ("application/x-nix-archive+gzip", Compression::Gzip),
            ("application/x-nix-archive+lzip-9", Compression::Lzip),
        ] {
            assert_eq!(Compression::from_eris_format(format).unwrap(), expected);
        }
        for compression in Compression::ALL {
            assert_eq!(Compression::from_eris_format(&compression.eris_format()).unwrap(), compression);
            assert_eq!(Compression::from_narinfo(&compression.to_string()).unwrap(), compression);
        }
        assert_eq!(Compression::from_narinfo("brotli").unwrap(), Compression::Brotli);
    }

    #[test]
    fn unknown_formats_are_named_in_the_error() {
        for format in [
            "",
            "zstd",
            "application/x-nix-archive+",
            "application/x-nix-archive+none",
            "application/x-nix-archive+rar",
            "application/x-nix-archivezstd",
            "application/x-nix-archive+zstd-",
            "application/x-nix-archive+zstd-x",
            "application/x-nix-archive+zstd-19-1",
            "application/x-tar+zstd",
        ] {
            let error = Compression::from_eris_format(format).unwrap_err();
            assert!(matches!(&error, Error::UnknownFormat { format: named } if named == format), "{error}");
        }
        let error = Compression::from_narinfo("rar").unwrap_err();
        assert!(
            error.to_string().starts_with("compression \"rar\" is not supported (supported: none, gzip,"),
            "{error}"
        );
    }
}
