//! The servers of the set, of which those of neighbours come and go.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::server::{Role, Server};
use crate::lan::{Neighbour, Neighbours};
use crate::substituter::{Http, Web};

/// How often it is said that somebody has come. Whoever announces himself at ever new ports would have all be forgotten all the time.
const NEWS: Duration = Duration::from_secs(10);

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
    /// Somebody has come, which was not said yet.
    has_news: bool,
    /// When it was said last.
    said: Option<Instant>,
}

impl Place {
    /// Those that are there now, and whether somebody has come, which is not said more often than every ten seconds.
    fn add_to(&self, servers: &mut Vec<Arc<Server>>) -> bool {
        match self {
            Self::Server(server) => {
                servers.push(Arc::clone(server));
                false
            }
            Self::Neighbours(nearby) => nearby.add_to(servers),
        }
    }

    /// Whether strangers are there, and nobody whom the user named.
    pub(super) fn is_neighbour(&self) -> bool {
        match self {
            Self::Server(server) => server.is_neighbour(),
            Self::Neighbours(_) => true,
        }
    }

    /// Returns once it is known who is there: at once, or shortly after neighbours are first listened to.
    pub(super) async fn first_heard(&self) {
        if let Self::Neighbours(nearby) = self {
            nearby.neighbours.first_heard().await;
        }
    }
}

/// The servers that are there now, in the order named, and whether somebody has come.
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
        if !Arc::ptr_eq(&known.heard, &heard) {
            known.take(heard, &self.web);
        }
        servers.extend(known.servers.iter().map(|(_, server)| Arc::clone(server)));
        known.news(Instant::now())
    }
}

impl Known {
    fn take(&mut self, heard: Arc<[Neighbour]>, web: &Arc<Web>) {
        let before = std::mem::take(&mut self.servers);
        for Neighbour { addr, .. } in &*heard {
            if let Some(known) = before.iter().find(|(before, _)| before == addr) {
                self.servers.push(known.clone());
            } else if let Ok(place) = Http::new(&format!("http://{addr}/"), Arc::clone(web)) {
                // One with an address of the link alone (IPv6) has no URL.
                self.has_news = true;
                self.servers.push((*addr, Arc::new(Server::new(Arc::new(place), Role::Neighbour))));
            }
        }
        self.heard = heard;
    }

    /// Whether somebody has come, if that may be said again.
    fn news(&mut self, now: Instant) -> bool {
        let is_time = self.said.is_none_or(|said| now.duration_since(said) >= NEWS);
        let is_said = self.has_news && is_time;
        if is_said {
            (self.has_news, self.said) = (false, Some(now));
        }
        is_said
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_at_ever_new_ports_is_news_every_ten_seconds_only() {
        let web = Arc::new(Web::for_neighbours().expect("a client"));
        let mut known = Known::default();
        let news = (0..100).filter(|port| {
            known.take(Neighbours::given([at(*port)]).list(), &web);
            known.news(Instant::now())
        });
        assert_eq!(news.count(), 1);
        advance(NEWS).await;
        assert!(known.news(Instant::now()), "it is said later");
        assert!(!known.news(Instant::now()));
    }
}
