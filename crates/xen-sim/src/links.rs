//! The network interfaces and taps of a process that a test can kill.

use std::io::{self, ErrorKind};

use os_port::mem::ProcessLinks;
use os_port::{Link, LinkChange, LinkIndex, LinkName, Links, OpenFile, Taps};

use crate::fate::Fate;
use crate::os::dead;

/// Errors of a look.
const LOOK_ERRORS: &[ErrorKind] = &[ErrorKind::OutOfMemory, ErrorKind::PermissionDenied];
/// Errors of a change. The kernel has also no room for more ports of a bridge.
const CHANGE_ERRORS: &[ErrorKind] = &[
    ErrorKind::OutOfMemory,
    ErrorKind::PermissionDenied,
    ErrorKind::ResourceBusy,
];

/// Errors of a new tap. The driver may not be there.
const TAP_ERRORS: &[ErrorKind] = &[
    ErrorKind::OutOfMemory,
    ErrorKind::PermissionDenied,
    ErrorKind::NotFound,
];

/// The network interfaces behind a fate.
#[derive(Clone, Debug)]
pub(crate) struct MortalLinks {
    pub inner: ProcessLinks,
    pub fate: Fate,
}

impl Links for MortalLinks {
    fn find(&self, name: &LinkName) -> io::Result<Option<Link>> {
        let find = || self.inner.find(name);
        self.fate.os_call("find_link", LOOK_ERRORS, find, dead)
    }

    fn ports_of(&self, master: LinkIndex) -> io::Result<Vec<Link>> {
        let list = || self.inner.ports_of(master);
        self.fate.os_call("list_ports", LOOK_ERRORS, list, dead)
    }

    fn change(&self, index: LinkIndex, change: &LinkChange) -> io::Result<()> {
        if self.fate.forgets("change_link") {
            return self.fate.call(|| Ok(()), dead);
        }
        let change = || self.inner.change(index, change);
        self.fate
            .os_call("change_link", CHANGE_ERRORS, change, dead)
    }

    fn delete(&self, index: LinkIndex) -> io::Result<bool> {
        if self.fate.forgets("delete_link") {
            return self.fate.call(|| Ok(true), dead);
        }
        let delete = || self.inner.delete(index);
        self.fate
            .os_call("delete_link", CHANGE_ERRORS, delete, dead)
    }
}

impl Taps for MortalLinks {
    fn open(&self, name: &LinkName) -> io::Result<OpenFile> {
        let open = || self.inner.open(name);
        self.fate.os_call("open_tap", TAP_ERRORS, open, dead)
    }
}
