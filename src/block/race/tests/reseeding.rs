//! Blocks that a preferred source lacked are given to it, when nobody reads.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::block::Refusal;

/// A rate that is not felt.
const FAST: u64 = 1 << 40;

async fn rig() -> (Arc<Far>, Arc<Far>, Race) {
    let [home, away] = ["home:", "away:"].map(|name| Arc::new(Far::new(name, 10 * MS)));
    fill(&*away, 0..1000).await;
    let race = Race::new(vec![home.clone(), away.clone()]).with_reseed(vec![home.clone()], Some(FAST));
    (home, away, race)
}

#[tokio::test(start_paused = true)]
async fn what_a_preferred_source_lacked_is_there_the_next_time() {
    let (home, away, race) = rig().await;
    get_all(&race, 0..100).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(home.asked() + away.asked(), 100 + 100);
    get_all(&race, 0..100).await;
    assert_eq!((home.asked(), away.asked()), (100, 0));
    assert_eq!(race.came_from(&block(3).0).as_deref(), Some("home:"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_back_while_somebody_reads() {
    let (home, away, race) = rig().await;
    away.straggles(100, 900 * MS);
    let mut answers = race.get_many(references(0..100));
    for _ in 0..99 {
        answers.next().await.expect("a hundred").1.expect("it is there");
    }
    tokio::time::sleep(100 * MS).await;
    let has = async || home.memory_has(&block(0).0).await || home.memory_has(&block(50).0).await;
    assert!(!has().await);
    drop(answers);
    tokio::time::sleep(100 * MS).await;
    assert!(has().await);
}

#[tokio::test(start_paused = true)]
async fn what_a_source_has_is_not_written_to_it_again() {
    let (home, away, race) = rig().await;
    fill(&*home, 0..100).await;
    home.is(Mood::Refusing);
    get_all(&race, 0..100).await;
    home.is(Mood::Well);
    home.asked();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(away.asked() >= 100);
    assert!(home.asked() >= 1, "it is asked whether it has them");
    assert_eq!(home.puts(), 100, "those of the beginning");
}

#[tokio::test(start_paused = true)]
async fn a_source_behind_the_giver_is_left_as_it_is() {
    let ([_first, second], _) = far::<2>().await;
    let home = Arc::new(Far::new("home:", 10 * MS));
    let race = Race::new(vec![second, home.clone()]).with_reseed(vec![home.clone()], Some(FAST));
    get_all(&race, 0..100).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(home.puts() + home.asked(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_drops_blocks_and_holds_up_nobody() {
    let (home, _away, race) = rig().await;
    let mut answers = race.get_many(references(0..1000));
    let mut came = 0;
    while let Some((_, answer)) = answers.next().await {
        came += usize::from(answer.is_ok());
    }
    drop(answers);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(came, 1000);
    assert!((200..=300).contains(&home.puts()), "{}", home.puts());
}

#[tokio::test(start_paused = true)]
async fn no_more_is_written_back_than_the_rate_allows() {
    let [home, away] = ["home:", "away:"].map(|name| Arc::new(Far::new(name, 10 * MS)));
    fill(&*away, 0..100).await;
    let race = Race::new(vec![home.clone(), away.clone()]).with_reseed(vec![home.clone()], Some(10 * 1024));
    get_all(&race, 0..100).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Ten a second, and a quarter of a second ahead.
    assert!((48..=54).contains(&home.puts()), "{}", home.puts());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(home.puts(), 100);
}

#[tokio::test(start_paused = true)]
async fn across_a_network_the_rate_is_bounded_although_nobody_said_so() {
    let [home, away] = ["home:", "away:"].map(|name| Arc::new(Far::new(name, 10 * MS)));
    let large = |number: u8| {
        let block = Block::from(vec![number; 32 * 1024]);
        (reference_of(&block), block)
    };
    for (reference, block) in (0..200).map(large) {
        away.put(&reference, block).await.unwrap();
    }
    let race = Race::new(vec![home.clone(), away]).with_reseed(vec![home.clone()], None);
    let answers: Vec<_> = race.get_many((0..200).map(|number| large(number).0).collect()).collect().await;
    assert!(answers.iter().all(|(_, answer)| answer.is_ok()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!((60..=80).contains(&home.puts()), "{}", home.puts());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_no_source_is_given_what_it_lacks() {
    let ([first, _], _) = far::<2>().await;
    let home = Arc::new(Far::new("home:", 10 * MS));
    fill(&*home, 0..10).await;
    let before = home.puts();
    let race = Race::new(vec![first]).with_reseed(vec![home.clone()], Some(FAST));
    get_all(&race, 0..50).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(home.puts() - before, 40, "what it had is not put again");
    assert!(home.memory_has(&block(49).0).await);
}

#[tokio::test(start_paused = true)]
async fn a_reader_who_comes_while_the_rate_is_waited_for_goes_first() {
    let [home, away] = ["home:", "away:"].map(|name| Arc::new(Far::new(name, 10 * MS)));
    fill(&*away, 0..100).await;
    away.straggles(100, 3 * Duration::from_secs(1));
    // A block every other second.
    let race = Race::new(vec![home.clone(), away.clone()]).with_reseed(vec![home.clone()], Some(512));
    get_all(&race, 0..10).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = home.puts();
    let mut answers = race.get_many(references(10..100));
    answers.next().await.expect("ninety").1.expect("it is there");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(home.puts(), before, "a read is under way");
}

/// A store that refuses its first put.
#[derive(Debug)]
struct Shy {
    memory: Memory,
    asked: AtomicUsize,
    reason: Refusal,
}

#[async_trait]
impl BlockStore for Shy {
    fn name(&self) -> &str {
        "shy:"
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        self.memory.get(reference).await
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        self.memory.has(reference).await
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        if self.asked.fetch_add(1, SeqCst) == 0 {
            return Err(Error::Refused { store: "shy:".into(), reason: self.reason.clone() });
        }
        self.memory.put(reference, block).await
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        1
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_once_is_given_blocks_again_unless_it_takes_none_at_all() {
    for (reason, taken) in [(Refusal::Denied("401".into()), 50), (Refusal::ReadOnly, 0)] {
        let ([first, _], _) = far::<2>().await;
        let home = Arc::new(Shy { memory: Memory::new(), asked: AtomicUsize::new(0), reason });
        let race = Race::new(vec![first]).with_reseed(vec![home.clone()], Some(FAST));
        get_all(&race, 0..10).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        get_all(&race, 10..60).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        let mut there = 0;
        for number in 10..60 {
            there += usize::from(home.has(&block(number).0).await.unwrap());
        }
        assert_eq!(there, taken);
    }
}
