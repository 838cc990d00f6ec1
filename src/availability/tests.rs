//! Copies and audits over stores in memory, with faults.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;

use super::opening::Opening;
use super::*;
use crate::block::{BlockStore, Counted, Dir, Fault, Faulty, Memory, Race, Verify};
use crate::content::Deadline;
use crate::eris::{BlockSize, ConvergenceSecret, Encoder, ReadCapability, Reference, SealedBlock};
use crate::offline::{Event, Observer};

struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _: Event) {}
}

/// A content of which no two blocks are alike as long as it has less than 2 MiB, in blocks of 1 KiB: 16 references a node. Its blocks in the order of encoding: the
/// root is the last.
fn content(length: usize) -> (Arc<Memory>, ReadCapability, Vec<Reference>) {
    let blocks = Arc::new(Memory::new());
    let bytes: Vec<u8> = (0..length).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect();
    let mut encoder = Encoder::new(BlockSize::Small, ConvergenceSecret::NULL);
    let mut sealed = encoder.push(&bytes);
    let (capability, rest) = encoder.finish();
    sealed.extend(rest);
    let order = sealed.iter().map(|block| block.reference).collect();
    for SealedBlock { reference, block, .. } in sealed {
        blocks.put(&reference, block).now_or_never().expect("memory does not wait").unwrap();
    }
    (blocks, capability, order)
}

/// The leaves of a content in its order, and its nodes, the root first.
async fn tree(blocks: &Arc<Memory>, of: ReadCapability) -> (Vec<Reference>, Vec<Reference>) {
    let opened = Opening::new(blocks.clone(), &Subject::content(of), Deadline::after(WAIT)).await;
    let mut inventory = opened.expect("it is all there").inventory();
    let (mut leaves, mut nodes) = (Vec::new(), Vec::new());
    while let Some(batch) = inventory.next(Deadline::after(WAIT)).await {
        leaves.extend(batch.leaves.iter().map(|leaf| leaf.reference));
        nodes.extend(batch.nodes);
    }
    (leaves, nodes)
}

async fn copy(from: Arc<dyn BlockStore>, to: Vec<Arc<dyn BlockStore>>, of: ReadCapability) -> Seeded {
    let subjects = vec![Subject::content(of)];
    seed(from, to, subjects, SeedSettings::default(), Arc::new(Unobserved)).await
}

async fn look(stores: Vec<Arc<dyn BlockStore>>, of: ReadCapability, sample: Option<u64>) -> Audited {
    let nodes = Arc::new(Race::new(stores.clone()));
    let settings = AuditSettings { sample, ..AuditSettings::default() };
    let subjects = vec![Subject::content(of)];
    audit(stores, nodes, subjects, settings, Arc::new(Unobserved)).await.contents.remove(0)
}

#[tokio::test]
async fn every_block_is_copied_and_none_twice() {
    for length in [0, 1, 1024, 16 * 1024, 600_000] {
        let (from, capability, _) = content(length);
        let to = Arc::new(Counted::new(Arc::new(Memory::new())));
        let targets = [to.clone() as Arc<dyn BlockStore>];
        let seeded = copy(from.clone(), targets.to_vec(), capability).await;
        assert!(seeded.is_complete(), "{seeded:?}");
        assert_eq!(
            (to.counts().blocks_put(), seeded.blocks),
            (from.len() as u64, from.len() as u64),
            "{length}"
        );
        assert!(look(targets.to_vec(), capability, None).await.is_available());

        let again = copy(from, targets.to_vec(), capability).await;
        assert_eq!((again.fetched, again.targets[0].put, again.targets[0].had), (0, 0, again.blocks));
    }
}

#[tokio::test]
async fn each_target_gets_what_it_lacks_and_no_more() {
    let (from, capability, order) = content(600_000);
    let [full, empty, partial] = std::array::from_fn(|_| Arc::new(Memory::new()));
    for (number, reference) in order.iter().enumerate() {
        let block = from.get(reference).await.unwrap();
        full.put(reference, block.clone()).await.unwrap();
        if number % 3 == 0 {
            partial.put(reference, block).await.unwrap();
        }
    }
    let targets = [full.clone() as Arc<dyn BlockStore>, empty.clone(), partial.clone()];
    let seeded = copy(from.clone(), targets.to_vec(), capability).await;
    let put: Vec<_> = seeded.targets.iter().map(|target| target.put as usize).collect();
    assert_eq!(put, [0, order.len(), order.len() - order.len().div_ceil(3)]);
    assert_eq!((empty.len(), partial.len()), (order.len(), order.len()));
}

#[tokio::test]
async fn a_block_that_is_nowhere_is_told_and_all_others_are_copied() {
    let (from, capability, order) = content(600_000);
    let (leaves, _) = tree(&from, capability).await;
    // The last one too, without which its length is not known.
    for lost in [leaves[0], leaves[300], leaves[leaves.len() - 1]] {
        let fault = Arc::new(Fault::new(from.clone()));
        fault.set(lost, Faulty::Missing);
        let to = Arc::new(Memory::new());
        let seeded = copy(fault, vec![to.clone()], capability).await;
        assert_eq!(seeded.losses.len(), 1, "{seeded:?}");
        assert!(!seeded.is_complete());
        assert_eq!(seeded.losses[0].blocks, 1, "{}", seeded.losses[0].reason);
        assert_eq!(to.len(), order.len() - 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_fails_is_given_up_and_the_other_gets_all() {
    let (from, capability, order) = content(600_000);
    let broken = Arc::new(Fault::new(Arc::new(Memory::new())));
    broken.set_all(Faulty::Unavailable);
    let to = Arc::new(Memory::new());
    let seeded = copy(from, vec![broken, to.clone()], capability).await;
    assert!(!seeded.is_complete() && seeded.losses.is_empty());
    assert!(seeded.targets[0].failure.is_some() && seeded.targets[1].failure.is_none());
    assert_eq!(to.len(), order.len());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_gone_is_not_asked_for_every_block() {
    let (from, capability, _) = content(5_000_000);
    let (leaves, _) = tree(&from, capability).await;
    let fault = Arc::new(Fault::new(from));
    // But for the last leaf, which is had when it is opened.
    for leaf in &leaves[..leaves.len() - 1] {
        fault.set(*leaf, Faulty::Unavailable);
    }
    let begun = Instant::now();
    let seeded = copy(fault, vec![Arc::new(Memory::new())], capability).await;
    assert!(!seeded.is_complete());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(seeded.blocks < 2_000, "{}", seeded.blocks);
}

#[tokio::test(start_paused = true)]
async fn no_more_is_fetched_than_the_rate_allows() {
    let (from, capability, order) = content(600_000);
    let begun = Instant::now();
    let settings = SeedSettings { rate: Some(100 * 1024), ..SeedSettings::default() };
    let subjects = vec![Subject::content(capability)];
    let to = Arc::new(Memory::new());
    let seeded = seed(from, vec![to], subjects, settings, Arc::new(Unobserved)).await;
    assert_eq!(seeded.fetched, order.len() as u64);
    // The last piece waits for those before it.
    let expected = order.len() as f64 / 100.0;
    let took = begun.elapsed().as_secs_f64();
    assert!((expected - 0.6..expected + 0.1).contains(&took), "{took} instead of {expected}");
}

#[tokio::test]
async fn an_audit_tells_which_store_lacks_what() {
    let (blocks, capability, order) = content(600_000);
    let (leaves, _) = tree(&blocks, capability).await;
    let [one, other] = [(); 2].map(|()| Arc::new(Fault::new(blocks.clone())));
    one.set(leaves[3], Faulty::Missing);
    one.set(leaves[5], Faulty::Missing);
    other.set(leaves[7], Faulty::Missing);
    let audited = look(vec![one.clone(), other.clone()], capability, None).await;
    assert!(audited.is_available());
    assert_eq!(audited.asked, order.len() as u64);
    assert_eq!([audited.stores[0].missing, audited.stores[1].missing], [2, 1]);
    assert_eq!(audited.stores[1].blocks, [leaves[7].to_string()]);

    other.set(leaves[5], Faulty::Missing);
    let audited = look(vec![one, other], capability, None).await;
    assert_eq!((audited.lost, audited.unknown), (1, 0));
    assert!(!audited.is_available());
}

#[tokio::test]
async fn with_a_node_that_is_lost_all_below_it_is() {
    let (blocks, capability, _) = content(600_000);
    let (_, nodes) = tree(&blocks, capability).await;
    let fault = Arc::new(Fault::new(blocks));
    let mut lost = Vec::new();
    for node in &nodes[1..] {
        fault.clear();
        fault.set(*node, Faulty::Missing);
        lost.push(look(vec![fault.clone()], capability, None).await.lost);
    }
    // Sixteen leaves and the node itself; below others there are nodes.
    assert!(lost.iter().all(|lost| *lost >= 2) && lost.contains(&17), "{lost:?}");
    // Without the root nobody knows what there is.
    fault.clear();
    fault.set(capability.reference, Faulty::Missing);
    let audited = look(vec![fault], capability, None).await;
    assert!(audited.lost > 0 && audited.estimated && !audited.is_available());
}

#[tokio::test]
async fn a_store_that_gives_no_answer_proves_nothing() {
    let (blocks, capability, order) = content(100_000);
    let (leaves, _) = tree(&blocks, capability).await;
    let [well, away] = [(); 2].map(|()| Arc::new(Fault::new(blocks.clone())));
    away.set_all(Faulty::Unavailable);
    let stores = [well.clone() as Arc<dyn BlockStore>, away];
    let audited = look(stores.to_vec(), capability, None).await;
    assert!(audited.is_available());
    assert_eq!(audited.stores[1].unanswered, order.len() as u64);

    well.set(leaves[2], Faulty::Missing);
    let audited = look(stores.to_vec(), capability, None).await;
    assert_eq!((audited.lost, audited.unknown), (0, 1));
    assert!(!audited.is_available());
}

#[tokio::test]
async fn of_a_large_content_a_sample_is_asked_after() {
    let (blocks, capability, _) = content(5_000_000);
    let (leaves, _) = tree(&blocks, capability).await;
    let fault = Arc::new(Fault::new(blocks));
    let counted = Arc::new(Counted::new(fault.clone()));
    let audited = look(vec![counted], capability, Some(300)).await;
    assert!(audited.is_available());
    assert_eq!((audited.asked, audited.sample_of), (300, Some(5_000_000_u64.div_ceil(1024))));
    assert!((0.009..0.011).contains(&audited.lost_at_most), "{}", audited.lost_at_most);

    // A tenth of all is gone: the sample meets some of it, but for one time in 10^13.
    for leaf in leaves[..leaves.len() - 1].iter().step_by(10) {
        fault.set(*leaf, Faulty::Missing);
    }
    let audited = look(vec![fault], capability, Some(300)).await;
    assert!(audited.lost > 0 && audited.lost == audited.stores[0].missing, "{audited:?}");
    assert!(audited.lost_at_most > 0.1, "{}", audited.lost_at_most);
}

/// A store that has all of them, but for one that is wrong in this way.
fn faulty(blocks: &Arc<Memory>, wrong: Reference, fault: Faulty) -> Arc<dyn BlockStore> {
    let faults = Fault::new(blocks.clone());
    faults.set(wrong, fault);
    Arc::new(Verify::new(Arc::new(faults)))
}

#[tokio::test]
async fn without_its_end_a_content_is_walked_as_far_as_it_goes_whatever_was_announced() {
    let (blocks, capability, order) = content(600_000);
    let (leaves, nodes) = tree(&blocks, capability).await;
    let subject = Subject { announced: Some(100_000), ..Subject::content(capability) };
    let (last_leaf, last_node) = (leaves[leaves.len() - 1], nodes[nodes.len() - 1]);
    for (end, below) in [(last_leaf, 0), (last_node, leaves.len() % 16)] {
        let store = faulty(&blocks, end, Faulty::Missing);
        let to = Arc::new(Memory::new());
        let settings = SeedSettings::default();
        let seeded =
            seed(store.clone(), vec![to.clone()], vec![subject.clone()], settings, Arc::new(Unobserved))
                .await;
        assert!(!seeded.is_complete() && seeded.losses[0].blocks > below as u64, "{seeded:?}");
        assert_eq!(to.len(), order.len() - 1 - below);

        let settings = AuditSettings { sample: None, ..AuditSettings::default() };
        let audited =
            audit(vec![store.clone()], store, vec![subject.clone()], settings, Arc::new(Unobserved)).await;
        let audited = &audited.contents[0];
        assert!(audited.lost > below as u64 && audited.asked >= order.len() as u64, "{audited:?}");
    }
}

#[tokio::test]
async fn what_lies_spoiled_in_the_only_store_and_was_wanted_is_lost() {
    let (blocks, capability, _) = content(5_000_000);
    let (leaves, nodes) = tree(&blocks, capability).await;
    let (last, node) = (leaves[leaves.len() - 1], nodes[1]);
    for sample in [None, Some(300)] {
        let audited = look(vec![faulty(&blocks, last, Faulty::Corrupt)], capability, sample).await;
        assert!(audited.lost >= 1 && !audited.is_available(), "{audited:?}");
        let audited = look(vec![faulty(&blocks, node, Faulty::Corrupt)], capability, sample).await;
        // It is above 4,096 of 4,883 leaves.
        assert!(audited.lost > 100 && audited.stores[0].missing > 0, "{audited:?}");
        // Another store has it.
        let stores = [faulty(&blocks, node, Faulty::Corrupt), blocks.clone()];
        assert!(look(stores.to_vec(), capability, sample).await.is_available());
    }
}

#[tokio::test]
async fn a_spoiled_end_in_the_target_is_no_copy_of_what_the_source_lacks() {
    let (blocks, capability, _) = content(600_000);
    let (leaves, _) = tree(&blocks, capability).await;
    let last = leaves[leaves.len() - 1];
    let from = faulty(&blocks, last, Faulty::Missing);
    let seeded = copy(from.clone(), vec![faulty(&blocks, last, Faulty::Corrupt)], capability).await;
    assert!(!seeded.is_complete() && seeded.losses[0].blocks == 1, "{seeded:?}");
    assert!(copy(from, vec![blocks], capability).await.is_complete());
}

#[tokio::test]
async fn a_copy_that_goes_on_reads_no_nodes_from_the_source_that_are_here() {
    let (blocks, capability, _) = content(600_000);
    let from = Arc::new(Counted::new(blocks));
    let targets = [Arc::new(Memory::new()) as Arc<dyn BlockStore>];
    assert!(copy(from.clone(), targets.to_vec(), capability).await.is_complete());
    from.counts().reset();
    assert!(copy(from.clone(), targets.to_vec(), capability).await.is_complete());
    assert_eq!(from.counts().blocks(), 0);
}

#[tokio::test(start_paused = true)]
async fn lost_blocks_beside_a_silent_source_do_not_end_the_copy() {
    let (blocks, capability, order) = content(2_000_000);
    let (leaves, _) = tree(&blocks, capability).await;
    let (lacking, away) = (Arc::new(Fault::new(blocks.clone())), Arc::new(Fault::new(blocks)));
    leaves[..1200].iter().for_each(|leaf| lacking.set(*leaf, Faulty::Missing));
    away.set_all(Faulty::Unavailable);
    let folder = tempfile::tempdir().unwrap();
    let to: Arc<dyn BlockStore> = Arc::new(Dir::new(folder.path()));
    // As in the command, what one target has another may lack.
    let from = Arc::new(Race::new(vec![lacking, away, to.clone()]));
    let seeded = copy(from, vec![to], capability).await;
    assert!(seeded.outage && seeded.losses[0].blocks == 1200, "{:?}", seeded.losses);
    assert_eq!(seeded.targets[0].put as usize, order.len() - 1200);
}

#[tokio::test(start_paused = true)]
async fn that_a_target_lacks_a_block_is_no_answer_of_a_source() {
    let (blocks, capability, _) = content(5_000_000);
    let (leaves, _) = tree(&blocks, capability).await;
    let away = Arc::new(Fault::new(blocks));
    leaves[..leaves.len() - 1].iter().for_each(|leaf| away.set(*leaf, Faulty::Unavailable));
    let folder = tempfile::tempdir().unwrap();
    let to: Arc<dyn BlockStore> = Arc::new(Dir::new(folder.path()));
    let seeded = copy(Arc::new(Race::new(vec![away, to.clone()])), vec![to], capability).await;
    assert!(seeded.outage && seeded.blocks < 2_000, "{}", seeded.blocks);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_come_leaves_only_the_places_below_it_unknown() {
    let (blocks, capability, _) = content(2_000_000);
    let (_, nodes) = tree(&blocks, capability).await;
    // It is above 256 of 1,954 leaves: of 100 places about 13.
    let store = faulty(&blocks, nodes[1], Faulty::Unavailable);
    let (subjects, settings) =
        (vec![Subject::content(capability)], AuditSettings { sample: Some(100), ..AuditSettings::default() });
    let report = audit(vec![store.clone()], store, subjects, settings, Arc::new(Unobserved)).await;
    let audited = &report.contents[0];
    assert_eq!((audited.asked, audited.lost, audited.fault.as_deref()), (100, 0, None));
    assert!((1..32).contains(&audited.unknown), "{}", audited.unknown);
}
