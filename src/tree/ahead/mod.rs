//! What is fetched before somebody asks for it. Nobody ever waits for any of it, and all of it goes through
//! the gate, after what somebody waits for.
//!
//! Four things cause it: a reader that goes on in order ([`ReadAhead`]), the first read of a store path for
//! which there is a startup profile (`replay`), the first read of a program (`graph`: what it refers to; `sweep`: what
//! lies around it), and whoever calls [`Tree::replay`](super::Tree::replay). What was decoded ahead can be handed to the kernel (`push`).

mod elf;
mod graph;
mod pace;
mod profiles;
mod push;
mod record;
mod replay;
mod sweep;

pub use profiles::{Profiles, ProfilesError, read_profile};
pub use push::Pushed;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::inode::Slot;
use super::objects::Objects;
use super::{Closure, Inode, Object, Settings};
use crate::content::{Deadline, Read, ReadAhead, Windows};
use crate::nar::{Kind, NodeId};
use crate::store::{HashPart, Profile, StorePath};
use push::Pusher;
use record::Recorder;
use sweep::{News, Sweeper};

/// How long a fetch ahead may take: as long as its data is likely to be of use.
const PATIENCE: Duration = Duration::from_secs(60);
/// Profiles that are replayed at a time, and graphs that are followed. A session starts programs one after the other.
const BACKGROUND: usize = 16;

/// Fetches ahead for one tree. Dropped, it drops all that it was fetching.
#[derive(Debug)]
pub(super) struct Ahead {
    objects: Arc<Objects>,
    readers: Option<Mutex<ReadAhead>>,
    push: Option<Arc<Pusher>>,
    profiles: Option<Arc<Profiles>>,
    replay_bytes: u64,
    closure: Closure,
    /// What was begun for each store path that was read.
    begun: Mutex<HashMap<Slot, Begun>>,
    /// Each piece of it holds a permit of one of these two; slow graphs do not keep profiles out.
    background: Mutex<JoinSet<()>>,
    replays: Arc<Semaphore>,
    graphs: Arc<Semaphore>,
    /// What the profiles name that were replayed: it comes without a guess.
    profiled: Arc<Mutex<HashSet<HashPart>>>,
    sweep_bytes: u64,
    /// Made by the first program, inside the runtime.
    sweeper: OnceLock<Sweeper>,
    recorder: Recorder,
}

/// What the first reads of a store path caused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Begun {
    replay: bool,
    graph: bool,
}

impl Ahead {
    pub(super) fn new(objects: Arc<Objects>, settings: &Settings) -> Self {
        let windows = Windows {
            largest: settings.max_window,
            // The other half is for what was read already and may be read again.
            together: settings.frame_bytes as u64 / 2,
            pushed: settings.push,
        };
        Ahead {
            objects,
            readers: settings.read_ahead.then(|| Mutex::new(ReadAhead::new(windows))),
            push: settings.push.then(Arc::default),
            profiles: settings.profiles.clone().map(|dir| Arc::new(Profiles::new(dir))),
            replay_bytes: settings.replay_bytes,
            closure: settings.closure,
            begun: Mutex::default(),
            background: Mutex::default(),
            replays: Arc::new(Semaphore::new(BACKGROUND)),
            graphs: Arc::new(Semaphore::new(BACKGROUND)),
            profiled: Arc::default(),
            sweep_bytes: settings.sweep_bytes,
            sweeper: OnceLock::new(),
            recorder: Recorder::default(),
        }
    }

    /// Somebody reads `range` of a file. Returns at once.
    pub(super) fn read(&self, inode: Inode, object: &Arc<Object>, node: NodeId, range: Range<u64>) {
        let Some((start, size)) = object.extent(node) else { return };
        let range = start + range.start.min(size)..start + range.end.min(size);
        if range.is_empty() {
            return;
        }
        if self.recorder.is_on()
            && let Some(path) = self.objects.path(inode.slot())
        {
            self.recorder.read(&path, range.clone());
        }
        self.first_read(inode.slot(), object, node);
        let Some(readers) = &self.readers else { return };
        let read = Read {
            object: inode.slot().number(),
            unit: object.unit(range.clone()),
            range,
            file: start..start + size,
            end: object.nar_size(),
        };
        let fetch = |range| self.window(inode, object, node, range);
        readers.lock().expect("no panic while held").observe(&read, fetch);
    }

    /// An object was opened, or found opened.
    pub(super) fn opened(&self, slot: Slot) {
        if self.recorder.is_on()
            && let Some(path) = self.objects.path(slot)
        {
            self.recorder.opened(&path);
        }
    }

    /// Fetches a piece of the window of a reader that is at `node`.
    fn window(
        &self,
        inode: Inode,
        object: &Arc<Object>,
        node: NodeId,
        range: Range<u64>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (objects, object, push) = (self.objects.clone(), object.clone(), self.push.clone());
        let deadline = Deadline::after(PATIENCE).ahead();
        async move {
            let push = push.filter(|push| push.is_on());
            let answer = match (&push, object.is_seekable()) {
                // Nothing keeps decrypted blocks, so there is no use in decrypting them early.
                (None, false) => object.warm(range, deadline).await,
                (None, true) => object.fetch_range(range, &objects.frames, deadline, |_, _| ()).await,
                (Some(push), _) => {
                    let mut pieces = push.clone().pieces(inode.slot(), object.clone(), node, range.start);
                    object
                        .fetch_range(range, &objects.frames, deadline, |at, bytes| pieces.take(at, &bytes))
                        .await
                }
            };
            if let Err(error) = answer {
                // Whoever reads these bytes gets the error; here it is only early.
                tracing::debug!("reading ahead: {}: {error}", object.name());
            }
        }
    }

    /// The first read of a store path replays its profile; the first read of a program in it looks at what it refers to.
    fn first_read(&self, slot: Slot, object: &Arc<Object>, node: NodeId) {
        let wanted = Begun {
            replay: true,
            graph: self.closure == Closure::Auto
                && matches!(object.listing().kind(node), Kind::File { executable: true, .. }),
        };
        let (begun, replay, graph) = {
            let mut all = self.begun.lock().expect("no panic while held");
            let entry = all.entry(slot).or_default();
            let begun = *entry;
            // Where there is no room now, a later read begins it.
            let permit = |wanted: bool, room| wanted.then(|| permit(room)).flatten();
            let replay = permit(wanted.replay && !begun.replay, &self.replays);
            let graph = permit(wanted.graph && !begun.graph, &self.graphs);
            *entry =
                Begun { replay: begun.replay || replay.is_some(), graph: begun.graph || graph.is_some() };
            (begun, replay, graph)
        };
        if let Some(sweeper) = self.sweeper.get()
            && begun.graph
        {
            sweeper.tell(News::File(slot, object.clone(), node));
        }
        if replay.is_none() && graph.is_none() {
            return;
        }
        let Some(path) = self.objects.path(slot) else { return };
        let (objects, profiles, object) = (self.objects.clone(), self.profiles.clone(), object.clone());
        let (most, profiled) = (self.replay_bytes, self.profiled.clone());
        let start = || Sweeper::start(self.sweep_bytes);
        let graph = graph.map(|permit| (permit, self.sweeper.get_or_init(start).teller()));
        self.in_background(async move {
            let profile = match profiles {
                Some(profiles) => replay::find(&profiles, &path, &object).await,
                None => None,
            };
            match (profile, replay, graph) {
                // It names what the graph can only guess at.
                (Some(profile), Some(_permit), graph) => {
                    drop(graph);
                    profiled
                        .lock()
                        .expect("no panic while held")
                        .extend(profile.steps().iter().map(|step| step.path.hash_part()));
                    replay::replay(objects, profile, most).await;
                }
                (None, replay, Some((_permit, sweep))) if !is_profiled(&profiled, &path) => {
                    drop(replay);
                    graph::warm(&objects, (slot, &path), &object, node, &sweep).await;
                }
                _ => {}
            }
        });
    }

    fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut background = self.background.lock().expect("no panic while held");
        while background.try_join_next().is_some() {}
        background.spawn(work);
    }
}

fn permit(room: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    room.clone().try_acquire_owned().ok()
}

fn is_profiled(profiled: &Mutex<HashSet<HashPart>>, path: &StorePath) -> bool {
    profiled.lock().expect("no panic while held").contains(&path.hash_part())
}

impl super::Tree {
    /// Fetches what `profile` names, in its order, in the background. Returns at once; inside a tokio runtime only. Where as
    /// many as may are under way, it is passed over.
    /// A profile of more than [`Settings::replay_bytes`] is passed over.
    pub fn replay(&self, profile: Profile) {
        let (objects, most) = (self.ahead.objects.clone(), self.ahead.replay_bytes);
        if let Some(permit) = permit(&self.ahead.replays) {
            self.ahead.in_background(async move {
                replay::replay(objects, profile, most).await;
                drop(permit);
            });
        }
    }

    /// Begins to record what is opened and read: a startup profile for `path`, or else for what is read first. A recording
    /// under way begins anew. What the kernel has in its cache is not asked for, so it is not recorded.
    pub fn start_recording(&self, path: Option<StorePath>) {
        self.ahead.recorder.start(path);
    }

    /// Ends the recording; `None` if there was none, or nothing was read.
    pub fn stop_recording(&self) -> Option<Profile> {
        self.ahead.recorder.stop()
    }

    /// How long nothing new was read since the first read of the recording under way; `None` before, and where there is none.
    pub fn quiet(&self) -> Option<Duration> {
        self.ahead.recorder.quiet()
    }

    /// Where the profiles of this tree are kept.
    pub fn profiles(&self) -> Option<&Profiles> {
        self.ahead.profiles.as_deref()
    }

    /// From now on, what was decoded ahead of a reader goes to `sender`, or is dropped where that is full; `None` ends it.
    /// Without [`Settings::push`] nothing comes.
    pub fn push_to(&self, sender: Option<std::sync::mpsc::SyncSender<Pushed>>) {
        if let Some(push) = &self.ahead.push {
            push.set(sender);
        }
    }
}
