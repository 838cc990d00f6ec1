//! A substitute server in memory, which counts what is asked of it and fails on command.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use erisfs::store::{HashPart, Narinfo};
use erisfs::substituter::{Error, Info, NarFile, Substituter};
use futures::StreamExt;
use futures::stream;

/// The server.
#[derive(Debug, Default)]
pub struct Place {
    narinfos: Mutex<HashMap<HashPart, Narinfo>>,
    nars: Mutex<HashMap<String, Bytes>>,
    /// Whether nobody gets an answer.
    pub is_down: AtomicBool,
    nar_requests: AtomicU64,
}

impl Place {
    /// Answers `asked` with `narinfo`.
    pub fn tell(&self, asked: HashPart, narinfo: Narinfo) {
        self.narinfos.lock().unwrap().insert(asked, narinfo);
    }

    /// Has a file.
    pub fn give(&self, url: &str, bytes: impl Into<Bytes>) {
        self.nars.lock().unwrap().insert(url.to_owned(), bytes.into());
    }

    /// Loses all files.
    pub fn lose(&self) {
        self.nars.lock().unwrap().clear();
    }

    /// How often a file was asked for.
    pub fn nar_requests(&self) -> u64 {
        self.nar_requests.load(SeqCst)
    }

    fn up(&self) -> Result<(), Error> {
        match self.is_down.load(SeqCst) {
            false => Ok(()),
            true => Err(Error::Unavailable {
                server: self.name().into(),
                retry_after: None,
                source: Arc::new(std::io::Error::other("it is down")),
            }),
        }
    }
}

#[async_trait]
impl Substituter for Place {
    fn name(&self) -> &str {
        "test:place"
    }

    async fn info(&self) -> Result<Info, Error> {
        self.up()?;
        Ok(Info { store_dir: Some(crate::shelf::store_dir()), ..Info::default() })
    }

    async fn narinfo(&self, hash_part: HashPart) -> Result<Option<Narinfo>, Error> {
        self.up()?;
        Ok(self.narinfos.lock().unwrap().get(&hash_part).cloned())
    }

    async fn listing(&self, _: HashPart) -> Result<Option<Bytes>, Error> {
        Ok(None)
    }

    async fn nar(&self, url: &str, from: u64) -> Result<NarFile, Error> {
        self.nar_requests.fetch_add(1, SeqCst);
        self.up()?;
        let file = self.nars.lock().unwrap().get(url).cloned();
        let file = file.ok_or_else(|| Error::NoFile { server: self.name().into(), url: url.to_owned() })?;
        let pieces: Vec<_> =
            file[from as usize..].chunks(10_000).map(Bytes::copy_from_slice).map(Ok).collect();
        Ok(NarFile { from, length: Some(file.len() as u64), body: stream::iter(pieces).boxed() })
    }
}
