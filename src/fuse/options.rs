//! The `-o` options of a mount: those of mount(8) that make sense for a read-only tree, and our own.

use std::time::Duration;

use fuser::{Config, MountOption, SessionACL};

use crate::tree::Symlinks;

/// How long a read may take before it ends in EIO.
const TIMEOUT: Duration = Duration::from_secs(30);
/// More threads bring little on few cores: misses wait in the runtime, not in a thread.
const THREADS: usize = 4;

/// How to mount.
#[derive(Debug, Clone)]
pub struct Options {
    /// Deadline of every request.
    pub timeout: Duration,
    /// Owner shown for everything (`uid=`); a store belongs to root.
    pub uid: u32,
    /// Group shown for everything (`gid=`).
    pub gid: u32,
    /// What absolute links into the store directory look like.
    pub symlinks: Symlinks,
    /// `HOST:PORT` at which the figures of this mount can be read; `None`: nowhere.
    pub metrics: Option<String>,
    fsname: String,
    acl: SessionACL,
    kernel: Vec<MountOption>,
}

/// An option that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The option is not known.
    #[error("-o {option}: no such mount option; known are {}", KNOWN.join(", "))]
    Unknown {
        /// As it was given.
        option: String,
    },
    /// The option is known, its value is not.
    #[error("-o {option}: {expected} expected")]
    Value {
        /// As it was given.
        option: String,
        /// What would do.
        expected: &'static str,
    },
    /// fusermount3 unmounts by itself only what others may see.
    #[error("-o auto_unmount: needs allow_other or allow_root as well")]
    Incomplete,
    /// Writing was asked for.
    #[error("-o {option}: an erisfs mount is read-only")]
    Writable {
        /// As it was given.
        option: String,
    },
}

const KNOWN: [&str; 17] = [
    "allow_other",
    "allow_root",
    "atime",
    "auto_unmount",
    "dev",
    "exec",
    "fsname=NAME",
    "gid=N",
    "metrics=HOST:PORT",
    "noatime",
    "nodev",
    "noexec",
    "nosuid",
    "ro",
    "symlinks=relative|absolute",
    "timeout=SECONDS",
    "uid=N",
];

impl Default for Options {
    fn default() -> Self {
        Options {
            timeout: TIMEOUT,
            uid: 0,
            gid: 0,
            symlinks: Symlinks::Absolute,
            metrics: None,
            fsname: "erisfs".into(),
            acl: SessionACL::Owner,
            kernel: Vec::new(),
        }
    }
}

impl Options {
    /// Parses lists as after `-o`, separated by commas; what comes later wins.
    pub fn parse<'a>(lists: impl IntoIterator<Item = &'a str>) -> Result<Self, OptionError> {
        Options::default().with(lists)
    }

    /// These options where the lists say nothing else.
    pub fn with<'a>(self, lists: impl IntoIterator<Item = &'a str>) -> Result<Self, OptionError> {
        let mut options = self;
        for option in lists.into_iter().flat_map(|list| list.split(',')).map(str::trim) {
            options.set(option)?;
        }
        if options.kernel.contains(&MountOption::AutoUnmount) && options.acl == SessionACL::Owner {
            return Err(OptionError::Incomplete);
        }
        Ok(options)
    }

    fn set(&mut self, option: &str) -> Result<(), OptionError> {
        let value = |expected| OptionError::Value { option: option.to_owned(), expected };
        let (name, argument) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "allow_other" => self.acl = SessionACL::All,
            "allow_root" => self.acl = SessionACL::RootAndOwner,
            "auto_unmount" => self.kernel(MountOption::AutoUnmount),
            "atime" => self.kernel(MountOption::Atime),
            "noatime" => self.kernel(MountOption::NoAtime),
            "dev" => self.kernel(MountOption::Dev),
            "nodev" => self.kernel(MountOption::NoDev),
            "exec" => self.kernel(MountOption::Exec),
            "noexec" => self.kernel(MountOption::NoExec),
            "nosuid" => self.kernel(MountOption::NoSuid),
            "fsname" if !argument.is_empty() => self.fsname = argument.to_owned(),
            "fsname" => return Err(value("a name")),
            "uid" => self.uid = argument.parse().map_err(|_| value("a number"))?,
            "gid" => self.gid = argument.parse().map_err(|_| value("a number"))?,
            "timeout" => {
                let seconds: u32 = argument.parse().map_err(|_| value("a number of seconds"))?;
                if seconds == 0 {
                    return Err(value("at least one second"));
                }
                self.timeout = Duration::from_secs(seconds.into());
            }
            "metrics" => {
                let port = argument.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                port.ok_or(value("HOST:PORT"))?;
                self.metrics = Some(argument.to_owned());
            }
            "symlinks" => {
                self.symlinks = match argument {
                    "relative" => Symlinks::Relative,
                    "absolute" => Symlinks::Absolute,
                    _ => return Err(value("relative or absolute")),
                }
            }
            "rw" => return Err(OptionError::Writable { option: option.to_owned() }),
            // What fstab(5) and mount(8) pass along, and what is so anyway.
            ""
            | "ro"
            | "defaults"
            | "default_permissions"
            | "auto"
            | "noauto"
            | "user"
            | "users"
            | "nouser"
            | "nofail"
            | "_netdev"
            | "async" => {}
            _ if name.starts_with("x-") => {}
            _ => return Err(OptionError::Unknown { option: option.to_owned() }),
        }
        Ok(())
    }

    /// Adds a kernel option; its opposite, if given before, is dropped.
    fn kernel(&mut self, option: MountOption) {
        let opposite = match option {
            MountOption::Atime => MountOption::NoAtime,
            MountOption::NoAtime => MountOption::Atime,
            MountOption::Dev => MountOption::NoDev,
            MountOption::NoDev => MountOption::Dev,
            MountOption::Exec => MountOption::NoExec,
            MountOption::NoExec => MountOption::Exec,
            _ => option.clone(),
        };
        self.kernel.retain(|other| *other != opposite && *other != option);
        self.kernel.push(option);
    }

    pub(super) fn config(&self) -> Config {
        let mut config = Config::default();
        config.mount_options = self.kernel.clone();
        config.mount_options.extend([
            MountOption::RO,
            MountOption::NoSuid,
            MountOption::DefaultPermissions,
            MountOption::FSName(self.fsname.clone()),
            MountOption::Subtype("erisfs".into()),
        ]);
        config.mount_options.dedup();
        config.acl = self.acl;
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_several_lists_add_up_and_the_last_wins() {
        let options = Options::parse(["timeout=5,noexec", "exec,uid=1000,timeout=7"]).unwrap();
        assert_eq!((options.timeout, options.uid), (Duration::from_secs(7), 1000));
        assert_eq!(options.kernel, [MountOption::Exec]);
    }

    #[test]
    fn what_fstab_passes_along_is_taken() {
        assert!(Options::parse(["ro,noauto,_netdev,x-systemd.automount,nofail"]).is_ok());
    }

    #[test]
    fn an_unknown_option_is_an_error_that_names_it() {
        let error = Options::parse(["allow_otter"]).unwrap_err();
        assert!(error.to_string().contains("allow_otter"), "{error}");
        assert!(error.to_string().contains("allow_other"), "{error}");
    }

    #[test]
    fn a_writable_mount_is_refused() {
        assert!(matches!(Options::parse(["rw"]), Err(OptionError::Writable { .. })));
    }

    #[test]
    fn unmounting_by_itself_needs_a_mount_for_others() {
        assert_eq!(Options::parse(["auto_unmount"]).unwrap_err(), OptionError::Incomplete);
        assert!(Options::parse(["auto_unmount,allow_other"]).is_ok());
    }

    #[test]
    fn values_are_checked() {
        for option in ["timeout=0", "timeout=soon", "metrics=9120", "uid=root", "symlinks=yes", "fsname="] {
            assert!(matches!(Options::parse([option]), Err(OptionError::Value { .. })), "{option}");
        }
    }
}
