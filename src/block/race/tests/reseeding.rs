//! Blocks that a preferred source lacked are given to it, when nobody reads.

use super::*;

async fn rig() -> (Arc<Far>, Arc<Far>, Race) {
    let [home, away] = ["home:", "away:"].map(|name| Arc::new(Far::new(name, 10 * MS)));
    fill(&*away, 0..1000).await;
    let race = Race::new(vec![home.clone(), away.clone()]).with_reseed(vec![home.clone()]);
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
    let race = Race::new(vec![second, home.clone()]).with_reseed(vec![home.clone()]);
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
