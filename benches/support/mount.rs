//! The program that is measured, as a user starts it: a process of its own with a cache of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::published::Published;

/// A mount, until this is dropped.
pub struct Mount {
    process: Child,
    point: TempDir,
    /// The first of the store paths that were published.
    pub top: PathBuf,
}

impl Mount {
    /// Mounts with everything that the program keeps in `home`: nothing at first, what a mount before left after it.
    pub fn new(published: &Published, home: &Path) -> Self {
        Self::with(published, home, &[])
    }

    /// The same, and records a startup profile until it is dropped.
    pub fn recording(published: &Published, home: &Path) -> Self {
        Self::with(published, home, &["--record"])
    }

    fn with(published: &Published, home: &Path, flags: &[&str]) -> Self {
        let point = TempDir::with_prefix("erisfs-bench-").expect("a temporary directory");
        // Beside the cache: what is there has to be the user's alone.
        let sockets = home.join("run");
        fs::create_dir_all(&sockets).expect("a writable directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_erisfs"));
        command
            .args([
                "mount",
                "--foreground",
                "--blocks",
                &published.origin.url(),
                "--catalog",
                &published.catalog,
            ])
            .args(flags)
            .arg(point.path())
            .env("XDG_CACHE_HOME", home)
            .env("XDG_CONFIG_HOME", home)
            .env("XDG_RUNTIME_DIR", sockets);
        for variable in ["ERISFS_BLOCKS", "RUST_LOG"] {
            command.env_remove(variable);
        }
        let process = command.stderr(Stdio::piped()).spawn().expect("the program was built with this bench");
        let top = point.path().join(&published.archives[0].name);
        let mut mount = Mount { process, point, top };
        let mut said = BufReader::new(mount.process.stderr.take().expect("it is piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("words");
        assert!(line.starts_with("mounted at "), "{line}");
        // What it logs must have somewhere to go.
        thread::spawn(move || std::io::copy(&mut said, &mut std::io::stderr()));
        mount
    }

    /// Where the store paths are.
    pub fn store(&self) -> &Path {
        self.point.path()
    }

    /// Memory that the process holds, in bytes (proc(5): VmRSS).
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It may have ended.
        let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}
