//! The thread that turns events of mDNS into the list of neighbours.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mdns_sd::{Receiver, RecvTimeoutError, ResolvedService, ServiceDaemon, ServiceEvent};
use tokio::sync::watch;

use super::{Heard, Link, Neighbour, RECONFIRM};
use crate::lan::{
    LOOK, ServiceKind, announcement::is_own_port, daemon, is_full, service::shown, subnets::Subnets,
};

/// Neighbours at the most; those that were heard first stay. A link of people who share has fewer, and each may be asked for a block.
pub(super) const MOST: usize = 32;
/// Services of one host at the most, so that it cannot take all places: a machine has few users who share.
pub(super) const MOST_OF_ONE: usize = 4;
/// Before listening is begun again, after more was heard at once than a queue holds: a flood must not keep a core busy.
const PAUSE: Duration = Duration::from_secs(1);
/// Doubts are looked into no more often than this: each time costs a packet.
const DOUBTS: Duration = Duration::from_secs(10);

/// What turns events of mDNS into the list.
pub(super) struct Listener {
    kind: ServiceKind,
    link: Arc<Link>,
    pub(super) heard: Arc<watch::Sender<Heard>>,
    /// By their full names in lower case, as DNS compares them.
    pub(super) known: BTreeMap<String, Known>,
    /// When it was last asked who is there.
    browsed: Instant,
    is_swept: bool,
}

pub(super) struct Known {
    pub(super) neighbour: Neighbour,
    /// When mDNS last said so.
    resolved: Instant,
}

impl Listener {
    pub(super) fn new(kind: ServiceKind, link: Arc<Link>, heard: Arc<watch::Sender<Heard>>) -> Self {
        Self { kind, link, heard, known: BTreeMap::new(), browsed: Instant::now(), is_swept: true }
    }

    /// Until nobody wants to know any more.
    pub(super) fn run(mut self, mut events: Receiver<ServiceEvent>) {
        let mut looked = Instant::now();
        loop {
            let mut is_lost = false;
            match events.recv_timeout(LOOK) {
                Ok(event) => self.take(event, Subnets::now),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    is_lost = true;
                    thread::sleep(PAUSE);
                }
            }
            if looked.elapsed() >= LOOK || is_lost {
                looked = Instant::now();
                match self.look(is_lost) {
                    Ok(None) => {}
                    Ok(Some(anew)) => events = anew,
                    // The queue of events stays as it is, and so does what has to be done.
                    Err(mdns_sd::Error::Again) => {}
                    Err(_) => return,
                }
            }
        }
    }

    /// Sees to it that mDNS holds no more than it should, and the list nobody who has gone. The events from now on, if those before are
    /// to be forgotten.
    fn look(&mut self, is_lost: bool) -> Result<Option<Receiver<ServiceEvent>>, mdns_sd::Error> {
        let now = Instant::now();
        let link = self.link.clone();
        let daemon = link.daemon().clone().ok_or(mdns_sd::Error::DaemonShutdown)?;
        if is_full(&daemon) {
            return self.begin_anew(&daemon).map(Some);
        }
        self.sweep(now);
        // Whoever is in doubt has had the time to confirm. That mDNS does not know of him at all is not told by itself.
        let mut doubted = link.doubted();
        let in_doubt = doubted.is_some_and(|since| now > since + RECONFIRM + LOOK);
        if is_lost || in_doubt && now > self.browsed + DOUBTS {
            let events = daemon.browse(self.kind.dns_type())?;
            (*doubted, self.browsed, self.is_swept) = (None, now, false);
            return Ok(Some(events));
        }
        Ok(None)
    }

    /// Somebody floods the link. What mDNS holds is given up, and with it who is there.
    fn begin_anew(&mut self, full: &ServiceDaemon) -> Result<Receiver<ServiceEvent>, mdns_sd::Error> {
        tracing::warn!("too much is announced on this link: who is there is found out anew");
        let _ = full.shutdown();
        self.known.clear();
        self.publish();
        loop {
            thread::sleep(PAUSE);
            let mut current = self.link.daemon();
            if current.is_none() {
                return Err(mdns_sd::Error::DaemonShutdown);
            }
            let begun = daemon().and_then(|daemon| Ok((daemon.browse(self.kind.dns_type())?, daemon)));
            if let Ok((events, daemon)) = begun {
                *current = Some(daemon);
                (self.browsed, self.is_swept) = (Instant::now(), true);
                return Ok(events);
            }
        }
    }

    /// Forgets those of whom mDNS did not know when it was last asked.
    pub(super) fn sweep(&mut self, now: Instant) {
        if self.is_swept || now < self.browsed + RECONFIRM {
            return;
        }
        self.is_swept = true;
        let gone = self.known.iter().filter(|(_, known)| known.resolved < self.browsed);
        let gone: Vec<_> = gone.map(|(key, _)| key.clone()).collect();
        gone.iter().for_each(|key| self.lost(key));
    }

    /// Everybody is asked for again from now on.
    #[cfg(test)]
    pub(super) fn browse_again(&mut self) {
        (self.browsed, self.is_swept) = (Instant::now(), false);
    }

    pub(super) fn take(&mut self, event: ServiceEvent, subnets: impl FnOnce() -> Subnets) {
        match event {
            ServiceEvent::ServiceResolved(service) => self.found(&service, &subnets()),
            ServiceEvent::ServiceRemoved(_, full_name) => self.lost(&full_name),
            _ => {}
        }
    }

    fn found(&mut self, service: &ResolvedService, subnets: &Subnets) {
        let full_name = &service.fullname;
        let addr = subnets.best(&service.addresses, service.port);
        let addr = addr.filter(|addr| self.kind.can_be_at(addr));
        let addr = addr.filter(|addr| !(subnets.is_own(addr.ip()) && is_own_port(addr.port())));
        let key = full_name.to_lowercase();
        let has_room = |addr: &std::net::SocketAddr| {
            let others = self.known.iter().filter(|(other, _)| **other != key);
            others.filter(|(_, known)| known.neighbour.addr.ip() == addr.ip()).count() < MOST_OF_ONE
        };
        let Some(addr) = addr.filter(has_room) else { return self.lost(full_name) };
        let new = Neighbour { name: shown(full_name, self.kind), addr, full_name: full_name.clone() };
        let resolved = Instant::now();
        let is_full = self.known.len() >= MOST;
        match self.known.get_mut(&key) {
            Some(before) if before.neighbour == new => {
                before.resolved = resolved;
                return;
            }
            None if is_full => return,
            _ => {}
        }
        tracing::info!("a neighbour: {:?} at {addr}", new.name);
        self.known.insert(key, Known { neighbour: new, resolved });
        self.publish();
    }

    fn lost(&mut self, full_name: &str) {
        if let Some(Known { neighbour, .. }) = self.known.remove(&full_name.to_lowercase()) {
            tracing::info!("a neighbour has gone: {:?} at {}", neighbour.name, neighbour.addr);
            self.publish();
        }
    }

    fn publish(&self) {
        let mut heard: Vec<_> = self.known.values().map(|known| known.neighbour.clone()).collect();
        // One that announces itself under many names is still one.
        heard.sort_by_key(|neighbour| neighbour.addr);
        heard.dedup_by_key(|neighbour| neighbour.addr);
        self.heard.send_replace(heard.into());
    }
}
