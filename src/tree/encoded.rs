//! The bytes of a NAR as they are encoded in one ERIS content: which of its blocks hold what, and how to read them.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};

use crate::compress::Compression;
use crate::content::{Content, Deadline, Error, FrameCache};
use crate::nar::seekable::{Frame, SeekTable};

/// Frames that are decoded at a time for one read.
const FRAMES: usize = 8;
/// Compressed bytes that are fetched in one piece ahead of need: some frames, and decoded as soon as they are there.
const RUN: u64 = 512 * 1024;
/// Frames in such a piece: a few of the usual size, and no more of those that some stranger made.
const RUN_FRAMES: usize = 16;
/// Memory of an entry of a seek table.
const SEEK_ENTRY: usize = 16;

/// A content, and in which form the NAR is in it.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) content: Arc<Content>,
    pub(super) form: Form,
}

#[derive(Debug)]
pub(super) enum Form {
    /// No archive: one file.
    File,
    Nar,
    Seekable(SeekTable),
}

impl Encoded {
    /// How the archive is compressed in the content; `None` if the content is no archive.
    pub(super) fn compression(&self) -> Option<Compression> {
        match &self.form {
            Form::File => None,
            Form::Nar => Some(Compression::None),
            Form::Seekable(_) => Some(Compression::Zstd),
        }
    }

    /// Size of the NAR in bytes (of the file, where it is no NAR).
    pub(super) fn nar_size(&self) -> u64 {
        match &self.form {
            Form::File | Form::Nar => self.content.length(),
            Form::Seekable(table) => table.content_size(),
        }
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory(&self) -> usize {
        let table = match &self.form {
            Form::Seekable(table) => table.len() as usize * SEEK_ENTRY,
            Form::File | Form::Nar => 0,
        };
        self.content.memory() + table
    }

    /// Bytes of the NAR (of the file, where it is no NAR).
    pub(super) async fn read_range(
        &self,
        range: Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
    ) -> Result<Bytes, Error> {
        let Form::Seekable(table) = &self.form else {
            return self.content.read_at(range, deadline).await;
        };
        let reads = table.frames_covering(range.clone()).map(|frame| {
            let start = range.start.max(frame.decompressed.start) - frame.decompressed.start;
            let end = range.end.min(frame.decompressed.end) - frame.decompressed.start;
            async move {
                let bytes = frames.get(&self.content, &frame, deadline).await?;
                Ok::<_, Error>(bytes.slice(start as usize..end as usize))
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
    pub(super) async fn fetch_range(
        &self,
        range: Range<u64>,
        frames: &FrameCache,
        deadline: Deadline,
        mut arrived: impl FnMut(u64, Bytes),
    ) -> Result<(), Error> {
        let Form::Seekable(table) = &self.form else {
            let bytes = self.content.read_at(range.clone(), deadline).await?;
            arrived(range.start, bytes);
            return Ok(());
        };
        let runs = runs(table.frames_covering(range.clone())).map(|run| async move {
            let decoded = frames.get_run(&self.content, &run, deadline).await?;
            Ok::<_, Error>((run, decoded))
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
    pub(super) async fn warm(&self, range: Range<u64>, deadline: Deadline) -> Result<(), Error> {
        self.content.warm(self.encoded(range), deadline).await
    }

    /// The bytes of the encoded object that hold a range of the NAR; empty where it has none of it.
    pub(super) fn encoded(&self, range: Range<u64>) -> Range<u64> {
        let Form::Seekable(table) = &self.form else { return range };
        let mut frames = table.frames_covering(range);
        let Some(first) = frames.next() else { return 0..0 };
        first.compressed.start..frames.last().map_or(first.compressed.end, |last| last.compressed.end)
    }

    /// The bytes of the encoded object that are fetched for a range of the NAR: whole blocks.
    pub(super) fn blocks(&self, range: Range<u64>) -> Range<u64> {
        let (range, block) = (self.encoded(range), self.content.capability().block_size.bytes() as u64);
        let end = range.end.checked_next_multiple_of(block).unwrap_or(range.end);
        range.start / block * block..end.min(self.content.length())
    }

    /// What comes with a range of the NAR, since it cannot be had without: whole frames, or blocks.
    pub(super) fn unit(&self, range: Range<u64>) -> Range<u64> {
        match &self.form {
            Form::File | Form::Nar => self.blocks(range),
            Form::Seekable(table) => {
                let mut frames = table.frames_covering(range.clone()).map(|frame| frame.decompressed);
                let Some(first) = frames.next() else { return range };
                first.start..frames.last().map_or(first.end, |last| last.end)
            }
        }
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
