//! How far it is with store paths or other contents whose blocks are brought somewhere, or asked after.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::offline::{Event, Observer};

/// How often the bar is drawn anew when nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// The bar on stderr; nothing is shown where that is no terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    paths: AtomicU64,
    walked: AtomicU64,
}

impl Progress {
    pub(super) fn start() -> Self {
        let style = ProgressStyle::with_template(
            "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}",
        );
        let bar = ProgressBar::new(0).with_style(style.expect("the template is right"));
        bar.enable_steady_tick(TICK);
        Progress { bar, paths: AtomicU64::new(0), walked: AtomicU64::new(0) }
    }

    /// Takes the bar away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn show_paths(&self) {
        self.bar.set_prefix(format!("{}/{}", self.walked.load(Relaxed), self.paths.load(Relaxed)));
    }
}

impl Observer for Progress {
    fn observe(&self, event: Event) {
        match event {
            Event::Selected { paths, bytes } => {
                self.paths.store(paths, Relaxed);
                self.bar.set_length(bytes);
                self.bar.reset_eta();
                self.show_paths();
            }
            Event::Opened { announced, bytes } => {
                self.bar.inc_length(bytes);
                self.bar.dec_length(announced);
            }
            // What did not travel must not count for the rate.
            Event::Here { bytes } => self.bar.dec_length(bytes),
            Event::Fetched { bytes } => self.bar.inc(bytes),
            Event::Walked => {
                self.walked.fetch_add(1, Relaxed);
                self.show_paths();
            }
        }
    }
}
