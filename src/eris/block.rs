//! What happens to one block, and to many at once: hashing for references and keys, and the cipher.
//!
//! `H` of the specification is BLAKE2b with a digest of 32 bytes; leaf keys use it keyed with the convergence
//! secret. The cipher is the ChaCha20 of RFC 8439 from counter 0, under a key that is used for one block
//! only, with the level of the block in the nonce.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher};

use super::capability::{BlockSize, ConvergenceSecret, Key, Reference};
use super::encode::SealedBlock;
use super::lanes;

/// Bytes of a reference and its key, as they stand in a node.
pub(super) const PAIR: usize = 64;

/// The reference and the key of a pair.
pub(super) fn split_pair(pair: &[u8; PAIR]) -> (Reference, Key) {
    let (mut reference, mut key) = ([0; PAIR / 2], [0; PAIR / 2]);
    reference.copy_from_slice(&pair[..PAIR / 2]);
    key.copy_from_slice(&pair[PAIR / 2..]);
    (Reference::new(reference), Key::new(key))
}

/// The name of a block: BLAKE2b-256 of its bytes.
pub fn reference_of(block: &[u8]) -> Reference {
    Reference::new(lanes::hash(None, block))
}

/// The names of many blocks, in their order: several times faster than one by one, above all when the
/// blocks are of the same length. Works on the calling thread alone, because callers verify from many
/// threads already and must not wait behind long jobs of a shared pool.
pub fn references_of(blocks: &[&[u8]]) -> Vec<Reference> {
    lanes::hash_many(None, blocks).into_iter().map(Reference::new).collect()
}

/// The unkeyed hash of an internal node, its key in 1.0.0.
pub(super) fn node_key(node: &[u8]) -> Key {
    Key::new(lanes::hash(None, node))
}

/// Encrypts or decrypts a block in place.
pub(super) fn apply_cipher(key: &Key, nonce: [u8; 12], block: &mut [u8]) {
    ChaCha20::new(key.as_bytes().into(), &nonce.into()).apply_keystream(block);
}

/// Encrypts blocks of one level in place and returns the reference and key of each: the keys hashed all at
/// once, with the secret if one is given (leaves) and without (nodes), then the references.
pub(super) fn seal(
    blocks: &mut [Vec<u8>],
    secret: Option<&ConvergenceSecret>,
    level: u8,
) -> Vec<(Reference, Key)> {
    let keys = lanes::hash_many(secret.map(ConvergenceSecret::as_bytes), &slices(blocks));
    for (block, key) in blocks.iter_mut().zip(&keys) {
        apply_cipher(&Key::new(*key), nonce_of(level), block);
    }
    references_of(&slices(blocks)).into_iter().zip(keys.into_iter().map(Key::new)).collect()
}

fn nonce_of(level: u8) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[0] = level;
    nonce
}

fn slices(blocks: &[Vec<u8>]) -> Vec<&[u8]> {
    blocks.iter().map(Vec::as_slice).collect()
}

/// Encrypts leaves in place, each padded to its block size already, and returns their references.
pub fn seal_leaves(leaves: &mut [Vec<u8>], secret: &ConvergenceSecret) -> Vec<Reference> {
    seal(leaves, Some(secret), 0).into_iter().map(|(reference, _)| reference).collect()
}

/// What a sealed node holds: pairs of reference and key, without the zeros that fill the block.
pub fn pairs_of(node: &SealedBlock) -> Vec<u8> {
    let mut pairs = node.block.to_vec();
    apply_cipher(&node.key, nonce_of(node.level), &mut pairs);
    let used =
        pairs.chunks(PAIR).rposition(|pair| pair.iter().any(|&byte| byte != 0)).map_or(0, |last| last + 1);
    pairs.truncate(used * PAIR);
    pairs
}

/// A node made of its pairs again, with its reference. Pairs that do not fit in a block are cut off.
pub fn seal_node(pairs: Vec<u8>, level: u8, block_size: BlockSize) -> (Reference, Vec<u8>) {
    let mut node = [pairs];
    node[0].resize(block_size.bytes(), 0);
    let sealed = seal(&mut node, None, level);
    let [node] = node;
    (sealed[0].0, node)
}
