//! The host around the VMs: folders, CPUs and pools, domain 0's kernel, xl's processes, counters of devices, the unpacking of
//! kernels, and the check of saved images.
//!
//! This folder knows domains by number, and knows nothing of VMs.

pub mod dirs;
pub mod dom0;
pub mod events;
pub mod holders;
pub mod info;
pub mod pci;
pub mod pools;
pub mod saved_image;
pub mod timezone;
pub mod topology;
pub mod traffic;
pub mod unpack;
pub mod xl_process;

/// Text that xl prints for a missing name.
pub const NO_NAME: &str = "(null)";
