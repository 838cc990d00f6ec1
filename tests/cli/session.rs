//! The whole way: published, served by one process, mounted over HTTP by another, read by programs.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use super::process::{Running, run, until};
use super::scratch::{Scratch, mounts_in, text, umount};
use super::trees;

#[track_caller]
fn sh(script: &str, arguments: &[&Path]) -> String {
    run(Command::new("sh").args(["-ec", script, "sh"]).args(arguments).env("LC_ALL", "C")).text()
}

#[test]
fn programs_find_a_library_as_it_is_on_disk() {
    let scratch = Scratch::new();
    let disk = scratch.folder("library");
    trees::many(&disk);
    let published = scratch.publish(&[&disk]);
    let (_server, url) = scratch.serve(&[]);
    let at = scratch.folder("mnt");
    // In the background: the call returns when the mount is up, and holds on to nobody's pipes.
    let started = scratch.run(["mount", "--blocks", &url, "--catalog", &published.catalog, text(&at)]);
    assert_eq!((started.code, started.stderr.as_str()), (Some(0), ""));
    assert!(started.stdout.is_empty());
    assert_eq!(mounts_in(&at), std::slice::from_ref(&at));

    let mounted = at.join(published.name());
    assert_eq!(sh("ls \"$1\"", &[&at]).trim_end(), published.name());
    sh("diff -r --no-dereference \"$1\" \"$2\"", &[&disk, &mounted]);

    // Names, kinds, link targets; modes as Nix and Guix set them; sizes.
    let list = "cd \"$1\"; find . -type l -printf '%P -> %l\\n' -o -type d -printf '%P/ %n\\n' \
                -o -perm /111 -printf '%P %s 555\\n' -o -printf '%P %s 444\\n' | sort";
    let on_disk = sh(list, &[&disk]);
    assert!(on_disk.lines().count() > 2_200, "{}", on_disk.lines().count());
    assert_eq!(sh(list, &[&mounted]), on_disk);
    let modes = "find \"$1\" -type f -perm 555 -o -type f -perm 444 -o -type d -perm 555 -o -type l | wc -l";
    assert_eq!(sh(modes, &[&mounted]).trim(), on_disk.lines().count().to_string());

    let unpacked = scratch.folder("unpacked");
    sh("tar -C \"$1\" -cf - . | tar -C \"$2\" -xf -", &[&mounted, &unpacked]);
    sh("diff -r --no-dereference \"$1\" \"$2\"; chmod -R u+w \"$2\"", &[&disk, &unpacked]);

    let search = "cd \"$1\"; grep -rl --include='*.py' import . | sort";
    let found = sh(search, &[&disk]);
    assert!(!found.is_empty());
    assert_eq!(sh(search, &[&mounted]), found);

    // A program from the mount is run: its pages are mapped from there.
    let program = mounted.join("bin/sh");
    let printed =
        run(Command::new(&program).args(["-c", "echo run; while read l; do echo $l; done < /proc/$$/maps"]));
    let printed = printed.text();
    assert!(printed.starts_with("run\n"));
    assert!(printed.lines().any(|line| line.contains("r-xp") && line.ends_with(text(&program))), "{printed}");

    umount(&at);
    until("the mount's process ends", || scratch.processes().len() == 1);
}

/// A small tree, published and mounted at `mnt` in the foreground.
fn mounted(scratch: &Scratch) -> (Running, String) {
    trees::small(&scratch.folder("tree"));
    let published = scratch.publish(&[&scratch.at("tree")]);
    let mount = scratch.mount("mnt", &scratch.blocks(), &published.catalog, "timeout=20");
    (mount, published.name().to_owned())
}

#[test]
fn umount_ends_the_process() {
    let scratch = Scratch::new();
    let (mount, name) = mounted(&scratch);
    assert_eq!(fs::read_to_string(scratch.at("mnt").join(name).join("one")).unwrap(), "the first\n");
    umount(&scratch.at("mnt"));
    let finished = mount.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert_eq!(finished.stderr.lines().count(), 1, "nothing but where it was: {}", finished.stderr);
    scratch.is_quiet();
}

#[test]
fn signals_end_the_mount() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let scratch = Scratch::new();
        let (mount, _) = mounted(&scratch);
        mount.signal(signal);
        let finished = mount.finish();
        assert_eq!(finished.code, Some(0), "{signal:?}: {}", finished.stderr);
        assert!(finished.stdout.is_empty());
        scratch.is_quiet();
        assert_eq!(fs::read_dir(scratch.at("mnt")).unwrap().count(), 0);
    }
}

#[test]
fn a_signal_ends_the_mount_although_a_file_in_it_is_open() {
    let scratch = Scratch::new();
    let (mount, name) = mounted(&scratch);
    let open = File::open(scratch.at("mnt").join(name).join("two")).unwrap();
    mount.signal(Signal::TERM);
    let finished = mount.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    scratch.is_quiet();
    drop(open);
}

#[test]
fn a_mount_in_the_background_ends_with_a_signal_too() {
    let scratch = Scratch::new();
    trees::small(&scratch.folder("tree"));
    // A tree, hence a catalog, that no other test has.
    fs::write(scratch.at("tree/where"), text(&scratch.at(""))).unwrap();
    let published = scratch.publish(&[&scratch.at("tree")]);
    let at = scratch.folder("mnt");
    // Relative, as typed: the process in the background lives in another directory.
    let arguments = ["mount", "--blocks", "dir:blocks", "--catalog", &published.catalog, "mnt"];
    assert_eq!(scratch.run(arguments).text(), "");
    sh("diff -r --no-dereference \"$1\" \"$2\"", &[&scratch.at("tree"), &at.join(published.name())]);
    // Nothing of the scratch directory is in its arguments: it is found by its catalog.
    let daemon = run(Command::new("pgrep").args(["-f", "--", &published.catalog])).text();
    assert_eq!(daemon.lines().count(), 1, "{daemon}");
    // Of a process that has ended, but that nobody has waited for yet, no arguments are left either.
    let arguments = format!("/proc/{}/cmdline", daemon.trim());
    run(Command::new("kill").arg(daemon.trim())).text();
    until("it ends", || fs::read(&arguments).unwrap_or_default().is_empty());
    assert!(mounts_in(&at).is_empty());
}

#[test]
fn links_between_store_paths_lead_into_the_mount() {
    let scratch = Scratch::new();
    // Two store paths of a store that is seen from outside, with absolute links to each other.
    let (store, names) = (scratch.folder("gnu/store"), ["a", "b"].map(|c| format!("{}-{c}", c.repeat(32))));
    for (own, other) in [(&names[0], &names[1]), (&names[1], &names[0])] {
        fs::create_dir_all(store.join(own).join("share")).unwrap();
        fs::write(store.join(own).join("share/name"), own).unwrap();
        symlink(format!("/gnu/store/{other}/share/name"), store.join(own).join("share/other")).unwrap();
        symlink(format!("/gnu/store/{other}"), store.join(own).join("top")).unwrap();
        symlink("/etc/passwd", store.join(own).join("elsewhere")).unwrap();
    }
    let (blocks, paths) = (scratch.blocks(), names.each_ref().map(|name| store.join(name)));
    let arguments =
        ["publish", "--blocks", &blocks, "--store-dir", "/gnu/store", text(&paths[0]), text(&paths[1])];
    let printed = scratch.run(arguments).text();
    let catalog = printed.lines().last().unwrap();
    for name in &names {
        assert!(printed.contains(&format!("/gnu/store/{name}\n")), "{printed}");
    }

    let _relative = scratch.mount("relative", &blocks, catalog, "symlinks=relative");
    let _absolute = scratch.mount("absolute", &blocks, catalog, "symlinks=absolute");
    for (own, other) in [(&names[0], &names[1]), (&names[1], &names[0])] {
        let top = scratch.at("relative").join(own);
        assert_eq!(fs::read_to_string(top.join("share/other")).unwrap(), *other);
        assert_eq!(fs::read_to_string(top.join("top/share/other")).unwrap(), *own);
        assert_eq!(fs::read_link(top.join("elsewhere")).unwrap(), Path::new("/etc/passwd"));
        let target = fs::read_link(scratch.at("absolute").join(own).join("share/other")).unwrap();
        assert_eq!(target, Path::new(&format!("/gnu/store/{other}/share/name")));
    }
}

#[test]
fn a_mount_in_the_background_lets_go_of_stderr_unless_that_is_its_log() {
    let scratch = Scratch::new();
    fs::write(scratch.folder("tree").join("file"), "hello").unwrap();
    let published = scratch.publish(&[&scratch.at("tree")]);
    let at = scratch.folder("mnt");
    let blocks = scratch.blocks();
    let call = ["mount", "--blocks", &blocks, "--catalog", &published.catalog, text(&at)];
    let written = File::create(scratch.at("written")).unwrap();
    assert!(scratch.erisfs(call).stderr(written).status().unwrap().success());
    let processes = scratch.processes();
    assert_eq!(processes.len(), 1);
    // It says that it is ready just before.
    until("stderr is let go", || {
        let stderr = fs::read_link(format!("/proc/{}/fd/2", processes[0]));
        stderr.is_ok_and(|stderr| stderr == Path::new("/dev/null"))
    });
    umount(&at);
    scratch.is_quiet();
}
