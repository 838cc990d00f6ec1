//! A cache that exists, mirrored: what real Nix and Guix wrote, under their signatures.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use erisfs::block::BlockStore;
use erisfs::publish::{self, Event, Observer, Published, Settings, SigningKeys};
use erisfs::store::trust::judge;
use erisfs::store::{HashPart, NarHash, Narinfo, StoreDir, StorePath, Trust, TrustedKeys, ed25519};
use erisfs::substituter::{self, Substituter, Web, WebSettings};
use tempfile::TempDir;

use crate::{make_tree, memory, nar_of};

/// A cache with a program that refers to a library, and something else; each of another compression.
struct Cache {
    dir: TempDir,
    key: ed25519::SecretKey,
}

const PROGRAM: &str = "00000000000000000000000000000002-program";
const LIB: &str = "00000000000000000000000000000001-lib";
const OTHER: &str = "00000000000000000000000000000003-other";

impl Cache {
    fn new() -> Self {
        let key = ed25519::SecretKey::from_seed("upstream-1", &[1; 32]).unwrap();
        let cache = Self { dir: TempDir::new().unwrap(), key };
        fs::write(cache.path("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
        cache.add(LIB, &[], "none");
        cache.add(PROGRAM, &[LIB, PROGRAM], "zstd");
        cache.add(OTHER, &[], "none");
        cache
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tree(&self, name: &str) -> PathBuf {
        self.path("trees").join(name)
    }

    fn add(&self, name: &str, references: &[&str], compression: &str) {
        make_tree(&self.tree(name));
        fs::write(self.tree(name).join("name"), name).unwrap();
        let nar = nar_of(&self.tree(name));
        let file = match compression {
            "zstd" => zstd::encode_all(&nar[..], 3).unwrap(),
            _ => nar.clone(),
        };
        let path: StorePath = name.parse().unwrap();
        let url = format!("{}.nar", path.hash_part());
        fs::write(self.path(&url), &file).unwrap();
        let narinfo = Narinfo::builder(StoreDir::nix(), path.clone(), NarHash::of(&nar), nar.len() as u64)
            .references(references.iter().map(|name| name.parse().unwrap()))
            .download(substituter_download(url, compression, file.len() as u64))
            .build()
            .unwrap();
        let signed = self.key.sign_narinfo(&narinfo).unwrap();
        fs::write(self.path(&format!("{}.narinfo", path.hash_part())), signed.as_str()).unwrap();
    }

    fn narinfo(&self, name: &str) -> Narinfo {
        let path: StorePath = name.parse().unwrap();
        fs::read_to_string(self.path(&format!("{}.narinfo", path.hash_part()))).unwrap().parse().unwrap()
    }

    fn open(&self) -> Arc<dyn Substituter> {
        let web = Arc::new(Web::new(WebSettings::default()).unwrap());
        substituter::open(&format!("file:{}", self.dir.path().display()), &web).unwrap()
    }

    async fn mirror(&self, store: Arc<dyn BlockStore>, names: &[&str], settings: Settings) -> Mirrored {
        let observer = Arc::new(Log::default());
        let paths = names.iter().map(|name| hash_part(name)).collect();
        let published = publish::mirror(store, self.open(), paths, settings, observer.clone()).await.unwrap();
        let told = std::mem::take(&mut *observer.0.lock().unwrap());
        Mirrored { published, told }
    }
}

struct Mirrored {
    published: Published,
    told: Vec<String>,
}

impl Mirrored {
    fn names(&self) -> Vec<String> {
        self.published.paths.iter().map(|path| path.narinfo.store_path().to_string()).collect()
    }
}

/// What was left out, in words.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Observer for Log {
    fn observe(&self, event: Event<'_>) {
        if let Event::LeftOut { error, .. } = event {
            self.0.lock().unwrap().push(error.to_string());
        }
    }
}

fn substituter_download(url: String, compression: &str, size: u64) -> erisfs::store::narinfo::Download {
    erisfs::store::narinfo::Download {
        url,
        compression: Some(compression.to_owned()),
        file_hash: None,
        file_size: Some(size),
    }
}

fn hash_part(name: &str) -> HashPart {
    name.parse::<StorePath>().unwrap().hash_part()
}

fn trusting(keys: &[&ed25519::SecretKey]) -> TrustedKeys {
    TrustedKeys { nix: keys.iter().map(|key| key.public_key()).collect(), guix: Vec::new() }
}

fn verdict(narinfo: &Narinfo, keys: &TrustedKeys) -> Trust {
    judge(narinfo, narinfo.store_path().hash_part(), narinfo.store_dir(), keys).unwrap()
}

/// A key of the mirror, and the file that it is read from.
fn mirror_key(dir: &Path) -> (ed25519::SecretKey, SigningKeys) {
    let key = ed25519::SecretKey::from_seed("mirror-1", &[2; 32]).unwrap();
    fs::write(dir.join("key"), key.to_text().as_str()).unwrap();
    (key, SigningKeys::read(&[dir.join("key")]).unwrap())
}

#[tokio::test]
async fn a_mirrored_path_holds_what_the_cache_has_and_keeps_its_signature() {
    let (cache, out, store) = (Cache::new(), TempDir::new().unwrap(), memory());
    let settings = Settings { narinfo: Some(out.path().to_owned()), ..Settings::default() };
    let mirrored = cache.mirror(store.clone(), &[PROGRAM, OTHER], settings).await;
    assert_eq!(mirrored.names(), [PROGRAM, OTHER]);
    for path in &mirrored.published.paths {
        let name = path.narinfo.store_path().to_string();
        let packed = crate::content(&*store, &path.capability);
        assert_eq!(zstd::decode_all(&packed[..]).unwrap(), nar_of(&cache.tree(&name)));
        assert!(path.narinfo.as_str().starts_with(cache.narinfo(&name).as_str()), "the text is kept");
        assert_eq!(path.narinfo.eris()[0].urn, path.capability.to_string());
        let trust = verdict(&path.narinfo, &trusting(&[&cache.key]));
        assert!(matches!(trust, Trust::NarHash { .. }), "nobody signed the URN");
        let hash_part = path.narinfo.store_path().hash_part();
        let written = fs::read_to_string(out.path().join(format!("{hash_part}.narinfo"))).unwrap();
        assert_eq!(written, path.narinfo.as_str());
        assert!(out.path().join(format!("{hash_part}.ls")).exists());
    }
}

#[tokio::test]
async fn what_a_mirror_makes_is_what_publishing_the_tree_makes() {
    let (cache, store) = (Cache::new(), memory());
    let mirrored = cache.mirror(store.clone(), &[LIB], Settings::default()).await;
    let tree = cache.tree(LIB);
    let published = crate::publish_one(memory(), &tree, Settings::default()).await;
    assert_eq!(mirrored.published.paths[0].capability, published.paths[0].capability);
}

#[tokio::test]
async fn a_key_of_the_mirror_binds_but_vouches_for_nothing() {
    let (cache, dir, store) = (Cache::new(), TempDir::new().unwrap(), memory());
    let (key, keys) = mirror_key(dir.path());
    let mirrored = cache.mirror(store, &[LIB], Settings { keys, ..Settings::default() }).await;
    let narinfo = &mirrored.published.paths[0].narinfo;
    assert!(matches!(verdict(narinfo, &trusting(&[&cache.key, &key])), Trust::Binding { .. }));
    assert!(matches!(verdict(narinfo, &trusting(&[&cache.key])), Trust::NarHash { .. }));
    let hash_part = narinfo.store_path().hash_part();
    assert!(judge(narinfo, hash_part, narinfo.store_dir(), &trusting(&[&key])).is_err());
}

#[tokio::test]
async fn the_closure_follows_references_and_all_is_what_the_directory_has() {
    let cache = Cache::new();
    let closure = Settings { closure: true, ..Settings::default() };
    assert_eq!(cache.mirror(memory(), &[PROGRAM], closure).await.names(), [LIB, PROGRAM]);
    let all = publish::hash_parts_in(cache.dir.path()).unwrap();
    assert_eq!(all, [LIB, PROGRAM, OTHER].map(hash_part));
}

#[tokio::test]
async fn what_was_done_is_not_fetched_again() {
    let (cache, state, store) = (Cache::new(), TempDir::new().unwrap(), memory());
    let settings = Settings { state: Some(state.path().join("state")), ..Settings::default() };
    let first = cache.mirror(store.clone(), &[LIB], settings.clone()).await;
    fs::remove_file(cache.path(&cache.narinfo(LIB).downloads()[0].url)).unwrap();
    let again = cache.mirror(store, &[LIB, OTHER], settings).await;
    assert_eq!(again.names(), [LIB, OTHER]);
    assert!(again.published.paths[0].reused && !again.published.paths[1].reused);
    assert_eq!(again.published.paths[0].narinfo, first.published.paths[0].narinfo);
    assert_eq!(again.told, [""; 0]);
}

#[tokio::test]
async fn one_bad_path_is_told_and_does_not_stop_the_others() {
    let (cache, out) = (Cache::new(), TempDir::new().unwrap());
    // One byte differs, one NAR is cut off, one is longer than was said, one is not there.
    let file = |name: &str| cache.path(&cache.narinfo(name).downloads()[0].url);
    let nar = fs::read(file(LIB)).unwrap();
    let mut flipped = nar.clone();
    let at = flipped.len() / 2;
    flipped[at] ^= 1;
    let long = [&nar[..], &[0; 64]].concat();
    let settings = Settings { narinfo: Some(out.path().to_owned()), ..Settings::default() };
    for bad in [&flipped[..], &nar[..nar.len() - 16], &long, b"", b"<html>"] {
        fs::write(file(LIB), bad).unwrap();
        let mirrored = cache.mirror(memory(), &[LIB, OTHER], settings.clone()).await;
        assert_eq!(mirrored.names(), [OTHER]);
        assert_eq!(mirrored.published.left_out, 1);
        assert!(mirrored.told[0].contains("is not the NAR of"), "{:?}", mirrored.told);
        assert!(!out.path().join(format!("{}.narinfo", hash_part(LIB))).exists());
    }
    fs::remove_file(file(LIB)).unwrap();
    let absent = "0000000000000000000000000000000a-absent";
    let mirrored = cache.mirror(memory(), &[LIB, absent, OTHER], settings).await;
    assert_eq!((mirrored.names(), mirrored.published.left_out), (vec![OTHER.to_owned()], 2));
}

#[tokio::test]
async fn a_narinfo_of_another_path_is_not_taken() {
    let cache = Cache::new();
    let (from, to) = (hash_part(OTHER), hash_part(LIB));
    fs::copy(cache.path(&format!("{from}.narinfo")), cache.path(&format!("{to}.narinfo"))).unwrap();
    let mirrored = cache.mirror(memory(), &[LIB], Settings::default()).await;
    assert!(mirrored.names().is_empty() && mirrored.told.len() == 1, "{:?}", mirrored.told);
}

#[tokio::test]
async fn an_overlay_in_one_file_can_be_read_back() {
    let (cache, out) = (Cache::new(), TempDir::new().unwrap());
    let file = out.path().join("overlay.sqlite");
    let settings = Settings { overlay: Some(file.clone()), ..Settings::default() };
    let mirrored = cache.mirror(memory(), &[LIB], settings).await;
    let web = Arc::new(Web::new(WebSettings::default()).unwrap());
    let overlay = substituter::open(&format!("sqlite:{}", file.display()), &web).unwrap();
    let found = overlay.narinfo(hash_part(LIB)).await.unwrap();
    assert_eq!(found.as_ref(), Some(&mirrored.published.paths[0].narinfo));
}

#[tokio::test]
async fn a_narinfo_that_cannot_be_bound_is_left_out_and_the_others_are_not() {
    let cache = Cache::new();
    let path = cache.path(&format!("{}.narinfo", hash_part(OTHER)));
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}ERISFormat: text/plain\nSignature: of somebody\n")).unwrap();
    let mirrored = cache.mirror(memory(), &[OTHER, LIB], Settings::default()).await;
    assert_eq!((mirrored.names(), mirrored.published.left_out), (vec![LIB.to_owned()], 1));
    assert!(mirrored.told[0].contains("covers"), "{:?}", mirrored.told);

    // Keys that sign nothing of this store are no matter of one path.
    let key = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/guix/test-signing-key.sec");
    let settings = Settings { keys: SigningKeys::read(&[key]).unwrap(), ..Settings::default() };
    let mirrored =
        publish::mirror(memory(), cache.open(), vec![hash_part(LIB)], settings, Arc::new(())).await;
    assert!(matches!(mirrored, Err(publish::Error::Sign(_))));
}
