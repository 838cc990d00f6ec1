//! The program as people and scripts call it: real processes, real HTTP, real mounts.
//!
//! Every wait has a limit, and whatever a test leaves behind (processes, mounts, files) goes when its
//! [`Scratch`](scratch::Scratch) is dropped, also when it fails. Where /dev/fuse or the right to mount is
//! missing, the tests that need it fail with the sentence that the program prints.

mod availability;
mod cache;
mod config;
mod demo;
mod faults;
#[path = "../support/noise.rs"]
mod noise;
mod offline;
mod process;
mod put_get;
mod scratch;
mod session;
mod status;
mod stick;
mod substituters;
mod traffic;
mod trees;
mod usage;
mod users;
mod view;
