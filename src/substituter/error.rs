//! What can go wrong between asking for a narinfo or a NAR and having it.
//!
//! One enum for all places and for the set of them. It is `Clone`, because one answer may be for many askers (single
//! flight).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::InfoError;
use crate::store::HashPart;
use crate::store::narinfo::NarinfoError;
use crate::store::trust::Refusal;

/// An underlying error, shared so that [`Error`] can be cloned.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Why a place did not give what was asked of it. `server` is its [`name`](super::Substituter::name): its URL without
/// secrets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It could not answer now; the same request may succeed later.
    #[error("{server} is unavailable: {}", Chain(source.as_ref()))]
    Unavailable {
        /// The place.
        server: Arc<str>,
        /// After how long it asked to be tried again, if it said so.
        retry_after: Option<Duration>,
        /// What was in the way.
        source: Source,
    },
    /// It did not answer in time, or stopped in the middle.
    #[error("{server} was silent for {after:?}")]
    TimedOut {
        /// The place.
        server: Arc<str>,
        /// How long was waited.
        after: Duration,
    },
    /// It will have the narinfo, once it has compressed the NAR (`X-Baking` of `guix publish`).
    #[error("{server} is still preparing {hash_part}")]
    Baking {
        /// The place.
        server: Arc<str>,
        /// What was asked for.
        hash_part: HashPart,
        /// After how long it asked to be tried again, if it said so.
        retry_after: Option<Duration>,
    },
    /// It will not do it, now or later.
    #[error("{server} refused: {reason}")]
    Refused {
        /// The place.
        server: Arc<str>,
        /// Why, such as an HTTP status.
        reason: String,
    },
    /// It does not have the file that its narinfo names.
    #[error("{server} has no {url}")]
    NoFile {
        /// The place.
        server: Arc<str>,
        /// The file.
        url: String,
    },
    /// The file ended before its announced length.
    #[error("{server} gave {found} bytes of the {expected} of {url}")]
    Truncated {
        /// The place.
        server: Arc<str>,
        /// The file.
        url: String,
        /// Where it ended.
        found: u64,
        /// Where it should have.
        expected: u64,
    },
    /// The `URL` of a narinfo leads where it must not, or is none.
    #[error("a narinfo of {server} names the URL {url:?}: {reason}")]
    BadNarUrl {
        /// The place.
        server: Arc<str>,
        /// The URL, without secrets.
        url: String,
        /// Why it is not followed.
        reason: String,
    },
    /// What it gave for a narinfo is none.
    #[error("{server}, asked for {hash_part}: {source}")]
    Narinfo {
        /// The place.
        server: Arc<str>,
        /// What was asked for.
        hash_part: HashPart,
        /// What is wrong.
        source: Arc<NarinfoError>,
    },
    /// What it says of itself makes no sense.
    #[error("{server}: {source}")]
    Info {
        /// The place.
        server: Arc<str>,
        /// What is wrong.
        source: InfoError,
    },
    /// It gave more than such a thing can have.
    #[error("{server} gave more than {limit} bytes for {what}")]
    TooLong {
        /// The place.
        server: Arc<str>,
        /// What was asked for.
        what: String,
        /// The most that is read.
        limit: usize,
    },
    /// Its narinfo proves nothing to somebody who trusts the given keys.
    #[error("{server}: {source}")]
    Untrusted {
        /// The place.
        server: Arc<str>,
        /// Why.
        source: Arc<Refusal>,
    },
    /// No place has a narinfo that is good, and not because all of them lack it.
    #[error("no good narinfo for {hash_part}: {}", Each(failures))]
    NoGood {
        /// What was asked for.
        hash_part: HashPart,
        /// One error for each place that did not just lack it, in the order of preference; never empty.
        failures: Arc<[Error]>,
    },
    /// No server says which store directory its paths are in, since all of them fail.
    #[error("no substitute server answers: {}", Each(failures))]
    NobodyAnswers {
        /// One error for each server.
        failures: Arc<[Error]>,
    },
    /// The deadline of whoever asked passed before any server said which store directory its paths are in.
    #[error("no answer in time from {}", servers.join(", "))]
    NoStoreDir {
        /// The servers that were asked.
        servers: Arc<[String]>,
    },
    /// The deadline of whoever asked passed before any place had a good answer.
    #[error("no answer for {hash_part} in time from {}", servers.join(", "))]
    Late {
        /// What was asked for.
        hash_part: HashPart,
        /// The places that were asked.
        servers: Arc<[String]>,
    },
    /// The text does not name a substitute server.
    #[error("{url:?} does not name a substitute server: {reason}")]
    BadUrl {
        /// The text as given, its secret left out.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No HTTP client can be made.
    #[error("the HTTP client: {}", Chain(.0.as_ref()))]
    Client(Source),
}

impl Error {
    /// Whether the same request may succeed a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. }
            | Self::TimedOut { .. }
            | Self::Baking { .. }
            | Self::Truncated { .. }
            | Self::NobodyAnswers { .. }
            | Self::NoStoreDir { .. }
            | Self::Late { .. } => true,
            Self::NoGood { failures, .. } => failures.iter().any(Self::is_transient),
            _ => false,
        }
    }
}

/// An error with its causes: those of HTTP clients say little themselves ("error sending request").
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

/// One failure after the other.
struct Each<'a>(&'a [Error]);

impl fmt::Display for Each<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, failure) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{failure}")?;
        }
        Ok(())
    }
}
