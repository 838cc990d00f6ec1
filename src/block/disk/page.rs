//! The index page of a bucket: for each slot, which block is in it and when it was used last.
//!
//! An entry is the reference of the block and a word. A page is read without any lock while others write to it, so an entry may be
//! half of one and half of another: that names a block that does not exist, or one whose slot fails the check of its hash.

use std::ops::Range;

use super::layout::{LARGE, PAGE, Place, SMALL};
use crate::eris::{BlockSize, Reference};

const ENTRY: usize = 40;
/// The entries end with the page.
const FIRST: usize = PAGE - (LARGE + SMALL) * ENTRY;

/// When a block was used last, and how it stands.
///
/// The time is counted in blocks stored, by all processes together: clocks of the wall jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word(u64);

impl Word {
    /// Nothing is there, and the slot takes no disk space.
    pub(super) const HOLE: Self = Self(0);
    /// Nothing is there, but the slot takes disk space.
    pub(super) const EMPTY: Self = Self(Self::FILLED);
    const FILLED: u64 = 1 << 62;
    /// It was used again after it was stored.
    const USED: u64 = 1 << 63;
    const TIME: u64 = Self::FILLED - 1;

    /// Of a block that was stored at this time.
    pub(super) fn stored(clock: u64) -> Self {
        Self(Self::FILLED | clock & Self::TIME)
    }

    /// Of a block that was used again at this time.
    pub(super) fn used(clock: u64) -> Self {
        Self(Self::USED | Self::FILLED | clock & Self::TIME)
    }

    pub(super) fn is_used(self) -> bool {
        self.0 & Self::USED != 0
    }

    /// When it was used last. A time that is still to come is damage, and as good as long ago.
    pub(super) fn time(self, clock: u64) -> u64 {
        let time = self.0 & Self::TIME;
        if time > clock { 0 } else { time }
    }

    pub(super) fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }
}

/// An index page as it was read.
pub(super) struct Page(pub(super) [u8; PAGE]);

impl Page {
    /// The entry of this block.
    pub(super) fn find(&self, reference: &Reference) -> Option<usize> {
        self.entries(0..LARGE + SMALL)
            .find(|(_, found)| *found == reference.as_bytes())
            .map(|(entry, _)| entry)
    }

    pub(super) fn word(&self, entry: usize) -> Word {
        let at = FIRST + entry * ENTRY + 32;
        Word(u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes")))
    }

    /// The block of an entry.
    pub(super) fn reference(&self, entry: usize) -> Option<Reference> {
        let at = FIRST + entry * ENTRY;
        let bytes: [u8; 32] = self.0[at..at + 32].try_into().expect("32 bytes");
        (bytes != [0; 32]).then(|| Reference::new(bytes))
    }

    /// Entries with a block.
    pub(super) fn blocks(&self) -> impl Iterator<Item = (usize, Reference, Word)> {
        (0..LARGE + SMALL).filter_map(|entry| Some((entry, self.reference(entry)?, self.word(entry))))
    }

    fn entries(&self, range: Range<usize>) -> impl Iterator<Item = (usize, &[u8])> {
        range.map(|entry| (entry, &self.0[FIRST + entry * ENTRY..][..32]))
    }

    /// Entries in `range` without a block; those whose slot takes disk space already come first.
    fn free(&self, range: Range<usize>, may_fill: bool) -> (Option<usize>, usize) {
        let (mut filled, mut hole, mut count) = (None, None, 0);
        for (entry, _) in self.entries(range).filter(|(_, reference)| *reference == [0; 32]) {
            match self.word(entry) == Word::HOLE {
                true if !may_fill => continue,
                true => hole = hole.or(Some(entry)),
                false => filled = filled.or(Some(entry)),
            }
            count += 1;
        }
        (filled.or(hole), count)
    }
}

/// Where in its page an entry is.
pub(super) fn entry_at(entry: usize) -> u64 {
    (FIRST + entry * ENTRY) as u64
}

/// Where in its page the word of an entry is.
pub(super) fn word_at(entry: usize) -> u64 {
    entry_at(entry) + 32
}

/// An entry as it stands in the page.
pub(super) fn entry_bytes(reference: &Reference, word: Word) -> [u8; ENTRY] {
    let mut bytes = [0; ENTRY];
    bytes[..32].copy_from_slice(reference.as_bytes());
    bytes[32..].copy_from_slice(&word.to_bytes());
    bytes
}

/// An entry without a block.
pub(super) fn free_bytes(word: Word) -> [u8; ENTRY] {
    entry_bytes(&Reference::new([0; 32]), word)
}

/// Where a new block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// To a slot without a block.
    Free(Place),
    /// In place of a block.
    Instead(Place),
}

/// How a place for a block is chosen.
pub(super) struct Rules<'a> {
    pub clock: u64,
    /// Whether a slot may be used that takes no disk space yet.
    pub may_fill: bool,
    /// Only blocks that were used before this time give way.
    pub before: u64,
    pub is_pinned: &'a dyn Fn(&Reference) -> bool,
}

/// A place in one of the two buckets for a block of this size: a free one in the emptier bucket, else that of the block that can
/// best be spared.
///
/// That is the least recently used one of those that were stored and not used again; of all, once more than half were used again.
/// So a long scan passes through half of the cache, and a working set that fits into the other half stays.
pub(super) fn room(pages: [(u64, &Page); 2], size: BlockSize, rules: &Rules<'_>) -> Option<Room> {
    let range = super::layout::entries(size);
    let pages = if pages[0].0 == pages[1].0 { &pages[..1] } else { &pages[..] };
    let free = pages.iter().map(|(bucket, page)| (*bucket, page.free(range.clone(), rules.may_fill)));
    // The first of two that are alike.
    if let Some((bucket, (Some(entry), _))) = free.rev().max_by_key(|(_, (_, count))| *count) {
        return Some(Room::Free(Place { bucket, entry }));
    }
    let mut blocks = Vec::with_capacity(2 * range.len());
    for (bucket, page) in pages {
        let inside = page.blocks().filter(|(entry, ..)| range.contains(entry));
        blocks.extend(
            inside.map(|(entry, reference, word)| (Place { bucket: *bucket, entry }, reference, word)),
        );
    }
    let used = blocks.iter().filter(|(.., word)| word.is_used()).count();
    let is_crowded = used * 2 > blocks.len();
    blocks.sort_unstable_by_key(|(.., word)| (word.is_used() && !is_crowded, word.time(rules.clock)));
    let mut spared = blocks.iter().filter(|(.., word)| word.time(rules.clock) < rules.before);
    spared.find(|(_, reference, _)| !(rules.is_pinned)(reference)).map(|(place, ..)| Room::Instead(*place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eris::reference_of;

    fn name(number: usize) -> Reference {
        reference_of(&number.to_le_bytes())
    }

    fn set(page: &mut Page, entry: usize, reference: &Reference, word: Word) {
        page.0[entry_at(entry) as usize..][..ENTRY].copy_from_slice(&entry_bytes(reference, word));
    }

    /// A page whose slots of 32 KiB were stored one after another from time 1 on.
    fn full() -> Page {
        let mut page = Page([0; PAGE]);
        (0..LARGE).for_each(|entry| set(&mut page, entry, &name(entry), Word::stored(entry as u64 + 1)));
        page
    }

    fn choose(pages: [&Page; 2], may_fill: bool, pinned: &[usize]) -> Option<Room> {
        let pinned: Vec<_> = pinned.iter().map(|number| name(*number)).collect();
        let is_pinned = |reference: &Reference| pinned.contains(reference);
        let rules = Rules { clock: 1000, may_fill, before: u64::MAX, is_pinned: &is_pinned };
        room([(3, pages[0]), (5, pages[1])], BlockSize::Large, &rules)
    }

    #[test]
    fn a_new_block_goes_to_the_emptier_bucket() {
        let (empty, full) = (Page([0; PAGE]), full());
        assert_eq!(choose([&full, &empty], true, &[]), Some(Room::Free(Place { bucket: 5, entry: 0 })));
        assert_eq!(choose([&empty, &full], true, &[]), Some(Room::Free(Place { bucket: 3, entry: 0 })));
        assert_eq!(choose([&empty, &empty], true, &[]), Some(Room::Free(Place { bucket: 3, entry: 0 })));
    }

    #[test]
    fn the_least_recently_used_gives_way_and_the_pinned_never() {
        let mut full = full();
        let instead = |entry| Some(Room::Instead(Place { bucket: 3, entry }));
        let other = self::full();
        assert_eq!(choose([&full, &other], true, &[]), instead(0));
        set(&mut full, 0, &name(0), Word::used(900));
        set(&mut full, 1, &name(1), Word::stored(u64::MAX >> 3));
        assert_eq!(choose([&full, &full], true, &[]), instead(1), "a time to come is damage");
        assert_eq!(choose([&full, &full], true, &[1, 2]), instead(3));
        let all: Vec<_> = (0..LARGE).collect();
        assert_eq!(choose([&full, &full], true, &all), None);
    }

    #[test]
    fn what_was_used_again_stays_while_it_is_no_more_than_half() {
        let mut full = full();
        let mut use_again = |entry: usize| set(&mut full, entry, &name(entry), Word::used(entry as u64 + 1));
        (0..32).for_each(&mut use_again);
        assert_eq!(choose([&full, &full], true, &[]), Some(Room::Instead(Place { bucket: 3, entry: 32 })));
        set(&mut full, 32, &name(32), Word::used(33));
        assert_eq!(choose([&full, &full], true, &[]), Some(Room::Instead(Place { bucket: 3, entry: 0 })));
    }

    #[test]
    fn a_slot_that_takes_no_space_is_left_alone_when_none_may_be_taken() {
        let mut page = full();
        page.0[entry_at(7) as usize..][..ENTRY].copy_from_slice(&free_bytes(Word::HOLE));
        assert_eq!(choose([&page, &page], true, &[]), Some(Room::Free(Place { bucket: 3, entry: 7 })));
        assert_eq!(choose([&page, &page], false, &[]), Some(Room::Instead(Place { bucket: 3, entry: 0 })));
        page.0[entry_at(9) as usize..][..ENTRY].copy_from_slice(&free_bytes(Word::EMPTY));
        assert_eq!(choose([&page, &page], false, &[]), Some(Room::Free(Place { bucket: 3, entry: 9 })));
    }
}
