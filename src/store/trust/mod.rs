//! What a narinfo proves, and to whom.
//!
//! Two questions are answered apart. First, whether a trusted key signed what stock Nix or Guix wants signed: the store
//! path, the hash and size of its NAR, its references. Without that a narinfo is refused, also where its ERIS content is
//! signed: what a stock client with the same keys would not take is not shown here. Second, whether a trusted key bound the ERIS
//! content to the path, by Guix's signature over the text above it or by an `ERISSig`. Only then may parts of the path be
//! shown before the whole NAR was hashed.
//!
//! A content that is not bound is no reason to refuse the path: below Guix's signature and in Nix's narinfos anybody may add
//! lines, and such a URN is one more place to fetch the NAR from, to be hashed before it is shown.

mod eris;
mod path;
#[cfg(test)]
mod tests;

use std::fmt;

pub use self::eris::Unbound;
use super::narinfo::{ErisBinding, Narinfo};
use super::path::{HashPart, StoreDir};
use super::{ed25519, guix};

/// Most signatures in one narinfo that bear the name of a trusted key and are tried, for each thing to be proved. A
/// narinfo may have a thousand lines; a public one has one or two signatures.
const MAX_SIGNATURES: usize = 16;

/// Most ERIS contents in one narinfo that are looked at: one for each way of compressing.
const MAX_CONTENTS: usize = 8;

/// The keys whose signatures are believed.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys {
    /// Nix's, as in `trusted-public-keys`. Several may have one name.
    pub nix: Vec<ed25519::PublicKey>,
    /// Guix's, as in `/etc/guix/acl`.
    pub guix: Vec<guix::PublicKey>,
}

/// Who signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signer {
    /// The Nix key of this name.
    Nix {
        /// The name.
        name: String,
    },
    /// This Guix key.
    Guix {
        /// The key.
        key: guix::PublicKey,
    },
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nix { name } => f.write_str(name),
            Self::Guix { key } => fmt::Display::fmt(key, f),
        }
    }
}

/// What a trusted narinfo proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// ERIS contents are bound to the path: what is read from them may be shown at once.
    Binding {
        /// Who bound the first of them.
        signer: Signer,
        /// Those that are bound, in the order written. Never empty.
        contents: Vec<ErisBinding>,
    },
    /// Only the hash of the NAR is signed: the whole NAR is to be fetched and hashed before the first byte is shown.
    NarHash {
        /// Who signed it.
        signer: Signer,
        /// Why no ERIS content is bound.
        unbound: Unbound,
    },
}

impl Trust {
    /// Who vouches for what is shown.
    pub fn signer(&self) -> &Signer {
        match self {
            Self::Binding { signer, .. } | Self::NarHash { signer, .. } => signer,
        }
    }
}

/// Why a narinfo proves nothing to somebody who trusts only the given keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is for another store path than the one that was asked for.
    #[error("the narinfo is for {found}, not for {asked}")]
    OtherPath {
        /// The hash part that was asked for.
        asked: HashPart,
        /// The hash part of its `StorePath`.
        found: HashPart,
    },
    /// It is for a path in another store directory.
    #[error("the narinfo is for a path in {found}, not in {asked}")]
    OtherStoreDir {
        /// The store directory that was asked for.
        asked: StoreDir,
        /// The directory of its `StorePath`.
        found: StoreDir,
    },
    /// It has no signature.
    #[error("the narinfo has no signature")]
    Unsigned,
    /// It is signed, but by nobody who is trusted.
    #[error("the narinfo is not signed by a trusted key, only by {}", names.join(", "))]
    Untrusted {
        /// Who it says it is signed by: names of Nix keys, a Guix key in hexadecimal.
        names: Vec<String>,
    },
    /// A signature bears the name of a trusted key, but is not by that key, or not of what the narinfo says.
    #[error(
        "the signature {name} is wrong: it is by another key than the trusted one, or the narinfo was changed"
    )]
    WrongSig {
        /// The name.
        name: String,
    },
    /// The `Signature` of Guix proves nothing.
    #[error(transparent)]
    Guix(#[from] guix::SignatureError),
}

/// What `narinfo`, which was asked for by hash part in `store_dir`, proves to somebody who trusts `keys`.
///
/// A field that is there twice has been refused by [`Narinfo::parse`].
pub fn judge(
    narinfo: &Narinfo,
    asked: HashPart,
    store_dir: &StoreDir,
    keys: &TrustedKeys,
) -> Result<Trust, Refusal> {
    let found = narinfo.store_path().hash_part();
    if found != asked {
        return Err(Refusal::OtherPath { asked, found });
    }
    if narinfo.store_dir() != store_dir {
        let (asked, found) = (store_dir.clone(), narinfo.store_dir().clone());
        return Err(Refusal::OtherStoreDir { asked, found });
    }
    let vouched = path::vouched(narinfo, keys)?;
    Ok(match eris::bound(narinfo, &vouched, keys) {
        Ok((signer, contents)) => Trust::Binding { signer, contents },
        Err(unbound) => Trust::NarHash { signer: vouched.signer, unbound },
    })
}
