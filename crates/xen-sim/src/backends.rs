//! The backends of devices: domain 0's kernel, QEMU, and driver domains (`elsewhere`).
//!
//! It acts between the calls of the simulated processes, as a kernel does beside them: it takes devices whose nodes it finds, makes
//! what they need, shows them in sysfs, and closes them when their frontend goes. [`Manner`] makes it a bad one. A [`Driver`] is
//! the part of one kind: `blkback` for disks, `netback` for network interfaces, `pciback` for PCI devices. `qemu` is the backend in QEMU, for disks, channels, framebuffers and keyboards. It also plays the part of the guest's driver that
//! lets a device go when it is asked to ([`Backends::set_guest_keeps`]).
//!
//! Facts: `xenbus_probe.c`, `xen-blkback/xenbus.c` and `xen-netback/xenbus.c` of Linux.

mod blkback;
mod elsewhere;
mod netback;
mod pciback;
mod qemu;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use os_port::Files;
use os_port::mem::{Life, MemDisks, MemFiles, MemKernelFiles, MemLinks, MemPrograms};
use xenstore::{Client, Path, Tree};

use blkback::Blkback;
pub use elsewhere::DriverManner;
use elsewhere::{DriverDomains, End};
use netback::Netback;
use pciback::Pciback;
use qemu::Qemus;
pub use qemu::UNKNOWN_DRIVER;

/// The folder of the devices in xenstore.
const FOLDER: &str = "/local/domain/0/backend";
/// Parts of paths that only devices have.
const DEVICES: [&[u8]; 8] = [
    b"backend/vbd",
    b"backend/vif",
    b"backend/pci",
    b"backend/qdisk",
    b"backend/vfb",
    b"backend/vkbd",
    b"/device/console/",
    b"/image/device-model-pid",
];
/// Requests of xenstored's protocol that change its tree: write, mkdir, rm.
const CHANGES: [u32; 3] = [11, 12, 13];
/// The request that ends a transaction.
const TRANSACTION_END: u32 = 7;
/// The folder of the devices in sysfs.
const SYSFS: &str = "/sys/bus/xen-backend/devices";

/// Behaviour of the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    #[default]
    Good,
    /// It takes each device and fails to open it.
    Refuses,
    /// It takes no device.
    Hangs,
    /// It closes no device.
    NeverCloses,
}

impl Manner {
    /// All of them.
    pub const ALL: [Manner; 4] = [
        Manner::Good,
        Manner::Refuses,
        Manner::Hangs,
        Manner::NeverCloses,
    ];
}

/// The backends of a host. Clones share the same ones.
#[derive(Clone, Debug)]
pub struct Backends {
    inner: Arc<Mutex<Inner>>,
    /// Whether any process has named a device. Hosts without devices cost nothing.
    is_used: Arc<AtomicBool>,
    /// Whether xenstore may have changed since they looked.
    is_awake: Arc<AtomicBool>,
}

/// The files in which the kernel shows its devices. Paths begin with `/sys`.
pub(crate) trait Sysfs: fmt::Debug + Send + Sync {
    /// Makes or replaces a file, with the folders above it.
    fn put(&self, path: &FilePath, bytes: &[u8]);

    /// Removes a folder with all that it holds, if it is there.
    fn remove_folder(&self, path: &FilePath);
}

impl Sysfs for MemFiles {
    fn put(&self, path: &FilePath, bytes: &[u8]) {
        MemFiles::put(self, path, bytes);
    }

    fn remove_folder(&self, path: &FilePath) {
        // It is there only if the device was made.
        let _ = self.of(&Life::new(0)).remove_folder(path);
    }
}

/// The part of a backend that differs between the kinds of devices.
trait Driver: fmt::Debug + Send {
    /// libxl's name of the kind.
    fn kind(&self) -> &'static str;

    /// Makes what a device needs. `None`: the toolstack has not written all nodes for it.
    fn make(&mut self, id: &Id, nodes: &mut Nodes<'_>) -> Option<Result<(), &'static str>>;

    /// Takes that away.
    fn unmake(&mut self, id: &Id);

    /// The state in which the backend waits for the guest.
    fn waits_in(&self) -> &'static str {
        "2"
    }

    /// Takes what the toolstack has changed in state 7, with the guest. Whether it has acted.
    fn reconfigure(&mut self, _nodes: &mut Nodes<'_>) -> bool {
        false
    }

    /// Whether the guest can be connected.
    fn may_connect(&self, _nodes: &mut Nodes<'_>) -> bool {
        true
    }
}

/// The nodes of a device's backend.
struct Nodes<'a> {
    store: &'a mut Client,
    folder: String,
}

impl Nodes<'_> {
    fn text(&mut self, name: &str) -> Option<String> {
        value(self.store, &format!("{}/{name}", self.folder))
    }

    /// Always true: the backend has acted.
    fn set_state(&mut self, state: &str) -> bool {
        write(self.store, &format!("{}/state", self.folder), state)
    }
}

#[derive(Debug)]
struct Inner {
    manners: Manners,
    sysfs: Arc<dyn Sysfs>,
    kinds: Vec<OfKind>,
    qemus: Qemus,
    driver_domains: DriverDomains,
}

/// The behaviour of backends and guests.
#[derive(Clone, Copy, Debug, Default)]
struct Manners {
    backend: Manner,
    /// Whether guests keep their devices when they are asked to let them go.
    guest_keeps: bool,
}

/// The backend of a kind.
#[derive(Debug)]
struct OfKind {
    driver: Box<dyn Driver>,
    devices: BTreeMap<Id, Phase>,
}

/// Domain and number of a device, as their nodes are named.
type Id = (String, String);

/// State of a device within its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Taken,
    Made,
    Failed,
    Closed,
}

impl Backends {
    /// The backends of a host with these devices, this sysfs and these programs. `kernel_files` has the PCI devices.
    pub(crate) fn new(
        disks: &MemDisks,
        links: &MemLinks,
        sysfs: Arc<dyn Sysfs>,
        programs: &MemPrograms,
        kernel_files: &MemKernelFiles,
    ) -> Backends {
        let drivers: [Box<dyn Driver>; 3] = [
            Box::new(Blkback::new(disks, &sysfs)),
            Box::new(Netback::new(links, &sysfs)),
            Box::new(Pciback::new(kernel_files)),
        ];
        let kinds = drivers.into_iter().map(|driver| OfKind {
            driver,
            devices: BTreeMap::new(),
        });
        Backends {
            inner: Arc::new(Mutex::new(Inner {
                manners: Manners::default(),
                sysfs,
                kinds: kinds.collect(),
                qemus: Qemus::new(programs),
                driver_domains: DriverDomains::default(),
            })),
            is_used: Arc::default(),
            is_awake: Arc::default(),
        }
    }

    /// Sets how they behave from now on.
    pub fn set_manner(&self, manner: Manner) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.manners.backend = manner;
    }

    /// Sets how a domain serves devices of others from now on.
    pub fn set_driver_domain(&self, domid: u16, manner: DriverManner) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.driver_domains.set(domid, manner);
        drop(inner);
        self.wake();
    }

    /// A domain serves no devices any more.
    pub fn remove_driver_domain(&self, domid: u16) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.driver_domains.remove(domid);
    }

    /// Sets what happens when a driver domain dies ([`DriverManner::Dies`]).
    pub fn set_end_of_driver_domain(&self, end: Box<dyn FnMut() + Send>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.driver_domains.set_end(End(end));
    }

    /// Sets whether guests keep their devices when they are asked to let them go. It looks at all devices again.
    pub fn set_guest_keeps(&self, keeps: bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.manners.guest_keeps = keeps;
        drop(inner);
        self.wake();
    }

    /// Sees a message to xenstored. What changes the tree wakes them.
    pub(crate) fn see(&self, message: &[u8]) {
        let word = |at: usize| {
            let bytes = message
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        let (kind, transaction) = (word(0), word(8));
        if kind == TRANSACTION_END || transaction == 0 && CHANGES.contains(&kind) {
            self.is_awake.store(true, Ordering::Relaxed);
        }
        let names = |what: &[u8]| message.windows(what.len()).any(|part| part == what);
        if !self.is_used.load(Ordering::Relaxed) && DEVICES.iter().any(|what| names(what)) {
            self.is_used.store(true, Ordering::Relaxed);
        }
    }

    /// xenstore may have changed, with devices or without.
    pub(crate) fn wake(&self) {
        self.is_used.store(true, Ordering::Relaxed);
        self.is_awake.store(true, Ordering::Relaxed);
    }

    /// Whether xenstore may have changed since they looked.
    pub(crate) fn is_awake(&self) -> bool {
        self.is_used() && self.is_awake.load(Ordering::Relaxed)
    }

    /// Whether there are devices.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// Does what there is to do, by a connection of domain 0's. Whether there was anything.
    pub(crate) fn act(&self, store: &mut Client) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let has_acted = inner.act(store);
        self.is_awake.store(has_acted, Ordering::Relaxed);
        has_acted
    }
}

impl Inner {
    fn act(&mut self, store: &mut Client) -> bool {
        let (manners, sysfs) = (self.manners, &*self.sysfs);
        let acts = self.kinds.iter_mut();
        let acts = acts.map(|kind| kind.act(store, manners, sysfs));
        let has_acted = acts.fold(false, |one, other| one | other);
        let has_acted = self.driver_domains.act(store, manners.guest_keeps) | has_acted;
        self.qemus.act(store, manners) | has_acted
    }
}

impl OfKind {
    fn act(&mut self, store: &mut Client, manners: Manners, sysfs: &dyn Sysfs) -> bool {
        let kind = self.driver.kind();
        let folder = format!("{FOLDER}/{kind}");
        let mut seen = Vec::new();
        let mut has_acted = false;
        for domid in children(store, &folder) {
            for number in children(store, &format!("{folder}/{domid}")) {
                let mut nodes = Nodes {
                    folder: format!("{folder}/{domid}/{number}"),
                    store,
                };
                let id = (domid.clone(), number);
                has_acted |= self.look_at(&id, &mut nodes, manners, sysfs);
                seen.push(id);
            }
        }
        let all: Vec<Id> = self.devices.keys().cloned().collect();
        for id in all.into_iter().filter(|id| !seen.contains(id)) {
            self.close(&id, sysfs);
            self.devices.remove(&id);
            has_acted = true;
        }
        has_acted
    }

    fn look_at(
        &mut self,
        id: &Id,
        nodes: &mut Nodes<'_>,
        manners: Manners,
        sysfs: &dyn Sysfs,
    ) -> bool {
        let manner = manners.backend;
        let state = nodes.text("state");
        let frontend = nodes.text("frontend").unwrap_or_default();
        let front_state = value(nodes.store, &format!("{frontend}/state"));
        let phase = self.devices.get(id).copied().unwrap_or(Phase::Closed);
        if phase == Phase::Closed {
            let takes = state.as_deref() == Some("1") && front_state.is_some();
            if !takes || manner == Manner::Hangs {
                return false;
            }
            self.devices.insert(id.clone(), Phase::Taken);
            return nodes.set_state("2");
        }
        let is_asked = state.as_deref() == Some("5")
            && nodes.text("online").as_deref() == Some("0")
            && front_state.as_deref().is_some_and(|state| state != "6");
        if is_asked && !manners.guest_keeps {
            return write(nodes.store, &format!("{frontend}/state"), "6");
        }
        let goes = front_state
            .as_deref()
            .is_none_or(|state| matches!(state, "5" | "6"));
        if goes {
            if manner == Manner::NeverCloses {
                return false;
            }
            self.close(id, sysfs);
            if state.is_some() {
                nodes.set_state("6");
            }
            return true;
        }
        if phase == Phase::Taken {
            let made = match manner {
                Manner::Refuses => Some(Err("19 creating the device")),
                _ => self.driver.make(id, nodes),
            };
            if let Some(made) = made {
                self.note(id, made, nodes);
                return true;
            }
        }
        if state.as_deref() == Some("7") && !manners.guest_keeps {
            return self.driver.reconfigure(nodes);
        }
        let waits = state.as_deref() == Some(self.driver.waits_in());
        let is_ready = front_state.as_deref() == Some("3") && waits;
        is_ready && self.driver.may_connect(nodes) && nodes.set_state("4")
    }

    /// Keeps in mind whether a device has been made.
    fn note(&mut self, id: &Id, made: Result<(), &str>, nodes: &mut Nodes<'_>) {
        let phase = match made {
            Ok(()) => Phase::Made,
            Err(text) => {
                let (domid, number) = id;
                let kind = self.driver.kind();
                let folder = format!("/local/domain/0/error/backend/{kind}/{domid}/{number}");
                write(nodes.store, &format!("{folder}/error"), text);
                nodes.set_state("5");
                Phase::Failed
            }
        };
        self.devices.insert(id.clone(), phase);
    }

    fn close(&mut self, id: &Id, sysfs: &dyn Sysfs) {
        if self.devices.contains_key(id) {
            self.devices.insert(id.clone(), Phase::Closed);
        }
        self.driver.unmake(id);
        sysfs.remove_folder(&device_folder(self.driver.kind(), id));
    }
}

/// The folder of a device in sysfs.
fn device_folder(kind: &str, (domid, number): &Id) -> PathBuf {
    PathBuf::from(format!("{SYSFS}/{kind}-{domid}-{number}"))
}

fn children(store: &mut Client, folder: &str) -> Vec<String> {
    let path = Path::new(folder);
    path.ok()
        .and_then(|path| store.directory(&path).ok())
        .unwrap_or_default()
}

fn value(store: &mut Client, path: &str) -> Option<String> {
    let bytes = store.read_opt(&Path::new(path).ok()?).ok()??;
    String::from_utf8(bytes).ok()
}

/// Writes a node. Always true: it has acted.
fn write(store: &mut Client, path: &str, value: &str) -> bool {
    if let Ok(path) = Path::new(path) {
        // xenstored refuses the kernel nothing here.
        let _ = store.write(&path, value.as_bytes());
    }
    true
}
