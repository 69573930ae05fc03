//! A simulated host: its processes' handles, and the snapshot that a checker compares.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::model::Model;
use os_port::mem::{
    Life, MemDisks, MemDoorbells, MemFiles, MemKernelFiles, MemLinks, MemProcess, MemPrograms,
    VirtualClock,
};
use os_port::{
    BlockDevices, Clock, Doorbells, Files, HostDevices, KernelFiles, Link, LoopDevice, LoopDevices,
    Process, Spawn, Taps,
};
use xen_port::{DomId, DomainInfo, Hypervisor, PAGE_SIZE, ShutdownReason, VersionInfo};
use xenstore::mem::MemStore;
use xenstore::{Client, RetryPolicy, Settings};

use crate::backends::Backends;
use crate::disks::MortalDisks;
use crate::doorbells::MortalDoorbells;
use crate::fate::{Fate, Moment};
use crate::guests::Guests;
use crate::hypervisor::MortalXen;
use crate::lasting::{Lasting, LastingFault};
use crate::links::MortalLinks;
use crate::os::{MortalClock, MortalFiles, MortalProcess};
use crate::programs::{MortalKernelFiles, MortalSpawn};
use crate::store::MortalTransport;

/// A host in memory.
pub struct World {
    /// The model of the hypervisor.
    pub xen: Model,
    /// The in-memory xenstored.
    pub store: MemStore,
    /// The disk in memory.
    pub disk: MemFiles,
    /// The block devices in memory.
    pub disks: MemDisks,
    /// The network interfaces in memory.
    pub links: MemLinks,
    /// The programs that processes start, and other processes of the host.
    pub programs: MemPrograms,
    /// The procfs and sysfs in memory.
    pub kernel_files: MemKernelFiles,
    /// The doorbells in memory.
    pub doorbells: MemDoorbells,
    /// The backends of disks and network interfaces.
    pub backends: Backends,
    /// The guests that can suspend themselves.
    pub guests: Guests,
    /// The clock of all processes.
    pub clock: VirtualClock,
    free_mib: u64,
    processes: Processes,
    lasting: Lasting,
}

/// All processes that there have been in a world.
#[derive(Clone, Default)]
pub(crate) struct Processes {
    lives: Arc<Mutex<Vec<Life>>>,
}

impl Processes {
    pub(crate) fn next_id(&self) -> u32 {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.len() as u32 + 1
    }

    pub(crate) fn add(&self, life: &Life) {
        let mut lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.push(life.clone());
    }

    fn end_all(&self) {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.iter().for_each(Life::end);
    }

    pub(crate) fn is_running(&self, id: u32) -> bool {
        let lives = self.lives.lock().unwrap_or_else(PoisonError::into_inner);
        lives.iter().any(|life| life.id() == id && life.lives())
    }
}

/// The ports of one process. A [`Fate`](crate::Fate) controls all of them.
pub struct Handles {
    /// Port to the hypervisor.
    pub hv: Box<dyn Hypervisor>,
    /// Connection to xenstored.
    pub store: Client,
    /// The disk as the process sees it.
    pub files: Rc<dyn Files>,
    /// The clock of the world.
    pub clock: Rc<dyn Clock>,
    /// The process itself.
    pub process: Box<dyn Process>,
    /// Port to other programs.
    pub spawn: Rc<dyn Spawn>,
    /// The procfs and sysfs as the process sees them.
    pub kernel_files: Rc<dyn KernelFiles>,
    /// The doorbells as the process sees them.
    pub doorbells: Rc<dyn Doorbells>,
    /// The devices of the host.
    pub devices: HostDevices,
}

impl World {
    /// A host with so much free memory, and domain 0 alone.
    pub fn new(free_mib: u64) -> World {
        let store = MemStore::new();
        store.set_keeps_time(false);
        let disk = MemFiles::new();
        let disks = MemDisks::new(&disk);
        let links = MemLinks::default();
        let programs = MemPrograms::default();
        let kernel_files = MemKernelFiles::default();
        let sysfs = Arc::new(disk.clone());
        let (xen, clock) = (Model::new(free_mib), VirtualClock::new());
        World {
            guests: Guests::new(&xen, &store, &clock),
            xen,
            store,
            backends: Backends::new(&disks, &links, sysfs, &programs, &kernel_files),
            disks,
            disk,
            doorbells: MemDoorbells::default(),
            links,
            programs,
            kernel_files,
            clock,
            free_mib,
            processes: Processes::default(),
            lasting: Lasting::default(),
        }
    }

    /// The fate of a new process, which dies at its call number `call` if there is one.
    pub fn fate(&self, doom: Option<(u64, Moment)>) -> Fate {
        let id = self.processes.next_id();
        let fate = match doom {
            Some((call, moment)) => Fate::doomed(id, call, moment),
            None => Fate::free(id),
        };
        self.processes.add(fate.life());
        fate.in_world(&self.lasting)
    }

    /// Cuts the host's power and boots it again. The disk has only synced data, and no process survives.
    #[must_use]
    pub fn lose_power(self) -> World {
        self.processes.end_all();
        self.disk.lose_power();
        let disks = MemDisks::new(&self.disk);
        let links = MemLinks::default();
        let programs = MemPrograms::default();
        let kernel_files = MemKernelFiles::default();
        let sysfs = Arc::new(self.disk.clone());
        let next = World::new(self.free_mib);
        World {
            guests: Guests::new(&next.xen, &next.store, &self.clock),
            backends: Backends::new(&disks, &links, sysfs, &programs, &kernel_files),
            kernel_files,
            programs,
            disks,
            links,
            disk: self.disk,
            clock: self.clock,
            processes: self.processes,
            ..next
        }
    }

    /// Makes all calls of the fault's kind fail in every process of this world.
    pub fn fail_always(&self, fault: LastingFault) {
        self.lasting.add(fault, None);
    }

    /// No call fails any more for a fault that stays.
    pub fn lift_faults(&self) {
        self.lasting.lift();
    }

    /// The ports of the process with this fate.
    ///
    /// # Errors
    /// An error of the operating system, if no descriptors are left.
    pub fn handles(&self, fate: &Fate) -> io::Result<Handles> {
        // A moment passes between any two processes.
        self.clock.advance(Duration::from_millis(10));
        let transport = MortalTransport {
            inner: self.store.connect(0)?,
            store: self.store.clone(),
            clock: self.clock.clone(),
            fate: fate.clone(),
            backends: self.backends.clone(),
            guests: self.guests.clone(),
            kernel: None,
        };
        // Pauses that are the same in every run.
        let retry = RetryPolicy {
            seed: Some(fate.life().id().into()),
            ..RetryPolicy::default()
        };
        let settings = Settings {
            retry,
            ..Settings::default()
        };
        Ok(Handles {
            hv: Box::new(MortalXen {
                inner: self.xen.clone(),
                store: self.store.clone(),
                fate: fate.clone(),
            }),
            store: Client::new(Box::new(transport), settings),
            files: Rc::new(MortalFiles {
                inner: self.disk.of(fate.life()),
                fate: fate.clone(),
            }),
            clock: Rc::new(MortalClock {
                inner: self.clock.clone(),
                fate: fate.clone(),
            }),
            process: Box::new(MortalProcess {
                inner: MemProcess::new(fate.life()),
                all: self.processes.clone(),
                fate: fate.clone(),
            }),
            spawn: Rc::new(MortalSpawn {
                programs: self.programs.clone(),
                all: self.processes.clone(),
                fate: fate.clone(),
            }),
            kernel_files: Rc::new(MortalKernelFiles {
                inner: self.kernel_files.of(fate.life(), &self.programs),
                fate: fate.clone(),
            }),
            doorbells: Rc::new(MortalDoorbells {
                inner: self.doorbells.of(fate.life()),
                fate: fate.clone(),
            }),
            devices: self.devices(fate),
        })
    }

    fn devices(&self, fate: &Fate) -> HostDevices {
        let disks = Rc::new(MortalDisks {
            inner: self.disks.of(fate.life()),
            fate: fate.clone(),
        });
        let links = Rc::new(MortalLinks {
            inner: self.links.of(fate.life()),
            fate: fate.clone(),
        });
        HostDevices {
            loops: Rc::clone(&disks) as Rc<dyn LoopDevices>,
            blocks: disks as Rc<dyn BlockDevices>,
            taps: Rc::clone(&links) as Rc<dyn Taps>,
            links,
        }
    }

    /// A guest shuts itself down.
    pub fn shut_down(&self, domid: DomId, reason: ShutdownReason) {
        self.xen.shut_down(domid, reason);
        self.store.domain_shut_down(domid.0);
    }

    /// Lets the backends do all that they have to do.
    pub fn settle(&self) {
        if let Ok(mut store) = self.store.client(0) {
            while self.backends.is_used() && self.backends.act(&mut store) {}
            while self.guests.is_used() && self.guests.act(&mut store) {}
        }
    }

    /// All that a checker looks at, once the backends are at rest.
    pub fn snapshot(&self) -> Snapshot {
        self.settle();
        let domains = self.xen.domain_list().unwrap_or_default();
        let nodes = self.store.nodes().into_iter();
        let paths = self.disk.paths().into_iter();
        Snapshot {
            claimed_pages: domains.iter().map(|domain| domain.outstanding_pages).sum(),
            domains: domains
                .into_iter()
                .map(|domain| (domain.domid, domain))
                .collect(),
            free_pages: self.xen.free_pages(),
            mappings: self.xen.live_mappings(),
            nodes: nodes
                .map(|(path, (value, _))| (path.to_string(), value))
                .collect(),
            files: paths
                .map(|path| (path.clone(), self.disk.contents(&path).unwrap_or_default()))
                .collect(),
            folders: self.disk.folders(),
            loops: self.disks.loops(),
            links: self.links.all(),
        }
    }
}

/// A host as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The domains; event channels, grants and claims live and die with them.
    pub domains: BTreeMap<DomId, DomainInfo>,
    /// Pages that are claimed.
    pub claimed_pages: u64,
    /// Pages that are free.
    pub free_pages: u64,
    /// Number of foreign mappings that processes hold.
    pub mappings: usize,
    /// All xenstore nodes and their values, by path.
    pub nodes: BTreeMap<String, Vec<u8>>,
    /// All files and their contents, by path.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Paths of all folders.
    pub folders: Vec<PathBuf>,
    /// All attached loop devices.
    pub loops: Vec<LoopDevice>,
    /// All network interfaces.
    pub links: Vec<Link>,
}

impl Snapshot {
    /// Leaks as texts: things that exist now and did not exist then. Ignores files and folders for which `may_stay`
    /// is true.
    pub fn leaks(&self, then: &Snapshot, may_stay: &dyn Fn(&Path) -> bool) -> Vec<String> {
        let mut leaks = Vec::new();
        let new_domains = self
            .domains
            .keys()
            .filter(|id| !then.domains.contains_key(id));
        leaks.extend(new_domains.map(|id| format!("domain {id}")));
        let new_nodes = self
            .nodes
            .keys()
            .filter(|node| !then.nodes.contains_key(*node));
        leaks.extend(new_nodes.map(|node| format!("node {node}")));
        let new_files = self
            .files
            .keys()
            .filter(|file| !then.files.contains_key(*file));
        let new_folders = self
            .folders
            .iter()
            .filter(|folder| !then.folders.contains(folder));
        let new_paths = new_files.chain(new_folders).filter(|path| !may_stay(path));
        leaks.extend(new_paths.map(|path| format!("file {}", path.display())));
        let new_loops = self.loops.iter().filter(|one| !then.loops.contains(one));
        leaks.extend(new_loops.map(|one| format!("loop device {}", one.number)));
        let is_new = |link: &&Link| then.links.iter().all(|old| old.index != link.index);
        let new_links = self.links.iter().filter(is_new);
        leaks.extend(new_links.map(|link| format!("network interface {}", link.name)));
        if self.claimed_pages > then.claimed_pages {
            leaks.push(format!("{} claimed pages", self.claimed_pages));
        }
        if self.mappings > then.mappings {
            leaks.push(format!("{} mappings", self.mappings));
        }
        if self.domains.len() <= then.domains.len() && self.free_pages < then.free_pages {
            leaks.push(format!("{} pages", then.free_pages - self.free_pages));
        }
        leaks
    }

    /// Losses as texts: things that existed then and do not exist unchanged now.
    pub fn losses(&self, then: &Snapshot) -> Vec<String> {
        let mut losses = Vec::new();
        for (id, domain) in &then.domains {
            if self.domains.get(id) != Some(domain) {
                losses.push(format!("domain {id}"));
            }
        }
        for (node, value) in &then.nodes {
            if self.nodes.get(node) != Some(value) {
                losses.push(format!("node {node}"));
            }
        }
        for (file, bytes) in &then.files {
            if self.files.get(file) != Some(bytes) {
                losses.push(format!("file {}", file.display()));
            }
        }
        let lost_loops = then.loops.iter().filter(|one| !self.loops.contains(one));
        losses.extend(lost_loops.map(|one| format!("loop device {}", one.number)));
        let lost_links = then.links.iter().filter(|link| !self.links.contains(link));
        losses.extend(lost_links.map(|link| format!("network interface {}", link.name)));
        losses
    }
}

/// The version of a simulated hypervisor, for tests that set one.
pub fn version() -> VersionInfo {
    VersionInfo {
        major: 4,
        minor: 20,
        extra: ".0-simulated".to_owned(),
        compiler: "none".to_owned(),
        compile_by: "xyl".to_owned(),
        compile_domain: "simulated host".to_owned(),
        compile_date: "never".to_owned(),
        capabilities: "xen-3.0-x86_64 hvm-3.0-x86_64".to_owned(),
        changeset: "none".to_owned(),
        command_line: "dom0_mem=1024M".to_owned(),
        build_id: String::new(),
        page_size_bytes: PAGE_SIZE as u32,
        virt_start: 0xffff_8000_0000_0000,
    }
}
