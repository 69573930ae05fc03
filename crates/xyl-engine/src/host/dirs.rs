//! Paths of Xyl's files and folders on a host. Tests and simulated hosts move all of them below one folder.

use std::path::{Path, PathBuf};

use uuid::Uuid;

/// Prefix of the lock files of names.
pub(crate) const NAME_LOCK: &str = "name-";
/// Prefix of the names of the locks of disks.
pub(crate) const DISK_LOCK: &str = "disk-";

/// Name of the lock of the CPU pools.
pub(crate) const POOLS_LOCK: &str = "cpu-pools";

/// Name of the lock of the assignable PCI devices.
pub(crate) const PCI_LOCK: &str = "pci-devices";

/// Name of the lock of displays.
pub(crate) const DISPLAYS_LOCK: &str = "vnc-displays";

/// The folders that Xyl uses on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Records of VMs: `/var/lib/xyl`.
    pub lib: PathBuf,
    /// Files that live until the host shuts down: `/run/xyl`.
    pub run: PathBuf,
    /// Unpacked kernels: `/var/cache/xyl/kernels`.
    pub kernel_cache: PathBuf,
    /// libxl's userdata: `/var/lib/xen`.
    pub xen_lib: PathBuf,
    /// libxl's run folder: `/var/run/xen`.
    pub xen_run: PathBuf,
    /// Logs: `/var/log/xen`, as for xl.
    pub log: PathBuf,
    /// The policy about which guests may start: `/etc/xyl/policy.toml`.
    pub policy: PathBuf,
    /// Installed programs: `/usr`.
    pub usr: PathBuf,
    /// Devices, as domain 0's kernel shows them: `/sys`.
    pub sys: PathBuf,
    /// Device nodes: `/dev`.
    pub dev: PathBuf,
}

impl Dirs {
    /// The folders of a real host.
    pub fn system() -> Dirs {
        Dirs::below(Path::new("/"))
    }

    /// The same folders below `root`.
    pub fn below(root: &Path) -> Dirs {
        Dirs {
            lib: root.join("var/lib/xyl"),
            run: root.join("run/xyl"),
            kernel_cache: root.join("var/cache/xyl/kernels"),
            xen_lib: root.join("var/lib/xen"),
            xen_run: root.join("run/xen"),
            log: root.join("var/log/xen"),
            policy: root.join("etc/xyl/policy.toml"),
            usr: root.join("usr"),
            sys: root.join("sys"),
            dev: root.join("dev"),
        }
    }

    /// Folder to which each QEMU is confined. It is in `/dev`, since `/run` may hold no devices.
    pub(crate) fn qemu_cage(&self) -> PathBuf {
        self.dev.join("xyl/qemu")
    }

    /// The empty folder to which each device model is confined.
    pub(crate) fn device_model_cage(&self) -> PathBuf {
        self.dev.join("xyl/machine")
    }

    /// Folder of the sockets of channels.
    pub(crate) fn channels(&self) -> PathBuf {
        self.run.join("channel")
    }

    /// Whether QEMU knows the option `-run-with`, noted for each binary.
    pub(crate) fn qemu_features(&self) -> PathBuf {
        self.run.join("qemu-features")
    }

    /// Folder of core dumps (`XEN_DUMP_DIR`).
    pub fn dump(&self) -> PathBuf {
        self.xen_lib.join("dump")
    }

    /// Folder of the files of VMs that start with the host: `/etc/xyl/autostart.d`.
    pub fn autostart(&self) -> PathBuf {
        self.policy.with_file_name("autostart.d")
    }

    /// Folder of the locks of VMs and names. A file stays if its holder dies, and marks an unfinished operation.
    pub fn busy(&self) -> PathBuf {
        self.run.join("busy")
    }

    /// Path of a VM's lock. A process holds it while it changes the VM.
    pub fn vm_lock(&self, uuid: Uuid) -> PathBuf {
        self.busy().join(uuid.hyphenated().to_string())
    }

    /// Path of a name's lock. A process holds it while it gives a domain this name.
    pub fn name_lock(&self, name: &str) -> PathBuf {
        self.busy().join(format!("{NAME_LOCK}{name}"))
    }

    /// Lock of the process that attaches this disk to a domain.
    pub fn disk_lock(&self, disk: &str) -> PathBuf {
        self.busy().join(format!("{DISK_LOCK}{disk}"))
    }

    /// Lock of the CPU pools: its holder changes them.
    pub(crate) fn pools_lock(&self) -> PathBuf {
        self.busy().join(POOLS_LOCK)
    }

    /// Lock of the assignable PCI devices: its holder changes them.
    pub(crate) fn pci_lock(&self) -> PathBuf {
        self.busy().join(PCI_LOCK)
    }

    /// Lock of displays: its holder chooses one for a VNC server, and has QEMU listen there.
    pub(crate) fn displays_lock(&self) -> PathBuf {
        self.busy().join(DISPLAYS_LOCK)
    }

    /// Folder of the devices that domain 0's kernel serves to guests.
    pub fn backend_drivers(&self) -> PathBuf {
        self.sys.join("bus/xen-backend/devices")
    }

    /// Folder of the monitor locks, one file for each supervised VM.
    pub fn watched(&self) -> PathBuf {
        self.run.join("watch")
    }

    /// Path of a VM's monitor lock.
    pub fn watch(&self, uuid: Uuid) -> PathBuf {
        self.watched().join(uuid.hyphenated().to_string())
    }

    /// Folder of the doorbells of all monitors.
    pub fn doorbells(&self) -> PathBuf {
        self.run.join("doorbell")
    }

    /// Path of the doorbell of a VM's monitor. It is not in the VM's run folder, because that is created and removed
    /// by operations.
    pub fn doorbell(&self, uuid: Uuid) -> PathBuf {
        self.doorbells().join(uuid.hyphenated().to_string())
    }

    /// Folder of the journals and replies that could not be read.
    pub fn damaged(&self) -> PathBuf {
        self.run.join("damaged")
    }

    /// Folder of the run folders of VMs that had an operation since the host booted.
    pub fn vms_run(&self) -> PathBuf {
        self.run.join("vm")
    }

    /// Path of a VM's run folder.
    pub fn vm_run(&self, uuid: Uuid) -> PathBuf {
        self.vms_run().join(uuid.hyphenated().to_string())
    }

    /// Path of a VM's journal.
    pub fn journal(&self, uuid: Uuid) -> PathBuf {
        self.vm_run(uuid).join("journal")
    }

    /// Folder of a VM's requests, a file for each.
    pub fn requests(&self, uuid: Uuid) -> PathBuf {
        self.vm_run(uuid).join("requests")
    }

    /// Folder of all VMs' replies that were not fetched yet.
    pub fn replies(&self) -> PathBuf {
        self.run.join("replies")
    }

    /// Path of a VM's record folder.
    pub fn vm(&self, uuid: &str) -> PathBuf {
        self.lib.join("vm").join(uuid)
    }
}
