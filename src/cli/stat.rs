use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::Args;
use serde_json::{Value, json};

use super::ls::{describe, text};
use super::view::{Look, kind_name, mode};
use super::{Session, print};
use crate::tree::{Kind, XATTR_PREFIX};

#[derive(Debug, Args)]
pub(super) struct Stat {
    #[command(flatten)]
    look: Look,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// HASH-NAME[/PATH]
    path: OsString,
}

impl Stat {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        session.complete(self.tell(session))
    }

    async fn tell(&self, session: &Session) -> anyhow::Result<()> {
        let opened = self.look.open(session).await?;
        let tree = &opened.tree;
        let attr = self.look.find(session, tree, &self.path).await?;
        let target = match attr.kind {
            Kind::Symlink => Some(tree.read_link(attr.inode, self.look.deadline(session)).await?),
            _ => None,
        };
        let target = target.map(|target| text(&target));
        let mut known = Vec::new();
        for name in tree.xattr_names(attr.inode, self.look.deadline(session)).await? {
            let value = tree.xattr(attr.inode, name.as_bytes(), self.look.deadline(session)).await?;
            let short = name.strip_prefix(XATTR_PREFIX).unwrap_or(&name).to_owned();
            known.extend(value.map(|value| (short, value)));
        }
        let inode = u64::from(attr.inode);
        if self.json {
            let mut fields = describe(&text(self.path.as_bytes()), &attr, target);
            fields.insert("inode".into(), json!(inode));
            fields.insert("links".into(), json!(attr.links));
            fields.extend(known.into_iter().map(|(name, value)| (name, json!(value))));
            return print(Value::Object(fields));
        }
        print(format_args!("path       {}", self.path.display()))?;
        print(format_args!("type       {}", kind_name(attr.kind)))?;
        print(format_args!("mode       {}", mode(attr.kind)))?;
        print(format_args!("size       {}", attr.size))?;
        print(format_args!("links      {}", attr.links))?;
        print(format_args!("inode      {inode}"))?;
        if let Some(target) = target {
            print(format_args!("target     {target}"))?;
        }
        for (name, value) in known {
            print(format_args!("{name:<10} {value}"))?;
        }
        Ok(())
    }
}
