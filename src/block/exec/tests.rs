//! Plug-ins that do as they should, and plug-ins that do not.

use super::*;
use crate::eris::reference_of;

fn block() -> (Reference, Block) {
    let block = Block::from(vec![5; 1024]);
    (reference_of(&block), block)
}

/// A plug-in that is one line of shell.
fn plug_in(script: &str) -> Exec {
    Exec::new(script)
}

#[tokio::test]
async fn a_plug_in_that_cannot_put_or_has_no_has_is_used_for_what_it_can() {
    let exec =
        plug_in("echo erisfs-carrier 1 get; while read n verb ref; do printf '%s block 3\\nabc' $n; done");
    let (reference, block) = block();
    assert_eq!(exec.get(&reference).await.expect("three bytes"), "abc");
    assert!(exec.has(&reference).await.expect("it was asked to get it"));
    let refused = exec.put(&reference, block).await.expect_err("it said nothing of put");
    assert!(matches!(refused, Error::Refused { reason: Refusal::ReadOnly, .. }), "{refused}");
}

#[tokio::test]
async fn one_that_dies_fails_what_is_under_way_and_is_started_again_after_a_pause() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let starts = folder.path().join("starts");
    let script = format!("echo >>{}; echo erisfs-carrier 1 get; read request; exit 3", starts.display());
    let exec = plug_in(&script);
    let (reference, _) = block();
    let started = || std::fs::read(&starts).map_or(0, |lines| lines.len());
    let error = exec.get(&reference).await.expect_err("it ends");
    assert!(error.to_string().contains("it ended"), "{error}");
    let Err(early @ Error::Unavailable { retry_after: Some(pause), .. }) = exec.get(&reference).await else {
        panic!("it is too early")
    };
    assert!(early.to_string().contains("it ended"), "the reason is told again: {early}");
    assert_eq!(started(), 1);
    tokio::time::sleep(pause).await;
    exec.get(&reference).await.expect_err("it ends again");
    assert_eq!(started(), 2);
}

#[tokio::test]
async fn one_that_says_anything_else_is_refused_with_its_words() {
    let (reference, _) = block();
    for (script, words) in [
        ("echo hello", "hello"),
        ("exit 1", "it ended"),
        ("/no/such/program", "/no/such/program: not found"),
        ("head -c 100000 /dev/zero", "a line of more than"),
        ("echo erisfs-carrier 1 get; read line; echo nonsense; sleep 100", "nonsense"),
        ("echo erisfs-carrier 1 get; read line; cat /dev/zero", "a line of more than"),
        ("echo erisfs-carrier 1 get; read line; yes 1 absent", "request 1, which was not asked"),
        ("echo erisfs-carrier 1 get; echo 5 absent; sleep 100", "request 5, which was not asked"),
        ("echo erisfs-carrier 1 get; read n rest; echo $n block 99999; sleep 100", "block 99999"),
        ("echo erisfs-carrier 1 get; read n rest; echo $n block 18446744073709551616", "block 1844674"),
        ("echo erisfs-carrier 1 get; read n rest; echo $n block 1024; echo half; kill -9 $$", "it ended"),
        ("echo erisfs-carrier 1 get; read n rest; echo $n error no peers; sleep 100", "no peers"),
        ("echo erisfs-carrier 1 get; read n rest; echo $n stored; sleep 100", "Stored"),
        ("exec 0<&-; echo erisfs-carrier 1 get; sleep 100", "it takes no requests any more"),
    ] {
        let error = plug_in(script).get(&reference).await.expect_err(script);
        assert!(error.to_string().contains(words), "{script}: {error}");
    }
}

#[tokio::test]
async fn a_flood_on_its_stderr_holds_nobody_up() {
    // More than a pipe holds, before the hello and before the answer.
    let flood = "head -c 3000000 /dev/zero | tr '\\0' x >&2";
    let exec =
        plug_in(&format!("{flood}; echo erisfs-carrier 1 get; read n rest; {flood}; echo $n absent; cat"));
    let (reference, _) = block();
    assert!(matches!(exec.get(&reference).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn it_gets_no_more_at_a_time_than_it_asked_for_even_if_nobody_waits_for_an_answer() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (seen, go) = (folder.path().join("seen"), folder.path().join("go"));
    // It notes what it is asked, and answers once it may.
    let exec = plug_in(&format!(
        "echo erisfs-carrier 1 get concurrency=1; \
         while read n rest; do echo $n >>{}; until [ -e {} ]; do sleep 0.02; done; echo $n absent; done",
        seen.display(),
        go.display()
    ));
    let (reference, _) = block();
    let asked = || std::fs::read_to_string(&seen).map_or(0, |lines| lines.lines().count());
    {
        let left = exec.get(&reference);
        tokio::pin!(left);
        while asked() == 0 {
            let _ = tokio::time::timeout(Duration::from_millis(20), &mut left).await;
        }
    }
    let next = exec.get(&reference);
    tokio::pin!(next);
    tokio::time::timeout(Duration::from_millis(300), &mut next).await.expect_err("it is busy still");
    assert_eq!(asked(), 1);
    std::fs::write(&go, "").expect("a writable folder");
    assert!(matches!(next.await, Err(Error::NotFound { .. })));
    assert_eq!(asked(), 2);
}

#[tokio::test]
async fn a_put_waits_for_its_turn_as_long_as_it_takes_and_a_get_no_longer_than_a_read() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let go = folder.path().join("go");
    let exec = Arc::new(plug_in(&format!(
        "echo erisfs-carrier 1 get put concurrency=1; \
         while read n verb ref length; do head -c $length >/dev/null; \
         until [ -e {} ]; do sleep 0.02; done; echo $n stored; done",
        go.display()
    )));
    let (reference, block) = block();
    exec.process(&reference).expect("it starts").abilities().await.expect("a hello");
    assert_eq!(exec.concurrency(), 1);
    tokio::time::pause();
    let put = || {
        let (exec, block) = (exec.clone(), block.clone());
        tokio::spawn(async move { exec.put(&reference, block).await })
    };
    let (first, second) = (put(), put());
    tokio::task::yield_now().await;
    let begun = Instant::now();
    let read = exec.get(&reference).await.expect_err("the plug-in is busy");
    assert!(matches!(read, Error::TimedOut { .. }), "{read}");
    assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    let first = first.await.expect("no panic").expect_err("it was not answered in time");
    assert!(matches!(first, Error::TimedOut { after: PATIENCE, .. }), "{first}");
    tokio::time::resume();
    std::fs::write(&go, "").expect("a writable folder");
    second.await.expect("no panic").expect("its turn came");
}

#[tokio::test]
async fn many_at_once_get_each_their_own_answer_in_any_order() {
    // Pairs, the second before the first.
    let exec = plug_in(
        "echo erisfs-carrier 1 get has concurrency=64; \
         while read a verb x && read b verb y; do printf '%s block 52\\n%s%s block 52\\n%s' $b $y $a $x; done",
    );
    let references: Vec<_> = (0..40u8).map(|seed| reference_of(&[seed])).collect();
    let answers: Vec<_> = futures::StreamExt::collect(exec.get_many(references)).await;
    assert_eq!(answers.len(), 40);
    for (reference, answer) in answers {
        assert_eq!(answer.expect("an answer"), reference.to_string());
    }
}

#[tokio::test]
async fn whoever_leaves_during_the_start_does_not_stop_it() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let starts = folder.path().join("starts");
    let exec = plug_in(&format!(
        "echo >>{}; sleep 0.3; echo erisfs-carrier 1 get; while read n rest; do echo $n absent; done",
        starts.display()
    ));
    let (reference, _) = block();
    tokio::time::timeout(Duration::from_millis(50), exec.get(&reference))
        .await
        .expect_err("it starts slowly");
    assert!(matches!(exec.get(&reference).await, Err(Error::NotFound { .. })));
    assert_eq!(std::fs::read(&starts).expect("it was started").len(), 1);
}

#[test]
fn one_that_was_well_for_long_is_started_again_at_once_and_others_ever_later() {
    let now = Instant::now();
    let mut life = Life { process: None, started: now, end: None, starts_at: now, pause: FIRST_PAUSE };
    let pauses: Vec<_> = std::iter::repeat_with(|| {
        life.put_off(now);
        (life.starts_at - now).as_secs_f32()
    })
    .take(9)
    .collect();
    assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]);
    let later = now + WELL + Duration::from_secs(1);
    life.pass_over(later, true);
    assert_eq!((life.starts_at, life.pause), (later, FIRST_PAUSE));
}

#[tokio::test]
async fn its_arguments_are_not_shown() {
    for (command, name) in [
        ("carrier --token hush", "exec:carrier"),
        (" ~/bin/my-carrier_2.py\thush", "exec:~/bin/my-carrier_2.py"),
        ("TOKEN=hush carrier", "exec:…"),
        ("TOKEN='hush hush' carrier", "exec:…"),
        ("'my carrier' hush", "exec:…"),
        ("$(hush) carrier", "exec:…"),
        ("carrier;hush", "exec:…"),
    ] {
        let exec = plug_in(command);
        assert_eq!(exec.name(), name);
        assert!(!format!("{exec:?}").contains("hush"), "{exec:?}");
    }
}

#[tokio::test]
async fn it_ends_with_the_store_and_all_that_it_started_too() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let pid = folder.path().join("pid");
    let script = format!(
        "sleep 1000 & echo $! >{}; echo erisfs-carrier 1 get; while read n rest; do echo $n absent; done",
        pid.display()
    );
    let exec = plug_in(&script);
    let (reference, _) = block();
    assert!(matches!(exec.get(&reference).await, Err(Error::NotFound { .. })));
    let child = std::fs::read_to_string(&pid).expect("it was started");
    let alive = || {
        std::fs::read_to_string(format!("/proc/{}/stat", child.trim()))
            .is_ok_and(|stat| !stat.contains(") Z "))
    };
    assert!(alive());
    drop(exec);
    for _ in 0..500 {
        if !alive() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it lives on");
}

#[tokio::test(start_paused = true)]
async fn one_that_says_no_hello_costs_a_bounded_wait() {
    // The paused clock runs ahead whenever everybody waits, as for the hello of a real process: that is not waited for here.
    let exec = plug_in("sleep 1000");
    let (reference, _) = block();
    let begun = Instant::now();
    let error = exec.get(&reference).await.expect_err("no hello");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn one_that_answers_nothing_costs_a_bounded_wait_each_time_and_is_stopped_in_the_end() {
    let exec = plug_in("echo erisfs-carrier 1 get; sleep 1000");
    let (reference, _) = block();
    let process = exec.process(&reference).expect("it starts");
    process.abilities().await.expect("a hello");
    tokio::time::pause();
    let mut waits = Vec::new();
    while process.over().is_none() {
        let begun = Instant::now();
        let error = exec.get(&reference).await.expect_err("no answer");
        waits.push((begun.elapsed().as_secs(), error.to_string()));
    }
    assert!(waits.iter().all(|(seconds, _)| *seconds <= PATIENCE.as_secs()), "{waits:?}");
    assert!((3..=4).contains(&waits.len()), "{waits:?}");
    let error = exec.get(&reference).await.expect_err("it is too early");
    assert!(error.to_string().contains("unanswered for 60s"), "{error}");
}
