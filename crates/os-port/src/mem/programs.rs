//! Programs, processes, procfs and sysfs in memory.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Life;
use super::pci;
use crate::kernel::KernelFiles;
use crate::process::{Child, ChildEnd, HeldProcess, ProcessSignal};
use crate::wait::{EventSource, Readiness};
use crate::{Ended, Extracted, Launch, Lease, OpenFile};

/// A function that plays a program which runs to its end.
type Play = Box<dyn Fn(&Launch) -> Ended + Send>;
/// A function that plays a program which reads a guest's disk.
type PlayReader = Box<dyn Fn(&Launch, &OpenFile) -> io::Result<Extracted> + Send>;

/// The programs of a simulated host, and the processes that they are. Clones share the same programs.
#[derive(Clone, Default)]
pub struct MemPrograms {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    plays: BTreeMap<PathBuf, Play>,
    readers: BTreeMap<PathBuf, PlayReader>,
    /// The programs that end when SIGTERM asks them to.
    obedient: Vec<PathBuf>,
    /// The programs that become their user a time after their start.
    confined_later: Vec<PathBuf>,
    processes: BTreeMap<u32, MemProgram>,
}

/// A process of a program.
#[derive(Clone, Debug)]
struct MemProgram {
    launch: Option<Launch>,
    /// Its entry among the processes of the host.
    life: Option<Life>,
    end: Option<ChildEnd>,
    is_stopped: bool,
    /// Whether SIGTERM has been sent, which the program has not answered.
    is_asked: bool,
    /// Whether it has become its user.
    is_confined: bool,
    /// All that exists for as long as its files are open.
    leases: Vec<Lease>,
    /// All that was written to its standard input.
    told: Vec<u8>,
    /// All that it has said.
    said: Vec<u8>,
}

impl std::fmt::Debug for MemPrograms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemPrograms")
            .field("processes", &self.state().processes)
            .finish_non_exhaustive()
    }
}

impl MemPrograms {
    /// Adds a program that `play` plays when it is run to its end.
    pub fn add(&self, program: &Path, play: impl Fn(&Launch) -> Ended + Send + 'static) {
        let mut state = self.state();
        state.plays.insert(program.to_owned(), Box::new(play));
    }

    /// Adds a program that `play` plays when it reads a guest's disk.
    pub fn add_reader(
        &self,
        program: &Path,
        play: impl Fn(&Launch, &OpenFile) -> io::Result<Extracted> + Send + 'static,
    ) {
        let mut state = self.state();
        state.readers.insert(program.to_owned(), Box::new(play));
    }

    /// Lets a program end as soon as SIGTERM asks it to.
    pub fn obey(&self, program: &Path) {
        self.state().obedient.push(program.to_owned());
    }

    /// Lets a program become its user when [`confine`](MemPrograms::confine) says so, and not at its start.
    pub fn confine_later(&self, program: &Path) {
        self.state().confined_later.push(program.to_owned());
    }

    /// Lets a process become its user.
    pub fn confine(&self, pid: u32) {
        if let Some(process) = self.state().processes.get_mut(&pid) {
            process.is_confined = true;
        }
    }

    /// Adds a process that no process of the world has started.
    pub fn add_process(&self, pid: u32) {
        self.state()
            .processes
            .insert(pid, MemProgram::new(None, None));
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such program.
    pub fn run(&self, launch: &Launch) -> io::Result<Ended> {
        let state = self.state();
        let play = state.plays.get(launch.program());
        Ok(play.ok_or(ErrorKind::NotFound)?(launch))
    }

    /// Runs a program that reads a guest's disk.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such program; that of the program.
    pub fn extract(&self, launch: &Launch, disk: &OpenFile) -> io::Result<Extracted> {
        let state = self.state();
        let play = state.readers.get(launch.program());
        play.ok_or(ErrorKind::NotFound)?(launch, disk)
    }

    /// Starts a program as this process, with these files.
    pub fn start(&self, launch: &Launch, files: &[&OpenFile], life: &Life) -> MemChild {
        let pid = life.id();
        let mut program = MemProgram::new(Some(launch.clone()), Some(life.clone()));
        program.leases = files.iter().filter_map(|file| file.lease()).collect();
        let mut state = self.state();
        program.is_confined = state
            .confined_later
            .iter()
            .all(|one| one != launch.program());
        state.processes.insert(pid, program);
        MemChild {
            programs: self.clone(),
            pid,
        }
    }

    /// Ends a process, as if its program returned.
    pub fn end(&self, pid: u32, end: ChildEnd) {
        if let Some(process) = self.state().processes.get_mut(&pid) {
            process.end(end);
        }
    }

    /// PIDs and programs of all started processes that run.
    pub fn running(&self) -> Vec<(u32, Launch)> {
        let state = self.state();
        let running = state.processes.iter().filter(|(_, one)| one.end.is_none());
        running
            .filter_map(|(pid, one)| Some((*pid, one.launch.clone()?)))
            .collect()
    }

    /// Whether a process is stopped, and whether it has been asked to end.
    pub fn signals(&self, pid: u32) -> (bool, bool) {
        let state = self.state();
        let process = state.processes.get(&pid);
        process.map_or((false, false), |one| (one.is_stopped, one.is_asked))
    }

    /// All that was written to the standard input of a process.
    pub fn told(&self, pid: u32) -> Vec<u8> {
        let state = self.state();
        let process = state.processes.get(&pid);
        process.map(|one| one.told.clone()).unwrap_or_default()
    }

    /// Lets a process say something.
    pub fn say(&self, pid: u32, text: &str) {
        if let Some(process) = self.state().processes.get_mut(&pid) {
            process.said.extend_from_slice(text.as_bytes());
        }
    }

    /// Holds a process that runs.
    pub fn hold(&self, pid: u32) -> Option<MemChild> {
        let is_there = self.state().processes.contains_key(&pid);
        is_there.then(|| MemChild {
            programs: self.clone(),
            pid,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_of(&self, pid: u32) -> Option<ChildEnd> {
        self.state().processes.get(&pid)?.end
    }
}

impl MemProgram {
    fn new(launch: Option<Launch>, life: Option<Life>) -> MemProgram {
        MemProgram {
            launch,
            life,
            end: None,
            is_stopped: false,
            is_asked: false,
            is_confined: true,
            leases: Vec::new(),
            told: Vec::new(),
            said: Vec::new(),
        }
    }

    fn end(&mut self, end: ChildEnd) {
        self.end.get_or_insert(end);
        self.leases.clear();
        self.life.iter().for_each(Life::end);
    }
}

/// A held process.
#[derive(Clone, Debug)]
pub struct MemChild {
    programs: MemPrograms,
    pid: u32,
}

impl EventSource for MemChild {
    fn readiness(&self) -> Vec<Readiness<'_>> {
        let (programs, pid) = (self.programs.clone(), self.pid);
        let has_ended = move || programs.end_of(pid).is_some();
        vec![Readiness::Simulated(Box::new(has_ended))]
    }
}

impl HeldProcess for MemChild {
    fn send(&self, signal: ProcessSignal) -> io::Result<()> {
        let mut state = self.programs.state();
        let State {
            processes,
            obedient,
            ..
        } = &mut *state;
        if let Some(process) = processes.get_mut(&self.pid) {
            let program = process.launch.as_ref().map(Launch::program);
            let obeys = program.is_some_and(|program| obedient.iter().any(|one| one == program));
            match signal {
                ProcessSignal::Terminate if obeys => process.end(ChildEnd::Exit(0)),
                ProcessSignal::Terminate => process.is_asked = true,
                ProcessSignal::Kill => process.end(ChildEnd::Signal),
                ProcessSignal::Stop => process.is_stopped = true,
                ProcessSignal::Continue => process.is_stopped = false,
            }
        }
        Ok(())
    }
}

impl Child for MemChild {
    fn id(&self) -> u32 {
        self.pid
    }

    fn end(&self) -> io::Result<Option<ChildEnd>> {
        Ok(self.programs.end_of(self.pid))
    }

    fn said(&self) -> Vec<u8> {
        let state = self.programs.state();
        let process = state.processes.get(&self.pid);
        process.map(|one| one.said.clone()).unwrap_or_default()
    }

    fn is_of_user(&self, _: u32) -> io::Result<bool> {
        let state = self.programs.state();
        let process = state.processes.get(&self.pid);
        Ok(process.is_some_and(|one| one.is_confined))
    }

    fn tell(&self, text: &[u8]) -> io::Result<()> {
        let mut state = self.programs.state();
        let process = state.processes.get_mut(&self.pid);
        match process.filter(|one| one.end.is_none()) {
            Some(process) => process.told.extend_from_slice(text),
            None => return Err(ErrorKind::BrokenPipe.into()),
        }
        Ok(())
    }
}

/// The procfs and sysfs of a simulated host. Clones share the same files.
#[derive(Clone, Debug, Default)]
pub struct MemKernelFiles {
    entries: Arc<Mutex<BTreeMap<PathBuf, Entry>>>,
}

#[derive(Clone, Debug)]
pub(super) enum Entry {
    File(Vec<u8>),
    Link(PathBuf),
    /// A descriptor of a process: the path of its file, and what the file contains.
    Descriptor(PathBuf, Vec<u8>),
}

impl MemKernelFiles {
    /// Sets the contents of a file.
    pub fn put(&self, path: &str, bytes: &[u8]) {
        self.entries()
            .insert(path.into(), Entry::File(bytes.to_vec()));
    }

    /// Sets the target of a symbolic link.
    pub fn put_link(&self, path: &str, target: &str) {
        self.entries()
            .insert(path.into(), Entry::Link(target.into()));
    }

    /// Sets a descriptor of a process, such as `/proc/7/fd/1`, to a file with these contents.
    pub fn put_descriptor(&self, path: &str, file: &str, bytes: &[u8]) {
        let entry = Entry::Descriptor(file.into(), bytes.to_vec());
        self.entries().insert(path.into(), entry);
    }

    /// Adds a PCI device with these contents of its files, and the driver that has it.
    pub fn add_pci_device(&self, address: &str, files: &[(&str, &str)], driver: Option<&str>) {
        pci::add(&mut self.entries(), address, files, driver);
    }

    /// Adds a driver of PCI devices. The one with the name `pciback` has slots, as the kernel's.
    pub fn add_pci_driver(&self, name: &str) {
        pci::add_driver(&mut self.entries(), name);
    }

    /// Whether there is something at a path.
    pub fn has(&self, path: &str) -> bool {
        self.entries().contains_key(Path::new(path))
    }

    /// Removes everything at and below a path.
    pub fn remove(&self, path: &str) {
        self.entries().retain(|entry, _| !entry.starts_with(path));
    }

    /// The files and processes with the rights of one process.
    pub fn of(&self, life: &Life, programs: &MemPrograms) -> ProcessKernelFiles {
        ProcessKernelFiles {
            files: self.clone(),
            programs: programs.clone(),
            life: life.clone(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The procfs and sysfs as one process sees them.
#[derive(Clone, Debug)]
pub struct ProcessKernelFiles {
    files: MemKernelFiles,
    programs: MemPrograms,
    life: Life,
}

impl ProcessKernelFiles {
    fn entry(&self, path: &Path) -> io::Result<Entry> {
        self.life.refuse_the_dead()?;
        if let Some(bytes) = self.of_started(path) {
            return Ok(Entry::File(bytes));
        }
        let entries = self.files.entries();
        Ok(entries.get(path).ok_or(ErrorKind::NotFound)?.clone())
    }

    /// A file of procfs about a program that a process of the world has started, and that runs. Root is its user.
    fn of_started(&self, path: &Path) -> Option<Vec<u8>> {
        let mut parts = path.strip_prefix("/proc").ok()?.iter();
        let pid: u32 = parts.next()?.to_str()?.parse().ok()?;
        let (_, launch) = self
            .programs
            .running()
            .into_iter()
            .find(|(running, _)| *running == pid)?;
        let words = [launch.program().as_os_str()].into_iter();
        let words = words.chain(launch.arguments().iter().map(|word| word.as_os_str()));
        let words = words.map(|word| word.to_string_lossy().into_owned() + "\0");
        Some(match parts.next()?.to_str()? {
            "cmdline" => words.collect::<String>().into_bytes(),
            "stat" => format!("{pid} (a) S {}77 0", "0 ".repeat(18)).into_bytes(),
            "status" => b"Uid:\t0\t0\t0\t0\n".to_vec(),
            _ => return None,
        })
    }
}

impl KernelFiles for ProcessKernelFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self.entry(path)? {
            Entry::File(bytes) | Entry::Descriptor(_, bytes) => Ok(bytes),
            Entry::Link(target) => self.read(&target),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.life.refuse_the_dead()?;
        pci::write(&mut self.files.entries(), path, bytes)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.life.refuse_the_dead()?;
        let entries = self.files.entries();
        let below = entries
            .keys()
            .filter_map(|path| path.strip_prefix(folder).ok());
        let names = below.filter_map(|path| path.iter().next()?.to_str());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        if folder == Path::new("/proc") {
            let started = self.programs.running().into_iter();
            names.extend(started.map(|(pid, _)| pid.to_string()));
        }
        names.dedup();
        match names.is_empty() {
            true => Err(ErrorKind::NotFound.into()),
            false => Ok(names),
        }
    }

    fn link(&self, path: &Path) -> io::Result<PathBuf> {
        match self.entry(path)? {
            Entry::Link(target) | Entry::Descriptor(target, _) => Ok(target),
            Entry::File(_) => Err(ErrorKind::InvalidInput.into()),
        }
    }

    fn exists(&self, path: &Path) -> bool {
        let entries = self.files.entries();
        entries.keys().any(|entry| entry.starts_with(path))
    }

    fn may_have_process_of(&self, _uid: u32) -> bool {
        !self.programs.running().is_empty()
    }

    fn read_end_of_own(&self, path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
        let Entry::Descriptor(_, bytes) = self.entry(path)? else {
            return Err(ErrorKind::InvalidInput.into());
        };
        let max = usize::try_from(max_bytes).unwrap_or(usize::MAX);
        let start = bytes.len().saturating_sub(max);
        Ok(bytes.get(start..).unwrap_or_default().to_vec())
    }

    fn hold(&self, pid: u32) -> io::Result<Option<Box<dyn HeldProcess>>> {
        self.life.refuse_the_dead()?;
        let held = self.programs.hold(pid);
        Ok(held.map(|held| Box::new(held) as Box<dyn HeldProcess>))
    }
}
