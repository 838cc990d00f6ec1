//! A content of which blocks are nowhere any more, made again from the NAR that it holds.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use tempfile::TempDir;

use super::Subject;
use crate::block::{BlockStore, Dir, Verify};
use crate::compress::Compression;
use crate::content::Deadline;
use crate::eris::ReadCapability;
use crate::publish;
use crate::substituter::{self, Offer};
use crate::tree::{self, NarStream, Resolved, Tree};

/// How long servers are asked for where the NAR can be had.
const ASKING: Duration = Duration::from_secs(10);
/// How long a piece of a NAR may take: whoever gives it has deadlines of its own, and where its sources contradict each other the first
/// comes after the last.
const PIECE_WAIT: Duration = Duration::from_secs(600);
/// Bytes of a NAR that are read at a time.
const PIECE: u64 = 1 << 20;

/// What is to be made again, and from where.
pub(super) struct Anew {
    pub tree: Arc<Tree>,
    pub subject: Subject,
    pub resolved: Resolved,
    /// How the NAR is compressed in the content.
    pub form: Option<Compression>,
}

/// A content that was made again, in a directory of its own that goes with it.
pub(super) struct Made {
    pub blocks: Arc<dyn BlockStore>,
    _folder: TempDir,
}

/// Why a content was not made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotMade {
    /// What there is makes another content, or there is nothing.
    Lost(String),
    /// Something failed that may work at another time.
    Failed(String),
}

/// What went wrong with each way.
#[derive(Default)]
struct Failures {
    reasons: Vec<String>,
    may_pass: bool,
}

impl Failures {
    fn add(&mut self, what: &str, error: &publish::Error) {
        self.may_pass |= may_pass(error);
        self.reasons.push(match error.source() {
            Some(source) => format!("{what}: {error}: {source}"),
            None => format!("{what}: {error}"),
        });
    }

    fn into_error(self) -> NotMade {
        let reasons = self.reasons.join("; ");
        if self.may_pass { NotMade::Failed(reasons) } else { NotMade::Lost(reasons) }
    }
}

impl Anew {
    /// Makes the content by the first of the ways that leads to the same one. What leads to another is thrown away.
    ///
    /// # Errors
    /// If none does.
    pub(super) async fn make(&self) -> Result<Made, NotMade> {
        let mut failures = Failures::default();
        let block_size = self.subject.capability.block_size;
        // A file that is packed alike needs no packing.
        for offer in offers(self.tree.clone(), self.resolved.clone(), self.form).await {
            let what = format!("{} of {}", offer.download.url, offer.server.name());
            let from = (offer.server, offer.download.url);
            let limit = self.subject.limit;
            let make = |store| publish::put_file(store, block_size, from, limit);
            if let Some(made) = self.attempt(&what, make, &mut failures).await? {
                return Ok(made);
            }
        }
        let packed = match self.form {
            Some(Compression::None) => Some(block_size),
            Some(Compression::Zstd) | None => None,
            Some(_) => return Err(failures.into_error()),
        };
        let hash_part = self.resolved.narinfo().store_path().hash_part();
        match self.tree.archive(hash_part, Deadline::after(PIECE_WAIT)).await {
            Ok(Some(nar)) => {
                let make = |store| publish::put_nar(store, packed, pieces(nar).boxed());
                if let Some(made) = self.attempt("its NAR", make, &mut failures).await? {
                    return Ok(made);
                }
            }
            Ok(None) => {}
            Err(error) => failures.add("its NAR", &publish::Error::Input(io::Error::other(error))),
        }
        Err(failures.into_error())
    }

    /// One way; none if it failed or led to another content.
    async fn attempt<F: Future<Output = Result<ReadCapability, publish::Error>>>(
        &self,
        what: &str,
        make: impl FnOnce(Arc<dyn BlockStore>) -> F,
        failures: &mut Failures,
    ) -> Result<Option<Made>, NotMade> {
        let folder = tempfile::tempdir().map_err(|error| NotMade::Failed(error.to_string()))?;
        let blocks: Arc<dyn BlockStore> = Arc::new(Verify::new(Arc::new(Dir::new(folder.path()))));
        match make(blocks.clone()).await {
            Ok(capability) if capability == self.subject.capability => {
                return Ok(Some(Made { blocks, _folder: folder }));
            }
            Ok(_) => failures.reasons.push(format!("{what} makes another content")),
            Err(error) => failures.add(what, &error),
        }
        Ok(None)
    }
}

/// Whether it is the fault of the network or of this machine.
fn may_pass(error: &publish::Error) -> bool {
    let publish::Error::Input(input) = error else { return true };
    let Some(cause) = input.get_ref() else { return false };
    if let Some(error) = cause.downcast_ref::<substituter::Error>() {
        return error.is_transient();
    }
    cause.downcast_ref::<tree::Error>().is_some_and(tree::Error::may_pass)
}

/// Where the NAR can be had in the form that the content has.
async fn offers(tree: Arc<Tree>, resolved: Resolved, form: Option<Compression>) -> Vec<Offer> {
    let (Some(substitutes), Some(form)) = (&tree.sources().substitutes, form) else { return Vec::new() };
    let narinfo = resolved.narinfo();
    let deadline = Deadline::after(ASKING).instant();
    let (hash_part, nar_hash, nar_size) =
        (narinfo.store_path().hash_part(), narinfo.nar_hash(), narinfo.nar_size());
    let offers = substitutes.substituters().offers(hash_part, nar_hash, nar_size, deadline).await;
    let is_alike = |offer: &Offer| {
        offer.download.compression_in(narinfo.store_dir()).is_ok_and(|compression| compression == form)
    };
    offers.into_iter().filter(is_alike).collect()
}

/// The NAR from its beginning to its end.
fn pieces(nar: NarStream) -> impl Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((nar, 0), |(nar, from)| async move {
        let end = nar.size().min(from + PIECE);
        if from == end {
            return Ok(None);
        }
        let bytes = nar.read(from..end, Deadline::after(PIECE_WAIT)).await.map_err(io::Error::other)?;
        Ok(Some((bytes, (nar, end))))
    })
}
