//! How a store path is opened: first by what may be shown at once, then by what has to be hashed, last by a download.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::as_read::AsRead;
use super::binding::bound;
use super::fallback::Fallback;
use super::sources::{FIRST, Resolved, Substitutes};
use super::{Error, Facts, Fault, Object};
use crate::compress::Compression;
use crate::content::{Deadline, Fetch};
use crate::download::Known;
use crate::store::StorePath;
use crate::store::narinfo::ErisBinding;

/// A store path on its way to being open.
pub(super) struct OpenPath<'a> {
    pub(super) fetch: &'a Arc<Fetch>,
    pub(super) substitutes: Option<&'a Substitutes>,
    pub(super) resolved: &'a Resolved,
    pub(super) facts: Option<Facts>,
    pub(super) deadline: Deadline,
}

impl OpenPath<'_> {
    /// Opens it, by whatever works first.
    pub(super) async fn open(&self) -> Result<Object, Error> {
        let eris = match self.lazily().await {
            Ok(object) => return Ok(object),
            Err(error) => error,
        };
        let Some(substitutes) = self.substitutes else { return Err(eris) };
        if self.deadline.is_ahead() {
            return Err(match eris {
                Error::NoBinding { name, .. } => Error::NotAhead { name },
                error => error,
            });
        }
        match self.hashed(substitutes).await {
            Some(Ok(object)) => Ok(object),
            Some(Err(unbound)) => self.downloaded(substitutes, unbound).await,
            None => self.downloaded(substitutes, eris).await,
        }
    }

    /// Opens a content that may be read at once: one that is bound to the path, or that was hashed before.
    pub(super) async fn lazily(&self) -> Result<Object, Error> {
        let patience = self.patience();
        let mut failure = None;
        for binding in &self.resolved.bound {
            match self.content(binding, patience).await {
                Ok(object) => return Ok(object.with_fallback(self.fallback(false))),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(substitutes) = self.substitutes {
            for known in substitutes.known(self.resolved, patience).await {
                // What was downloaded is on this disk alone; other contents are where blocks come from.
                let on_disk = (known.form == Compression::None).then(|| substitutes.downloads.fetch());
                let bound_anyway = !self.resolved.bound.is_empty();
                for fetch in on_disk.into_iter().chain((!bound_anyway).then_some(self.fetch)) {
                    match Object::open(
                        fetch.clone(),
                        known.capability,
                        self.resolved.expected(known, self.facts),
                        patience,
                    )
                    .await
                    {
                        Ok(object) => return Ok(object.with_fallback(self.fallback(false)).known_by_hash()),
                        Err(error) => tracing::debug!("opening what was hashed before: {error}"),
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| Error::NoBinding {
            name: self.path().to_string(),
            found: "no ERIS content that may be read in parts".into(),
        }))
    }

    /// Hashes contents that nobody bound to the path, until one is right; `None` if there is none, or the NAR is on its way already.
    async fn hashed(&self, substitutes: &Substitutes) -> Option<Result<Object, Error>> {
        let narinfo = &self.resolved.narinfo;
        if substitutes.downloads.join(narinfo.nar_hash(), narinfo.nar_size()).is_some() {
            return None;
        }
        let mut failure = None;
        for binding in &self.resolved.unbound {
            match self.hash(substitutes, binding).await {
                Ok(object) => return Some(Ok(object.with_fallback(self.fallback(false)).known_by_hash())),
                Err(error) => {
                    tracing::warn!("an ERIS content that is not signed: {error}");
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map(Err)
    }

    async fn hash(&self, substitutes: &Substitutes, binding: &ErisBinding) -> Result<Object, Error> {
        let patience = self.patience();
        let object = self.content(binding, patience).await?;
        let form = object.compression().expect("what is no archive was refused");
        let (narinfo, capability) = (&self.resolved.narinfo, *object.capability());
        let source = Arc::new(AsRead::new(&object));
        let downloads = &substitutes.downloads;
        let checked = downloads.check(source, narinfo.nar_hash(), narinfo.nar_size(), patience).await;
        if checked.map_err(Error::Download)? != *object.listing() {
            return Err(Error::Object { name: self.path().to_string(), fault: Arc::new(Fault::Disagrees) });
        }
        let (downloads, nar_hash) = (downloads.clone(), narinfo.nar_hash());
        let known = Known { capability, form };
        // Only the memory of it would be lost.
        let remembered = spawn_blocking(move || downloads.verified().remember(nar_hash, known));
        let _ = patience.bound(remembered).await;
        Ok(object)
    }

    /// Fetches the whole NAR, since there is nothing else: `eris` says why.
    async fn downloaded(&self, substitutes: &Substitutes, eris: Error) -> Result<Object, Error> {
        // Where the content could be had but not read in parts, there is no need for a server.
        let is_format = matches!(&eris, Error::Object { fault, .. } if matches!(**fault, Fault::NotSeekable));
        let fallback = self.whole(substitutes, is_format);
        let archive = match fallback.archive(self.deadline).await {
            Ok(archive) => archive,
            // Where there never was a content, there is nothing to tell of it.
            Err(nar) if self.resolved.bound.is_empty() && self.resolved.unbound.is_empty() => {
                return Err(Error::Download(nar));
            }
            Err(nar) => return Err(Error::Neither { eris: Box::new(eris), nar }),
        };
        let encoded = fallback.open(&archive, self.deadline).await?;
        let object = Object::of(self.path().to_string(), encoded, archive.listing, self.facts, None)?;
        Ok(object.with_fallback(Some(fallback)).known_by_hash())
    }

    fn path(&self) -> &StorePath {
        self.resolved.narinfo.store_path()
    }

    /// How long to try what is not the last resort.
    fn patience(&self) -> Deadline {
        match self.substitutes {
            Some(_) if !self.deadline.is_ahead() => self.deadline.share(FIRST),
            _ => self.deadline,
        }
    }

    async fn content(&self, binding: &ErisBinding, patience: Deadline) -> Result<Object, Error> {
        let (capability, expected) = bound(self.facts, &self.resolved.narinfo, binding)?;
        Object::open(self.fetch.clone(), capability, expected, patience).await
    }

    fn fallback(&self, contents_first: bool) -> Option<Arc<Fallback>> {
        self.substitutes.map(|substitutes| self.whole(substitutes, contents_first))
    }

    fn whole(&self, substitutes: &Substitutes, contents_first: bool) -> Arc<Fallback> {
        let contents = self.resolved.bound.iter().chain(&self.resolved.unbound);
        Fallback::new(substitutes, self.resolved, self.fetch, contents, contents_first)
    }
}
