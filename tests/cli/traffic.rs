//! How little travels: bytes of blocks that a mount fetches from a server, counted between the two.

use std::fs::{self, File};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use erisfs::block::{self, Cache, Counted, Counts};
use erisfs::content::{Deadline, Fetch};
use erisfs::fuse::{Mounted, Options};
use erisfs::tree::{Catalog, Catalogs, Settings, Tree};
use tokio::runtime::Runtime;

use super::noise::noise;
use super::process::{Running, run};
use super::scratch::{Published, Scratch, text};
use super::trees::many;

/// A store that a process serves, mounted by this one through HTTP. The mount goes before its runtime.
struct Stage {
    mounted: Option<Mounted>,
    counts: Arc<Counts>,
    _runtime: Runtime,
    _server: Running,
}

impl Stage {
    fn new(scratch: &Scratch, published: &Published) -> Self {
        let (server, url) = scratch.serve(&[]);
        let runtime = Runtime::new().unwrap();
        let _entered = runtime.enter();
        let counted = Arc::new(Counted::new(block::open(&url).unwrap()));
        let counts = counted.counts();
        let fetch = Fetch::new(Arc::new(Cache::new(counted, 32 << 20)), 32 << 20);
        let opened = Catalog::open(
            fetch.clone(),
            published.catalog.parse().unwrap(),
            Deadline::after(Duration::from_secs(30)),
        );
        let catalog = runtime.block_on(opened).unwrap();
        let tree = Arc::new(Tree::new(fetch, Catalogs::new(vec![catalog]), Settings::default()));
        let (at, handle) = (scratch.folder("mnt"), runtime.handle().clone());
        let mounted = Mounted::new(tree, &at, &Options::default(), handle);
        let mounted = Some(mounted.unwrap_or_else(|error| panic!("{error}")));
        drop(_entered);
        Stage { mounted, counts, _runtime: runtime, _server: server }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.mounted.take());
    }
}

#[test]
fn listing_a_library_fetches_no_contents() {
    let scratch = Scratch::new();
    many(&scratch.folder("library"));
    let published = scratch.publish(&[&scratch.at("library")]);
    let stage = Stage::new(&scratch, &published);
    let listed =
        run(Command::new("ls").args(["-lR", text(&scratch.at("mnt").join(published.name()))])).text();
    assert!(listed.lines().count() > 2_200);
    let travelled = stage.counts.bytes();
    println!("ls -lR of {} lines: {travelled} bytes travelled", listed.lines().count());
    assert!(travelled < 300_000, "{travelled} bytes");
}

#[test]
fn a_small_file_of_a_large_path_is_read_for_little() {
    const LARGE: u64 = 50_000_000;
    let scratch = Scratch::new();
    let tree = scratch.folder("tree");
    // 500 MB, most of which is quickly compressed; the rest is 10 MB of it when packed.
    for number in 0..10 {
        let file = File::create(tree.join(format!("large-{number}"))).unwrap();
        file.set_len(LARGE - 1_000_000).unwrap();
    }
    for number in 0..200 {
        fs::write(tree.join(format!("small-{number}")), noise(50_000 + number)).unwrap();
    }
    let published = scratch.publish(&[&tree]);
    let stage = Stage::new(&scratch, &published);
    let top = scratch.at("mnt").join(published.name());
    assert_eq!(fs::read(top.join("small-77")).unwrap(), noise(50_077));
    let travelled = stage.counts.bytes();
    println!("a file of 50 KB out of 500 MB: {travelled} bytes travelled");
    assert!(travelled < 2_000_000, "{travelled} bytes");
}
