//! One store path (or content) opened: its tree, and where each file's bytes are.
//!
//! A seekable NAR brings its listing along at its end; for a plain NAR the tree is found by walking the
//! headers and hopping over the contents. What is no NAR at all is shown as one file.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::encoded::{Encoded, Form};
use super::fallback::Fallback;
use super::inode::MAX_NODES;
use super::opening::{Opening, TAIL};
use super::sources::FIRST;
use super::{Error, Facts, Fault};
use crate::compress::Compression;
use crate::content::{self, Content, Deadline, Fetch, FrameCache, Limits};
use crate::download;
use crate::eris::ReadCapability;
use crate::nar::{Kind, Listing, NodeId};
use crate::store::Profile;

/// No announced size: contents of this many bytes are taken (8 EiB are the kernel's limit for a file).
pub(super) const UNLIMITED: u64 = i64::MAX as u64;

/// What is known of an object before it is opened.
#[derive(Debug, Clone)]
pub struct Expected {
    /// How messages name it: `HASH-NAME`, or the content.
    pub name: String,
    /// The form it has, where a narinfo says so; else it is found out.
    pub form: Option<Compression>,
    /// Size of the NAR, where a narinfo says so.
    pub nar_size: Option<u64>,
    /// What its top is, where a catalog says so.
    pub facts: Option<Facts>,
    /// Largest encoded size that is taken.
    pub limit: u64,
}

/// An opened store path or content.
#[derive(Debug)]
pub struct Object {
    name: String,
    encoded: Arc<Encoded>,
    listing: Arc<Listing>,
    profile: Option<Profile>,
    /// The NAR on this disk, since it had to be fetched as a whole.
    archive: OnceLock<Arc<Encoded>>,
    fallback: Option<Arc<Fallback>>,
    /// Set once the whole NAR was read from it and its hash was right.
    hashed: OnceCell<()>,
}

impl Object {
    /// Opens the content of `capability`, and finds its tree.
    pub async fn open(
        fetch: Arc<Fetch>,
        capability: ReadCapability,
        expected: Expected,
        deadline: Deadline,
    ) -> Result<Self, Error> {
        let limits = Limits { length: expected.limit, tail: TAIL };
        let opening = Opening { expected, deadline };
        let content = Content::open(fetch, capability, limits, deadline);
        let content = Arc::new(content.await.map_err(|source| opening.read_error(source))?);
        let (form, listing, profile) = opening.find_form(&content).await?;
        if opening.expected.nar_size.is_some() && matches!(form, Form::File) {
            return Err(opening.fault(Fault::NotNar));
        }
        let Expected { name, facts, .. } = opening.expected;
        Self::of(name, Encoded { content, form }, Arc::new(listing), facts, profile)
    }

    /// What `encoded` holds, if that is what a catalog says of it.
    pub(super) fn of(
        name: String,
        encoded: Encoded,
        listing: Arc<Listing>,
        facts: Option<Facts>,
        profile: Option<Profile>,
    ) -> Result<Self, Error> {
        let fault = |fault| Error::Object { name: name.clone(), fault: Arc::new(fault) };
        if listing.len() > MAX_NODES {
            return Err(fault(Fault::TooManyNodes { found: listing.len() }));
        }
        let found = Facts::of(&listing);
        match facts {
            // The kernel has been told what the catalog says: other facts would cut files off.
            Some(expected) if expected != found => Err(fault(Fault::Facts { expected, found })),
            _ => {
                let encoded = Arc::new(encoded);
                let (archive, hashed) = (OnceLock::new(), OnceCell::new());
                Ok(Object { name, encoded, listing, profile, archive, fallback: None, hashed })
            }
        }
    }

    /// The same object, with another way to its bytes.
    pub(super) fn with_fallback(self, fallback: Option<Arc<Fallback>>) -> Self {
        Object { fallback, ..self }
    }

    /// The same object, of which all was hashed.
    pub(super) fn known_by_hash(self) -> Self {
        Object { hashed: OnceCell::new_with(Some(())), ..self }
    }

    /// All of it was read and its hash is right.
    pub(super) fn is_right(&self) {
        // It may have been known.
        let _ = self.hashed.set(());
    }

    /// Returns once the whole NAR was hashed as its readers get it, and is right: at once where that was done. However many wait, it is
    /// read once.
    pub(super) async fn hashed(&self, fallback: &Fallback, deadline: Deadline) -> Result<(), Error> {
        let hashing = self.hashed.get_or_try_init(|| fallback.hash(self, deadline));
        let overdue = || Err(Error::Overdue { name: self.name.clone() });
        deadline.bound(hashing).await.map_or_else(overdue, |hashed| hashed.copied())
    }

    /// From what it is read now: `eris`, or `nar` where that had to be downloaded as a whole.
    pub(super) fn source(&self) -> &'static str {
        let is_download = self.fallback.as_ref().is_some_and(|fallback| fallback.gave(self.content()));
        if is_download { "nar" } else { "eris" }
    }

    /// The other way to its bytes.
    pub(super) fn fallback(&self) -> Option<&Arc<Fallback>> {
        self.fallback.as_ref()
    }

    /// What it is read from now.
    pub(super) fn encoded(&self) -> &Encoded {
        self.shared()
    }

    /// The same, for whoever reads on his own.
    pub(super) fn shared(&self) -> &Arc<Encoded> {
        self.archive.get().unwrap_or(&self.encoded)
    }

    /// The tree.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    /// How messages name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The startup profile that was published with it. A stranger's: see [`Tree::replay`](super::Tree::replay).
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// The read capability that it was opened by.
    pub fn capability(&self) -> &ReadCapability {
        self.encoded().content.capability()
    }

    /// The encoded object.
    pub fn content(&self) -> &Arc<Content> {
        &self.encoded().content
    }

    /// How the archive is compressed in the content; `None` if the content is no archive.
    pub fn compression(&self) -> Option<Compression> {
        self.encoded().compression()
    }

    pub(super) fn form(&self) -> &Form {
        &self.encoded().form
    }

    /// Size of the NAR in bytes (of the file, where it is no NAR).
    pub fn nar_size(&self) -> u64 {
        self.encoded().nar_size()
    }

    /// What a catalog that lists it should say of it.
    pub fn facts(&self) -> Facts {
        Facts::of(&self.listing)
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        let profile = self.profile.as_ref().map_or(0, Profile::memory);
        self.listing.memory() + self.encoded.memory() + profile + size_of::<Self>()
    }

    /// Bytes `offset..offset + length` of a file, cut at its end.
    pub async fn read(
        &self,
        node: NodeId,
        offset: u64,
        length: u64,
        frames: &FrameCache,
        deadline: Deadline,
    ) -> Result<Bytes, Error> {
        let Some((start, size)) = self.extent(node) else { return Err(Error::IsDirectory) };
        let from = offset.min(size);
        let to = offset.saturating_add(length).min(size);
        let range = start + from..start + to;
        match &self.fallback {
            Some(fallback) if !deadline.is_ahead() => {
                self.read_either(node, range, frames, deadline, fallback).await
            }
            _ => self.encoded().read_range(range, frames, deadline).await.map_err(self.read_error(node)),
        }
    }

    /// Bytes of the NAR from what it is read from now; if that fails, from the NAR as a whole.
    async fn read_either(
        &self,
        node: NodeId,
        range: Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
        fallback: &Fallback,
    ) -> Result<Bytes, Error> {
        let read_error = self.read_error(node);
        let first = match (self.archive.get(), fallback.given_up()) {
            (Some(archive), _) => {
                archive.read_range(range.clone(), frames, deadline).await.map_err(&read_error)
            }
            (None, Some(error)) => Err(error),
            (None, None) => {
                let patience = deadline.share(FIRST);
                self.encoded.read_range(range.clone(), frames, patience).await.map_err(&read_error)
            }
        };
        let error = match first {
            Ok(bytes) => return Ok(bytes),
            Err(error) => error,
        };
        fallback.give_up(error.clone());
        let archive = match fallback.archive(deadline).await {
            Ok(archive) => archive,
            Err(nar) => {
                if !matches!(nar, download::Error::Overdue { .. }) {
                    fallback.try_again();
                }
                return Err(Error::Neither { eris: Box::new(error), nar });
            }
        };
        if archive.listing != self.listing {
            return Err(Error::Object { name: self.path_of(node), fault: Arc::new(Fault::Disagrees) });
        }
        let opened = fallback.open(&archive, deadline).await?;
        let archive = self.archive.get_or_init(|| Arc::new(opened));
        archive.read_range(range, frames, deadline).await.map_err(read_error)
    }

    fn read_error(&self, node: NodeId) -> impl Fn(content::Error) -> Error {
        move |source| Error::Read { name: self.path_of(node), source }
    }

    /// Bytes of the NAR (of the file, where it is no NAR) from what it is read from now.
    pub async fn read_range(
        &self,
        range: Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
    ) -> Result<Bytes, content::Error> {
        self.encoded().read_range(range, frames, deadline).await
    }

    /// Fetches and decodes a range of the NAR (of the file, where it is no NAR) ahead of need, in order. `arrived` is called with
    /// each piece and its place.
    pub async fn fetch_range(
        &self,
        range: Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
        arrived: impl FnMut(u64, Bytes),
    ) -> Result<(), content::Error> {
        match self.is_waiting() {
            true => Ok(()),
            false => self.encoded().fetch_range(range, frames, deadline, arrived).await,
        }
    }

    /// Brings the blocks of a range of the NAR into the block cache below, and decodes nothing.
    pub async fn warm(&self, range: Range<u64>, deadline: Deadline) -> Result<(), content::Error> {
        match self.is_waiting() {
            true => Ok(()),
            false => self.encoded().warm(range, deadline).await,
        }
    }

    /// Whether its NAR is on its way: a store that failed is not bothered with what nobody waits for.
    fn is_waiting(&self) -> bool {
        self.archive.get().is_none() && self.fallback.as_ref().is_some_and(|it| it.given_up().is_some())
    }

    /// The bytes of the encoded object that are fetched for a range of the NAR: whole blocks.
    pub(super) fn blocks(&self, range: Range<u64>) -> Range<u64> {
        self.encoded().blocks(range)
    }

    /// What comes with a range of the NAR, since it cannot be had without: whole frames, or blocks.
    pub fn unit(&self, range: Range<u64>) -> Range<u64> {
        self.encoded().unit(range)
    }

    /// The bytes of the encoded object that hold all files at and below a node; empty where there are none.
    pub fn encoded_range(&self, node: NodeId) -> Range<u64> {
        // Files stand in the NAR in the order of their nodes, so those of a directory are in one stretch.
        let (mut first, mut end) = (None, 0);
        let mut ahead = vec![node];
        while let Some(at) = ahead.pop() {
            ahead.extend(self.listing.children(at));
            if let Some((start, size)) = self.extent(at)
                && size > 0
            {
                first = Some(first.map_or(start, |first: u64| first.min(start)));
                end = end.max(start + size);
            }
        }
        self.encoded().encoded(first.unwrap_or(end)..end)
    }

    /// Whether its archive is compressed in frames, which are kept decoded.
    pub fn is_seekable(&self) -> bool {
        matches!(self.encoded().form, Form::Seekable(_))
    }

    /// Where in the NAR the contents of a file begin, and their size; `None` for what is no file.
    pub fn extent(&self, node: NodeId) -> Option<(u64, u64)> {
        match (self.listing.kind(node), &self.encoded().form) {
            (Kind::File { size, .. }, Form::File) => Some((0, size)),
            (Kind::File { size, offset, .. }, _) => Some((offset, size)),
            _ => None,
        }
    }

    /// `HASH-NAME`, or the content, with the path of a node in it.
    pub fn path_of(&self, node: NodeId) -> String {
        let path = self.listing.path(node);
        match path.is_empty() {
            true => self.name.clone(),
            false => format!("{}/{}", self.name, String::from_utf8_lossy(&path)),
        }
    }
}
