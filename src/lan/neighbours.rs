//! Who offers a service on this link now.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc, thread, time::Duration};

use mdns_sd::{Receiver, ResolvedService, ServiceDaemon, ServiceEvent};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{Error, ServiceKind, announcement::is_own_port, daemon, service::shown, subnets::Subnets};

/// Neighbours at the most; those that were heard first stay. A link of people who share has fewer, and each may be asked for a block.
const MOST: usize = 32;
/// How long after the beginning somebody may be heard for the first time. A responder answers within 120 ms (RFC 6762, 6), unless it gave the
/// same answer to somebody else within the last second, or the packet is lost, as over Wi-Fi: then the query, which is repeated
/// after a second, has its answer after 1.1 s.
const FIRST_ANSWERS: Duration = Duration::from_millis(1500);
/// How long a neighbour that failed has to answer that it is still there, before it is forgotten (RFC 6762, 10.4).
const RECONFIRM: Duration = Duration::from_secs(3);
/// Before listening is begun again, after more was heard at once than a queue holds: a flood must not keep a core busy.
const PAUSE: Duration = Duration::from_secs(1);

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
    daemon: Option<ServiceDaemon>,
    since: Instant,
}

impl Neighbours {
    /// Listens from now on, on a thread of its own. Needs no runtime.
    pub fn browse(kind: ServiceKind) -> Result<Arc<Self>, Error> {
        let daemon = daemon()?;
        let heard = Arc::new(watch::Sender::new(Heard::default()));
        let listener =
            Listener { kind, daemon: daemon.clone(), heard: heard.clone(), known: BTreeMap::new() };
        let events = daemon.browse(kind.dns_type())?;
        let thread = thread::Builder::new().name("neighbours".into());
        let spawned = thread.spawn(move || listener.run(events));
        spawned.map_err(|error| Error::Mdns { reason: error.to_string() })?;
        Ok(Arc::new(Self { heard, daemon: Some(daemon), since: Instant::now() }))
    }

    /// Neighbours that are known beforehand and stay: nobody is listened to.
    pub fn given(addrs: impl IntoIterator<Item = SocketAddr>) -> Arc<Self> {
        let given = |addr: SocketAddr| Neighbour { name: addr.to_string(), addr, full_name: String::new() };
        let heard = Arc::new(watch::Sender::new(addrs.into_iter().map(given).collect()));
        Arc::new(Self { heard, daemon: None, since: Instant::now() })
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
        if !heard.borrow_and_update().is_empty() || self.daemon.is_none() {
            return;
        }
        // That the time is up is an answer, too; the sender lives as long as this.
        let _ = timeout_at(self.since + FIRST_ANSWERS, heard.wait_for(|heard| !heard.is_empty())).await;
    }

    /// Says that a neighbour did not answer: unless it confirms its announcement within 3 s, it is forgotten.
    pub fn doubt(&self, neighbour: &Neighbour) {
        if let Some(daemon) = &self.daemon {
            // A full queue is no harm: who is still silent will be doubted again.
            let _ = daemon.verify(neighbour.full_name.clone(), RECONFIRM);
        }
    }

    /// Replaces those that were given.
    #[cfg(test)]
    pub(crate) fn tell(&self, addrs: impl IntoIterator<Item = SocketAddr>) {
        self.heard.send_replace(Self::given(addrs).list());
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        if let Some(daemon) = &self.daemon {
            // It ends the thread, too.
            let _ = daemon.shutdown();
        }
    }
}

impl fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Neighbours").field("heard", &*self.heard.borrow()).finish_non_exhaustive()
    }
}

/// What turns events of mDNS into the list.
struct Listener {
    kind: ServiceKind,
    daemon: ServiceDaemon,
    heard: Arc<watch::Sender<Heard>>,
    /// By their full names in lower case, as DNS compares them.
    known: BTreeMap<String, Neighbour>,
}

impl Listener {
    /// Until mDNS ends.
    fn run(mut self, mut events: Receiver<ServiceEvent>) {
        loop {
            while let Ok(event) = events.recv() {
                self.take(event, &Subnets::now());
            }
            thread::sleep(PAUSE);
            events = match self.daemon.browse(self.kind.dns_type()) {
                Ok(events) => events,
                Err(mdns_sd::Error::Again) => continue,
                Err(_) => return,
            };
        }
    }

    fn take(&mut self, event: ServiceEvent, subnets: &Subnets) {
        match event {
            ServiceEvent::ServiceResolved(service) => self.found(&service, subnets),
            ServiceEvent::ServiceRemoved(_, full_name) => self.lost(&full_name),
            _ => {}
        }
    }

    fn found(&mut self, service: &ResolvedService, subnets: &Subnets) {
        let full_name = &service.fullname;
        let addr = subnets.best(&service.addresses, service.port);
        let addr = addr.filter(|addr| self.kind.can_be_at(addr));
        let addr = addr.filter(|addr| !(subnets.is_own(addr.ip()) && is_own_port(addr.port())));
        let Some(addr) = addr else { return self.lost(full_name) };
        let key = full_name.to_lowercase();
        let new = Neighbour { name: shown(full_name, self.kind), addr, full_name: full_name.clone() };
        let before = self.known.get(&key);
        if before == Some(&new) || before.is_none() && self.known.len() >= MOST {
            return;
        }
        tracing::info!("a neighbour: {:?} at {addr}", new.name);
        self.known.insert(key, new);
        self.publish();
    }

    fn lost(&mut self, full_name: &str) {
        if let Some(neighbour) = self.known.remove(&full_name.to_lowercase()) {
            tracing::info!("a neighbour has gone: {:?} at {}", neighbour.name, neighbour.addr);
            self.publish();
        }
    }

    fn publish(&self) {
        let mut heard: Vec<_> = self.known.values().cloned().collect();
        // One that announces itself under many names is still one.
        heard.sort_by_key(|neighbour| neighbour.addr);
        heard.dedup_by_key(|neighbour| neighbour.addr);
        self.heard.send_replace(heard.into());
    }
}

#[cfg(test)]
mod tests;
