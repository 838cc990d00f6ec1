//! One store path (or content) opened: its tree, and where each file's bytes are.
//!
//! A seekable NAR brings its listing along at its end; for a plain NAR the tree is found by walking the
//! headers and hopping over the contents. What is no NAR at all is shown as one file.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::encoded::{Encoded, Form};
use super::inode::MAX_NODES;
use super::opening::{Opening, TAIL};
use super::{Error, Facts, Fault};
use crate::compress::Compression;
use crate::content::{self, Content, Deadline, Fetch, FrameCache, Limits};
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
    encoded: Encoded,
    listing: Listing,
    profile: Option<Profile>,
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
        if listing.len() > MAX_NODES {
            return Err(opening.fault(Fault::TooManyNodes { found: listing.len() }));
        }
        let expected = opening.expected.facts;
        let encoded = Encoded { content, form };
        let object = Object { name: opening.expected.name.clone(), encoded, listing, profile };
        match expected {
            // The kernel has been told what the catalog says: other facts would cut files off.
            Some(expected) if expected != object.facts() => {
                Err(opening.fault(Fault::Facts { expected, found: object.facts() }))
            }
            _ => Ok(object),
        }
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
        self.encoded.content.capability()
    }

    /// The encoded object.
    pub fn content(&self) -> &Arc<Content> {
        &self.encoded.content
    }

    /// How the archive is compressed in the content; `None` if the content is no archive.
    pub fn compression(&self) -> Option<Compression> {
        self.encoded.compression()
    }

    pub(super) fn form(&self) -> &Form {
        &self.encoded.form
    }

    /// Size of the NAR in bytes (of the file, where it is no NAR).
    pub fn nar_size(&self) -> u64 {
        self.encoded.nar_size()
    }

    /// What a catalog that lists it should say of it.
    pub fn facts(&self) -> Facts {
        let listing = &self.listing;
        let (kind, number) = match listing.kind(NodeId::ROOT) {
            Kind::Directory => (super::Kind::Directory, listing.subdirectories(NodeId::ROOT).into()),
            Kind::File { executable: true, size, .. } => (super::Kind::Executable, size),
            Kind::File { executable: false, size, .. } => (super::Kind::Regular, size),
            Kind::Symlink => (super::Kind::Symlink, listing.target(NodeId::ROOT).len() as u64),
        };
        Facts { kind, number }
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
        let read = self.read_range(start + from..start + to, frames, deadline).await;
        read.map_err(|source| Error::Read { name: self.path_of(node), source })
    }

    /// Bytes of the NAR (of the file, where it is no NAR).
    pub async fn read_range(
        &self,
        range: Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
    ) -> Result<Bytes, content::Error> {
        self.encoded.read_range(range, frames, deadline).await
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
        self.encoded.fetch_range(range, frames, deadline, arrived).await
    }

    /// Brings the blocks of a range of the NAR into the block cache below, and decodes nothing.
    pub async fn warm(&self, range: Range<u64>, deadline: Deadline) -> Result<(), content::Error> {
        self.encoded.warm(range, deadline).await
    }

    /// The bytes of the encoded object that are fetched for a range of the NAR: whole blocks.
    pub(super) fn blocks(&self, range: Range<u64>) -> Range<u64> {
        self.encoded.blocks(range)
    }

    /// What comes with a range of the NAR, since it cannot be had without: whole frames, or blocks.
    pub fn unit(&self, range: Range<u64>) -> Range<u64> {
        self.encoded.unit(range)
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
        self.encoded.encoded(first.unwrap_or(end)..end)
    }

    /// Whether its archive is compressed in frames, which are kept decoded.
    pub fn is_seekable(&self) -> bool {
        matches!(self.encoded.form, Form::Seekable(_))
    }

    /// Where in the NAR the contents of a file begin, and their size; `None` for what is no file.
    pub fn extent(&self, node: NodeId) -> Option<(u64, u64)> {
        match (self.listing.kind(node), &self.encoded.form) {
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
