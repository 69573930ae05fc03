//! Changes to a running domain that need no journal: power, memory, vCPUs, scheduling. `supervise::requests` and the
//! commands call them.

pub mod autoballoon;
pub mod cpu_pools;
pub mod memory;
pub mod parameters;
pub mod power;
pub mod sched;
pub mod vcpus;
