//! The store as text: paths, hashes, narinfos, startup profiles, and the catalog that holds many narinfos.
//!
//! Everything here is a pure function of bytes: no I/O, no clock. Hash parts and store paths are
//! typed and strict, narinfos keep their text, the [`catalog`] says which bytes it wants next, and
//! [`trust`] says what a narinfo proves to somebody who trusts given keys of Nix ([`ed25519`]) or [`guix`].

pub mod base32;
pub mod catalog;
pub mod compute;
pub mod ed25519;
pub mod fingerprint;
pub mod guix;
pub mod hash;
pub mod narinfo;
pub mod path;
pub mod profile;
pub mod trust;

pub use self::compute::ContentAddress;
pub use self::hash::NarHash;
pub use self::narinfo::Narinfo;
pub use self::path::{HashPart, StoreDir, StorePath};
pub use self::profile::Profile;
pub use self::trust::{Trust, TrustedKeys};
