use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde_json::{Map, Value, json};

use super::view::{Look, kind_name, mode};
use super::{Session, print};
use crate::tree::{Attr, DirEntry, Inode, Kind, Tree};

/// Entries that are asked for together.
const BATCH: usize = 1024;

#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    look: Look,
    /// Mode, links, size and where links point to
    #[arg(short)]
    long: bool,
    /// Everything below, too
    #[arg(short = 'R')]
    recursive: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// HASH-NAME[/PATH] [default: list the store paths]
    path: Option<OsString>,
}

impl Ls {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        session.complete(self.list(session))
    }

    async fn list(&self, session: &Session) -> anyhow::Result<()> {
        let path = self.path.as_deref().unwrap_or(OsStr::new(""));
        let opened = self.look.open(session).await?;
        let tree = &opened.tree;
        let top = self.look.find(session, tree, path).await?;
        if top.kind != Kind::Directory {
            return self.line(session, tree, &text(path.as_bytes()), &top).await;
        }
        let path = text(path.as_bytes());
        let mut folders = vec![(path.trim_end_matches('/').to_owned(), top.inode)];
        let mut first = true;
        while let Some((path, inode)) = folders.pop() {
            if self.recursive && !self.json {
                let blank = if first { "" } else { "\n" };
                let shown = if path.is_empty() { ".".to_owned() } else { printable(&path) };
                print(format_args!("{blank}{shown}:"))?;
            }
            first = false;
            let mut below = self.list_directory(session, tree, &path, inode).await?;
            below.reverse();
            folders.extend(below);
        }
        Ok(())
    }

    /// Prints one directory; gives the directories in it if they are wanted too.
    async fn list_directory(
        &self,
        session: &Session,
        tree: &Tree,
        path: &str,
        inode: Inode,
    ) -> anyhow::Result<Vec<(String, Inode)>> {
        let mut below = Vec::new();
        let mut cookie = 0;
        loop {
            let entries = tree.read_dir(inode, cookie, BATCH, self.look.deadline(session)).await?;
            let Some(last) = entries.last() else { return Ok(below) };
            cookie = last.cookie;
            for DirEntry { name, attr, .. } in entries {
                if name == b"." || name == b".." {
                    continue;
                }
                let name = text(&name);
                let full = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                self.line(session, tree, if self.json { &full } else { &name }, &attr).await?;
                if self.recursive && attr.kind == Kind::Directory {
                    below.push((full, attr.inode));
                }
            }
        }
    }

    async fn line(&self, session: &Session, tree: &Tree, name: &str, attr: &Attr) -> anyhow::Result<()> {
        let target = match attr.kind {
            Kind::Symlink if self.long || self.json => {
                let target = tree.read_link(attr.inode, self.look.deadline(session)).await?;
                Some(text(&target))
            }
            _ => None,
        };
        if self.json {
            return print(Value::Object(describe(name, attr, target)));
        }
        let (name, target) = (printable(name), target.as_deref().map(printable));
        if !self.long {
            return print(name);
        }
        let (mode, links, size) = (mode(attr.kind), attr.links, attr.size);
        match target {
            Some(target) => print(format_args!("{mode} {links:>3} {size:>12} {name} -> {target}")),
            None => print(format_args!("{mode} {links:>3} {size:>12} {name}")),
        }
    }
}

/// Bytes as text; those that are no UTF-8 show as `\xNN`, so that no two names look alike.
pub(super) fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// The name without what a terminal would obey, such as escape sequences and line ends.
fn printable(name: &str) -> String {
    name.chars().map(|char| if char.is_control() { '?' } else { char }).collect()
}

/// A node as JSON, with the words of Nix's `.ls`.
pub(super) fn describe(name: &str, attr: &Attr, target: Option<String>) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("path".into(), json!(name));
    fields.insert("type".into(), json!(kind_name(attr.kind)));
    match attr.kind {
        Kind::Directory => {}
        Kind::Symlink => drop(fields.insert("target".into(), json!(target))),
        Kind::Regular | Kind::Executable => {
            fields.insert("size".into(), json!(attr.size));
            fields.insert("executable".into(), json!(attr.kind == Kind::Executable));
        }
    }
    fields
}
