use std::net::{IpAddr, Ipv4Addr};

use if_addrs::{IfAddr, IfOperStatus, Ifv4Addr, Interface};
use mdns_sd::{ServiceEvent, ServiceInfo};

use super::listener::{MOST, MOST_OF_ONE};
use super::*;
use crate::lan::subnets::Subnets;

const KIND: ServiceKind = ServiceKind::EriBlocks;

fn listener() -> Listener {
    let heard = Arc::new(watch::Sender::new(Heard::default()));
    Listener::new(KIND, Link::new(daemon().expect("mDNS")), heard)
}

/// This machine is 192.168.7.3 of 192.168.7.0/24.
fn subnets() -> Subnets {
    let netmask = Ipv4Addr::new(255, 255, 255, 0);
    let addr = Ifv4Addr { ip: Ipv4Addr::new(192, 168, 7, 3), netmask, prefixlen: 24, broadcast: None };
    Subnets::of(vec![Interface {
        name: "eth".into(),
        addr: IfAddr::V4(addr),
        index: Some(2),
        oper_status: IfOperStatus::Up,
        is_p2p: false,
    }])
}

fn resolved(name: &str, addr: [u8; 4], port: u16) -> ServiceEvent {
    let addr = IpAddr::from(addr);
    let no_text: Option<std::collections::HashMap<String, String>> = None;
    let service = ServiceInfo::new(KIND.dns_type(), name, "host.local.", addr, port, no_text);
    ServiceEvent::ServiceResolved(Box::new(service.expect("a service").as_resolved_service()))
}

fn removed(name: &str) -> ServiceEvent {
    ServiceEvent::ServiceRemoved(KIND.dns_type().into(), format!("{name}.{}", KIND.dns_type()))
}

impl Listener {
    fn hear(&mut self, event: ServiceEvent) -> Vec<String> {
        self.take(event, subnets);
        self.heard.borrow().iter().map(|neighbour| format!("{} {}", neighbour.name, neighbour.addr)).collect()
    }
}

#[test]
fn a_neighbour_comes_moves_and_goes() {
    let mut listener = listener();
    assert_eq!(listener.hear(resolved("desk", [192, 168, 7, 9], 80)), ["desk 192.168.7.9:80"]);
    assert_eq!(listener.hear(resolved("Desk", [192, 168, 7, 10], 81)), ["Desk 192.168.7.10:81"]);
    let changed = listener.heard.subscribe();
    listener.hear(resolved("Desk", [192, 168, 7, 10], 81));
    assert_eq!(changed.has_changed().ok(), Some(false), "what was known is no news");
    assert!(listener.hear(removed("desk")).is_empty());
    assert!(listener.hear(removed("desk")).is_empty());
}

#[test]
fn a_neighbour_that_moves_off_the_link_is_forgotten() {
    let mut listener = listener();
    listener.hear(resolved("desk", [192, 168, 7, 9], 80));
    assert!(listener.hear(resolved("desk", [8, 8, 8, 8], 80)).is_empty());
}

#[test]
fn a_flood_of_names_is_bounded_and_drives_nobody_out() {
    let mut listener = listener();
    listener.hear(resolved("desk", [192, 168, 7, 9], 80));
    for number in 0..1000_u16 {
        let host = 10 + (number % 200) as u8;
        listener.hear(resolved(&format!("flood {number}"), [192, 168, 7, host], 1000 + number));
    }
    assert_eq!((listener.known.len(), listener.heard.borrow().len()), (MOST, MOST));
    assert!(listener.known.values().any(|known| known.neighbour.name == "desk"));
    listener.hear(removed("flood 0"));
    assert_eq!(listener.hear(resolved("late", [192, 168, 7, 250], 80)).len(), MOST);
}

#[test]
fn one_host_does_not_take_all_places() {
    let mut listener = listener();
    for number in 0..100_u16 {
        listener.hear(resolved(&format!("flood {number}"), [192, 168, 7, 10], 1000 + number));
    }
    assert_eq!(listener.known.len(), MOST_OF_ONE);
    assert_eq!(listener.hear(resolved("desk", [192, 168, 7, 9], 80)).len(), MOST_OF_ONE + 1);
    // Nor by moving there.
    assert_eq!(listener.hear(resolved("desk", [192, 168, 7, 10], 80)).len(), MOST_OF_ONE);
}

#[test]
fn one_whose_end_was_not_heard_is_forgotten_when_it_is_not_found_again() {
    let mut listener = listener();
    listener.hear(resolved("ghost", [192, 168, 7, 9], 80));
    listener.hear(resolved("desk", [192, 168, 7, 10], 80));
    listener.browse_again();
    listener.hear(resolved("desk", [192, 168, 7, 10], 80));
    let now = std::time::Instant::now();
    listener.sweep(now);
    assert_eq!(listener.known.len(), 2, "there is time to answer");
    listener.sweep(now + RECONFIRM);
    let left: Vec<_> = listener.known.values().map(|known| &*known.neighbour.name).collect();
    assert_eq!(left, ["desk"]);
    listener.sweep(now + 10 * RECONFIRM);
    assert_eq!(listener.known.len(), 1, "once");
}

#[test]
fn one_that_has_many_names_is_one() {
    let mut listener = listener();
    for number in 0..4 {
        assert_eq!(listener.hear(resolved(&format!("name {number}"), [192, 168, 7, 9], 80)).len(), 1);
    }
    for number in 0..3 {
        assert_eq!(listener.hear(removed(&format!("name {number}"))).len(), 1);
    }
    assert!(listener.hear(removed("name 3")).is_empty());
}

#[test]
fn our_own_service_is_no_neighbour() {
    let mut listener = listener();
    let announcement =
        crate::lan::Announcement::new(KIND, ([0, 0, 0, 0], 40_003).into(), "ourselves").expect("mDNS");
    assert!(listener.hear(resolved("ourselves", [192, 168, 7, 3], 40_003)).is_empty());
    let other = listener.hear(resolved("another process", [192, 168, 7, 3], 40_004));
    assert_eq!(other, ["another process 192.168.7.3:40004"]);
    drop(announcement);
}

#[tokio::test(start_paused = true)]
async fn somebody_who_is_alone_knows_it_soon() {
    let neighbours = Neighbours::expected(FIRST_ANSWERS);
    let begun = Instant::now();
    neighbours.first_heard().await;
    assert_eq!(begun.elapsed(), FIRST_ANSWERS);
    neighbours.first_heard().await;
    assert_eq!(begun.elapsed(), FIRST_ANSWERS, "once");
}

#[tokio::test(start_paused = true)]
async fn the_first_neighbour_ends_the_wait() {
    let neighbours = Neighbours::expected(FIRST_ANSWERS);
    let begun = Instant::now();
    let comes = async {
        tokio::time::sleep(FIRST_ANSWERS / 4).await;
        neighbours.tell([SocketAddr::from(([192, 168, 7, 9], 80))]);
    };
    tokio::join!(neighbours.first_heard(), comes);
    assert_eq!(begun.elapsed(), FIRST_ANSWERS / 4);
}
