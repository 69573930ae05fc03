//! A VM's life: create, destroy and all between, in named steps with their undo.
//!
//! The engine talks to Xen through the port [`xen_port::Hypervisor`], to xenstored through
//! [`xenstore::Client`], and to the operating system through the ports of [`os_port`]. It prints nothing: whoever calls it is told of its progress.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod cancel;
pub mod config;
pub mod control;
pub mod device;
pub mod error;
pub mod host;
mod notice;
pub mod operation;
pub mod recover;
pub mod supervise;
#[cfg(test)]
mod testing;
pub mod vm;

use std::rc::Rc;
use std::time::Duration;

use os_port::{Clock, Files, Process, SystemClock, SystemFiles, SystemProcess};
use xen_port::Hypervisor;
use xenstore::{Client, Path, Tree, WatchEvent};

pub use cancel::Cancel;
pub use error::{EngineError, ErrorCode, Lacking, RequestError, SettingError};
pub use host::dirs::Dirs;
pub use notice::Notice;
pub use vm::lock::VmGuard;

/// The host that an operation works on.
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
    /// The process that works on it.
    pub process: Box<dyn Process>,
    /// Told what is being waited for when that takes longer than a moment.
    pub notice: Rc<dyn Fn(&str)>,
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
            notice: Rc::new(|_| ()),
        }
    }

    /// Names of a xenstore folder's children; none where there is no such folder.
    pub(crate) fn children(&mut self, folder: &Path) -> Result<Vec<String>, EngineError> {
        match self.store.directory(folder) {
            Err(xenstore::Error::NotFound { .. }) => Ok(Vec::new()),
            other => Ok(other?),
        }
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

    /// Waits for an event of a watch with one of these tokens, but not longer than `limit`. Events of other watches stay
    /// in the queue for the code that set those watches.
    pub fn wait_for_event_of(
        &mut self,
        tokens: &[&str],
        limit: Duration,
    ) -> Result<Option<WatchEvent>, EngineError> {
        let deadline = self.clock.now() + limit;
        let event = self.store.next_event_of(tokens, deadline)?;
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
