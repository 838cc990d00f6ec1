//! Store paths from substitute servers, seen through the view: what is shown is what a trusted key vouches for, and a reader never
//! notices that blocks are missing where the NAR itself can be had.

mod fallback;
mod mounted;
#[path = "../support/noise.rs"]
mod noise;
#[path = "../support/origin/mod.rs"]
mod origin;
mod place;
mod scene;
#[path = "../support/shelf.rs"]
mod shelf;
mod streamed;
mod trusted;
