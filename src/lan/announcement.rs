//! A service of our own that neighbours can find.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    sync::{
        LazyLock, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use mdns_sd::{IfKind, ServiceDaemon, ServiceInfo};

use super::{Error, LOOK, ServiceKind, daemon, is_full, service::is_name};

/// How long the end of an announcement may take: the goodbye is one packet an interface, and a process that ends must not wait for more.
const GOODBYE: Duration = Duration::from_millis(250);

/// Ports on which this process offers something.
static OWN_PORTS: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// The host of our services in DNS. A name by chance says nothing of this machine, and no other responder on it (Avahi) has the same.
static HOST: LazyLock<String> =
    LazyLock::new(|| format!("erisfs-{:016x}.local.", RandomState::new().hash_one(std::process::id())));

/// Tells neighbours of a service at this machine's addresses for as long as it lives, and that it has ended when dropped.
pub struct Announcement {
    full_name: String,
    own: OwnPort,
    /// Ends the thread that holds mDNS, when it is dropped.
    end: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Announcement {
    /// Announces the service that listens at `at`, under a name of 1 to 63 bytes for people to see, at the addresses at which it can be
    /// reached: that one, or if it stands for all, all of its family; `[::]` stands for those of IPv4, too. Where another service on the
    /// link has the name, a number is added to it. Nothing is said that is not given here. Needs no runtime.
    pub fn new(kind: ServiceKind, at: SocketAddr, name: &str) -> Result<Self, Error> {
        if !is_name(name) {
            return Err(Error::Name { name: name.to_owned() });
        }
        let no_text: Option<std::collections::HashMap<String, String>> = None;
        let service = ServiceInfo::new(kind.dns_type(), name, &HOST, "", at.port(), no_text)?;
        let mut service = service.enable_addr_auto();
        service.set_interfaces(vec![reach(at.ip())]);
        let full_name = service.get_fullname().to_owned();
        let own = OwnPort::new(at.port());
        let daemon = begin(&service)?;
        let (end, ended) = channel();
        let keeper = thread::Builder::new().name("announcement".into());
        let keeper = keeper.spawn(move || keep(daemon, &service, &ended));
        let keeper = keeper.map_err(|error| Error::Mdns { reason: error.to_string() })?;
        Ok(Self { full_name, own, end: Some(end), keeper: Some(keeper) })
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcement").field("full_name", &self.full_name).field("port", &self.own.0).finish()
    }
}

/// Which addresses of this machine lead to what listens at this one.
fn reach(listening: IpAddr) -> IfKind {
    match listening.to_canonical() {
        IpAddr::V4(v4) if v4.is_unspecified() => IfKind::IPv4,
        IpAddr::V6(v6) if v6.is_unspecified() => IfKind::All,
        ip => IfKind::Addr(ip),
    }
}

fn begin(service: &ServiceInfo) -> Result<ServiceDaemon, Error> {
    let daemon = daemon()?;
    daemon.register(service.clone())?;
    Ok(daemon)
}

/// Until the announcement ends. What strangers say is kept by mDNS here, too, so it is begun anew when that is too much.
fn keep(daemon: ServiceDaemon, service: &ServiceInfo, ended: &Receiver<()>) {
    let mut daemon = Some(daemon);
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(LOOK) {
        daemon = match daemon {
            Some(full) if is_full(&full) => {
                tracing::warn!("too much is announced on this link: our service is announced anew");
                let _ = full.shutdown();
                None
            }
            None => begin(service).ok(),
            well => well,
        };
    }
    let Some(daemon) = daemon else { return };
    if let Ok(done) = daemon.unregister(service.get_fullname()) {
        let _ = done.recv_timeout(GOODBYE);
    }
    let _ = daemon.shutdown();
}

/// A port that is known to be our own for as long as this lives.
struct OwnPort(u16);

impl OwnPort {
    fn new(port: u16) -> Self {
        own_ports(|ports| ports.push(port));
        Self(port)
    }
}

impl Drop for OwnPort {
    fn drop(&mut self) {
        own_ports(|ports| {
            if let Some(place) = ports.iter().position(|port| *port == self.0) {
                ports.swap_remove(place);
            }
        });
    }
}

/// Whether this process has announced a service at this port.
pub(super) fn is_own_port(port: u16) -> bool {
    own_ports(|ports| ports.contains(&port))
}

fn own_ports<T>(with: impl FnOnce(&mut Vec<u16>) -> T) -> T {
    with(&mut OWN_PORTS.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], port))
    }

    #[test]
    fn a_service_is_our_own_from_its_announcement_to_its_end() {
        assert!(!is_own_port(40_001));
        let announcement = Announcement::new(ServiceKind::EriBlocks, at(40_001), "a test").expect("mDNS");
        assert!(is_own_port(40_001));
        drop(announcement);
        assert!(!is_own_port(40_001));
    }

    #[test]
    fn a_name_that_dns_cannot_hold_is_refused() {
        let refused = Announcement::new(ServiceKind::EriBlocks, at(40_002), &"a".repeat(64));
        assert!(matches!(refused, Err(Error::Name { .. })));
        assert!(!is_own_port(40_002));
    }

    #[test]
    fn only_addresses_at_which_the_service_listens_are_announced() {
        let reach = |ip: &str| reach(ip.parse().expect("an address"));
        assert!(matches!(reach("::"), IfKind::All));
        for ip in ["0.0.0.0", "::ffff:0.0.0.0"] {
            assert!(matches!(reach(ip), IfKind::IPv4));
        }
        for (ip, announced) in
            [("192.168.7.3", "192.168.7.3"), ("::ffff:192.168.7.3", "192.168.7.3"), ("fd00::3", "fd00::3")]
        {
            let announced: IpAddr = announced.parse().expect("an address");
            assert!(matches!(reach(ip), IfKind::Addr(ip) if ip == announced));
        }
    }
}
