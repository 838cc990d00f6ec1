//! Who is asked, in which order, and what is said in the end.

use std::collections::HashMap;

use super::*;

#[tokio::test]
async fn what_one_source_lacks_or_spoils_comes_from_the_next() {
    let ((first, fault), (second, _)) = (near(1..4).await, near(2..5).await);
    fault.set(block(2).0, Faulty::Corrupt);
    fault.set(block(3).0, Faulty::Unavailable);
    let race = Race::new(vec![first, second]);
    for number in 1..5 {
        get(&race, number).await;
    }
    let answers: HashMap<_, _> = race.get_many(references(1..6)).collect().await;
    assert!(references(1..5).iter().all(|reference| answers[reference].is_ok()));
    assert!(matches!(answers[&block(5).0], Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn not_found_is_said_only_when_all_say_so() {
    let ((first, fault), (second, _)) = (near(1..2).await, near(0..0).await);
    fault.set_all(Faulty::Corrupt);
    let race = Race::new(vec![second.clone(), first, second]);
    let (_, alone) = fail(&race, 1).await;
    let in_batch = race.get_many(references(1..2)).next().await.expect("one answer").1.expect_err("the same");
    for error in [alone, in_batch] {
        assert!(matches!(error.most_telling(), Error::Corrupt { .. }), "{error}");
        assert_eq!(error.to_string().matches("memory:").count(), 3, "each source is named: {error}");
    }
    fault.set_all(Faulty::Missing);
    let (_, absent) = fail(&race, 1).await;
    assert!(matches!(absent, Error::NotFound { .. }), "{absent}");
    assert!(matches!(Race::new(Vec::new()).get(&block(1).0).await, Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_batch_does_not_wait_for_a_slow_block_before_asking_the_next_source_for_others() {
    let ((first, fault), (second, _)) = (near(1..2).await, near(2..3).await);
    fault.set(block(1).0, Faulty::Slow(Duration::from_millis(900)));
    let race = Race::new(vec![first, second]);
    let mut answers = race.get_many(references(1..3));
    let begun = Instant::now();
    assert_eq!(answers.next().await.expect("two answers").0, block(2).0);
    assert!(begun.elapsed() < 100 * MS);
    assert_eq!(answers.next().await.expect("two answers").0, block(1).0);
    assert!(answers.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_block_asked_for_twice_is_fetched_once_and_answered_twice() {
    let ([first], race) = far().await;
    let answers: Vec<_> = race.get_many([references(0..5), references(0..5)].concat()).collect().await;
    assert_eq!(answers.iter().filter(|(_, answer)| answer.is_ok()).count(), 10);
    assert_eq!(first.asked(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_best_source_alone_is_asked_while_it_is_well() {
    let ([first, second], race) = far().await;
    get_all(&race, 0..100).await;
    get(&race, 0).await;
    assert_eq!((first.asked(), second.asked()), (101, 0));
    assert_eq!(race.came_from(&block(7).0).as_deref(), Some("far:0"));
    assert_eq!(race.came_from(&block(700).0), None);
    let [status, _] = race.sources().try_into().expect("two sources");
    assert_eq!((status.asked, status.answered, status.bytes), (101, 101, 101 * 1024));
    assert_eq!((status.in_flight, status.failed, status.state), (0, 0, SourceState::Up));
    assert_eq!(status.p95, Some(10 * MS));
}

#[tokio::test(start_paused = true)]
async fn a_source_is_not_asked_again_for_what_it_lacked_a_moment_ago() {
    let ([first, second], race) = far().await;
    fill(&*second, 1000..1020).await;
    assert_eq!(get_all(&race, 1000..1020).await, 20 * MS);
    assert_eq!((first.asked(), second.asked()), (20, 20));
    assert_eq!(get_all(&race, 1000..1020).await, 10 * MS);
    assert_eq!((first.asked(), second.asked()), (0, 20));
    tokio::time::sleep(Duration::from_secs(61)).await;
    get_all(&race, 1000..1020).await;
    assert_eq!(first.asked(), 20, "it may have got them in the meantime");
}

#[tokio::test(start_paused = true)]
async fn what_a_source_lacked_is_asked_of_it_again_before_not_found_is_said() {
    let ([first, _second], race) = far().await;
    let (_, error) = fail(&race, 1000).await;
    assert!(matches!(error, Error::NotFound { .. }));
    fill(&*first, 1000..1001).await;
    get(&race, 1000).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_without_the_content_is_asked_for_a_sample_only_until_it_has_it() {
    let ([first, second], race) = far().await;
    fill(&*second, 1000..3000).await;
    get_all(&race, 1000..1100).await;
    first.asked();
    get_all(&race, 1100..1740).await;
    let sampled = first.asked();
    assert!((10..=30).contains(&sampled), "{sampled} of 640");
    fill(&*first, 1740..3000).await;
    get_all(&race, 1740..1800).await;
    first.asked();
    get_all(&race, 2000..2100).await;
    assert_eq!(first.asked(), 100, "one hit shows that it has it");
    let (_, error) = fail(&race, 5000).await;
    assert!(matches!(error, Error::NotFound { .. }) && first.asked() == 1, "never said without asking");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_block_is_never_delivered() {
    let ((first, fault), (second, _)) = (near(0..100).await, near(0..50).await);
    let race = Race::new(vec![first, second]);
    for lie in [Faulty::Corrupt, Faulty::Truncated, Faulty::TooLong] {
        fault.set_all(lie);
        let answers: Vec<_> = race.get_many(references(0..100)).collect().await;
        for (reference, answer) in answers {
            match answer {
                Ok(block) => assert_eq!(reference_of(&block), reference),
                Err(error) => assert!(matches!(error.most_telling(), Error::Corrupt { .. }), "{error}"),
            }
        }
        get_all(&race, 0..50).await;
    }
    assert_eq!(race.sources()[0].state, SourceState::CoolingDown);
}

#[tokio::test(start_paused = true)]
async fn cancelled_requests_leave_nothing_behind() {
    let ([first, second], race) = far().await;
    assert!(tokio::time::timeout(5 * MS, get(&race, 1)).await.is_err());
    let mut many = race.get_many(references(0..500));
    many.next().await.expect("the first of many").1.expect("it is there");
    assert!(first.in_flight() > 0 && race.sources()[0].in_flight > 0);
    drop(many);
    first.is(Mood::Silent);
    assert!(tokio::time::timeout(1005 * MS, get_all(&race, 0..10)).await.is_err());
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (store, status) in [first, second].iter().zip(race.sources()) {
        assert_eq!((store.in_flight(), status.in_flight), (0, 0));
    }
    let limit = race.sources()[1].limit;
    get_all(&race, 0..500).await;
    assert!(race.sources()[1].limit >= limit, "no permit is lost");
}

#[tokio::test(start_paused = true)]
async fn what_a_database_or_directory_is_asked_for_goes_there_in_one_request() {
    #[derive(Debug)]
    struct Batches(Memory, std::sync::atomic::AtomicUsize);

    #[async_trait]
    impl BlockStore for Batches {
        fn name(&self) -> &str {
            "batches:"
        }

        async fn get(&self, _: &Reference) -> Result<Block, Error> {
            panic!("one by one")
        }

        fn get_many<'a>(&'a self, references: Vec<Reference>) -> BoxStream<'a, Answer> {
            self.1.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            // As a careless carrier may: what it lacks, it does not mention.
            self.0.get_many(references).filter(|(_, answer)| std::future::ready(answer.is_ok())).boxed()
        }

        async fn has(&self, reference: &Reference) -> Result<bool, Error> {
            self.0.has(reference).await
        }

        async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
            self.0.put(reference, block).await
        }

        async fn sync(&self) -> Result<(), Error> {
            Ok(())
        }

        fn concurrency(&self) -> usize {
            8
        }
    }

    let [first, second] = [(); 2].map(|()| Arc::new(Batches(Memory::new(), Default::default())));
    fill(&*first, 0..500).await;
    fill(&*second, 500..1000).await;
    let race = Race::new(vec![first.clone(), second.clone()]);
    get_all(&race, 0..1000).await;
    let batches = |store: &Batches| store.1.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!((batches(&first), batches(&second)), (1, 1));
}
