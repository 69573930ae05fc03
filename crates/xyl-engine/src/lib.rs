//! The engine: the life of a VM from create to destroy, as operations of named steps with undo.
//!
//! The engine talks to Xen through the port [`xen_port::Hypervisor`], to xenstored through [`xenstore::Client`], and
//! to the operating system through the ports of [`os_port`]. It prints nothing. Callers get its progress through
//! callbacks.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod cancel;
pub mod config;
pub mod control;
pub mod device;
pub mod device_model;
pub mod error;
pub mod host;
mod notice;
pub mod operation;
pub mod recover;
pub mod report;
pub mod supervise;
#[cfg(test)]
mod testing;
pub mod vm;

use std::rc::Rc;

use os_port::{
    Clock, Doorbells, Files, HostDevices, Process, Spawn, SystemBlockDevices, SystemClock,
    SystemDoorbells, SystemFiles, SystemLinks, SystemProcess,
};
use xen_port::Hypervisor;
use xenstore::{Client, Path, Tree};

use host::dom0::Kernel;

pub use cancel::Cancel;
pub use error::{AutostartError, EngineError, ErrorCode, Lacking, RequestError, SettingError};
pub use host::dirs::Dirs;
pub use host::events::{DOORBELL, Event, Sources};
pub use notice::Notice;
pub use vm::lock::VmGuard;

/// Connections and ports of one host, for one process.
pub struct Host {
    /// Port to the hypervisor.
    pub hv: Box<dyn Hypervisor>,
    /// Connection to xenstored.
    pub store: Client,
    /// Folders of Xyl on this host.
    pub dirs: Dirs,
    /// Port to the file system.
    pub files: Rc<dyn Files>,
    /// Port to the clocks.
    pub clock: Rc<dyn Clock>,
    /// The calling process.
    pub process: Box<dyn Process>,
    /// Port to other programs.
    pub spawn: Rc<dyn Spawn>,
    /// Port to the doorbells of the VMs' processes.
    pub doorbells: Rc<dyn Doorbells>,
    /// The sources of events of this process besides xenstore.
    pub sources: Sources,
    /// Domain 0's kernel, as procfs and sysfs show it.
    pub kernel: Kernel,
    /// Ports to the host's loop devices, block devices and network interfaces.
    pub devices: HostDevices,
    /// Called with a text when a wait takes longer than a moment.
    pub notice: Rc<dyn Fn(&str)>,
}

impl Host {
    /// Creates a host with the ports of the operating system.
    pub fn new(hv: Box<dyn Hypervisor>, store: Client, dirs: Dirs) -> Host {
        Host {
            hv,
            store,
            dirs,
            files: Rc::new(SystemFiles),
            clock: Rc::new(SystemClock),
            process: Box::new(SystemProcess),
            spawn: Rc::new(xen_sys::SystemSpawn),
            doorbells: Rc::new(SystemDoorbells),
            sources: Sources::default(),
            kernel: Kernel::system(),
            devices: HostDevices {
                loops: Rc::new(xen_sys::SystemLoopDevices),
                blocks: Rc::new(SystemBlockDevices::system()),
                links: Rc::new(SystemLinks),
                taps: Rc::new(xen_sys::SystemTaps),
            },
            notice: Rc::new(|_| ()),
        }
    }

    /// Names of the children of a xenstore folder. Empty if the folder does not exist.
    pub(crate) fn children(&mut self, folder: &Path) -> Result<Vec<String>, EngineError> {
        match self.store.directory(folder) {
            Err(xenstore::Error::NotFound { .. }) => Ok(Vec::new()),
            other => Ok(other?),
        }
    }

    /// Opens this host: `/dev/xen/privcmd`, xenstored, the system's folders.
    pub fn open() -> Result<Host, EngineError> {
        let hv = Box::new(xen_sys::Xen::open()?);
        Ok(Host::new(hv, Client::connect()?, Dirs::system()))
    }
}
