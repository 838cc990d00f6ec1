//! Sleeping to a tenth of a millisecond, which a link of 5 ms needs: tokio's own clock rounds up to whole milliseconds.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// What is due within this time is woken with what is due now: as exact as the kernel is, and half the wake-ups.
const GRAIN: Duration = Duration::from_micros(60);

/// A thread that wakes futures. It ends when this is dropped; sleeps that are left then never end.
pub struct Timer {
    sleepers: Arc<Sleepers>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Sleepers {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    /// By time, and by a number that keeps two of the same time apart.
    wakers: BTreeMap<(Instant, u64), Waker>,
    numbers: u64,
    is_over: bool,
}

impl Sleepers {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.queue();
        while !queue.is_over {
            let now = Instant::now();
            while let Some(first) = queue.wakers.first_entry().filter(|first| first.key().0 <= now + GRAIN) {
                first.remove().wake();
            }
            let next = queue.wakers.first_key_value().map(|((at, _), _)| *at);
            queue = match next {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(at) => {
                    let wait = at.saturating_duration_since(now);
                    self.changed.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Timer {
    pub fn start() -> Self {
        let sleepers: Arc<Sleepers> = Arc::default();
        let running = sleepers.clone();
        let thread = thread::Builder::new().name("origin-timer".into()).spawn(move || running.run());
        Timer { sleepers, thread: Some(thread.expect("a thread")) }
    }

    pub fn until(&self, at: Instant) -> Sleep {
        Sleep { sleepers: self.sleepers.clone(), at, number: None }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.sleepers.queue().is_over = true;
        self.sleepers.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the timer does not panic");
        }
    }
}

/// Ready from a point in time on.
pub struct Sleep {
    sleepers: Arc<Sleepers>,
    at: Instant,
    number: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if Instant::now() + GRAIN >= self.at {
            return Poll::Ready(());
        }
        let sleepers = self.sleepers.clone();
        let mut queue = sleepers.queue();
        let number = *self.number.get_or_insert_with(|| {
            queue.numbers += 1;
            queue.numbers
        });
        let key = (self.at, number);
        queue.wakers.insert(key, context.waker().clone());
        let is_first = queue.wakers.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(queue);
        if is_first {
            sleepers.changed.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.sleepers.queue().wakers.remove(&(self.at, number));
        }
    }
}
