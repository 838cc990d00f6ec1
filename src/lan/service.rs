//! The kinds of service, and how the names of their instances are read.

use std::net::SocketAddr;

/// Longest name of an instance in bytes: one label of DNS (RFC 1035).
const MAX_NAME: usize = 63;

/// What a neighbour offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceKind {
    /// ERIS blocks by N2R (RFC 2169) over HTTP, as `--share` gives them.
    EriBlocks,
    /// Substitutes over HTTP, as `guix publish --advertise` gives them.
    GuixPublish,
}

impl ServiceKind {
    /// The type of the service in DNS-SD.
    pub fn dns_type(self) -> &'static str {
        match self {
            Self::EriBlocks => "_eris-blocks._tcp.local.",
            Self::GuixPublish => "_guix_publish._tcp.local.",
        }
    }
}

impl ServiceKind {
    /// Whether the service can be used at this address: a substitute server is named by a URL, which cannot tell the link of an address that
    /// every link has.
    pub(super) fn can_be_at(self, addr: &SocketAddr) -> bool {
        self == Self::EriBlocks || !matches!(addr, SocketAddr::V6(v6) if v6.scope_id() != 0)
    }
}

/// Whether a service may be announced under this name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.contains(char::is_control)
}

/// The name of an instance as it may be shown, from its full name in DNS, which a stranger wrote.
pub(super) fn shown(full_name: &str, kind: ServiceKind) -> String {
    let name = full_name.strip_suffix(kind.dns_type()).unwrap_or(full_name);
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut shown = String::new();
    let mut escaped = false;
    for character in name.chars() {
        if character == '\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        let character = if character.is_control() { '\u{fffd}' } else { character };
        if shown.len() + character.len_utf8() > MAX_NAME {
            break;
        }
        shown.push(character);
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddrV6;

    use super::*;

    #[test]
    fn a_name_that_a_stranger_wrote_is_shown_without_harm() {
        let full = |name: &str| format!("{name}._eris-blocks._tcp.local.");
        for (name, seen) in [
            ("desk", "desk"),
            ("Anna\\.s desk \\\\o/", "Anna.s desk \\o/"),
            ("\u{1b}[2Jdesk\n", "\u{fffd}[2Jdesk\u{fffd}"),
            ("", ""),
            ("\\", ""),
        ] {
            assert_eq!(shown(&full(name), ServiceKind::EriBlocks), seen);
        }
        assert_eq!(shown(&full(&"é".repeat(200)), ServiceKind::EriBlocks).len(), 62);
        assert_eq!(shown("elsewhere", ServiceKind::EriBlocks), "elsewhere");
    }

    #[test]
    fn a_substitute_server_has_an_address_that_a_url_can_say() {
        let near = SocketAddrV6::new("fe80::1".parse().expect("an address"), 80, 0, 2).into();
        assert!(ServiceKind::EriBlocks.can_be_at(&near) && !ServiceKind::GuixPublish.can_be_at(&near));
        for addr in ["192.168.7.9:80", "[fd00::9]:80"] {
            assert!(ServiceKind::GuixPublish.can_be_at(&addr.parse().expect("an address")));
        }
    }

    #[test]
    fn a_name_fits_a_label_and_has_no_control_characters() {
        assert!(is_name("Anna's desk.") && is_name(&"a".repeat(63)));
        assert!(!is_name("") && !is_name(&"a".repeat(64)) && !is_name("a\nb"));
    }
}
