//! A web server on loopback that says exactly what it is told to say, and notes what it was asked.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What comes after the bytes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Close,
    Hang,
}

/// The bytes of an answer.
#[derive(Debug, Clone)]
pub struct Answer {
    bytes: Vec<u8>,
    then: Then,
}

impl Answer {
    /// A whole answer, with these lines in its head (each with `\r\n` at its end).
    pub fn new(status: &str, headers: &str, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let length = body.len();
        Self::raw(
            &format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"),
            body,
        )
    }

    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self::new("200 OK", "", body)
    }

    pub fn not_found() -> Self {
        Self::new("404 Not Found", "", "")
    }

    /// These bytes, and then the end of the connection.
    pub fn raw(head: &str, body: &[u8]) -> Self {
        Self { bytes: [head.as_bytes(), body].concat(), then: Then::Close }
    }

    /// The same, and then nothing more.
    pub fn then_hang(self) -> Self {
        Self { then: Then::Hang, ..self }
    }
}

/// The server. It ends with its drop.
pub struct Server {
    address: std::net::SocketAddr,
    scheme: &'static str,
    heads: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers each request by its head: the request line and the header lines.
    pub async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen(answer, None).await
    }

    pub async fn start_tls(
        acceptor: TlsAcceptor,
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        // Of what the other tests' servers offer, this one knows only HTTP/1.
        let mut config = (**acceptor.config()).clone();
        config.alpn_protocols.clear();
        Self::listen(answer, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn listen(
        answer: impl Fn(&str) -> Answer + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let (noted, answer) = (Arc::clone(&heads), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (noted, answer, tls) = (Arc::clone(&noted), Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(connection) = tls.accept(connection).await {
                                converse(connection, &noted, &*answer).await;
                            }
                        }
                        None => converse(connection, &noted, &*answer).await,
                    }
                });
            }
        });
        Self { address, scheme, heads, task }
    }

    /// The URL of a path on it.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// The URL with a name and a password.
    pub fn url_with(&self, secret: &str, path: &str) -> String {
        format!("{}://{secret}@{}{path}", self.scheme, self.address)
    }

    /// The heads of all requests, in small letters except for the values.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// The head of the last request.
    pub fn last(&self) -> String {
        self.heads().pop().expect("a request")
    }
}

async fn converse(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    noted: &Mutex<Vec<String>>,
    answer: &(impl Fn(&str) -> Answer + ?Sized),
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    noted.lock().unwrap().push(head.clone());
    let answer = answer(&head);
    // Whoever has heard enough hangs up, which is no failure here.
    let _ = connection.write_all(&answer.bytes).await;
    let _ = connection.flush().await;
    if answer.then == Then::Hang {
        std::future::pending::<()>().await;
    }
    let _ = connection.shutdown().await;
}
