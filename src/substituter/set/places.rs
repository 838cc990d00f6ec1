//! The servers of the set, of which those of neighbours come and go.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::server::Server;
use crate::lan::{Neighbour, Neighbours};
use crate::substituter::{Http, Web};

/// What was named as a server.
#[derive(Debug)]
pub(super) enum Place {
    /// One server.
    Server(Arc<Server>),
    /// Those of the neighbours (`lan:`).
    Neighbours(Nearby),
}

/// The servers of neighbours.
#[derive(Debug)]
pub(super) struct Nearby {
    neighbours: Arc<Neighbours>,
    web: Arc<Web>,
    known: Mutex<Known>,
}

/// The neighbours as they were when it was last looked.
#[derive(Debug, Default)]
struct Known {
    heard: Arc<[Neighbour]>,
    servers: Vec<(SocketAddr, Arc<Server>)>,
}

impl Place {
    /// Those that are there now, and whether there is one that was not there before.
    fn add_to(&self, servers: &mut Vec<Arc<Server>>) -> bool {
        match self {
            Self::Server(server) => {
                servers.push(Arc::clone(server));
                false
            }
            Self::Neighbours(nearby) => nearby.add_to(servers),
        }
    }

    /// Returns once it is known who is there: at once, or shortly after neighbours are first listened to.
    pub(super) async fn first_heard(&self) {
        if let Self::Neighbours(nearby) = self {
            nearby.neighbours.first_heard().await;
        }
    }
}

/// The servers that are there now, in the order named, and whether there is one that was not there when it was last asked.
pub(super) fn servers(places: &[Place]) -> (Vec<Arc<Server>>, bool) {
    let mut servers = Vec::with_capacity(places.len());
    let is_new = places.iter().fold(false, |is_new, place| place.add_to(&mut servers) | is_new);
    (servers, is_new)
}

impl Nearby {
    pub(super) fn new(neighbours: Arc<Neighbours>, web: Arc<Web>) -> Self {
        Self { neighbours, web, known: Mutex::default() }
    }

    /// What is known of a server is kept as long as it stays where it is.
    fn add_to(&self, servers: &mut Vec<Arc<Server>>) -> bool {
        let heard = self.neighbours.list();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_new = false;
        if !Arc::ptr_eq(&known.heard, &heard) {
            let server = |neighbour: &Neighbour| {
                let addr = neighbour.addr;
                if let Some(before) = known.servers.iter().find(|(before, _)| *before == addr) {
                    return Some(before.clone());
                }
                // One with an address of the link alone (IPv6) has no URL.
                let place = Http::new(&format!("http://{addr}/"), Arc::clone(&self.web)).ok()?;
                is_new = true;
                Some((addr, Arc::new(Server::new(Arc::new(place), false))))
            };
            known.servers = heard.iter().filter_map(server).collect();
            known.heard = heard;
        }
        servers.extend(known.servers.iter().map(|(_, server)| Arc::clone(server)));
        is_new
    }
}
