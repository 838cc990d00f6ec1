//! One store path (or content) opened: its tree, and where each file's bytes are.
//!
//! A seekable NAR brings its listing along at its end; for a plain NAR the tree is found by walking the
//! headers and hopping over the contents. What is no NAR at all is shown as one file.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::inode::MAX_NODES;
use super::{Error, Facts};
use crate::compress::Compression;
use crate::content::{self, Content, Deadline, Fetch, FrameCache, Limits};
use crate::eris::ReadCapability;
use crate::nar::seekable::{Frame, SeekTable, Tail, TailError, read_listing, read_profile};
use crate::nar::{Builder, Indexer, Kind, Listing, ListingError, NodeId};
use crate::store::Profile;

/// What the seek table and the listing of most paths fit into, so that they come with the last block.
const TAIL: u64 = 64 * 1024;
/// The first step of a walk over the headers of a plain NAR, and the largest one.
const STEP: std::ops::RangeInclusive<u64> = 32 * 1024..=1024 * 1024;

/// Frames that are decoded at a time for one read.
const FRAMES: usize = 8;
/// Compressed bytes that are fetched in one piece ahead of need: some frames, and decoded as soon as they are there.
const RUN: u64 = 512 * 1024;
/// Frames in such a piece: a few of the usual size, and no more of those that some stranger made.
const RUN_FRAMES: usize = 16;
/// Listings that are parsed at a time: a large one takes hundreds of MiB while it is.
static PARSING: Semaphore = Semaphore::const_new(2);
/// The same for what nobody waits for, apart so that it never stands before what somebody waits for.
static PARSING_AHEAD: Semaphore = Semaphore::const_new(1);
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
    profile: Option<Profile>,
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
        let (form, listing, profile) = opening.find_form(&content).await?;
        if listing.len() > MAX_NODES {
            return Err(opening.fault(Fault::TooManyNodes { found: listing.len() }));
        }
        let expected = opening.expected.facts;
        let object = Object { name: opening.expected.name.clone(), content, form, listing, profile };
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
        let profile = self.profile.as_ref().map_or(0, Profile::memory);
        self.listing.memory() + self.content.memory() + table + profile + size_of::<Self>()
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

    /// Fetches and decodes a range of the NAR (of the file, where it is no NAR) ahead of need, in order. `arrived` is called with
    /// each piece and its place.
    pub async fn fetch_range(
        &self,
        range: Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
        mut arrived: impl FnMut(u64, Bytes),
    ) -> Result<(), content::Error> {
        let Form::Seekable(table) = &self.form else {
            let bytes = self.content.read_at(range.clone(), deadline).await?;
            arrived(range.start, bytes);
            return Ok(());
        };
        let runs = runs(table.frames_covering(range.clone())).map(|run| async move {
            let decoded = frames.get_run(&self.content, &run, deadline).await?;
            Ok::<_, content::Error>((run, decoded))
        });
        let mut runs = stream::iter(runs).buffered(FRAMES);
        while let Some((run, decoded)) = runs.try_next().await? {
            for (frame, bytes) in run.into_iter().map(|frame| frame.decompressed).zip(decoded) {
                let (start, end) = (range.start.max(frame.start), range.end.min(frame.end));
                arrived(start, bytes.slice((start - frame.start) as usize..(end - frame.start) as usize));
            }
        }
        Ok(())
    }

    /// Brings the blocks of a range of the NAR into the block cache below, and decodes nothing.
    pub async fn warm(&self, range: Range<u64>, deadline: Deadline) -> Result<(), content::Error> {
        self.content.warm(self.encoded(range), deadline).await
    }

    /// The bytes of the encoded object that hold a range of the NAR; empty where it has none of it.
    fn encoded(&self, range: Range<u64>) -> Range<u64> {
        let Form::Seekable(table) = &self.form else { return range };
        let mut frames = table.frames_covering(range);
        let Some(first) = frames.next() else { return 0..0 };
        first.compressed.start..frames.last().map_or(first.compressed.end, |last| last.compressed.end)
    }

    /// The bytes of the encoded object that are fetched for a range of the NAR: whole blocks.
    pub(super) fn blocks(&self, range: Range<u64>) -> Range<u64> {
        let (range, block) = (self.encoded(range), self.capability().block_size.bytes() as u64);
        let end = range.end.checked_next_multiple_of(block).unwrap_or(range.end);
        range.start / block * block..end.min(self.content.length())
    }

    /// What comes with a range of the NAR, since it cannot be had without: whole frames, or blocks.
    pub fn unit(&self, range: Range<u64>) -> Range<u64> {
        match &self.form {
            Form::File | Form::Nar => self.blocks(range),
            Form::Seekable(table) => {
                let mut frames = table.frames_covering(range.clone()).map(|frame| frame.decompressed);
                let Some(first) = frames.next() else { return range };
                first.start..frames.last().map_or(first.end, |last| last.end)
            }
        }
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
        self.encoded(first.unwrap_or(end)..end)
    }

    /// Whether its archive is compressed in frames, which are kept decoded.
    pub fn is_seekable(&self) -> bool {
        matches!(self.form, Form::Seekable(_))
    }

    /// Where in the NAR the contents of a file begin, and their size; `None` for what is no file.
    pub fn extent(&self, node: NodeId) -> Option<(u64, u64)> {
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

/// What is found out about a content: its form, its tree, and the profile that came with it.
type Found = (Form, Listing, Option<Profile>);

/// The end of a seekable archive: where the frames are, and the compressed listing and profile.
struct Seekable {
    table: SeekTable,
    listing: Option<Bytes>,
    profile: Option<Bytes>,
}

/// An object on its way to being open.
struct Opening {
    expected: Expected,
    deadline: Deadline,
}

impl Opening {
    async fn find_form(&self, content: &Content) -> Result<Found, Error> {
        match self.expected.form {
            Some(Compression::None) => {
                self.check_size(content.length())?;
                self.walk(content, None).await.map(|listing| (Form::Nar, listing, None))
            }
            Some(Compression::Zstd) => match self.tail(content).await? {
                Some(found) => self.seekable(content, found).await,
                None => Err(self.fault(Fault::NotSeekable)),
            },
            // Compressed in one piece.
            Some(_) => Err(self.fault(Fault::NotSeekable)),
            None => self.guess(content).await,
        }
    }

    /// What a content is that was named by its URN alone. What is no sound archive is a file.
    async fn guess(&self, content: &Content) -> Result<Found, Error> {
        let start = self.read(content, 0..content.length().min(NAR_START.len() as u64)).await?;
        if start == NAR_START {
            match self.walk(content, None).await {
                Ok(listing) => return Ok((Form::Nar, listing, None)),
                Err(Error::Object { .. }) => return Ok((Form::File, single_file(content.length()), None)),
                Err(error) => return Err(error),
            }
        }
        match self.tail(content).await {
            Ok(Some(found)) if self.holds_nar(content, &found.table).await? => {
                match self.seekable(content, found).await {
                    Err(Error::Object { .. }) => Ok((Form::File, single_file(content.length()), None)),
                    answer => answer,
                }
            }
            Ok(_) | Err(Error::Object { .. }) => Ok((Form::File, single_file(content.length()), None)),
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
    async fn tail(&self, content: &Content) -> Result<Option<Seekable>, Error> {
        let length = content.length();
        let mut wanted = TAIL.min(length);
        loop {
            let last = self.read(content, length - wanted..length).await?;
            match Tail::parse(&last, length).map_err(|error| self.fault(error.into()))? {
                Tail::Needs(more) => wanted = more,
                Tail::Absent => return Ok(None),
                Tail::Seekable { table, listing, profile } => {
                    let first = length - wanted;
                    let slice = |range: Range<u64>| {
                        last.slice((range.start - first) as usize..(range.end - first) as usize)
                    };
                    return Ok(Some(Seekable {
                        table,
                        listing: listing.map(slice),
                        profile: profile.map(slice),
                    }));
                }
            }
        }
    }

    async fn seekable(
        &self,
        content: &Content,
        Seekable { table, listing, profile }: Seekable,
    ) -> Result<Found, Error> {
        let nar_size = table.content_size();
        self.check_size(nar_size)?;
        let listing = match listing {
            None => self.walk(content, Some(&table)).await?,
            Some(packed) => {
                let listing = self.parse(move || read_listing(&packed, nar_size)).await?;
                listing.map_err(|error| self.fault(error.into()))?
            }
        };
        let profile = match profile {
            None => None,
            Some(packed) => {
                let parsed =
                    self.parse(move || read_profile(&packed).map(|text| Profile::parse(&text))).await?;
                let log = |error: &_| tracing::debug!("{}: {error}", self.expected.name);
                parsed.and_then(|parsed| parsed.inspect_err(log).ok())
            }
        };
        Ok((Form::Seekable(table), listing, profile))
    }

    /// Does what takes a while for a large object, so that no other request waits for it; till the deadline.
    async fn parse<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let room = if self.deadline.is_ahead() { &PARSING_AHEAD } else { &PARSING };
        let parsed = self.deadline.bound(async {
            let permit = room.acquire().await.expect("it is never closed");
            // It goes on when nobody waits any more, so the permit stays with it.
            let work = move || {
                let _permit = permit;
                work()
            };
            spawn_blocking(work).await.expect("parsing does not panic")
        });
        parsed.await.ok_or_else(|| Error::Overdue { name: self.expected.name.clone() })
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

/// Consecutive frames, those together that are fetched in one piece.
fn runs(frames: impl Iterator<Item = Frame>) -> impl Iterator<Item = Vec<Frame>> {
    let mut frames = frames.peekable();
    std::iter::from_fn(move || {
        let mut run = vec![frames.next()?];
        let end = run[0].compressed.start + RUN;
        while let Some(next) = frames.next_if(|next| next.compressed.end <= end && run.len() < RUN_FRAMES) {
            run.push(next);
        }
        Some(run)
    })
}

/// The tree of a content that is no archive.
fn single_file(length: u64) -> Listing {
    let mut builder = Builder::new();
    builder.file(b"", false, length).expect("a lone file is a valid tree");
    builder.finish().expect("a lone file is a complete tree")
}
