//! The peers as `tests/peers/run` started them, and their clients.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{Finished, Running, run, until};
use super::scratch::{Scratch, text};

/// A variable that `tests/peers/run` sets.
#[track_caller]
pub fn peer(variable: &str) -> String {
    env::var(variable).unwrap_or_else(|_| panic!("no {variable}: these tests are started by tests/peers/run"))
}

/// The root of the Debian in which the peers live; its stores are in it.
pub fn root() -> PathBuf {
    Path::new(&peer("PEERS")).join("sid")
}

/// A store path of the peer `GUIX` or `NIX`, by the end of its name.
#[track_caller]
pub fn store_path(peer_name: &str, name: &str) -> String {
    let list = fs::read_to_string(peer(&format!("{peer_name}_PATHS"))).unwrap();
    let found = list.lines().find(|path| path.ends_with(&format!("-{name}")));
    found.unwrap_or_else(|| panic!("{peer_name} has no {name}: {list}")).to_owned()
}

/// The same path as this machine sees it.
pub fn on_this_machine(store_path: &str) -> PathBuf {
    root().join(store_path.trim_start_matches('/'))
}

pub fn narinfo(store_path: &str) -> String {
    format!("{}.narinfo", hash_part(store_path))
}

pub fn hash_part(store_path: &str) -> &str {
    &store_path.rsplit('/').next().unwrap()[..32]
}

/// A call of one of the scripts that drive the peers.
pub fn kit(script: &str, arguments: &[&str]) -> Command {
    let mut command =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/kit").join(script));
    command.args(arguments);
    command
}

/// A client with an empty store of its own, which is there from its first call until this is dropped.
pub struct Client {
    script: &'static str,
    variable: &'static str,
    name: String,
    /// Its store, and the rest of what it has.
    folder: PathBuf,
    keys: Option<(&'static str, String)>,
}

impl Client {
    pub fn guix() -> Self {
        Self::new("guix.sh", "GUIX_CLIENT")
    }

    pub fn nix() -> Self {
        Self::new("nix.sh", "NIX_CLIENT")
    }

    fn new(script: &'static str, variable: &'static str) -> Self {
        let thread = std::thread::current();
        let test = thread.name().expect("tests have names").replace("::", "-");
        let name = format!("{test}-{}", std::process::id());
        let folder = format!("{}-{name}", script.trim_end_matches(".sh"));
        let folder = Path::new(&peer("PEERS")).join("clients").join(folder);
        Client { script, variable, name, folder, keys: None }
    }

    /// Trusts these keys, not those of the peers: for Guix paths of files, for Nix keys.
    pub fn trusting(mut self, keys: &str) -> Self {
        let variable = if self.script == "guix.sh" { "GUIX_CLIENT_KEYS" } else { "NIX_CLIENT_KEYS" };
        self.keys = Some((variable, keys.to_owned()));
        self
    }

    /// Runs a shell script in an empty store that is filled from these substitute servers alone.
    #[track_caller]
    pub fn run(&self, urls: &str, script: &str) -> Finished {
        let mut command = kit(self.script, &["client", urls, "sh", "-c", script]);
        command.env(self.variable, &self.name);
        command.envs(self.keys.iter().map(|(variable, keys)| (variable, keys)));
        run(&mut command)
    }

    /// Tries to install a path, which fails in the end because of the path: the program itself says `why`. Whether it asked for it at
    /// all is to be seen at the server: [`answered`].
    #[track_caller]
    pub fn fails_to_install(&self, urls: &str, path: &str, why: &str) {
        let script = match self.script {
            "guix.sh" => format!("guix build {path}; ! guix gc --references {path}"),
            _ => format!("! nix-store -r {path} && ! nix-store -q --hash {path}"),
        };
        let done = self.run(urls, &script);
        let said = done.stderr.clone();
        done.text();
        let not_there = said.contains(&format!("'{path}' is not valid"))
            || said.contains(&format!("`{path}' is not valid"));
        assert!(not_there && said.contains(why), "{why}: {said}");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Installs a path by `guix build`, and fails unless it is valid then, with all that it refers to and right to the last byte.
pub fn guix_installs(path: &str) -> String {
    format!("guix build {path} && guix gc --references {path} && guix gc --verify=contents")
}

/// Installs a path by `nix copy`, and fails unless it is right to the last byte then.
pub fn nix_copies(url: &str, path: &str) -> String {
    format!("nix copy --from '{url}' {path} && nix store verify --no-trust --recursive {path}")
}

/// What Guix says of a path that it did not get: nothing but that it has it not.
pub const GUIX_HAS_IT_NOT: &str = "is not valid";
/// What Nix says where the narinfo has no signature that it trusts.
pub const NIX_TRUSTS_IT_NOT: &str = "it's not signed by any of the keys";
/// What Nix says where no server has the path.
pub const NIX_FINDS_IT_NOT: &str = "don't know how to build these paths";

/// A secret key of Nix that is made here, and its public one.
#[track_caller]
pub fn nix_key(scratch: &Scratch) -> (PathBuf, String) {
    let shared = PathBuf::from(peer("PEERS")).join("share");
    let made = tempfile::tempdir_in(shared).unwrap();
    let inside = format!("/share/{}", made.path().file_name().unwrap().to_str().unwrap());
    let script = format!("nix-store --generate-binary-cache-key test-1 {inside}/sec {inside}/pub");
    run(&mut kit("nix.sh", &["run", "sh", "-c", &script])).text();
    let secret = scratch.at("nix.sec");
    fs::copy(made.path().join("sec"), &secret).unwrap();
    (secret, fs::read_to_string(made.path().join("pub")).unwrap())
}

/// Starts `erisfs serve` in front of these servers; gives its URL.
#[track_caller]
pub fn serve(scratch: &Scratch, servers: &[&str], more: &[&str]) -> (Running, String) {
    let mut arguments = vec!["serve", "--listen", "127.0.0.1:0"];
    arguments.extend(servers.iter().flat_map(|server| ["--substituter", *server]));
    arguments.extend(more);
    let mut server = Running::start(scratch.erisfs(arguments).env("RUST_LOG", "warn,erisfs::serve=debug"));
    let line = server.line("listening on ");
    let url = line.split_once("listening on ").unwrap().1.trim_end_matches('/').to_owned();
    (server, url)
}

/// Waits until the log of a server, ours or [`web_server`], says that it answered `GET /TARGET` with this status.
#[track_caller]
pub fn answered(server: &Running, target: &str, status: u16) {
    let (request, status) = (format!("GET /{target}"), format!(" {status} "));
    // What comes behind the target: of ours `: 200 OK`, of Python's ` HTTP/1.1" 200 -`.
    let is_it = |line: &str| {
        let rest = line.split_once(&request).map(|(_, rest)| rest);
        rest.is_some_and(|rest| rest.starts_with([':', ' ']) && rest.contains(&status))
    };
    until(&format!("{request}:{status}"), || server.log().lines().any(is_it));
}

/// Serves a directory as any web server would.
#[track_caller]
pub fn web_server(directory: &Path) -> (Running, String) {
    let arguments = ["-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", text(directory), "0"];
    let mut server = Running::start(Command::new("/usr/bin/python3").args(arguments));
    let line = server.line("Serving HTTP on ");
    let port = line.split_once(" port ").and_then(|(_, rest)| rest.split(' ').next()).unwrap();
    (server, format!("http://127.0.0.1:{port}"))
}
