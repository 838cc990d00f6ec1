//! The reader's side of a seekable NAR, without I/O: from the last bytes of an object to the frames that cover a range.
//!
//! Archives that others wrote in zstd's seekable format are read as well; they have no listing, so their tree comes from
//! the headers of the NAR. Checksums in the table are passed over, since blocks were verified before.

use std::ops::Range;

use super::{
    FOOTER, LISTING_MAGIC, LISTING_TAG, MAX_COMPRESSED, MAX_FRAME, MAX_FRAMES, MAX_LISTING, MAX_PROFILE,
    MAX_TRAILER, PROFILE_MAGIC, PROFILE_TAG,
};
use super::{SEEK_TABLE_MAGIC, SEEKABLE_MAGIC, SKIPPABLE_HEADER};
use crate::compress;
use crate::nar::{Listing, ListingError};

/// Why the tail of an object is not that of a seekable archive that can be used.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// Reserved bits of the table's descriptor are set, which a newer version of the format may do.
    #[error("the seek table has an unknown descriptor {descriptor:#04x}")]
    Descriptor {
        /// The descriptor byte.
        descriptor: u8,
    },
    /// The table has more entries than [`MAX_FRAMES`], or than fit into the object.
    #[error(
        "a seek table of {frames} entries is too large (at most {MAX_FRAMES}) or does not fit into the object of {object} bytes"
    )]
    TooManyFrames {
        /// Entries by the footer.
        frames: u32,
        /// Length of the object.
        object: u64,
    },
    /// The skippable frame around the table is broken.
    #[error("the seek table's own frame says {found:?} (magic number, length), expected {expected:?}")]
    Header {
        /// Magic number and length found.
        found: (u32, u32),
        /// Magic number and length that fit the footer.
        expected: (u32, u32),
    },
    /// A frame is larger than [`MAX_FRAME`] when decompressed.
    #[error("frame {frame} holds {size} bytes, more than the {MAX_FRAME} that are decoded at once")]
    FrameTooLarge {
        /// Number of the frame.
        frame: u32,
        /// Decompressed size that the table gives it.
        size: u32,
    },
    /// A frame takes more bytes than zstd can make of [`MAX_FRAME`].
    #[error("frame {frame} takes {size} bytes, more than the {MAX_COMPRESSED} that a frame can need")]
    CompressedTooLarge {
        /// Number of the frame.
        frame: u32,
        /// Compressed size that the table gives it.
        size: u32,
    },
    /// A frame has content but no compressed bytes.
    #[error("frame {frame} holds {size} bytes in no compressed byte")]
    FrameTooSmall {
        /// Number of the frame.
        frame: u32,
        /// Decompressed size that the table gives it.
        size: u32,
    },
    /// The frames do not add up to what is before the table.
    #[error("the frames of the seek table take {found} bytes, but {expected} bytes are before it")]
    Sum {
        /// Bytes before the table.
        expected: u64,
        /// Sum of the compressed sizes.
        found: u64,
    },
    /// More than [`MAX_TRAILER`] bytes are between the last content and the table.
    #[error("{size} bytes between content and seek table are too many (at most {MAX_TRAILER})")]
    TrailerTooLarge {
        /// How many there are.
        size: u64,
    },
    /// An entry without content, after the last content, is not a skippable frame of that size.
    #[error("entry {frame} of the seek table has no content, but is not a skippable frame of its size")]
    Trailer {
        /// Number of the entry.
        frame: u32,
    },
    /// The bytes given are more than the object has.
    #[error("{given} bytes given of an object of {object}")]
    Longer {
        /// How many bytes were given.
        given: u64,
        /// Length of the object.
        object: u64,
    },
    /// The listing does not say how large it is, or is larger than [`MAX_LISTING`].
    #[error("the listing holds {size:?} bytes (at most {MAX_LISTING} are read)")]
    ListingSize {
        /// Its decompressed size, where it says so.
        size: Option<u64>,
    },
    /// The listing cannot be decompressed.
    #[error("the listing cannot be decompressed")]
    ListingFrame(#[from] compress::Error),
    /// The listing is bad, or that of another NAR.
    #[error("the listing of the seekable NAR is bad")]
    Listing(#[from] ListingError),
}

/// What the last bytes of an object say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tail {
    /// So many of the object's last bytes are needed (more than were given, at most the object).
    Needs(u64),
    /// There is no seek table: a zstd stream that can be read from its start only, or no zstd at all.
    Absent,
    /// A seekable archive.
    Seekable {
        /// Where its frames are.
        table: SeekTable,
        /// Where in the object the compressed listing is, for [`read_listing`]. None in archives of others. The bytes given
        /// to [`Tail::parse`] hold it.
        listing: Option<Range<u64>>,
        /// Where the compressed startup profile is, for [`read_profile`]. Mostly none.
        profile: Option<Range<u64>>,
    },
}

impl Tail {
    /// Reads the last bytes of an object of `length` bytes. Any number of them may be given; 64 KiB are mostly enough.
    pub fn parse(last: &[u8], length: u64) -> Result<Self, TailError> {
        let given = last.len() as u64;
        if given > length {
            return Err(TailError::Longer { given, object: length });
        }
        if length < SKIPPABLE_HEADER + FOOTER {
            return Ok(Self::Absent);
        }
        let Some(footer) = last.last_chunk::<{ FOOTER as usize }>() else {
            return Ok(Self::Needs(SKIPPABLE_HEADER + FOOTER));
        };
        if le32(footer, 5) != SEEKABLE_MAGIC {
            return Ok(Self::Absent);
        }
        let (frames, descriptor) = (le32(footer, 0), footer[4]);
        // Bits 6 to 2 are reserved and must be zero, 1 and 0 are for anybody's use.
        if descriptor & 0x7C != 0 {
            return Err(TailError::Descriptor { descriptor });
        }
        let entry_size: u64 = if descriptor & 0x80 != 0 { 12 } else { 8 };
        let payload = u64::from(frames) * entry_size + FOOTER;
        let Some(content_end) =
            length.checked_sub(SKIPPABLE_HEADER + payload).filter(|_| frames <= MAX_FRAMES)
        else {
            return Err(TailError::TooManyFrames { frames, object: length });
        };
        if given < SKIPPABLE_HEADER + payload {
            return Ok(Self::Needs(SKIPPABLE_HEADER + payload));
        }
        let table = &last[(content_end - (length - given)) as usize..];
        let found = (le32(table, 0), le32(table, 4));
        // MAX_FRAMES entries are far below 4 GiB.
        let expected = (SEEK_TABLE_MAGIC, payload as u32);
        if found != expected {
            return Err(TailError::Header { found, expected });
        }
        let entries =
            table[SKIPPABLE_HEADER as usize..].chunks_exact(entry_size as usize).take(frames as usize);
        let table =
            SeekTable::from_entries(entries.map(|entry| (le32(entry, 0), le32(entry, 4))), content_end)?;

        let trailer = table.trailer();
        let Some(first) = trailer.clone().next() else {
            return Ok(Self::Seekable { table, listing: None, profile: None });
        };
        let trailer_start = table.starts[first].compressed;
        if content_end - trailer_start > MAX_TRAILER {
            return Err(TailError::TrailerTooLarge { size: content_end - trailer_start });
        }
        if given < length - trailer_start {
            return Ok(Self::Needs(length - trailer_start));
        }
        let (mut listing, mut profile) = (None, None);
        for entry in trailer {
            let range = table.starts[entry].compressed..table.starts[entry + 1].compressed;
            let base = length - given;
            let frame = &last[(range.start - base) as usize..(range.end - base) as usize];
            let tag = skippable(frame).ok_or(TailError::Trailer { frame: entry as u32 })?;
            let compressed = |tag: &[u8; 8]| range.start + SKIPPABLE_HEADER + tag.len() as u64..range.end;
            match le32(frame, 0) {
                LISTING_MAGIC if tag.starts_with(LISTING_TAG) => {
                    listing.get_or_insert_with(|| compressed(LISTING_TAG));
                }
                PROFILE_MAGIC if tag.starts_with(PROFILE_TAG) => {
                    profile.get_or_insert_with(|| compressed(PROFILE_TAG));
                }
                _ => {}
            }
        }
        Ok(Self::Seekable { table, listing, profile })
    }
}

/// The payload of a skippable frame.
fn skippable(frame: &[u8]) -> Option<&[u8]> {
    let (header, payload) = frame.split_at_checked(SKIPPABLE_HEADER as usize)?;
    (le32(header, 0) & !0xF == 0x184D_2A50 && le32(header, 4) as usize == payload.len()).then_some(payload)
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Reads the listing that [`Tail::Seekable`] points to. It must be that of a NAR of `nar_size` bytes ([`SeekTable::content_size`]).
pub fn read_listing(compressed: &[u8], nar_size: u64) -> Result<Listing, TailError> {
    let size = compress::announced_size(compressed);
    let size = size
        .filter(|size| *size <= MAX_LISTING)
        .and_then(|size| usize::try_from(size).ok())
        .ok_or(TailError::ListingSize { size })?;
    let json = compress::decode_frame(compressed, size)?;
    Ok(Listing::from_json(&json, Some(nar_size))?)
}

/// Reads the text of the startup profile that [`Tail::Seekable`] points to; `None` where it is damaged or too large, since an
/// archive is as good without it.
pub fn read_profile(compressed: &[u8]) -> Option<Vec<u8>> {
    let size = compress::announced_size(compressed).filter(|size| *size <= MAX_PROFILE)?;
    compress::decode_frame(compressed, usize::try_from(size).ok()?).ok()
}

/// Where a frame starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Start {
    compressed: u64,
    decompressed: u64,
}

/// Where the frames of a seekable archive are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeekTable {
    /// One more than there are frames; the last is the end.
    starts: Vec<Start>,
}

/// A frame of a seekable archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its number, from 0.
    pub index: u32,
    /// Its bytes in the object.
    pub compressed: Range<u64>,
    /// What it holds of the content; at most [`MAX_FRAME`] bytes.
    pub decompressed: Range<u64>,
}

impl SeekTable {
    /// A table from the compressed and decompressed sizes of its entries, which must take `content_end` bytes in sum.
    fn from_entries(
        entries: impl ExactSizeIterator<Item = (u32, u32)>,
        content_end: u64,
    ) -> Result<Self, TailError> {
        let mut starts = Vec::with_capacity(entries.len() + 1);
        let mut at = Start { compressed: 0, decompressed: 0 };
        for (frame, (compressed, decompressed)) in (0..).zip(entries) {
            if decompressed > MAX_FRAME {
                return Err(TailError::FrameTooLarge { frame, size: decompressed });
            }
            if decompressed != 0 && compressed > MAX_COMPRESSED {
                return Err(TailError::CompressedTooLarge { frame, size: compressed });
            }
            if compressed == 0 && decompressed != 0 {
                return Err(TailError::FrameTooSmall { frame, size: decompressed });
            }
            starts.push(at);
            // MAX_FRAMES sums of 32 bits are far below 64 bits.
            at = Start {
                compressed: at.compressed + u64::from(compressed),
                decompressed: at.decompressed + u64::from(decompressed),
            };
        }
        starts.push(at);
        if at.compressed != content_end {
            return Err(TailError::Sum { expected: content_end, found: at.compressed });
        }
        Ok(Self { starts })
    }

    /// How many entries there are, those without content included.
    #[expect(clippy::len_without_is_empty, reason = "a table of no entries is that of an empty content")]
    pub fn len(&self) -> u32 {
        (self.starts.len() - 1) as u32
    }

    /// The size of the whole content, decompressed.
    pub fn content_size(&self) -> u64 {
        self.starts[self.starts.len() - 1].decompressed
    }

    /// The frame with this number.
    pub fn frame(&self, index: u32) -> Option<Frame> {
        let (start, end) = (self.starts.get(index as usize)?, self.starts.get(index as usize + 1)?);
        Some(Frame {
            index,
            compressed: start.compressed..end.compressed,
            decompressed: start.decompressed..end.decompressed,
        })
    }

    /// The frames that hold bytes of this range of the content, in order; those without content are left out.
    pub fn frames_covering(&self, content: Range<u64>) -> impl Iterator<Item = Frame> + '_ {
        // The last start at or before the range; of several starts at one place, the last is that of the frame with content.
        let first =
            self.starts.partition_point(|start| start.decompressed <= content.start).saturating_sub(1);
        let end = self.starts.partition_point(|start| start.decompressed < content.end);
        let range = if content.is_empty() { 0..0 } else { first as u32..end as u32 };
        range.filter_map(|index| self.frame(index)).filter(|frame| !frame.decompressed.is_empty())
    }

    /// The entries after the last with content.
    fn trailer(&self) -> Range<usize> {
        let end = self.content_size();
        // The last entry that starts before the end is the last with content; an empty archive has none.
        self.starts.partition_point(|start| start.decompressed < end)..self.starts.len() - 1
    }
}
