//! A store across a network that exists only in `tokio::time`: a latency, a shared line, and a way to die and come back.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::{Instant, sleep, sleep_until};

use crate::block::{Block, BlockStore, Error, Memory};
use crate::eris::Reference;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Well,
    /// No answer ever comes.
    Silent,
    /// Every request fails at once, as when a connection is refused.
    Refusing,
    /// Every request is answered 429, with this Retry-After.
    Busy(Option<Duration>),
    /// No answer comes within so long, and then a time-out.
    TimingOut(Duration),
    /// Every other request fails, after its latency.
    Hiccuping,
}

#[derive(Debug)]
pub struct Far {
    name: String,
    memory: Memory,
    line: Mutex<Line>,
    asked: AtomicUsize,
    in_flight: AtomicUsize,
    most: AtomicUsize,
    puts: AtomicUsize,
}

#[derive(Debug)]
struct Line {
    mood: Mood,
    latency: Duration,
    /// Every so many requests, one takes this long.
    straggler: Option<(usize, Duration)>,
    /// Bytes a second that all answers share.
    rate: Option<f64>,
    free: Instant,
}

impl Far {
    pub fn new(name: &str, latency: Duration) -> Self {
        let (mood, straggler, rate) = (Mood::Well, None, None);
        Self {
            name: name.to_owned(),
            memory: Memory::new(),
            line: Mutex::new(Line { mood, latency, straggler, rate, free: Instant::now() }),
            asked: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            puts: AtomicUsize::new(0),
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is(&self, mood: Mood) {
        self.line().mood = mood;
    }

    pub fn takes(&self, latency: Duration) {
        self.line().latency = latency;
    }

    pub fn straggles(&self, every: usize, latency: Duration) {
        self.line().straggler = Some((every, latency));
    }

    pub fn shares(&self, rate: f64) {
        self.line().rate = Some(rate);
    }

    /// Requests since the last call.
    pub fn asked(&self) -> usize {
        self.asked.swap(0, SeqCst)
    }

    /// The most requests at a time since the last call.
    pub fn most(&self) -> usize {
        self.most.swap(0, SeqCst)
    }

    /// Blocks put since it was made.
    pub fn puts(&self) -> usize {
        self.puts.load(SeqCst)
    }

    /// Whether it has the block, as seen from its own side.
    pub async fn memory_has(&self, reference: &Reference) -> bool {
        self.memory.has(reference).await.expect("memory answers")
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(SeqCst)
    }

    /// When the answer of this length has come through.
    fn through(&self, number: usize, length: usize) -> Instant {
        let mut line = self.line();
        let straggler = line.straggler.filter(|(every, _)| number % every == every - 1);
        let begun = Instant::now() + straggler.map_or(line.latency, |(_, latency)| latency);
        let Some(rate) = line.rate else { return begun };
        line.free = line.free.max(begun) + Duration::from_secs_f64(length as f64 / rate);
        line.free
    }
}

/// A request under way.
struct Under<'a>(&'a Far);

impl Drop for Under<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl BlockStore for Far {
    fn name(&self) -> &str {
        &self.name
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let number = self.asked.fetch_add(1, SeqCst);
        self.most.fetch_max(self.in_flight.fetch_add(1, SeqCst) + 1, SeqCst);
        let _under = Under(self);
        let (mood, latency) = {
            let line = self.line();
            (line.mood, line.latency)
        };
        let unavailable = |retry_after| Error::Unavailable {
            reference: Some(*reference),
            store: self.name().into(),
            retry_after,
            source: std::sync::Arc::new(std::io::Error::other("a test wants it so")),
        };
        match mood {
            Mood::Well => {}
            Mood::Silent => std::future::pending().await,
            Mood::Refusing => return Err(unavailable(None)),
            Mood::Busy(retry_after) => {
                sleep(latency).await;
                return Err(unavailable(retry_after));
            }
            Mood::Hiccuping => {
                if number.is_multiple_of(2) {
                    sleep(latency).await;
                    return Err(unavailable(None));
                }
            }
            Mood::TimingOut(after) => {
                sleep(after).await;
                return Err(Error::TimedOut { reference: *reference, store: self.name().into(), after });
            }
        }
        let answer = self
            .memory
            .get(reference)
            .await
            .map_err(|_| Error::NotFound { reference: *reference, store: self.name().into() });
        sleep_until(self.through(number, answer.as_ref().map_or(0, Block::len))).await;
        answer
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        match self.get(reference).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        self.puts.fetch_add(1, SeqCst);
        self.memory.put(reference, block).await
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        256
    }

    fn is_remote(&self) -> bool {
        true
    }
}
