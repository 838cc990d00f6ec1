//! A directory of its own for each test, with everything that the program makes in it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::process::{Finished, Running, run, until};

/// A temporary directory. When it is dropped, processes of erisfs that were started for it are killed, and
/// mounts in it are taken away.
pub struct Scratch(TempDir);

impl Scratch {
    pub fn new() -> Self {
        let dir = TempDir::with_prefix("erisfs-test-").unwrap();
        // Other users look into it, too.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Scratch(dir)
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A new directory in it.
    pub fn folder(&self, name: &str) -> PathBuf {
        fs::create_dir_all(self.at(name)).unwrap();
        self.at(name)
    }

    /// The URL of its block store.
    pub fn blocks(&self) -> String {
        format!("dir:{}", self.at("blocks").display())
    }

    /// A call of the program that knows nothing of the user's environment.
    pub fn erisfs<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_erisfs"));
        command.args(arguments).current_dir(self.0.path());
        command.env("XDG_CACHE_HOME", self.at("cache")).env("XDG_CONFIG_HOME", self.at("config"));
        command.env("XDG_RUNTIME_DIR", self.folder("run")).env("TMPDIR", self.folder("tmp"));
        let own = ["ERISFS_BLOCKS", "ERISFS_TOKEN", "RUST_LOG", "FUSERMOUNT_PATH"];
        let web =
            ["http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"];
        for variable in own.iter().chain(&web).chain(&["NIX_SSL_CERT_FILE", "SSL_CERT_FILE"]) {
            command.env_remove(variable);
        }
        command
    }

    /// Runs the program to its end.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Finished {
        run(&mut self.erisfs(arguments))
    }

    /// Publishes into the block store: store paths, then the URN of the catalog.
    #[track_caller]
    pub fn publish(&self, paths: &[&Path]) -> Published {
        let blocks = self.blocks();
        let fixed = ["publish", "--blocks", &blocks].map(OsStr::new);
        let printed = self.run(fixed.into_iter().chain(paths.iter().map(|path| path.as_os_str()))).text();
        let mut lines: Vec<String> = printed.lines().map(str::to_owned).collect();
        let catalog = lines.pop().unwrap();
        assert!(catalog.starts_with("urn:eris:"), "{printed}");
        Published { paths: lines, catalog }
    }

    /// Serves the block store; gives the URL.
    #[track_caller]
    pub fn serve(&self, more: &[&str]) -> (Running, String) {
        let blocks = self.blocks();
        let mut arguments = vec!["serve", "--blocks", &blocks, "--listen", "127.0.0.1:0"];
        arguments.extend(more);
        let mut server = Running::start(&mut self.erisfs(arguments));
        let line = server.line("listening on ");
        let url = line.split_once("listening on ").unwrap().1.to_owned();
        (server, url)
    }

    /// Mounts in the foreground at a new directory `name`.
    #[track_caller]
    pub fn mount(&self, name: &str, blocks: &str, catalog: &str, options: &str) -> Running {
        let at = self.folder(name);
        let arguments =
            ["mount", "--foreground", "--blocks", blocks, "--catalog", catalog, "-o", options, text(&at)];
        let mut mount = Running::start(&mut self.erisfs(arguments));
        mount.line("mounted at ");
        mount
    }

    /// Processes of erisfs that were told of a place in here.
    pub fn processes(&self) -> Vec<Pid> {
        let place = text(self.0.path()).as_bytes().to_vec();
        let is_ours = |pid: &Pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut arguments = arguments.split(|&byte| byte == 0);
            arguments.next().is_some_and(|program| program.ends_with(b"/erisfs"))
                && arguments.any(|argument| argument.windows(place.len()).any(|part| part == place))
        };
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes
            .filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
            .filter(is_ours)
            .collect()
    }

    /// Waits until neither a process nor a mount is left.
    #[track_caller]
    pub fn is_quiet(&self) {
        until("no process left", || self.processes().is_empty());
        assert_eq!(mounts_in(self.0.path()), [] as [PathBuf; 0]);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for process in self.processes() {
            let _ = kill_process(process, Signal::KILL);
        }
        for mount in mounts_in(self.0.path()) {
            if unmount(&mount, UnmountFlags::DETACH).is_err() {
                let _ = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(&mount).status();
            }
        }
    }
}

/// What `publish` printed.
pub struct Published {
    /// Full store paths.
    pub paths: Vec<String>,
    pub catalog: String,
}

impl Published {
    /// HASH-NAME of the first store path.
    pub fn name(&self) -> &str {
        self.paths[0].rsplit('/').next().unwrap()
    }
}

/// Mountpoints in a directory.
pub fn mounts_in(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

/// Unmounts as a person does.
#[track_caller]
pub fn umount(at: &Path) {
    let program = if rustix::process::geteuid().is_root() { "umount" } else { "fusermount3 -u" };
    run(Command::new("sh").arg("-c").arg(format!("exec {program} '{}'", text(at)))).text();
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
