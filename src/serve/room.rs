//! Room for connections: for so many in all, of which one address may have a part.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the connections that are open.
#[derive(Debug)]
pub(super) struct Room {
    in_all: usize,
    of_one: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    in_all: usize,
    /// Only those that have some.
    by_address: HashMap<IpAddr, usize>,
}

impl Room {
    pub(super) fn new(in_all: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Room { in_all, of_one, taken: Mutex::default() })
    }

    /// A place for a connection from this address, until the guard is dropped; `None`: there is none.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = address.to_canonical();
        let mut taken = self.lock();
        let own = taken.by_address.get(&address).copied().unwrap_or(0);
        if taken.in_all >= self.in_all || own >= self.of_one {
            return None;
        }
        taken.in_all += 1;
        taken.by_address.insert(address, own + 1);
        Some(Seat { room: Arc::clone(self), address })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Seat {
    room: Arc<Room>,
    address: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.room.lock();
        taken.in_all -= 1;
        if let Some(own) = taken.by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                taken.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others_and_all_together_get_no_more_than_there_is() {
        let room = Room::new(5, 2);
        let [a, b, c] = ["192.0.2.1", "192.0.2.2", "fe80::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut held: Vec<_> = (0..10).filter_map(|_| room.take(a)).collect();
        assert_eq!(held.len(), 2);
        assert!(room.take("::ffff:192.0.2.1".parse().unwrap()).is_none(), "the same host");
        held.extend((0..10).filter_map(|_| room.take(b)));
        held.extend((0..10).filter_map(|_| room.take(c)));
        assert_eq!(held.len(), 5);
        drop(held);
        assert!(room.take(a).is_some());
        assert!(room.lock().by_address.is_empty(), "who has gone is forgotten");
    }
}
