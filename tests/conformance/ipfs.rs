//! IPFS: connections that are kept, gateways that lie, and answers that are not those of a node.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use erisfs::{
    availability::{SeedSettings, Seeded, Subject, seed},
    block::{self, BlockStore, Error, Found, Memory, Refusal},
    eris::{BlockSize, ConvergenceSecret, ReadCapability, Reference},
    http::Access,
    offline::{Event, Observer},
    publish,
};
use futures::StreamExt as _;

use crate::{
    faults::{Act, Scripted},
    ipfs_node::Node,
    n2r, suite,
};

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
    let unknown = gateway.has(&absent).await.expect_err("its time is over");
    assert!(matches!(unknown, Error::Unavailable { .. }), "{unknown}");
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

#[tokio::test]
async fn what_a_node_merely_fetched_is_not_kept_before_it_is_put() {
    let (store, references) = full(1).await;
    let block = store.get(&references[0]).await.expect("it was put");
    let node = Node::start(store, None).await;
    let ipfs = block::open(&format!("ipfs://{}", node.address)).expect("a good URL");
    assert!(ipfs.has(&references[0]).await.expect("it answers"));
    assert!(!ipfs.keeps(&references[0]).await.expect("it answers"));
    ipfs.put(&references[0], block).await.expect("it takes blocks");
    assert!(ipfs.keeps(&references[0]).await.expect("it answers"));
}

struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _: Event) {}
}

async fn seed_with_itself(node: &Node, content: ReadCapability) -> Seeded {
    let ipfs = block::open(&format!("ipfs://{}", node.address)).expect("a good URL");
    let subjects = vec![Subject::content(content)];
    seed(ipfs.clone(), vec![ipfs], subjects, SeedSettings::default(), Arc::new(Unobserved)).await
}

#[tokio::test]
async fn seeding_a_node_pins_what_it_fetched() {
    let memory = Arc::new(Memory::new());
    let content =
        Box::new(std::io::Cursor::new((0..50_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()));
    let put = publish::put(memory.clone(), content, BlockSize::Small, ConvergenceSecret::NULL);
    let capability = put.await.expect("memory takes blocks");
    let node = Node::start(memory.clone(), None).await;
    let seeded = seed_with_itself(&node, capability).await;
    assert_eq!((seeded.targets[0].had, seeded.targets[0].put), (0, memory.len() as u64), "{seeded:?}");
    let again = seed_with_itself(&node, capability).await;
    assert_eq!((again.targets[0].had, again.targets[0].put), (again.blocks, 0), "{again:?}");
}

#[tokio::test]
async fn what_a_reader_got_from_its_node_is_pinned_there_if_it_is_to_be_given_back() {
    let (store, references) = full(3).await;
    let node = Node::start(store, None).await;
    let url = format!("ipfs://{}", node.address);
    let ipfs = block::open(&url).expect("a good URL");
    let race = block::open_race(&[&url], &Access::default()).expect("a good URL");
    let race = race.with_reseed(vec![ipfs.clone()], Some(1 << 30));
    race.get(&references[1]).await.expect("it has the block");
    let pinned = async {
        while !ipfs.keeps(&references[1]).await.expect("it answers") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), pinned).await.expect("it is pinned");
    assert!(!ipfs.keeps(&references[2]).await.expect("it answers"), "nobody read it");
}

#[tokio::test]
async fn a_node_does_not_lead_us_to_another() {
    let (reference, block) = suite::block(1, BlockSize::Large);
    let own = Scripted::start(|_| Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec())).await;
    let location = format!("{}api/v0/shutdown", own.url);
    let answer =
        format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    let other = Scripted::start(move |_| Act::Say(answer.clone().into_bytes())).await;
    let ipfs = block::open(&other.url.replace("http:", "ipfs:")).expect("a good URL");
    let get = ipfs.get(&reference).await.map(drop);
    let has = ipfs.has(&reference).await.map(drop);
    let keeps = ipfs.keeps(&reference).await.map(drop);
    for answer in [get, has, keeps, ipfs.put(&reference, block).await] {
        let error = answer.expect_err("a redirect");
        assert!(matches!(error, Error::Refused { reason: Refusal::Status(307), .. }), "{error}");
    }
    assert_eq!(own.requests(), 0);
}

#[tokio::test]
async fn a_gateway_that_gives_each_block_a_host_of_its_own_is_refused_with_advice() {
    let (store, references) = full(1).await;
    let node = Node::start(store, None).await;
    let location = format!("http://localhost:{}/ipfs/", node.address.port());
    let script = move |_| {
        let answer = format!("HTTP/1.1 301 Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        Act::Say(answer.into_bytes())
    };
    let server = Scripted::start(script).await;
    let gateway = block::open(&format!("ipfs+{}", server.url)).expect("a good URL");
    for error in [gateway.get(&references[0]).await.map(drop), gateway.has(&references[0]).await.map(drop)] {
        let error = error.expect_err("a redirect").to_string();
        assert!(error.contains("name a gateway that gives them by path"), "{error}");
    }
    assert_eq!(node.connections.load(Relaxed), 0);
}

#[tokio::test]
async fn a_proxy_whose_gateway_is_down_says_nothing_about_blocks() {
    let (reference, _) = suite::block(1, BlockSize::Large);
    let page = "<html><h1>504 Gateway Time-out</h1></html>";
    let answer = format!(
        "HTTP/1.1 504 Gateway Time-out\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{page}",
        page.len()
    );
    let server = Scripted::start(move |_| Act::Say(answer.clone().into_bytes())).await;
    let gateway =
        block::open_source(&format!("ipfs+{}", server.url), &Access::default()).expect("a good URL");
    for answer in [gateway.get(&reference).await.map(drop), gateway.has(&reference).await.map(drop)] {
        let error = answer.expect_err("it is down");
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_overloaded_node_is_not_believed_about_what_it_has_pinned() {
    let (reference, _) = suite::block(1, BlockSize::Large);
    for (pins, says_so) in [(r#"{"Keys":{"bafk":{}}}"#, false), (r#"{"Keys":{}}"#, true)] {
        // As js-ipfs does: of each two requests the first is about the block, the second about its pin.
        let script = move |request| {
            let (status, body) = match request % 2 {
                0 => ("500 Oh", r#"{"Message":"request timed out","Code":0,"Type":"error"}"#),
                _ => ("200 OK", pins),
            };
            Act::Say(
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
            )
        };
        let server = Scripted::start(script).await;
        let url = server.url.replace("http:", "ipfs:");
        let ipfs = block::open_source(&url, &Access::default()).expect("a good URL");
        let (get, has) = (ipfs.get(&reference).await, ipfs.has(&reference).await);
        match says_so {
            true => {
                assert!(matches!((&get, &has), (Err(Error::NotFound { .. }), Ok(false))), "{get:?} {has:?}")
            }
            false => {
                assert!(get.expect_err("later").is_transient() && has.expect_err("later").is_transient())
            }
        }
    }
}
