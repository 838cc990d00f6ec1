//! One store path (or content) opened: its tree, and where each file's bytes are.
//!
//! A seekable NAR brings its listing along at its end; for a plain NAR the tree is found by walking the
//! headers and hopping over the contents. What is no NAR at all is shown as one file.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Error;
use super::inode::MAX_NODES;
use crate::compress::Compression;
use crate::content::{Content, Deadline, Fetch, Frame, FrameCache, Limits};
use crate::eris::ReadCapability;
use crate::nar::listing::Kind;
use crate::nar::seekable::{SeekTable, Tail, TailStep};
use crate::nar::{Builder, Indexer, Listing, NodeId};

/// What the seek table and the listing of most paths fit into, so that they come with the last block.
const TAIL: u64 = 64 * 1024;
/// The first step of a walk over the headers of a plain NAR, and the largest one.
const STEP: std::ops::RangeInclusive<u64> = 32 * 1024..=1024 * 1024;

/// What is known of an object before it is opened.
#[derive(Debug, Clone)]
pub struct Expected {
    /// How messages name it: `HASH-NAME`, or the content.
    pub name: String,
    /// The form it has, where a narinfo says so; else it is found out.
    pub form: Option<Compression>,
    /// Size of the NAR, where a narinfo says so.
    pub nar_size: Option<u64>,
    /// Largest encoded size that is taken.
    pub limit: u64,
}

/// An opened store path or content.
#[derive(Debug)]
pub struct Object {
    name: String,
    content: Arc<Content>,
    form: Form,
    listing: Listing,
}

#[derive(Debug)]
enum Form {
    /// No archive: one file.
    File,
    Nar,
    Seekable(SeekTable),
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
        let (form, listing) = opening.find_form(&content).await?;
        if listing.len() > MAX_NODES {
            return Err(opening.fault(Fault::TooManyNodes { found: listing.len() }));
        }
        Ok(Object { name: opening.expected.name, content, form, listing })
    }

    /// The tree.
    pub fn listing(&self) -> &Listing {
        &self.listing
    }

    /// How messages name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The read capability that it was opened by.
    pub fn capability(&self) -> &ReadCapability {
        self.content.capability()
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        let table = match &self.form {
            Form::Seekable(table) => table.memory(),
            Form::File | Form::Nar => 0,
        };
        self.listing.memory() + table + size_of::<Self>()
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
        let Kind::File { size, offset: start, .. } = self.listing.kind(node) else {
            return Err(Error::IsDirectory);
        };
        let from = offset.min(size);
        let to = offset.saturating_add(length).min(size);
        let read = self.read_range(start + from..start + to, frames, deadline).await;
        read.map_err(|source| Error::Read { name: self.full_name(node), source })
    }

    /// Bytes of the NAR (of the file, where it is no NAR).
    pub async fn read_range(
        &self,
        range: std::ops::Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
    ) -> Result<Bytes, crate::content::Error> {
        let Form::Seekable(table) = &self.form else {
            return self.content.read_at(range, deadline).await;
        };
        let covering = table.frames_covering(range.clone());
        let reads = covering.iter().map(|frame| {
            let wanted = range.start.max(frame.unpacked.start)..range.end.min(frame.unpacked.end);
            let within = (wanted.start - frame.unpacked.start) as usize;
            let until = (wanted.end - frame.unpacked.start) as usize;
            async move {
                let bytes = frames.get(&self.content, &as_frame(frame), deadline).await?;
                Ok(bytes.slice(within..until))
            }
        });
        let parts: Vec<Bytes> = futures::future::try_join_all(reads).await?;
        match <[Bytes; 1]>::try_from(parts) {
            Ok([whole]) => Ok(whole),
            Err(parts) => {
                let mut bytes = BytesMut::with_capacity((range.end - range.start) as usize);
                parts.iter().for_each(|part| bytes.extend_from_slice(part));
                Ok(bytes.freeze())
            }
        }
    }

    /// Fetches and decodes what a read of this range of a file will need.
    pub async fn warm(
        &self,
        node: NodeId,
        range: std::ops::Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
    ) -> Result<(), crate::content::Error> {
        let Kind::File { size, offset: start, .. } = self.listing.kind(node) else { return Ok(()) };
        let range = start + range.start.min(size)..start + range.end.min(size);
        match &self.form {
            Form::Seekable(_) => self.read_range(range, frames, deadline).await.map(drop),
            Form::File | Form::Nar => self.content.warm(range, deadline).await,
        }
    }

    fn full_name(&self, node: NodeId) -> String {
        let path = self.listing.path(node);
        match path.is_empty() {
            true => self.name.clone(),
            false => format!("{}/{}", self.name, String::from_utf8_lossy(&path)),
        }
    }
}

fn as_frame(frame: &crate::nar::seekable::Frame) -> Frame {
    Frame {
        number: frame.number,
        packed: frame.packed.clone(),
        length: (frame.unpacked.end - frame.unpacked.start) as u32,
    }
}
