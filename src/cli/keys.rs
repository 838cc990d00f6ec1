//! The keys that the user trusts, from the command line, from files, and from the configs of Nix and Guix.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::Usage;
use crate::config;
use crate::store::guix::{self, Acl, Sexp};
use crate::store::{TrustedKeys, ed25519};

/// Longest file of keys that is read, in bytes.
const MAX_LENGTH: u64 = 1 << 20;

/// Adds the keys of one `--trusted-key`: the text of a key of Nix, or a file.
pub(super) fn add(keys: &mut TrustedKeys, named: &str) -> Result<(), Usage> {
    let wrong = |reason: &dyn std::fmt::Display| Usage(format!("--trusted-key {named}: {reason}"));
    let text_error = match named.parse::<ed25519::PublicKey>() {
        Ok(key) => {
            keys.nix.push(key);
            return Ok(());
        }
        Err(error) => error,
    };
    match text(Path::new(named)) {
        Ok(text) => add_text(keys, &text).map_err(|reason| wrong(&reason)),
        // With a colon it looks like a key more than like a file.
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.contains(':') => {
            Err(wrong(&text_error))
        }
        Err(error) => Err(wrong(&format!("neither NAME:BASE64 nor a file that can be read: {error}"))),
    }
}

/// Adds the keys of a file: those of Guix are s-expressions, those of Nix words.
fn add_text(keys: &mut TrustedKeys, text: &str) -> Result<(), String> {
    if text.trim_start().starts_with('(') {
        // Several may stand one after the other.
        let all = Sexp::parse(&format!("(keys {text})")).map_err(|error| error.to_string())?;
        let all = all.after("keys").unwrap_or_default();
        if all.iter().any(|sexp| sexp.after("acl").is_some()) {
            return Err("this is an access list: use --guix-acl=FILE".to_owned());
        }
        for sexp in all {
            keys.guix.push(guix::PublicKey::from_sexp(sexp).map_err(|error| error.to_string())?);
        }
        return Ok(());
    }
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut words = lines.flat_map(str::split_whitespace).peekable();
    if words.peek().is_none() {
        return Err("there is no key in it".to_owned());
    }
    for word in words {
        keys.nix.push(word.parse().map_err(|error: ed25519::KeyError| error.to_string())?);
    }
    Ok(())
}

/// Adds the keys that a `nix.conf` trusts.
pub(super) fn add_nix_conf(keys: &mut TrustedKeys, file: &Path) -> Result<(), Usage> {
    let wrong = |reason: &dyn std::fmt::Display| Usage(format!("--nix-conf: {reason}"));
    for key in config::trusted_public_keys(file).map_err(|error| wrong(&error))? {
        let parsed = key.parse().map_err(|error: ed25519::KeyError| {
            wrong(&format!("{}: a trusted key: {error}", file.display()))
        })?;
        keys.nix.push(parsed);
    }
    Ok(())
}

/// Adds the keys of an access list of Guix.
pub(super) fn add_guix_acl(keys: &mut TrustedKeys, file: &Path) -> Result<(), Usage> {
    let wrong = |reason: &dyn std::fmt::Display| Usage(format!("--guix-acl: {}: {reason}", file.display()));
    let acl: Acl = text(file).map_err(|error| wrong(&error))?.parse().map_err(|error| wrong(&error))?;
    for passed_over in &acl.passed_over {
        tracing::warn!("{}: {passed_over}", file.display());
    }
    keys.guix.extend(acl.keys);
    Ok(())
}

/// A text file of bounded length.
pub(super) fn text(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(file)?.take(MAX_LENGTH + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_LENGTH {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {MAX_LENGTH} bytes"),
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples");
    const NIX: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

    fn sample(name: &str) -> String {
        format!("{SAMPLES}/{name}")
    }

    fn added(named: &str) -> Result<TrustedKeys, String> {
        let mut keys = TrustedKeys::default();
        add(&mut keys, named).map(|()| keys).map_err(|error| error.to_string())
    }

    fn counts(named: &str) -> (usize, usize) {
        let keys = added(named).expect(named);
        (keys.nix.len(), keys.guix.len())
    }

    #[test]
    fn a_key_is_a_text_or_a_file_of_nix_or_guix() {
        assert_eq!(counts(NIX), (1, 0));
        assert_eq!(counts(&sample("nix/key.pub")), (1, 0));
        assert_eq!(counts(&sample("guix/signing-key.pub")), (0, 1));
    }

    #[test]
    fn a_file_may_have_several_keys_of_one_kind() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let named = file.to_str().unwrap();
        fs::write(&file, format!("# of work\n{NIX} # theirs\n\n{NIX}  {NIX}\n")).unwrap();
        assert_eq!(counts(named), (3, 0));
        let guix = fs::read_to_string(sample("guix/signing-key.pub")).unwrap();
        let other = fs::read_to_string(sample("guix/our-test-signing-key.pub")).unwrap();
        fs::write(&file, format!("\n{guix}\n{other}")).unwrap();
        assert_eq!(counts(named), (0, 2));
    }

    #[test]
    fn a_wrong_key_is_told_with_its_name_and_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys");
        let named = file.to_str().unwrap();
        for (text, words) in [
            ("", "no key"),
            ("# nothing\n", "no key"),
            ("cache:AAAA", "32 expected"),
            ("(acl)", "--guix-acl"),
            ("(public-key", "s-expression"),
            ("(public-key (rsa (n #00#)))", "ecc"),
        ] {
            fs::write(&file, text).unwrap();
            let error = added(named).unwrap_err();
            assert!(error.contains(named), "{error}");
            assert!(error.contains(words) || words == "s-expression", "{words}: {error}");
        }
        for (named, words) in [("cache:AAAA", "32 expected"), ("/none/key", "neither"), (SAMPLES, "neither")]
        {
            let error = added(named).unwrap_err();
            assert!(error.contains(named) && error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_access_list_and_a_nix_conf_give_their_keys() {
        let mut keys = TrustedKeys::default();
        add_guix_acl(&mut keys, Path::new(&sample("guix/acl"))).unwrap();
        assert_eq!(keys.guix.len(), 2);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("nix.conf");
        fs::write(&file, "extra-trusted-public-keys =\n").unwrap();
        add_nix_conf(&mut keys, &file).unwrap();
        assert_eq!(keys.nix[0].to_string(), NIX, "the key that Nix trusts by default");
        fs::write(&file, "trusted-public-keys = cache:AAAA\n").unwrap();
        let error = add_nix_conf(&mut keys, &file).unwrap_err().to_string();
        assert!(error.contains("nix.conf") && error.contains("cache"), "{error}");
        for error in [
            add_guix_acl(&mut keys, Path::new("/none/acl")).unwrap_err(),
            add_guix_acl(&mut keys, Path::new(&sample("nix/key.pub"))).unwrap_err(),
        ] {
            assert!(error.to_string().starts_with("--guix-acl: /"), "{error}");
        }
    }
}
