use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::store::compute::ContentAddress;

pub(super) fn samples() -> Vec<(PathBuf, Vec<u8>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let folders = ["guix", "guix/cached", "guix/uncached", "nix/cache-zstd", "nix/none", "bug52555"];
    let mut samples = Vec::new();
    for folder in folders {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "narinfo") {
                samples.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    assert_eq!(samples.len(), 1 + 11 + 11 + 5 + 5 + 3);
    samples
}

pub(super) fn sample(name: &str) -> Narinfo {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    Narinfo::parse(&fs::read(root.join(name)).unwrap()).unwrap()
}

/// A narinfo with these lines behind the ones that must be there.
fn with(lines: &str) -> Result<Narinfo, NarinfoError> {
    let required = "StorePath: /nix/store/pgrawpvabzgfv20fap3h5994n80h2x6a-tree\n\
        NarHash: sha256:14h4g0h4ig0bcr9b9185zcg57ch2lmjakvycinp7lyvdfy19awp9\n\
        NarSize: 101416\n";
    format!("{required}{lines}").parse()
}

#[test]
fn every_sample_prints_back_byte_for_byte() {
    for (path, bytes) in samples() {
        let narinfo = Narinfo::parse(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(narinfo.to_string().as_bytes(), bytes, "{}", path.display());
        // Also through its fields, which are all of it.
        let fields = narinfo.fields().map(|f| format!("{}: {}\n", f.name, f.value));
        assert_eq!(fields.collect::<String>().as_bytes(), bytes);
    }
}

#[test]
fn a_nix_narinfo_says_everything() {
    let narinfo = sample("nix/cache-zstd/v6aq93ycagivwjd24sdq6bk8mm0h4jj1.narinfo");
    assert_eq!(narinfo.store_dir(), &StoreDir::nix());
    assert_eq!(narinfo.store_path().to_string(), "v6aq93ycagivwjd24sdq6bk8mm0h4jj1-hello-offline-1.0");
    assert_eq!(narinfo.nar_size(), 896);
    assert_eq!(narinfo.nar_hash().to_string(), "sha256:0z4ay9q1lx377cgf009v0mz1msfly4hrnk916a9d3rz78khjviw3");
    let references: Vec<_> = narinfo.references().iter().map(|r| r.name()).collect();
    assert_eq!(references, ["hello-offline-1.0-lib", "busybox-static", "hello-offline-1.0"]);
    assert_eq!(narinfo.deriver().unwrap().name(), "hello-offline-1.0.drv");
    let [download] = narinfo.downloads() else { panic!("{:?}", narinfo.downloads()) };
    assert_eq!(download.compression.as_deref(), Some("zstd"));
    assert_eq!(download.file_size, Some(346));
    assert_eq!(download.url, "nar/1pmi9hr8ydwpsx3r9gx2m5k16xgy0wzchnsi6mrllsy9hrm78kj3.nar.zst");
    let hash = "sha256:1pmi9hr8ydwpsx3r9gx2m5k16xgy0wzchnsi6mrllsy9hrm78kj3";
    assert_eq!(download.file_hash, Some(hash.parse().unwrap()));
    assert_eq!(narinfo.sigs().count(), 1);
    assert!(narinfo.sigs().all(|sig| sig.starts_with("test-cache-1:")));
    assert_eq!((narinfo.ca(), narinfo.guix_signature()), (None, None));
}

#[test]
fn a_guix_narinfo_has_a_download_for_each_compression() {
    for (folder, sizes) in [
        ("cached", [("zstd", Some(363)), ("lzip", Some(379)), ("gzip", Some(375))]),
        ("uncached", [("zstd", None), ("gzip", None), ("lzip", None)]),
    ] {
        let narinfo = sample(&format!("guix/{folder}/rc7mh4hv8bhg85ndx9jhzyhs27ji0q4b.narinfo"));
        assert_eq!(narinfo.store_dir(), &StoreDir::guix());
        let downloads = narinfo.downloads().iter();
        let found: Vec<_> = downloads.map(|d| (d.compression.as_deref().unwrap(), d.file_size)).collect();
        assert_eq!(found, sizes);
        let signature = narinfo.guix_signature().unwrap();
        assert!(signature.value.starts_with("1;vm;"));
        let signed = &narinfo.as_str()[..signature.offset];
        assert!(signed.ends_with("-hello-offline-1.0.drv\n"), "{signed}");
        assert_eq!(narinfo.eris(), []);
    }
}

#[test]
fn eris_fields_of_all_versions_are_found() {
    let v1 = sample("bug52555/bug52555-v1.narinfo");
    let formats: Vec<_> = v1.eris().iter().map(|eris| eris.format.as_deref().unwrap()).collect();
    let gzip_then_zstd = ["application/x-nix-archive+gzip", "application/x-nix-archive+zstd"];
    assert_eq!(formats, gzip_then_zstd);
    let v2 = sample("bug52555/bug52555-v2-baked.narinfo");
    let [eris] = v2.eris() else { panic!("{:?}", v2.eris()) };
    assert_eq!(eris.format.as_deref(), Some("application/x-nix-archive+zstd-19"));
    assert!(eris.urn.starts_with("urn:erisx2:B4AYPTXL"));
    for narinfo in [v1, v2] {
        let signature = narinfo.guix_signature().unwrap().offset;
        for eris in narinfo.eris() {
            let line = format!("ERIS: {}\n", eris.urn);
            assert!(narinfo.as_str()[eris.offset_in_text..].starts_with(&line));
            assert!(eris.end_in_text <= signature, "covered by the signature");
        }
    }
}

#[test]
fn a_binding_reaches_to_the_line_that_says_its_format() {
    // Whoever may append below the signature must not choose the format of what is signed.
    let narinfo = with("ERIS: urn:eris:X\nSignature: 1;h;x\nERISFormat: evil\n").unwrap();
    let signature = narinfo.guix_signature().unwrap().offset;
    assert!(narinfo.eris()[0].offset_in_text < signature);
    assert!(narinfo.eris()[0].end_in_text > signature);
    let narinfo = with("URL: u\nERIS: urn:eris:X\nSignature: 1;h;x\nCompression: zstd\n").unwrap();
    let signature = narinfo.guix_signature().unwrap().offset;
    assert_eq!(narinfo.eris()[0].format.as_deref(), Some("application/x-nix-archive+zstd"));
    assert!(narinfo.eris()[0].end_in_text > signature);
}

#[test]
fn an_eris_line_away_from_any_url_has_no_compression() {
    let narinfo = with("URL: u\nCompression: zstd\nSystem: x\nERIS: urn:eris:X\n").unwrap();
    assert_eq!(narinfo.eris()[0].format, None);
    let narinfo = with("URL: u\nCompression: none\nERIS: urn:eris:X\n").unwrap();
    assert_eq!(narinfo.eris()[0].format.as_deref(), Some("application/x-nix-archive"));
}

#[test]
fn one_format_for_two_contents_is_refused() {
    let refused = with("ERISFormat: f\nERIS: a\nERIS: b\n").unwrap_err();
    let field = "ERIS".to_owned();
    assert_eq!(refused, NarinfoError::Repeated { line: 6, field });
    assert!(with("URL: u\nERIS: a\nERIS: b\n").is_err());
}

#[test]
fn fields_of_a_download_may_come_before_its_url() {
    let narinfo = with("Compression: xz\nFileSize: 5\nURL: nar/x\nSig: a:b\nSig: c:d\n").unwrap();
    let [download] = narinfo.downloads() else { panic!("{:?}", narinfo.downloads()) };
    assert_eq!(download.url, "nar/x");
    assert_eq!((download.compression.as_deref(), download.file_size), (Some("xz"), Some(5)));
    assert_eq!(narinfo.sigs().collect::<Vec<_>>(), ["a:b", "c:d"]);
}

#[test]
fn fields_that_are_single_are_refused_when_repeated() {
    for field in [
        "StorePath: /nix/store/pgrawpvabzgfv20fap3h5994n80h2x6a-tree",
        "NarHash: sha256:14h4g0h4ig0bcr9b9185zcg57ch2lmjakvycinp7lyvdfy19awp9",
        "NarSize: 101416",
        "References: \nReferences: ",
        "Signature: a\nSignature: a",
        "ERISFormat: a\nERISFormat: a",
        "URL: u\nCompression: xz\nCompression: xz",
        "URL: u\nFileSize: 1\nFileSize: 1",
    ] {
        let refused = with(&format!("{field}\n"));
        assert!(matches!(refused, Err(NarinfoError::Repeated { .. })), "{field}: {refused:?}");
    }
}

#[test]
fn what_must_be_there_is_missed() {
    let whole = with("").unwrap();
    for field in ["StorePath", "NarHash", "NarSize"] {
        assert_eq!(whole.without_field(field), Err(NarinfoError::Missing { field }));
    }
    assert_eq!("".parse::<Narinfo>(), Err(NarinfoError::Missing { field: "StorePath" }));
}

#[test]
fn broken_lines_are_refused() {
    for lines in [
        "\n",
        "no colon\n",
        ": no name\n",
        "two words: x\n",
        "Carriage: return\r\n",
        "Nul: \0\n",
        "Unfinished",
        "FileSize: +5\n",
        "FileSize: -5\n",
        "FileSize: \n",
        "FileSize: 18446744073709551616\n",
        "FileHash: sha256:x\n",
        "References: x\n",
        "References: /nix/store/pgrawpvabzgfv20fap3h5994n80h2x6a-tree\n",
        "Deriver: x\n",
    ] {
        assert!(with(lines).is_err(), "{lines:?}");
    }
    let mut bytes = with("").unwrap().to_string().into_bytes();
    bytes.extend(b"A: \xff\n");
    assert!(matches!(Narinfo::parse(&bytes), Err(NarinfoError::NotUtf8 { .. })));
    assert!(with("").unwrap().with_field("NarSize", "0").is_err());
    assert!(with("").unwrap().with_field("StorePath", "tree").is_err());
}

#[test]
fn sizes_are_bounded() {
    let value = "a".repeat(MAX_VALUE_LENGTH);
    assert!(with(&format!("X: {value}\n")).is_ok());
    let refused = with(&format!("X: {value}a\n"));
    assert!(matches!(refused, Err(NarinfoError::ValueTooLong { .. })));
    assert!(matches!(with(&"X: y\n".repeat(1100)), Err(NarinfoError::TooManyLines)));
    // References alone may be long.
    let references = "pgrawpvabzgfv20fap3h5994n80h2x6a-tree ".repeat(20_000);
    assert_eq!(with(&format!("References: {references}\n")).unwrap().references().len(), 20_000);
    let refused = with(&format!("References: {references}{references}\n"));
    assert!(matches!(refused, Err(NarinfoError::TooLong { .. })));
}

#[test]
fn unknown_derivers_are_none() {
    for lines in ["", "Deriver: unknown-deriver\n", "Deriver: \n"] {
        assert_eq!(with(lines).unwrap().deriver(), None, "{lines}");
    }
}

#[test]
fn editing_keeps_order_and_unknown_fields() {
    let narinfo = with("X-New: 1\nURL: old\nFuture: two  spaces\n").unwrap();
    let edited = narinfo.with_field("URL", "new").unwrap();
    let expected = narinfo.as_str().replace("URL: old", "URL: new");
    assert_eq!(edited.as_str(), expected);
    assert_eq!(edited.downloads()[0].url, "new");
    let longer = edited.with_field("Sig", "k:s").unwrap().with_line("Sig", "l:t").unwrap();
    assert_eq!(longer.as_str(), format!("{expected}Sig: k:s\nSig: l:t\n"));
    assert!(longer.with_field("Sig", "which?").is_err());
    assert_eq!(longer.without_field("Sig").unwrap(), edited);
    assert!(edited.with_field("URL", "a\nNarSize: 1").is_err());
}

#[test]
fn what_publish_writes_can_be_signed_the_way_of_guix() {
    let read = sample("nix/none/pgrawpvabzgfv20fap3h5994n80h2x6a.narinfo");
    let builder = || {
        let (dir, path) = (read.store_dir().clone(), read.store_path().clone());
        Narinfo::builder(dir, path, read.nar_hash(), read.nar_size())
            .references([read.store_path().clone()])
            .ca(Some(ContentAddress::Nar(read.nar_hash())))
            .deriver("abgyy8hvhmz24575bfbjb4pxbm2x5cp4-tree.drv".parse().ok())
            .download(read.downloads()[0].clone())
            .eris("application/x-nix-archive+zstd", "urn:eris:X")
    };
    let built = builder().build().unwrap();
    assert_eq!(built.downloads(), read.downloads());
    assert_eq!(built.references(), [read.store_path().clone()]);
    assert_eq!(built.ca(), read.ca());
    assert_eq!(built.deriver().unwrap().name(), "tree.drv");
    let names: Vec<_> = built.fields().map(|field| field.name).collect();
    assert_eq!(
        names.join(" "),
        "StorePath URL Compression FileHash FileSize NarHash NarSize References Deriver CA \
         ERISFormat ERIS"
    );
    let signed = built.with_line("Signature", "1;host;x").unwrap();
    let [eris] = signed.eris() else { panic!("{:?}", signed.eris()) };
    assert!(eris.end_in_text <= signed.guix_signature().unwrap().offset);
    assert!(builder().eris("a\nb", "urn").build().is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_without_loss_or_refused(
        lines in proptest::collection::vec("(URL|Compression|ERIS|ERISFormat|Sig|[A-Z]): ?[ -~é]{0,9}", 0..9)
    ) {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        if let Ok(narinfo) = with(&lines) {
            prop_assert!(narinfo.as_str().ends_with(&lines));
            prop_assert_eq!(narinfo.fields().count(), 3 + lines.lines().count());
            for eris in narinfo.eris() {
                prop_assert!(eris.end_in_text <= narinfo.as_str().len());
                prop_assert!(narinfo.as_str()[eris.offset_in_text..].starts_with("ERIS:"));
            }
        }
    }

    #[test]
    fn a_damaged_sample_never_panics(which in 0usize..36, at: prop::sample::Index, byte: u8) {
        let (_, mut bytes) = samples().swap_remove(which);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(narinfo) = Narinfo::parse(&bytes) {
            prop_assert_eq!(narinfo.as_str().as_bytes(), &bytes);
        }
    }
}
