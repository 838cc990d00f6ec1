//! What a prefetch does in which order: catalogs, look-ups, blocks, and in the end a look at what is really on the disk.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::check::{Report, hold};
use super::keep::{Keep, Source};
use super::pull::{Event, Loss, Observer, Part, Pull, Unobserved, catalog_name};
use super::select::{Item, Selection, select};
use super::{Error, Offline};
use crate::block::BlockStore;
use crate::content::{Content, Deadline};
use crate::eris::Reference;

/// A catalog up to this size comes as a whole, so that it can be listed; of a larger one what the look-ups need.
const WHOLE_CATALOG: u64 = 64 << 20;
/// Bytes that may stand before a block in the queue of a rate limit: the nodes of one step, and what flies.
const QUEUED: u64 = 64 * 32 * 1024;

/// What to bring, and how.
#[derive(Debug, Clone, Copy, Default)]
pub struct Order {
    /// All that the paths refer to as well.
    pub closure: bool,
    /// At most so many bytes a second; as many as come if none.
    pub rate: Option<u64>,
    /// Pin what was brought, and what was here, under the names of the store paths.
    pub pin: bool,
}

/// What a prefetch did.
#[derive(Debug, Clone)]
pub struct Prefetched {
    /// Blocks that came.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks that came and that the cache did not keep: it is full of pinned blocks, the disk is full, or read-only.
    pub dropped: u64,
    /// What could not be had.
    pub losses: Vec<Loss>,
    /// What is here now.
    pub report: Report,
}

pub(super) async fn prefetch(
    offline: &Offline,
    store: Arc<dyn BlockStore>,
    paths: &[OsString],
    order: Order,
    observer: &dyn Observer,
) -> Result<Prefetched, Error> {
    let source = Arc::new(Source::new(store, order.rate, offline.wait));
    let queued = source.pace.as_ref().map_or(Duration::ZERO, |pace| pace.time(QUEUED));
    let wait = offline.wait.saturating_add(queued);
    let pull =
        Pull { disk: &offline.disk, substitutes: offline.substitutes.as_ref(), source: source.clone(), wait };

    let keeps: Vec<_> = offline
        .catalogs
        .iter()
        .map(|capability| {
            Arc::new(Keep::new(offline.disk.clone(), Some(source.clone()), capability.block_size))
        })
        .collect();
    let stores = keeps.iter().map(|keep| keep.clone() as Arc<dyn BlockStore>);
    let sources = offline.open_sources(stores, wait).await?;
    let (whole, large): (Vec<_>, Vec<_>) = sources
        .catalogs
        .iter()
        .map(|catalog| catalog.content().clone())
        .zip(&keeps)
        .partition(|(content, _)| content.length() <= WHOLE_CATALOG);
    let whole: Vec<Arc<Content>> = whole.into_iter().map(|(content, _)| content).collect();
    let parts: Vec<_> = whole.iter().cloned().map(Part::Catalog).collect();
    let mut losses = pull.all(&parts, &Unobserved).await;

    let selection = select(&sources, paths, order.closure, wait).await?;
    let announced = check_room(offline, &selection)?;
    observer.observe(Event::Selected { paths: selection.items.len() as u64, bytes: announced });
    let parts: Vec<_> = selection.items.iter().cloned().map(Box::new).map(Part::Item).collect();
    losses.extend(pull.all(&parts, observer).await);

    let pins = match order.pin {
        true => {
            pin_catalogs(offline, &whole).await?;
            // Which pages of a large catalog are needed depends on the paths, so each path's pin holds them.
            Some(large.iter().flat_map(|(_, keep)| keep.asked()).collect())
        }
        false => None,
    };
    let report = settle(offline, selection, pins).await?;
    let (blocks, bytes) = (source.blocks.load(Relaxed), source.bytes.load(Relaxed));
    Ok(Prefetched { blocks, bytes, dropped: source.dropped.load(Relaxed), losses, report })
}

/// The announced size of the selection. What cannot fit must not push out of the cache what is there.
fn check_room(offline: &Offline, selection: &Selection) -> Result<u64, Error> {
    let sum =
        |items: &mut dyn Iterator<Item = &Item>| items.map(Item::announced).fold(0, u64::saturating_add);
    // How much a part takes shows only when it is opened.
    let wanted = sum(&mut selection.items.iter().filter(|item| item.below.is_none()));
    let size = offline.disk.stat().size;
    if wanted > size {
        let dir = offline.disk.path().display().to_string();
        return Err(Error::TooSmall { wanted, size, dir });
    }
    Ok(sum(&mut selection.items.iter()))
}

/// Looks what is on the disk in the end; with `pins`, pins it and these.
async fn settle(
    offline: &Offline,
    selection: Selection,
    pins: Option<Vec<Reference>>,
) -> Result<Report, Error> {
    let mut report = Report { paths: Vec::with_capacity(selection.items.len()), absent: selection.absent };
    for item in &selection.items {
        let holding = hold(offline, item).await;
        if let Some(more) = &pins {
            let blocks = holding.blocks.into_iter().chain(more.iter().copied()).collect();
            pin(offline, item.name.clone(), blocks).await?;
        }
        report.paths.push(holding.held);
    }
    let disk = offline.disk.clone();
    spawn_blocking(move || disk.sync()).await.expect("syncing does not panic")?;
    Ok(report)
}

/// Pins catalogs that were brought as a whole.
async fn pin_catalogs(offline: &Offline, whole: &[Arc<Content>]) -> Result<(), Error> {
    for content in whole {
        let mut blocks = Vec::new();
        let mut inventory = content.inventory(0..u64::MAX);
        while let Some(batch) = inventory.next(Deadline::after(offline.wait)).await {
            blocks.extend(batch.nodes);
            blocks.extend(batch.leaves.iter().map(|leaf| leaf.reference));
        }
        pin(offline, catalog_name(content), blocks).await?;
    }
    Ok(())
}

async fn pin(offline: &Offline, name: String, blocks: Vec<Reference>) -> Result<(), Error> {
    let disk = offline.disk.clone();
    spawn_blocking(move || disk.pin(&name, &blocks)).await.expect("pinning does not panic")?;
    Ok(())
}
