//! What a VM is: its specification, its record on disk, its name, its domain and its lock.
//!
//! Every other folder stands on this one. Nothing here starts, changes or ends a domain.

pub mod domains;
pub mod lock;
pub mod names;
pub mod spec;
pub mod store;
pub mod userdata;
