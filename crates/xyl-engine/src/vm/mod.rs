//! A VM: its specification, its record on disk, its name, its domain and its locks.
//!
//! The folders above use this one. Nothing here starts, changes or ends a domain.

pub mod channel;
pub mod cpuid;
pub mod disk;
pub mod domains;
pub mod domid_history;
pub mod framebuffer;
pub mod given_up;
pub mod hvm;
pub mod journal;
pub mod keyboard;
pub mod kind;
pub mod lock;
pub mod monitor_lock;
pub mod names;
pub mod nic;
pub mod paths;
pub mod pci;
pub mod request_queue;
pub mod spec;
pub mod state;
pub mod store;
pub mod userdata;
pub mod without_domain;
pub(crate) mod words;

use uuid::Uuid;
use xen_port::DomId;

/// A VM with its present domain.
#[derive(Clone, Copy, Debug)]
pub struct Vm {
    /// Domid of the VM's present domain.
    pub domid: DomId,
    /// UUID of the VM. It stays the same over all its domains.
    pub uuid: Uuid,
}
