//! What can be asked of a process. Adding a request is this file alone: a variant, and how it is answered.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::metrics::{Process, Snapshot};

/// A request; as JSON `{"op": "status"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Who it is and how it is doing: a [`Status`].
    Status,
}

/// What the process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
        }
    }
}

fn to_value(answer: impl Serialize) -> Result<Value, String> {
    serde_json::to_value(answer).map_err(|error| error.to_string())
}
