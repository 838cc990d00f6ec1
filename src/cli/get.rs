use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use tempfile::{Builder, NamedTempFile};

use super::view::NODE_BYTES;
use super::{Blocks, Session, Usage, patience};
use crate::content::{Content, Deadline, Fetch, Limits};
use crate::eris::ReadCapability;

/// Bytes of one request to the content, and requests under way: 16 MiB keep a link busy at 50 ms.
const PIECE: u64 = 1 << 20;
const PIECES: usize = 16;

#[derive(Debug, Args)]
pub(super) struct Get {
    #[command(flatten)]
    blocks: Blocks,
    /// Write to this file instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Only these bytes, counted from 0, both ends included, as in HTTP: 0-99, 100-
    #[arg(long, value_name = "START-END")]
    range: Option<String>,
    /// Give up on a block after this time: 30, 500ms, 2m [default: that of the config, else 30s]
    #[arg(long, value_name = "TIME", value_parser = patience)]
    timeout: Option<Duration>,
    /// The content: urn:eris:..., or urn:erisx2: and urn:erisx3: of the drafts
    urn: String,
}

impl Get {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        let capability: ReadCapability =
            self.urn.parse().map_err(|error| Usage(format!("{}: {error}", self.urn)))?;
        let wanted = self.range.as_deref().map(parse_range).transpose()?;
        let fetch = Fetch::new(self.blocks.open(session)?, NODE_BYTES);
        session.complete(self.copy(session, fetch, capability, wanted))
    }

    async fn copy(
        &self,
        session: &Session,
        fetch: Arc<Fetch>,
        capability: ReadCapability,
        wanted: Option<(u64, Option<u64>)>,
    ) -> anyhow::Result<()> {
        let timeout = self.timeout.unwrap_or(session.config.deadlines.read);
        let limits = Limits { length: i64::MAX as u64, tail: 0 };
        let content = Arc::new(Content::open(fetch, capability, limits, Deadline::after(timeout)).await?);
        let range = within(wanted, content.length())?;
        let mut out = Output::open(self.output.as_deref())?;
        let pieces = (range.start..range.end).step_by(PIECE as usize).map(|start| {
            let end = start.saturating_add(PIECE).min(range.end);
            let content = content.clone();
            // In a task of its own: a reader who makes us wait must not use up the deadline.
            async move {
                tokio::spawn(async move { content.read_at(start..end, Deadline::after(timeout)).await }).await
            }
        });
        let mut pieces = stream::iter(pieces).buffered(PIECES);
        while let Some(bytes) = pieces.try_next().await? {
            out.write_all(&bytes?)?;
        }
        out.finish()
    }
}

/// Where the bytes go. A file appears, or is replaced, when it is complete.
enum Output<'a> {
    Stdout(io::StdoutLock<'static>),
    /// A device or a pipe, which is written as it is.
    Special(File),
    File(NamedTempFile, &'a Path),
}

impl<'a> Output<'a> {
    fn open(path: Option<&'a Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Output::Stdout(io::stdout().lock())) };
        let named = || path.display().to_string();
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Ok(Output::Special(File::options().write(true).open(path).with_context(named)?));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let permissions = Permissions::from_mode(0o666);
        let file = Builder::new().permissions(permissions).tempfile_in(folder).with_context(named)?;
        Ok(Output::File(file, path))
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::Stdout(out) => out.write_all(bytes),
            Output::Special(out) => out.write_all(bytes),
            Output::File(out, _) => out.write_all(bytes),
        }
    }

    fn finish(self) -> anyhow::Result<()> {
        match self {
            Output::Stdout(mut out) => out.flush()?,
            Output::Special(_) => {}
            Output::File(file, path) => {
                drop(file.persist(path).with_context(|| path.display().to_string())?);
            }
        }
        Ok(())
    }
}

fn parse_range(text: &str) -> anyhow::Result<(u64, Option<u64>)> {
    let wrong = || Usage(format!("--range {text}: START-END or START- expected, for example 0-99"));
    let (start, end) = text.split_once('-').ok_or_else(wrong)?;
    let start = start.parse().map_err(|_| wrong())?;
    let end = match end {
        "" => None,
        end => Some(end.parse().map_err(|_| wrong())?),
    };
    if end.is_some_and(|end| end < start) {
        return Err(wrong().into());
    }
    Ok((start, end))
}

/// The range as half-open bounds; an end beyond the content is cut, a start beyond it is an error.
fn within(wanted: Option<(u64, Option<u64>)>, length: u64) -> anyhow::Result<Range<u64>> {
    let Some((start, end)) = wanted else { return Ok(0..length) };
    if start >= length {
        return Err(anyhow!("the range begins at byte {start}, but the content has {length} bytes"));
    }
    Ok(start..end.map_or(length, |end| end.saturating_add(1).min(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        assert_eq!(within(Some(parse_range("0-99").unwrap()), 1000).unwrap(), 0..100);
        assert_eq!(within(Some(parse_range("100-").unwrap()), 1000).unwrap(), 100..1000);
        assert_eq!(within(Some(parse_range("10-99999").unwrap()), 1000).unwrap(), 10..1000);
        assert!(within(Some((1000, None)), 1000).is_err());
    }

    #[test]
    fn a_wrong_range_is_a_wrong_call() {
        for text in ["", "5", "5-4", "a-b", "-5", "1-2-3"] {
            assert!(parse_range(text).is_err_and(|error| error.is::<Usage>()), "{text}");
        }
    }
}
