use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;

use super::*;
use crate::block::{Fault, Memory};

/// A gate before a store that bears so many requests.
fn gate(limit: usize) -> Arc<Gate> {
    Gate::new(Arc::new(Narrow {
        inner: Fault::new(Arc::new(Memory::new())),
        limit,
        pressed: Default::default(),
    }))
}

#[derive(Debug)]
struct Narrow {
    inner: Fault,
    limit: usize,
    pressed: AtomicBool,
}

#[async_trait::async_trait]
impl BlockStore for Narrow {
    fn name(&self) -> &str {
        self.inner.name()
    }
    async fn get(
        &self,
        reference: &crate::eris::Reference,
    ) -> Result<crate::block::Block, crate::block::Error> {
        self.inner.get(reference).await
    }
    async fn has(&self, reference: &crate::eris::Reference) -> Result<bool, crate::block::Error> {
        self.inner.has(reference).await
    }
    async fn put(
        &self,
        reference: &crate::eris::Reference,
        block: crate::block::Block,
    ) -> Result<(), crate::block::Error> {
        self.inner.put(reference, block).await
    }
    async fn sync(&self) -> Result<(), crate::block::Error> {
        self.inner.sync().await
    }
    fn concurrency(&self) -> usize {
        self.limit
    }
    fn press(&self) {
        self.pressed.store(true, Ordering::Relaxed);
    }
}

fn now(gate: &Arc<Gate>, blocks: usize) -> Option<Pass> {
    gate.ahead(blocks, &mut Turn::default()).now_or_never()
}

#[test]
fn prefetches_leave_room_for_the_foreground() {
    let gate = gate(16);
    let passes = [now(&gate, 100).unwrap(), now(&gate, 100).unwrap()];
    assert_eq!(passes.each_ref().map(Pass::blocks), [9, 5], "two of sixteen are kept free");
    assert!(now(&gate, 1).is_none());
    drop(passes);
    let foreground = gate.foreground(13);
    assert_eq!(now(&gate, 100).unwrap().blocks(), 1);
    drop(foreground);
    assert_eq!(gate.in_flight(), InFlight::default());
}

#[test]
fn one_block_gets_through_when_nothing_is_in_flight_and_only_then() {
    let gate = gate(1);
    let pass = now(&gate, 5).unwrap();
    assert_eq!(pass.blocks(), 1);
    assert!(now(&gate, 1).is_none());
    drop(pass);
    let foreground = gate.foreground(1);
    assert!(now(&gate, 1).is_none());
    drop(foreground);
    assert!(now(&gate, 1).is_some());
}

#[tokio::test]
async fn those_who_wait_are_let_through_in_order_and_no_one_takes_all() {
    let gate = gate(8);
    let foreground = gate.foreground(7);
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks = [0, 1].map(|asker| {
        let (gate, order) = (gate.clone(), order.clone());
        tokio::spawn(async move {
            let (mut turn, mut left) = (Turn::default(), 27);
            while left > 0 {
                let pass = gate.ahead(left, &mut turn).await;
                left -= pass.blocks();
                order.lock().unwrap().extend(std::iter::repeat_n(asker, pass.blocks()));
            }
        })
    });
    tokio::task::yield_now().await;
    assert_eq!(gate.in_flight().waiting, 2);
    drop(foreground);
    for task in tasks {
        task.await.unwrap();
    }
    let order = order.lock().unwrap().clone();
    assert_eq!(order.len(), 54);
    assert!(order[..27].contains(&1) && order[27..].contains(&0), "{order:?}");
    assert_eq!(gate.in_flight(), InFlight::default());
}

#[test]
fn who_leaves_while_waiting_holds_nobody_up() {
    let gate = gate(8);
    let foreground = gate.foreground(7);
    let (mut one, mut two) = (Turn::default(), Turn::default());
    let mut leaver = Box::pin(gate.ahead(4, &mut one));
    let mut stayer = Box::pin(gate.ahead(4, &mut two));
    assert!((&mut leaver).now_or_never().is_none() && (&mut stayer).now_or_never().is_none());
    drop(leaver);
    assert_eq!(gate.in_flight().waiting, 1);
    drop(foreground);
    assert_eq!(stayer.now_or_never().unwrap().blocks(), 4);
    assert_eq!(gate.in_flight(), InFlight::default());
}

#[test]
fn room_that_was_given_to_one_who_left_is_given_back() {
    let gate = gate(8);
    let foreground = gate.foreground(7);
    let mut turn = Turn::default();
    let mut leaver = Box::pin(gate.ahead(4, &mut turn));
    assert!((&mut leaver).now_or_never().is_none());
    drop(foreground);
    assert_eq!(gate.in_flight().ahead, 4);
    drop(leaver);
    assert_eq!(gate.in_flight(), InFlight::default());
}

#[test]
fn each_arrival_makes_room() {
    let gate = gate(8);
    let mut pass = now(&gate, 7).unwrap();
    let mut turn = Turn::default();
    let mut next = Box::pin(gate.ahead(3, &mut turn));
    assert!((&mut next).now_or_never().is_none());
    pass.arrived();
    assert_eq!(next.now_or_never().unwrap().blocks(), 1);
    (0..20).for_each(|_| pass.arrived());
    assert_eq!(gate.in_flight().ahead, 0);
}

#[test]
fn the_store_hears_that_somebody_waits_for_room() {
    let store = Arc::new(Narrow {
        inner: Fault::new(Arc::new(Memory::new())),
        limit: 8,
        pressed: Default::default(),
    });
    let gate = Gate::new(store.clone());
    let pass = now(&gate, 7).unwrap();
    assert!(!store.pressed.load(Ordering::Relaxed));
    assert!(now(&gate, 1).is_none());
    assert!(store.pressed.load(Ordering::Relaxed));
    drop(pass);
}

#[tokio::test(start_paused = true)]
async fn a_thin_link_that_bears_few_requests_is_measured_too() {
    let gate = gate(8);
    assert_eq!(gate.throughput(), None);
    for _ in 0..3 {
        let mut pass = now(&gate, 7).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        (0..7).for_each(|_| pass.arrived());
    }
    let throughput = gate.throughput().unwrap();
    assert!(throughput < 7.0 * 32.0 * 1024.0 && throughput > 0.0, "{throughput}");

    // An outage is soon forgotten.
    for (pause, rounds) in [(Duration::from_secs(60), 1), (Duration::from_millis(1), 600)] {
        for _ in 0..rounds {
            let mut pass = now(&gate, 7).unwrap();
            tokio::time::sleep(pause).await;
            (0..7).for_each(|_| pass.arrived());
        }
    }
    assert!(gate.throughput().unwrap() > 1e6);
}
