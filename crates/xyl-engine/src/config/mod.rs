//! From a configuration to a decision: what a VM is made from, and whether it may start.
//!
//! `plan` turns a parsed xl.cfg into a [`crate::vm::spec::VmSpec`], `admission` asks the policy, `shim` wraps a PV kernel,
//! `runtime_changes` adds what commands changed later, and `libxl_json` reads and writes libxl's own record.

pub mod admission;
pub mod libxl_json;
pub mod plan;
pub mod preview;
pub(crate) mod runtime_changes;
pub mod shim;
