//! The LZ4 frame format, read to its end.
//!
//! The decoder of `lz4_flex` says "end" after each frame, and also where the input ends within one; which of them it is shows in
//! what it read.

use std::io::{self, ErrorKind, Read};

use lz4_flex::frame::FrameDecoder;

/// Decompresses frames one after another.
pub(super) struct Decoder<R: Read> {
    /// Of one frame; none only while it is replaced.
    frame: Option<FrameDecoder<Counted<R>>>,
    /// Whether a frame ended already.
    is_content: bool,
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(input: R) -> Self {
        let frame = FrameDecoder::new(Counted { input, read: 0, at_eof: false });
        Self { frame: Some(frame), is_content: false }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        while let Some(frame) = &mut self.frame {
            let given = frame.read(output)?;
            if given > 0 || output.is_empty() {
                return Ok(given);
            }
            let Counted { read, at_eof, .. } = *frame.get_ref();
            match at_eof {
                // Nothing of another frame is there.
                true if read == 0 && self.is_content => return Ok(0),
                true => return Err(ErrorKind::UnexpectedEof.into()),
                false => self.is_content = true,
            }
            // The buffers of a decoder are those for its first frame.
            let input = self.frame.take().map(FrameDecoder::into_inner);
            self.frame = input.map(|input| FrameDecoder::new(Counted { read: 0, ..input }));
        }
        Ok(0)
    }
}

/// Input that knows how much of it was read since the frame began.
struct Counted<R> {
    input: R,
    read: u64,
    at_eof: bool,
}

impl<R: Read> Read for Counted<R> {
    /// Is never interrupted: the decoder would lose what it read before.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(length) => {
                    self.read += length as u64;
                    self.at_eof |= length == 0 && !buffer.is_empty();
                    return Ok(length);
                }
            }
        }
    }
}
