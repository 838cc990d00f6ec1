//! Data for the kernel's page cache, before the kernel asks for it.
//!
//! A page that is there already is never asked for, so a reader whose whole window was pushed would be out of
//! sight, and its window would not move on. Therefore some pages are left out, so far apart that they cost
//! little: the reads of those show where the reader is.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;

use bytes::{Bytes, BytesMut};

use crate::nar::NodeId;
use crate::tree::inode::{Inode, Slot};
use crate::tree::object::Object;

/// The kernel's pages. Where they are larger, it drops what is pushed in halves.
const PAGE: u64 = 4096;
/// What the kernel reads at a time: the first of every [`STRIDE`] bytes is left to it.
const READ: u64 = 128 << 10;
/// One read in eight still comes.
const STRIDE: u64 = 1 << 20;

/// Bytes of a file that the kernel may keep: whole pages, the last of the file excepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The file.
    pub inode: Inode,
    /// Where in the file they begin.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// The way to whoever can put data into the kernel's cache, while there is one.
#[derive(Debug, Default)]
pub(super) struct Pusher {
    on: AtomicBool,
    sender: Mutex<Option<SyncSender<Pushed>>>,
}

impl Pusher {
    pub(super) fn set(&self, sender: Option<SyncSender<Pushed>>) {
        self.on.store(sender.is_some(), Ordering::Relaxed);
        *self.sender.lock().expect("no panic while held") = sender;
    }

    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Takes pieces of the NAR of `object` from `start` on, in order. `node` is a file at or before that place.
    pub(super) fn pieces(
        self: Arc<Self>,
        slot: Slot,
        object: Arc<Object>,
        node: NodeId,
        start: u64,
    ) -> Pieces {
        Pieces { pusher: self, slot, object, node: node.index(), held: BytesMut::new(), start }
    }

    fn push(&self, pushed: Pushed) {
        if let Some(sender) = &*self.sender.lock().expect("no panic while held") {
            // Where it is full, the kernel asks for what it wants.
            let _ = sender.try_send(pushed);
        }
    }
}

/// Cuts a stretch of a NAR into the pages of its files.
pub(super) struct Pieces {
    pusher: Arc<Pusher>,
    slot: Slot,
    object: Arc<Object>,
    /// The file to go on with.
    node: u32,
    /// Bytes that did not fill a page yet, and where in the NAR they begin.
    held: BytesMut,
    start: u64,
}

impl Pieces {
    /// Takes what follows the piece before.
    pub(super) fn take(&mut self, at: u64, bytes: &[u8]) {
        if at != self.start + self.held.len() as u64 {
            self.held.clear();
            self.start = at;
        }
        self.held.extend_from_slice(bytes);
        let (start, bytes) = (self.start, self.held.split().freeze());
        let end = start + bytes.len() as u64;
        let mut done = end;
        while let Some(node) = self.object.listing().node(self.node) {
            let extent = self.object.extent(node).map(|(first, size)| first..first + size);
            if let Some(file) = &extent
                && file.end > start
            {
                if file.start >= end {
                    break;
                }
                let from = start.max(file.start) - file.start;
                let to =
                    if file.end <= end { file.end - file.start } else { (end - file.start) / PAGE * PAGE };
                let from = from.next_multiple_of(PAGE);
                let slice = |from: u64, to: u64| {
                    let place = |at: u64| (file.start + at - start) as usize;
                    bytes.slice(place(from)..place(to))
                };
                for part in parts(from..to, file.clone()) {
                    let inode = Inode::new(self.slot, node);
                    let piece = apart(slice(part.start, part.end), bytes.len());
                    self.pusher.push(Pushed { inode, offset: part.start, bytes: piece });
                }
                if file.end > end {
                    done = (file.start + to).clamp(start, end);
                    break;
                }
            }
            self.node += 1;
        }
        self.held.extend_from_slice(&bytes[(done - start) as usize..]);
        self.start = done;
    }
}

/// A slice of a buffer of so many bytes, copied where it is much smaller: waiting, it would keep the whole buffer.
fn apart(slice: Bytes, buffer: usize) -> Bytes {
    if slice.len().saturating_mul(4) < buffer { Bytes::copy_from_slice(&slice) } else { slice }
}

/// What of `range` of a file that lies at `file` in the NAR is pushed.
fn parts(range: std::ops::Range<u64>, file: std::ops::Range<u64>) -> Vec<std::ops::Range<u64>> {
    if file.end - file.start <= READ {
        // Of small files one is left out wherever a stretch of two reads begins.
        let marks = file.start / (2 * READ) != file.end / (2 * READ);
        return if marks || range.is_empty() { Vec::new() } else { vec![range] };
    }
    let (mut parts, mut at) = (Vec::new(), range.start);
    while at < range.end {
        let end = (at / STRIDE + 1) * STRIDE;
        let start = at.max(end - STRIDE + READ);
        if start < range.end.min(end) {
            parts.push(start..range.end.min(end));
        }
        at = end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_small_slice_does_not_keep_its_buffer() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        for (length, copied) in [(4096, true), (512 << 10, false)] {
            let piece = apart(buffer.slice(..length), buffer.len());
            assert!(piece == buffer[..length]);
            assert_eq!(piece.as_ptr() != buffer.as_ptr(), copied);
        }
    }

    #[test]
    fn of_a_large_file_one_read_in_eight_is_left_to_the_kernel() {
        let parts = parts(4096..3 * MIB + 5, 96..96 + 3 * MIB + 5);
        assert_eq!(parts, [READ..MIB, MIB + READ..2 * MIB, 2 * MIB + READ..3 * MIB]);
    }

    #[test]
    fn of_small_files_those_that_cross_a_mark_are_left_to_the_kernel() {
        let (mut pushed, mut left) = (0, 0);
        for number in 0..1000 {
            let start = number * 5000;
            match parts(0..4800, start..start + 4800).len() {
                0 => left += 1,
                _ => pushed += 1,
            }
        }
        assert!(pushed > 900 && left >= 10, "{pushed} {left}");
    }
}
