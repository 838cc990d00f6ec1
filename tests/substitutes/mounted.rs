//! A mount over a web server with narinfos and NARs, and a block store that fails half-way.

use std::process::Command;
use std::sync::Arc;

use erisfs::block::{Cache, Faulty, Memory};
use erisfs::content::Fetch;
use erisfs::fuse::{Mounted, Options};
use erisfs::store::trust::TrustedKeys;
use erisfs::substituter::{self, Policy, SetSettings, Substituters, Unsigned, Web, WebSettings};
use erisfs::tree::{Settings, Sources, Substitutes, Tree};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::origin::{Link, Origin};
use crate::scene::{Scene, URL, key};

#[test]
fn a_mount_of_plain_nars_is_the_published_tree() {
    let scene = Scene::new();
    scene.tell(key().sign_narinfo(&scene.plain()).unwrap());
    assert_mounted_alike(&scene, None);
}

#[test]
fn a_mount_whose_blocks_vanish_is_the_published_tree() {
    let scene = Scene::new();
    assert_mounted_alike(&scene, Some(Faulty::Missing));
}

fn assert_mounted_alike(scene: &Scene, faulty: Option<Faulty>) {
    let runtime = Runtime::new().unwrap();
    let origin = Origin::start(Arc::new(Memory::new()), Link::LOOPBACK);
    let narinfo = match faulty {
        Some(_) => key().sign_narinfo(&scene.with_eris()).unwrap(),
        None => key().sign_narinfo(&scene.plain()).unwrap(),
    };
    origin.add_file("nix-cache-info", "StoreDir: /nix/store\nPriority: 40\n");
    origin.add_file(&format!("{}.narinfo", scene.path.hash_part()), narinfo.to_string());
    origin.add_file(URL, scene.nar.clone());
    let (tree, point) = runtime.block_on(async {
        let web = Arc::new(Web::new(WebSettings::default()).unwrap());
        let server = substituter::open(&origin.url(), &web).unwrap();
        let keys = TrustedKeys { nix: vec![key().public_key()], guix: Vec::new() };
        let policy = Policy { keys, unsigned: Unsigned::Refuse };
        let servers = Substituters::new(vec![server], Vec::new(), policy, SetSettings::default());
        let substitutes = Some(Substitutes::new(Arc::new(servers), scene.downloads()));
        let fetch = Fetch::new(Arc::new(Cache::new(scene.counted.clone(), 1 << 20)), 1 << 20);
        let sources = Sources { substitutes, ..Sources::default() };
        let settings = Settings { read_ahead: false, ..Settings::default() };
        (Arc::new(Tree::new(fetch, sources, settings)), TempDir::new().unwrap())
    });
    let options = Options::parse(["timeout=30"]).unwrap();
    // Without the right to mount this fails with the sentence that says what is missing.
    let mounted = Mounted::new(tree, point.path(), &options, runtime.handle().clone());
    let mounted = mounted.unwrap_or_else(|error| panic!("{error}"));
    let top = point.path().join(scene.path.to_string());
    std::fs::metadata(&top).unwrap();
    if let Some(faulty) = faulty {
        scene.fault.set_all(faulty);
    }
    let compared = Command::new("diff")
        .arg("-r")
        .arg("--no-dereference")
        .args([top.as_path(), scene.disk.path()])
        .output();
    let compared = compared.unwrap();
    let missing = std::fs::metadata(point.path().join("00000000000000000000000000000000-nothing"));
    mounted.unmount().unwrap();
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stdout));
    assert_eq!(missing.unwrap_err().kind(), std::io::ErrorKind::NotFound);
}
