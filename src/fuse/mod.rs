//! The mount: the kernel's requests, answered from the [`Tree`].
//!
//! What is in memory is answered in the thread that the kernel's request came on; only what has to wait
//! for blocks goes to the runtime, so that one slow read blocks nobody. Everything is immutable, so the
//! kernel may keep every answer for ever: entries, attributes, missing names, directories, symlinks and
//! data, and OPEN is answered once, with ENOSYS, for the whole mount (FUSE_NO_OPEN_SUPPORT).

mod errno;
mod options;
mod overdue;
mod push;
mod session;

pub use options::{OptionError, Options};
pub use session::{MountError, Mounted};

use overdue::Overdue;

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use futures::FutureExt;
use tokio::runtime::Handle;

use crate::content::Deadline;
use crate::metrics::Requests;
use crate::tree::{self, Attr, Inode, Kind, Tree};

/// As long as the protocol can say. Nothing below a store path ever changes.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// How long a store path is missing that no substitute server has. The view knows it for longer where all servers said so; where some
/// are down they are asked again after this time.
const MISSING: Duration = Duration::from_secs(10);
/// As many as a 128 KiB read-ahead of 64 parallel readers needs; the kernel's default of 12 starves them.
const MAX_BACKGROUND: u16 = 64;
/// A block of the filesystem, for `statfs` and `st_blksize`: what one fetch brings.
const BLOCK: u32 = 32 * 1024;
/// Directory entries looked up for one kernel request at the most; its buffer rarely holds more.
const ENTRIES: usize = 512;
/// The requests that are counted: those that may need a block.
const KINDS: [&str; 8] =
    ["lookup", "getattr", "readlink", "read", "readdir", "readdirplus", "getxattr", "listxattr"];

/// Answers the kernel's requests for one mount.
pub(crate) struct Filesystem {
    tree: Arc<Tree>,
    runtime: Handle,
    timeout: Duration,
    owner: (u32, u32),
    overdue: Arc<Overdue>,
    requests: Arc<Requests>,
}

impl Filesystem {
    fn new(tree: Arc<Tree>, runtime: Handle, options: &Options) -> Self {
        Filesystem {
            tree,
            runtime,
            timeout: options.timeout,
            owner: (options.uid, options.gid),
            overdue: Arc::default(),
            requests: Requests::new(&KINDS),
        }
    }

    /// Runs `work` here as far as it goes without waiting; the rest, if any, in the runtime.
    fn answer<T, W, R>(&self, operation: &'static str, work: W, reply: R)
    where
        T: Send + 'static,
        W: Future<Output = Result<T, tree::Error>> + Send + 'static,
        R: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        let _entered = self.runtime.enter();
        let mut work = Box::pin(work);
        let counted = self.requests.begin(operation);
        let finish = move |answer: Result<T, tree::Error>| {
            let answer = answer.map_err(|error| {
                let errno = errno::errno(&error);
                if errno == Errno::EIO {
                    tracing::error!("{operation}: {error}");
                }
                errno
            });
            // Before the answer goes out: who has it may look at the figures at once.
            counted.end(answer.as_ref().is_err_and(|errno| *errno == Errno::EIO));
            reply(answer)
        };
        match work.as_mut().now_or_never() {
            Some(answer) => finish(answer),
            None => drop(self.runtime.spawn(async move { finish(work.await) })),
        }
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }
}

/// The attributes as the kernel wants them: those that Nix and Guix give to everything in a store.
fn file_attr(attr: &Attr, owner: (u32, u32)) -> FileAttr {
    let store_time = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    FileAttr {
        ino: INodeNo(attr.inode.into()),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: store_time,
        mtime: store_time,
        ctime: store_time,
        crtime: store_time,
        kind: file_type(attr.kind),
        perm: match attr.kind {
            Kind::Directory | Kind::Executable => 0o555,
            Kind::Regular => 0o444,
            Kind::Symlink => 0o777,
        },
        nlink: attr.links,
        uid: owner.0,
        gid: owner.1,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    }
}

/// The answer that lets the kernel remember that a name does not exist.
fn no_entry() -> Attr {
    Attr { inode: Inode::NONE, kind: Kind::Regular, size: 0, links: 0 }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::Regular | Kind::Executable => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
    }
}

impl fuser::Filesystem for Filesystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_NO_OPEN_SUPPORT,
            InitFlags::FUSE_NO_OPENDIR_SUPPORT,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!("this kernel lacks {flag:?}: slower, not wrong");
            }
        }
        if let Err(bound) = config.set_max_background(MAX_BACKGROUND) {
            tracing::debug!("the kernel takes {bound} background requests at the most");
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (tree, deadline, owner) = (self.tree.clone(), self.deadline(), self.owner);
        // Servers get new paths; nothing else is ever added.
        let is_open = Inode::from(parent.0) == Inode::ROOT && tree.has_substituters();
        let missing = if is_open { MISSING } else { FOREVER };
        let name = name.as_bytes().to_vec();
        let work = async move { tree.lookup(Inode::from(parent.0), &name, deadline).await };
        self.answer("lookup", work, move |answer| match answer {
            Ok(found) => {
                let lifetime = if found.is_some() { FOREVER } else { missing };
                let attr = file_attr(&found.unwrap_or_else(no_entry), owner);
                reply.entry(&lifetime, &attr, Generation(0));
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let (tree, deadline, owner) = (self.tree.clone(), self.deadline(), self.owner);
        let work = async move { tree.attr(Inode::from(inode.0), deadline).await };
        self.answer("getattr", work, move |answer| match answer {
            Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr, owner)),
            Err(errno) => reply.error(errno),
        });
    }

    fn readlink(&self, _: &Request, inode: INodeNo, reply: ReplyData) {
        let (tree, deadline) = (self.tree.clone(), self.deadline());
        let work = async move { tree.read_link(Inode::from(inode.0), deadline).await };
        self.answer("readlink", work, move |answer| match answer {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let range = offset..offset.saturating_add(size.into());
        if self.overdue.answers(inode.0, &range, Instant::now()) {
            self.requests.begin("read").end(true);
            return reply.error(Errno::EIO);
        }
        let (tree, deadline, overdue) = (self.tree.clone(), self.deadline(), self.overdue.clone());
        let work = async move {
            let answer = tree.read(Inode::from(inode.0), offset, size, deadline).await;
            if answer.as_ref().is_err_and(tree::Error::is_overdue) {
                overdue.note(inode.0, range, Instant::now());
            }
            answer
        };
        self.answer("read", work, move |answer| match answer {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing is ever written: the kernel asks once and no more.
        reply.error(Errno::ENOSYS);
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let (tree, deadline) = (self.tree.clone(), self.deadline());
        let work = async move { tree.read_dir(Inode::from(inode.0), offset, ENTRIES, deadline).await };
        self.answer("readdir", work, move |answer| match answer {
            Ok(entries) => {
                for entry in entries {
                    let inode = INodeNo(entry.attr.inode.into());
                    let name = OsStr::from_bytes(&entry.name);
                    if reply.add(inode, entry.cookie, file_type(entry.attr.kind), name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (tree, deadline, owner) = (self.tree.clone(), self.deadline(), self.owner);
        let work = async move { tree.read_dir(Inode::from(inode.0), offset, ENTRIES, deadline).await };
        self.answer("readdirplus", work, move |answer| match answer {
            Ok(entries) => {
                for entry in entries {
                    let attr = file_attr(&entry.attr, owner);
                    let name = OsStr::from_bytes(&entry.name);
                    if reply.add(attr.ino, entry.cookie, name, &FOREVER, &attr, Generation(0)) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        // Nothing is free, and the number of inodes is that of the store paths: known without a fetch.
        reply.statfs(0, 0, 0, self.tree.catalogs().paths(), 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !name.as_bytes().starts_with(tree::XATTR_PREFIX.as_bytes()) {
            // `ls -l` asks for security labels of every file: no work for those.
            return reply.error(Errno::ENODATA);
        }
        let (tree, deadline) = (self.tree.clone(), self.deadline());
        let name = name.to_owned();
        let work = async move { tree.xattr(Inode::from(inode.0), name.as_bytes(), deadline).await };
        self.answer("getxattr", work, move |answer| match answer {
            Ok(Some(value)) => reply_xattr(reply, size, value.as_bytes()),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(errno) => reply.error(errno),
        });
    }

    fn listxattr(&self, _: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let (tree, deadline) = (self.tree.clone(), self.deadline());
        let work = async move {
            let inode = Inode::from(inode.0);
            match tree.attr(inode, deadline).await?.kind {
                // The kernel hands out no `user.` attribute of a link (xattr(7)), so none is named.
                Kind::Symlink => Ok(Vec::new()),
                _ => tree.xattr_names(inode, deadline).await,
            }
        };
        self.answer("listxattr", work, move |answer| match answer {
            Ok(names) => {
                let list: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
                reply_xattr(reply, size, &list);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn access(&self, _: &Request, _: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // Asked only without `default_permissions`; the mount always has it, and the modes say it all.
        if mask.contains(AccessFlags::W_OK) { reply.error(Errno::EROFS) } else { reply.ok() }
    }
}

/// The two-step protocol of extended attributes: first the size, then the bytes (getxattr(2)).
fn reply_xattr(reply: ReplyXattr, size: u32, value: &[u8]) {
    if size == 0 {
        reply.size(value.len() as u32);
    } else if value.len() > size as usize {
        reply.error(Errno::ERANGE);
    } else {
        reply.data(value);
    }
}
