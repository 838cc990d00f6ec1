//! Narinfos of any dialect: whatever is accepted is kept byte for byte, and its parts lie where they say.

#![no_main]

use erisfs::compress::Compression;
use erisfs::eris::ReadCapability;
use erisfs::store::Narinfo;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(narinfo) = Narinfo::parse(input) else { return };
    assert_eq!(narinfo.to_string().as_bytes(), input);
    assert!(narinfo.nar_size() > 0);
    assert_eq!(
        narinfo.store_dir().parse(&narinfo.store_dir().join(narinfo.store_path())).as_ref(),
        Ok(narinfo.store_path())
    );

    let text = narinfo.as_str();
    for field in narinfo.fields() {
        assert!(text[field.offset..].starts_with(field.name));
    }
    for binding in narinfo.eris() {
        assert!(text[binding.offset_in_text..].starts_with("ERIS"));
        assert!(binding.offset_in_text < binding.end_in_text && binding.end_in_text <= text.len());
        let _ = binding.urn.parse::<ReadCapability>();
        let _ = binding.format.as_deref().map(Compression::from_eris_format);
    }
    let _ =
        (narinfo.ca(), narinfo.system(), narinfo.guix_signature(), narinfo.sigs().count(), narinfo.deriver());

    let signed = narinfo.with_line("Sig", "key:AAAA").expect("a line of an unknown number of times");
    assert_eq!(signed.sigs().last(), Some("key:AAAA"));
    if let Ok(other) = narinfo.with_field("NarSize", "12345") {
        assert_eq!((other.nar_size(), other.store_path()), (12345, narinfo.store_path()));
    }
    if let Ok(without) = narinfo.without_field("ERIS") {
        assert!(without.eris().is_empty());
    }
});
