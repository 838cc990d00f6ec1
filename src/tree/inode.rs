//! Inode numbers that are a function of the path, and what stands behind them.
//!
//! A number is 40 bits of the store path's hash (or of a content's reference) and 24 bits of the node's
//! place in its NAR, so it is the same after a restart and on every machine. Two paths whose 40 bits are
//! equal are told apart by taking the next free number for the one that came second.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::eris::ReadCapability;
use crate::nar::NodeId;
use crate::store::{HashPart, StorePath};

use super::Facts;

const NODE_BITS: u32 = 24;
/// Nodes that one store path can have. The largest seen in nixpkgs has 400,000.
pub const MAX_NODES: usize = 1 << NODE_BITS;
const SLOT_MASK: u64 = (1 << (64 - NODE_BITS)) - 1;

/// The number of a file, directory or link in the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Inode(u64);

impl Inode {
    /// The root of the mount: the store directory.
    pub const ROOT: Self = Inode(1);
    /// No inode: a name that does not exist.
    pub const NONE: Self = Inode(0);

    pub(super) fn new(slot: Slot, node: NodeId) -> Self {
        Inode(slot.0 << NODE_BITS | u64::from(node.index()))
    }

    pub(super) fn slot(self) -> Slot {
        Slot(self.0 >> NODE_BITS)
    }

    pub(super) fn node(self) -> u32 {
        (self.0 & (MAX_NODES as u64 - 1)) as u32
    }
}

impl From<u64> for Inode {
    fn from(number: u64) -> Self {
        Inode(number)
    }
}

impl From<Inode> for u64 {
    fn from(inode: Inode) -> Self {
        inode.0
    }
}

/// The upper part of an inode number: which store path or content. Never 0, which is the root's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot(u64);

impl Slot {
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// What stands in the root of the mount under one name.
#[derive(Debug, Clone, PartialEq)]
pub enum Occupant {
    /// A store path that a catalog lists, or a server knows.
    Path {
        /// The store path.
        path: StorePath,
        /// What the catalog says of it, so that `stat` needs nothing else; of a server's none.
        facts: Option<Facts>,
    },
    /// A content, by its URN.
    Content(Box<ReadCapability>),
}

impl Occupant {
    /// Its name in the root of the mount, by which no two are alike.
    pub(super) fn name(&self) -> String {
        match self {
            Occupant::Path { path, .. } => path.to_string(),
            Occupant::Content(content) => content.to_string(),
        }
    }

    fn is(&self, other: &Occupant) -> bool {
        match (self, other) {
            (Occupant::Path { path, .. }, Occupant::Path { path: other, .. }) => path == other,
            (Occupant::Content(content), Occupant::Content(other)) => content == other,
            _ => false,
        }
    }

    fn preferred(&self) -> u64 {
        let first = match self {
            Occupant::Path { path, .. } => path.hash_part().sortable_bytes().first_chunk::<5>().copied(),
            Occupant::Content(content) => content.reference.as_bytes().first_chunk::<5>().copied(),
        };
        first.into_iter().flatten().fold(0, |number, byte| number << 8 | u64::from(byte))
    }
}

/// Who has which number. Grows by about 100 bytes with each name of the root that was looked up.
#[derive(Debug, Default)]
pub struct Occupants(Mutex<HashMap<Slot, Occupant>>);

impl Occupants {
    /// The number of `occupant`, which it gets now if it has none. It keeps it for ever.
    pub fn slot(&self, occupant: Occupant) -> Slot {
        let mut occupants = self.0.lock().expect("no panic while held");
        let slot = place(&occupants, &occupant);
        occupants.entry(slot).or_insert(occupant);
        slot
    }

    /// The number of `occupant`, if it has one.
    pub fn find(&self, occupant: &Occupant) -> Option<Slot> {
        let occupants = self.0.lock().expect("no panic while held");
        let slot = place(&occupants, occupant);
        occupants.contains_key(&slot).then_some(slot)
    }

    /// Who has the number `slot`.
    pub fn get(&self, slot: Slot) -> Option<Occupant> {
        self.0.lock().expect("no panic while held").get(&slot).cloned()
    }
}

/// The number that `occupant` has, or the free one that it would get.
fn place(occupants: &HashMap<Slot, Occupant>, occupant: &Occupant) -> Slot {
    let mut slot = Slot(occupant.preferred().max(1));
    while occupants.get(&slot).is_some_and(|other| !other.is(occupant)) {
        slot = Slot(((slot.0 + 1) & SLOT_MASK).max(1));
    }
    slot
}

/// Where in the root's listing an entry stands: 62 bits of its hash part, above the two dot entries.
/// A position that is a function of the name survives anything and needs no state.
pub(super) fn root_cookie(hash_part: &HashPart) -> u64 {
    let first = hash_part.sortable_bytes()[..8].iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    (first >> 2) + FIRST_COOKIE
}

/// The largest hash part at the position `cookie` of the root's listing: what follows comes after it.
pub(super) fn last_hash_part(cookie: u64) -> Option<HashPart> {
    let first = cookie.checked_sub(FIRST_COOKIE)? << 2 | 0b11;
    let mut bytes = [0xff; 20];
    bytes[..8].copy_from_slice(&first.to_be_bytes());
    Some(HashPart::from_sortable_bytes(bytes))
}

/// Positions 1 and 2 of any directory are `.` and `..`.
pub(super) const FIRST_COOKIE: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Kind;

    fn path(first: u8, last: u8) -> Occupant {
        let mut hash = [first; 20];
        hash[19] = last;
        let path = StorePath::new(HashPart::from_sortable_bytes(hash), "name").unwrap();
        Occupant::Path { path, facts: Some(Facts { kind: Kind::Directory, number: 0 }) }
    }

    #[test]
    fn numbers_are_a_function_of_the_path() {
        let (one, other) = (Occupants::default(), Occupants::default());
        other.slot(path(9, 9));
        assert_eq!(one.slot(path(5, 1)), other.slot(path(5, 1)));
        assert_eq!(one.slot(path(5, 1)), one.slot(path(5, 1)));
    }

    #[test]
    fn paths_whose_bits_are_equal_are_told_apart() {
        let occupants = Occupants::default();
        let (a, b) = (occupants.slot(path(255, 1)), occupants.slot(path(255, 2)));
        assert_ne!(a, b);
        assert!(occupants.get(a).unwrap().is(&path(255, 1)));
        assert!(occupants.get(b).unwrap().is(&path(255, 2)));
    }

    #[test]
    fn no_path_has_the_number_of_the_root() {
        let occupants = Occupants::default();
        assert_ne!(Inode::new(occupants.slot(path(0, 1)), NodeId::ROOT).slot(), Inode::ROOT.slot());
        assert_eq!(Inode::ROOT.slot(), Slot(0));
    }

    #[test]
    fn positions_in_the_root_go_up_with_the_hash_part() {
        let small = HashPart::from_sortable_bytes([7; 20]);
        let large = HashPart::from_sortable_bytes([8; 20]);
        assert!(root_cookie(&small) < root_cookie(&large));
        let last = last_hash_part(root_cookie(&small)).unwrap();
        assert!(small <= last && last < large);
        assert_eq!(last_hash_part(2), None);
    }
}
