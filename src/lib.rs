//! Mount a Guix or Nix store that is not on this disk.

pub mod publish;
pub mod store;
