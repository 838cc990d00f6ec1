//! Where the blocks of an opened bundle stand, as far as it was read: 16 bytes for each, which whoever looks something up shares
//! with whoever reads on.

use std::{
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::scan::{Entry, Scan, Stop};
use crate::eris::Reference;

/// Added blocks that are looked through one by one before they are sorted in.
const UNSORTED: usize = 4096;

/// An opened file, and the places of its entries.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) file: Arc<File>,
    places: Mutex<Places>,
}

/// The first bytes of a reference, and where its entry stands.
#[derive(Debug, Default)]
struct Places {
    sorted: Vec<(u64, u64)>,
    /// The latest last.
    added: Vec<(u64, u64)>,
}

impl Table {
    pub(super) fn new(file: Arc<File>) -> Self {
        Table { file, places: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, entries: &[Entry]) {
        let mut places = self.kept();
        places.added.extend(entries.iter().map(|entry| (prefix(&entry.reference), entry.offset)));
        if places.added.len() > UNSORTED {
            places.sort();
        }
    }

    pub(super) fn sort(&self) {
        self.kept().sort();
    }

    /// Where the block may stand, the last place first.
    pub(super) fn places(&self, reference: &Reference) -> Vec<u64> {
        let (wanted, known) = (prefix(reference), self.kept());
        let first = known.sorted.partition_point(|(prefix, _)| *prefix < wanted);
        let sorted = known.sorted[first..].iter().take_while(|(prefix, _)| *prefix == wanted);
        let added = known.added.iter().filter(|(prefix, _)| *prefix == wanted);
        let mut places: Vec<u64> = sorted.chain(added).map(|(_, offset)| *offset).collect();
        places.sort_unstable_by_key(|offset| std::cmp::Reverse(*offset));
        places
    }

    /// Takes from the last entry of this reference what `read` makes of it.
    pub(super) fn look_up<T>(&self, reference: &Reference, read: Reading<T>) -> Result<Sought<T>, Stop> {
        let places = self.places(reference);
        for offset in &places {
            let found = Scan::new(&self.file, *offset).map_err(Stop::Io).and_then(|mut scan| read(&mut scan));
            match found {
                Ok((found, what)) if found == *reference => return Ok(Sought::Here(what)),
                Ok((found, _)) if prefix(&found) == prefix(reference) => {}
                Ok(_) | Err(Stop::Damage(_)) => return Ok(Sought::Stale),
                Err(stop) => return Err(stop),
            }
        }
        Ok(Sought::Unknown { places: places.len() })
    }
}

/// Reads an entry, or the start of it.
pub(super) type Reading<T> = fn(&mut Scan<'_>) -> Result<(Reference, T), Stop>;

/// What is known of a block.
#[derive(Debug)]
pub(super) enum Sought<T> {
    Here(T),
    /// At none of so many places.
    Unknown {
        places: usize,
    },
    /// At its place stands something else: the file was rewritten.
    Stale,
}

impl Places {
    fn sort(&mut self) {
        self.sorted.append(&mut self.added);
        // Stable, because that is quick where the most is sorted already.
        self.sorted.sort();
    }
}

/// References are hashes: few of a store share their first 8 bytes, and none but the right one is given out.
fn prefix(reference: &Reference) -> u64 {
    let first = reference.as_bytes().first_chunk().copied();
    u64::from_be_bytes(first.unwrap_or_default())
}
