//! Who fetches `ipfs://CID` (Guix bug#76003): a gateway, or the RPC of a node.
//!
//! What a CID names never changes, so reading on in the middle is safe. That a gateway gives what the CID names is
//! not checked: the NAR is.

use std::fmt;
use std::str::FromStr;

use reqwest::{Client, RequestBuilder, Url};

use crate::http::without_secret;

/// Longest CID that is asked for, in characters. Those in use have 46 to 73.
const MAX_CID_LENGTH: usize = 128;

/// A way to IPFS.
#[derive(Clone, PartialEq, Eq)]
pub enum Ipfs {
    /// `http(s)://HOST`: a gateway, asked with `GET /ipfs/CID`.
    Gateway(Url),
    /// `ipfs://HOST:5001`: the RPC of Kubo, asked with `POST /api/v0/cat?arg=CID`.
    Rpc(Url),
}

/// A text that names no way to IPFS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is neither http(s)://GATEWAY nor ipfs://HOST:5001, the RPC of a node")]
pub struct NotIpfs {
    /// The text, without secrets.
    url: String,
}

impl FromStr for Ipfs {
    type Err = NotIpfs;

    fn from_str(text: &str) -> Result<Self, NotIpfs> {
        let refused = || NotIpfs { url: without_secret(text) };
        let parsed = |text: &str| {
            let url = Url::parse(text).map_err(|_| refused())?;
            let bare = url.query().or(url.fragment()).is_none() && url.has_host();
            if !bare { Err(refused()) } else { Ok(url) }
        };
        match text.split_once("://") {
            Some(("http" | "https", _)) => Ok(Self::Gateway(parsed(text)?)),
            // The RPC speaks plain HTTP. Read as such, so that the host is checked as one.
            Some(("ipfs", host)) => Ok(Self::Rpc(parsed(&format!("http://{host}"))?)),
            _ => Err(refused()),
        }
    }
}

impl fmt::Debug for Ipfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, url) = match self {
            Self::Gateway(url) => ("Gateway", url),
            Self::Rpc(url) => ("Rpc", url),
        };
        write!(f, "{kind}({})", without_secret(url.as_str()))
    }
}

impl Ipfs {
    /// Where a gateway has the content.
    pub(super) fn gateway_url(gateway: &Url, cid: &str) -> Url {
        let mut url = gateway.clone();
        url.set_path(&format!("{}/ipfs/{cid}", gateway.path().trim_end_matches('/')));
        url
    }

    /// The request to the RPC for the content from byte `from` on.
    pub(super) fn rpc_request(client: &Client, rpc: &Url, cid: &str, from: u64) -> RequestBuilder {
        let mut url = rpc.clone();
        url.set_path(&format!("{}/api/v0/cat", rpc.path().trim_end_matches('/')));
        url.query_pairs_mut().append_pair("arg", cid).append_pair("offset", &from.to_string());
        client.post(url)
    }
}

/// The CID of `ipfs://CID`; nothing may follow it. Base32, base36 and base58 have letters and digits only.
pub(super) fn cid(url: &str) -> Option<&str> {
    let cid = url.strip_prefix("ipfs://")?;
    let well_formed = !cid.is_empty()
        && cid.len() <= MAX_CID_LENGTH
        && cid.bytes().all(|byte| byte.is_ascii_alphanumeric());
    well_formed.then_some(cid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_and_an_rpc_are_told_apart() {
        let gateway: Ipfs = "https://gateway.example/prefix/".parse().unwrap();
        let Ipfs::Gateway(url) = &gateway else { panic!("{gateway:?}") };
        assert_eq!(Ipfs::gateway_url(url, "Qm1").as_str(), "https://gateway.example/prefix/ipfs/Qm1");
        let rpc: Ipfs = "ipfs://[::1]:5001".parse().unwrap();
        let Ipfs::Rpc(url) = &rpc else { panic!("{rpc:?}") };
        let request = Ipfs::rpc_request(&Client::new(), url, "Qm1", 7).build().unwrap();
        assert_eq!(
            (request.method().as_str(), request.url().as_str()),
            ("POST", "http://[::1]:5001/api/v0/cat?arg=Qm1&offset=7")
        );
        for text in ["", "host", "ipfs:host", "ipfs://", "ftp://host", "http://host/?x", "file:///ipfs"] {
            assert!(text.parse::<Ipfs>().is_err(), "{text}");
        }
        let hush = "http://me:hush@host/?x".parse::<Ipfs>().unwrap_err();
        assert!(!hush.to_string().contains("hush"));
        assert!(!format!("{:?}", "http://me:hush@host/".parse::<Ipfs>().unwrap()).contains("hush"));
    }

    #[test]
    fn a_cid_is_letters_and_digits() {
        assert_eq!(cid("ipfs://bafk2bzaceabc"), Some("bafk2bzaceabc"));
        for url in [
            "ipfs://",
            "ipfs://a/b",
            "ipfs://a?x",
            "ipfs://..",
            "ipfs://a&arg=b",
            "ipns://a",
            &format!("ipfs://{}", "a".repeat(129)),
        ] {
            assert_eq!(cid(url), None, "{url}");
        }
    }
}
