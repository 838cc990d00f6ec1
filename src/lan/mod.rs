//! Neighbours: who on this link offers a service, and the offer of one of our own (mDNS, RFC 6762; DNS-SD, RFC 6763).
//!
//! [`Neighbours`] listens for as long as it lives and knows who is there now; [`Announcement`] is heard by others for as long as it
//! lives. Anybody on the link can send any packet, so what is heard is bounded in number and length, and only an address of this
//! machine's own subnets counts: no packet makes us call a host that is not on the link.

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

/// The part of mDNS that this program takes, on the interfaces where neighbours are: not the loopback, and no tunnel to one other host.
fn daemon() -> Result<mdns_sd::ServiceDaemon, Error> {
    let daemon = mdns_sd::ServiceDaemon::new()?;
    let elsewhere = mdns_sd::IfPredicate::new(|interface| interface.is_loopback() || interface.is_p2p());
    daemon.disable_interface(mdns_sd::IfKind::Predicate(elsewhere))?;
    Ok(daemon)
}
