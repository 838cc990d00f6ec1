use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::{Blocks, Session, print};
use crate::eris::{BlockSize, ConvergenceSecret};
use crate::publish;

#[derive(Debug, Args)]
pub(super) struct Put {
    #[command(flatten)]
    blocks: Blocks,
    /// Size of the blocks; auto: 1 KiB for less than 16 KiB, else 32 KiB
    #[arg(long, value_enum, default_value_t = Size::Auto)]
    block_size: Size,
    /// Encode with a random secret: nobody can tell that it is this file, and nothing is shared
    #[arg(long, conflicts_with = "secret")]
    unique: bool,
    /// Encode with this convergence secret, 64 hexadecimal digits [default: zeros]
    #[arg(long, value_name = "HEX")]
    secret: Option<String>,
    /// The file; - is stdin
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Size {
    Auto,
    #[value(name = "1k")]
    Small,
    #[value(name = "32k")]
    Large,
}

impl Put {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        let secret = match &self.secret {
            Some(hex) => ConvergenceSecret::from_hex(hex)
                .map_err(|error| super::Usage(format!("--secret: {error}")))?,
            None if self.unique => ConvergenceSecret::random().context("cannot make a secret")?,
            None => ConvergenceSecret::NULL,
        };
        let mut content: Box<dyn Read + Send> = match self.file.to_str() {
            Some("-") => Box::new(io::stdin()),
            _ => Box::new(File::open(&self.file).with_context(|| self.file.display().to_string())?),
        };
        let block_size = match self.block_size {
            Size::Small => BlockSize::Small,
            Size::Large => BlockSize::Large,
            Size::Auto => {
                let threshold = BlockSize::AUTO_THRESHOLD;
                let mut start = Vec::new();
                content
                    .by_ref()
                    .take(threshold)
                    .read_to_end(&mut start)
                    .with_context(|| format!("cannot read {}", self.file.display()))?;
                let block_size = BlockSize::for_length(start.len() as u64);
                content = Box::new(io::Cursor::new(start).chain(content));
                block_size
            }
        };
        let store = self.blocks.open_to_put(session)?;
        let urn = session.complete(async { Ok(publish::put(store, content, block_size, secret).await?) })?;
        print(urn)
    }
}
