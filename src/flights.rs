//! Single flight: many who want the same thing at the same time cause one piece of work.
//!
//! The work runs only while somebody waits for it: it is polled by its waiters, and when the last of
//! them is dropped the work is dropped too, with the requests it had in flight.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

type Work<V> = BoxFuture<'static, V>;

/// The pieces of work under way, by what they are for.
#[derive(Debug)]
pub struct Flights<K, V: Clone> {
    under_way: Mutex<HashMap<K, WeakShared<Work<V>>>>,
}

impl<K: Hash + Eq, V: Clone> Default for Flights<K, V> {
    fn default() -> Self {
        Flights { under_way: Mutex::new(HashMap::new()) }
    }
}

impl<K: Hash + Eq, V: Clone> Flights<K, V> {
    /// Joins the work for `key`, or starts it.
    pub fn join(&self, key: K, start: impl FnOnce() -> Work<V>) -> Shared<Work<V>> {
        let mut under_way = self.under_way.lock().expect("no panic while held");
        if let Some(shared) = under_way.get(&key).and_then(WeakShared::upgrade)
            && shared.peek().is_none()
        {
            return shared;
        }
        // Ended work leaves a dead entry behind; sweeping at powers of two keeps this cheap.
        if under_way.len() >= 64 && under_way.len().is_power_of_two() {
            under_way.retain(|_, work| work.upgrade().is_some());
        }
        let shared = start().shared();
        if let Some(weak) = shared.downgrade() {
            under_way.insert(key, weak);
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn counted(started: &Arc<AtomicUsize>, ended: &Arc<AtomicUsize>) -> Work<u32> {
        let (started, ended) = (started.clone(), ended.clone());
        async move {
            started.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(1)).await;
            ended.fetch_add(1, Ordering::SeqCst);
            7
        }
        .boxed()
    }

    #[tokio::test(start_paused = true)]
    async fn two_askers_cause_one_piece_of_work() {
        let flights = Flights::default();
        let (started, ended) = (Arc::default(), Arc::default());
        let a = flights.join("x", || counted(&started, &ended));
        let b = flights.join("x", || counted(&started, &ended));
        assert_eq!(tokio::join!(a, b), (7, 7));
        assert_eq!(started.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn ended_work_is_not_taken_for_work_under_way() {
        let flights = Flights::default();
        let (started, ended) = (Arc::default(), Arc::default());
        let kept = flights.join("x", || counted(&started, &ended));
        kept.clone().await;
        flights.join("x", || counted(&started, &ended)).await;
        assert_eq!(started.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn work_ends_when_the_last_waiter_leaves() {
        let flights = Flights::default();
        let (started, ended) = (Arc::default(), Arc::default());
        let a = flights.join("x", || counted(&started, &ended));
        let b = flights.join("x", || counted(&started, &ended));
        assert!(tokio::time::timeout(Duration::from_millis(10), a).await.is_err());
        assert!(tokio::time::timeout(Duration::from_millis(10), b).await.is_err());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((started.load(Ordering::SeqCst), ended.load(Ordering::SeqCst)), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn ended_work_does_not_pile_up() {
        let flights = Flights::default();
        for key in 0..10_000 {
            flights.join(key, || async move { key }.boxed()).await;
        }
        assert!(flights.under_way.lock().unwrap().len() <= 64);
    }
}
