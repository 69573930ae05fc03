//! The programs, procfs and sysfs of a process that a test can kill.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use os_port::mem::{Life, MemPrograms, ProcessKernelFiles};
use os_port::{
    Child, ChildEnd, Ended, EventSource, Extracted, Extraction, Given, HeldProcess, KernelFiles,
    Launch, ProcessSignal, Readiness, Spawn,
};

use crate::fate::Fate;
use crate::os::dead;
use crate::world::Processes;

/// Errors of a start.
const START_ERRORS: &[ErrorKind] = &[ErrorKind::OutOfMemory, ErrorKind::NotFound];
/// Errors of a run: it may also take too long.
const RUN_ERRORS: &[ErrorKind] = &[
    ErrorKind::OutOfMemory,
    ErrorKind::NotFound,
    ErrorKind::TimedOut,
];
/// Errors of a command to a program that has ended, or that reads nothing.
const TELL_ERRORS: &[ErrorKind] = &[ErrorKind::BrokenPipe, ErrorKind::WouldBlock];
/// Errors of a look at another process, and of a signal.
const LOOK_ERRORS: &[ErrorKind] = &[ErrorKind::PermissionDenied];

/// The programs behind a fate.
#[derive(Clone)]
pub(crate) struct MortalSpawn {
    pub programs: MemPrograms,
    pub all: Processes,
    pub fate: Fate,
}

impl std::fmt::Debug for MortalSpawn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MortalSpawn({})", self.fate.id())
    }
}

impl Spawn for MortalSpawn {
    fn run(&self, launch: &Launch, _limit: Duration) -> io::Result<Ended> {
        let run = || self.programs.run(launch);
        self.fate.os_call("run_program", RUN_ERRORS, run, dead)
    }

    /// The child outlives this process, as a real one does.
    fn start(&self, launch: &Launch, given: &Given<'_>) -> io::Result<Rc<dyn Child>> {
        let start = || {
            let life = Life::new(self.all.next_id());
            self.all.add(&life);
            Ok(self.programs.start(launch, given.files, &life))
        };
        let inner = self
            .fate
            .os_call("start_program", START_ERRORS, start, dead)?;
        let fate = self.fate.clone();
        Ok(Rc::new(MortalHeld { inner, fate }))
    }

    /// The program ends with this process, and leaves nothing.
    fn extract(&self, extraction: &Extraction<'_>) -> io::Result<Extracted> {
        let run = || self.programs.extract(extraction.launch, extraction.disk);
        self.fate.os_call("run_program", RUN_ERRORS, run, dead)
    }
}

/// A held process behind a fate.
#[derive(Debug)]
struct MortalHeld<P> {
    inner: P,
    fate: Fate,
}

impl<P: EventSource> EventSource for MortalHeld<P> {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        self.inner.readiness()
    }
}

impl<P: HeldProcess> HeldProcess for MortalHeld<P> {
    fn send(&self, signal: ProcessSignal) -> io::Result<()> {
        let send = || self.inner.send(signal);
        self.fate.os_call("send_signal", LOOK_ERRORS, send, dead)
    }
}

impl<P: Child> Child for MortalHeld<P> {
    fn id(&self) -> u32 {
        self.inner.id()
    }

    fn end(&self) -> io::Result<Option<ChildEnd>> {
        self.fate.call(|| self.inner.end(), dead)
    }

    fn said(&self) -> Vec<u8> {
        self.fate.call(|| self.inner.said(), Vec::new)
    }

    fn is_of_user(&self, uid: u32) -> io::Result<bool> {
        self.fate.call(|| self.inner.is_of_user(uid), dead)
    }

    fn tell(&self, text: &[u8]) -> io::Result<()> {
        let tell = || self.inner.tell(text);
        self.fate.os_call("tell_program", TELL_ERRORS, tell, dead)
    }
}

/// The procfs and sysfs behind a fate.
#[derive(Clone, Debug)]
pub(crate) struct MortalKernelFiles {
    pub inner: ProcessKernelFiles,
    pub fate: Fate,
}

impl MortalKernelFiles {
    fn look<T>(&self, look: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.fate.os_call("look_at_kernel", LOOK_ERRORS, look, dead)
    }
}

impl KernelFiles for MortalKernelFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.look(|| self.inner.read(path))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let write = || self.inner.write(path, bytes);
        let errors = &[ErrorKind::PermissionDenied];
        self.fate.os_call("write_to_kernel", errors, write, dead)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.look(|| self.inner.list(folder))
    }

    fn link(&self, path: &Path) -> io::Result<PathBuf> {
        self.look(|| self.inner.link(path))
    }

    fn exists(&self, path: &Path) -> bool {
        self.fate.call(|| self.inner.exists(path), || false)
    }

    fn may_have_process_of(&self, uid: u32) -> bool {
        self.inner.may_have_process_of(uid)
    }

    fn read_end_of_own(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        self.look(|| self.inner.read_end_of_own(path, max_bytes))
    }

    fn hold(&self, pid: u32) -> io::Result<Option<Box<dyn HeldProcess>>> {
        let held = self.look(|| self.inner.hold(pid))?;
        let fate = self.fate.clone();
        Ok(held.map(|inner| Box::new(MortalHeld { inner, fate }) as Box<dyn HeldProcess>))
    }
}
