//! Real answers of a server on loopback, good and bad.

#[path = "../../../../tests/support/certified.rs"]
mod certified;
mod files;
mod places;
mod secrets;
mod server;

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;

use self::server::{Answer, Server};
use super::*;
use crate::http::{Netrc, Proxies, Unusable};
use crate::store::HashPart;
use crate::substituter::{NarFile, Substituter};

const PART: &str = "rc7mh4hv8bhg85ndx9jhzyhs27ji0q4b";
const NARINFO: &str =
    include_str!("../../../../tests/samples/guix/cached/rc7mh4hv8bhg85ndx9jhzyhs27ji0q4b.narinfo");

fn part() -> HashPart {
    PART.parse().expect("a hash part")
}

fn place(url: &str) -> Http {
    place_with(url, WebSettings::default())
}

fn place_with(url: &str, settings: WebSettings) -> Http {
    Http::new(url, Arc::new(Web::new(settings).expect("a client"))).expect("a good URL")
}

fn reached(access: Result<Access, Unusable>) -> WebSettings {
    WebSettings { access: access.expect("nothing is wrong"), ..WebSettings::default() }
}

/// Patience for servers that are never going to answer.
fn impatient() -> WebSettings {
    let short = Duration::from_millis(300);
    WebSettings {
        patience: Patience { connect: short, answer: short, stall: short, body: short },
        ..WebSettings::default()
    }
}

async fn read(file: NarFile) -> Result<Vec<u8>, Error> {
    Ok(file.body.try_collect::<Vec<_>>().await?.concat())
}
