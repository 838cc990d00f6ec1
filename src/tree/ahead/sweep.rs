//! What is likely to be read next around a program for which there is no profile: the files that it began to read, the small files
//! beside them, and, where the link is fat enough, all of its store path and of what that refers to.
//!
//! A start is a hundred reads one after the other, each a round trip; what lies around them comes in few. Blocks are brought into
//! the block cache as they are, through the gate, with as many requests at a time as do not make each other slow: whoever waits for
//! a block shares the link with no more than it can hold anyway.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::PATIENCE;
use super::pace::Pace;
use crate::content::Deadline;
use crate::nar::{Kind, Listing, NodeId};
use crate::tree::inode::Slot;
use crate::tree::object::Object;

/// What is asked for in one piece, in bytes of the encoded object: four blocks.
pub(super) const PIECE: u64 = 128 << 10;
/// Only small files are fetched because one beside them was read.
const SMALL: u64 = 512 << 10;
/// The most files of a directory that are looked at.
const BESIDE: usize = 4096;
/// A whole store path is fetched where the rest of it comes within this time.
const SOON: Duration = Duration::from_secs(3);
/// News that may wait. More come only while the task stands still, and can be missed.
const NEWS: usize = 256;
/// Files, directories and pieces that are remembered, so as not to ask twice.
const SEEN: usize = 64 << 10;
/// Store paths that are swept at a time, with their listings.
const OBJECTS: usize = 256;

/// The way to the task that sweeps. Dropped, it ends the task and all that it was fetching.
#[derive(Debug)]
pub(super) struct Sweeper(mpsc::Sender<News>);

/// What the task hears.
#[derive(Debug)]
pub(super) enum News {
    /// The first read of a program in a store path.
    Program(Slot, Arc<Object>),
    /// A store path that a program refers to.
    Reference(Slot, Arc<Object>),
    /// A file of the store path of a program is read.
    File(Slot, Arc<Object>, NodeId),
}

impl Sweeper {
    /// Starts the task, inside a tokio runtime. It fetches at most so many bytes for a program.
    pub(super) fn start(most: u64) -> Self {
        let (sender, news) = mpsc::channel(NEWS);
        tokio::spawn(Sweep::new(most).run(news));
        Sweeper(sender)
    }

    /// Tells the task. Returns at once.
    pub(super) fn tell(&self, news: News) {
        let _ = self.0.try_send(news);
    }

    /// Tells it too, but does not keep it going.
    pub(super) fn teller(&self) -> Teller {
        Teller(self.0.downgrade())
    }
}

/// One who tells a [`Sweeper`], as long as there is one.
#[derive(Debug, Clone)]
pub(super) struct Teller(mpsc::WeakSender<News>);

impl Teller {
    /// Waits until the task has time to hear it.
    pub(super) async fn tell(&self, news: News) {
        if let Some(sender) = self.0.upgrade() {
            let _ = sender.send(news).await;
        }
    }
}

/// A piece of an encoded object, by its number.
type Piece = (Slot, u64);

struct Sweep {
    most: u64,
    /// Bytes that may still be fetched for the program that was started last.
    left: u64,
    objects: HashMap<Slot, Arc<Object>>,
    /// Pieces that were asked for, and those that will be, in this order.
    asked: HashSet<Piece>,
    next: VecDeque<Piece>,
    /// Files and directories that were looked at.
    seen: HashSet<(Slot, NodeId)>,
    /// Store paths to be fetched whole, and how far the first of them is.
    whole: VecDeque<Slot>,
    at: u64,
    pace: Pace,
}

impl Sweep {
    fn new(most: u64) -> Self {
        Sweep {
            most,
            left: most,
            objects: HashMap::new(),
            asked: HashSet::new(),
            next: VecDeque::new(),
            seen: HashSet::new(),
            whole: VecDeque::new(),
            at: 0,
            pace: Pace::default(),
        }
    }

    async fn run(mut self, mut news: mpsc::Receiver<News>) {
        let mut flights = FuturesUnordered::new();
        loop {
            while flights.len() < self.pace.window()
                && let Some((object, range)) = self.next_piece()
            {
                flights.push(async move {
                    let begun = Instant::now();
                    let answer = object.content().warm(range, Deadline::after(PATIENCE).ahead()).await;
                    if let Err(error) = &answer {
                        tracing::debug!("sweeping: {}: {error}", object.name());
                    }
                    answer.ok().map(|()| begun.elapsed())
                });
            }
            tokio::select! {
                heard = news.recv() => match heard {
                    Some(heard) => self.hear(heard),
                    None => return,
                },
                Some(took) = flights.next() => match took {
                    Some(took) => self.pace.came(PIECE, took, flights.len() + 1),
                    // What cannot be had now is not asked for again and again.
                    None => self.forget(),
                },
            }
            if self.pace.is_thin() {
                self.forget();
            }
        }
    }

    fn hear(&mut self, news: News) {
        if self.pace.is_thin() {
            return;
        }
        if self.seen.len() + self.asked.len() > SEEN || self.objects.len() > OBJECTS {
            self.forget();
        }
        match news {
            News::Program(slot, object) => {
                self.left = self.most;
                self.add(slot, object, |whole| whole.push_front(slot));
            }
            News::Reference(slot, object) => self.add(slot, object, |whole| whole.push_back(slot)),
            // Where there is a profile, or the sweep was given up, nobody told of a program.
            News::File(slot, object, node) if self.objects.contains_key(&slot) => {
                self.file(slot, &object, node)
            }
            News::File(..) => {}
        }
    }

    /// Takes note of an object that is to be fetched whole, in the order that `place` decides.
    fn add(&mut self, slot: Slot, object: Arc<Object>, place: impl FnOnce(&mut VecDeque<Slot>)) {
        self.objects.entry(slot).or_insert(object);
        if self.seen.insert((slot, NodeId::ROOT)) {
            self.at = 0;
            place(&mut self.whole);
        }
    }

    /// Somebody reads a file: it comes next, then the small files beside it.
    fn file(&mut self, slot: Slot, object: &Object, node: NodeId) {
        if !self.seen.insert((slot, node)) {
            return;
        }
        let listing = object.listing();
        // Of large data, who knows which part will be read.
        if is_small(listing, node) || matches!(listing.kind(node), Kind::File { executable: true, .. }) {
            self.wish(slot, object.encoded_range(node));
        }
        let directory = listing.parent(node);
        if self.seen.insert((slot, directory)) {
            for beside in listing.children(directory).take(BESIDE) {
                if is_small(listing, beside) {
                    self.wish(slot, object.encoded_range(beside));
                }
            }
        }
    }

    /// Puts the pieces of a range into the queue.
    fn wish(&mut self, slot: Slot, range: Range<u64>) {
        let bytes = range.end - range.start;
        if bytes == 0 || bytes > self.left || !self.pace.is_soon(bytes, SOON) {
            return;
        }
        for number in range.start / PIECE..range.end.div_ceil(PIECE) {
            if self.asked.insert((slot, number)) {
                self.next.push_back((slot, number));
            }
        }
    }

    /// The next piece to fetch: what somebody is at, or else of what should come whole.
    fn next_piece(&mut self) -> Option<(Arc<Object>, Range<u64>)> {
        loop {
            let (slot, number) = match self.next.pop_front() {
                Some(piece) => piece,
                None => self.next_of_whole()?,
            };
            let Some(object) = self.objects.get(&slot) else { continue };
            let end = object.content().length().min((number + 1) * PIECE);
            let range = number * PIECE..end;
            if range.is_empty() {
                continue;
            }
            self.left = self.left.checked_sub(PIECE)?;
            return Some((object.clone(), range));
        }
    }

    fn next_of_whole(&mut self) -> Option<Piece> {
        while let Some(&slot) = self.whole.front() {
            let length = self.objects.get(&slot)?.content().length();
            let pieces = length.div_ceil(PIECE);
            let left = (self.at..pieces).find(|&number| self.asked.insert((slot, number)));
            // An upper bound: some of it came already.
            let rest = length - (self.at * PIECE).min(length);
            match left {
                Some(number) if rest <= self.left && self.pace.is_soon(rest, SOON) => {
                    self.at = number + 1;
                    return Some((slot, number));
                }
                _ => {
                    self.whole.pop_front();
                    self.at = 0;
                }
            }
        }
        None
    }

    /// Lets go of everything that was to be fetched and what is known of it.
    fn forget(&mut self) {
        self.next.clear();
        self.whole.clear();
        self.objects.clear();
        self.asked.clear();
        self.seen.clear();
        self.at = 0;
    }
}

fn is_small(listing: &Listing, node: NodeId) -> bool {
    matches!(listing.kind(node), Kind::File { size, .. } if size <= SMALL)
}
