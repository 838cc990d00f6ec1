//! Why a NAR could not be downloaded, or not yet.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Progress, SourceError};
use crate::compress::Compression;
use crate::content;
use crate::nar::ListingError;
use crate::store::NarHash;

/// Why there is no NAR, or no bytes of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The deadline passed. A download goes on.
    #[error("{name}: {progress} came before the deadline")]
    Overdue {
        /// The NAR.
        name: String,
        /// How far it is.
        progress: Progress,
    },
    /// No source gave the NAR.
    #[error("{name} cannot be downloaded: {}", Each(failures))]
    Failed {
        /// The NAR.
        name: String,
        /// What went wrong with each source, in the order of asking; empty if there was no source.
        failures: Arc<[Failure]>,
    },
    /// It would take too much of the disk cache.
    #[error(
        "{name}: its NAR has {nar_size} bytes, and the disk cache takes one of {limit} bytes now: {advice}"
    )]
    TooLarge {
        /// The NAR.
        name: String,
        /// Its size in bytes.
        nar_size: u64,
        /// The largest that is taken.
        limit: u64,
        /// What the user can do about it.
        advice: &'static str,
    },
    /// The disk cache did not keep it.
    #[error("{name}: the disk cache cannot keep it: {reason}")]
    NotKept {
        /// The NAR.
        name: String,
        /// Why.
        reason: String,
    },
    /// Blocks that had arrived are gone from the disk cache; the NAR must be downloaded again.
    #[error("{name}: {source}")]
    Evicted {
        /// The NAR.
        name: String,
        /// What is missing.
        source: Box<content::Error>,
    },
    /// One source began with other bytes than the next one, and readers had some of them.
    #[error("{name}: its sources disagree, and what was read may be wrong")]
    Contradicted {
        /// The NAR.
        name: String,
    },
    /// Bytes were asked for that the NAR does not have, or too many at once.
    #[error("{name}: bytes {start}..{end} cannot be had at once of a NAR of {nar_size}")]
    OutOfRange {
        /// The NAR.
        name: String,
        /// The first byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// Its size in bytes.
        nar_size: u64,
    },
    /// Nobody wanted it any more.
    #[error("{name}: the download was given up, since nobody waited for it")]
    Unwanted {
        /// The NAR.
        name: String,
    },
    /// Too many downloads wait for their turn.
    #[error("{name}: {waiting} downloads wait already")]
    Busy {
        /// The NAR.
        name: String,
        /// How many wait.
        waiting: usize,
    },
}

/// What went wrong with one source.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The name of the source.
    pub source: String,
    /// What went wrong.
    pub reason: Reason,
}

/// Why a source is not asked any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Reason {
    /// It failed for good, or too often.
    #[error("{source}{}", After(*received, *attempts))]
    Broken {
        /// How often it was asked.
        attempts: u32,
        /// Bytes that it gave.
        received: u64,
        /// The last failure.
        source: SourceError,
    },
    /// It went silent again and again.
    #[error("nothing came for {after:?}{}", After(*received, *attempts))]
    Stalled {
        /// How often it was asked.
        attempts: u32,
        /// Bytes that it gave.
        received: u64,
        /// How long it was silent the last time.
        after: Duration,
    },
    /// It gave more than this NAR can have, compressed as it may be.
    #[error("it goes on after {limit} bytes")]
    Endless {
        /// The most that is taken.
        limit: u64,
    },
    /// It was not asked, because it gave something else for this NAR before.
    #[error("it gave another NAR before")]
    Distrusted,
    /// It cannot be decompressed.
    #[error("it is not sound as {compression}: {source}")]
    Decode {
        /// How it should be compressed.
        compression: Compression,
        /// What the decoder says.
        source: Arc<io::Error>,
    },
    /// It is no NAR.
    #[error("{0}")]
    Nar(Arc<ListingError>),
    /// It is larger than announced.
    #[error("the NAR goes on after the {expected} bytes that it should have")]
    TooLong {
        /// The announced size.
        expected: u64,
    },
    /// It is smaller than announced.
    #[error("the NAR has {found} bytes, and should have {expected}")]
    TooShort {
        /// The announced size.
        expected: u64,
        /// Its size.
        found: u64,
    },
    /// It is another NAR.
    #[error("the NAR has the hash {found}, and should have {expected}")]
    WrongHash {
        /// The announced hash.
        expected: NarHash,
        /// Its hash.
        found: NarHash,
    },
}

impl Error {
    /// Whether each source that there is gave something else than the NAR.
    pub fn is_lie(&self) -> bool {
        matches!(self, Self::Failed { failures, .. }
            if !failures.is_empty() && failures.iter().all(|failure| failure.reason.is_lie()))
    }

    /// Whether it may be had at another time, as far as is known now.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Failed { failures, .. } => failures.iter().any(|failure| failure.reason.may_pass()),
            _ => true,
        }
    }
}

impl Reason {
    /// Whether the source gave something else than the NAR, and so is not asked for it again.
    pub fn is_lie(&self) -> bool {
        !matches!(self, Self::Broken { .. } | Self::Stalled { .. } | Self::Distrusted)
    }

    /// Whether the source may do better when it is given more time.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Broken { source, .. } => source.is_transient,
            Self::Stalled { .. } => true,
            _ => false,
        }
    }

    /// Whether it is what a file that was cut off looks like.
    pub(super) fn is_short(&self) -> bool {
        match self {
            Self::TooShort { .. } => true,
            Self::Decode { source, .. } => source.kind() == io::ErrorKind::UnexpectedEof,
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.reason)
    }
}

/// `412 of 587 MB`.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.nar_size {
            size if size >= 10_000_000 => (1_000_000, "MB"),
            size if size >= 10_000 => (1000, "kB"),
            _ => (1, "bytes"),
        };
        write!(f, "{} of {} {name}", self.arrived / unit, self.nar_size.div_ceil(unit))
    }
}

/// Bytes and attempts, where there is something to tell.
struct After(u64, u32);

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(0, 1) => Ok(()),
            Self(bytes, attempts) => write!(f, " ({attempts} attempts, {bytes} bytes)"),
        }
    }
}

/// Failures in a row.
struct Each<'a>(&'a [Failure]);

impl fmt::Display for Each<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no source has it");
        }
        for (index, failure) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{failure}")?;
        }
        Ok(())
    }
}
