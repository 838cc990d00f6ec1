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
    let Err(Error::Unavailable { retry_after: Some(pause), .. }) = exec.get(&reference).await else {
        panic!("it is too early")
    };
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
        ("/no/such/program", "it ended"),
        ("echo erisfs-carrier 1 get; read line; echo nonsense; sleep 100", "it ended"),
        ("echo erisfs-carrier 1 get; read n rest; echo $n block 99999; sleep 100", "it ended"),
        ("echo erisfs-carrier 1 get; read n rest; echo $n error no peers; sleep 100", "no peers"),
        ("echo erisfs-carrier 1 get; read n rest; echo $n stored; sleep 100", "Stored"),
    ] {
        let error = plug_in(script).get(&reference).await.expect_err(script);
        assert!(error.to_string().contains(words), "{script}: {error}");
    }
}

#[tokio::test]
async fn its_arguments_are_not_shown() {
    let exec = plug_in("carrier --token hush");
    assert_eq!(exec.name(), "exec:carrier");
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
async fn one_that_is_silent_costs_a_bounded_wait_and_is_stopped_in_the_end() {
    // The paused clock runs ahead whenever everybody waits, as for the hello of a real process: that is not waited for here.
    let exec = plug_in("sleep 1000");
    let (reference, _) = block();
    let begun = Instant::now();
    let error = exec.get(&reference).await.expect_err("no hello");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(begun.elapsed() < PATIENCE);
}
