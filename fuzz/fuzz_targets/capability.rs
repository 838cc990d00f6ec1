//! Read capabilities from text and from bytes: whatever is accepted prints back as what it was.

#![no_main]

use erisfs::eris::{ConvergenceSecret, Generation, ReadCapability, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(capability) = ReadCapability::from_bytes(input) {
        assert_eq!(capability.generation, Generation::V1);
        assert_eq!(capability.to_bytes(), input);
        assert_eq!(capability.to_string().parse(), Ok(capability));
    }
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(capability) = text.parse::<ReadCapability>() {
        let urn = capability.to_string();
        // The scheme and the namespace may be in any case.
        assert!(text.as_bytes()[..urn.len()].eq_ignore_ascii_case(urn.as_bytes()), "{urn}");
        assert!(matches!(text.as_bytes().get(urn.len()), None | Some(b'#' | b'?')), "{urn}");
        assert_eq!(urn.parse(), Ok(capability));
    }
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string(), text);
    }
    let _ = ConvergenceSecret::from_hex(text);
});
