//! Who fetches `ipfs://CID` (Guix bug#76003): a gateway, or the RPC of a node.

use std::str::FromStr;

use reqwest::Url;

/// A way to IPFS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipfs {
    /// `http(s)://HOST`: a gateway, asked with `GET /ipfs/CID`.
    Gateway(Url),
    /// `ipfs://HOST:5001`: the RPC of Kubo, asked with `POST /api/v0/cat?arg=CID`.
    Rpc(Url),
}

impl FromStr for Ipfs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let _ = text;
        Err("unknown".into())
    }
}
