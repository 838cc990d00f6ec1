//! The keys that narinfos are signed with, and what each of them signs.
//!
//! A key of Nix adds lines (`Sig`, `ERISSig`), and so may any number of them; Guix's signature covers the text above it, and
//! there is one in a narinfo. To the narinfos of another cache only a binding of the ERIS content is added: whoever mirrors
//! does not vouch for what was built.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::store::guix::{self, Signature, SigningError};
use crate::store::narinfo::{ErisBinding, NarinfoError};
use crate::store::{Narinfo, StoreDir, StorePath, ed25519};

/// Longest key file that is read, in bytes; a key pair of Guix has 400.
const MAX_FILE: usize = 16 << 10;

/// Why there is no key in a file. Nothing here shows what the file holds, as it may be secret whatever it is.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else than a text of a key's length.
    #[error("{} is no file of a secret key: {reason}", path.display())]
    NoText {
        /// The file.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
    /// It is not `NAME:BASE64`, as Nix writes secret keys.
    #[error("{} is no secret key of Nix: {reason}", path.display())]
    Nix {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is an s-expression, but not that of a secret key of Guix.
    #[error("{} is no secret key of Guix: {reason}", path.display())]
    Guix {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is one key of Guix already.
    #[error("{} is a second key of Guix, and a narinfo has room for one signature of Guix", path.display())]
    SecondGuixKey {
        /// The file.
        path: PathBuf,
    },
}

/// Why a narinfo is not signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// Stock Nix does not know the signatures of Guix.
    #[error("a key of Guix does not sign paths of {store_dir}: make one with `nix key generate-secret`")]
    WrongProgram {
        /// The store.
        store_dir: StoreDir,
    },
    /// There is no signature of Guix that could be made anew.
    #[error(
        "{path} bears no signature of Guix to be made anew; a key of Nix can bind the ERIS content to it"
    )]
    Unsigned {
        /// The store path.
        path: StorePath,
    },
    /// There is a signature of Guix by somebody else, which another would replace.
    #[error(
        "{path} bears a signature of Guix by another key, which is to be kept; a key of Nix can bind the ERIS content to it"
    )]
    OtherGuixKey {
        /// The store path.
        path: StorePath,
    },
    /// A signature of Guix by somebody else covers the fields of another ERIS content, and there is no room for two.
    #[error("{path} names another ERIS content, and a signature of Guix by another key covers that")]
    OtherContent {
        /// The store path.
        path: StorePath,
    },
    /// The signature of Guix that is to be renewed is wrong.
    #[error("{path} bears a signature by this key of Guix, but the narinfo was changed since")]
    Changed {
        /// The store path.
        path: StorePath,
    },
    /// Guix would not believe the signature.
    #[error(transparent)]
    Guix(#[from] SigningError),
    /// The signed text would not be a narinfo.
    #[error(transparent)]
    Narinfo(#[from] NarinfoError),
}

/// The keys that a publisher signs with; none signs nothing.
#[derive(Debug, Clone, Default)]
pub struct SigningKeys {
    nix: Vec<ed25519::SecretKey>,
    guix: Option<guix::SecretKey>,
    /// What the signatures of Guix say they are from; a remark for people.
    host: String,
}

impl SigningKeys {
    /// Reads key files: Nix's `NAME:BASE64`, Guix's `signing-key.sec`, or a key pair of libgcrypt. Blocks on the disk.
    pub fn read<P: AsRef<Path>>(files: &[P]) -> Result<Self, KeyFileError> {
        let mut keys = Self { host: host_name(), ..Self::default() };
        for path in files {
            let path = path.as_ref();
            let text = read_secret(path)?;
            if !text.trim_start().starts_with('(') {
                let failed = |error| KeyFileError::Nix { path: path.to_owned(), reason: nix_reason(&error) };
                keys.nix.push(ed25519::SecretKey::parse(&text).map_err(failed)?);
                continue;
            }
            let failed = |error| KeyFileError::Guix { path: path.to_owned(), reason: guix_reason(&error) };
            let key = guix::SecretKey::parse(&text).map_err(failed)?;
            if keys.guix.replace(key).is_some() {
                return Err(KeyFileError::SecondGuixKey { path: path.to_owned() });
            }
        }
        Ok(keys)
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.nix.is_empty() && self.guix.is_none()
    }

    /// Whether the keys sign paths of this store.
    pub(super) fn check(&self, store_dir: &StoreDir) -> Result<(), SignError> {
        match self.guix.is_some() && *store_dir == StoreDir::nix() {
            true => Err(SignError::WrongProgram { store_dir: store_dir.clone() }),
            false => Ok(()),
        }
    }

    /// Whether stock clients of this store believe the keys.
    pub(super) fn is_believed(&self, store_dir: &StoreDir) -> bool {
        self.is_empty() || self.guix.is_some() || *store_dir != StoreDir::guix()
    }

    /// A narinfo of ours with all signatures.
    pub fn sign(&self, narinfo: &Narinfo) -> Result<Narinfo, SignError> {
        let mut signed = narinfo.clone();
        for key in &self.nix {
            signed = key.sign_narinfo(&signed)?;
        }
        match &self.guix {
            Some(key) => Ok(guix::sign(&signed, &self.host, key)?),
            None => Ok(signed),
        }
    }

    /// A narinfo of another cache with an ERIS content, bound to the path by our keys. Its own signatures stay valid.
    ///
    /// Contents that it named before give way, except what a signature of Guix by another key covers: where that leaves no
    /// room for this content, it is an error. A signature by our own key is made anew, so that it covers the content.
    pub fn bind(&self, narinfo: &Narinfo, format: &str, urn: &str) -> Result<Narinfo, SignError> {
        let mut bound = match &self.guix {
            Some(key) if self.is_ours(narinfo)? => {
                let bare = without_contents(narinfo, 0)?;
                let (above, below) = bare.as_str().split_at(signed_until(&bare));
                let signed = format!("{above}ERISFormat: {format}\nERIS: {urn}\n");
                let signature = Signature::sign(&signed, &self.host, key);
                let below = below.split_once('\n').map_or("", |(_, rest)| rest);
                Narinfo::parse(format!("{signed}Signature: {signature}\n{below}").as_bytes())?
            }
            _ => with_content(narinfo, format, urn)?,
        };
        for key in &self.nix {
            bound = key.sign_contents(&bound)?;
        }
        Ok(bound)
    }

    /// Whether the narinfo bears a good signature by our key of Guix.
    fn is_ours(&self, narinfo: &Narinfo) -> Result<bool, SignError> {
        let Some(key) = &self.guix else { return Ok(false) };
        let path = || narinfo.store_path().clone();
        let Some(field) = narinfo.guix_signature() else {
            self.check(narinfo.store_dir())?;
            return Err(SignError::Unsigned { path: path() });
        };
        match Signature::parse(field.value) {
            Ok(found) if found.key() == key.public_key() => {
                match found.verify(&narinfo.as_str()[..field.offset]) {
                    Ok(()) => Ok(true),
                    Err(_) => Err(SignError::Changed { path: path() }),
                }
            }
            _ => Err(SignError::OtherGuixKey { path: path() }),
        }
    }
}

/// Where the text ends that a signature of Guix covers; 0 where there is none.
fn signed_until(narinfo: &Narinfo) -> usize {
    narinfo.guix_signature().map_or(0, |field| field.offset)
}

/// The narinfo without the fields of ERIS contents that begin at `from` or below it.
fn without_contents(narinfo: &Narinfo, from: usize) -> Result<Narinfo, NarinfoError> {
    let (kept, rest) = narinfo.as_str().split_at(from);
    let mut text = kept.to_owned();
    for line in rest.split_inclusive('\n') {
        let name = line.split_once(':').map_or("", |(name, _)| name);
        if !["ERIS", "ERISFormat", ed25519::ERIS_SIG].contains(&name) {
            text.push_str(line);
        }
    }
    Narinfo::parse(text.as_bytes())
}

/// The narinfo with this content, and no other that could be taken away without breaking its signature of Guix.
fn with_content(narinfo: &Narinfo, format: &str, urn: &str) -> Result<Narinfo, SignError> {
    let is_it = |content: &ErisBinding| content.urn == urn && content.format.as_deref() == Some(format);
    let mut bound = without_contents(narinfo, signed_until(narinfo))?;
    if bound.eris().iter().any(is_it) {
        return Ok(bound);
    }
    // A format that is signed speaks of whatever `ERIS` line there is, and one that is not makes a second such line an error.
    let other = || SignError::OtherContent { path: narinfo.store_path().clone() };
    if bound.field("ERISFormat").is_none() {
        bound = bound.with_line("ERISFormat", format).map_err(|_| other())?;
    }
    if !bound.eris().iter().any(is_it) {
        bound = bound.with_line("ERIS", urn).map_err(|_| other())?;
    }
    if bound.eris().iter().any(is_it) { Ok(bound) } else { Err(other()) }
}

/// The text of a key file, wiped when it goes.
fn read_secret(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o044 != 0 {
        tracing::warn!(
            "{}: others than its owner can read this secret key (mode {:04o})",
            path.display(),
            mode & 0o7777
        );
    }
    // As large as it may get, so that it never moves and leaves a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let no_text = |reason| KeyFileError::NoText { path: path.to_owned(), reason };
    if bytes.len() > MAX_FILE {
        return Err(no_text("it is longer than 16 KiB"));
    }
    let text = str::from_utf8(&bytes).map_err(|_| no_text("it is not UTF-8"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// What is wrong, without the name: in another kind of file, what stands before a colon may be the secret.
fn nix_reason(error: &ed25519::KeyError) -> &'static str {
    match error {
        ed25519::KeyError::NoName => "it has no name before a colon",
        ed25519::KeyError::Base64 { .. } => "what follows the colon is not base64",
        ed25519::KeyError::Length { found: 32, .. } => {
            "it is a public key, or the first half of a secret one"
        }
        ed25519::KeyError::Length { .. } => "it is not 64 bytes long",
        ed25519::KeyError::Point { .. } | ed25519::KeyError::Mismatch { .. } => {
            "its two halves are not of one key"
        }
    }
}

fn guix_reason(error: &guix::KeyError) -> &'static str {
    match error {
        guix::KeyError::Sexp(_) => "it is no s-expression",
        guix::KeyError::Shape { .. } => "it is not a (private-key ...) on the curve Ed25519",
        guix::KeyError::Point => "its public half is no point of the curve",
        guix::KeyError::Scalar => "its secret number is out of range",
        guix::KeyError::Mismatch => "its two halves are not of one key",
    }
}

/// The name of this machine, as Guix puts it into signatures; empty where it would not fit there.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.len() > 255 || name.contains(|c: char| c == ';' || c.is_control()) { String::new() } else { name }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::store::trust::judge;
    use crate::store::{Trust, TrustedKeys};

    /// A key of Guix that protects nothing.
    const GUIX: &str = include_str!("../../tests/samples/guix/test-signing-key.sec");
    const NIX: &str =
        include_str!("../../tests/samples/nix/cache-zstd/v6aq93ycagivwjd24sdq6bk8mm0h4jj1.narinfo");
    const OF_GUIX: &str =
        include_str!("../../tests/samples/guix/cached/rc7mh4hv8bhg85ndx9jhzyhs27ji0q4b.narinfo");
    const FORMAT: &str = "application/x-nix-archive+zstd";
    const URN: &str = "urn:eris:BIBC2LUTIQH43S2KRIAV7TBXNUUVPZTMV6KFA2M7AL5V6FNE77VNUDDVDAGJUEEAFATVO2QQT67SMOPTO3LGWCJFU7BZVCF5VXEQQW25BE";

    fn nix_key(name: &str) -> ed25519::SecretKey {
        ed25519::SecretKey::from_seed(name, &[3; 32]).unwrap()
    }

    fn of_nix(names: &[&str]) -> SigningKeys {
        SigningKeys { nix: names.iter().map(|name| nix_key(name)).collect(), ..SigningKeys::default() }
    }

    fn of_guix() -> SigningKeys {
        SigningKeys {
            guix: Some(guix::SecretKey::parse(GUIX).unwrap()),
            host: "host".into(),
            ..SigningKeys::default()
        }
    }

    /// Keys that trust these, and the caches of the samples.
    fn trust_in(keys: &SigningKeys) -> TrustedKeys {
        let mut trusted = TrustedKeys::default();
        trusted.nix.push(include_str!("../../tests/samples/nix/key.pub").parse().unwrap());
        trusted.nix.extend(keys.nix.iter().map(ed25519::SecretKey::public_key));
        trusted.guix.push(include_str!("../../tests/samples/guix/signing-key.pub").parse().unwrap());
        trusted.guix.extend(keys.guix.iter().map(|key| *key.public_key()));
        trusted
    }

    fn judged(narinfo: &Narinfo, keys: &SigningKeys) -> Trust {
        judge(narinfo, narinfo.store_path().hash_part(), narinfo.store_dir(), &trust_in(keys)).unwrap()
    }

    fn is_bound(narinfo: &Narinfo, keys: &SigningKeys) -> bool {
        matches!(judged(narinfo, keys), Trust::Binding { contents, .. } if contents[0].urn == URN)
    }

    /// An unsigned narinfo with an ERIS content, as it is published.
    fn unsigned(text: &str, signature: &str) -> Narinfo {
        let narinfo = text.parse::<Narinfo>().unwrap().without_field(signature).unwrap();
        narinfo.with_line("ERISFormat", FORMAT).unwrap().with_line("ERIS", URN).unwrap()
    }

    #[test]
    fn what_we_sign_is_bound_for_those_who_trust_the_key() {
        for (narinfo, keys) in
            [(unsigned(NIX, "Sig"), of_nix(&["one-1", "two-1"])), (unsigned(OF_GUIX, "Signature"), of_guix())]
        {
            assert!(is_bound(&keys.sign(&narinfo).unwrap(), &keys));
        }
        let both = SigningKeys { nix: vec![nix_key("one-1")], ..of_guix() };
        let signed = both.sign(&unsigned(OF_GUIX, "Signature")).unwrap();
        assert!(is_bound(&signed, &of_guix()) && is_bound(&signed, &of_nix(&["one-1"])));
    }

    #[test]
    fn a_mirror_keeps_the_signature_and_binds_by_a_key_of_nix() {
        let keys = of_nix(&["mirror-1"]);
        for text in [NIX, OF_GUIX] {
            let upstream: Narinfo = text.parse().unwrap();
            let bound = keys.bind(&upstream, FORMAT, URN).unwrap();
            assert!(bound.as_str().starts_with(text));
            assert!(is_bound(&bound, &keys));
            assert!(matches!(judged(&bound, &SigningKeys::default()), Trust::NarHash { .. }));
            assert_eq!(bound.sigs().count(), upstream.sigs().count(), "it does not vouch for the path");
            assert_eq!(keys.bind(&bound, FORMAT, URN).unwrap(), bound, "binding again changes nothing");
            let unsigned = SigningKeys::default().bind(&upstream, FORMAT, URN).unwrap();
            assert!(matches!(judged(&unsigned, &keys), Trust::NarHash { .. }));
        }
    }

    #[test]
    fn what_a_foreign_signature_of_guix_covers_is_kept_or_there_is_no_binding() {
        let other = URN.replace("BIBC2LUT", "BIBC2LUU");
        let plain = OF_GUIX.parse::<Narinfo>().unwrap().without_field("Signature").unwrap();
        let keys = of_nix(&["mirror-1"]);
        let trusted = SigningKeys { nix: keys.nix.clone(), ..of_guix() };
        let bind = |above: &str, below: &str| {
            let text = format!("{plain}{above}");
            let signature = Signature::sign(&text, "host", of_guix().guix.as_ref().unwrap());
            let narinfo = format!("{text}Signature: {signature}\n{below}").parse::<Narinfo>().unwrap();
            let bound = keys.bind(&narinfo, FORMAT, URN);
            if let Ok(bound) = &bound {
                assert!(bound.as_str().starts_with(&text), "what is signed stays");
                assert!(is_bound(bound, &trusted));
            }
            bound
        };
        let (format, urn) = (format!("ERISFormat: {FORMAT}\n"), format!("ERIS: {URN}\n"));
        let other = format!("ERIS: {other}\n");
        let both = format!("{format}{urn}");
        for (above, below) in
            [(&*both, ""), (&*format, ""), (&*format, &*other), (&*urn, &*format), ("", &*both)]
        {
            assert_eq!(bind(above, below).unwrap().eris().len(), 1);
        }
        for above in [format!("{format}{other}"), other.clone(), "ERISFormat: text/plain\n".to_owned()] {
            assert!(matches!(bind(&above, ""), Err(SignError::OtherContent { .. })), "{above}");
        }
        assert!(matches!(bind(&other, &format), Err(SignError::OtherContent { .. })));
    }

    #[test]
    fn a_signature_of_guix_by_our_own_key_is_made_anew_over_the_content() {
        let keys = of_guix();
        let plain = OF_GUIX.parse::<Narinfo>().unwrap().without_field("Signature").unwrap();
        let (above, below) = plain.as_str().split_at(plain.field("URL").unwrap().offset);
        let signed = keys.sign(&above.parse().unwrap()).unwrap();
        let cached: Narinfo = format!("{signed}{below}").parse().unwrap();
        assert!(matches!(judged(&cached, &keys), Trust::NarHash { .. }));
        let bound = keys.bind(&cached, FORMAT, URN).unwrap();
        assert!(is_bound(&bound, &keys));
        assert_eq!(bound.downloads(), cached.downloads());
        assert_eq!(keys.bind(&bound, FORMAT, URN).unwrap(), bound);
        let changed = cached.with_field("NarSize", "1").unwrap();
        assert!(matches!(keys.bind(&changed, FORMAT, URN), Err(SignError::Changed { .. })));
    }

    #[test]
    fn the_signature_of_somebody_else_is_not_replaced() {
        let refused = of_guix().bind(&OF_GUIX.parse().unwrap(), FORMAT, URN);
        assert!(matches!(refused, Err(SignError::OtherGuixKey { .. })));
        let refused = of_guix().bind(&NIX.parse().unwrap(), FORMAT, URN);
        assert!(matches!(refused, Err(SignError::WrongProgram { .. })));
        let unsigned = OF_GUIX.parse::<Narinfo>().unwrap().without_field("Signature").unwrap();
        let refused = of_guix().bind(&unsigned, FORMAT, URN);
        assert!(matches!(refused, Err(SignError::Unsigned { .. })));
        assert!(of_guix().check(&StoreDir::nix()).is_err());
        assert!(of_guix().check(&StoreDir::guix()).is_ok());
    }

    #[test]
    fn key_files_of_both_programs_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let (nix, guix) = (write("nix", &nix_key("a-1").to_text()), write("guix", GUIX));
        let keys = SigningKeys::read(&[&nix, &guix]).unwrap();
        assert_eq!((keys.nix[0].public_key(), keys.guix.is_some()), (nix_key("a-1").public_key(), true));
        assert!(matches!(SigningKeys::read(&[&guix, &guix]), Err(KeyFileError::SecondGuixKey { .. })));
        assert!(SigningKeys::read::<PathBuf>(&[]).unwrap().is_empty());
    }

    #[test]
    fn no_error_shows_what_a_file_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for text in [
            "hush",
            "hush:x",
            "hush:aHVzaA==",
            "hush:*",
            "(hush)",
            "(private-key (ecc (curve Ed25519) (q #68757368#) (d hush)))",
            "(private-key hush",
            &"hush".repeat(MAX_FILE),
        ] {
            fs::write(&path, text).unwrap();
            let error = SigningKeys::read(&[&path]).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hush") && shown.contains("key"), "{shown}");
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(SigningKeys::read(&[&path]), Err(KeyFileError::NoText { .. })));
        assert!(matches!(SigningKeys::read(&["/no/key"]), Err(KeyFileError::Unreadable { .. })));
    }
}
