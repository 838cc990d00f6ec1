//! Which addresses are on this machine's own links.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use if_addrs::{IfAddr, Interface};
use mdns_sd::ScopedIp;

/// Whether a connection from this address comes from this machine or from one on its links, as they are now.
pub fn is_near(ip: IpAddr) -> bool {
    Subnets::now().is_near(ip)
}

/// The interfaces of this machine that have neighbours, as they were when it was asked.
#[derive(Debug)]
pub(super) struct Subnets {
    interfaces: Vec<Interface>,
}

impl Subnets {
    /// Asks the system: microseconds. Where it says nothing, there are none.
    pub(super) fn now() -> Self {
        Self::of(if_addrs::get_if_addrs().unwrap_or_default())
    }

    pub(super) fn of(mut interfaces: Vec<Interface>) -> Self {
        interfaces.retain(|interface| !interface.is_loopback() && !interface.is_p2p());
        Self { interfaces }
    }

    /// Whether it is an address of this machine itself.
    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        self.interfaces.iter().any(|interface| interface.ip() == ip)
    }

    /// The best of the addresses that are on one of the subnets: IPv4, which every service has, before IPv6, and that of the link last.
    pub(super) fn best<'a>(
        &self,
        addresses: impl IntoIterator<Item = &'a ScopedIp>,
        port: u16,
    ) -> Option<SocketAddr> {
        let near = addresses.into_iter().filter_map(|address| match address {
            ScopedIp::V6(v6) if v6.addr().is_unicast_link_local() => {
                let scope = v6.scope_id().index;
                let known = self.interfaces.iter().any(|interface| interface.index == Some(scope));
                known.then(|| (2, SocketAddr::V6(SocketAddrV6::new(*v6.addr(), port, 0, scope))))
            }
            other => {
                let ip = other.to_ip_addr();
                let class = u8::from(ip.is_ipv6());
                self.holds(ip).then(|| (class, SocketAddr::new(ip, port)))
            }
        });
        // Among equals the lowest, so that one service always has the same.
        near.min().map(|(_, address)| address).filter(|_| port != 0)
    }

    /// Whether it is the address of this machine or of one on its links.
    fn is_near(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            ip if ip.is_loopback() => true,
            IpAddr::V4(v4) if v4.is_link_local() => true,
            IpAddr::V6(v6) if v6.is_unicast_link_local() => true,
            ip => self.holds(ip),
        }
    }

    /// Whether the address can be that of a host on one of the subnets.
    fn holds(&self, ip: IpAddr) -> bool {
        self.interfaces.iter().any(|interface| match (&interface.addr, ip) {
            (IfAddr::V4(own), IpAddr::V4(ip)) => {
                let mask = u32::from(own.netmask);
                let (own, ip) = (u32::from(own.ip), u32::from(ip));
                // A subnet of everything is none. In one of two addresses (RFC 3021) both are hosts; else the first and the last are not.
                let is_host = mask >= u32::MAX - 1 || (ip & !mask != 0 && ip & !mask != !mask);
                mask != 0 && own & mask == ip & mask && is_host
            }
            (IfAddr::V6(own), IpAddr::V6(ip)) => {
                let mask = u128::from(own.netmask);
                mask != 0 && u128::from(own.ip) & mask == u128::from(ip) & mask && !own.is_link_local()
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use if_addrs::{IfOperStatus, Ifv4Addr, Ifv6Addr};

    use super::*;

    fn interface(name: &str, index: u32, addr: IfAddr) -> Interface {
        Interface {
            name: name.into(),
            addr,
            index: Some(index),
            oper_status: IfOperStatus::Up,
            is_p2p: name == "tun",
        }
    }

    fn v4(ip: [u8; 4], prefix: u8) -> IfAddr {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        IfAddr::V4(Ifv4Addr {
            ip: ip.into(),
            netmask: Ipv4Addr::from(mask),
            prefixlen: prefix,
            broadcast: None,
        })
    }

    fn v6(ip: &str, prefix: u8) -> IfAddr {
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
        let netmask = Ipv6Addr::from(mask);
        IfAddr::V6(Ifv6Addr {
            ip: ip.parse().expect("an address"),
            netmask,
            prefixlen: prefix,
            broadcast: None,
        })
    }

    fn subnets() -> Subnets {
        Subnets::of(vec![
            interface("lo", 1, v4([127, 0, 0, 1], 8)),
            interface("eth", 2, v4([192, 168, 7, 3], 24)),
            interface("eth", 2, v6("fd00:1::3", 64)),
            interface("eth", 2, v6("fe80::3", 64)),
            interface("tun", 3, v4([10, 0, 0, 1], 8)),
            interface("odd", 4, v4([5, 5, 5, 5], 0)),
        ])
    }

    fn best(addresses: &[&str]) -> Option<String> {
        let addresses = addresses.iter().map(|ip| ScopedIp::from(ip.parse::<IpAddr>().expect("an address")));
        Some(subnets().best(&addresses.collect::<Vec<_>>(), 80)?.to_string())
    }

    #[test]
    fn an_address_that_is_not_on_our_subnets_is_never_called() {
        for stranger in [
            "192.168.8.9",
            "127.0.0.1",
            "8.8.8.8",
            "10.0.0.2",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.251",
            "192.168.7.0",
            "192.168.7.255",
            "169.254.1.1",
            "::1",
            "::",
            "2001:db8::1",
            "fd00:2::1",
            "ff02::fb",
            "::ffff:192.168.7.9",
            "fe80::9",
        ] {
            assert_eq!(best(&[stranger]), None, "{stranger}");
        }
    }

    #[test]
    fn a_neighbour_is_called_by_its_best_address() {
        assert_eq!(best(&["192.168.7.9"]).as_deref(), Some("192.168.7.9:80"));
        assert_eq!(
            best(&["fd00:1::9", "192.168.7.9", "8.8.8.8", "192.168.7.10"]).as_deref(),
            Some("192.168.7.9:80")
        );
        assert_eq!(best(&["fd00:1::9", "8.8.8.8"]).as_deref(), Some("[fd00:1::9]:80"));
        let address = ScopedIp::from(IpAddr::from([192, 168, 7, 9]));
        assert_eq!(subnets().best([&address], 0), None, "no port");
    }

    #[test]
    fn who_is_far_is_told_from_who_is_near() {
        let is_near = |ip: &str| subnets().is_near(ip.parse().expect("an address"));
        for near in
            ["127.0.0.1", "::1", "169.254.3.4", "fe80::7", "192.168.7.9", "::ffff:192.168.7.9", "fd00:1::9"]
        {
            assert!(is_near(near), "{near}");
        }
        for far in ["192.168.8.9", "::ffff:192.168.8.9", "10.0.0.2", "2001:db8::1", "0.0.0.0"] {
            assert!(!is_near(far), "{far}");
        }
    }

    #[test]
    fn our_own_addresses_are_known() {
        assert!(subnets().is_own([192, 168, 7, 3].into()) && !subnets().is_own([192, 168, 7, 4].into()));
    }
}
