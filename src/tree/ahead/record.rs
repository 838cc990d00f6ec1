//! What a first run opens and reads, in that order, each byte once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::{HashPart, Profile, StorePath};

/// Store paths that may be opened before the first read: whoever lists the whole store starts nothing.
const MAX_OPENED: usize = 1024;
/// A recording that nobody stops ends when nothing new was read for so long: no start-up takes longer.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// A recording that may be under way.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    on: AtomicBool,
    recording: Mutex<Option<Recording>>,
}

#[derive(Debug)]
struct Recording {
    /// The path that it is for, where one was named; else the first that is read.
    path: Option<StorePath>,
    /// What was opened before anything was read.
    before: Vec<StorePath>,
    profile: Option<Profile>,
    opened: HashSet<HashPart>,
    read: HashMap<HashPart, Ranges>,
    /// When it began, and when something was read that had not been read before.
    begun: Instant,
    last: Option<Instant>,
}

impl Recording {
    fn is_forgotten(&self) -> bool {
        self.last.unwrap_or(self.begun).elapsed() >= FORGOTTEN
    }
}

impl Recorder {
    /// Whether anybody wants to know. Asked for every read.
    pub(super) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    pub(super) fn start(&self, path: Option<StorePath>) {
        let recording = Recording {
            path,
            before: Vec::new(),
            profile: None,
            opened: HashSet::new(),
            read: HashMap::new(),
            begun: Instant::now(),
            last: None,
        };
        let mut current = self.recording.lock().expect("no panic while held");
        *current = Some(recording);
        self.on.store(true, Ordering::Relaxed);
    }

    pub(super) fn stop(&self) -> Option<Profile> {
        let mut recording = self.recording.lock().expect("no panic while held");
        self.on.store(false, Ordering::Relaxed);
        recording.take()?.profile
    }

    pub(super) fn quiet(&self) -> Option<Duration> {
        let recording = self.recording.lock().expect("no panic while held");
        Some(recording.as_ref()?.last?.elapsed())
    }

    pub(super) fn opened(&self, path: &StorePath) {
        let mut recording = self.recording.lock().expect("no panic while held");
        let Some(recording) = &mut *recording else { return };
        if !self.is_on() || recording.is_forgotten() {
            return self.end(recording);
        }
        if recording.opened.contains(&path.hash_part()) {
            return;
        }
        let room = match &mut recording.profile {
            Some(profile) => profile.add(path, None),
            None if recording.before.len() < MAX_OPENED => {
                recording.before.push(path.clone());
                true
            }
            None => false,
        };
        if room {
            recording.opened.insert(path.hash_part());
        }
    }

    pub(super) fn read(&self, path: &StorePath, range: Range<u64>) {
        let mut recording = self.recording.lock().expect("no panic while held");
        let Some(recording) = &mut *recording else { return };
        if !self.is_on() || recording.is_forgotten() {
            return self.end(recording);
        }
        let profile = recording.profile.get_or_insert_with(|| {
            let mut profile = Profile::new(recording.path.clone().unwrap_or_else(|| path.clone()));
            for opened in recording.before.drain(..) {
                profile.add(&opened, None);
            }
            profile
        });
        recording.opened.insert(path.hash_part());
        for new in recording.read.entry(path.hash_part()).or_default().add(range) {
            recording.last = Some(Instant::now());
            if !profile.add(path, Some(new)) {
                // Full: what comes now is no start-up any more.
                return self.end(recording);
            }
        }
    }

    /// Takes note of nothing more; what was recorded is kept for whoever stops it.
    fn end(&self, recording: &mut Recording) {
        self.on.store(false, Ordering::Relaxed);
        (recording.before, recording.opened, recording.read) = Default::default();
    }
}

/// Ranges that do not touch each other, by their starts.
#[derive(Debug, Default)]
pub(super) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range; gives the parts of it that are new.
    pub(super) fn add(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut new, mut at) = (Vec::new(), range.start);
        let (mut start, mut end) = (range.start, range.end);
        let first = self.0.range(..=range.start).next_back().map_or(range.start, |(first, _)| *first);
        let touched: Vec<(u64, u64)> = self.0.range(first..=range.end).map(|(a, b)| (*a, *b)).collect();
        for (a, b) in touched.into_iter().filter(|(_, b)| *b >= range.start) {
            if a > at {
                new.push(at..a);
            }
            at = at.max(b);
            (start, end) = (start.min(a), end.max(b));
            self.0.remove(&a);
        }
        if at < range.end {
            new.push(at..range.end);
        }
        self.0.insert(start, end);
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_new_once() {
        let mut ranges = Ranges::default();
        let mut bytes = vec![false; 1000];
        let mut state = 1u64;
        for _ in 0..2000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = (state >> 33) % 990;
            let range = start..start + 1 + (state >> 20) % 10;
            let expected: Vec<u64> = range.clone().filter(|&at| !bytes[at as usize]).collect();
            let new: Vec<u64> = ranges.add(range.clone()).into_iter().flatten().collect();
            assert_eq!(new, expected);
            range.for_each(|at| bytes[at as usize] = true);
        }
        assert!(ranges.0.len() < 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recording_that_nobody_stops_ends_and_keeps_what_it_has() {
        let tool: StorePath = "00000000000000000000000000000000-tool".parse().unwrap();
        let recorder = Recorder::default();
        recorder.start(None);
        recorder.read(&tool, 0..10);
        tokio::time::sleep(FORGOTTEN - Duration::from_secs(1)).await;
        recorder.read(&tool, 20..30);
        assert!(recorder.is_on());
        tokio::time::sleep(FORGOTTEN).await;
        recorder.read(&tool, 40..50);
        assert!(!recorder.is_on());
        assert_eq!(recorder.stop().unwrap().bytes(), 20);

        recorder.start(None);
        for number in 0.. {
            recorder.read(&tool, number * 2..number * 2 + 1);
            if !recorder.is_on() {
                break;
            }
        }
        assert!(recorder.stop().unwrap().bytes() > 10_000);
    }

    #[test]
    fn a_recording_tells_what_was_read_first_and_for_which_path() {
        let [tool, library]: [StorePath; 2] =
            ["00000000000000000000000000000000-tool", "11111111111111111111111111111111-library"]
                .map(|path| path.parse().unwrap());
        let recorder = Recorder::default();
        assert!(recorder.stop().is_none());
        recorder.start(None);
        recorder.opened(&library);
        assert!(recorder.quiet().is_none());
        recorder.read(&tool, 96..4192);
        recorder.read(&library, 0..10);
        recorder.read(&tool, 0..100);
        recorder.read(&tool, 0..4192);
        assert!(recorder.quiet().is_some());
        let profile = recorder.stop().unwrap();
        assert_eq!(profile.path(), &tool);
        let text = profile.to_string();
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines[0], format!("path {library}"));
        assert_eq!(
            lines[1..],
            [
                &format!("path {tool}"),
                "read 96 4096",
                &format!("path {library}"),
                "read 0 10",
                &format!("path {tool}"),
                "read 0 96"
            ]
        );
        assert!(!recorder.is_on());
    }
}
