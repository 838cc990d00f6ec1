//! What every decoder must do, tested on all of them, and what each format has of its own.

use std::io::Write;

use super::*;

fn decode(compression: Compression, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut decoded = Vec::new();
    decoder(compression, bytes).read_to_end(&mut decoded)?;
    Ok(decoded)
}

fn sample(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/samples/nar/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Half of it compresses well, half does not.
fn content(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let noise = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*state >> 56) as u8
    };
    (0..length).map(|at| if at / 5000 % 2 == 0 { (at / 100) as u8 } else { noise(&mut state) }).collect()
}

fn crc32(bytes: &[u8]) -> u32 {
    let update = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(!0, update)
}

fn encode(compression: Compression, content: &[u8]) -> Vec<u8> {
    fn all(mut writer: impl Write, content: &[u8]) {
        writer.write_all(content).unwrap();
        writer.flush().unwrap();
    }
    let mut out = Vec::new();
    match compression {
        Compression::None => out = content.to_vec(),
        Compression::Gzip => {
            all(flate2::write::GzEncoder::new(&mut out, flate2::Compression::default()), content)
        }
        Compression::Xz => all(liblzma::write::XzEncoder::new(&mut out, 1), content),
        Compression::Lzip => out = lzip(content),
        Compression::Zstd => out = zstd::encode_all(content, 3).unwrap(),
        Compression::Bzip2 => {
            all(bzip2::write::BzEncoder::new(&mut out, bzip2::Compression::fast()), content)
        }
        Compression::Brotli => all(brotli::CompressorWriter::new(&mut out, 4096, 5, 22), content),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(&mut out);
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap();
        }
    }
    out
}

/// A member of lzip, made of what liblzma writes as `.lzma`.
fn lzip(content: &[u8]) -> Vec<u8> {
    let options = liblzma::stream::LzmaOptions::new_preset(6).unwrap();
    let stream = Stream::new_lzma_encoder(&options).unwrap();
    let mut lzma = Vec::new();
    let mut encoder = liblzma::write::XzEncoder::new_stream(&mut lzma, stream);
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap();
    let mut member = b"LZIP\x01\x17".to_vec();
    member.extend_from_slice(&lzma[13..]);
    member.extend_from_slice(&crc32(content).to_le_bytes());
    member.extend_from_slice(&(content.len() as u64).to_le_bytes());
    let length = member.len() as u64 + 8;
    member.extend_from_slice(&length.to_le_bytes());
    member
}

fn compressed() -> impl Iterator<Item = Compression> {
    Compression::ALL.into_iter().filter(|compression| *compression != Compression::None)
}

/// Those in which another stream may follow.
fn concatenable() -> impl Iterator<Item = Compression> {
    compressed().filter(|compression| *compression != Compression::Brotli)
}

#[test]
fn what_guix_and_the_usual_programs_wrote_is_read() {
    let nar = sample("guix-hello-offline-1.0.nar");
    for (compression, suffix) in [
        (Compression::Gzip, "gzip"),
        (Compression::Lzip, "lzip"),
        (Compression::Zstd, "zstd"),
        (Compression::Xz, "xz"),
        (Compression::Bzip2, "bz2"),
    ] {
        let packed = sample(&format!("guix-hello-offline-1.0.nar.{suffix}"));
        assert_eq!(decode(compression, &packed).unwrap(), nar, "{compression}");
    }
    let lib = sample("hello-offline-lib.nar.zst");
    assert!(decode(Compression::Zstd, &lib).unwrap() == zstd::decode_all(&lib[..]).unwrap());
}

#[test]
fn what_was_compressed_comes_back() {
    for compression in Compression::ALL {
        for length in [0, 1, 1000, 300_000] {
            let content = content(length);
            let packed = encode(compression, &content);
            assert!(decode(compression, &packed).unwrap() == content, "{compression} {length}");
        }
    }
}

#[test]
fn input_and_output_may_come_in_pieces_of_any_size() {
    /// Gives a byte at a time, and is interrupted before each.
    struct Drops<'a>(&'a [u8], bool);

    impl Read for Drops<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(ErrorKind::Interrupted.into());
            }
            let length = buffer.len().min(1);
            self.0.read(&mut buffer[..length])
        }
    }

    let content = content(30_000);
    for compression in concatenable() {
        let packed = [encode(compression, &content), encode(compression, b"end")].concat();
        let mut decoder = decoder(compression, Drops(&packed, false));
        let (mut decoded, mut piece) = (Vec::new(), [0; 7]);
        loop {
            match decoder.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => decoded.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{compression}: {error}"),
            }
        }
        assert!(decoded == [&content[..], b"end"].concat(), "{compression}");
    }
}

#[test]
fn streams_one_after_another_are_one() {
    let (one, other) = (content(100_000), content(7));
    for compression in concatenable() {
        let packed = [&one[..], b"", &other, b""].map(|part| encode(compression, part)).concat();
        assert!(decode(compression, &packed).unwrap() == [&one[..], &other].concat(), "{compression}");
    }
}

#[test]
fn wherever_it_is_cut_off_it_is_an_error() {
    let content = content(3000);
    for compression in compressed() {
        let packed = encode(compression, &content);
        for length in 0..packed.len() {
            let error = decode(compression, &packed[..length]).expect_err(compression.name());
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{compression} {length}: {error}");
        }
    }
}

#[test]
fn a_second_stream_that_is_cut_off_is_an_error() {
    for compression in concatenable() {
        let first = encode(compression, &content(3000));
        let packed = [&first[..], &encode(compression, b"second")].concat();
        for length in first.len() + 1..packed.len() {
            assert!(decode(compression, &packed[..length]).is_err(), "{compression} {length}");
        }
    }
}

#[test]
fn what_follows_the_end_is_an_error() {
    for compression in compressed() {
        let packed = encode(compression, &content(3000));
        // The last are parts of how a stream of the kind begins.
        for garbage in [&b"\0"[..], b"x", b"garbage that is no stream", &packed[..1], &packed[..3]] {
            let found = decode(compression, &[&packed[..], garbage].concat());
            assert!(found.is_err(), "{compression} {garbage:?}");
        }
    }
}

#[test]
fn damage_is_found_or_harmless() {
    let content = content(20_000);
    for compression in compressed() {
        let packed = encode(compression, &content);
        for at in 0..packed.len().min(400) {
            let mut spoiled = packed.clone();
            spoiled[at] ^= 1 << (at % 8);
            // Some bits mean nothing (the time in a header of gzip); none may be fatal.
            if let Ok(found) = decode(compression, &spoiled) {
                assert!(found.len() <= content.len() + 65_536, "{compression} {at}");
            }
        }
        assert!(decode(compression, b"this is not compressed at all").is_err(), "{compression}");
    }
}

#[test]
fn skippable_frames_of_zstd_hold_nothing() {
    let frame = encode(Compression::Zstd, b"content");
    let skippable = b"\x5e\x2a\x4d\x18\x05\0\0\0skip!";
    let packed = [&skippable[..], &frame, skippable, &frame, skippable].concat();
    assert_eq!(decode(Compression::Zstd, &packed).unwrap(), b"contentcontent");
    assert!(decode(Compression::Zstd, &packed[..packed.len() - 1]).is_err());
}

#[test]
fn padding_between_streams_of_xz_is_allowed_in_fours() {
    let stream = encode(Compression::Xz, b"content");
    let padded = |zeros: usize| [&stream[..], &vec![0; zeros], &stream].concat();
    assert_eq!(decode(Compression::Xz, &padded(8)).unwrap(), b"contentcontent");
    assert!(decode(Compression::Xz, &padded(3)).is_err());
}

#[test]
fn a_header_that_asks_for_too_much_memory_is_refused() {
    // 512 MiB, the largest dictionary of lzip.
    let mut lzip = encode(Compression::Lzip, b"content");
    lzip[5] = 29;
    // 4 GiB, the largest of xz; the header of the block has a checksum.
    let mut xz = encode(Compression::Xz, b"content");
    let header = 12..12 + (usize::from(xz[12]) + 1) * 4;
    let dictionary = header.start + 4;
    assert_eq!(xz[dictionary - 2..dictionary], [0x21, 1], "the filter is LZMA2");
    xz[dictionary] = 40;
    let sum = crc32(&xz[header.start..header.end - 4]);
    xz[header.end - 4..header.end].copy_from_slice(&sum.to_le_bytes());
    // A window of 2 GiB, in a frame that is otherwise sound.
    let zstd = b"\x28\xb5\x2f\xfd\x00\xa8\x01\0\0".to_vec();
    // The extension for large windows, with one of 1 GiB.
    let brotli = vec![0x11, 30, 3];
    for (compression, packed) in [
        (Compression::Lzip, lzip),
        (Compression::Xz, xz),
        (Compression::Zstd, zstd),
        (Compression::Brotli, brotli),
    ] {
        let error = decode(compression, &packed).expect_err(compression.name());
        assert_ne!(error.kind(), ErrorKind::UnexpectedEof, "{compression}: {error}");
    }
    let small = b"\x28\xb5\x2f\xfd\x00\x88\x01\0\0";
    assert_eq!(decode(Compression::Zstd, small).unwrap(), b"", "128 MiB are allowed");
}

#[test]
fn an_error_of_the_input_is_passed_on() {
    struct Broken<'a>(&'a [u8]);

    impl Read for Broken<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("the line is dead")),
                length => Ok(length),
            }
        }
    }

    for compression in Compression::ALL {
        let packed = encode(compression, &content(3000));
        let mut decoder = decoder(compression, Broken(&packed[..packed.len() / 2]));
        let error = decoder.read_to_end(&mut Vec::new()).expect_err(compression.name());
        assert!(error.to_string().contains("the line is dead"), "{compression}: {error}");
    }
}
