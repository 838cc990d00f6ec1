//! What can be asked of a process. Adding a request is this file alone: a variant, and how it is answered.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::why::{Why, view_of_what_is_here};
use crate::content::Deadline;
use crate::metrics::{Process, Snapshot};
use crate::store::path::PathError;
use crate::tree;

/// How long looking for a file may take. Only the disk cache is waited for.
const LOOK: Duration = Duration::from_secs(2);

/// A request; as JSON `{"op": "status"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Who it is and how it is doing: a [`Status`].
    Status,
    /// What a read of a file costs: a [`Why`].
    Why {
        /// From the mountpoint: `HASH-NAME/PATH`.
        path: String,
    },
    /// Begin to record a startup profile.
    RecordStart {
        /// The store path that it is for, `HASH-NAME`; else the first that is read.
        path: Option<String>,
    },
    /// End the recording: a [`Stopped`].
    RecordStop,
}

/// What was recorded.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stopped {
    /// The text of the profile; `None` if nothing was read, or nothing was being recorded.
    pub profile: Option<String>,
}

/// What the process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Face {
    /// It mounts; the place is the mountpoint.
    Mount,
    /// It serves; the place is a URL.
    Serve,
}

/// Who it is and how it is doing.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Number of the process.
    pub pid: u32,
    /// Of the program.
    pub version: &'static str,
    /// What it is there for.
    pub face: Face,
    /// Mountpoint or URL.
    pub place: String,
    /// Store paths that it shows.
    pub store_paths: u64,
    /// The figures.
    #[serde(flatten)]
    pub snapshot: Snapshot,
}

/// The process that answers.
#[derive(Debug)]
pub struct Daemon {
    /// What it is there for.
    pub face: Face,
    /// Mountpoint or URL.
    pub place: String,
    /// Its figures, and its view.
    pub process: Arc<Process>,
}

impl Daemon {
    /// The answer, or why there is none. Never waits for a block; a disk may be waited for, off the async threads.
    pub(super) async fn answer(&self, request: Request) -> Result<Value, String> {
        match request {
            Request::Status => {
                let process = self.process.clone();
                let snapshot = tokio::task::spawn_blocking(move || process.snapshot());
                let snapshot = snapshot.await.map_err(|error| error.to_string())?;
                to_value(Status {
                    pid: std::process::id(),
                    version: env!("CARGO_PKG_VERSION"),
                    face: self.face,
                    place: self.place.clone(),
                    store_paths: self.process.tree.catalogs().paths(),
                    snapshot,
                })
            }
            Request::Why { path } => self.why(&path).await,
            Request::RecordStart { path } => {
                let path = path.map(|path| path.parse().map_err(|error: PathError| error.to_string()));
                self.process.tree.start_recording(path.transpose()?);
                Ok(Value::Null)
            }
            Request::RecordStop => {
                let profile = self.process.tree.stop_recording();
                to_value(Stopped { profile: profile.map(|profile| profile.to_string()) })
            }
        }
    }

    async fn why(&self, path: &str) -> Result<Value, String> {
        let deadline = Deadline::after(LOOK);
        let (tree, stack) = (self.process.tree.clone(), self.process.stack.clone());
        // What is open in the running view is known at the first poll; nothing is fetched for the rest.
        let located = match tree.locate(path.as_bytes(), deadline).now_or_never() {
            Some(located) => located,
            None => match view_of_what_is_here(&tree, &stack, deadline).await {
                Ok(here) => here.locate(path.as_bytes(), deadline).await,
                Err(error) => Err(error),
            },
        };
        let located = located.map_err(|error| not_known(path, &error))?;
        let located = located.ok_or_else(|| match self.process.tree.has_substituters() {
            true => format!("{path}: nothing is known of it here before its store path is opened"),
            false => format!("{path}: there is no such file"),
        })?;
        let why = tokio::task::spawn_blocking(move || Why::of(&located, &tree, &stack));
        let why = why.await.map_err(|error| error.to_string())?;
        to_value(why.ok_or_else(|| {
            format!("{path} is no file: what is known of it is in memory, and costs nothing")
        })?)
    }
}

/// That a file cannot be told about without fetching.
fn not_known(path: &str, error: &tree::Error) -> String {
    match error {
        tree::Error::Read { .. } | tree::Error::Catalog { .. } | tree::Error::Lookup(_) => {
            format!("{path}: nothing is known of it here before its store path is opened: {error}")
        }
        error => format!("{path}: {error}"),
    }
}

fn to_value(answer: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(answer).map_err(|error| error.to_string())
}
