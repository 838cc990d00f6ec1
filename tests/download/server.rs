//! A web server with one file, which does with each request what a script says.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What becomes of one request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The file, or the part of it that was asked for.
    Good,
    /// The whole file, whatever part was asked for.
    Whole,
    /// So many bytes, then the end of the connection.
    Break(usize),
    /// So many bytes, then nothing for as long as the client has patience.
    Stall(usize),
    /// What was asked for, of another file of the same length and with the same `ETag`.
    Other(Arc<Vec<u8>>),
    /// So many bytes of another file, then closes the connection.
    OtherBreak(Arc<Vec<u8>>, usize),
    /// So many bytes, of a file whose length is not said.
    Unsized(usize),
    /// The file, so many bytes every 10 ms.
    Slow(usize),
    /// 404.
    Absent,
}

/// The server; it ends with the process.
pub struct Server {
    pub url: String,
    state: Arc<State>,
}

struct State {
    file: Vec<u8>,
    /// The last one stays.
    answers: Mutex<VecDeque<Answer>>,
    /// Of each request the first byte that was asked for, and how many bytes went out.
    requests: Mutex<Vec<(usize, usize)>>,
}

impl Server {
    pub fn new(file: Vec<u8>, answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let answers = Mutex::new(answers.iter().cloned().collect());
        let state = Arc::new(State { file, answers, requests: Mutex::default() });
        let shared = state.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let state = shared.clone();
                // A client that goes away ends it.
                thread::spawn(move || while state.answer(&connection).is_some() {});
            }
        });
        Self { url, state }
    }

    /// Of each request the first byte that was asked for, and how many bytes went out.
    pub fn requests(&self) -> Vec<(usize, usize)> {
        self.state.requests.lock().unwrap().clone()
    }
}

impl State {
    /// Answers one request; none if the connection ended.
    fn answer(&self, connection: &TcpStream) -> Option<()> {
        let from = read_request(connection)?;
        let number = {
            let mut requests = self.requests.lock().unwrap();
            requests.push((from, 0));
            requests.len() - 1
        };
        let answer = {
            let mut answers = self.answers.lock().unwrap();
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        };
        let answer = answer.expect("a script");
        if matches!(answer, Answer::Absent) {
            return send(connection, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        }
        let from = if matches!(answer, Answer::Whole) { 0 } else { from };
        let file = match &answer {
            Answer::Other(other) | Answer::OtherBreak(other, _) => other,
            _ => &self.file,
        };
        let (length, part) = (file.len(), &file[from..]);
        let status = match from {
            0 => "200 OK".to_owned(),
            _ => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{length}", length - 1),
        };
        let framing = match &answer {
            Answer::Unsized(_) => "Connection: close".to_owned(),
            _ => format!("Content-Length: {}", part.len()),
        };
        let head = format!("HTTP/1.1 {status}\r\n{framing}\r\nETag: \"file\"\r\n\r\n");
        send(connection, head.as_bytes())?;
        let (step, pause) = match answer {
            Answer::Slow(step) => (step, Duration::from_millis(10)),
            _ => (64 * 1024, Duration::ZERO),
        };
        let end = match answer {
            Answer::Break(length)
            | Answer::Stall(length)
            | Answer::OtherBreak(_, length)
            | Answer::Unsized(length) => length.min(part.len()),
            _ => part.len(),
        };
        for piece in part[..end].chunks(step) {
            // Counted first: whoever has read it finds it counted.
            self.requests.lock().unwrap()[number].1 += piece.len();
            send(connection, piece)?;
            thread::sleep(pause);
        }
        match answer {
            Answer::Break(_) | Answer::OtherBreak(..) | Answer::Unsized(_) => None,
            Answer::Stall(_) => {
                // The client hangs up.
                let _ = BufReader::new(connection).fill_buf();
                None
            }
            _ => Some(()),
        }
    }
}

fn send(mut connection: &TcpStream, bytes: &[u8]) -> Option<()> {
    connection.write_all(bytes).ok()
}

/// The first byte that is asked for.
fn read_request(connection: &TcpStream) -> Option<usize> {
    let mut from = 0;
    for line in BufReader::new(connection).lines() {
        let line = line.ok()?.to_ascii_lowercase();
        if line.is_empty() {
            return Some(from);
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok()?;
        }
    }
    None
}
