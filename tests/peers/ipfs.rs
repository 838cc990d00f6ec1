//! IPFS: blocks that js-ipfs takes are the blocks that Kubo finds, and a store outlives its publisher with no other carrier.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use erisfs::block::{self, Block, BlockStore, Error, Memory, cid};
use erisfs::eris::{BlockSize, ReadCapability, Reference, reference_of};
use erisfs::http::Access;
use futures::StreamExt as _;

use super::ipfs_node::Node;
use super::mounted::is_the_same;
use super::noise::noise;
use super::peers::{kit, peer};
use super::process::{Finished, Running, run};
use super::scratch::{Scratch, text};
use super::suite::{self, Subject};

/// What three requests, one after the other, take at the most: each ends after 25 s.
const DEADLINE: Duration = Duration::from_secs(80);

fn rpc() -> Arc<dyn BlockStore> {
    block::open(&format!("ipfs://{}", peer("IPFS_RPC"))).expect("a good URL")
}

fn gateway() -> String {
    format!("ipfs+http://{}", peer("IPFS_GATEWAY"))
}

/// A block that there never was before.
fn new_block(size: BlockSize) -> (Reference, Block) {
    let mut bytes = noise(size.bytes());
    bytes[..16].copy_from_slice(&now().to_le_bytes());
    (reference_of(&bytes), bytes.into())
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock that was set").as_nanos()
}

/// A command of the RPC that the carrier does not use.
#[track_caller]
fn ask(command: &str) -> String {
    run(&mut kit("ipfs.sh", &["ask", command])).text()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs real IPFS: tests/peers/run"]
async fn js_ipfs_keeps_the_promises_of_a_block_store() {
    // The others ask for blocks that are not there, of which this node may have had some before.
    let subject = Subject::new(rpc());
    suite::what_was_put_can_be_had(&subject).await;
    suite::putting_again_changes_nothing(&subject).await;
    suite::an_empty_batch_is_no_work(&subject).await;
    suite::the_same_block_can_be_put_by_many_at_once(&subject).await;
    suite::leaving_in_the_middle_harms_nobody(&subject).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs real IPFS: tests/peers/run"]
async fn a_block_that_nobody_has_is_an_answer_and_holds_up_no_other() {
    let store = rpc();
    let present = new_block(BlockSize::Large);
    store.put(&present.0, present.1.clone()).await.expect("it takes blocks");
    let absent: Vec<Reference> = (0..20).map(|_| new_block(BlockSize::Large).0).collect();
    let asked: Vec<Reference> = absent.iter().copied().chain([present.0]).collect();
    let begun = Instant::now();
    let mut answers = store.get_many(asked);
    let (first, block) = answers.next().await.expect("there are 21");
    assert_eq!((first, block.expect("it has the block")), present);
    while let Some((reference, answer)) = answers.next().await {
        let error = answer.expect_err("nobody has it");
        assert!(matches!(error, Error::NotFound { .. }), "{reference}: {error}");
    }
    assert!(!store.has(&absent[0]).await.expect("it answers"));
    // js-ipfs never says it at its gateway.
    block::open(&gateway()).expect("a good URL").get(&absent[0]).await.expect_err("nobody has it");
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs real IPFS: tests/peers/run"]
async fn blocks_go_from_js_ipfs_to_kubo_over_bitswap_and_come_back() {
    let (store, scratch) = (rpc(), Scratch::new());
    let blocks = [BlockSize::Small, BlockSize::Large].map(new_block);
    let never_sent = new_block(BlockSize::Large);
    for (reference, block) in blocks.iter().chain([&never_sent]) {
        store.put(reference, block.clone()).await.expect("it takes blocks");
    }
    for (number, (reference, block)) in blocks.iter().enumerate() {
        let file = scratch.at(&number.to_string());
        run(&mut kit("ipfs.sh", &["kubo", "get", &cid(reference), text(&file)])).text();
        assert!(fs::read(&file).expect("Kubo wrote it") == *block, "Kubo got {reference} as it was put");
    }
    for (reference, _) in blocks.iter().chain([&never_sent]) {
        ask(&format!("pin/rm?arg={}", cid(reference)));
        ask(&format!("block/rm?arg={}", cid(reference)));
    }
    for (reference, block) in &blocks {
        assert_eq!(store.get(reference).await.expect("it comes back from Kubo"), *block);
    }
    let error = store.get(&never_sent.0).await.expect_err("js-ipfs has forgotten it");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs real IPFS: tests/peers/run"]
async fn what_was_put_outlives_a_garbage_collection() {
    let store = rpc();
    let (pinned, loose) = (new_block(BlockSize::Large), new_block(BlockSize::Large));
    store.put(&pinned.0, pinned.1.clone()).await.expect("it takes blocks");
    store.put(&loose.0, loose.1).await.expect("it takes blocks");
    ask(&format!("pin/rm?arg={}", cid(&loose.0)));
    ask("repo/gc");
    assert_eq!(store.get(&pinned.0).await.expect("it was pinned"), pinned.1);
    assert!(!store.has(&loose.0).await.expect("it answers"), "blocks that nobody pinned are collected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs real IPFS: tests/peers/run"]
async fn what_came_over_bitswap_outlives_a_garbage_collection_once_it_was_seeded() {
    let (store, scratch) = (rpc(), Scratch::new());
    let blocks = format!("ipfs://{}", peer("IPFS_RPC"));
    fs::write(scratch.at("content"), [now().to_le_bytes().to_vec(), noise(20_000)].concat()).unwrap();
    let urn = scratch.run(["put", "--block-size", "32k", "--blocks", &blocks, "content"]).text();
    let urn = urn.trim_end();
    // One block is all of it. It comes back from Kubo.
    let reference = urn.parse::<ReadCapability>().expect("a URN").reference;
    run(&mut kit("ipfs.sh", &["kubo", "get", &cid(&reference), text(&scratch.at("kubo"))])).text();
    ask(&format!("pin/rm?arg={}", cid(&reference)));
    ask(&format!("block/rm?arg={}", cid(&reference)));
    scratch.run(["get", "--blocks", &blocks, urn]).bytes();
    assert!(store.has(&reference).await.expect("it answers"), "it was fetched");
    assert!(!store.keeps(&reference).await.expect("it answers"), "but not pinned");

    scratch.run(["seed", "--from", &blocks, "--to", &blocks, urn]).text();
    ask("repo/gc");
    assert!(store.keeps(&reference).await.expect("it answers"));
    assert_eq!(store.get(&reference).await.expect("it was pinned").len(), BlockSize::Large.bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs real IPFS: tests/peers/run"]
async fn the_gateway_of_js_ipfs_gives_every_block_though_others_lie_or_are_dead() {
    let (store, memory) = (rpc(), Arc::new(Memory::new()));
    let blocks: Vec<_> = (0..50).map(|_| new_block(BlockSize::Large)).collect();
    for (reference, block) in &blocks {
        memory.put(reference, block.clone()).await.expect("memory takes blocks");
    }
    store.put_many(blocks.clone()).await.expect("it takes blocks");
    let liar = Node::lying(memory).await;
    let dead = Node::start(Arc::new(Memory::new()), None).await.address;
    let urls = [format!("ipfs+http://{}", liar.address), format!("ipfs+http://{dead}"), gateway()];
    let race = block::open_race(&urls, &Access::default()).expect("good URLs");
    let begun = Instant::now();
    let mut answers = race.get_many(blocks.iter().map(|(reference, _)| *reference).collect());
    while let Some((reference, answer)) = answers.next().await {
        answer.unwrap_or_else(|error| panic!("{reference}: {error}"));
    }
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
}

/// A command as a host of `ipfs.sh` runs it.
fn on(host: &str, command: &Command) -> Command {
    let mut there = kit("ipfs.sh", &["on", host]);
    there.arg(command.get_program()).args(command.get_args());
    for (variable, value) in command.get_envs() {
        match value {
            Some(value) => there.env(variable, value),
            None => there.env_remove(variable),
        };
    }
    there
}

/// A person at one of the hosts, who knows no block store but the node there.
struct Person {
    host: &'static str,
    scratch: Scratch,
    blocks: String,
}

impl Person {
    fn at(host: &'static str) -> Self {
        Person { host, scratch: Scratch::new(), blocks: format!("ipfs://{}", peer("IPFS_HOST_RPC")) }
    }

    #[track_caller]
    fn publish(&self, trees: &[&Path]) -> Finished {
        let mut arguments = vec!["publish", "--blocks", &self.blocks];
        arguments.extend(trees.iter().map(|tree| text(tree)));
        run(&mut on(self.host, &self.scratch.erisfs(arguments)))
    }

    #[track_caller]
    fn mount(&self, catalog: &str) -> Running {
        let at = self.scratch.folder("mnt");
        let arguments = ["mount", "--foreground", "--blocks", &self.blocks, "--catalog", catalog, text(&at)];
        let mut mount = Running::start(&mut on(self.host, &self.scratch.erisfs(arguments)));
        mount.line("mounted at ");
        mount
    }
}

/// A tree of 2 MB that there never was before.
fn new_tree(at: &Path) {
    fs::create_dir_all(at.join("folder")).unwrap();
    for number in 0..20 {
        let content = [now().to_le_bytes().to_vec(), noise(100_000 + number)].concat();
        fs::write(at.join(format!("folder/{number}")), content).unwrap();
    }
    std::os::unix::fs::symlink("folder/1", at.join("link")).unwrap();
}

#[test]
#[ignore = "needs real IPFS: tests/peers/run"]
fn what_one_reader_has_read_others_read_from_ipfs_when_the_publisher_is_gone() {
    let [publisher, reader, late] = ["publisher", "reader", "late"].map(Person::at);
    let (read, unread) = (publisher.scratch.folder("read"), publisher.scratch.folder("unread"));
    new_tree(&read);
    new_tree(&unread);
    let printed = publisher.publish(&[&read, &unread]).text();
    let catalog = printed.lines().last().expect("its URN");
    let path_of = |tree: &str| printed.lines().find(|line| line.ends_with(&format!("-{tree}")));
    let name = |tree: &str| path_of(tree).expect("a store path").rsplit('/').next().unwrap().to_owned();

    let _mount = reader.mount(catalog);
    is_the_same(&read, &reader.scratch.at("mnt").join(name("read")));
    run(&mut kit("ipfs.sh", &["cut-off", "publisher"])).text();

    let _mount = late.mount(catalog);
    is_the_same(&read, &late.scratch.at("mnt").join(name("read")));

    // What nobody has read is gone, and that is an answer.
    let begun = Instant::now();
    let other = late.scratch.at("mnt").join(name("unread")).join("folder/7");
    fs::read(other).expect_err("only the publisher had it");
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
}
