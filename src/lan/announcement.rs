//! A service of our own that neighbours can find.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use mdns_sd::{ServiceDaemon, ServiceInfo};

use super::{Error, ServiceKind, daemon, service::is_name};

/// How long the end of an announcement may take: the goodbye is one packet an interface, and a process that ends must not wait for more.
const GOODBYE: Duration = Duration::from_millis(250);

/// Ports on which this process offers something.
static OWN_PORTS: Mutex<Vec<u16>> = Mutex::new(Vec::new());

/// The host of our services in DNS. A name by chance says nothing of this machine, and no other responder on it (Avahi) has the same.
static HOST: LazyLock<String> =
    LazyLock::new(|| format!("erisfs-{:016x}.local.", RandomState::new().hash_one(std::process::id())));

/// Tells neighbours of a service at this machine's addresses for as long as it lives, and that it has ended when dropped.
pub struct Announcement {
    daemon: ServiceDaemon,
    full_name: String,
    port: u16,
}

impl Announcement {
    /// Announces that the service listens at `port`, under a name of 1 to 63 bytes for people to see. Where another service on the link has
    /// the name, a number is added to it. Nothing is said that is not given here. Needs no runtime.
    pub fn new(kind: ServiceKind, port: u16, name: &str) -> Result<Self, Error> {
        if !is_name(name) {
            return Err(Error::Name { name: name.to_owned() });
        }
        let no_text: Option<std::collections::HashMap<String, String>> = None;
        let service = ServiceInfo::new(kind.dns_type(), name, &HOST, "", port, no_text)?.enable_addr_auto();
        let full_name = service.get_fullname().to_owned();
        let daemon = daemon()?;
        own_ports(|ports| ports.push(port));
        // From here on, dropping undoes it.
        let announcement = Self { daemon, full_name, port };
        announcement.daemon.register(service)?;
        Ok(announcement)
    }
}

impl Drop for Announcement {
    fn drop(&mut self) {
        own_ports(|ports| {
            if let Some(place) = ports.iter().position(|port| *port == self.port) {
                ports.swap_remove(place);
            }
        });
        if let Ok(done) = self.daemon.unregister(&self.full_name) {
            let _ = done.recv_timeout(GOODBYE);
        }
        let _ = self.daemon.shutdown();
    }
}

impl fmt::Debug for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Announcement").field("full_name", &self.full_name).field("port", &self.port).finish()
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

    #[test]
    fn a_service_is_our_own_from_its_announcement_to_its_end() {
        assert!(!is_own_port(40_001));
        let announcement = Announcement::new(ServiceKind::EriBlocks, 40_001, "a test").expect("mDNS");
        assert!(is_own_port(40_001));
        drop(announcement);
        assert!(!is_own_port(40_001));
    }

    #[test]
    fn a_name_that_dns_cannot_hold_is_refused() {
        let refused = Announcement::new(ServiceKind::EriBlocks, 40_002, &"a".repeat(64));
        assert!(matches!(refused, Err(Error::Name { .. })));
        assert!(!is_own_port(40_002));
    }
}
