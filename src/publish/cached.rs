//! The narinfos of a binary cache on this disk, with the URNs of its files as they are.
//!
//! For `files:PATH`, which makes blocks of the files: nothing is packed anew and nothing stored twice. The directory may be
//! what `nix copy --to file://` or `guix publish --cache` wrote.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::files::Files;
use super::sign::SigningKeys;
use super::{Error, SignError};
use crate::block::{Index, IndexError, IndexedFile};
use crate::compress::{Compression, decoder};
use crate::eris::{BlockSize, ConvergenceSecret, Encoder};
use crate::nar::Hasher;
use crate::store::narinfo::{Download, MAX_LENGTH, NarinfoError};
use crate::store::{NarHash, Narinfo, StorePath};

/// Bytes that are decompressed at once.
const PIECE: usize = 256 << 10;

/// What became of a narinfo.
#[derive(Debug)]
pub enum Binding<'a> {
    /// It was written, with the URN of this file.
    Written {
        /// The store path.
        path: &'a StorePath,
        /// The file, below the directory.
        file: &'a Path,
    },
    /// It was there already, word for word.
    Unchanged {
        /// The store path.
        path: &'a StorePath,
    },
    /// It was left out.
    LeftOut {
        /// The narinfo, below the directory.
        narinfo: &'a Path,
        /// Why.
        reason: String,
    },
}

/// Why a narinfo gets no URN. It is told, and the others go on.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    #[error("{0}")]
    Narinfo(#[from] NarinfoError),
    #[error("none of the files that it names is in the index with the right size")]
    NoFile,
    #[error("{0}")]
    Sign(#[from] SignError),
    #[error("{} does not hold the NAR that the narinfo promises", path.display())]
    OtherNar { path: PathBuf },
}

/// Writes each narinfo of the directory `root`, with ERIS fields added, to the directory `out`. Blocks on the disk.
///
/// `index` is the index of `root`, up to date. Where keys sign, each NAR is hashed before its narinfo is signed for the first time.
pub fn bind_cache(
    root: &Path,
    index: &Index,
    out: &Path,
    keys: &SigningKeys,
    told: &mut dyn FnMut(Binding<'_>),
) -> Result<(), Error> {
    let mut files = None;
    index.for_each(|file| {
        if file.path.extension().is_none_or(|extension| extension != "narinfo") {
            return Ok(());
        }
        let bound = bind(root, index, &file.path, keys);
        let (narinfo, target, compression) = match bound {
            Ok(bound) => bound,
            Err(Failed::Index(error)) => return Err(error.into()),
            Err(Failed::Unfit(unfit)) => {
                told(Binding::LeftOut { narinfo: &file.path, reason: unfit.to_string() });
                return Ok(());
            }
        };
        let path = narinfo.store_path();
        let files = match &mut files {
            Some(files) => files,
            None => files.insert(Files::open(out, narinfo.store_dir())?),
        };
        if files.has_narinfo(&narinfo) {
            told(Binding::Unchanged { path });
            return Ok(());
        }
        if !keys.is_empty()
            && let Err(unfit) = check(root, &target, compression, &narinfo)
        {
            told(Binding::LeftOut { narinfo: &file.path, reason: unfit.to_string() });
            return Ok(());
        }
        files.add(&narinfo, None)?;
        told(Binding::Written { path, file: &target.path });
        Ok(())
    })
}

enum Failed {
    Index(IndexError),
    Unfit(Unfit),
}

impl<E: Into<Unfit>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Unfit(error.into())
    }
}

/// The narinfo with the URN of the best of its files.
fn bind(
    root: &Path,
    index: &Index,
    path: &Path,
    keys: &SigningKeys,
) -> Result<(Narinfo, IndexedFile, Compression), Failed> {
    let mut text = Vec::new();
    File::open(root.join(path))?.take(MAX_LENGTH as u64 + 1).read_to_end(&mut text)?;
    let narinfo = Narinfo::parse(&text)?;
    let mut found = Vec::new();
    for download in narinfo.downloads() {
        let name = download.compression.as_deref().unwrap_or("none");
        let Ok(compression) = Compression::from_narinfo(name) else { continue };
        for candidate in candidates(path, &download.url) {
            let file = index.find(&candidate).map_err(Failed::Index)?;
            if let Some(file) = file.filter(|file| is_right_size(file, download)) {
                found.push((file, compression));
            }
        }
    }
    let (file, compression) = found.into_iter().min_by_key(preference).ok_or(Unfit::NoFile)?;
    let urn = file.capability.to_string();
    Ok((keys.bind(&narinfo, &compression.eris_format(), &urn)?, file, compression))
}

fn is_right_size(file: &IndexedFile, download: &Download) -> bool {
    download.file_size.is_none_or(|size| size == file.size)
}

/// zstd, which is quick to unpack and may have a seek table, comes first; then what is smallest.
fn preference((file, compression): &(IndexedFile, Compression)) -> (bool, u64) {
    (*compression != Compression::Zstd, file.size)
}

/// Where the file that a narinfo names may be, below the directory: beside the narinfo as the URL says, or where
/// `guix publish` caches it (`nar/TYPE/NAME` is `TYPE/NAME.nar`, and the narinfo lies beside the NARs of one type).
fn candidates(narinfo: &Path, url: &str) -> Vec<PathBuf> {
    let folder = narinfo.parent().unwrap_or(Path::new(""));
    let decoded = percent_decoded(url);
    let parts: Vec<&str> = decoded.split('/').collect();
    if decoded.contains(':') || parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return Vec::new();
    }
    let mut candidates = vec![folder.join(&decoded)];
    if let (Some(cache), [first, kind @ .., name]) = (folder.parent(), &parts[..])
        && *first == "nar"
        && kind.len() <= 1
    {
        candidates.push(cache.join(kind.first().unwrap_or(&"none")).join(format!("{name}.nar")));
    }
    candidates
}

/// Guix escapes names such as `gtk+` in URLs. What is no escape stays as it is.
fn percent_decoded(url: &str) -> String {
    let mut bytes = Vec::with_capacity(url.len());
    let mut rest = url.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = match tail {
            [high, low, ..] if *first == b'%' => {
                char::from(*high).to_digit(16).zip(char::from(*low).to_digit(16))
            }
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| url.to_owned())
}

/// That the file is still the one in the index, and holds the NAR.
fn check(root: &Path, file: &IndexedFile, compression: Compression, narinfo: &Narinfo) -> Result<(), Unfit> {
    let path = root.join(&file.path);
    let encoder = Encoder::new(BlockSize::for_length(file.size), ConvergenceSecret::NULL);
    let mut encoded = Encoded { inner: File::open(&path)?, encoder };
    let mut hasher = Hasher::new();
    let mut nar = decoder(compression, &mut encoded);
    let copied = io::copy(&mut io::BufReader::with_capacity(PIECE, &mut nar), &mut hasher);
    drop(nar);
    let other = || Unfit::OtherNar { path: file.path.clone() };
    copied.map_err(|_| other())?;
    let hashed = hasher.finish().map_err(|_| other())?;
    let (capability, _) = encoded.encoder.finish();
    let right = NarHash::new(hashed.nar_hash) == narinfo.nar_hash()
        && hashed.nar_size == narinfo.nar_size()
        && capability == file.capability;
    if right { Ok(()) } else { Err(other()) }
}

/// Encodes what is read, for its capability.
struct Encoded<R> {
    inner: R,
    encoder: Encoder,
}

impl<R: Read> Read for Encoded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.encoder.push(&buffer[..length]);
        Ok(length)
    }
}
