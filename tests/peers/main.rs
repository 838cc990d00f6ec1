//! Against the real programs: `guix` and `nix` as clients, `guix publish` and Nix's binary caches as servers; js-ipfs, Kubo, GNUnet,
//! `gdbmtool`, and neighbours on a link.
//!
//! `tests/peers/run` installs and starts them and runs these tests, which are ignored otherwise. What a client installed is
//! asked of its own database: a narinfo that Guix refuses makes `guix build` exit 0 with nothing installed, and a NAR that
//! it refuses stays where it was unpacked, as an invalid item.

mod gdbm;
mod gnunet;
mod hosts;
mod ipfs;
#[path = "../support/ipfs_node.rs"]
mod ipfs_node;
mod mounted;
#[path = "../support/noise.rs"]
mod noise;
#[path = "../support/origin/mod.rs"]
mod origin;
mod peers;
#[path = "../cli/process.rs"]
#[expect(dead_code, reason = "a part of it is for the tests of the command line")]
mod process;
mod published;
#[path = "../cli/scratch.rs"]
#[expect(dead_code, reason = "a part of it is for the tests of the command line")]
mod scratch;
mod served;
mod sources;
#[path = "../conformance/suite.rs"]
#[expect(dead_code, reason = "the whole of it is for stores that are empty at first")]
mod suite;
#[path = "../cli/trees.rs"]
mod trees;
