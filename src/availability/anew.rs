//! A content of which blocks are nowhere any more, made again from the NAR that it holds.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};

use super::Subject;
use crate::block::BlockStore;
use crate::compress::Compression;
use crate::content::Deadline;
use crate::publish;
use crate::substituter::Offer;
use crate::tree::{NarStream, Resolved, Tree};

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
    pub store: Arc<dyn BlockStore>,
}

impl Anew {
    /// Puts what the store lacks of the content, made from the first of the ways that leads to the same content.
    ///
    /// # Errors
    /// If none does. What was put on the way stays, and harms nobody.
    pub(super) async fn put(self) -> Result<(), String> {
        let mut failures = Vec::new();
        let mut judge = |what: String, made: Result<_, publish::Error>| match made {
            Ok(capability) if capability == self.subject.capability => true,
            Ok(_) => {
                failures.push(format!("{what} makes another content"));
                false
            }
            Err(error) => {
                failures.push(format!("{what}: {error}"));
                false
            }
        };
        let block_size = self.subject.capability.block_size;
        let hash_part = self.resolved.narinfo().store_path().hash_part();
        // A file that is packed alike needs no packing.
        for offer in offers(self.tree.clone(), self.resolved.clone(), self.form).await {
            let what = format!("{} of {}", offer.download.url, offer.server.name());
            let from = (offer.server, offer.download.url);
            let made = publish::put_file(self.store.clone(), block_size, from, self.subject.limit).await;
            if judge(what, made) {
                return Ok(());
            }
        }
        let packed = match self.form {
            Some(Compression::None) => Some(block_size),
            Some(Compression::Zstd) | None => None,
            Some(_) => return Err(failures.join("; ")),
        };
        let made = match self.tree.archive(hash_part, Deadline::after(PIECE_WAIT)).await {
            Ok(Some(nar)) => publish::put_nar(self.store.clone(), packed, pieces(nar).boxed()).await,
            Ok(None) => return Err(failures.join("; ")),
            Err(error) => Err(publish::Error::Input(io::Error::other(error))),
        };
        if judge("its NAR".into(), made) { Ok(()) } else { Err(failures.join("; ")) }
    }
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
