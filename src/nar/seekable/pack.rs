//! The writer's side of a seekable NAR: takes the NAR as it comes, and keeps all cores at its compression.
//!
//! Memory is bounded by the frames in flight, two for each thread of rayon's pool; frames are written in order. A frame is cut short
//! where a file starts that would not fit into what is left of it, so that most small files lie in one frame.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::{
    FOOTER, LISTING_MAGIC, LISTING_TAG, MAX_FRAME, MAX_FRAMES, MAX_LISTING, MAX_PROFILE, MAX_TRAILER,
};
use super::{PROFILE_MAGIC, PROFILE_TAG};
use super::{SEEK_TABLE_MAGIC, SEEKABLE_MAGIC, SKIPPABLE_HEADER};
use crate::compress::{self, FrameEncoder};
use crate::nar::listing::{Builder, Listing, ListingError};
use crate::nar::wire::{Event, Parser};

/// Bytes of the NAR in a frame. A cold read of a small file then fetches about 100 KiB, a third of what frames of 1 MiB
/// take, for a tenth more bytes in the whole (docs/decisions/0004-frames.md).
pub const FRAME_SIZE: usize = 256 << 10;
/// The level of zstd. In frames of this size it is within 1 % of level 19 and twice as fast.
pub const LEVEL: i32 = 15;

/// How a seekable NAR is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The most bytes of the NAR in a frame; between 1 and [`MAX_FRAME`].
    pub frame_size: usize,
    /// The level of zstd, 1 to 22.
    pub level: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { frame_size: FRAME_SIZE, level: LEVEL }
    }
}

/// What was packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// SHA-256 of the NAR: its NarHash.
    pub nar_hash: [u8; 32],
    /// Size of the NAR in bytes.
    pub nar_size: u64,
    /// Bytes written.
    pub packed_size: u64,
    /// The tree of the NAR.
    pub listing: Listing,
    /// Whether the tree was written, too. It is not where a name is not UTF-8, or where readers would find it too large.
    pub listed: bool,
}

type Compressed = Result<Vec<u8>, compress::Error>;

/// Takes a NAR by [`Write`] and writes it as a seekable NAR. A NAR that is not canonical is an [`io::ErrorKind::InvalidData`] with
/// a [`ParseError`](crate::nar::ParseError) in it.
#[derive(Debug)]
pub struct Packer<W> {
    out: W,
    settings: Settings,
    digest: Sha256,
    parser: Parser,
    builder: Builder,
    profile: Vec<u8>,
    /// Bytes of the NAR taken so far.
    position: u64,
    frame: Vec<u8>,
    /// Decompressed size and outcome of the frames that are being compressed, in order.
    in_flight: VecDeque<(u32, Receiver<Compressed>)>,
    encoders: Arc<Mutex<Vec<FrameEncoder>>>,
    /// Compressed and decompressed sizes of what was written.
    entries: Vec<(u32, u32)>,
    written: u64,
}

impl<W: Write> Packer<W> {
    /// A packer with [`FRAME_SIZE`] and [`LEVEL`].
    pub fn new(out: W) -> Self {
        Self::with(out, Settings::default())
    }

    /// A packer with other settings; a frame size out of bounds is brought within them.
    pub fn with(out: W, settings: Settings) -> Self {
        let frame_size = settings.frame_size.clamp(1, MAX_FRAME as usize);
        Self {
            out,
            settings: Settings { frame_size, ..settings },
            digest: Sha256::new(),
            parser: Parser::new(),
            builder: Builder::new(),
            profile: Vec::new(),
            position: 0,
            frame: Vec::new(),
            in_flight: VecDeque::new(),
            encoders: Arc::default(),
            entries: Vec::new(),
            written: 0,
        }
    }

    /// Has the text of a startup profile written into the archive, at most [`MAX_PROFILE`] bytes.
    pub fn profile(&mut self, text: Vec<u8>) {
        self.profile = text;
    }

    /// Ends the NAR, which must be complete, and writes listing, startup profile and seek table.
    pub fn finish(mut self) -> io::Result<Packed> {
        self.parser.finish()?;
        self.cut()?;
        self.settle(0)?;
        let listing = std::mem::take(&mut self.builder).finish()?;
        let listed = self.write_listing(&listing)?;
        self.write_profile()?;
        self.write_table()?;
        self.out.flush()?;
        Ok(Packed {
            nar_hash: self.digest.finalize().into(),
            nar_size: self.position,
            packed_size: self.written,
            listing,
            listed,
        })
    }

    /// Appends to the current frame, which is cut where it is full.
    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.position += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = self.settings.frame_size - self.frame.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.frame.extend_from_slice(now);
            bytes = later;
            if self.frame.len() == self.settings.frame_size {
                self.cut()?;
            }
        }
        Ok(())
    }

    /// A file starts here. Cuts the frame where it is half full at least and the file does not fit into the rest, so that no
    /// frame is less than half the size for this, and no file up to half the size lies in two frames.
    fn file_starts(&mut self, size: u64) -> io::Result<()> {
        let room = self.settings.frame_size - self.frame.len();
        if self.frame.len() >= self.settings.frame_size / 2 && size > room as u64 {
            self.cut()
        } else {
            Ok(())
        }
    }

    /// Ends the current frame and has it compressed.
    fn cut(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        self.settle(2 * rayon::current_num_threads() - 1)?;
        let frame = std::mem::take(&mut self.frame);
        self.frame.reserve_exact(self.settings.frame_size.min(2 * frame.len()));
        let (sender, receiver) = sync_channel(1);
        self.in_flight.push_back((frame.len() as u32, receiver));
        let (encoders, level) = (Arc::clone(&self.encoders), self.settings.level);
        rayon::spawn(move || {
            let spare = encoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let outcome = spare.map_or_else(|| FrameEncoder::new(level), Ok).and_then(|mut encoder| {
                let compressed = encoder.encode(&frame)?;
                encoders.lock().unwrap_or_else(PoisonError::into_inner).push(encoder);
                Ok(compressed)
            });
            // The packer may have been dropped, and nobody wants the frame then.
            let _ = sender.send(outcome);
        });
        Ok(())
    }

    /// Writes the oldest frames until at most `remaining` are being compressed.
    fn settle(&mut self, remaining: usize) -> io::Result<()> {
        while self.in_flight.len() > remaining {
            let Some((size, receiver)) = self.in_flight.pop_front() else { break };
            let compressed = wait(&receiver)?.map_err(io::Error::other)?;
            self.write(&compressed, size)?;
        }
        Ok(())
    }

    /// Writes one entry of the seek table.
    fn write(&mut self, compressed: &[u8], decompressed: u32) -> io::Result<()> {
        if self.entries.len() == MAX_FRAMES as usize {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("the NAR has more than {MAX_FRAMES} frames of {} bytes", self.settings.frame_size),
            ));
        }
        self.out.write_all(compressed)?;
        self.written += compressed.len() as u64;
        // A frame of 16 MiB does not grow by more than some bytes, and a listing is held below 64 MiB.
        self.entries.push((compressed.len() as u32, decompressed));
        Ok(())
    }

    /// Writes the listing as a skippable frame, for which the seek table has an entry without content. False where none was written.
    fn write_listing(&mut self, listing: &Listing) -> io::Result<bool> {
        let mut json = Vec::new();
        match listing.to_json(&mut json) {
            Ok(()) => {}
            Err(ListingError::NotUtf8 { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        if json.len() as u64 > MAX_LISTING {
            return Ok(false);
        }
        self.write_skippable(LISTING_MAGIC, LISTING_TAG, &json)
    }

    fn write_profile(&mut self) -> io::Result<()> {
        let text = std::mem::take(&mut self.profile);
        if text.len() as u64 > MAX_PROFILE {
            let found = text.len();
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a startup profile of {found} bytes: the limit is {MAX_PROFILE}"),
            ));
        }
        if !text.is_empty() {
            self.write_skippable(PROFILE_MAGIC, PROFILE_TAG, &text)?;
        }
        Ok(())
    }

    /// Writes a skippable frame: a tag, and `content` as zstd. False where that would be larger than readers take.
    fn write_skippable(&mut self, magic: u32, tag: &[u8; 8], content: &[u8]) -> io::Result<bool> {
        let compressed =
            FrameEncoder::new(self.settings.level).and_then(|mut encoder| encoder.encode(content));
        let compressed = compressed.map_err(io::Error::other)?;
        let length = tag.len() + compressed.len();
        if length as u64 + SKIPPABLE_HEADER > MAX_TRAILER - SKIPPABLE_HEADER - 2 * MAX_PROFILE {
            return Ok(false);
        }
        let mut frame = Vec::with_capacity(SKIPPABLE_HEADER as usize + length);
        frame.extend_from_slice(&magic.to_le_bytes());
        frame.extend_from_slice(&(length as u32).to_le_bytes());
        frame.extend_from_slice(tag);
        frame.extend_from_slice(&compressed);
        self.write(&frame, 0)?;
        Ok(true)
    }

    fn write_table(&mut self) -> io::Result<()> {
        let payload = self.entries.len() * 8 + FOOTER as usize;
        let mut table = Vec::with_capacity(SKIPPABLE_HEADER as usize + payload);
        table.extend_from_slice(&SEEK_TABLE_MAGIC.to_le_bytes());
        table.extend_from_slice(&(payload as u32).to_le_bytes());
        for (compressed, decompressed) in &self.entries {
            table.extend_from_slice(&compressed.to_le_bytes());
            table.extend_from_slice(&decompressed.to_le_bytes());
        }
        table.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        // No checksums.
        table.push(0);
        table.extend_from_slice(&SEEKABLE_MAGIC.to_le_bytes());
        self.written += table.len() as u64;
        self.out.write_all(&table)
    }
}

impl<W: Write> Write for Packer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            // Where the parser is ahead, it hops over the contents of a file.
            let hop = self.parser.position() - self.position;
            if hop > 0 {
                let (contents, after) =
                    rest.split_at(rest.len().min(usize::try_from(hop).unwrap_or(usize::MAX)));
                self.append(contents)?;
                rest = after;
                continue;
            }
            let before = rest;
            let event = self.parser.next(&mut rest)?;
            let file = match event {
                Some(Event::File { size, .. }) => Some(size),
                _ => None,
            };
            event.map_or(Ok(()), |event| self.builder.event(event))?;
            self.append(&before[..before.len() - rest.len()])?;
            file.map_or(Ok(()), |size| self.file_starts(size))?;
        }
        Ok(bytes.len())
    }

    /// Does nothing: frames are written when they are full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits for a frame. A thread of rayon's own pool compresses meanwhile, since it may be the only one that can.
fn wait(receiver: &Receiver<Compressed>) -> io::Result<Compressed> {
    loop {
        match receiver.try_recv() {
            Ok(compressed) => return Ok(compressed),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                return Err(io::Error::other("compression of a frame was given up"));
            }
        }
        if !matches!(rayon::yield_now(), Some(rayon::Yield::Executed)) {
            return receiver.recv().map_err(|_| io::Error::other("compression of a frame was given up"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nar::arbitrary::sample;

    #[test]
    fn memory_is_bounded_by_two_frames_a_thread() {
        let nar = sample("tree.nar");
        let mut packer = Packer::with(io::sink(), Settings { frame_size: 100, level: 1 });
        let mut most = 0;
        for piece in nar.chunks(100) {
            packer.write_all(piece).unwrap();
            most = most.max(packer.in_flight.len());
            assert!(
                packer.frame.capacity() <= 200,
                "the current frame takes {} bytes",
                packer.frame.capacity()
            );
        }
        assert!((1..=2 * rayon::current_num_threads()).contains(&most), "{most} frames in flight");
        assert!(packer.encoders.lock().unwrap().len() <= rayon::current_num_threads());
        assert_eq!(packer.finish().unwrap().nar_size, nar.len() as u64);
    }
}
