//! Changes to a running domain that need no journal: power, memory, vCPUs, scheduling.

pub mod memory;
pub mod power;
pub mod sched;
pub mod vcpus;
