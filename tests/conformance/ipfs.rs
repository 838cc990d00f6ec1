//! IPFS: connections that are kept, gateways that lie, and answers that are not those of a node.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use erisfs::{
    block::{self, BlockStore, Error, Found, Memory, Refusal},
    eris::{BlockSize, Reference},
    http::Access,
};
use futures::StreamExt as _;

use crate::{ipfs_node::Node, n2r, suite};

/// Memory with blocks in it.
async fn full(count: u64) -> (Arc<Memory>, Vec<Reference>) {
    let (store, mut references) = (Arc::new(Memory::new()), Vec::new());
    for seed in 0..count {
        let (reference, block) = suite::block(seed, BlockSize::Large);
        store.put(&reference, block).await.expect("memory takes blocks");
        references.push(reference);
    }
    (store, references)
}

#[tokio::test]
async fn connections_are_used_again_by_every_request() {
    let node = Node::start(Arc::new(Memory::new()), None).await;
    for scheme in ["ipfs", "ipfs+http"] {
        let store = block::open(&format!("{scheme}://{}", node.address)).expect("a good URL");
        let before = node.connections.load(Relaxed);
        for seed in 0..20 {
            let (reference, block) = suite::block(seed, BlockSize::Large);
            if scheme == "ipfs" {
                assert!(!store.has(&reference).await.expect("it answers"));
                store.put(&reference, block.clone()).await.expect("it takes blocks");
            }
            assert!(store.has(&reference).await.expect("it answers"));
            assert_eq!(store.get(&reference).await.expect("it has the block"), block);
        }
        assert_eq!(node.connections.load(Relaxed) - before, 1, "{scheme}");
    }
}

#[tokio::test]
async fn a_gateway_gives_blocks_and_takes_none() {
    let (store, references) = full(2).await;
    let node = Node::start(store, None).await;
    let gateway = block::open(&format!("ipfs+http://{}/", node.address)).expect("a good URL");
    let (absent, block) = suite::block(9, BlockSize::Large);
    assert!(gateway.has(&references[0]).await.expect("it answers"));
    assert!(!gateway.has(&absent).await.expect("it answers"));
    gateway.get(&references[1]).await.expect("it has the block");
    let refused = gateway.put(&absent, block).await.expect_err("it is read-only");
    assert!(matches!(refused, Error::Refused { reason: Refusal::ReadOnly, .. }), "{refused}");
    let missing = gateway.get(&absent).await.expect_err("nobody has it");
    assert!(matches!(missing, Error::NotFound { reference, .. } if reference == absent), "{missing}");
}

#[tokio::test]
async fn a_gateway_that_lies_is_not_believed() {
    let (store, references) = full(1).await;
    let node = Node::lying(store).await;
    let gateway = block::open(&format!("ipfs+http://{}/", node.address)).expect("a good URL");
    let error = gateway.get(&references[0]).await.expect_err("another block");
    assert!(matches!(error, Error::Corrupt { found: Found::Block(_), .. }), "{error}");
}

#[tokio::test]
async fn among_several_gateways_a_liar_and_a_dead_one_cost_no_block() {
    let (store, references) = full(200).await;
    let (honest, liar) = (Node::start(store.clone(), None).await, Node::lying(store).await);
    let dead = Node::start(Arc::new(Memory::new()), None).await.address;
    let urls = [liar.address, dead, honest.address].map(|address| format!("ipfs+http://{address}/"));
    let race = block::open_race(&urls, &Access::default()).expect("good URLs");
    let mut answers = race.get_many(references.clone());
    let mut count = 0;
    while let Some((reference, answer)) = answers.next().await {
        answer.unwrap_or_else(|error| panic!("{reference}: {error}"));
        count += 1;
    }
    assert_eq!(count, references.len());
}

#[tokio::test]
async fn a_server_that_is_no_node_is_told_from_a_node_without_the_block() {
    let (reference, block) = suite::block(1, BlockSize::Large);
    let other = n2r::Server::start(Arc::new(Memory::new()), None, None).await;
    let store = block::open(&format!("ipfs://{}", other.address)).expect("a good URL");
    let get = store.get(&reference).await.map(drop);
    let has = store.has(&reference).await.map(drop);
    for answer in [get, has, store.put(&reference, block).await] {
        let error = answer.expect_err("it is no node");
        assert!(matches!(error, Error::Refused { reason: Refusal::Foreign(_), .. }), "{error}");
    }
}
