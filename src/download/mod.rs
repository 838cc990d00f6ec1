//! Whole NARs that come as a stream, checked against their NarHash and kept so that they can be read at random.
//!
//! As a NAR streams it is decompressed, hashed, parsed and sealed into ERIS blocks, which go into the disk cache: so
//! random access, quota, verification and sharing with other processes are those of every other content. [`Downloads`]
//! sees that each NAR is downloaded once however many want it; [`Verified`] remembers which contents hold which NAR.

mod downloads;
mod error;
mod pipeline;
mod pump;
mod running;
mod scratch;
mod source;
mod turns;
mod verified;

use std::sync::Arc;

pub use downloads::Downloads;
pub use error::{Error, Failure, Reason};
pub use running::Download;
pub use scratch::Scratch;
pub use source::{FromContent, FromServer, NarSource, NarStream, SourceError};
pub use verified::{Known, Verified};

use crate::eris::ReadCapability;
use crate::nar::Listing;
use crate::store::NarHash;

/// A NAR that somebody wants to have here.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// How messages name it: `HASH-NAME`.
    pub name: String,
    /// SHA-256 that it must have.
    pub nar_hash: NarHash,
    /// Size that it must have, in bytes.
    pub nar_size: u64,
    /// Where it can be had, best first. Empty: only what is here already will do.
    pub sources: Vec<Arc<dyn NarSource>>,
}

/// A NAR that is here: a plain NAR as ERIS content, in the disk cache. Its hash is right.
#[derive(Debug, Clone)]
pub struct Archive {
    /// By which it can be read, over [`Downloads::fetch`]: with the null convergence secret, so anybody else who encodes
    /// this NAR comes to the same one.
    pub capability: ReadCapability,
    /// Its tree, taken from the NAR itself.
    pub listing: Arc<Listing>,
    /// Its size in bytes.
    pub nar_size: u64,
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the NAR that arrived, decompressed.
    pub arrived: u64,
    /// Size of the NAR.
    pub nar_size: u64,
    /// Bytes that came from sources, as they came.
    pub received: u64,
    /// The source that is asked now; none before the first, and at the end.
    pub source: Option<String>,
}
