//! The signals that end a command which otherwise would go on for ever.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUP, SIGINT and SIGTERM, caught from when this is made.
pub(super) struct Signals([Signal; 3]);

impl Signals {
    /// To be made before there is anything to clean up.
    pub(super) fn catch() -> io::Result<Self> {
        let [hangup, interrupt, terminate] =
            [SignalKind::hangup(), SignalKind::interrupt(), SignalKind::terminate()].map(signal);
        Ok(Signals([hangup?, interrupt?, terminate?]))
    }

    /// Waits for one of them.
    pub(super) async fn any(&mut self) {
        let [hangup, interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
