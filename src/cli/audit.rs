use std::sync::Arc;

use anyhow::anyhow;
use clap::Args;
use indicatif::HumanBytes;
use serde_json::json;

use super::contents::Contents;
use super::progress::Progress;
use super::{Blocks, Session, Signals, opened, print};
use crate::availability::{AuditSettings, Audited, CONFIDENCE, Lacking, Subject, audit};
use crate::block::{self, BlockStore};

#[derive(Debug, Args)]
#[command(
    after_help = "Stores are asked whether they have the blocks, and believed; hardly anything is read. The exit status is 1 if \
                        something is in none of them."
)]
pub(super) struct Audit {
    #[command(flatten)]
    blocks: Blocks,
    /// Of a larger content look at so many places, chosen at random
    #[arg(long, value_name = "NUMBER", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Ask after every block, also of large contents
    #[arg(long, conflicts_with = "sample")]
    all: bool,
    /// Print a line for each block that a store lacks, up to a thousand for each content and store
    #[arg(long, conflicts_with = "json")]
    list: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    contents: Contents,
}

impl Audit {
    pub(super) fn run(&self, session: &Session) -> anyhow::Result<()> {
        session.runtime.block_on(self.audit(session))
    }

    async fn audit(&self, session: &Session) -> anyhow::Result<()> {
        let mut signals = Signals::catch()?;
        let urls = self.blocks.urls(session)?;
        let access = session.access_to(&urls)?;
        let nodes = opened(block::open_all(&urls, &access))?;
        let stores = urls
            .iter()
            .map(|url| opened(block::open_with(url, &access)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let sample = (!self.all).then_some(self.sample);
        let settings = AuditSettings { wait: self.contents.wait(session), sample };
        let progress = Arc::new(Progress::start());
        let work = async {
            let (subjects, absent) = self.contents.find(session, nodes.clone()).await?;
            let (stores, gone) = there(&urls, stores, &subjects).await;
            let mut report = audit(stores, nodes, subjects, settings, progress.clone()).await;
            report.contents.iter_mut().for_each(|audited| leave_open(audited, &gone));
            report.silent.extend(gone);
            Ok::<_, anyhow::Error>((report, absent))
        };
        let done = tokio::select! {
            done = work => done,
            () = signals.any() => Err(anyhow!("stopped")),
        };
        progress.end();
        let (report, absent) = done?;
        let available = report.is_available() && absent.is_empty();
        if self.json {
            print(json!({
                "available": available,
                "confidence": CONFIDENCE,
                "contents": report.contents,
                "silent": report.silent,
                "absent": absent,
            }))?;
        } else {
            for audited in &report.contents {
                self.show(audited)?;
            }
        }
        for (store, reason) in &report.silent {
            eprintln!("{store} did not answer: {reason}");
        }
        if available {
            return Ok(());
        }
        let all = report.contents.len() + absent.len();
        let whole = report.contents.iter().filter(|audited| audited.is_available()).count();
        Err(anyhow!("{} of {all} contents are not available", all - whole))
    }

    fn show(&self, audited: &Audited) -> anyhow::Result<()> {
        let kind = match audited {
            Audited { fault: Some(_), .. } => "unknown",
            Audited { lost: 0, unknown: 0, .. } => "available",
            Audited { lost: 0, .. } => "unknown",
            _ => "lost",
        };
        print(format_args!("{kind:9}  {}: {}", audited.name, what(audited)))?;
        for lacking in &audited.stores {
            print(format_args!("           {}", line(audited, lacking)))?;
        }
        for Lacking { store, blocks, .. } in audited.stores.iter().filter(|_| self.list) {
            for block in blocks {
                print(format_args!("lacks      {block} {store}"))?;
            }
        }
        Ok(())
    }
}

/// The stores that are there, and the others with the reason. One of this machine that is not, such as a directory on a stick that is
/// not plugged in, says of a block only that it has it not.
async fn there(
    urls: &[String],
    stores: Vec<Arc<dyn BlockStore>>,
    subjects: &[Subject],
) -> (Vec<Arc<dyn BlockStore>>, Vec<(String, String)>) {
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    for (url, store) in urls.iter().zip(stores) {
        // What has a host is on the web, and is asked by the network in any case.
        let is_here = !url.contains("://") && !url.starts_with("lan:") && !url.starts_with("exec:");
        let failure = match subjects.first().filter(|_| is_here) {
            Some(subject) => store.get(&subject.capability.reference).await.err(),
            None => None,
        };
        match failure {
            Some(error) if error.is_transient() => gone.push((store.name().to_owned(), error.to_string())),
            _ => there.push(store),
        }
    }
    (there, gone)
}

/// What the others lack may be in those that did not answer.
fn leave_open(audited: &mut Audited, gone: &[(String, String)]) {
    if gone.is_empty() {
        return;
    }
    audited.unknown += std::mem::take(&mut audited.lost);
    let silent =
        |store: &String| Lacking { store: store.clone(), unanswered: audited.asked, ..Lacking::default() };
    audited.stores.extend(gone.iter().map(|(store, _)| silent(store)));
}

/// How a content is, in all stores together.
fn what(audited: &Audited) -> String {
    let about = if audited.estimated { "about " } else { "" };
    let size = format!("{about}{}", HumanBytes(audited.bytes));
    if let Some(fault) = &audited.fault {
        return format!("{size}: {fault}");
    }
    let gone = match (audited.lost, audited.unknown) {
        (0, 0) => "each is somewhere".to_owned(),
        (lost, 0) => format!("{lost} are nowhere"),
        (0, unknown) => format!("of {unknown} nobody could say"),
        (lost, unknown) => format!("{lost} are nowhere, of {unknown} nobody could say"),
    };
    match audited.sample_of {
        None => format!("{size} in {} blocks, {gone}", audited.asked),
        Some(all) => format!(
            "{size}; of a sample of {} from {all} blocks {gone}: with {:.0} % confidence at most {:.2} % of all",
            audited.asked,
            100.0 * CONFIDENCE,
            100.0 * audited.lost_at_most,
        ),
    }
}

/// What one store lacks.
fn line(audited: &Audited, lacking: &Lacking) -> String {
    match (lacking.missing, lacking.unanswered) {
        (0, 0) if audited.asked == 0 || audited.fault.is_some() => format!("{} was not asked", lacking.store),
        (0, silent) if silent == audited.asked => format!("{} did not say", lacking.store),
        (0, 0) => format!("{} has all", lacking.store),
        (missing, 0) => format!("{} lacks {missing} of {}", lacking.store, audited.asked),
        (missing, silent) => {
            format!("{} lacks {missing} of {}, and did not say of {silent}", lacking.store, audited.asked)
        }
    }
}
