//! Which blocks of contents which store lacks, by asking whether it has them: nothing is read but interior nodes.
//!
//! Small contents are asked after block by block. Of a large one a random sample of places is looked at, each with all blocks that
//! lead there, and what that says of the rest is stated with its confidence. A store's word is believed here.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::{StreamExt, future, stream};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::opening::{Opening, is_lost};
use super::sample::{at_most, choose};
use super::{PATIENCE, Subject, WAIT, WALKS};
use crate::block::BlockStore;
use crate::content::{self, Batch, Content, Deadline, Lost};
use crate::eris::Reference;
use crate::offline::{Event, Observer};

/// Places that are looked at in a content with more blocks: if nothing is missing there, less than one block in a thousand is.
const SAMPLE: u64 = 3000;
/// Descents of a sample that are under way.
const DESCENTS: usize = 16;
/// References that are told of one content and store; how many there are is counted beyond.
const TOLD: usize = 1000;

/// How stores are asked.
#[derive(Debug, Clone, Copy)]
pub struct AuditSettings {
    /// How long an interior node may take.
    pub wait: Duration,
    /// Contents with more leaves than this are sampled at so many places; `None`: every block is asked after.
    pub sample: Option<u64>,
}

impl Default for AuditSettings {
    fn default() -> Self {
        AuditSettings { wait: WAIT, sample: Some(SAMPLE) }
    }
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Each content.
    pub contents: Vec<Audited>,
    /// Stores that were not asked any more because they gave no answer, and why.
    pub silent: Vec<(String, String)>,
}

/// How a content is.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audited {
    /// As messages name it.
    pub name: String,
    /// Its length; where the block that tells it is lost, what was announced.
    pub bytes: u64,
    /// Whether that is so.
    pub estimated: bool,
    /// What was asked after: each block once; of a sample, places in the content, each with what leads there.
    pub asked: u64,
    /// The places that there are, where only a sample was asked after.
    pub sample_of: Option<u64>,
    /// Of those asked after, what every store lacks, or what nothing leads to any more.
    pub lost: u64,
    /// Of those asked after, what no store has that answered, while another did not answer.
    pub unknown: u64,
    /// The share of the whole content that is lost or unknown at the most, with [`CONFIDENCE`](super::CONFIDENCE) for a sample.
    pub lost_at_most: f64,
    /// Each store.
    pub stores: Vec<Lacking>,
    /// Why nothing could be found out.
    pub fault: Option<String>,
}

/// What one store lacks of a content.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lacking {
    /// The store.
    pub store: String,
    /// Of those asked after, what it lacks.
    pub missing: u64,
    /// Of those asked after, what it did not say.
    pub unanswered: u64,
    /// Blocks that it lacks: the first thousand.
    pub blocks: Vec<String>,
}

impl Audited {
    /// Whether every block that was asked after is in some store.
    pub fn is_available(&self) -> bool {
        self.lost == 0 && self.unknown == 0 && self.fault.is_none()
    }
}

impl Report {
    /// Whether every block of every content is in some store, as far as was asked.
    pub fn is_available(&self) -> bool {
        self.contents.iter().all(Audited::is_available)
    }
}

/// Asks each of `stores` for the blocks of each of `subjects`. Interior nodes are read from `nodes`, which is to give what any
/// of the stores has.
pub async fn audit(
    stores: Vec<Arc<dyn BlockStore>>,
    nodes: Arc<dyn BlockStore>,
    subjects: Vec<Subject>,
    settings: AuditSettings,
    observer: Arc<dyn Observer>,
) -> Report {
    let bytes = subjects.iter().filter_map(|subject| subject.announced).fold(0, u64::saturating_add);
    observer.observe(Event::Selected { paths: subjects.len() as u64, bytes });
    let panel = Panel { witnesses: stores.into_iter().map(Witness::new).collect() };
    let audits = subjects.iter().map(async |subject| {
        let audited = look(&panel, nodes.clone(), subject, settings, &*observer).await;
        observer.observe(Event::Walked);
        audited
    });
    let contents = stream::iter(audits).buffered(WALKS).collect().await;
    Report { contents, silent: panel.silent() }
}

/// A store that is asked.
struct Witness {
    store: Arc<dyn BlockStore>,
    turns: Semaphore,
    /// Failures in a row.
    failures: AtomicU32,
    /// Why it is not asked any more.
    reason: OnceLock<String>,
}

impl Witness {
    fn new(store: Arc<dyn BlockStore>) -> Self {
        let turns = Semaphore::new(store.concurrency().max(1));
        Witness { store, turns, failures: AtomicU32::new(0), reason: OnceLock::new() }
    }

    /// Whether it has each of the blocks; those it does not say it of are asked after once more in the end.
    async fn have(&self, references: &[Reference]) -> Vec<Option<bool>> {
        let mut answers = vec![None; references.len()];
        for _ in 0..2 {
            let open = (0..answers.len()).filter(|row| answers[*row].is_none());
            let asked = open.map(|row| async move { (row, self.has(&references[row]).await) });
            // The turns of the store bound what is under way.
            let asked = stream::iter(asked.collect::<Vec<_>>());
            let said: Vec<_> = asked.buffer_unordered(self.store.concurrency().max(1)).collect().await;
            said.into_iter().for_each(|(row, answer)| answers[row] = answer);
        }
        answers
    }

    /// Whether it has the block; `None` if it does not say.
    async fn has(&self, reference: &Reference) -> Option<bool> {
        let _turn = self.turns.acquire().await.expect("it is never closed");
        if self.reason.get().is_some() {
            return None;
        }
        match self.store.has(reference).await {
            Ok(has) => {
                self.failures.store(0, Relaxed);
                Some(has)
            }
            Err(error) => {
                tracing::debug!("{error}");
                if self.failures.fetch_add(1, Relaxed) + 1 >= PATIENCE {
                    self.reason.get_or_init(|| error.to_string());
                }
                None
            }
        }
    }
}

/// What the stores say of a block, in their order.
type Answers = Vec<Option<bool>>;

/// All stores.
struct Panel {
    witnesses: Vec<Witness>,
}

impl Panel {
    /// What each store says of each block.
    async fn ask(&self, references: Vec<Reference>) -> Vec<(Reference, Answers)> {
        let columns = self.witnesses.iter().map(|witness| witness.have(&references));
        let columns = future::join_all(columns).await;
        let rows = references.iter().enumerate();
        rows.map(|(row, reference)| (*reference, columns.iter().map(|column| column[row]).collect()))
            .collect()
    }

    fn nothing(&self, subject: &Subject) -> Audited {
        let names = self.witnesses.iter().map(|witness| witness.store.name().to_owned());
        let stores = names.map(|store| Lacking { store, ..Lacking::default() }).collect();
        Audited { name: subject.name.clone(), stores, ..Audited::default() }
    }

    fn silent(&self) -> Vec<(String, String)> {
        let reason =
            |witness: &Witness| Some((witness.store.name().to_owned(), witness.reason.get()?.clone()));
        self.witnesses.iter().filter_map(reason).collect()
    }
}

async fn look(
    panel: &Panel,
    nodes: Arc<dyn BlockStore>,
    subject: &Subject,
    settings: AuditSettings,
    observer: &dyn Observer,
) -> Audited {
    let mut audited = panel.nothing(subject);
    let opened = Opening::new(nodes, subject, Deadline::after(settings.wait)).await;
    match opened {
        Ok(opening) => {
            let content = &opening.content;
            audited.estimated = opening.end.is_some();
            audited.bytes = if audited.estimated { subject.announced.unwrap_or(0) } else { content.length() };
            let announced = subject.announced.unwrap_or(0);
            observer.observe(Event::Opened { announced, bytes: audited.bytes });
            let leaves = content.length().div_ceil(subject.capability.block_size.bytes() as u64);
            match settings.sample {
                Some(sample) if leaves > sample => {
                    audited.sample_of = Some(leaves);
                    audited.sample(panel, &opening, choose(leaves, sample), settings.wait).await;
                    observer.observe(Event::Fetched { bytes: audited.bytes });
                }
                _ => audited.walk(panel, &opening, settings.wait, observer).await,
            }
            if opening.end.is_some() {
                audited.lost = audited.lost.max(1);
            }
        }
        Err(error) if is_lost(&error) => {
            // Not even the root: of the rest nobody can say what it is.
            audited.bytes = subject.announced.unwrap_or(0);
            audited.estimated = true;
            let answers = panel.ask(vec![subject.capability.reference]).await;
            audited.count(answers);
            audited.lost = audited.lost.max(1);
        }
        Err(error) => audited.fault = Some(error.to_string()),
    }
    audited.conclude();
    audited
}

impl Audited {
    /// Asks for every block.
    async fn walk(&mut self, panel: &Panel, opening: &Opening, wait: Duration, observer: &dyn Observer) {
        let mut met = HashSet::new();
        let mut inventory = opening.inventory();
        while let Some(Batch { nodes, leaves, lost }) = inventory.next(Deadline::after(wait)).await {
            let bytes = leaves.iter().map(|leaf| leaf.bytes).sum();
            let mut references = nodes;
            references.extend(leaves.iter().map(|leaf| leaf.reference));
            references.extend(lost.iter().map(|lost| lost.reference));
            references.retain(|reference| met.insert(*reference));
            let gone = lost.iter().filter(|lost| is_lost(&lost.error)).map(|lost| lost.reference);
            let gone: HashSet<_> = gone.chain(opening.end.as_ref().map(|end| end.reference)).collect();
            let mut answers = panel.ask(references).await;
            overrule(answers.iter_mut().map(|(reference, answers)| (&*reference, answers)), &gone);
            self.count(answers);
            for Lost { blocks, error, .. } in lost {
                // There is no node without a block below.
                self.lose_below(blocks.saturating_sub(1).max(1), &error);
            }
            observer.observe(Event::Fetched { bytes });
        }
    }

    /// Looks at some leaves, each with the nodes that lead there.
    async fn sample(&mut self, panel: &Panel, opening: &Opening, leaves: Vec<u64>, wait: Duration) {
        let content = &opening.content;
        let size = content.capability().block_size.bytes() as u64;
        let descents = leaves.into_iter().map(async |leaf| descend(content, leaf * size, wait).await);
        let mut descents = stream::iter(descents).buffered(DESCENTS);
        let (mut paths, mut failures) = (Vec::new(), 0);
        while let Some(path) = descents.next().await {
            match &path.leads {
                Leads::Late(error) => {
                    failures += 1;
                    if failures == PATIENCE {
                        self.fault = Some(error.to_string());
                        break;
                    }
                }
                _ => failures = 0,
            }
            // Where the length is not known, places were chosen that the content does not have.
            if !matches!(path.leads, Leads::Outside) {
                paths.push(path);
            }
        }
        drop(descents);
        let references: HashSet<_> = paths.iter().flat_map(|path| &path.blocks).copied().collect();
        let mut answers: HashMap<_, _> =
            panel.ask(references.into_iter().collect()).await.into_iter().collect();
        let gone = paths.iter().filter_map(|path| match path.leads {
            Leads::Lost(reference) => Some(reference),
            _ => None,
        });
        let gone: HashSet<_> = gone.chain(opening.end.as_ref().map(|end| end.reference)).collect();
        overrule(answers.iter_mut(), &gone);
        for (reference, answers) in &answers {
            self.tell(reference, answers);
        }
        for Path { blocks, leads } in &paths {
            self.asked += 1;
            let of_path = || blocks.iter().map(|reference| &answers[reference]);
            let is_late = matches!(leads, Leads::Late(_));
            for (place, lacking) in self.stores.iter_mut().enumerate() {
                if of_path().any(|answers| answers[place] == Some(false)) {
                    lacking.missing += 1;
                } else if is_late || of_path().any(|answers| answers[place].is_none()) {
                    lacking.unanswered += 1;
                }
            }
            if of_path().any(is_nowhere) {
                self.lost += 1;
            } else if is_late || !of_path().all(is_somewhere) {
                self.unknown += 1;
            }
        }
    }

    /// Counts blocks for themselves.
    fn count(&mut self, answers: Vec<(Reference, Answers)>) {
        for (reference, answers) in answers {
            self.asked += 1;
            self.tell(&reference, &answers);
            for (lacking, answer) in self.stores.iter_mut().zip(&answers) {
                lacking.missing += u64::from(*answer == Some(false));
                lacking.unanswered += u64::from(answer.is_none());
            }
            self.lost += u64::from(is_nowhere(&answers));
            self.unknown += u64::from(!is_nowhere(&answers) && !is_somewhere(&answers));
        }
    }

    /// Counts blocks of which nobody knows the names, since the node above them cannot be had.
    fn lose_below(&mut self, blocks: u64, error: &content::Error) {
        self.asked = self.asked.saturating_add(blocks);
        match is_lost(error) {
            true => self.lost = self.lost.saturating_add(blocks),
            false => self.unknown = self.unknown.saturating_add(blocks),
        }
        for lacking in &mut self.stores {
            lacking.unanswered = lacking.unanswered.saturating_add(blocks);
        }
    }

    /// Notes which store lacks a block.
    fn tell(&mut self, reference: &Reference, answers: &Answers) {
        for (lacking, answer) in self.stores.iter_mut().zip(answers) {
            if *answer == Some(false) && lacking.blocks.len() < TOLD {
                lacking.blocks.push(reference.to_string());
            }
        }
    }

    fn conclude(&mut self) {
        let gone = self.lost.saturating_add(self.unknown);
        self.lost_at_most = match (self.sample_of, self.asked) {
            (_, 0) => 1.0,
            (Some(_), asked) => at_most(gone, asked),
            (None, asked) => gone as f64 / asked as f64,
        };
    }
}

/// The blocks that lead to a place in the content, as far as they are known.
struct Path {
    blocks: Vec<Reference>,
    leads: Leads,
}

/// Where a path leads.
enum Leads {
    /// To a leaf.
    ToLeaf,
    /// Beyond the end of the content.
    Outside,
    /// To a node that no store gives.
    Lost(Reference),
    /// To a node that did not come for another reason.
    Late(content::Error),
}

/// The blocks that lead to the byte at `offset`, and the one that holds it.
async fn descend(content: &Arc<Content>, offset: u64, wait: Duration) -> Path {
    let (mut blocks, mut leads) = (Vec::new(), Leads::Outside);
    let mut inventory = content.inventory(offset..offset + 1);
    while let Some(Batch { nodes, leaves, lost }) = inventory.next(Deadline::after(wait)).await {
        blocks.extend(nodes);
        if !leaves.is_empty() {
            blocks.extend(leaves.iter().map(|leaf| leaf.reference));
            leads = Leads::ToLeaf;
        }
        for lost in lost {
            blocks.push(lost.reference);
            leads = if is_lost(&lost.error) { Leads::Lost(lost.reference) } else { Leads::Late(lost.error) };
        }
    }
    Path { blocks, leads }
}

/// Of a block that no store gave when it was wanted, what they say is that they have it spoiled, at the best.
fn overrule<'a>(answers: impl Iterator<Item = (&'a Reference, &'a mut Answers)>, gone: &HashSet<Reference>) {
    answers
        .filter(|(reference, _)| gone.contains(reference))
        .for_each(|(_, answers)| answers.fill(Some(false)));
}

/// Whether every store said that it lacks the block.
fn is_nowhere(answers: &Answers) -> bool {
    answers.iter().all(|answer| *answer == Some(false))
}

/// Whether a store said that it has the block.
fn is_somewhere(answers: &Answers) -> bool {
    answers.contains(&Some(true))
}
