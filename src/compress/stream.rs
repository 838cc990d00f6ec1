//! Decoders of whole streams: [`decoder`], and the loop that all codecs share which work on slices.

use std::io::{self, BufReader, ErrorKind, Read};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::bufread::MultiGzDecoder;
use liblzma::stream::{Action, CONCATENATED, Status, Stream};
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

use super::{Compression, lz4};

/// Compressed bytes that are read at a time.
const INPUT: usize = 64 * 1024;
/// Memory that an xz or lzip decoder may take, in bytes: the largest preset (`xz -9`, `lzip -9`) needs 65 MiB.
const LZMA_MEMORY: u64 = 128 << 20;
/// The largest window of zstd, as a power of two: 128 MiB, which `--ultra -22` takes, and the limit of the `zstd` program.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Decompresses what `input` gives.
///
/// Several members, frames or streams one after another are one; brotli has no way to tell where another begins, so it is one. What is cut off is
/// [`ErrorKind::UnexpectedEof`]; what is damaged, wants more memory than is sane (128 MiB for zstd and LZMA, 16 MiB for brotli), or is followed
/// by anything else is another error. The input is read to its end before the decoder says that it ended.
pub fn decoder<'a>(compression: Compression, input: impl Read + Send + 'a) -> Box<dyn Read + Send + 'a> {
    match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(INPUT, input))),
        Compression::Xz => Box::new(Decoder::new(input, Xz::default())),
        Compression::Lzip => Box::new(Decoder::new(input, Lzip::default())),
        Compression::Zstd => Box::new(Decoder::new(input, Zstd::default())),
        Compression::Bzip2 => Box::new(Decoder::new(input, Bzip2::default())),
        Compression::Brotli => Box::new(Decoder::new(input, Brotli::default())),
        Compression::Lz4 => Box::new(lz4::Decoder::new(BufReader::with_capacity(INPUT, input))),
    }
}

/// A decompressor of one stream after another.
trait Codec {
    /// Takes bytes from the front of `input` and puts what they hold to the front of `output`. `is_last` says that nothing
    /// follows `input`.
    fn step(&mut self, input: &[u8], output: &mut [u8], is_last: bool) -> io::Result<Step>;

    /// Gets ready for another stream, if one may follow.
    fn restart(&mut self) -> bool;
}

/// What a step did.
struct Step {
    taken: usize,
    given: usize,
    /// The stream ended.
    ended: bool,
}

/// Where in its input a decoder is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a stream, or before the first.
    Stream,
    /// After the end of one.
    End,
}

struct Decoder<R, C> {
    input: R,
    codec: C,
    buffer: Box<[u8]>,
    /// Bytes of the buffer that were read and not taken yet.
    start: usize,
    end: usize,
    at_eof: bool,
    at: At,
}

impl<R: Read, C: Codec> Decoder<R, C> {
    fn new(input: R, codec: C) -> Self {
        let buffer = vec![0; INPUT].into();
        Self { input, codec, buffer, start: 0, end: 0, at_eof: false, at: At::Stream }
    }

    /// Sees that there is input, unless it ended.
    fn fill(&mut self) -> io::Result<()> {
        while self.start == self.end && !self.at_eof {
            match self.input.read(&mut self.buffer) {
                Ok(length) => {
                    (self.start, self.end) = (0, length);
                    self.at_eof = length == 0;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<R: Read, C: Codec> Read for Decoder<R, C> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        loop {
            self.fill()?;
            let input = &self.buffer[self.start..self.end];
            if self.at == At::End {
                if input.is_empty() {
                    return Ok(0);
                }
                if !self.codec.restart() {
                    return Err(damaged("something follows the end of the stream"));
                }
                self.at = At::Stream;
            }
            let Step { taken, given, ended } = self.codec.step(input, output, self.at_eof)?;
            self.start += taken;
            if ended {
                self.at = At::End;
            } else if given == 0 && taken == 0 {
                return Err(match input.is_empty() {
                    true => ErrorKind::UnexpectedEof.into(),
                    false => damaged("the decoder makes no progress"),
                });
            }
            if given > 0 {
                return Ok(given);
            }
        }
    }
}

fn damaged(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

/// All streams of the file and the padding between them are one to liblzma.
#[derive(Default)]
struct Xz(Option<Stream>);

impl Codec for Xz {
    fn step(&mut self, input: &[u8], output: &mut [u8], is_last: bool) -> io::Result<Step> {
        let stream = match &mut self.0 {
            Some(stream) => stream,
            none => none.insert(Stream::new_stream_decoder(LZMA_MEMORY, CONCATENATED)?),
        };
        lzma_step(stream, input, output, if is_last { Action::Finish } else { Action::Run })
    }

    fn restart(&mut self) -> bool {
        false
    }
}

/// Each member has a decoder of its own: that of liblzma for several passes over what follows and begins like a member.
#[derive(Default)]
struct Lzip(Option<Stream>);

impl Codec for Lzip {
    fn step(&mut self, input: &[u8], output: &mut [u8], _: bool) -> io::Result<Step> {
        let stream = match &mut self.0 {
            Some(stream) => stream,
            none => none.insert(Stream::new_lzip_decoder(LZMA_MEMORY, 0)?),
        };
        lzma_step(stream, input, output, Action::Run)
    }

    fn restart(&mut self) -> bool {
        self.0 = None;
        true
    }
}

fn lzma_step(stream: &mut Stream, input: &[u8], output: &mut [u8], action: Action) -> io::Result<Step> {
    let (taken, given) = (stream.total_in(), stream.total_out());
    let status = stream.process(input, output, action)?;
    let step = Step {
        taken: (stream.total_in() - taken) as usize,
        given: (stream.total_out() - given) as usize,
        ended: status == Status::StreamEnd,
    };
    match status {
        // It asks for more than there is.
        Status::MemNeeded => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(step),
    }
}

#[derive(Default)]
struct Zstd(Option<DCtx<'static>>);

impl Codec for Zstd {
    fn step(&mut self, input: &[u8], output: &mut [u8], _: bool) -> io::Result<Step> {
        let failed = |code| damaged(zstd_safe::get_error_name(code));
        let context = match &mut self.0 {
            Some(context) => context,
            none => {
                let context = none.insert(DCtx::try_create().ok_or(ErrorKind::OutOfMemory)?);
                context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).map_err(failed)?;
                context
            }
        };
        let (mut input, mut output) = (InBuffer::around(input), OutBuffer::around(output));
        let left = context.decompress_stream(&mut output, &mut input).map_err(failed)?;
        Ok(Step { taken: input.pos(), given: output.pos(), ended: left == 0 })
    }

    fn restart(&mut self) -> bool {
        // The context begins the next frame by itself.
        true
    }
}

#[derive(Default)]
struct Bzip2(Option<bzip2::Decompress>);

impl Codec for Bzip2 {
    fn step(&mut self, input: &[u8], output: &mut [u8], _: bool) -> io::Result<Step> {
        let stream = self.0.get_or_insert_with(|| bzip2::Decompress::new(false));
        let (taken, given) = (stream.total_in(), stream.total_out());
        let status = stream.decompress(input, output)?;
        Ok(Step {
            taken: (stream.total_in() - taken) as usize,
            given: (stream.total_out() - given) as usize,
            ended: status == bzip2::Status::StreamEnd,
        })
    }

    fn restart(&mut self) -> bool {
        self.0 = None;
        true
    }
}

/// Without the *large window* extension of brotli, whose windows may have a gigabyte.
struct Brotli {
    state: Box<BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>>,
    total: usize,
}

impl Default for Brotli {
    fn default() -> Self {
        let alloc = StandardAlloc::default;
        Self { state: Box::new(BrotliState::new_strict(alloc(), alloc(), alloc())), total: 0 }
    }
}

impl Codec for Brotli {
    fn step(&mut self, input: &[u8], output: &mut [u8], _: bool) -> io::Result<Step> {
        let (mut taken, mut given) = (0, 0);
        let (mut available_in, mut available_out) = (input.len(), output.len());
        let result = BrotliDecompressStream(
            &mut available_in,
            &mut taken,
            input,
            &mut available_out,
            &mut given,
            output,
            &mut self.total,
            &mut self.state,
        );
        match result {
            BrotliResult::ResultFailure => Err(damaged("not a brotli stream")),
            BrotliResult::ResultSuccess => Ok(Step { taken, given, ended: true }),
            BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {
                Ok(Step { taken, given, ended: false })
            }
        }
    }

    fn restart(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
