//! The seekable NAR: a zstd stream that any decoder turns into the NAR, and that can also be read from the middle.
//!
//! It is a row of independent zstd frames, then a skippable frame with the listing, perhaps one with a startup profile, then the seek table of zstd's *seekable format* (contrib/seekable_format
//! in zstd, version 0.1.0) in a skippable frame, last. [`Packer`] writes it; [`Tail`] finds table and listing from the last bytes of the object.

mod pack;
mod table;
#[cfg(test)]
mod tests;

pub use pack::{FRAME_SIZE, LEVEL, Packed, Packer, Settings};
pub use table::{Frame, SeekTable, Tail, TailError, read_listing, read_profile};

/// The magic number of the seek table's skippable frame.
const SEEK_TABLE_MAGIC: u32 = 0x184D_2A5E;
/// The last four bytes of a seekable archive.
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// The magic number of the listing's skippable frame. Its payload is [`LISTING_TAG`], then zstd.
const LISTING_MAGIC: u32 = 0x184D_2A5D;
/// Tells our listing from the skippable frames of others.
const LISTING_TAG: &[u8; 8] = b"NARLIST1";
/// The magic number of the startup profile's skippable frame. Its payload is [`PROFILE_TAG`], then zstd.
const PROFILE_MAGIC: u32 = 0x184D_2A5C;
/// Tells a startup profile from the skippable frames of others.
const PROFILE_TAG: &[u8; 8] = b"NARPROF1";
/// Magic number and length of a skippable frame.
const SKIPPABLE_HEADER: u64 = 8;
/// Frame count, descriptor and magic number at the end of a seek table.
const FOOTER: u64 = 9;
/// The largest frame that is decoded for random access, in bytes decompressed: it bounds the memory that one read takes.
pub const MAX_FRAME: u32 = 16 << 20;
/// The most bytes that a frame with content may take compressed; zstd adds 0.4 % to noise at the most.
const MAX_COMPRESSED: u32 = MAX_FRAME + MAX_FRAME / 128;
/// The most entries of a seek table that is read: 1 TiB in full frames of [`FRAME_SIZE`], at 16 bytes of memory each.
pub const MAX_FRAMES: u32 = 1 << 22;
/// The largest listing that is read, in bytes of JSON: about three million files.
pub const MAX_LISTING: u64 = 256 << 20;
/// The largest startup profile that is read, in bytes of text.
pub const MAX_PROFILE: u64 = 2 << 20;
/// The most bytes that may stand between the last frame with content and the seek table (compressed listing, profile).
pub const MAX_TRAILER: u64 = 64 << 20;
