//! Mount a Guix or Nix store that is not on this disk, block by verified block.

pub mod block;
pub mod eris;
