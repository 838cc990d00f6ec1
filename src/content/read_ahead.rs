//! Who reads in order, and how much to fetch ahead for it: a window that doubles while it is used.
//!
//! The kernel gives no file handle (OPEN is answered once, with ENOSYS), so readers are told apart by where
//! they read: each object has a few streams over its NAR (as ZFS has them over a file). Files lie in the NAR
//! in the order of a walk, so reading one file after the other is a stream as well. A reader that jumps has
//! its window closed and its fetches dropped at once; one whose windows were in vain gets none until it has
//! read enough to pay for them.

use std::future::Future;
use std::num::NonZeroUsize;
use std::ops::Range;

use lru::LruCache;
use tokio::task::JoinSet;

/// Objects whose readers are remembered: a start-up touches a closure's worth of them.
const OBJECTS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Streams of one object: one for each of so many parallel readers.
const STREAMS: usize = 16;
/// The first window: one more of the kernel's own 128 KiB reads would be too late at any latency.
const FIRST: u64 = 512 << 10;
/// How far a read may be from where the stream stands: the kernel's parallel requests arrive slightly out of order, and
/// readers hop over headers.
const SLACK: u64 = 256 << 10;
/// How far a reader may hop in a window that is open, since what it hops over was fetched already.
const HOP: u64 = 1 << 20;
/// What a reader may have read unseen between two of its requests where data is pushed: twice what is pushed in one stretch.
const UNSEEN: u64 = 2 << 20;
/// Bytes that are read in order before the window opens: most files are looked into, not read through.
const EVIDENCE: u64 = SLACK;
/// Files that are read one after the other before the window goes beyond their ends.
const WALK: u32 = 4;
/// Of what a reader touched, one in so many bytes may be fetched in vain before its window stays shut.
const IN_VAIN: u64 = 5;
/// A stream that was not seen for so many reads of anybody takes no share of the budget any more.
const FORGOTTEN: u64 = 4096;
/// A reader that went on after so many jumps in its object is another one than the one that jumps.
const INDEPENDENT: u8 = 2;

/// How far to read ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// The largest window, in bytes of the NAR: twice what is in flight on the fastest link.
    pub largest: u64,
    /// All windows together: what is fetched ahead must still be kept when it is read.
    pub together: u64,
    /// Whether data is pushed into the kernel, which then does not ask for what was fetched ahead.
    pub pushed: bool,
}

/// A read, as a place in the NAR of its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The number of the object.
    pub object: u64,
    /// What is read.
    pub range: Range<u64>,
    /// What comes with it: the frames or blocks that hold it.
    pub unit: Range<u64>,
    /// The contents of the file that it is in.
    pub file: Range<u64>,
    /// The size of the NAR.
    pub end: u64,
}

/// Detects those who read in order, and holds what is fetched ahead for them.
#[derive(Debug)]
pub struct ReadAhead {
    objects: LruCache<u64, Streams>,
    windows: Windows,
    reads: u64,
}

#[derive(Debug, Default)]
struct Streams {
    /// The one that was read last comes first.
    streams: Vec<Stream>,
    touched: u64,
    in_vain: u64,
}

#[derive(Debug)]
struct Stream {
    /// Where it began, and where it is.
    first: u64,
    next: u64,
    /// Bytes read since it began.
    read: u64,
    /// What came with the last read.
    unit: Range<u64>,
    file: Range<u64>,
    /// Files begun in order after the first.
    files: u32,
    window: u64,
    /// Where the window was when it grew.
    grown: u64,
    /// Up to where was asked for ahead already.
    ahead: u64,
    stopped: bool,
    survived: u8,
    seen: u64,
    work: JoinSet<()>,
}

impl ReadAhead {
    /// Knows nobody yet.
    pub fn new(windows: Windows) -> Self {
        ReadAhead { objects: LruCache::new(OBJECTS), windows, reads: 0 }
    }

    /// Takes note of a read. Where something is to be fetched ahead now, runs what `fetch` makes of that range of the NAR;
    /// it is dropped when the reader turns elsewhere. Inside a tokio runtime only.
    pub fn observe<F>(&mut self, read: &Read, fetch: impl FnOnce(Range<u64>) -> F) -> Option<Range<u64>>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if read.range.is_empty() {
            return None;
        }
        self.reads += 1;
        let (windows, reads) = (self.windows, self.reads);
        let streams = self.objects.get_or_insert_mut(read.object, Streams::default);
        streams.find(read, windows.pushed);
        let stream = streams.streams.first_mut()?;
        stream.seen = reads;
        if !streams_may_open(stream, streams.touched, streams.in_vain) {
            return None;
        }
        let share = self.share();
        let stream = self.objects.get_mut(&read.object)?.streams.first_mut()?;
        let range = stream.extend(read, windows.largest.min(share))?;
        while stream.work.try_join_next().is_some() {}
        stream.work.spawn(fetch(range.clone()));
        Some(range)
    }

    /// What each of those who read in order now may have of the budget.
    fn share(&self) -> u64 {
        let streams = self.objects.iter().flat_map(|(_, streams)| &streams.streams);
        let live = streams.filter(|stream| stream.window > 0 && self.reads - stream.seen < FORGOTTEN).count();
        self.windows.together / live.max(1) as u64
    }
}

/// Whether the window is open, or there is reason to open it.
fn streams_may_open(stream: &Stream, touched: u64, in_vain: u64) -> bool {
    // Half of what lies between: others may read the rest, but a reader that hops about is none of those.
    let dense = stream.read >= (stream.next - stream.first) / 2;
    let in_order = stream.files >= WALK || (stream.read > EVIDENCE && dense);
    in_order && (stream.window > 0 || in_vain <= touched / IN_VAIN)
}

impl Streams {
    /// Puts the stream that `read` belongs to first, a new one if there is none.
    fn find(&mut self, read: &Read, pushed: bool) {
        let place = (0..self.streams.len())
            .filter(|&place| self.streams[place].takes(read, pushed))
            .min_by_key(|&place| self.streams[place].next.abs_diff(read.range.start));
        let Some(place) = place else {
            // Whoever read last has jumped here, as far as one can tell.
            if let Some(last) = self.streams.first_mut().filter(|last| last.survived < INDEPENDENT) {
                self.in_vain += last.stop();
            }
            if self.streams.len() == STREAMS
                && let Some(mut oldest) = self.streams.pop()
            {
                self.in_vain += oldest.stop();
            }
            self.touched += read.unit.end - read.unit.start;
            self.streams.insert(0, Stream::new(read));
            return;
        };
        let mut stream = self.streams.remove(place);
        if !(stream.unit.start..=stream.unit.end).contains(&read.unit.end) {
            self.touched += read.unit.end - read.unit.start.max(stream.unit.end).min(read.unit.end);
        }
        self.in_vain += stream.advance(read, pushed);
        self.streams.insert(0, stream);
    }
}

impl Stream {
    fn new(read: &Read) -> Self {
        Stream {
            first: read.range.start,
            next: read.range.end,
            read: read.range.end - read.range.start,
            unit: read.unit.clone(),
            file: read.file.clone(),
            files: 0,
            window: 0,
            grown: 0,
            ahead: 0,
            stopped: false,
            survived: 0,
            seen: 0,
            work: JoinSet::new(),
        }
    }

    /// Whether `read` is close enough to where the stream stands.
    fn takes(&self, read: &Read, pushed: bool) -> bool {
        let hop = match self.window {
            0 => SLACK,
            // What was pushed is read unseen, and of two requests at its end the second may come first.
            _ if pushed => SLACK.saturating_add(self.ahead.saturating_sub(self.next)),
            window => SLACK.max(HOP.min(window)),
        };
        let back = SLACK.max(self.window.min(HOP));
        read.range.start <= self.next.saturating_add(hop)
            && read.range.start.saturating_add(back) >= self.next
    }

    /// Goes on to `read`; gives the bytes that were fetched ahead and passed over.
    fn advance(&mut self, read: &Read, pushed: bool) -> u64 {
        if std::mem::take(&mut self.stopped) {
            self.survived = self.survived.saturating_add(1);
        }
        if read.file.start >= self.file.end {
            self.files = self.files.saturating_add(1);
            self.file = read.file.clone();
        } else if read.file.end <= self.file.start {
            self.files = self.files.saturating_sub(2);
        }
        let unasked = read.range.start.min(self.ahead).saturating_sub(self.next);
        let unseen = if pushed { unasked.min(UNSEEN) } else { 0 };
        let hopped = match pushed {
            true => unasked - unseen,
            false => read.range.start.min(self.ahead).saturating_sub(self.next.max(self.unit.end)),
        };
        self.read = self.read.saturating_add(read.range.end - read.range.start + unseen);
        if read.range.end > self.next {
            self.next = read.range.end;
            self.unit = read.unit.clone();
        }
        hopped
    }

    /// What to fetch ahead now, at most `largest` bytes beyond where the stream stands.
    fn extend(&mut self, read: &Read, largest: u64) -> Option<Range<u64>> {
        if self.window == 0 {
            (self.window, self.grown, self.ahead) = (FIRST, self.next, 0);
        } else if self.next >= self.grown.saturating_add(self.window / 2) {
            (self.window, self.grown) = (self.window.saturating_mul(2), self.next);
        }
        self.window = self.window.min(largest).max(1);
        let limit = if self.files >= WALK { read.end } else { self.file.end };
        let end = self.next.saturating_add(self.window).min(limit);
        let start = self.ahead.max(self.unit.end);
        // An eighth of the window at least: one task for some frames, and no gap in what is in flight.
        if start >= end || (end < limit && end - start < self.window / 8) {
            return None;
        }
        self.ahead = end;
        Some(start..end)
    }

    /// Closes the window and drops what is being fetched for it; gives how many bytes that was.
    fn stop(&mut self) -> u64 {
        if self.window == 0 {
            return 0;
        }
        let in_vain = self.ahead.saturating_sub(self.next.max(self.unit.end));
        self.work = JoinSet::new();
        (self.window, self.files, self.read, self.first) = (0, 0, 0, self.next);
        self.stopped = true;
        in_vain
    }
}

#[cfg(test)]
mod tests;
