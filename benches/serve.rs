//! Real `nix copy` of one large path: from a binary cache directly, and through `erisfs serve` in front of it, with an empty cache and with
//! one that has the path.
//!
//! `KEEP=1 tests/peers/run`, then `cargo bench --bench serve` with what `tests/peers/kit/nix.sh start` prints in the environment, and PEERS.
//! The largest path of the peers' cache is served by an origin at the links below. Nix itself says when it began and ended; each sample has
//! a new store, and all but the warm ones a new server with an empty cache. Samples are interleaved, medians are printed.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use erisfs::block::Memory;
use erisfs::store::Narinfo;
use support::origin::{Link, Origin};
use support::samples;
use support::table::{Sample, Table};
use tempfile::TempDir;

fn main() {
    let Some(caches) = std::env::var_os("NIX_CACHES") else {
        println!("SKIPPED: there is no real Nix: no NIX_CACHES");
        return;
    };
    let cache = Path::new(&caches).join("cache-zstd");
    let largest = narinfos(&cache).max_by_key(Narinfo::nar_size).expect("a cache with paths");
    let path = largest.store_dir().join(largest.store_path());
    let origin = Origin::start(Arc::new(Memory::new()), Link::LOOPBACK);
    serve_all(&origin, &cache);
    let file_size = largest.downloads()[0].file_size.unwrap_or_default();
    println!(
        "{path}: a NAR of {} MB, compressed {} MB\n",
        largest.nar_size() / 1_000_000,
        file_size / 1_000_000
    );
    let mut table = Table::default();
    for (name, link) in Link::ALL {
        origin.set_link(link);
        for _ in 0..samples() {
            let server = Server::start(&origin.url());
            table.add(name, "serve, warm", {
                copy(&server.url, &path, &origin);
                copy(&server.url, &path, &origin)
            });
            table.add(name, "serve, cold", copy(&Server::start(&origin.url()).url, &path, &origin));
            table.add(name, "directly", copy(&origin.url(), &path, &origin));
        }
    }
    table.print();
}

fn narinfos(cache: &Path) -> impl Iterator<Item = Narinfo> {
    let files = fs::read_dir(cache).expect("a cache").flatten().map(|entry| entry.path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "narinfo"));
    files.map(|file| Narinfo::parse(&fs::read(file).expect("a narinfo")).expect("a narinfo"))
}

/// Serves everything in a binary cache.
fn serve_all(origin: &Origin, cache: &Path) {
    for folder in [PathBuf::new(), PathBuf::from("nar")] {
        for entry in fs::read_dir(cache.join(&folder))
            .expect("a cache")
            .flatten()
            .filter(|entry| entry.path().is_file())
        {
            let name = folder.join(entry.file_name());
            origin.add_file(name.to_str().expect("ASCII"), fs::read(entry.path()).expect("a file"));
        }
    }
}

/// Runs `nix copy` in an empty store.
fn copy(url: &str, path: &str, origin: &Origin) -> Sample {
    origin.seen();
    let script = format!("date +%s%N && nix copy --from {url} {path} && date +%s%N");
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/kit/nix.sh");
    let said =
        support::run(Command::new(kit).args(["client", url, "sh", "-c", &script]).env("NIX_CLIENT", "bench"));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let times: Vec<u64> = said.lines().filter_map(|line| line.parse().ok()).collect();
    let [begun, ended] = times[..] else { panic!("two times expected: {said}") };
    Sample { took: Duration::from_nanos(ended - begun), seen: origin.seen() }
}

/// `erisfs serve` with a cache of its own.
struct Server {
    process: Child,
    url: String,
    _home: TempDir,
}

impl Server {
    fn start(upstream: &str) -> Self {
        let home = TempDir::with_prefix("erisfs-bench-").expect("a temporary directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_erisfs"));
        command.args(["serve", "--substituter", upstream, "--listen", "127.0.0.1:0"]);
        command
            .env("XDG_CACHE_HOME", home.path())
            .env("XDG_CONFIG_HOME", home.path())
            .env("XDG_RUNTIME_DIR", home.path());
        let mut process = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let line = lines.find(|line| line.starts_with("listening on ")).expect("it listens");
        let url = line["listening on ".len()..].trim_end_matches('/').to_owned();
        // What it says later is read, so that it never waits for that.
        std::thread::spawn(move || lines.for_each(|line| eprintln!("serve: {line}")));
        Server { process, url, _home: home }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
