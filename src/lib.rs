//! erisfs mounts a Guix or Nix store that is not on this disk, block by verified block.
//!
//! The layers, from the ground up; each uses only those above it in this list (a test reads the `use`
//! lines):
//!
//! 1. [`eris`], [`nar`], [`store`], [`compress`]: the formats. Pure: no I/O, no async, no clock. Beside them what several
//!    layers need: [`http`] (how clients are made), [`flights`] (single flight), [`lru`], [`pace`] (bytes a second), [`lan`]
//!    (who is on this link).
//! 2. [`substituter`]: narinfos and NAR files, from servers and directories that know nothing of blocks. [`block`]: who can
//!    give me block R? One file a carrier; hashing, caching, retrying are decorators.
//! 3. [`content`]: the bytes of one ERIS content at any offset, and what to fetch ahead.
//! 4. [`download`]: whole NARs that come as a stream, checked, and kept as contents that can be read at random.
//! 5. [`tree`]: from a name to a store path, its nodes and their bytes. No kernel in it.
//! 6. [`metrics`]: the figures of all layers below, as one snapshot.
//! 7. [`fuse`], [`serve`], [`control`], [`publish`], [`offline`]: the kernel's way in, HTTP's, that of `erisfs status`,
//!    the way into block stores, and the way onto this disk. [`availability`]: who keeps the blocks.
//! 8. [`cli`]: one file a command; it alone prints, and only [`config`] reads the environment.
//!
//! One `read(2)` of a cold file: [`fuse`] polls [`tree::Tree::read`], which finds the object of the inode
//! and the frames of the file's NAR range; [`content::FrameCache`] asks [`content::Content::read_at`] for
//! the frame's bytes; that descends the ERIS tree ([`eris::Node::covering`]) and asks the
//! [`block::BlockStore`] for all leaves at once: memory cache, then hash check, then carrier. The
//! blocks come back, are decrypted and decompressed, and the answer goes to the kernel, which keeps it.

pub mod availability;
pub mod block;
pub mod cli;
pub mod compress;
pub mod config;
pub mod content;
pub mod control;
pub mod download;
pub mod eris;
pub mod flights;
pub mod fuse;
pub mod http;
pub mod lan;
pub mod lru;
pub mod metrics;
pub mod nar;
pub mod offline;
pub mod pace;
pub mod publish;
pub mod serve;
pub mod store;
pub mod substituter;
pub mod tree;
