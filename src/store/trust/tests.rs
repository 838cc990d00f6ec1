use std::fs;
use std::path::PathBuf;

use super::*;
use crate::store::narinfo::NarinfoError;

const GUIX: &str = "guix/cached/rc7mh4hv8bhg85ndx9jhzyhs27ji0q4b.narinfo";
const NIX: &str = "nix/cache-zstd/v6aq93ycagivwjd24sdq6bk8mm0h4jj1.narinfo";
const ERIS: [(&str, &str); 2] = [
    ("ERISFormat", "application/x-nix-archive+zstd"),
    (
        "ERIS",
        "urn:eris:BIBC2LUTIQH43S2KRIAV7TBXNUUVPZTMV6KFA2M7AL5V6FNE77VNUDDVDAGJUEEAFATVO2QQT67SMOPTO3LGWCJFU7BZVCF5VXEQQW25BE",
    ),
];
/// The key that signed the narinfos printed in Guix bug#52555; only they tell it.
const BUG_KEY: &str = "04C2F8895A5443F59B8964100B5064758F457F30CDDA5142C140746115055790";

fn samples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/samples")
}

fn text(name: &str) -> String {
    fs::read_to_string(samples().join(name)).unwrap()
}

fn sample(name: &str) -> Narinfo {
    text(name).parse().unwrap()
}

fn keys() -> TrustedKeys {
    let bug_key = data_encoding::HEXUPPER.decode(BUG_KEY.as_bytes()).unwrap();
    TrustedKeys {
        nix: vec![text("nix/key.pub").parse().unwrap()],
        guix: vec![
            text("guix/signing-key.pub").parse().unwrap(),
            text("guix/our-test-signing-key.pub").parse().unwrap(),
            guix::PublicKey::from_bytes(bug_key.try_into().unwrap()).unwrap(),
        ],
    }
}

fn nix_signer() -> Signer {
    Signer::Nix { name: "test-cache-1".to_owned() }
}

/// A secret key of ours, and trust in it beside the others.
fn our_key(name: &str) -> (ed25519::SecretKey, TrustedKeys) {
    let secret = ed25519::SecretKey::from_seed(name, &[9; 32]).unwrap();
    let mut keys = keys();
    keys.nix.push(secret.public_key());
    (secret, keys)
}

fn judged(narinfo: &Narinfo, keys: &TrustedKeys) -> Result<Trust, Refusal> {
    judge(narinfo, narinfo.store_path().hash_part(), narinfo.store_dir(), keys)
}

/// The verdict on a changed text, which still is a narinfo.
fn of_text(text: &str) -> Result<Trust, Refusal> {
    judged(&text.parse().unwrap(), &keys())
}

fn with_eris(narinfo: &Narinfo) -> Narinfo {
    ERIS.iter().fold(narinfo.clone(), |narinfo, (name, value)| narinfo.with_line(name, value).unwrap())
}

/// The text with its line `field` moved to the end.
fn moved_down(text: &str, field: &str) -> String {
    let (moved, kept): (Vec<&str>, Vec<&str>) =
        text.split_inclusive('\n').partition(|line| line.starts_with(&format!("{field}:")));
    assert_eq!(moved.len(), 1);
    kept.concat() + moved[0]
}

#[test]
fn every_narinfo_of_the_real_programs_is_trusted_by_its_key_and_by_no_other() {
    let mut count = 0;
    for folder in ["guix/cached", "guix/uncached", "guix", "nix/cache-zstd", "nix/none"] {
        for entry in fs::read_dir(samples().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "narinfo") {
                continue;
            }
            let narinfo: Narinfo = fs::read_to_string(&path).unwrap().parse().unwrap();
            let trust = judged(&narinfo, &keys()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(matches!(trust, Trust::NarHash { unbound: Unbound::Absent, .. }), "{}", path.display());
            assert_eq!(matches!(trust.signer(), Signer::Nix { .. }), folder.starts_with("nix"));
            let nobody = judged(&narinfo, &TrustedKeys::default());
            assert!(matches!(nobody, Err(Refusal::Untrusted { .. })), "{}", path.display());
            count += 1;
        }
    }
    assert_eq!(count, 11 + 11 + 1 + 5 + 5);
}

#[test]
fn an_eris_urn_above_the_signature_of_guix_is_bound() {
    for (name, contents) in [("bug52555/bug52555-v1.narinfo", 2), ("bug52555/bug52555-v2-baked.narinfo", 1)] {
        let narinfo = sample(name);
        let Ok(Trust::Binding { signer, contents: bound }) = judged(&narinfo, &keys()) else {
            panic!("{name}")
        };
        assert_eq!((bound.len(), &bound[..]), (contents, narinfo.eris()));
        assert_eq!(signer.to_string(), BUG_KEY);
    }
}

#[test]
fn a_guix_signature_of_another_text_is_refused() {
    // It bears the signature of the baked one.
    let unbaked = judged(&sample("bug52555/bug52555-v2-unbaked.narinfo"), &keys());
    assert_eq!(unbaked, Err(Refusal::Guix(guix::SignatureError::OtherText)));
    let text = text(GUIX);
    for (from, to) in [
        ("NarSize: 1320", "NarSize: 1321"),
        ("NarHash: sha256:1", "NarHash: sha256:0"),
        ("Deriver: 0", "Deriver: 1"),
        ("busybox", "busyb0x"),
        ("NarSize: ", "NarSize:"),
    ] {
        let tampered = text.replacen(from, to, 1);
        assert_ne!(tampered, text);
        assert_eq!(of_text(&tampered), Err(Refusal::Guix(guix::SignatureError::OtherText)), "{to}");
    }
}

#[test]
fn a_guix_signature_with_another_number_in_it_is_refused() {
    let narinfo = sample(GUIX);
    let field = narinfo.guix_signature().unwrap().value;
    let (head, encoded) = field.rsplit_once(';').unwrap();
    let signature = String::from_utf8(data_encoding::BASE64.decode(encoded.as_bytes()).unwrap()).unwrap();
    let with = |from: &str, to: &str| {
        assert!(signature.contains(from));
        let encoded = data_encoding::BASE64.encode(signature.replacen(from, to, 1).as_bytes());
        judged(&narinfo.with_field("Signature", &format!("{head};{encoded}")).unwrap(), &keys())
    };
    let key = keys().guix[0];
    let wrong = Err(Refusal::Guix(guix::SignatureError::Wrong { key }));
    assert_eq!(with("(r #02594C", "(r #02594D"), wrong);
    assert_eq!(with("(s #0D1B7E", "(s #0D1B7F"), wrong);
    // Another trusted key is named.
    let other = keys().guix[1];
    let named = with(&key.to_string(), &other.to_string());
    assert_eq!(named, Err(Refusal::Guix(guix::SignatureError::Wrong { key: other })));
    let hash = with("sha256 #29A4", "sha256 #29A5");
    assert_eq!(hash, Err(Refusal::Guix(guix::SignatureError::OtherText)));
    let shape = |result| matches!(result, Err(Refusal::Guix(guix::SignatureError::Shape { .. })));
    assert!(shape(with("rfc6979", "raw")));
    assert!(shape(with("ecdsa", "eddsa")));
    assert!(shape(with("sha256", "sha512")));
    assert!(shape(with("(r #02", "(r #F2")));
    assert!(shape(with(" (sig-val", " (remark) (sig-val")));
    // White space is free.
    assert!(with("(r #02594C", "(r\n#0259 4C").is_ok());
}

#[test]
fn a_guix_signature_that_is_none_is_refused() {
    let narinfo = sample(GUIX);
    let with = |value: &str| match judged(&narinfo.with_field("Signature", value).unwrap(), &keys()) {
        Err(Refusal::Guix(error)) => error,
        other => panic!("{value}: {other:?}"),
    };
    let value = narinfo.guix_signature().unwrap().value.to_owned();
    assert_eq!(with(&value.replacen('1', "2", 1)), guix::SignatureError::Version { found: "2".to_owned() });
    assert!(matches!(with(&format!("{value};")), guix::SignatureError::Field { .. }));
    assert!(matches!(with("1;vm"), guix::SignatureError::Field { .. }));
    assert_eq!(with("1;vm;*"), guix::SignatureError::Base64);
    assert_eq!(with("1;vm;/w=="), guix::SignatureError::Base64);
    assert!(matches!(with("1;vm;"), guix::SignatureError::Sexp { .. }));
}

#[test]
fn what_stands_below_the_signature_of_guix_is_not_covered() {
    let text = text(GUIX);
    for field in ["StorePath", "NarHash", "References", "NarSize"] {
        let not_covered = Err(Refusal::Guix(guix::SignatureError::NotCovered { field }));
        assert_eq!(of_text(&moved_down(&text, field)), not_covered);
    }
    // A mirror may write other URLs, and a URN, but nobody is bound by them.
    let with_urn = with_eris(&sample(GUIX));
    let Ok(Trust::NarHash { unbound, .. }) = judged(&with_urn, &keys()) else { panic!() };
    assert_eq!(unbound, Unbound::Unsigned);
    // The format is part of the binding.
    let baked = sample("bug52555/bug52555-v2-baked.narinfo");
    let resigned = moved_down(baked.as_str(), "ERISFormat");
    assert!(matches!(of_text(&resigned), Err(Refusal::Guix(guix::SignatureError::OtherText))));
}

#[test]
fn the_signature_of_guix_ends_the_text_only_where_guix_says_so() {
    // Guix takes the first `Signature:` for the end of the text, in whichever line.
    let narinfo = sample(GUIX);
    let marked = format!("X-Signature: 1\n{narinfo}");
    assert_eq!(of_text(&marked), Err(Refusal::Guix(guix::SignatureError::Ambiguous)));
}

#[test]
fn a_field_given_twice_is_no_narinfo() {
    for (name, fields) in [
        (GUIX, &["StorePath", "NarHash", "NarSize", "References", "Signature"][..]),
        (NIX, &["StorePath", "NarHash", "NarSize", "References"]),
        ("bug52555/bug52555-v2-baked.narinfo", &["ERIS", "ERISFormat"]),
    ] {
        let text = text(name);
        for field in fields {
            let line =
                text.split_inclusive('\n').find(|line| line.starts_with(&format!("{field}:"))).unwrap();
            let twice = Narinfo::parse(format!("{text}{line}").as_bytes());
            assert!(matches!(twice, Err(NarinfoError::Repeated { .. })), "{name} {field}");
        }
    }
}

#[test]
fn a_narinfo_for_another_path_than_was_asked_for_is_refused() {
    let (asked, other) = (sample(GUIX), sample("guix/cached/r74c72nj0inb52rzcc7hyf4nn3njg1s4.narinfo"));
    let (asked, found) = (asked.store_path().hash_part(), other.store_path().hash_part());
    assert_eq!(judge(&other, asked, other.store_dir(), &keys()), Err(Refusal::OtherPath { asked, found }));
    let elsewhere = judge(&other, found, &StoreDir::nix(), &keys());
    let dirs = Refusal::OtherStoreDir { asked: StoreDir::nix(), found: StoreDir::guix() };
    assert_eq!(elsewhere, Err(dirs));
}

#[test]
fn a_narinfo_without_signature_is_refused() {
    assert_eq!(judged(&sample(GUIX).without_field("Signature").unwrap(), &keys()), Err(Refusal::Unsigned));
    assert_eq!(judged(&sample(NIX).without_field("Sig").unwrap(), &keys()), Err(Refusal::Unsigned));
}

#[test]
fn a_changed_narinfo_of_nix_is_refused() {
    let text = text(NIX);
    let wrong = Err(Refusal::WrongSig { name: "test-cache-1".to_owned() });
    for (from, to) in [
        ("NarSize: 896", "NarSize: 897"),
        ("NarHash: sha256:0z", "NarHash: sha256:0y"),
        (
            "StorePath: /nix/store/v6aq93ycagivwjd24sdq6bk8mm0h4jj1-hello",
            "StorePath: /nix/store/v6aq93ycagivwjd24sdq6bk8mm0h4jj1-hallo",
        ),
        ("busybox-static", "busybox-dynamic"),
    ] {
        let tampered = text.replacen(from, to, 1);
        assert_ne!(tampered, text);
        assert_eq!(of_text(&tampered), wrong, "{to}");
    }
    // What the fingerprint leaves out may be written in another way.
    assert!(of_text(&text.replacen("NarSize: 896", "NarSize: 00896", 1)).is_ok());
    assert!(of_text(&text.replacen("Compression: zstd", "Compression: xz", 1)).is_ok());
}

#[test]
fn a_trusted_name_on_the_signature_of_another_key_is_not_enough() {
    let (forger, _) = our_key("test-cache-1");
    let narinfo = sample(NIX).without_field("Sig").unwrap();
    let forged = forger.sign_narinfo(&narinfo).unwrap();
    assert_eq!(judged(&forged, &keys()), Err(Refusal::WrongSig { name: "test-cache-1".to_owned() }));
}

#[test]
fn a_trusted_key_under_another_name_is_not_enough() {
    let text = text(NIX).replace("Sig: test-cache-1:", "Sig: test-cache-2:");
    assert_eq!(of_text(&text), Err(Refusal::Untrusted { names: vec!["test-cache-2".to_owned()] }));
}

#[test]
fn one_good_signature_among_others_is_enough() {
    let (stranger, _) = our_key("stranger-1");
    let (forger, _) = our_key("test-cache-1");
    let bare = sample(NIX).without_field("Sig").unwrap();
    let good = sample(NIX).sigs().next().unwrap().to_owned();
    let others =
        forger.sign_narinfo(&stranger.sign_narinfo(&bare).unwrap()).unwrap().with_line("Sig", "garbage");
    let all = others.unwrap().with_line("Sig", &good).unwrap();
    let trust = Trust::NarHash { signer: nix_signer(), unbound: Unbound::Absent };
    assert_eq!(judged(&all, &keys()), Ok(trust));
}

#[test]
fn a_thousand_signatures_do_not_buy_a_thousand_verifications() {
    let (forger, _) = our_key("test-cache-1");
    let good = sample(NIX).sigs().next().unwrap().to_owned();
    let bare = sample(NIX).without_field("Sig").unwrap();
    let false_line = format!("Sig: {}\n", forger.sign("nothing"));
    let text = |count: usize| format!("{bare}{}Sig: {good}\n", false_line.repeat(count));
    assert!(of_text(&text(MAX_SIGNATURES - 1)).is_ok());
    assert!(matches!(of_text(&text(MAX_SIGNATURES)), Err(Refusal::WrongSig { .. })));
    let strangers = "Sig: stranger:AAAA\n".repeat(900);
    let Err(Refusal::Untrusted { names }) = of_text(&format!("{bare}{strangers}")) else { panic!() };
    assert_eq!(names.len(), MAX_SIGNATURES);
}

#[test]
fn an_eris_urn_in_a_narinfo_of_nix_is_bound_by_a_signature_of_its_own() {
    let (secret, keys) = our_key("eris-1");
    let narinfo = with_eris(&sample(NIX));
    let unbound = |narinfo: &Narinfo| match judged(narinfo, &keys) {
        Ok(Trust::NarHash { signer, unbound }) if signer == nix_signer() => unbound,
        other => panic!("{other:?}"),
    };
    assert_eq!(unbound(&narinfo), Unbound::Unsigned);
    let signed = secret.sign_narinfo(&narinfo).unwrap();
    let signer = Signer::Nix { name: "eris-1".to_owned() };
    assert_eq!(judged(&signed, &keys), Ok(Trust::Binding { signer, contents: signed.eris().to_vec() }));

    // With the signature of Nix alone, it is one more place to fetch the NAR from.
    assert_eq!(unbound(&signed.without_field("ERISSig").unwrap()), Unbound::Unsigned);
    let changed = signed.with_field("ERISFormat", "application/x-nix-archive").unwrap();
    assert_eq!(unbound(&changed), Unbound::WrongSig { name: "eris-1".to_owned() });
    let stranger = our_key("stranger-1").0.sign_narinfo(&narinfo).unwrap();
    assert_eq!(unbound(&stranger), Unbound::Untrusted { names: vec!["stranger-1".to_owned()] });
    // A `Sig` is not an `ERISSig`, whoever made it.
    let sig = signed.sigs().last().unwrap();
    let swapped = signed.with_field("ERISSig", sig).unwrap();
    assert_eq!(unbound(&swapped), Unbound::WrongSig { name: "eris-1".to_owned() });
}

#[test]
fn the_urn_of_another_path_under_a_valid_signature_is_not_bound() {
    let (secret, keys) = our_key("eris-1");
    let other = secret.sign_narinfo(&with_eris(&sample("nix/none/4dzcv7h48khvib1hhs2csypslwcsn6zy.narinfo")));
    let other = other.unwrap();
    let signed = secret.sign_narinfo(&sample(NIX)).unwrap();
    let of_other = other.field("ERISSig").unwrap().value;
    let mixed = with_eris(&signed).with_line("ERISSig", of_other).unwrap();
    let unbound = Unbound::WrongSig { name: "eris-1".to_owned() };
    assert_eq!(judged(&mixed, &keys), Ok(Trust::NarHash { signer: nix_signer(), unbound }));
}

#[test]
fn a_signed_urn_without_a_signature_that_nix_would_want_is_refused() {
    let (secret, keys) = our_key("eris-1");
    let signed = secret.sign_narinfo(&with_eris(&sample(NIX))).unwrap().without_field("Sig").unwrap();
    assert_eq!(judged(&signed, &keys), Err(Refusal::Unsigned));
    // Also where its references were changed, of which the `ERISSig` does not speak.
    let signed = secret.sign_narinfo(&with_eris(&sample(NIX))).unwrap();
    let changed = signed.with_field("References", "").unwrap();
    assert_eq!(judged(&changed, &keys), Err(Refusal::WrongSig { name: "test-cache-1".to_owned() }));
}

#[test]
fn a_mirror_may_bind_a_urn_to_a_path_that_guix_signed() {
    let (secret, keys) = our_key("mirror-1");
    let signed = secret.sign_narinfo(&with_eris(&sample(GUIX))).unwrap().without_field("Sig").unwrap();
    let Ok(Trust::Binding { signer, .. }) = judged(&signed, &keys) else { panic!() };
    assert_eq!(signer.to_string(), "mirror-1");
}

#[test]
fn many_contents_are_looked_at_up_to_a_bound() {
    let (secret, keys) = our_key("eris-1");
    let urns: String = (0..MAX_CONTENTS + 2).map(|number| format!("ERIS: urn:eris:{number}\n")).collect();
    let signed = secret.sign_narinfo(&format!("{}{urns}", text(NIX)).parse().unwrap()).unwrap();
    let Ok(Trust::Binding { contents, .. }) = judged(&signed, &keys) else { panic!() };
    assert_eq!(contents, signed.eris()[..MAX_CONTENTS]);
}

#[test]
fn where_both_programs_signed_the_reason_is_that_of_the_trusted_key() {
    let (secret, mut keys) = our_key("ours-1");
    let both = secret.sign_narinfo(&sample(GUIX)).unwrap();
    let key = keys.guix[0];
    assert_eq!(*judged(&both, &keys).unwrap().signer(), Signer::Guix { key });
    let changed = both.with_field("NarSize", "1").unwrap();
    assert_eq!(judged(&changed, &keys), Err(Refusal::Guix(guix::SignatureError::OtherText)));
    keys.guix.clear();
    assert_eq!(judged(&both, &keys).unwrap().signer().to_string(), "ours-1");
    assert_eq!(judged(&changed, &keys), Err(Refusal::WrongSig { name: "ours-1".to_owned() }));
    keys.nix.clear();
    let names = vec![key.to_string(), "ours-1".to_owned()];
    assert_eq!(judged(&both, &keys), Err(Refusal::Untrusted { names }));
}
