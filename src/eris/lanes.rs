//! BLAKE2b-256 of many messages at once, one message in each lane of the vector registers.
//!
//! BLAKE2b works on 64-bit words without looking across messages, so eight messages fit the lanes of AVX-512
//! registers, four those of AVX2 (there by the crate `blake2b_simd`); which of them the CPU has is detected at
//! run time. One message alone is fastest without vectors, by the crate `blake2`. Figures:
//! docs/decisions/0003-codec.md.

use blake2::digest::consts::U32;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2b256, Blake2bMac, Digest};
use blake2b_simd::Params;
use blake2b_simd::many::HashManyJob;

/// Bytes of a digest and of a key.
const WIDTH: usize = 32;

/// BLAKE2b-256 of one message, keyed if a key is given.
pub(super) fn hash(key: Option<&[u8; WIDTH]>, message: &[u8]) -> [u8; WIDTH] {
    match key {
        None => Blake2b256::digest(message).into(),
        Some(key) => Blake2bMac::<U32>::new_from_slice(key)
            .expect("BLAKE2b takes keys of up to 64 bytes")
            .chain_update(message)
            .finalize()
            .into_bytes()
            .into(),
    }
}

/// BLAKE2b-256 of each message, all keyed with the same key if one is given.
pub(super) fn hash_many(key: Option<&[u8; WIDTH]>, messages: &[&[u8]]) -> Vec<[u8; WIDTH]> {
    if let [message] = messages {
        return vec![hash(key, message)];
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        return hash_by_eights(key, messages);
    }
    hash_by_fours(key, messages)
}

/// As [`hash_many`], in the lanes of AVX2 or of what the CPU has instead.
fn hash_by_fours(key: Option<&[u8; WIDTH]>, messages: &[&[u8]]) -> Vec<[u8; WIDTH]> {
    let mut parameters = Params::new();
    parameters.hash_length(WIDTH);
    if let Some(key) = key {
        parameters.key(key);
    }
    let mut jobs: Vec<_> = messages.iter().map(|message| HashManyJob::new(&parameters, message)).collect();
    blake2b_simd::many::hash_many(&mut jobs);
    jobs.iter()
        .map(|job| job.to_hash().as_bytes().try_into().expect("a digest of 32 bytes was asked for"))
        .collect()
}

/// As [`hash_many`], eight messages of equal length at a time. The CPU must have AVX-512F.
#[cfg(target_arch = "x86_64")]
fn hash_by_eights(key: Option<&[u8; WIDTH]>, messages: &[&[u8]]) -> Vec<[u8; WIDTH]> {
    let mut digests = vec![[0; WIDTH]; messages.len()];
    let mut order: Vec<usize> = (0..messages.len()).collect();
    order.sort_by_key(|&i| messages[i].len()); // stable, and quick where they are equal already
    for same_length in order.chunk_by(|&a, &b| messages[a].len() == messages[b].len()) {
        for group in same_length.chunks(avx512::LANES) {
            if let [single] = *group {
                digests[single] = hash(key, messages[single]);
                continue;
            }
            // Lanes left over repeat the first message: two lanes in use already beat one by one.
            let lanes = std::array::from_fn(|lane| messages[*group.get(lane).unwrap_or(&group[0])]);
            // SAFETY: the caller has found AVX-512F on this CPU.
            #[allow(unsafe_code)]
            let hashed = unsafe { avx512::hash(key, lanes) };
            for (&i, digest) in group.iter().zip(hashed) {
                digests[i] = digest;
            }
        }
    }
    digests
}

/// BLAKE2b (RFC 7693) of eight messages: register `i` holds word `i` of all of them.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod avx512 {
    use std::arch::x86_64::*;

    use super::WIDTH;

    /// Messages hashed together.
    pub(super) const LANES: usize = 8;
    /// Bytes that one compression takes in.
    const BLOCK: usize = 128;

    const IV: [u64; 8] = [
        0x6a09_e667_f3bc_c908,
        0xbb67_ae85_84ca_a73b,
        0x3c6e_f372_fe94_f82b,
        0xa54f_f53a_5f1d_36f1,
        0x510e_527f_ade6_82d1,
        0x9b05_688c_2b3e_6c1f,
        0x1f83_d9ab_fb41_bd6b,
        0x5be0_cd19_137e_2179,
    ];

    /// Digests of eight messages, which must have the same length.
    #[target_feature(enable = "avx512f")]
    pub(super) fn hash(key: Option<&[u8; WIDTH]>, messages: [&[u8]; LANES]) -> [[u8; WIDTH]; LANES] {
        let length = messages[0].len();
        assert!(messages.iter().all(|message| message.len() == length), "lanes of one length");

        let mut state = IV.map(|word| _mm512_set1_epi64(word.cast_signed()));
        // Parameter block: digest length, key length, fan-out 1, depth 1.
        let key_length = if key.is_some() { WIDTH } else { 0 };
        let parameters = (WIDTH | key_length << 8 | 0x0101_0000) as i64;
        state[0] = _mm512_xor_si512(state[0], _mm512_set1_epi64(parameters));

        let mut counted = 0;
        if let Some(key) = key {
            let mut block = [0; BLOCK];
            block[..WIDTH].copy_from_slice(key);
            counted = BLOCK;
            compress(&mut state, [&block; LANES], counted, length == 0);
        }
        let rest = length % BLOCK;
        // Spelt out: closures that use AVX-512 are not inlined into `map`, which does not.
        let [a, b, c, d, e, f, g, h] = messages.map(|message| message.as_chunks().0);
        for i in 0..length / BLOCK {
            let blocks = [&a[i], &b[i], &c[i], &d[i], &e[i], &f[i], &g[i], &h[i]];
            counted += BLOCK;
            compress(&mut state, blocks, counted, rest == 0 && i + 1 == a.len());
        }
        if rest > 0 || counted == 0 {
            let blocks = messages.map(|message| {
                let mut block = [0; BLOCK];
                block[..rest].copy_from_slice(&message[length - rest..]);
                block
            });
            counted += rest;
            compress(&mut state, blocks.each_ref(), counted, true);
        }

        let words = transpose(state);
        words.map(|lane| {
            let mut bytes = [0; 2 * WIDTH];
            // SAFETY: `bytes` has the 64 bytes that are stored, and the store needs no alignment.
            unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), lane) };
            *bytes.first_chunk().expect("64 bytes begin with 32")
        })
    }

    /// The compression function F (RFC 7693, 3.2) in all lanes. `counted` includes this block.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn compress(state: &mut [__m512i; 8], blocks: [&[u8; BLOCK]; LANES], counted: usize, last: bool) {
        let half = |offset: usize| {
            blocks.map(|block| {
                // SAFETY: `offset` is 0 or 64, so 64 bytes of the 128 are there; no alignment needed.
                unsafe { _mm512_loadu_si512(block.as_ptr().add(offset).cast()) }
            })
        };
        let (low, high) = (transpose(half(0)), transpose(half(BLOCK / 2)));
        let m: [__m512i; 16] = std::array::from_fn(|i| if i < 8 { low[i] } else { high[i - 8] });

        let iv = IV.map(|word| _mm512_set1_epi64(word.cast_signed()));
        let mut v: [__m512i; 16] = std::array::from_fn(|i| if i < 8 { state[i] } else { iv[i - 8] });
        v[12] = _mm512_xor_si512(v[12], _mm512_set1_epi64(counted as i64));
        if last {
            v[14] = _mm512_xor_si512(v[14], _mm512_set1_epi64(-1));
        }

        // The mixing function G, of two message words.
        macro_rules! mix {
            ($a:literal, $b:literal, $c:literal, $d:literal, $x:expr, $y:expr) => {
                v[$a] = _mm512_add_epi64(_mm512_add_epi64(v[$a], $x), v[$b]);
                v[$d] = _mm512_ror_epi64::<32>(_mm512_xor_si512(v[$d], v[$a]));
                v[$c] = _mm512_add_epi64(v[$c], v[$d]);
                v[$b] = _mm512_ror_epi64::<24>(_mm512_xor_si512(v[$b], v[$c]));
                v[$a] = _mm512_add_epi64(_mm512_add_epi64(v[$a], $y), v[$b]);
                v[$d] = _mm512_ror_epi64::<16>(_mm512_xor_si512(v[$d], v[$a]));
                v[$c] = _mm512_add_epi64(v[$c], v[$d]);
                v[$b] = _mm512_ror_epi64::<63>(_mm512_xor_si512(v[$b], v[$c]));
            };
        }
        // One round, with its message schedule.
        macro_rules! round {
            ($($s:literal)*) => {{
                let s = [$($s),*];
                mix!(0, 4, 8, 12, m[s[0]], m[s[1]]);
                mix!(1, 5, 9, 13, m[s[2]], m[s[3]]);
                mix!(2, 6, 10, 14, m[s[4]], m[s[5]]);
                mix!(3, 7, 11, 15, m[s[6]], m[s[7]]);
                mix!(0, 5, 10, 15, m[s[8]], m[s[9]]);
                mix!(1, 6, 11, 12, m[s[10]], m[s[11]]);
                mix!(2, 7, 8, 13, m[s[12]], m[s[13]]);
                mix!(3, 4, 9, 14, m[s[14]], m[s[15]]);
            }};
        }
        round!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        round!(14 10 4 8 9 15 13 6 1 12 0 2 11 7 5 3);
        round!(11 8 12 0 5 2 15 13 10 14 3 6 7 1 9 4);
        round!(7 9 3 1 13 12 11 14 2 6 5 10 4 0 15 8);
        round!(9 0 5 7 2 4 10 15 14 1 11 12 6 8 3 13);
        round!(2 12 6 10 0 11 8 3 4 13 7 5 15 14 1 9);
        round!(12 5 1 15 14 13 4 10 0 7 6 3 9 2 8 11);
        round!(13 11 7 14 12 1 3 9 5 0 15 4 8 6 2 10);
        round!(6 15 14 9 11 3 0 8 12 2 13 7 1 4 10 5);
        round!(10 2 8 4 7 6 1 5 15 11 9 14 3 12 13 0);
        round!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        round!(14 10 4 8 9 15 13 6 1 12 0 2 11 7 5 3);

        for i in 0..8 {
            state[i] = _mm512_xor_si512(state[i], _mm512_xor_si512(v[i], v[i + 8]));
        }
    }

    /// Turns eight words of each of eight messages into each of eight words of all messages.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn transpose(r: [__m512i; 8]) -> [__m512i; 8] {
        // Pairs of words, then pairs of pairs: even words come from `low`, odd ones from `high`.
        let low = [0, 2, 4, 6].map(|i| _mm512_unpacklo_epi64(r[i], r[i + 1]));
        let high = [0, 2, 4, 6].map(|i| _mm512_unpackhi_epi64(r[i], r[i + 1]));
        let [[w0, w2, w4, w6], [w1, w3, w5, w7]] = [low, high].map(|[a, b, c, d]| {
            let (ab04, ab26) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
            let (cd04, cd26) = (_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xdd>(c, d));
            [
                _mm512_shuffle_i64x2::<0x88>(ab04, cd04),
                _mm512_shuffle_i64x2::<0x88>(ab26, cd26),
                _mm512_shuffle_i64x2::<0xdd>(ab04, cd04),
                _mm512_shuffle_i64x2::<0xdd>(ab26, cd26),
            ]
        });
        [w0, w1, w2, w3, w4, w5, w6, w7]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that differ from message to message and from word to word.
    fn message(seed: usize, length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 + i / 8 * 7 + seed * 101) as u8).collect()
    }

    fn assert_all_agree(key: Option<&[u8; WIDTH]>, messages: &[Vec<u8>]) {
        let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
        let expected: Vec<_> = messages.iter().map(|message| hash(key, message)).collect();
        assert_eq!(hash_many(key, &messages), expected, "lanes of this CPU");
        assert_eq!(hash_by_fours(key, &messages), expected, "lanes of blake2b_simd");
    }

    #[test]
    fn every_length_around_a_block_boundary_and_every_group_size_agrees_with_the_crate() {
        for key in [None, Some([7; WIDTH]), Some([0; WIDTH])] {
            for length in (0..=260).chain([1023, 1024, 1025, 4096, 32767, 32768]) {
                let messages: Vec<_> = (0..9).map(|seed| message(seed, length)).collect();
                assert_all_agree(key.as_ref(), &messages);
            }
            for group in 0..=25 {
                let messages: Vec<_> = (0..group).map(|seed| message(seed, 1024)).collect();
                assert_all_agree(key.as_ref(), &messages);
            }
        }
    }

    proptest! {
        #[test]
        fn messages_of_mixed_lengths_come_out_in_their_order(
            key in proptest::option::of(any::<[u8; WIDTH]>()),
            messages in proptest::collection::vec(
                (any::<usize>(), prop_oneof![Just(1024), 0..500_usize]), 0..40),
        ) {
            let messages: Vec<_> =
                messages.into_iter().map(|(seed, length)| message(seed % 256, length)).collect();
            assert_all_agree(key.as_ref(), &messages);
        }
    }

    #[test]
    fn the_digest_is_that_of_rfc_7693_with_32_bytes() {
        // BLAKE2b-256 of "abc", as printed by b2sum -l 256.
        let expected = "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319";
        let digests = hash_many(None, &[b"abc".as_slice(); 8]);
        for digest in digests {
            assert_eq!(data_encoding::HEXLOWER.encode(&digest), expected);
        }
    }
}
