//! What happens when sources of blocks go wrong, each fault by the shaped origin.

#[path = "../support/origin/mod.rs"]
mod origin;
mod shape;
