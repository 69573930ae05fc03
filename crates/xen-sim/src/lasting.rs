//! Faults that stay until a test lifts them: a full disk, a quota of xenstored, a hypercall that fails each time.
//!
//! [`World::fail_always`](crate::World::fail_always) adds one for all processes of a world,
//! [`Fate::failing_always`] for one process, and [`Fate::failing_from`] for one process from one of its calls on. A call that fails so has no effect, with one
//! exception: the first write to a full disk writes half of its bytes.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xen_port::Errno;
use xenstore::ErrorName;

use crate::fate::Fate;

/// Linux's `EROFS`, of which Xen has no use.
const EROFS: Errno = Errno(30);
/// Linux's `EDQUOT`: the user's quota of the disk is reached.
const EDQUOT: Errno = Errno(122);

/// Which calls fail, and with which error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastingFault {
    /// Calls about files below a folder. With `ENOSPC` and `EDQUOT` those calls fail that need room; with `EROFS`
    /// those that change anything; with any other error all of them.
    Disk {
        /// The folder, such as `/run`.
        below: PathBuf,
        /// Error of the failed call.
        errno: Errno,
    },
    /// Requests to xenstored. With `ENOMEM` and `EIO` all of them fail; with any other error those that count against
    /// a quota: write, mkdir, watch, and the start of a transaction.
    Store {
        /// Error name of the failed request.
        error: ErrorName,
    },
    /// Hypercalls of one name, such as `unpause_domain`: a method of `xen_port::Hypervisor`.
    Xen {
        /// Name of the method.
        op: &'static str,
        /// Error of the failed call.
        errno: Errno,
    },
    /// Calls to the operating system of one name, such as `attach_loop`. Calls about files have
    /// [`LastingFault::Disk`].
    Os {
        /// Name of the call.
        op: &'static str,
        /// Error of the failed call.
        errno: Errno,
    },
}

impl LastingFault {
    /// A full disk: `ENOSPC` for all that needs room below a folder.
    pub fn full_disk(below: &str) -> LastingFault {
        LastingFault::Disk {
            below: below.into(),
            errno: Errno::ENOSPC,
        }
    }

    /// A read-only disk: `EROFS` for all that changes anything below a folder.
    pub fn read_only_disk(below: &str) -> LastingFault {
        LastingFault::Disk {
            below: below.into(),
            errno: EROFS,
        }
    }

    /// xenstored's quota is reached: `EQUOTA` for all that counts against it.
    pub fn store_quota() -> LastingFault {
        LastingFault::Store {
            error: ErrorName::Equota,
        }
    }
}

/// The use of the disk by a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The call only reads.
    Look,
    /// The call changes something but needs no space.
    Change,
    /// The call needs space.
    Grow,
}

/// The error of a call about a file.
pub(crate) struct Refusal {
    errno: Errno,
    /// Whether a write has written a part of its bytes.
    pub writes_a_part: bool,
}

impl Refusal {
    /// The system's error.
    pub(crate) fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno.0)
    }
}

/// The faults that stay, of a world and of its processes; clones are the same list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lasting {
    entries: Arc<Mutex<Vec<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    fault: LastingFault,
    /// The process whose calls fail, and the number of its first failing call. `None`: all calls of all processes.
    only: Option<(u32, u64)>,
    /// Whether a full disk still has room for half a write.
    has_room: bool,
}

impl Lasting {
    pub(crate) fn add(&self, fault: LastingFault, only: Option<(u32, u64)>) {
        self.entries().push(Entry {
            fault,
            only,
            has_room: true,
        });
    }

    pub(crate) fn lift(&self) {
        self.entries().clear();
    }

    /// The error of a call about a file, if the fault applies to it. A write may use the last space.
    pub(crate) fn disk(
        &self,
        fate: &Fate,
        access: Access,
        path: &Path,
        writes: bool,
    ) -> Option<Refusal> {
        let mut entries = self.entries();
        let mut concerned = entries.iter_mut().filter(|entry| entry.concerns(fate));
        concerned.find_map(|entry| match &entry.fault {
            LastingFault::Disk { below, errno }
                if path.starts_with(below) && refuses(*errno, access) =>
            {
                let errno = *errno;
                let is_full = matches!(errno, Errno::ENOSPC | EDQUOT);
                let writes_a_part =
                    is_full && writes && std::mem::replace(&mut entry.has_room, false);
                Some(Refusal {
                    errno,
                    writes_a_part,
                })
            }
            _ => None,
        })
    }

    /// The error of a request to xenstored, by the number of its type.
    pub(crate) fn store(&self, fate: &Fate, kind: u32) -> Option<ErrorName> {
        const WATCH: u32 = 4;
        const TRANSACTION_START: u32 = 6;
        const WRITE: u32 = 11;
        const MKDIR: u32 = 12;
        let counts = matches!(kind, WATCH | TRANSACTION_START | WRITE | MKDIR);
        let entries = self.entries();
        let mut concerned = entries.iter().filter(|entry| entry.concerns(fate));
        concerned.find_map(|entry| match &entry.fault {
            LastingFault::Store { error } => {
                let is_all = matches!(error, ErrorName::Enomem | ErrorName::Eio);
                (is_all || counts).then(|| error.clone())
            }
            _ => None,
        })
    }

    /// The error of a hypercall.
    pub(crate) fn xen(&self, fate: &Fate, op: &str) -> Option<Errno> {
        let entries = self.entries();
        let mut concerned = entries.iter().filter(|entry| entry.concerns(fate));
        concerned.find_map(|entry| match &entry.fault {
            LastingFault::Xen { op: failing, errno } if *failing == op => Some(*errno),
            _ => None,
        })
    }

    /// The error of another call to the operating system.
    pub(crate) fn os(&self, fate: &Fate, op: &str) -> Option<Errno> {
        let entries = self.entries();
        let mut concerned = entries.iter().filter(|entry| entry.concerns(fate));
        concerned.find_map(|entry| match &entry.fault {
            LastingFault::Os { op: failing, errno } if *failing == op => Some(*errno),
            _ => None,
        })
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Whether the next call of this process may fail.
    fn concerns(&self, fate: &Fate) -> bool {
        let next = fate.calls() + 1;
        self.only
            .is_none_or(|(process, first)| process == fate.id() && next >= first)
    }
}

fn refuses(errno: Errno, access: Access) -> bool {
    match errno {
        Errno::ENOSPC | EDQUOT => access == Access::Grow,
        EROFS => access != Access::Look,
        _ => true,
    }
}
