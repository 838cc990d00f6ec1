//! Sets of places that answer, lie, are late or silent, in a time of their own.

mod answers;
mod kept;
mod neighbours;
mod offers;
mod overlays;
mod store_dirs;
mod strangers;
mod trust;
mod waiting;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::*;
use crate::store::ed25519::SecretKey;
use crate::store::trust::Refusal;
use crate::store::{HashPart, Narinfo};
use crate::substituter::{Info, NarFile};

/// How a place behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    /// It answers after this time.
    After(Duration),
    /// It says nothing, and whoever asks gives up after 10 s.
    Silent,
    /// It says at once that it cannot answer.
    Busy,
    /// It will not let us in.
    Denied,
    /// It prepares what it is asked for, until this instant.
    Baking(Instant),
}

/// A place whose narinfos are given.
#[derive(Debug)]
struct Fake {
    name: String,
    info: Info,
    narinfos: Mutex<HashMap<HashPart, Narinfo>>,
    mood: Mutex<Mood>,
    asked: AtomicU64,
}

const WELL: Mood = Mood::After(Duration::from_millis(20));

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn fake(name: &str) -> Fake {
    let narinfos = Mutex::default();
    let info = Info { store_dir: Some(StoreDir::nix()), ..Info::default() };
    Fake { name: name.to_owned(), info, narinfos, mood: Mutex::new(WELL), asked: AtomicU64::new(0) }
}

impl Fake {
    fn with(self, narinfo: &Narinfo) -> Self {
        self.narinfos.lock().unwrap().insert(narinfo.store_path().hash_part(), narinfo.clone());
        self
    }

    /// Answers with this narinfo for a path that is not its own.
    fn with_at(self, hash_part: HashPart, narinfo: &Narinfo) -> Self {
        self.narinfos.lock().unwrap().insert(hash_part, narinfo.clone());
        self
    }

    fn priority(mut self, priority: u32) -> Self {
        self.info.priority = priority;
        self
    }

    fn store_dir(mut self, store_dir: Option<StoreDir>) -> Self {
        self.info.store_dir = store_dir;
        self
    }

    fn mood(self, mood: Mood) -> Arc<Self> {
        self.be(mood);
        Arc::new(self)
    }

    fn well(self) -> Arc<Self> {
        Arc::new(self)
    }

    fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    async fn answer(&self, asked: Option<HashPart>) -> Result<(), Error> {
        let server: Arc<str> = self.name.as_str().into();
        let mood = *self.mood.lock().unwrap();
        match (mood, asked) {
            (Mood::After(time), _) => sleep(time).await,
            (Mood::Silent, _) => {
                let after = Duration::from_secs(10);
                sleep(after).await;
                return Err(Error::TimedOut { server, after });
            }
            (Mood::Busy, _) => {
                let source = Arc::new(std::io::Error::other("busy"));
                return Err(Error::Unavailable { server, retry_after: None, source });
            }
            (Mood::Denied, _) => return Err(Error::Refused { server, reason: "HTTP status 401".to_owned() }),
            (Mood::Baking(until), Some(hash_part)) if Instant::now() < until => {
                return Err(Error::Baking { server, hash_part, retry_after: Some(Duration::from_secs(300)) });
            }
            (Mood::Baking(_), _) => {}
        }
        Ok(())
    }
}

#[async_trait]
impl Substituter for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    async fn info(&self) -> Result<Info, Error> {
        self.answer(None).await?;
        Ok(self.info.clone())
    }

    async fn narinfo(&self, hash_part: HashPart) -> Result<Option<Narinfo>, Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.answer(Some(hash_part)).await?;
        Ok(self.narinfos.lock().unwrap().get(&hash_part).cloned())
    }

    async fn listing(&self, _: HashPart) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }

    async fn nar(&self, url: &str, _: u64) -> Result<NarFile, Error> {
        Err(Error::NoFile { server: self.name.as_str().into(), url: url.to_owned() })
    }
}

fn secret(name: &str) -> SecretKey {
    SecretKey::from_seed(name, &[7; 32]).unwrap()
}

/// The key that the user trusts.
fn ours() -> SecretKey {
    secret("ours")
}

fn policy(unsigned: Unsigned) -> Policy {
    Policy { keys: TrustedKeys { nix: vec![ours().public_key()], guix: vec![] }, unsigned }
}

/// A narinfo that nobody has signed.
fn unsigned(name: &str) -> Narinfo {
    let store_path = format!("{}-{name}", HASH).parse().unwrap();
    let download =
        Download { url: format!("nar/{name}"), compression: Some("xz".to_owned()), ..Default::default() };
    let builder = Narinfo::builder(StoreDir::nix(), store_path, NarHash::of(name.as_bytes()), 120);
    builder.download(download).build().unwrap()
}

const HASH: &str = "6nr3qnk6x3dvkj2crggl5ny5zywz5gbj";

fn hash_part() -> HashPart {
    HASH.parse().unwrap()
}

/// One that is signed by the trusted key.
fn signed(name: &str) -> Narinfo {
    ours().sign_narinfo(&unsigned(name)).unwrap()
}

/// One that names an ERIS content, with signatures of this key.
fn with_content(name: &str, urn: &str, key: &SecretKey) -> Narinfo {
    let narinfo = unsigned(name).with_line("ERISFormat", "application/x-nix-archive").unwrap();
    key.sign_narinfo(&narinfo.with_line("ERIS", urn).unwrap()).unwrap()
}

fn set(servers: &[&Arc<Fake>]) -> Substituters {
    set_with(servers, &[], Unsigned::Refuse)
}

fn set_with(servers: &[&Arc<Fake>], overlays: &[&Arc<Fake>], unsigned: Unsigned) -> Substituters {
    let places =
        |fakes: &[&Arc<Fake>]| fakes.iter().map(|fake| Arc::clone(fake) as Arc<dyn Substituter>).collect();
    Substituters::new(places(servers), places(overlays), policy(unsigned), SetSettings::default())
}

/// Servers in this order, of which some are neighbours'.
fn set_among(servers: &[(Role, &Arc<Fake>)], policy: Policy) -> Substituters {
    let mut among = Substituters::new(Vec::new(), Vec::new(), policy, SetSettings::default());
    let place = |(role, fake): &(Role, &Arc<Fake>)| {
        Place::Server(Arc::new(Server::new(Arc::clone(fake) as Arc<dyn Substituter>, *role)))
    };
    Arc::get_mut(&mut among.set).expect("nobody else has it").places = servers.iter().map(place).collect();
    among
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn find(set: &Substituters) -> Result<Option<Arc<Found>>, Error> {
    set.find(hash_part(), soon()).await
}

/// The server that gave the answer.
async fn found_at(set: &Substituters) -> String {
    find(set).await.expect("a good answer").expect("somebody has it").server.name().to_owned()
}

/// What `work` gives, and the milliseconds that it took.
async fn timed<T>(work: impl Future<Output = T>) -> (T, u128) {
    let begun = Instant::now();
    let done = work.await;
    (done, begun.elapsed().as_millis())
}
