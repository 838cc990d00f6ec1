//! Who offers a service on this link now.

mod listener;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use mdns_sd::ServiceDaemon;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use self::listener::Listener;
use super::{Error, ServiceKind, daemon};

/// How long after the beginning somebody may be heard for the first time. A responder answers within 120 ms (RFC 6762, 6), unless it gave the
/// same answer to somebody else within the last second, or the packet is lost, as over Wi-Fi: then the query, which is repeated
/// after a second, has its answer after 1.1 s.
const FIRST_ANSWERS: Duration = Duration::from_millis(1500);
/// How long a neighbour that failed has to answer that it is still there, before it is forgotten (RFC 6762, 10.4).
const RECONFIRM: Duration = Duration::from_secs(3);

/// Somebody on this link who offers the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name, for people: at most 63 bytes without control characters, and believed by nobody.
    pub name: String,
    /// Where it is: on one of this machine's own subnets.
    pub addr: SocketAddr,
    /// In DNS.
    full_name: String,
}

/// All neighbours, at one moment.
type Heard = Arc<[Neighbour]>;

/// The neighbours that offer a service: at most 32, found as they come, and forgotten when they say goodbye, when their announcement
/// expires, or when they fail and do not answer for themselves.
pub struct Neighbours {
    heard: Arc<watch::Sender<Heard>>,
    /// None where the neighbours are given.
    link: Option<Arc<Link>>,
    /// Until when somebody may be heard for the first time.
    first_until: Instant,
}

/// What is shared with the thread that listens.
struct Link {
    /// `None` ends the thread.
    daemon: Mutex<Option<ServiceDaemon>>,
    /// The first doubt that was not looked into.
    doubted: Mutex<Option<std::time::Instant>>,
}

impl Link {
    fn new(daemon: ServiceDaemon) -> Arc<Self> {
        Arc::new(Self { daemon: Mutex::new(Some(daemon)), doubted: Mutex::default() })
    }

    fn daemon(&self) -> MutexGuard<'_, Option<ServiceDaemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubted(&self) -> MutexGuard<'_, Option<std::time::Instant>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Neighbours {
    /// Listens from now on, on a thread of its own. Needs no runtime.
    pub fn browse(kind: ServiceKind) -> Result<Arc<Self>, Error> {
        let daemon = daemon()?;
        let heard = Arc::new(watch::Sender::new(Heard::default()));
        let events = daemon.browse(kind.dns_type())?;
        let link = Link::new(daemon);
        let listener = Listener::new(kind, link.clone(), heard.clone());
        let thread = thread::Builder::new().name("neighbours".into());
        let spawned = thread.spawn(move || listener.run(events));
        spawned.map_err(|error| Error::Mdns { reason: error.to_string() })?;
        Ok(Arc::new(Self { heard, link: Some(link), first_until: Instant::now() + FIRST_ANSWERS }))
    }

    /// Neighbours that are known beforehand and stay: nobody is listened to.
    pub fn given(addrs: impl IntoIterator<Item = SocketAddr>) -> Arc<Self> {
        let given = |addr: SocketAddr| Neighbour { name: addr.to_string(), addr, full_name: String::new() };
        let heard = Arc::new(watch::Sender::new(addrs.into_iter().map(given).collect()));
        Arc::new(Self { heard, link: None, first_until: Instant::now() })
    }

    /// Those that are there now, in no order.
    pub fn list(&self) -> Heard {
        self.heard.borrow().clone()
    }

    /// The list, and whether it has changed.
    pub fn changed(&self) -> watch::Receiver<Heard> {
        self.heard.subscribe()
    }

    /// Returns once somebody has been heard, or nobody for so long after the beginning (1.5 s) that there is nobody. Inside a tokio runtime.
    pub async fn first_heard(&self) {
        let mut heard = self.changed();
        if !heard.borrow_and_update().is_empty() || Instant::now() >= self.first_until {
            return;
        }
        // That the time is up is an answer, too; the sender lives as long as this.
        let _ = timeout_at(self.first_until, heard.wait_for(|heard| !heard.is_empty())).await;
    }

    /// Whether there are others than `known`, or will be before the time is up in which somebody may be heard for the first time. Later it
    /// is false at once. Inside a tokio runtime.
    pub async fn first_heard_others(&self, known: &Heard) -> bool {
        if Instant::now() >= self.first_until {
            return false;
        }
        let mut heard = self.changed();
        let others = heard.wait_for(|heard| !Arc::ptr_eq(heard, known));
        timeout_at(self.first_until, others).await.is_ok_and(|heard| heard.is_ok())
    }

    /// Says that a neighbour did not answer: unless it confirms its announcement within 3 s, it is forgotten.
    pub fn doubt(&self, neighbour: &Neighbour) {
        let Some(link) = &self.link else { return };
        link.doubted().get_or_insert_with(std::time::Instant::now);
        if let Some(daemon) = &*link.daemon() {
            // A full queue is no harm: who is still silent will be doubted again.
            let _ = daemon.verify(neighbour.full_name.clone(), RECONFIRM);
        }
    }

    /// Nobody yet, but as if it were listened for so long.
    #[cfg(test)]
    pub(crate) fn expected(within: Duration) -> Arc<Self> {
        let heard = Arc::new(watch::Sender::new(Heard::default()));
        Arc::new(Self { heard, link: None, first_until: Instant::now() + within })
    }

    /// Replaces those that were given.
    #[cfg(test)]
    pub(crate) fn tell(&self, addrs: impl IntoIterator<Item = SocketAddr>) {
        self.heard.send_replace(Self::given(addrs).list());
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        let Some(link) = &self.link else { return };
        if let Some(daemon) = link.daemon().take() {
            let _ = daemon.shutdown();
        }
    }
}

impl fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbours").field("heard", &*self.heard.borrow()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
