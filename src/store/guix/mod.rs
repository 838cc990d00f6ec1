//! Guix's signatures: what `guix publish` writes under `Signature:`, and the keys and access lists it goes by.
//!
//! A signature is an s-expression that holds the SHA-256 of the text above it, ECDSA over the curve of Ed25519 (not
//! EdDSA, which no narinfo of Guix has), and the public key. Reading is stricter than Guix's: what it would write is
//! accepted, and no other arrangement of the same words. Signing is deterministic (RFC 6979) and yields libgcrypt's bytes.

mod acl;
mod ecdsa;
mod key;
mod sexp;
mod signature;

pub use self::acl::{Acl, AclError, PassedOver};
pub use self::key::{KeyError, PublicKey, SecretKey};
pub use self::sexp::{Sexp, SexpError};
pub(super) use self::signature::signed_text;
pub use self::signature::{Signature, SignatureError, SigningError, sign};
