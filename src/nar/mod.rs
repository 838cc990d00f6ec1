//! NAR, the archive format of Nix and Guix, in which a store path has exactly one form and so one hash.
//!
//! [`wire`] is the grammar, read and written without any I/O of its own; [`dump()`] turns a directory on disk into a NAR;
//! [`listing`] is the compact tree of a NAR, also in Nix's `.ls` JSON; [`index`] makes that tree from NAR bytes, hopping over
//! the contents of files; [`seekable`] is the compressed NAR that can be read from the middle.

#[cfg(test)]
mod arbitrary;
pub mod dump;
pub mod index;
pub mod listing;
pub mod seekable;
pub mod wire;

pub use dump::{DumpError, dump};
pub use index::{Hashed, Hasher, Indexer};
pub use listing::{Builder, Kind, Listing, ListingError, NodeId};
pub use wire::ParseError;
