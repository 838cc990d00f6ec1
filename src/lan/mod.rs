//! Neighbours: who on this link offers a service, and the offer of one of our own (mDNS, RFC 6762; DNS-SD, RFC 6763).
//!
//! [`Neighbours`] listens for as long as it lives and knows who is there now; [`Announcement`] is heard by others for as long as it
//! lives. Anybody on the link can send any packet, so what is heard is bounded in number and length, and only an address of this
//! machine's own subnets counts: no packet makes us call a host that is not on the link.

use std::time::Duration;

use mdns_sd::{IfKind, IfPredicate, Metrics, ServiceDaemon};

mod announcement;
mod neighbours;
mod service;
mod subnets;

pub use announcement::Announcement;
pub use neighbours::{Neighbour, Neighbours};
pub use service::ServiceKind;
pub use subnets::is_near;

/// Why neighbours cannot be heard, or cannot hear us.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// mDNS did not start, or has ended.
    #[error("neighbours cannot be reached by mDNS: {reason}")]
    Mdns {
        /// What was in the way.
        reason: String,
    },
    /// A service cannot have this name.
    #[error("{name:?} is no name for a service: 1 to 63 bytes without control characters are")]
    Name {
        /// The name as given.
        name: String,
    },
}

impl From<mdns_sd::Error> for Error {
    fn from(error: mdns_sd::Error) -> Self {
        Self::Mdns { reason: error.to_string() }
    }
}

/// How often it is looked whether mDNS holds too much.
const LOOK: Duration = Duration::from_millis(500);
/// Records that mDNS may hold, of up to 9 kB each: it keeps for a long time what anybody on the link says, and has no bound of its own. A link
/// with hundreds of devices has hundreds of records of one kind of service.
const MOST_RECORDS: i64 = 4096;
/// And moments at which to look at records, of 16 bytes each: some for each time that a record is heard again.
const MOST_TIMERS: i64 = 1 << 20;
/// How long mDNS may take to say what it holds.
const FIGURES: Duration = Duration::from_millis(250);

/// The part of mDNS that this program takes, on the interfaces where neighbours are: not the loopback, and no tunnel to one other host. In
/// unit tests on none: no test is to be heard by the neighbours of whoever runs it.
fn daemon() -> Result<ServiceDaemon, Error> {
    let daemon = ServiceDaemon::new()?;
    let elsewhere = IfPredicate::new(|interface| cfg!(test) || interface.is_loopback() || interface.is_p2p());
    daemon.disable_interface(IfKind::Predicate(elsewhere))?;
    Ok(daemon)
}

/// Whether mDNS holds so much that it is to be begun anew.
fn is_full(daemon: &ServiceDaemon) -> bool {
    let figures = daemon.get_metrics().ok().and_then(|figures| figures.recv_timeout(FIGURES).ok());
    figures.is_some_and(|figures| is_too_much(&figures))
}

fn is_too_much(figures: &Metrics) -> bool {
    let records: i64 =
        figures.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, count)| count).sum();
    records > MOST_RECORDS || figures.get("timer").is_some_and(|count| *count > MOST_TIMERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mdns_holds_has_a_bound_that_is_found_in_its_figures() {
        let daemon = daemon().expect("mDNS");
        let figures = daemon.get_metrics().expect("figures").recv_timeout(Duration::from_secs(30));
        let mut figures = figures.expect("figures");
        assert!(!is_too_much(&figures), "nothing was heard: {figures:?}");
        for (name, most) in
            [("cached-ptr", MOST_RECORDS), ("cached-txt", MOST_RECORDS), ("timer", MOST_TIMERS)]
        {
            let before = figures.insert(name.to_owned(), most + 1);
            assert!(is_too_much(&figures), "{name}");
            figures.insert(name.to_owned(), before.expect("mDNS counts them under this name"));
        }
        let _ = daemon.shutdown();
    }
}
