//! The mount over real substitute servers shows what the real store holds, to those who trust the key.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::peers::{on_this_machine, peer, store_path};
use super::process::{Running, run, until};
use super::scratch::{Scratch, text};

#[track_caller]
fn mount(scratch: &Scratch, server: &str, more: &[&str]) -> Running {
    let at = scratch.folder("mnt");
    let mut arguments = vec!["mount", "--foreground", "--substituter", server];
    arguments.extend(more);
    arguments.push(text(&at));
    let mut mount = Running::start(&mut scratch.erisfs(arguments));
    mount.line("mounted at ");
    mount
}

/// Compares everything: names, kinds, targets, contents, and who may execute.
#[track_caller]
pub fn is_the_same(real: &Path, shown: &Path) {
    run(Command::new("diff").args(["-r", "--no-dereference", text(real), text(shown)])).text();
    let executables = |at: &Path| {
        let found =
            run(Command::new("find").arg(at).args(["-type", "f", "-perm", "-u+x", "-printf", "%P\n"])).text();
        let mut found: Vec<String> = found.lines().map(str::to_owned).collect();
        found.sort();
        found
    };
    assert_eq!(executables(real), executables(shown));
}

#[track_caller]
fn all_paths_are_the_same(scratch: &Scratch, paths: &[String]) {
    for path in paths {
        is_the_same(&on_this_machine(path), &scratch.at("mnt").join(path.rsplit('/').next().unwrap()));
    }
}

/// Store paths of all narinfos in a directory.
fn in_cache(directory: &Path) -> Vec<String> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let narinfos = files.filter(|path| path.extension().is_some_and(|extension| extension == "narinfo"));
    let path_of = |narinfo: &Path| {
        let text = fs::read_to_string(narinfo).unwrap();
        text.lines().find_map(|line| line.strip_prefix("StorePath: ")).unwrap().to_owned()
    };
    narinfos.map(|narinfo| path_of(&narinfo)).collect()
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn a_store_of_guix_is_shown_as_it_is() {
    let scratch = Scratch::new();
    let _mount = mount(&scratch, &peer("GUIX_PUBLISH"), &["--trusted-key", &peer("GUIX_KEY")]);
    let paths = fs::read_to_string(peer("GUIX_PATHS")).unwrap();
    all_paths_are_the_same(&scratch, &paths.lines().map(str::to_owned).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn a_store_of_nix_is_shown_as_it_is() {
    for cache in ["zstd", "xz", "none"] {
        let scratch = Scratch::new();
        let server = peer(&format!("NIX_{}", cache.to_uppercase()));
        let _mount = mount(&scratch, &server, &["--trusted-key", &peer("NIX_KEY")]);
        let paths = in_cache(&Path::new(&peer("NIX_CACHES")).join(format!("cache-{cache}")));
        assert!(paths.len() >= 5, "{paths:?}");
        all_paths_are_the_same(&scratch, &paths);
    }
}

#[test]
#[ignore = "needs real Guix and Nix: tests/peers/run"]
fn nothing_is_shown_to_those_who_trust_another_key() {
    // The key of Nix has the same name.
    let others =
        [("GUIX_PUBLISH", "GUIX", "guix/our-test-signing-key.pub"), ("NIX_ZSTD", "NIX", "nix/key.pub")];
    for (server, list, key) in others {
        let (scratch, key) = (Scratch::new(), format!("{}/tests/samples/{key}", env!("CARGO_MANIFEST_DIR")));
        let mount = mount(&scratch, &peer(server), &["--trusted-key", &key]);
        let path = store_path(list, "hello-offline-1.0");
        let shown = scratch.at("mnt").join(path.rsplit('/').next().unwrap());
        assert!(fs::read_dir(&shown).is_err(), "{server}: it is shown");
        until(&format!("{server}: the log says why"), || mount.log().contains("key"));
    }
}
