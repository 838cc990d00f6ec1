use std::ffi::OsString;
use std::io::{self, Write};

use anyhow::anyhow;
use clap::Args;

use super::Session;
use super::view::Look;
use crate::tree::Kind;

/// Bytes of one read; the tree fetches ahead by itself.
const PIECE: u32 = 1 << 20;

#[derive(Debug, Args)]
pub(super) struct Cat {
    #[command(flatten)]
    look: Look,
    /// HASH-NAME/PATH of a file
    path: OsString,
}

impl Cat {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        session.complete(self.copy(session))
    }

    async fn copy(&self, session: &Session) -> anyhow::Result<()> {
        let opened = self.look.open(session).await?;
        let tree = &opened.tree;
        let file = self.look.find(session, tree, &self.path).await?;
        match file.kind {
            Kind::Regular | Kind::Executable => {}
            Kind::Directory => return Err(anyhow!("{} is a directory: try ls", self.path.display())),
            Kind::Symlink => {
                let target = tree.read_link(file.inode, self.look.deadline(session)).await?;
                let target = String::from_utf8_lossy(&target);
                return Err(anyhow!("{} is a link to {target}: name the file itself", self.path.display()));
            }
        }
        let mut offset = 0;
        let mut out = io::stdout().lock();
        while offset < file.size {
            let bytes = tree.read(file.inode, offset, PIECE, self.look.deadline(session)).await?;
            if bytes.is_empty() {
                return Err(anyhow!(
                    "{} ends at byte {offset}, before its {}",
                    self.path.display(),
                    file.size
                ));
            }
            out.write_all(&bytes)?;
            offset += bytes.len() as u64;
        }
        out.flush()?;
        Ok(())
    }
}
