//! From what a person names (URNs, store paths, catalogs) to the contents whose blocks are meant.

use std::collections::HashSet;
use std::ffi::OsString;
use std::time::Duration;

use crate::content::{Deadline, Limits};
use crate::eris::ReadCapability;
use crate::offline::{self, Absent, Item, Selection, select};
use crate::tree::Sources;

/// The longest content that is taken where nothing says how long it is.
const UNLIMITED: u64 = i64::MAX as u64;
/// What is said of a store path that no content can be copied for.
const UNBOUND: &str = "nobody whose word counts says in which ERIS content it is";

/// A content whose blocks are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// As messages name it: `HASH-NAME`, `catalog REFERENCE`, `content REFERENCE`. Never the capability.
    pub name: String,
    /// Where it is.
    pub capability: ReadCapability,
    /// The most bytes that it may have: a small tree can unfold enormously.
    pub limit: u64,
    /// Its length, where a narinfo tells.
    pub announced: Option<u64>,
}

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Contents that were named by their URNs.
    pub contents: Vec<ReadCapability>,
    /// Catalogs that are wanted themselves.
    pub catalogs: Vec<ReadCapability>,
    /// Store paths: `HASH-NAME`, hash parts, either with the store directory in front.
    pub paths: Vec<OsString>,
    /// All store paths of all catalogs of the sources.
    pub whole_catalogs: bool,
    /// All that the paths refer to as well.
    pub closure: bool,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Subjects {
    /// Each content once, in the order named; catalogs last, so that one is only complete together with what it lists.
    pub subjects: Vec<Subject>,
    /// Store paths that cannot be looked up, or have no content.
    pub absent: Vec<Absent>,
}

impl Subject {
    /// A content that was named by its URN.
    pub fn content(capability: ReadCapability) -> Self {
        let name = format!("content {}", capability.reference);
        Subject { name, capability, limit: UNLIMITED, announced: None }
    }

    /// A catalog.
    pub fn catalog(capability: ReadCapability) -> Self {
        let name = format!("catalog {}", capability.reference);
        Subject { name, capability, limit: UNLIMITED, announced: None }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits { length: self.limit, tail: 0 }
    }

    async fn of(item: &Item) -> Result<Self, Absent> {
        let absent = |reason: String| Absent { name: item.name.clone(), reason };
        if item.below.is_some() {
            return Err(absent("a whole store path is expected".into()));
        }
        let bound = item.content(None).await.map_err(|error| absent(error.to_string()))?;
        let (capability, expected) = bound.ok_or_else(|| absent(UNBOUND.into()))?;
        let (name, announced) = (item.name.clone(), Some(item.announced()));
        Ok(Subject { name, capability, limit: expected.limit, announced })
    }
}

/// Looks up what is wanted; each look-up may take `wait`.
///
/// # Errors
/// If a text names no store path, or a catalog cannot be listed. That a single store path cannot be had is told in the answer.
pub async fn find(sources: &Sources, order: &Order, wait: Duration) -> Result<Subjects, offline::Error> {
    let mut paths = order.paths.clone();
    if order.whole_catalogs {
        let mut after = None;
        loop {
            let entries = sources.catalogs.entries_after(after, Deadline::after(wait)).await?;
            let Some(last) = entries.last() else { break };
            after = Some(last.path.hash_part());
            paths.extend(entries.iter().map(|entry| OsString::from(entry.path.to_string())));
        }
    }
    let Selection { items, absent } = select(sources, &paths, order.closure, wait).await?;
    let mut found = Subjects { subjects: Vec::new(), absent };
    let mut met = HashSet::new();
    let mut add = |subject: Subject| {
        if met.insert(subject.capability.reference) {
            found.subjects.push(subject);
        }
    };
    order.contents.iter().copied().map(Subject::content).for_each(&mut add);
    for item in &items {
        match Subject::of(item).await {
            Ok(subject) => add(subject),
            Err(absent) => found.absent.push(absent),
        }
    }
    order.catalogs.iter().copied().map(Subject::catalog).for_each(&mut add);
    Ok(found)
}
