//! BLAKE2b-256 of many messages at once.

use blake2::digest::consts::U32;
use blake2::digest::{KeyInit, Mac};
use blake2::{Blake2b256, Blake2bMac, Digest};

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
    messages.iter().map(|message| hash(key, message)).collect()
}
