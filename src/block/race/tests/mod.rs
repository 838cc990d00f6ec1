//! The promises of a race, over stores that live in memory and in paused time.

mod failover;
mod far;
mod hedges;
mod order;
mod rates;
mod reseeding;
mod rounds;

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::time::Instant;

use super::*;
use crate::block::{Fault, Faulty, Memory, Verify};
use crate::eris::reference_of;
use far::{Far, Mood};

const MS: Duration = Duration::from_millis(1);

/// The small block with this number.
fn block(number: u32) -> (Reference, Block) {
    let mut bytes = vec![0; 1024];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    let block = Block::from(bytes);
    (reference_of(&block), block)
}

fn references(numbers: std::ops::Range<u32>) -> Vec<Reference> {
    numbers.map(|number| block(number).0).collect()
}

async fn fill(store: &dyn BlockStore, numbers: std::ops::Range<u32>) {
    for (reference, block) in numbers.map(block) {
        store.put(&reference, block).await.expect("memory takes blocks");
    }
}

/// Stores across a network with 10 ms of latency that have the blocks 0 to 999, and a race over them.
async fn far<const N: usize>() -> ([Arc<Far>; N], Race) {
    let stores = std::array::from_fn(|place| Arc::new(Far::new(&format!("far:{place}"), 10 * MS)));
    for store in &stores {
        fill(&**store, 0..1000).await;
    }
    let race = Race::new(stores.iter().map(|store| store.clone() as Arc<dyn BlockStore>).collect());
    (stores, race)
}

/// A checked store here that has these blocks, and the handle on its faults.
async fn near(numbers: std::ops::Range<u32>) -> (Arc<dyn BlockStore>, Arc<Fault>) {
    let memory = Memory::new();
    fill(&memory, numbers).await;
    let fault = Arc::new(Fault::new(Arc::new(memory)));
    (Arc::new(Verify::new(fault.clone())), fault)
}

/// Gets these blocks in one batch; how long that took.
async fn get_all(race: &Race, numbers: std::ops::Range<u32>) -> Duration {
    let begun = Instant::now();
    let count = numbers.len();
    let answers: Vec<_> = race.get_many(references(numbers)).collect().await;
    assert_eq!(answers.len(), count);
    for (reference, answer) in answers {
        assert_eq!(reference_of(&answer.expect("a source has it")), reference);
    }
    begun.elapsed()
}

/// Gets a block; how long that took.
async fn get(race: &Race, number: u32) -> Duration {
    let begun = Instant::now();
    assert_eq!(race.get(&block(number).0).await.expect("a source has it"), block(number).1);
    begun.elapsed()
}

/// Gets a block that cannot be had; how long that took, and the error.
async fn fail(race: &Race, number: u32) -> (Duration, Error) {
    let begun = Instant::now();
    let error = race.get(&block(number).0).await.expect_err("nobody can give it");
    (begun.elapsed(), error)
}
