//! ERIS, the Encoding for Robust Immutable Storage: content to encrypted blocks of equal size, and back.
//!
//! The codec is pure: [`Encoder`] is pushed bytes and returns the blocks that became ready; the decoding side
//! says which blocks cover a range of the content and opens the ones it is given. It implements spec 1.0.0
//! and, decode only, the experimental generations that URNs in the wild carry. Blocks are hashed and
//! encrypted several at once, which is where the speed comes from (docs/decisions/0003-codec.md).

mod block;
mod capability;
mod decode;
mod encode;
mod lanes;

pub use block::{pairs_of, reference_of, references_of, seal_leaves, seal_node};
pub use capability::{BlockSize, ConvergenceSecret, Generation, Key, ParseError, ReadCapability, Reference};
pub use decode::{DecodeError, Layout, Node, Opened, Position, decode, open_root};
pub use encode::{Encoder, SealedBlock};
