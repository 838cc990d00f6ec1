//! One store path (or content) opened: its tree, and where each file's bytes are.
//!
//! A seekable NAR brings its listing along at its end; for a plain NAR the tree is found by walking the
//! headers and hopping over the contents. What is no NAR at all is shown as one file.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::inode::MAX_NODES;
use super::{Error, Facts};
use crate::compress::Compression;
use crate::content::{self, Content, Deadline, Fetch, FrameCache, Limits};
use crate::eris::ReadCapability;
use crate::nar::seekable::{SeekTable, Tail, TailError, read_listing};
use crate::nar::{Builder, Indexer, Kind, Listing, ListingError, NodeId};

/// What the seek table and the listing of most paths fit into, so that they come with the last block.
const TAIL: u64 = 64 * 1024;
/// The first step of a walk over the headers of a plain NAR, and the largest one.
const STEP: std::ops::RangeInclusive<u64> = 32 * 1024..=1024 * 1024;

/// Frames that are decoded at a time for one read.
const FRAMES: usize = 8;
/// Listings that are parsed at a time: a large one takes hundreds of MiB while it is.
static PARSING: Semaphore = Semaphore::const_new(2);
/// No announced size: contents of this many bytes are taken (8 EiB are the kernel's limit for a file).
pub(super) const UNLIMITED: u64 = i64::MAX as u64;
/// Memory of an entry of a seek table.
const SEEK_ENTRY: usize = 16;
/// What every NAR begins with: the length of the word, and the word.
const NAR_START: &[u8] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0";

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
    content: Arc<Content>,
    form: Form,
    listing: Listing,
}

#[derive(Debug)]
pub(super) enum Form {
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
        let expected = opening.expected.facts;
        let object = Object { name: opening.expected.name.clone(), content, form, listing };
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

    /// The read capability that it was opened by.
    pub fn capability(&self) -> &ReadCapability {
        self.content.capability()
    }

    /// The encoded object.
    pub fn content(&self) -> &Arc<Content> {
        &self.content
    }

    /// How the archive is compressed in the content; `None` if the content is no archive.
    pub fn compression(&self) -> Option<Compression> {
        match &self.form {
            Form::File => None,
            Form::Nar => Some(Compression::None),
            Form::Seekable(_) => Some(Compression::Zstd),
        }
    }

    pub(super) fn form(&self) -> &Form {
        &self.form
    }

    /// Size of the NAR in bytes (of the file, where it is no NAR).
    pub fn nar_size(&self) -> u64 {
        match &self.form {
            Form::File | Form::Nar => self.content.length(),
            Form::Seekable(table) => table.content_size(),
        }
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
        let table = match &self.form {
            Form::Seekable(table) => table.len() as usize * SEEK_ENTRY,
            Form::File | Form::Nar => 0,
        };
        self.listing.memory() + self.content.memory() + table + size_of::<Self>()
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
        let Form::Seekable(table) = &self.form else {
            return self.content.read_at(range, deadline).await;
        };
        let reads = table.frames_covering(range.clone()).map(|frame| {
            let start = range.start.max(frame.decompressed.start) - frame.decompressed.start;
            let end = range.end.min(frame.decompressed.end) - frame.decompressed.start;
            async move {
                let bytes = frames.get(&self.content, &frame, deadline).await?;
                Ok::<_, content::Error>(bytes.slice(start as usize..end as usize))
            }
        });
        // A few at a time: a hostile table may cut a range into as many frames as it has bytes.
        let parts: Vec<Bytes> = stream::iter(reads).buffered(FRAMES).try_collect().await?;
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
        range: Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
    ) -> Result<(), content::Error> {
        let Some((start, size)) = self.extent(node) else { return Ok(()) };
        let range = start + range.start.min(size)..start + range.end.min(size);
        match &self.form {
            Form::Seekable(table) => {
                let reads = table
                    .frames_covering(range)
                    .map(|frame| async move { frames.get(&self.content, &frame, deadline).await.map(drop) });
                stream::iter(reads).buffered(FRAMES).try_collect().await
            }
            Form::File | Form::Nar => self.content.warm(range, deadline).await,
        }
    }

    /// Where the contents of a file begin, and their size; `None` for what is no file.
    pub(super) fn extent(&self, node: NodeId) -> Option<(u64, u64)> {
        match (self.listing.kind(node), &self.form) {
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

/// Why a content is not the archive that it should be.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The end of the object is broken.
    #[error(transparent)]
    Tail(#[from] TailError),
    /// The headers of the NAR are broken.
    #[error(transparent)]
    Listing(#[from] ListingError),
    /// A compressed object that was not published for random access.
    #[error("it is compressed as one piece, without a seek table, which this version cannot read")]
    NotSeekable,
    /// The NAR is larger or smaller than its narinfo says.
    #[error("the NAR has {found} bytes, but its narinfo says {expected}")]
    NarSize {
        /// As the narinfo has it.
        expected: u64,
        /// As the object has it.
        found: u64,
    },
    /// Something follows the NAR.
    #[error("the NAR ends after {nar} bytes, but there are {content}")]
    Trailing {
        /// Size of the NAR.
        nar: u64,
        /// Bytes that there are.
        content: u64,
    },
    /// The catalog says one thing of the top, the object another.
    #[error("it is a {found:?}, but its catalog says {expected:?}")]
    Facts {
        /// As the catalog has it.
        expected: Facts,
        /// As the object has it.
        found: Facts,
    },
    /// More nodes than inode numbers.
    #[error("{found} files and directories are more than the {MAX_NODES} that a mount can number")]
    TooManyNodes {
        /// How many there are.
        found: usize,
    },
}

/// An object on its way to being open.
struct Opening {
    expected: Expected,
    deadline: Deadline,
}

impl Opening {
    async fn find_form(&self, content: &Content) -> Result<(Form, Listing), Error> {
        match self.expected.form {
            Some(Compression::None) => {
                self.check_size(content.length())?;
                self.walk(content, None).await.map(|listing| (Form::Nar, listing))
            }
            Some(Compression::Zstd) => match self.tail(content).await? {
                Some(found) => self.seekable(content, found).await,
                None => Err(self.fault(Fault::NotSeekable)),
            },
            None => self.guess(content).await,
        }
    }

    /// What a content is that was named by its URN alone. What is no sound archive is a file.
    async fn guess(&self, content: &Content) -> Result<(Form, Listing), Error> {
        let start = self.read(content, 0..content.length().min(NAR_START.len() as u64)).await?;
        if start == NAR_START {
            match self.walk(content, None).await {
                Ok(listing) => return Ok((Form::Nar, listing)),
                Err(Error::Object { .. }) => return Ok((Form::File, single_file(content.length()))),
                Err(error) => return Err(error),
            }
        }
        match self.tail(content).await {
            Ok(Some(found)) if self.holds_nar(content, &found.0).await? => {
                match self.seekable(content, found).await {
                    Err(Error::Object { .. }) => Ok((Form::File, single_file(content.length()))),
                    answer => answer,
                }
            }
            Ok(_) | Err(Error::Object { .. }) => Ok((Form::File, single_file(content.length()))),
            Err(error) => Err(error),
        }
    }

    /// Whether what is compressed begins as a NAR does.
    async fn holds_nar(&self, content: &Content, table: &SeekTable) -> Result<bool, Error> {
        let start = 0..table.content_size().min(NAR_START.len() as u64);
        match self.read_frames(content, table, start, &mut None).await {
            Ok(start) => Ok(start == NAR_START),
            Err(Error::Read { source: content::Error::Frame { .. }, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Seek table, and where the listing is; `None` if the object has no seek table.
    async fn tail(&self, content: &Content) -> Result<Option<(SeekTable, Option<Bytes>)>, Error> {
        let length = content.length();
        let mut wanted = TAIL.min(length);
        loop {
            let last = self.read(content, length - wanted..length).await?;
            match Tail::parse(&last, length).map_err(|error| self.fault(error.into()))? {
                Tail::Needs(more) => wanted = more,
                Tail::Absent => return Ok(None),
                Tail::Seekable { table, listing } => {
                    let first = length - wanted;
                    let listing = listing.map(|listing| {
                        last.slice((listing.start - first) as usize..(listing.end - first) as usize)
                    });
                    return Ok(Some((table, listing)));
                }
            }
        }
    }

    async fn seekable(
        &self,
        content: &Content,
        (table, listing): (SeekTable, Option<Bytes>),
    ) -> Result<(Form, Listing), Error> {
        let nar_size = table.content_size();
        self.check_size(nar_size)?;
        let listing = match listing {
            None => self.walk(content, Some(&table)).await?,
            Some(packed) => {
                let _permit = PARSING.acquire().await.expect("it is never closed");
                // A large listing takes a while to parse; no other request should wait for that.
                tokio::task::spawn_blocking(move || read_listing(&packed, nar_size))
                    .await
                    .expect("parsing does not panic")
                    .map_err(|error| self.fault(error.into()))?
            }
        };
        Ok((Form::Seekable(table), listing))
    }

    fn check_size(&self, found: u64) -> Result<(), Error> {
        match self.expected.nar_size {
            Some(expected) if expected != found => Err(self.fault(Fault::NarSize { expected, found })),
            _ => Ok(()),
        }
    }

    /// Finds the tree by reading the headers of the NAR and hopping over the contents of its files.
    async fn walk(&self, content: &Content, table: Option<&SeekTable>) -> Result<Listing, Error> {
        let size = table.map_or(content.length(), SeekTable::content_size);
        let mut indexer = Indexer::new();
        let mut step = *STEP.start();
        let (mut seen, mut last) = (0, None);
        while let Some(wanted) = indexer.wants().filter(|wanted| *wanted < size) {
            // Small files close together are read through, large ones hopped over.
            step = if wanted > seen { *STEP.start() } else { (step * 2).min(*STEP.end()) };
            let range = wanted..wanted.saturating_add(step).min(size);
            let bytes = match table {
                None => self.read(content, range.clone()).await?,
                Some(table) => self.read_frames(content, table, range.clone(), &mut last).await?,
            };
            indexer.feed(wanted, &bytes).map_err(|error| self.fault(error.into()))?;
            seen = range.end;
        }
        let listing = indexer.finish().map_err(|error| self.fault(error.into()))?;
        match listing.nar_size() {
            nar if nar == size => Ok(listing),
            nar => Err(self.fault(Fault::Trailing { nar, content: size })),
        }
    }

    /// Bytes of the NAR from the frames that hold them: for archives of others, without a listing.
    async fn read_frames(
        &self,
        content: &Content,
        table: &SeekTable,
        range: Range<u64>,
        last: &mut Option<(u32, Bytes)>,
    ) -> Result<Bytes, Error> {
        let mut bytes = BytesMut::new();
        for frame in table.frames_covering(range.clone()) {
            let decoded = match last {
                Some((index, decoded)) if *index == frame.index => decoded.clone(),
                _ => {
                    let decoded = content::decode_frame(content, &frame, self.deadline).await;
                    decoded.map_err(|source| self.read_error(source))?
                }
            };
            *last = Some((frame.index, decoded.clone()));
            let start = range.start.max(frame.decompressed.start) - frame.decompressed.start;
            let end = range.end.min(frame.decompressed.end) - frame.decompressed.start;
            bytes.extend_from_slice(&decoded[start as usize..end as usize]);
        }
        Ok(bytes.freeze())
    }

    async fn read(&self, content: &Content, range: Range<u64>) -> Result<Bytes, Error> {
        content.read_at(range, self.deadline).await.map_err(|source| self.read_error(source))
    }

    fn read_error(&self, source: content::Error) -> Error {
        Error::Read { name: self.expected.name.clone(), source }
    }

    fn fault(&self, fault: Fault) -> Error {
        Error::Object { name: self.expected.name.clone(), fault: Arc::new(fault) }
    }
}

/// The tree of a content that is no archive.
fn single_file(length: u64) -> Listing {
    let mut builder = Builder::new();
    builder.file(b"", false, length).expect("a lone file is a valid tree");
    builder.finish().expect("a lone file is a complete tree")
}
