//! Network namespaces as hosts on one link: a bridge in a namespace of its own is the switch.
//!
//! A host has one interface, `eth0`, and nothing routes: what its processes reach is on the link. Files and mounts are those of the
//! machine. What is started by a host goes when the test ends, and so do the namespaces.

mod bad_neighbours;
mod guix;
mod sharing;

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::{Running, run};
use super::scratch::{Scratch, text};

/// A link to which hosts are tied.
struct Link {
    switch: String,
    hosts: AtomicU32,
}

impl Link {
    fn new() -> Self {
        static LINKS: AtomicU32 = AtomicU32::new(0);
        let number = LINKS.fetch_add(1, Ordering::Relaxed);
        let switch = format!("erisfs-{}-{number}", process::id());
        ip(&format!("netns add {switch}"));
        // Snooping would keep multicast from who has not said lately that he wants it.
        ip(&format!("-n {switch} link add br0 type bridge mcast_snooping 0"));
        ip(&format!("-n {switch} link set br0 up"));
        Link { switch, hosts: AtomicU32::new(0) }
    }

    /// Another host: 10.98.0.1 is the first.
    fn host(&self) -> Host {
        let (switch, number) = (&self.switch, self.hosts.fetch_add(1, Ordering::Relaxed) + 1);
        let netns = format!("{switch}-{number}");
        ip(&format!("netns add {netns}"));
        ip(&format!("-n {switch} link add port{number} type veth peer name eth0 netns {netns}"));
        ip(&format!("-n {switch} link set port{number} master br0 up"));
        ip(&format!("-n {netns} addr add 10.98.0.{number}/24 dev eth0"));
        ip(&format!("-n {netns} link set lo up"));
        ip(&format!("-n {netns} link set eth0 up"));
        Host { netns, addr: Ipv4Addr::new(10, 98, 0, number as u8), ours: true }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.switch]).status();
    }
}

/// A host: what is started by it has its network and no other.
struct Host {
    netns: String,
    addr: Ipv4Addr,
    /// Whether it goes with this.
    ours: bool,
}

impl Host {
    /// One that `tests/peers/kit/mdns.sh` started.
    fn started(netns: String, addr: Ipv4Addr) -> Self {
        Host { netns, addr, ours: false }
    }

    /// Does something on a thread that is on this host; so are the threads and processes that it starts.
    fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let done = thread::scope(|scope| {
            let inside = || {
                let namespace = File::open(Path::new("/run/netns").join(&self.netns)).unwrap();
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                act()
            };
            scope.spawn(inside).join()
        });
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Starts a program and waits until it says so.
    fn start(&self, command: &mut Command, says: &str) -> Running {
        let mut running = self.inside(|| Running::start(command));
        running.line(says);
        running
    }

    /// Mounts at `mnt`, in the foreground.
    fn mount(&self, scratch: &Scratch, arguments: &[&str]) -> Running {
        let at = scratch.folder("mnt");
        let fixed = ["mount", "--foreground"].into_iter();
        let arguments = fixed.chain(arguments.iter().copied()).chain([text(&at)]);
        self.start(&mut scratch.erisfs(arguments), "mounted at ")
    }

    /// Takes it off the link: no packet comes or goes, and nobody is told.
    fn cut_off(&self) {
        ip(&format!("-n {} link set eth0 down", self.netns));
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.ours {
            let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
        }
    }
}

#[track_caller]
fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' '))).text();
}

/// Compares everything in two trees.
#[track_caller]
fn is_the_same(real: &Path, shown: &Path) {
    let found = run(Command::new("diff").args(["-r", "--no-dereference", text(real), text(shown)]));
    assert_eq!((String::from_utf8_lossy(&found.stdout), found.stderr.as_str()), ("".into(), ""));
}
