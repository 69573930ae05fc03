//! The real hypervisor: hypercalls, foreign mappings, event channels and grants through Linux's drivers.
//!
//! [`Xen`] implements [`Hypervisor`](xen_port::Hypervisor) over `/dev/xen/privcmd`. [`EventChannels`] and [`Grants`]
//! are the two other drivers that a toolstack needs. Each resource is an owned value and is released when it is
//! dropped.
//!
//! The crate also starts programs ([`Standby`], [`SystemSpawn`]), because a child must be prepared before it becomes
//! its program. A boot loader, which reads a guest's disk, is started without rights (`extract`). [`ScriptRunner`] runs hot-plug scripts and boot loaders for a process that has given up its rights. The crate runs code that reads hostile bytes in children without rights ([`compute`]). [`SystemLoopDevices`]
//! attaches files to loop devices.
//!
//! This is the only crate with `unsafe`. Three rules keep it small:
//! - Hypercall arguments are copied into an arena that Xen can always reach, and answers are copied out of it. No
//!   reference into the arena exists while Xen runs.
//! - A marker trait marks payloads without addresses as safe, so only calls with lists need `unsafe`.
//! - Memory of other domains is accessed by volatile copies or by the kernel, never by reference.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod arena;
mod confine;
mod device;
mod domain;
mod events;
mod extract;
mod grants;
mod host;
mod loops;
mod mapping;
mod memory;
mod pages;
mod passthrough;
mod pools;
mod port;
mod privcmd;
mod process;
pub mod program;
mod rights;
mod runner;
mod scheduling;
mod settings;
mod spawn;
mod standby;
mod state;
mod syscall;
mod taps;
mod vcpu;
mod written;
mod xen;

pub use confine::{ComputeLimits, Computed, Filtered, compute, compute_from, filter_from};
pub use events::{EventChannel, EventChannels};
pub use grants::{GrantedMemory, Grants};
pub use loops::SystemLoopDevices;
pub use memory::ForeignMemory;
pub use privcmd::Stats;
pub use rights::{Network, Programs, give_up_rights};
pub use runner::ScriptRunner;
pub use scheduling::{give_way_to_daemons, take_precedence_to_end};
pub use spawn::SystemSpawn;
pub use standby::{Standby, Streams, expect_children};
pub use taps::SystemTaps;
pub use xen::Xen;
