//! The LZ4 frame format, read to its end.
//!
//! The decoder of `lz4_flex` says "end" after each frame, and also where the input ends within one; which of them it is shows in
//! what it read.

use std::io::{self, ErrorKind, Read};

use lz4_flex::frame::FrameDecoder;

/// Decompresses frames one after another.
pub(super) struct Decoder<R: Read> {
    frames: FrameDecoder<Counted<R>>,
    /// Bytes of input before the frame that is being read.
    before: u64,
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        Self { frames: FrameDecoder::new(Counted { input, read: 0, at_eof: false }), before: 0 }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        loop {
            let given = self.frames.read(output)?;
            if given > 0 {
                return Ok(given);
            }
            let Counted { read, at_eof, .. } = *self.frames.get_ref();
            match at_eof {
                // The frame ended, and another may follow.
                false => self.before = read,
                // What ends after its last byte was looked for no more bytes.
                true if read == self.before && read > 0 => return Ok(0),
                true => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
    }
}

/// Input that knows how much of it was read.
struct Counted<R> {
    input: R,
    read: u64,
    at_eof: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.read += length as u64;
        self.at_eof |= length == 0 && !buffer.is_empty();
        Ok(length)
    }
}
