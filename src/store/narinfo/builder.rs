//! Writes the narinfo of a path that is published.
//!
//! The ERIS fields come last, so that a Guix `Signature` line added behind them covers them.

use std::fmt::Write;

use super::{Download, Narinfo, NarinfoError};
use crate::store::compute::ContentAddress;
use crate::store::hash::NarHash;
use crate::store::path::{StoreDir, StorePath};

/// What a new narinfo says; see [`Narinfo::builder`].
#[derive(Debug, Clone)]
pub struct NarinfoBuilder {
    store_dir: StoreDir,
    store_path: StorePath,
    nar_hash: NarHash,
    nar_size: u64,
    references: Vec<StorePath>,
    deriver: Option<StorePath>,
    ca: Option<ContentAddress>,
    downloads: Vec<Download>,
    eris: Option<(String, String)>,
}

impl NarinfoBuilder {
    pub(super) fn new(store_dir: StoreDir, store_path: StorePath, nar_hash: NarHash, nar_size: u64) -> Self {
        Self {
            store_dir,
            store_path,
            nar_hash,
            nar_size,
            references: Vec::new(),
            deriver: None,
            ca: None,
            downloads: Vec::new(),
            eris: None,
        }
    }

    /// The references; they are sorted, as Nix and Guix write them.
    pub fn references(mut self, references: impl IntoIterator<Item = StorePath>) -> Self {
        self.references.extend(references);
        self.references.sort();
        self.references.dedup();
        self
    }

    /// The derivation that built the path.
    pub fn deriver(mut self, deriver: Option<StorePath>) -> Self {
        self.deriver = deriver;
        self
    }

    /// The content address.
    pub fn ca(mut self, ca: Option<ContentAddress>) -> Self {
        self.ca = ca;
        self
    }

    /// A file that can be downloaded. Stock Nix and Guix want at least one.
    pub fn download(mut self, download: Download) -> Self {
        self.downloads.push(download);
        self
    }

    /// The ERIS content: its media type (`application/x-nix-archive+zstd`) and its URN.
    pub fn eris(mut self, format: &str, urn: &str) -> Self {
        self.eris = Some((format.to_owned(), urn.to_owned()));
        self
    }

    /// The narinfo. Fails only where a text that was given (a URL, a format, a URN) does not fit
    /// in a line, or where the NAR size is 0.
    pub fn build(&self) -> Result<Narinfo, NarinfoError> {
        let mut text = format!("StorePath: {}\n", self.store_dir.join(&self.store_path));
        let mut line = |name: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{name}: {value}").expect("writing to a String cannot fail");
        };
        for download in &self.downloads {
            line("URL", &download.url);
            if let Some(compression) = &download.compression {
                line("Compression", compression);
            }
            if let Some(hash) = &download.file_hash {
                line("FileHash", hash);
            }
            if let Some(size) = &download.file_size {
                line("FileSize", size);
            }
        }
        line("NarHash", &self.nar_hash);
        line("NarSize", &self.nar_size);
        let references: Vec<_> = self.references.iter().map(StorePath::to_string).collect();
        line("References", &references.join(" "));
        if let Some(deriver) = &self.deriver {
            line("Deriver", deriver);
        }
        if let Some(ca) = &self.ca {
            line("CA", ca);
        }
        if let Some((format, urn)) = &self.eris {
            line("ERISFormat", format);
            line("ERIS", urn);
        }
        Narinfo::parse(text.as_bytes())
    }
}
