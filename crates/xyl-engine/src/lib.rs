//! A VM's life: create, destroy and all between, in named steps with their undo.
//!
//! The engine talks to Xen through the port [`xen_port::Hypervisor`], and to xenstored through
//! [`xenstore::Client`]. It prints nothing: whoever calls it is told of its progress.

pub mod control_error;
pub mod create;
pub mod destroy;
pub mod dirs;
pub mod domains;
pub mod domid_history;
pub mod error;
pub mod filelock;
pub mod host;
pub mod memory;
pub mod monitor;
pub mod names;
pub mod plan;
pub mod power;
pub mod preserve;
pub mod record;
pub mod sched;
pub mod spec;
pub mod steps;
pub mod topology;
pub mod tree;
pub mod userdata;
pub mod vcpus;

use xen_port::Hypervisor;
use xenstore::Client;

pub use control_error::ControlError;
pub use dirs::Dirs;
pub use error::EngineError;
pub use steps::Cancel;

/// The host that an operation works on.
pub struct Host {
    /// The hypervisor.
    pub hv: Box<dyn Hypervisor>,
    /// Xenstore.
    pub store: Client,
    /// Folders.
    pub dirs: Dirs,
}

impl Host {
    /// The host that this program runs on: `/dev/xen/privcmd`, xenstored, the system's folders.
    pub fn open() -> Result<Host, EngineError> {
        Ok(Host {
            hv: Box::new(xen_sys::Xen::open()?),
            store: Client::connect()?,
            dirs: Dirs::system(),
        })
    }
}
