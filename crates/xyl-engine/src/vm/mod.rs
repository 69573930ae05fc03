//! What a VM is: its specification, its record on disk, its name, its domain and its lock.
//!
//! Every other folder stands on this one. Nothing here starts, changes or ends a domain.

pub mod domains;
pub mod domid_history;
pub mod journal;
pub mod lock;
pub mod monitor_lock;
pub mod names;
pub mod paths;
pub mod spec;
pub mod store;
pub mod userdata;

use uuid::Uuid;
use xen_port::DomId;

/// A VM that has a domain.
#[derive(Clone, Copy, Debug)]
pub struct Vm {
    /// The VM's present domain.
    pub domid: DomId,
    /// The VM's identity, which outlives its domains.
    pub uuid: Uuid,
}
