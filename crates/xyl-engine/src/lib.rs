//! A VM's life: create, destroy and all between, in named steps with their undo.
//!
//! The engine talks to Xen through the port [`xen_port::Hypervisor`], to xenstored through
//! [`xenstore::Client`], and to the operating system through the ports of [`os_port`]. It prints nothing: whoever calls it is told of its progress.

pub mod admission;
pub mod adopt;
pub mod brake;
pub mod cancel;
pub mod control_error;
pub mod create;
pub mod destroy;
pub mod dirs;
pub mod domains;
pub mod domid_history;
pub mod dump_core;
pub mod error;
pub mod fsck;
pub mod holders;
pub mod host;
mod images;
pub mod kernel;
pub mod libxl_config;
mod live;
pub mod memory;
pub mod monitor;
pub mod names;
pub mod operation;
pub mod ops;
pub mod owner;
pub mod plan;
pub mod pools;
pub mod power;
pub mod preserve;
pub mod preview;
pub mod record;
pub mod recover;
pub mod reexamine;
pub mod requests;
pub mod restart;
pub mod sched;
pub mod shim;
pub mod soft_reset;
pub mod spec;
#[cfg(test)]
mod testing;
pub mod topology;
pub mod tree;
pub mod userdata;
pub mod vcpus;
pub mod watchers;
pub mod xl_process;
pub mod zone;

use std::rc::Rc;
use std::time::Duration;

use os_port::{Clock, Files, Process, SystemClock, SystemFiles, SystemProcess};
use xen_port::Hypervisor;
use xenstore::{Client, WatchEvent};

use crate::names::NameIndex;

pub use cancel::Cancel;
pub use control_error::ControlError;
pub use dirs::Dirs;
pub use error::EngineError;
pub use owner::Owner;

/// The host that an operation works on.
pub struct Host {
    /// The hypervisor.
    pub hv: Box<dyn Hypervisor>,
    /// Xenstore.
    pub store: Client,
    /// Folders.
    pub dirs: Dirs,
    /// Files.
    pub files: Rc<dyn Files>,
    /// Clocks.
    pub clock: Rc<dyn Clock>,
    /// The process that works on it.
    pub process: Box<dyn Process>,
    /// Told what is being waited for when that takes longer than a moment.
    pub tell: Rc<dyn Fn(&str)>,
}

impl Host {
    /// A host of these, on the operating system that this program runs on.
    pub fn new(hv: Box<dyn Hypervisor>, store: Client, dirs: Dirs) -> Host {
        Host {
            hv,
            store,
            dirs,
            files: Rc::new(SystemFiles),
            clock: Rc::new(SystemClock),
            process: Box::new(SystemProcess),
            tell: Rc::new(|_| ()),
        }
    }

    /// What a search for a domain needs: the hypervisor, xenstore, and the index of the names in it.
    pub fn directory(&mut self) -> (&dyn Hypervisor, &mut Client, NameIndex<'_>) {
        let index = NameIndex::new(&*self.files, &*self.clock, &*self.process, &self.dirs);
        (&*self.hv, &mut self.store, index)
    }

    /// Waits for an event of a watch, but not longer than `limit`.
    pub fn wait_for_event(&mut self, limit: Duration) -> Result<Option<WatchEvent>, EngineError> {
        let deadline = self.clock.now() + limit;
        let event = self.store.next_event(deadline)?;
        if event.is_none() {
            self.clock.wait_until(deadline);
        }
        Ok(event)
    }

    /// The host that this program runs on: `/dev/xen/privcmd`, xenstored, the system's folders.
    pub fn open() -> Result<Host, EngineError> {
        let hv = Box::new(xen_sys::Xen::open()?);
        Ok(Host::new(hv, Client::connect()?, Dirs::system()))
    }
}
