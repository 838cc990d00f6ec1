//! The NAR of a store path, for whoever passes it on: in order or in ranges, from whatever has it.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::fallback::Fallback;
use super::inode::Occupant;
use super::sources::{FIRST, Resolved, Substitutes};
use super::{Error, Object, Tree, Trust};
use crate::content::Deadline;
use crate::download::{self, Download};
use crate::store::narinfo::ErisBinding;
use crate::store::{HashPart, NarHash, Narinfo};

/// The NAR of one store path. Its bytes are for those who check its hash themselves: those of a download are given as they arrive.
#[derive(Debug, Clone)]
pub struct NarStream {
    tree: Arc<Tree>,
    name: String,
    size: u64,
    nar_hash: NarHash,
    object: Option<Arc<Object>>,
    fallback: Option<Arc<Fallback>>,
    /// ERIS contents that nobody signed: where no server gives the NAR, and hashed before a byte is passed on.
    unsigned: Option<Arc<Fallback>>,
    /// Once the object failed, or where there is none.
    download: Arc<Mutex<Option<Arc<Download>>>>,
    /// What readers have of the download so far.
    given: Arc<AtomicU8>,
}

/// Nothing.
const NOTHING: u8 = 0;
/// What had arrived, and may be contradicted later.
const ARRIVED: u8 = 1;
/// Nothing before all was here and right.
const FINISHED: u8 = 2;

impl NarStream {
    /// Bytes of the NAR.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its SHA-256.
    pub fn nar_hash(&self) -> NarHash {
        self.nar_hash
    }

    /// The bytes of `range`, which must lie within the NAR, for who hashes all of it in order and tells by [`is_right`](Self::is_right) or
    /// [`is_wrong`](Self::is_wrong) what came of it. What fails in the ERIS content comes from a download, in mid-stream.
    pub async fn read(&self, range: Range<u64>, deadline: Deadline) -> Result<Bytes, Error> {
        let bytes = self.read_either(range, deadline).await?;
        self.tree.count_read(bytes.len() as u64);
        Ok(bytes)
    }

    /// The same for who wants a part of the NAR and cannot hash it: the end comes only from what was hashed whole. So whoever puts a
    /// NAR together from parts never completes a wrong one.
    pub async fn read_part(&self, range: Range<u64>, deadline: Deadline) -> Result<Bytes, Error> {
        if range.end == self.size
            && let (Some(object), Some(fallback)) = (self.object(), &self.fallback)
            && let Err(error) = object.hashed(fallback, deadline.share(FIRST)).await
        {
            tracing::debug!("{error}; the end of its NAR comes from a download");
            self.start(fallback, deadline).await;
        }
        self.read(range, deadline).await
    }

    /// All bytes came, and hash to what they should.
    pub fn is_right(&self) {
        if let Some(object) = self.object() {
            object.is_right();
        }
    }

    /// All bytes came, and hash to `found`: the ERIS content is not read any more. (The end of a download comes only where it is right.)
    pub fn is_wrong(&self, found: NarHash) {
        if let (Some(_), Some(fallback)) = (&self.object, &self.fallback) {
            fallback.is_another(found);
        }
    }

    /// The object, as long as it is what is read.
    fn object(&self) -> Option<&Arc<Object>> {
        let is_given_up = || self.fallback.as_ref().is_some_and(|fallback| fallback.given_up().is_some());
        self.object.as_ref().filter(|_| self.under_way().is_none() && !is_given_up())
    }

    async fn read_either(&self, range: Range<u64>, deadline: Deadline) -> Result<Bytes, Error> {
        let mut failure = None;
        if let Some(object) = self.object() {
            let patience = if self.fallback.is_some() { deadline.share(FIRST) } else { deadline };
            match object.read_range(range.clone(), self.tree.frames(), patience).await {
                Ok(bytes) => return Ok(bytes),
                Err(source) => failure = Some(Error::Read { name: self.name.clone(), source }),
            }
        }
        let Some(fallback) = &self.fallback else {
            let name = self.name.clone();
            return Err(failure.unwrap_or(Error::NoBinding { name, found: "no ERIS content".into() }));
        };
        if let Some(error) = &failure {
            tracing::warn!("{error}; the rest of its NAR comes from a download");
        }
        match self.read_download(fallback, range, deadline).await {
            Ok(bytes) => Ok(bytes),
            Err(nar) => {
                let eris = failure.or_else(|| fallback.given_up());
                if !matches!(nar, download::Error::Overdue { .. }) {
                    fallback.try_again();
                }
                Err(match eris {
                    Some(eris) => Error::Neither { eris: Box::new(eris), nar },
                    None => Error::Download(nar),
                })
            }
        }
    }

    /// Bytes of the download, which is started again where what had come is gone.
    async fn read_download(
        &self,
        fallback: &Fallback,
        range: Range<u64>,
        deadline: Deadline,
    ) -> Result<Bytes, download::Error> {
        let mut is_first = true;
        loop {
            let download = match self.under_way() {
                Some(download) => download,
                None => self.start(fallback, deadline).await,
            };
            match self.read_once(&download, range.clone(), deadline).await {
                Err(download::Error::Evicted { .. } | download::Error::Unwanted { .. }) if is_first => {
                    *self.download.lock().expect("no panic while held") = None;
                    is_first = false;
                }
                Err(download::Error::Failed { .. }) if is_first && self.unsigned.is_some() => {
                    let hashed = self.unsigned.as_ref().expect("it is there").start(deadline).await;
                    hashed.finished(deadline).await?;
                    *self.download.lock().expect("no panic while held") = Some(hashed);
                    is_first = false;
                }
                answer => return answer,
            }
        }
    }

    /// Bytes of a download as they arrive; where its sources contradict each other, after the end, if nobody has anything of it yet.
    async fn read_once(
        &self,
        download: &Download,
        range: Range<u64>,
        deadline: Deadline,
    ) -> Result<Bytes, download::Error> {
        if self.given.load(SeqCst) != FINISHED {
            match download.read(range.clone(), deadline).await {
                Err(error @ download::Error::Contradicted { .. }) => {
                    let known = self.given.compare_exchange(NOTHING, FINISHED, SeqCst, SeqCst);
                    if known == Err(ARRIVED) {
                        return Err(error);
                    }
                }
                Ok(bytes) => match self.given.compare_exchange(NOTHING, ARRIVED, SeqCst, SeqCst) {
                    // They were read before that was known.
                    Err(FINISHED) => {}
                    _ => return Ok(bytes),
                },
                Err(error) => return Err(error),
            }
        }
        download.read_finished(range, deadline).await
    }

    async fn start(&self, fallback: &Fallback, deadline: Deadline) -> Arc<Download> {
        let download = fallback.start(deadline).await;
        *self.download.lock().expect("no panic while held") = Some(download.clone());
        download
    }

    fn under_way(&self) -> Option<Arc<Download>> {
        self.download.lock().expect("no panic while held").clone()
    }
}

impl Tree {
    /// The narinfo of a store path as its catalog or server has it, byte for byte; `None` if there is no such path.
    pub async fn narinfo(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<Arc<Narinfo>>, Error> {
        let resolved = self.objects.sources.resolve(hash_part, deadline).await?;
        Ok(resolved.map(|resolved| resolved.narinfo))
    }

    /// The store path with this hash part, if it is open or can be opened without reading all of it; else `None`.
    pub async fn object_in_parts(
        &self,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<Arc<Object>>, Error> {
        let sources = &self.objects.sources;
        let Some(resolved) = sources.resolve(hash_part, deadline).await? else { return Ok(None) };
        match self.open_lazily(&resolved, deadline).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if sources.substitutes.is_none() => Err(error),
            Err(error) => {
                tracing::debug!("{error}");
                Ok(None)
            }
        }
    }

    /// The NAR of a store path, from its ERIS content as far as that goes, else from a download; `None` if there is no such path.
    pub async fn archive(
        self: &Arc<Self>,
        hash_part: HashPart,
        deadline: Deadline,
    ) -> Result<Option<NarStream>, Error> {
        let sources = &self.objects.sources;
        let Some(resolved) = sources.resolve(hash_part, deadline).await? else { return Ok(None) };
        let (object, fallback, unsigned) =
            match (self.open_lazily(&resolved, deadline).await, &sources.substitutes) {
                (Ok(object), _) => {
                    let fallback = object.fallback().cloned();
                    (Some(object), fallback, None)
                }
                (Err(error), None) => return Err(error),
                (Err(error), Some(substitutes)) => {
                    tracing::debug!("{error}; its NAR comes from a download");
                    let (signed, unsigned) = self.whole(substitutes, &resolved);
                    (None, Some(signed), unsigned)
                }
            };
        let narinfo = &resolved.narinfo;
        Ok(Some(NarStream {
            tree: self.clone(),
            name: narinfo.store_path().to_string(),
            size: narinfo.nar_size(),
            nar_hash: narinfo.nar_hash(),
            object,
            fallback,
            unsigned,
            download: Arc::default(),
            given: Arc::default(),
        }))
    }

    /// The object of a store path, if it is open or can be opened without reading all of it.
    async fn open_lazily(&self, resolved: &Resolved, deadline: Deadline) -> Result<Arc<Object>, Error> {
        let objects = &self.objects;
        let path = resolved.narinfo.store_path().clone();
        let facts = match resolved.trust {
            Trust::Catalog => {
                objects.sources.find(path.hash_part(), deadline).await?.and_then(|(_, facts)| facts)
            }
            _ => None,
        };
        let slot = objects.occupants.slot(Occupant::Path { path, facts });
        objects.open_lazily(slot, resolved, facts, deadline).await
    }

    /// The ways to the whole NAR: by servers and contents that are bound to the path; and by contents that nobody signed, if there are.
    fn whole(
        &self,
        substitutes: &Substitutes,
        resolved: &Resolved,
    ) -> (Arc<Fallback>, Option<Arc<Fallback>>) {
        let by = |contents: &[ErisBinding]| {
            Fallback::new(substitutes, resolved, &self.objects.fetch, contents.iter(), false)
        };
        (by(&resolved.bound), (!resolved.unbound.is_empty()).then(|| by(&resolved.unbound)))
    }
}
