//! Blocks in IPFS, by way of a node's RPC (Kubo's `/api/v0`, also js-ipfs's).
//!
//! A block is a raw leaf whose multihash is its reference, so what one program puts another finds by the reference alone.
//! The node searches for what it does not hold, so each request says how long it may: a block that nobody has is an answer.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use reqwest::{Method, Response, StatusCode, header::CONTENT_TYPE};
use serde::{Deserialize, de::IgnoredAny};

use super::web::{Patience, Redirects, Turn, Web};
use super::{Block, BlockStore, Error, Refusal, bad_url};
use crate::eris::Reference;
use crate::http::Access;

/// Requests in flight: a node answers blocks of its own at once, and each search costs it more than us.
const CONCURRENCY: usize = 64;
/// For how long a node may search for a block. Finding one by bitswap and the DHT takes some seconds; the request ends before
/// [`Patience::first_byte`].
const SEARCH: &str = "8s";
/// For how long it may look whether it holds a block. Kubo says it at once (`offline`); js-ipfs searches all the same.
const LOOK: &str = "2s";
/// Longest answer that is no block.
const MAX_ANSWER: usize = 16 << 10;

/// The RPC of an IPFS node: `ipfs://HOST:5001`.
///
/// Blocks that are put are pinned, because the node drops others when it needs room: it [has](BlockStore::has) those that it fetched, and
/// [keeps](BlockStore::keeps) those that are pinned. It redirects nowhere: its commands would go to other nodes. A password is
/// sent as to any web server ([`Http`](super::Http)). Whoever reaches an RPC can do anything to its node: it belongs on loopback.
#[derive(Debug)]
pub struct Ipfs {
    web: Web,
}

/// The CID (version 1, raw, BLAKE2b-256, base32) of the block with this reference.
pub fn cid(reference: &Reference) -> String {
    // Version, codec, multihash code as a varint, length of the hash.
    const PREFIX: [u8; 6] = [0x01, 0x55, 0xa0, 0xe4, 0x02, 0x20];
    let bytes = [&PREFIX[..], reference.as_bytes()].concat();
    format!("b{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// What a node says of a block that it took.
#[derive(Deserialize)]
struct Taken {
    #[serde(rename = "Key")]
    key: String,
}

/// What a node says of pins.
#[derive(Deserialize)]
struct Pins {
    #[serde(rename = "Keys")]
    keys: HashMap<String, IgnoredAny>,
}

/// What a node says when it did not do something.
#[derive(Debug, Deserialize, thiserror::Error)]
#[error("the node says: {}", message.chars().filter(|letter| !letter.is_control()).take(200).collect::<String>())]
struct Failure {
    #[serde(rename = "Message")]
    message: String,
}

impl Ipfs {
    /// The node whose RPC is at `url`. Nothing is asked of it yet.
    pub fn new(url: &str, patience: Patience, access: &Access) -> Result<Self, Error> {
        let host = url.strip_prefix("ipfs://").filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| bad_url(url, "it must be ipfs://HOST:5001"))?;
        Ok(Self { web: Web::new(url, &format!("http://{host}"), Redirects::Ignored, patience, access)? })
    }

    async fn ask(
        &self,
        turn: &Turn<'_>,
        reference: &Reference,
        command: &str,
        options: &str,
    ) -> Result<Response, Error> {
        let query = format!("arg={}&{options}", cid(reference));
        let url = self.web.url(&format!("api/v0/{command}"), Some(&query));
        self.web.send(turn, reference, self.web.request(Method::POST, url)).await
    }

    /// What an answer other than success means. A node tells all its troubles by status 500 and a message; it says 404 or 405 to nothing
    /// that is asked here.
    async fn failure(&self, turn: &Turn<'_>, reference: &Reference, answer: Response) -> Error {
        let refusal = self.web.refusal(reference, &answer);
        match answer.status() {
            StatusCode::INTERNAL_SERVER_ERROR => {}
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                return self.foreign("there is no RPC of an IPFS node at this address");
            }
            _ => return refusal,
        }
        let Ok(text) = self.web.short(turn, reference, answer, MAX_ANSWER).await else { return refusal };
        match serde_json::from_slice::<Failure>(&text) {
            Ok(failure) => Error::Unavailable {
                reference: Some(*reference),
                store: Arc::clone(self.web.name()),
                retry_after: None,
                source: Arc::new(failure),
            },
            Err(_) => refusal,
        }
    }

    /// Whether it was told to keep the block.
    async fn has_pinned(&self, turn: &Turn<'_>, reference: &Reference) -> Result<bool, Error> {
        let answer = self.ask(turn, reference, "pin/ls", &format!("type=recursive&timeout={LOOK}")).await?;
        if answer.status() == StatusCode::OK {
            let text = self.web.short(turn, reference, answer, MAX_ANSWER).await?;
            return match serde_json::from_slice::<Pins>(&text) {
                Ok(pins) => Ok(!pins.keys.is_empty()),
                Err(_) => Err(self.foreign("its answer about a pin is not that of an IPFS node")),
            };
        }
        let failure = self.failure(turn, reference, answer).await;
        match said(&failure) {
            Some(said) if said.contains("is not pinned") => Ok(false),
            _ => Err(failure),
        }
    }

    /// As [`failure`](Self::failure), of a question that has "no such block" among its answers. The end of the time is that answer after a
    /// search, and trouble after a look at what the node holds.
    async fn absence_or_failure(
        &self,
        turn: &Turn<'_>,
        reference: &Reference,
        answer: Response,
        searched: bool,
    ) -> Error {
        let failure = self.failure(turn, reference, answer).await;
        let Some(said) = said(&failure).filter(|said| is_absence(said, searched)) else { return failure };
        // js-ipfs says it also when it has so much to do that it did not get to a block of its own.
        if said.contains("timed out") && self.has_pinned(turn, reference).await.unwrap_or(false) {
            return failure;
        }
        Error::NotFound { reference: *reference, store: Arc::clone(self.web.name()) }
    }

    fn foreign(&self, what: &str) -> Error {
        Error::Refused { store: Arc::clone(self.web.name()), reason: Refusal::Foreign(what.to_owned()) }
    }
}

/// The message of a node in a failure.
fn said(failure: &Error) -> Option<&str> {
    match failure {
        Error::Unavailable { source, .. } => {
            source.downcast_ref().map(|Failure { message }| message.as_str())
        }
        _ => None,
    }
}

/// Whether a node says that it did not find a block, in the words of Kubo or of js-ipfs, which knows no others when it did not
/// search at all.
fn is_absence(message: &str, searched: bool) -> bool {
    let given_up = searched && message.contains("deadline exceeded");
    let absent = ["not found", "could not find", "timed out", "timeout"];
    given_up || absent.iter().any(|words| message.contains(words))
}

/// A form with one file in it (RFC 7578). The boundary is the hash of the file, which no file can contain; in hexadecimal, because js-ipfs
/// takes a form for something else if the letters JSON are anywhere in its type, and base32 spells them once in 20,000 blocks.
fn form(reference: &Reference, block: &[u8]) -> (String, Vec<u8>) {
    let boundary = data_encoding::HEXLOWER.encode(reference.as_bytes());
    let head = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"data\"; filename=\"block\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    let tail = format!("\r\n--{boundary}--\r\n");
    let body = [head.as_bytes(), block, tail.as_bytes()].concat();
    (format!("multipart/form-data; boundary={boundary}"), body)
}

#[async_trait]
impl BlockStore for Ipfs {
    fn name(&self) -> &str {
        self.web.name()
    }

    async fn get(&self, reference: &Reference) -> Result<Block, Error> {
        let turn = self.web.turn(reference).await?;
        let answer = self.ask(&turn, reference, "block/get", &format!("timeout={SEARCH}")).await?;
        match answer.status() {
            StatusCode::OK => self.web.body(&turn, reference, answer).await,
            _ => Err(self.absence_or_failure(&turn, reference, answer, true).await),
        }
    }

    async fn has(&self, reference: &Reference) -> Result<bool, Error> {
        let turn = self.web.turn(reference).await?;
        let answer =
            self.ask(&turn, reference, "block/stat", &format!("offline=true&timeout={LOOK}")).await?;
        if answer.status() == StatusCode::OK {
            let text = self.web.short(&turn, reference, answer, MAX_ANSWER).await?;
            return match serde_json::from_slice::<Taken>(&text) {
                Ok(_) => Ok(true),
                Err(_) => Err(self.foreign("its answer about a block is not that of an IPFS node")),
            };
        }
        match self.absence_or_failure(&turn, reference, answer, false).await {
            Error::NotFound { .. } => Ok(false),
            error => Err(error),
        }
    }

    async fn keeps(&self, reference: &Reference) -> Result<bool, Error> {
        let turn = self.web.turn(reference).await?;
        self.has_pinned(&turn, reference).await
    }

    fn gives_unkept(&self) -> bool {
        true
    }

    async fn put(&self, reference: &Reference, block: Block) -> Result<(), Error> {
        // Both ways of saying which kind of CID: js-ipfs knows only `format`, later versions of Kubo only `cid-codec`.
        const KIND: &str = "cid-codec=raw&format=raw&mhtype=blake2b-256&mhlen=32&pin=true";
        let turn = self.web.turn(reference).await?;
        let (content_type, body) = form(reference, &block);
        let url = self.web.url("api/v0/block/put", Some(KIND));
        let request = self.web.request(Method::POST, url).header(CONTENT_TYPE, content_type).body(body);
        let answer = self.web.send(&turn, reference, request).await?;
        if answer.status() != StatusCode::OK {
            return Err(self.failure(&turn, reference, answer).await);
        }
        let text = self.web.short(&turn, reference, answer, MAX_ANSWER).await?;
        match serde_json::from_slice::<Taken>(&text) {
            Ok(taken) if taken.key == cid(reference) => Ok(()),
            Ok(taken) => {
                let other: String =
                    taken.key.chars().filter(|letter| !letter.is_control()).take(100).collect();
                Err(self.foreign(&format!("it keeps the block under another name, {other}")))
            }
            Err(_) => Err(self.foreign("its answer to a put is not that of an IPFS node")),
        }
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn concurrency(&self) -> usize {
        CONCURRENCY
    }

    fn is_remote(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_the_cid_of_a_raw_leaf() {
        let reference = "H77AGSYKAVTQPUHODJTQA7WZPTWGTTKLRB2GLMF5H53NEKFJ3FUQ".parse().expect("a reference");
        assert_eq!(cid(&reference), "bafk2bzacea774a2lbicwob6q5yngoad63f6oy2onjoehiznqxu7xnurivhmws");
    }

    #[test]
    fn a_block_that_was_not_found_is_told_from_a_node_that_is_in_trouble() {
        for message in [
            "block was not found locally (offline): ipld: could not find bafk2bz",
            "Failed to get block: request timed out",
            "context deadline exceeded",
            "blockstore: block not found",
        ] {
            assert!(is_absence(message, true), "{message}");
        }
        assert!(!is_absence("context deadline exceeded", false), "Kubo looks at its own blocks in no time");
        for message in ["invalid cid", "no space left on device", ""] {
            assert!(!is_absence(message, true), "{message}");
        }
    }

    #[test]
    fn a_url_names_an_rpc() {
        for (url, command) in [
            ("ipfs://127.0.0.1:5001", "http://127.0.0.1:5001/api/v0/block/get"),
            ("ipfs://:hush@host:5001/prefix/", "http://host:5001/prefix/api/v0/block/get"),
        ] {
            let ipfs = Ipfs::new(url, Patience::default(), &Access::default()).expect("a good URL");
            assert_eq!(ipfs.web.url("api/v0/block/get", None).as_str(), command);
            assert!(ipfs.name().starts_with("ipfs://") && !format!("{ipfs:?}").contains("hush"));
        }
        for url in ["ipfs:", "ipfs://", "ipfs://host/?x", "ipfs://:hush%0A@host/"] {
            let error = Ipfs::new(url, Patience::default(), &Access::default()).expect_err(url);
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
    }
}
