//! The doorbells of a process that a test can kill.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::rc::Rc;

use os_port::mem::ProcessDoorbells;
use os_port::{Call, Doorbell, Doorbells, EventSource, Heard, Readiness};

use crate::fate::Fate;
use crate::os::dead;

/// Errors of an install: a socket needs memory, and its file room.
const INSTALL_ERRORS: &[ErrorKind] = &[ErrorKind::StorageFull, ErrorKind::OutOfMemory];
/// Errors of a call: the owner leaves too many callers unanswered, or has just ended.
const CALL_ERRORS: &[ErrorKind] = &[ErrorKind::WouldBlock, ErrorKind::ConnectionRefused];
/// Errors of a connection that is there.
const TALK_ERRORS: &[ErrorKind] = &[ErrorKind::OutOfMemory];

/// The doorbells behind a fate.
#[derive(Clone, Debug)]
pub(crate) struct MortalDoorbells {
    pub inner: ProcessDoorbells,
    pub fate: Fate,
}

impl Doorbells for MortalDoorbells {
    fn install(&self, path: &Path) -> io::Result<Box<dyn Doorbell>> {
        let install = || self.inner.install(path);
        let inner = self
            .fate
            .os_call("install_doorbell", INSTALL_ERRORS, install, dead)?;
        let fate = self.fate.clone();
        Ok(Box::new(MortalDoorbell { inner, fate }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.fate.forgets("remove_doorbell") {
            return self.fate.call(|| Ok(()), dead);
        }
        let remove = || self.inner.remove(path);
        self.fate
            .os_call("remove_doorbell", TALK_ERRORS, remove, dead)
    }

    fn call(&self, path: &Path) -> io::Result<Rc<dyn Call>> {
        let call = || self.inner.call(path);
        let inner = self
            .fate
            .os_call("call_doorbell", CALL_ERRORS, call, dead)?;
        let fate = self.fate.clone();
        Ok(Rc::new(MortalCall { inner, fate }))
    }
}

#[derive(Debug)]
struct MortalDoorbell {
    inner: Box<dyn Doorbell>,
    fate: Fate,
}

impl EventSource for MortalDoorbell {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        self.inner.readiness()
    }
}

impl Doorbell for MortalDoorbell {
    fn take(&mut self) -> io::Result<bool> {
        let inner = &mut self.inner;
        self.fate
            .os_call("take_rings", TALK_ERRORS, || inner.take(), dead)
    }

    fn ring_back(&mut self) -> io::Result<()> {
        if self.fate.forgets("ring_back") {
            return self.fate.call(|| Ok(()), dead);
        }
        let inner = &mut self.inner;
        self.fate
            .os_call("ring_back", TALK_ERRORS, || inner.ring_back(), dead)
    }

    fn uninstall(&self) -> io::Result<()> {
        let uninstall = || self.inner.uninstall();
        self.fate
            .os_call("uninstall_doorbell", TALK_ERRORS, uninstall, dead)
    }
}

#[derive(Debug)]
struct MortalCall {
    inner: Rc<dyn Call>,
    fate: Fate,
}

impl EventSource for MortalCall {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        self.inner.readiness()
    }
}

impl Call for MortalCall {
    fn ring(&self) -> io::Result<()> {
        self.fate
            .os_call("ring", TALK_ERRORS, || self.inner.ring(), dead)
    }

    fn take(&self) -> io::Result<Heard> {
        self.fate
            .os_call("take_answer", TALK_ERRORS, || self.inner.take(), dead)
    }
}
