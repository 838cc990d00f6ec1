//! Whole streams of every compression, in pieces: no panic, and no more memory than the windows that are allowed. What comes out does not
//! depend on the pieces.

#![no_main]

use std::io::Read;

use erisfs::compress::{Compression, decoder};
use erisfs_fuzz::Input;
use libfuzzer_sys::fuzz_target;

/// Bytes that are decoded at most: a bomb has no end.
const MOST: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let mut input = Input(input);
    let compression = Compression::ALL[usize::from(input.byte()) % Compression::ALL.len()];
    let step = usize::from(input.byte()).max(1);
    let whole = decode(compression, input.0, usize::MAX);
    assert!(
        decode(compression, input.0, step) == whole,
        "{compression}: pieces of {step} bytes make a difference"
    );
});

/// All that is in it; none if it is damaged or goes on beyond the bound.
fn decode(compression: Compression, file: &[u8], step: usize) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    decoder(compression, Pieces { file, step }).take(MOST).read_to_end(&mut decoded).ok()?;
    (decoded.len() < MOST as usize).then_some(decoded)
}

struct Pieces<'a> {
    file: &'a [u8],
    step: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(self.step);
        self.file.read(&mut buffer[..length])
    }
}
