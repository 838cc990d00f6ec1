//! What can go wrong between asking for a block and having it.
//!
//! One enum for every carrier and every decorator. It is `Clone`, because one failed request may answer many askers
//! (single flight), and its variants tell apart what a caller acts on: absent, wrong, not now, too late, not allowed.

use std::{fmt, sync::Arc, time::Duration};

use crate::eris::{BlockSize, Reference};

/// An underlying error, shared so that [`Error`] can be cloned.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why a block store did not do what it was asked.
///
/// `store` is the name of the store that failed ([`BlockStore::name`](super::BlockStore::name)): its URL without secrets.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store answered, and it does not hold the block.
    #[error("block {reference} is not in {store}")]
    NotFound {
        /// The block asked for.
        reference: Reference,
        /// The store that lacks it.
        store: Arc<str>,
    },

    /// The store answered with bytes that are not the block.
    #[error("{store} answered for block {reference} with {found}")]
    Corrupt {
        /// The block asked for.
        reference: Reference,
        /// The store that gave something else.
        store: Arc<str>,
        /// What came instead.
        found: Found,
    },

    /// The store could not answer now; the same request may succeed later.
    #[error("{store} is unavailable{}: {}", Wanted(reference), Chain(source.as_ref()))]
    Unavailable {
        /// The block asked for, if it was about one.
        reference: Option<Reference>,
        /// The store that could not answer.
        store: Arc<str>,
        /// After how long the store asked to be tried again, if it said so.
        retry_after: Option<Duration>,
        /// What was in the way.
        source: Source,
    },

    /// The store did not answer within the time its carrier allows.
    #[error("{store} gave no answer for block {reference} within {after:?}")]
    TimedOut {
        /// The block asked for.
        reference: Reference,
        /// The silent store.
        store: Arc<str>,
        /// How long was waited.
        after: Duration,
    },

    /// The store itself is well and has not found the block, but a part of it that may hold it cannot be asked now.
    #[error("block {reference} is not in what can be reached of {store}: {}", Chain(source.as_ref()))]
    Partial {
        /// The block asked for.
        reference: Reference,
        /// The store of which a part cannot be asked.
        store: Arc<str>,
        /// Why it cannot.
        source: Source,
    },

    /// The store will not do it, now or later.
    #[error("{store} refused: {reason}")]
    Refused {
        /// The store that refused.
        store: Arc<str>,
        /// Why.
        reason: Refusal,
    },

    /// Every one of several stores failed, and not all of them by lacking the block.
    #[error("no store could do it for block {reference}: {}", Each(failures))]
    AllFailed {
        /// The block that was to be had or put.
        reference: Reference,
        /// One error for each store that was asked, in the order of asking; never empty.
        failures: Arc<[Error]>,
    },

    /// The text does not name a block store.
    #[error("{url:?} does not name a block store: {reason}")]
    BadUrl {
        /// The text as given, its secret left out.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a store gave, or was given, in place of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// So many bytes, which is no block size.
    Length(u64),
    /// More bytes than the largest block has; how many more was not read.
    TooLong,
    /// A block whose reference is this one.
    Block(Reference),
    /// Something that has no bytes, such as a directory.
    NoFile,
}

/// Why a store will not do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It takes no blocks.
    ReadOnly,
    /// It lets only others do this; the system's or server's words.
    Denied(String),
    /// The bytes to be put are not the block that they were said to be.
    NotTheBlock {
        /// The reference they were put under.
        reference: Reference,
        /// What they are.
        found: Found,
    },
    /// Something has to be done first; this says what.
    Unprepared(String),
    /// What is there is not a block store of this kind.
    Foreign(String),
    /// An HTTP answer that says neither yes nor no.
    Status(u16),
    /// One redirect led to the next for too long.
    Redirects,
}

impl Error {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Partial { .. } => true,
            Self::AllFailed { failures, .. } => failures.iter().any(Self::is_transient),
            _ => false,
        }
    }

    /// The failure that explains the most: of several stores' failures, wrong bytes before silence before absence.
    pub fn most_telling(&self) -> &Self {
        match self {
            Self::AllFailed { failures, .. } => {
                failures.iter().map(Self::most_telling).max_by_key(|e| e.weight()).unwrap_or(self)
            }
            other => other,
        }
    }

    fn weight(&self) -> u8 {
        match self {
            Self::Corrupt { .. } => 4,
            Self::TimedOut { .. } => 3,
            Self::Unavailable { .. } | Self::Partial { .. } => 2,
            Self::Refused { .. } => 1,
            Self::NotFound { .. } | Self::BadUrl { .. } | Self::AllFailed { .. } => 0,
        }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(f, "{length} bytes, which is no block size"),
            Self::TooLong => write!(f, "more than {} bytes", BlockSize::Large.bytes()),
            Self::Block(reference) => write!(f, "another block, {reference}"),
            Self::NoFile => f.write_str("something that is not a file"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadOnly => f.write_str("it is read-only"),
            Self::Denied(words) => write!(f, "no permission ({words})"),
            Self::NotTheBlock { reference, found } => {
                write!(f, "what was put as block {reference} is {found}")
            }
            Self::Unprepared(what) => f.write_str(what),
            Self::Foreign(what) => write!(f, "it is not a block store of this kind: {what}"),
            Self::Status(status) => write!(f, "unexpected HTTP status {status}"),
            Self::Redirects => f.write_str("too many redirects"),
        }
    }
}

/// `, asked for block R`, or nothing.
struct Wanted<'a>(&'a Option<Reference>);

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(reference) => write!(f, ", asked for block {reference}"),
            None => Ok(()),
        }
    }
}

/// An error with its causes: carriers' own messages often say little ("error sending request").
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Errors in a row.
struct Each<'a>(&'a [Error]);

impl fmt::Display for Each<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}
