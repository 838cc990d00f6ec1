//! The NAR itself, for when the ERIS content of a store path cannot be read: downloaded as a whole, once, and checked.

use std::sync::{Arc, Mutex, MutexGuard};

use super::as_read::AsRead;
use super::encoded::{Encoded, Form};
use super::sources::{Resolved, Substitutes};
use super::{Error, Fault, Object, binding};
use crate::content::{Content, Deadline, Fetch, Limits};
use crate::download::{self, Archive, Download, FromContent, FromServer, NarSource, Wanted};
use crate::eris::ReadCapability;
use crate::store::narinfo::ErisBinding;
use crate::store::{HashPart, NarHash, StoreDir};

/// So much of the time that somebody waits may go into asking who has the NAR.
const ASKING: u32 = 2;

/// How the NAR of one store path can be had as a whole.
#[derive(Debug)]
pub(super) struct Fallback {
    substitutes: Substitutes,
    name: String,
    hash_part: HashPart,
    store_dir: StoreDir,
    nar_hash: NarHash,
    nar_size: u64,
    /// ERIS contents that should hold the NAR, and through what they are read.
    contents: Vec<Arc<dyn NarSource>>,
    /// Whether these are asked before the servers.
    contents_first: bool,
    /// Why the ERIS content is not asked any more.
    given_up: Mutex<Option<GivenUp>>,
}

/// Why an ERIS content is not asked any more.
#[derive(Debug, Clone)]
struct GivenUp {
    error: Error,
    /// It holds something else, so it is not asked where there is no NAR either.
    for_good: bool,
}

impl Fallback {
    /// For a path whose ERIS contents `contents` may be as good as what servers offer.
    pub(super) fn new<'a>(
        substitutes: &Substitutes,
        resolved: &Resolved,
        fetch: &Arc<Fetch>,
        contents: impl Iterator<Item = &'a ErisBinding>,
        contents_first: bool,
    ) -> Arc<Self> {
        let narinfo = &resolved.narinfo;
        let source = |binding: &ErisBinding| {
            let compression = binding::form(binding).ok()??;
            let capability: ReadCapability = binding.urn.parse().ok()?;
            Some(Arc::new(FromContent::new(fetch.clone(), capability, compression)) as Arc<dyn NarSource>)
        };
        Arc::new(Fallback {
            substitutes: substitutes.clone(),
            name: narinfo.store_path().to_string(),
            hash_part: narinfo.store_path().hash_part(),
            store_dir: narinfo.store_dir().clone(),
            nar_hash: narinfo.nar_hash(),
            nar_size: narinfo.nar_size(),
            contents: contents.filter_map(source).collect(),
            contents_first,
            given_up: Mutex::default(),
        })
    }

    /// Starts the download, or joins it; what is here already is not downloaded.
    pub(super) async fn start(&self, deadline: Deadline) -> Arc<Download> {
        // Nobody need be asked where it is for what is on its way.
        if let Some(download) = self.substitutes.downloads.join(self.nar_hash, self.nar_size) {
            return download;
        }
        let sources = self.sources(deadline).await;
        let (name, nar_hash, nar_size) = (self.name.clone(), self.nar_hash, self.nar_size);
        self.substitutes.downloads.start(Wanted { name, nar_hash, nar_size, sources })
    }

    async fn sources(&self, deadline: Deadline) -> Vec<Arc<dyn NarSource>> {
        let asked = deadline.share(ASKING).instant();
        let offers =
            self.substitutes.substituters.offers(self.hash_part, self.nar_hash, self.nar_size, asked).await;
        let mut sources: Vec<Arc<dyn NarSource>> = Vec::with_capacity(offers.len());
        for offer in offers {
            match FromServer::new(offer, &self.store_dir) {
                Ok(source) => sources.push(Arc::new(source)),
                Err(error) => tracing::debug!("{}: {error}", self.name),
            }
        }
        let place = if self.contents_first { 0 } else { sources.len() };
        sources.splice(place..place, self.contents.iter().cloned());
        sources
    }

    /// The NAR, checked and on this disk.
    pub(super) async fn archive(&self, deadline: Deadline) -> Result<Archive, download::Error> {
        self.start(deadline).await.finished(deadline).await
    }

    /// The archive as something that is read.
    pub(super) async fn open(&self, archive: &Archive, deadline: Deadline) -> Result<Encoded, Error> {
        let fetch = self.substitutes.downloads.fetch().clone();
        let limits = Limits { length: archive.nar_size, tail: 0 };
        let content = Content::open(fetch, archive.capability, limits, deadline).await;
        let content = content.map_err(|source| Error::Read { name: self.name.clone(), source })?;
        Ok(Encoded { content: Arc::new(content), form: Form::Nar })
    }

    /// Whether a content is a NAR that was downloaded.
    pub(super) fn gave(&self, content: &Content) -> bool {
        Arc::ptr_eq(content.fetch(), self.substitutes.downloads.fetch())
    }

    /// Reads the whole NAR from `object` as its readers do, and hashes it. One that is another NAR is given up for good.
    pub(super) async fn hash(&self, object: &Object, deadline: Deadline) -> Result<(), Error> {
        let source = Arc::new(AsRead::new(object));
        let checked = self.substitutes.downloads.check(source, self.nar_hash, self.nar_size, deadline).await;
        match checked {
            Ok(listing) if listing == *object.listing() => Ok(()),
            Ok(_) => {
                let error = self.fault(Fault::Disagrees);
                self.give_up_for_good(error.clone());
                Err(error)
            }
            Err(error) => {
                if error.is_lie() {
                    self.give_up_for_good(Error::Download(error.clone()));
                }
                Err(Error::Download(error))
            }
        }
    }

    /// Why the ERIS content is not asked any more; `None` while it is.
    pub(super) fn given_up(&self) -> Option<Error> {
        self.lock().as_ref().map(|given_up| given_up.error.clone())
    }

    /// From now on the NAR is read, or waited for.
    pub(super) fn give_up(&self, error: Error) {
        let mut given_up = self.lock();
        if given_up.is_none() {
            tracing::warn!("{error}; its NAR is fetched as a whole instead");
            *given_up = Some(GivenUp { error, for_good: false });
        }
    }

    /// All bytes of the ERIS content came, and hash to `found`.
    pub(super) fn is_another(&self, found: NarHash) {
        self.give_up_for_good(self.fault(Fault::WrongHash { expected: self.nar_hash, found }));
    }

    fn give_up_for_good(&self, error: Error) {
        tracing::warn!("{error}; its ERIS content is not read any more");
        *self.lock() = Some(GivenUp { error, for_good: true });
    }

    /// There is no NAR either: the ERIS content is as good as anything, unless it is another NAR.
    pub(super) fn try_again(&self) {
        self.lock().take_if(|given_up| !given_up.for_good);
    }

    fn fault(&self, fault: Fault) -> Error {
        Error::Object { name: self.name.clone(), fault: Arc::new(fault) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<GivenUp>> {
        self.given_up.lock().expect("no panic while held")
    }
}
