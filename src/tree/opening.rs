//! From a content to its tree: in which form the NAR is in it, and what its nodes are.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::encoded::Form;
use super::{Error, Expected, Fault};
use crate::compress::Compression;
use crate::content::{self, Content, Deadline};
use crate::nar::seekable::{SeekTable, Tail, read_listing, read_profile};
use crate::nar::{Builder, Indexer, Listing};
use crate::store::Profile;

/// What the seek table and the listing of most paths fit into, so that they come with the last block.
pub(super) const TAIL: u64 = 64 * 1024;
/// The first step of a walk over the headers of a plain NAR, and the largest one.
const STEP: std::ops::RangeInclusive<u64> = 32 * 1024..=1024 * 1024;
/// Listings that are parsed at a time: a large one takes hundreds of MiB while it is.
static PARSING: Semaphore = Semaphore::const_new(2);
/// The same for what nobody waits for, apart so that it never stands before what somebody waits for.
static PARSING_AHEAD: Semaphore = Semaphore::const_new(1);
/// What every NAR begins with: the length of the word, and the word.
const NAR_START: &[u8] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0";

/// What is found out about a content: its form, its tree, and the profile that came with it.
pub(super) type Found = (Form, Listing, Option<Profile>);

/// The end of a seekable archive: where the frames are, and the compressed listing and profile.
struct Seekable {
    table: SeekTable,
    listing: Option<Bytes>,
    profile: Option<Bytes>,
}

/// An object on its way to being open.
pub(super) struct Opening {
    pub(super) expected: Expected,
    pub(super) deadline: Deadline,
}

impl Opening {
    pub(super) async fn find_form(&self, content: &Content) -> Result<Found, Error> {
        match self.expected.form {
            Some(Compression::None) => {
                self.check_size(content.length())?;
                self.walk(content, None).await.map(|listing| (Form::Nar, listing, None))
            }
            Some(Compression::Zstd) => match self.tail(content).await? {
                Some(found) => self.seekable(content, found).await,
                None => Err(self.fault(Fault::NotSeekable)),
            },
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

    pub(super) fn read_error(&self, source: content::Error) -> Error {
        Error::Read { name: self.expected.name.clone(), source }
    }

    pub(super) fn fault(&self, fault: Fault) -> Error {
        Error::Object { name: self.expected.name.clone(), fault: Arc::new(fault) }
    }
}

/// The tree of a content that is no archive.
fn single_file(length: u64) -> Listing {
    let mut builder = Builder::new();
    builder.file(b"", false, length).expect("a lone file is a valid tree");
    builder.finish().expect("a lone file is a complete tree")
}
