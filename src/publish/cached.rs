//! The narinfos of a binary cache on this disk, with the URNs of its files as they are.
//!
//! For `files:PATH`, which makes blocks of the files: nothing is packed anew and nothing stored twice. The directory may be
//! what `nix copy --to file://` or `guix publish --cache` wrote.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::files::Files;
use super::sign::SigningKeys;
use super::{Error, SignError};
use crate::block::{Index, IndexError, IndexedFile};
use crate::compress::{Compression, decoder};
use crate::eris::{BlockSize, ConvergenceSecret, Encoder};
use crate::http::percent_decoded;
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
        /// The narinfo that was written.
        narinfo: &'a Narinfo,
        /// The file, below the directory.
        file: &'a Path,
    },
    /// It was there already, word for word.
    Unchanged {
        /// The narinfo.
        narinfo: &'a Narinfo,
    },
    /// It was left out.
    LeftOut {
        /// The narinfo, below the directory.
        path: &'a Path,
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
    #[error("it is the narinfo of {found}, under another name")]
    OtherName { found: StorePath },
    #[error("none of the files that it names is in the index with the right size")]
    NoFile,
    #[error("{0}")]
    Sign(#[from] SignError),
    #[error("{} does not hold the NAR that the narinfo promises", path.display())]
    OtherNar { path: PathBuf },
}

/// Writes each narinfo of the directory `root`, with ERIS fields added, to the directory `out`. Blocks on the disk.
///
/// `index` is the index of `root`, up to date. Guix has a narinfo beside the NARs of each compression: the first is taken. Where keys sign, each NAR is hashed before its narinfo is signed for the first time.
pub fn bind_cache(
    root: &Path,
    index: &Index,
    out: &Path,
    keys: &SigningKeys,
    told: &mut dyn FnMut(Binding<'_>),
) -> Result<(), Error> {
    let mut files = None;
    let mut met = HashSet::new();
    index.for_each(|file| {
        if file.path.extension().is_none_or(|extension| extension != "narinfo") {
            return Ok(());
        }
        let bound = bind(root, index, &file.path, keys);
        let (narinfo, target, compression) = match bound {
            Ok(bound) => bound,
            Err(Failed::Index(error)) => return Err(error.into()),
            Err(Failed::Unfit(unfit)) => {
                told(Binding::LeftOut { path: &file.path, reason: unfit.to_string() });
                return Ok(());
            }
        };
        if !met.insert(narinfo.store_path().hash_part()) {
            return Ok(());
        }
        let files = match &mut files {
            Some(files) => files,
            None => files.insert(Files::open(out, narinfo.store_dir())?),
        };
        if files.has_narinfo(&narinfo) {
            told(Binding::Unchanged { narinfo: &narinfo });
            return Ok(());
        }
        if !keys.is_empty()
            && let Err(unfit) = check(root, &target, compression, &narinfo)
        {
            told(Binding::LeftOut { path: &file.path, reason: unfit.to_string() });
            return Ok(());
        }
        files.add(&narinfo, None)?;
        told(Binding::Written { narinfo: &narinfo, file: &target.path });
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
    let named = narinfo.store_path();
    // Nix and Guix name it by the hash part, Guix's cache by the whole name. Under another, it would stand in for the right one.
    if path
        .file_stem()
        .is_none_or(|stem| *stem != *named.hash_part().to_string() && *stem != *named.to_string())
    {
        return Err(Unfit::OtherName { found: named.clone() }.into());
    }
    let mut found = Vec::new();
    for download in narinfo.downloads() {
        let Ok(compression) = download.compression_in(narinfo.store_dir()) else { continue };
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
    // Guix escapes names such as `gtk+` in URLs.
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::SystemTime;

    use tempfile::TempDir;

    use super::*;
    use crate::block::update_index;
    use crate::store::trust::judge;
    use crate::store::{StoreDir, Trust, TrustedKeys, ed25519};

    const NAME: &str = "00000000000000000000000000000001-lib+x";

    /// A cache with one path, whose narinfo names these files.
    struct Cache {
        dir: TempDir,
        nar: Vec<u8>,
    }

    impl Cache {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let tree = dir.path().join("tree");
            fs::write(&tree, "text".repeat(10_000)).unwrap();
            let mut nar = Vec::new();
            crate::nar::dump(&tree, &mut nar).unwrap();
            Self { dir, nar }
        }

        fn root(&self) -> PathBuf {
            self.dir.path().join("cache")
        }

        fn out(&self) -> PathBuf {
            self.dir.path().join("out")
        }

        fn write(&self, name: &str, contents: &[u8]) {
            let path = self.root().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }

        fn add(&self, folder: &str, store_dir: StoreDir, downloads: &[(&str, &str, u64)]) -> Narinfo {
            let (hash, size) = (NarHash::of(&self.nar), self.nar.len() as u64);
            let mut builder = Narinfo::builder(store_dir, NAME.parse().unwrap(), hash, size);
            for (url, compression, size) in downloads {
                builder = builder.download(Download {
                    url: (*url).to_owned(),
                    compression: Some((*compression).to_owned()),
                    file_hash: None,
                    file_size: Some(*size),
                });
            }
            let narinfo = upstream().sign_narinfo(&builder.build().unwrap()).unwrap();
            let hash_part = narinfo.store_path().hash_part();
            self.write(&format!("{folder}{hash_part}.narinfo"), narinfo.as_str().as_bytes());
            narinfo
        }

        /// What is written, and how often each thing is told.
        fn bind(&self, keys: &SigningKeys) -> (Option<Narinfo>, [usize; 3]) {
            let index = self.dir.path().join("index");
            update_index(&self.root(), &index, SystemTime::now(), &mut |_| ()).unwrap();
            let index = Index::open(&index).unwrap().unwrap();
            let mut counts = [0; 3];
            bind_cache(&self.root(), &index, &self.out(), keys, &mut |binding| {
                counts[match binding {
                    Binding::Written { .. } => 0,
                    Binding::Unchanged { .. } => 1,
                    Binding::LeftOut { .. } => 2,
                }] += 1;
            })
            .unwrap();
            let hash_part = NAME.split('-').next().unwrap();
            let text = fs::read(self.out().join(format!("{hash_part}.narinfo"))).ok();
            (text.map(|text| Narinfo::parse(&text).unwrap()), counts)
        }

        fn keys(&self) -> SigningKeys {
            let file = self.dir.path().join("key");
            fs::write(&file, mirror().to_text().as_str()).unwrap();
            SigningKeys::read(&[file]).unwrap()
        }
    }

    fn upstream() -> ed25519::SecretKey {
        ed25519::SecretKey::from_seed("upstream-1", &[1; 32]).unwrap()
    }

    fn mirror() -> ed25519::SecretKey {
        ed25519::SecretKey::from_seed("mirror-1", &[2; 32]).unwrap()
    }

    fn verdict(narinfo: &Narinfo) -> Trust {
        let keys =
            TrustedKeys { nix: vec![upstream().public_key(), mirror().public_key()], guix: Vec::new() };
        judge(narinfo, narinfo.store_path().hash_part(), narinfo.store_dir(), &keys).unwrap()
    }

    #[test]
    fn the_narinfos_of_a_cache_of_nix_get_the_urn_of_the_file_as_it_is() {
        let cache = Cache::new();
        let size = cache.nar.len() as u64;
        let narinfo = cache.add("", StoreDir::nix(), &[("nar/x.nar", "none", size)]);
        cache.write("nar/x.nar", &cache.nar);
        let (bound, counts) = cache.bind(&SigningKeys::default());
        let bound = bound.unwrap();
        assert_eq!(counts, [1, 0, 0]);
        assert!(bound.as_str().starts_with(narinfo.as_str()));
        assert_eq!(bound.eris()[0].format.as_deref(), Some("application/x-nix-archive"));
        let mut encoder = Encoder::new(BlockSize::Large, ConvergenceSecret::NULL);
        encoder.push(&cache.nar);
        assert_eq!(bound.eris()[0].urn, encoder.finish().0.to_string());
        assert!(matches!(verdict(&bound), Trust::NarHash { .. }));
        assert_eq!(cache.bind(&SigningKeys::default()).1, [0, 1, 0]);
        let (signed, counts) = cache.bind(&cache.keys());
        assert_eq!(counts, [1, 0, 0]);
        assert!(matches!(verdict(&signed.unwrap()), Trust::Binding { .. }));
    }

    #[test]
    fn in_a_cache_of_guix_the_file_of_each_compression_is_found_and_zstd_preferred() {
        let cache = Cache::new();
        let packed = zstd::encode_all(&cache.nar[..], 3).unwrap();
        let urls = [("nar/gzip/N-lib%2Bx", "gzip", 5), ("nar/zstd/N-lib%2Bx", "zstd", packed.len() as u64)];
        for folder in ["gzip/", "zstd/"] {
            cache.add(folder, StoreDir::guix(), &urls);
        }
        cache.write("gzip/N-lib+x.nar", b"small");
        cache.write("zstd/N-lib+x.nar", &packed);
        let (bound, counts) = cache.bind(&cache.keys());
        assert_eq!(counts, [1, 0, 0], "one path, though it has two narinfos");
        assert_eq!(bound.unwrap().eris()[0].format.as_deref(), Some("application/x-nix-archive+zstd"));
    }

    #[test]
    fn a_narinfo_under_another_name_is_left_out_and_shadows_nothing() {
        let cache = Cache::new();
        let size = cache.nar.len() as u64;
        cache.add("", StoreDir::nix(), &[("nar/x.nar", "none", size)]);
        let stray = cache.add("old/", StoreDir::nix(), &[("nar/x.nar", "none", size)]);
        cache.write("0-stray.narinfo", stray.with_line("System", "stray").unwrap().as_str().as_bytes());
        cache.write("nar/x.nar", &cache.nar);
        let (bound, counts) = cache.bind(&SigningKeys::default());
        assert_eq!(counts[2], 2, "the stray one, and the one whose archive is not there");
        assert_eq!(bound.unwrap().system(), None);
    }

    #[test]
    fn without_a_compression_the_file_is_what_the_program_of_the_store_takes_it_for() {
        for (store_dir, file) in [(StoreDir::nix(), "bzip2"), (StoreDir::guix(), "none")] {
            let cache = Cache::new();
            let narinfo = cache.add("", store_dir, &[("nar/x.nar", "none", 4)]);
            let narinfo = narinfo.without_field("Compression").unwrap();
            let hash_part = narinfo.store_path().hash_part();
            cache.write(&format!("{hash_part}.narinfo"), narinfo.as_str().as_bytes());
            cache.write("nar/x.nar", b"text");
            let format = cache.bind(&SigningKeys::default()).0.unwrap().eris()[0].format.clone();
            assert_eq!(format.unwrap(), Compression::from_narinfo(file).unwrap().eris_format());
        }
    }

    #[test]
    fn a_file_that_is_not_the_nar_is_not_signed() {
        let cache = Cache::new();
        let size = cache.nar.len() as u64;
        cache.add("", StoreDir::nix(), &[("nar/x.nar", "none", size)]);
        let mut other = cache.nar.clone();
        other[200] ^= 1;
        cache.write("nar/x.nar", &other);
        let (bound, counts) = cache.bind(&cache.keys());
        assert!(bound.is_none());
        assert_eq!(counts, [0, 0, 1]);
        // Neither is one of another size taken, signed or not.
        cache.write("nar/x.nar", &other[1..]);
        assert_eq!(cache.bind(&SigningKeys::default()).1, [0, 0, 1]);
    }

    #[test]
    fn no_url_leads_out_of_the_cache() {
        for url in ["../x", "/etc/passwd", "nar/../../x", "nar/%2e%2e/x", "http://host/x", "ipfs://x", ""] {
            assert!(candidates(Path::new("zstd/x.narinfo"), url).is_empty(), "{url}");
        }
        let found = candidates(Path::new("zstd/x.narinfo"), "nar/N-%2bx");
        assert_eq!(found, [Path::new("zstd/nar/N-+x"), Path::new("none/N-+x.nar")]);
    }
}
