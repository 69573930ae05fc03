//! The host around the VMs: folders, CPUs and pools, what domain 0's kernel shows, processes of xl, and
//! who unpacks kernels.

pub mod dirs;
pub mod dom0;
pub mod holders;
pub mod info;
pub mod pools;
pub mod timezone;
pub mod topology;
pub mod unpack;
pub mod xl_process;

/// What xl prints in place of a name that is not there.
pub const NO_NAME: &str = "(null)";
