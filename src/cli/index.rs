use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::anyhow;
use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use sha2::{Digest, Sha256};

use super::{Session, Usage, print};
use crate::block::{self, Files, Met};
use crate::config::Environment;
use crate::publish::{self, Binding, SigningKeys};

/// Where the indices are, below the user's cache directory.
const FOLDER: &str = "erisfs/files";

#[derive(Debug, Args)]
pub(super) struct Index {
    /// Keep the index in this file [default: one in the user's cache directory]; then --blocks needs files:PATH?index=FILE
    #[arg(long, value_name = "FILE")]
    index: Option<PathBuf>,
    /// For a binary cache (of `nix copy --to file://`, or `guix publish --cache`): write its narinfos with the URNs of its
    /// archives to DIR, and print the store paths instead of the files
    #[arg(long, value_name = "DIR")]
    narinfo: Option<PathBuf>,
    /// Sign these narinfos, so that readers may read before they have everything: a key of Nix, or the key of Guix that signed
    /// them already
    #[arg(long = "sign-key", value_name = "FILE", requires = "narinfo")]
    sign_keys: Vec<PathBuf>,
    /// The directory
    path: PathBuf,
}

impl Index {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        let keys = SigningKeys::read(&self.sign_keys)?;
        let index = match &self.index {
            Some(index) => index.clone(),
            None => own_index(&session.environment, &self.path)?,
        };
        let bar = ProgressBar::no_length().with_style(
            ProgressStyle::with_template("{bytes} {bytes_per_sec} {msg:.dim}").expect("a good template"),
        );
        let started = Instant::now();
        let mut bytes = 0;
        let mut met = |met: Met<'_>| match met {
            Met::Read { bytes: read } => {
                bytes += read;
                bar.inc(read);
            }
            Met::File { path, read: true } => bar.set_message(path.display().to_string()),
            Met::File { .. } => {}
            Met::LeftOut { path, reason } => {
                bar.suspend(|| eprintln!("left out: {}: {reason}", path.display()))
            }
        };
        let indexed = block::update_index(&self.path, &index, SystemTime::now(), &mut met);
        bar.finish_and_clear();
        let indexed = indexed?;
        let seconds = started.elapsed().as_secs_f64();
        let left_out = match &self.narinfo {
            Some(out) => self.bind(&index, out, &keys)?,
            None => list(&index).map(|()| 0)?,
        };
        let rate = (bytes as f64 / seconds.max(0.001)) as u64;
        eprintln!(
            "files: {} ({} read, {} gone, {} left out), {}; {} read in {seconds:.1} s, {}/s",
            indexed.files,
            indexed.read,
            indexed.gone,
            indexed.left_out,
            HumanBytes(indexed.bytes),
            HumanBytes(bytes),
            HumanBytes(rate),
        );
        match left_out {
            0 => Ok(()),
            left_out => Err(anyhow!("{left_out} narinfos were left out")),
        }
    }

    /// Writes the narinfos; how many were left out.
    fn bind(&self, index: &Path, out: &Path, keys: &SigningKeys) -> anyhow::Result<u64> {
        let Some(index) = block::Index::open(index)? else { return Ok(0) };
        let (mut written, mut unchanged, mut left_out) = (0_u64, 0_u64, 0_u64);
        let mut printed = Ok(());
        let mut told = |binding: Binding<'_>| match binding {
            Binding::Written { narinfo, .. } | Binding::Unchanged { narinfo } => {
                match binding {
                    Binding::Written { .. } => written += 1,
                    _ => unchanged += 1,
                }
                if printed.is_ok() {
                    printed = print(narinfo.store_dir().join(narinfo.store_path()));
                }
            }
            Binding::LeftOut { path, reason } => {
                left_out += 1;
                eprintln!("left out: {}: {reason}", path.display());
            }
        };
        publish::bind_cache(&self.path, &index, out, keys, &mut told)?;
        printed?;
        eprintln!("narinfos: {written} written, {unchanged} unchanged, {left_out} left out");
        Ok(left_out)
    }
}

/// Prints each file with its URN.
fn list(index: &Path) -> anyhow::Result<()> {
    let Some(index) = block::Index::open(index)? else { return Ok(()) };
    index.for_each(|file| print(format_args!("{}  {}", file.capability, file.path.display())))
}

/// The index of a directory in the user's cache directory.
fn own_index(environment: &Environment, path: &Path) -> anyhow::Result<PathBuf> {
    let home = environment.cache_home.as_ref();
    let home =
        home.ok_or_else(|| Usage("there is no HOME for the index: name one with --index FILE".into()))?;
    // As it is found again by whatever way; what is not there has no index either.
    let real = path.canonicalize().or_else(|_| std::path::absolute(path))?;
    let digest = Sha256::digest(real.as_os_str().as_encoded_bytes());
    let name = data_encoding::HEXLOWER.encode(&digest[..16]);
    Ok(home.join(FOLDER).join(format!("{name}.sqlite")))
}

/// The URL of a block store `files:PATH` with its index named.
pub(super) fn with_index(environment: &Environment, url: &str) -> anyhow::Result<String> {
    match url.strip_prefix("files:").map(Files::split_url) {
        Some((root, None)) if !root.as_os_str().is_empty() => {
            let index = own_index(environment, root)?;
            Ok(Files::url(root, &index))
        }
        _ => Ok(url.to_owned()),
    }
}
