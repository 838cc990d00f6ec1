//! Guix's s-expressions: whatever is read prints back to the same, and no key, access list or signature makes trouble.

#![no_main]

use data_encoding::BASE64;
use erisfs::store::guix::{Acl, PublicKey, SecretKey, Sexp, Signature};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(sexp) = Sexp::parse(text) {
        assert_eq!(Sexp::parse(&sexp.to_string()).as_ref(), Ok(&sexp));
    }

    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_sexp().to_string().parse(), Ok(key));
    }
    if let Ok(key) = SecretKey::parse(text) {
        let signature = Signature::parse(&Signature::sign(text, "host", &key)).expect("our own signature");
        assert_eq!(signature.key(), key.public_key());
        assert_eq!(signature.verify(text), Ok(()));
    }
    if let Ok(acl) = text.parse::<Acl>() {
        assert!(acl.keys.len() + acl.passed_over.len() <= text.len());
    }

    let _ = Signature::parse(text);
    if let Ok(signature) = Signature::parse(&format!("1;host;{}", BASE64.encode(input))) {
        assert_eq!(signature.host(), "host");
        let _ = signature.verify("a text");
    }
});
