//! What erisfs and a plug-in say to each other: a line, and after some lines so many bytes.
//!
//! `docs/carriers/exec.md` is the protocol. It is made so that a shell script can speak it: words that are separated by one space,
//! lengths in decimal digits in front of what is binary.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use crate::block::Block;
use crate::eris::{BlockSize, Reference};

/// What a plug-in says first.
const HELLO: &str = "erisfs-carrier 1";
/// Longest line, the end of it included.
const MAX_LINE: u64 = 4096;
/// Requests that a plug-in gets at a time if it does not say how many.
const USUAL_CONCURRENCY: usize = 16;
/// Requests that any plug-in gets at a time.
const MAX_CONCURRENCY: usize = 256;

/// What a plug-in can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    pub(super) put: bool,
    pub(super) has: bool,
    /// Requests that it likes to have at a time.
    pub(super) concurrency: usize,
}

/// What is asked of a plug-in.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Get(Reference),
    Has(Reference),
    Put(Reference, Block),
}

/// What a plug-in answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Block(Block),
    Absent,
    Present,
    Stored,
    /// It could not; its words.
    Error(String),
}

/// What a plug-in said that is not of the protocol, or that it said no more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Breach {
    #[error("it ended")]
    Ended,
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("it said {0:?}, which is not of the protocol")]
    Line(String),
    #[error("it said a line of more than {MAX_LINE} bytes")]
    TooLong,
}

impl Request {
    /// The bytes that ask it, under a number by which the answer will name it.
    pub(super) fn to_bytes(&self, number: u64) -> Vec<u8> {
        match self {
            Request::Get(reference) => format!("{number} get {reference}\n").into(),
            Request::Has(reference) => format!("{number} has {reference}\n").into(),
            Request::Put(reference, block) => {
                let line = format!("{number} put {reference} {}\n", block.len());
                [line.as_bytes(), block].concat()
            }
        }
    }
}

/// Reads the first line of a plug-in: `erisfs-carrier 1 get [put] [has] [concurrency=N]`. Words that are not known are left alone.
pub(super) async fn read_hello(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Abilities, Breach> {
    let line = read_line(from).await?;
    let breach = || Breach::Line(shortened(&line));
    let words = line.strip_prefix(HELLO).filter(|words| words.is_empty() || words.starts_with(' '));
    let words = words.ok_or_else(breach)?;
    let mut abilities = Abilities { put: false, has: false, concurrency: USUAL_CONCURRENCY };
    let mut gets = false;
    for word in words.split_ascii_whitespace() {
        match word.split_once('=') {
            None if word == "get" => gets = true,
            None if word == "put" => abilities.put = true,
            None if word == "has" => abilities.has = true,
            Some(("concurrency", number)) => {
                let number: usize = number.parse().map_err(|_| breach())?;
                abilities.concurrency = number.clamp(1, MAX_CONCURRENCY);
            }
            _ => {}
        }
    }
    if gets { Ok(abilities) } else { Err(breach()) }
}

/// Reads an answer, and the number of the request that it answers.
pub(super) async fn read_answer(from: &mut (impl AsyncBufRead + Unpin)) -> Result<(u64, Answer), Breach> {
    let line = read_line(from).await?;
    let breach = || Breach::Line(shortened(&line));
    let (number, rest) = line.split_once(' ').ok_or_else(breach)?;
    let number = number.parse().map_err(|_| breach())?;
    let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let answer = match (word, rest) {
        ("block", length) => {
            let length = length.parse().ok().filter(|&length: &usize| length <= BlockSize::MAX);
            let mut block = vec![0; length.ok_or_else(breach)?];
            from.read_exact(&mut block).await.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Breach::Ended,
                _ => Breach::Io(error),
            })?;
            Answer::Block(block.into())
        }
        ("absent", "") => Answer::Absent,
        ("present", "") => Answer::Present,
        ("stored", "") => Answer::Stored,
        ("error", words) => Answer::Error(shortened(words)),
        _ => return Err(breach()),
    };
    Ok((number, answer))
}

async fn read_line(from: &mut (impl AsyncBufRead + Unpin)) -> Result<String, Breach> {
    let mut line = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Err(Breach::Ended),
        Some(b'\n') => {
            let text = String::from_utf8(line);
            text.map_err(|error| Breach::Line(shortened(&String::from_utf8_lossy(error.as_bytes()))))
        }
        Some(_) if line.len() as u64 + 1 == MAX_LINE => Err(Breach::TooLong),
        Some(_) => Err(Breach::Ended),
    }
}

/// A plug-in's words, as a message may have them: it is not trusted with our terminal.
pub(super) fn shortened(words: &str) -> String {
    words.chars().filter(|character| !character.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn hello(text: &str) -> Result<Abilities, Breach> {
        read_hello(&mut text.as_bytes()).await
    }

    #[tokio::test]
    async fn a_plug_in_says_what_it_can() {
        let usual = Abilities { put: false, has: false, concurrency: USUAL_CONCURRENCY };
        assert_eq!(hello("erisfs-carrier 1 get\n").await.expect("a hello"), usual);
        let all = Abilities { put: true, has: true, concurrency: 3 };
        let text = "erisfs-carrier 1 get has put concurrency=3 sings in=tune\n";
        assert_eq!(hello(text).await.expect("a hello"), all);
        let most = hello("erisfs-carrier 1 get concurrency=99999\n").await.expect("a hello");
        assert_eq!(most.concurrency, MAX_CONCURRENCY);
    }

    #[tokio::test]
    async fn what_is_no_hello_is_refused() {
        for text in [
            "",
            "\n",
            "erisfs-carrier 2 get\n",
            "erisfs-carrier 10 get\n",
            "erisfs-carrier 1get\n",
            "erisfs-carrier 1 put\n",
            "erisfs-carrier 1 get",
            "erisfs-carrier 1 get concurrency=many\n",
            "sh: 1: carrier: not found\n",
        ] {
            hello(text).await.expect_err(text);
        }
        assert!(matches!(hello(&"x".repeat(10_000)).await, Err(Breach::TooLong)));
    }

    #[tokio::test]
    async fn answers_are_read_one_after_another_with_what_is_binary_in_them() {
        let mut bytes =
            &b"7 block 3\n\n \n1 absent\n2 present\n3 stored\n4 error no peers\x1b[2J\n5 block 0\n"[..];
        for expected in [
            (7, Answer::Block(Block::from_static(b"\n \n"))),
            (1, Answer::Absent),
            (2, Answer::Present),
            (3, Answer::Stored),
            (4, Answer::Error("no peers[2J".into())),
            (5, Answer::Block(Block::new())),
        ] {
            assert_eq!(read_answer(&mut bytes).await.expect("an answer"), expected);
        }
        assert!(matches!(read_answer(&mut bytes).await, Err(Breach::Ended)));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused() {
        for text in
            ["x block 1\n", "1 block 32769\n", "1 block -1\n", "1 block\n", "1 absent 2\n", "1\n", "1 \n"]
        {
            let breach = read_answer(&mut text.as_bytes()).await.expect_err(text);
            assert!(matches!(breach, Breach::Line(_)), "{text}: {breach}");
        }
        let cut = read_answer(&mut &b"1 block 1024\nabc"[..]).await;
        assert!(matches!(cut, Err(Breach::Ended)), "{cut:?}");
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_said_is_answers_and_then_a_breach(
            said in proptest::collection::vec("([0-9]{0,25} )?(block|absent|present|stored|error|erisfs-carrier 1 get)?( [-+0-9a-z]{0,25})?\n|.{0,9}", 0..20)
        ) {
            let said = said.concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                let _ = hello(&said).await;
                let mut rest = said.as_bytes();
                let mut lines = 0;
                while let Ok((_, answer)) = read_answer(&mut rest).await {
                    if let Answer::Block(block) = answer {
                        assert!(block.len() <= BlockSize::MAX);
                    }
                    lines += 1;
                }
                assert!(lines <= said.lines().count());
            });
        }
    }

    #[test]
    fn a_request_is_a_line_and_for_a_put_the_block() {
        let reference = crate::eris::reference_of(b"x");
        assert_eq!(Request::Get(reference).to_bytes(1), format!("1 get {reference}\n").as_bytes());
        assert_eq!(Request::Has(reference).to_bytes(2), format!("2 has {reference}\n").as_bytes());
        let put = Request::Put(reference, Block::from_static(b"ab\n"));
        assert_eq!(put.to_bytes(3), format!("3 put {reference} 3\nab\n").as_bytes());
    }
}
