//! The real hypervisor: hypercalls, foreign mappings, event channels and grants through Linux's drivers.
//!
//! [`Xen`] implements [`Hypervisor`](xen_port::Hypervisor) over `/dev/xen/privcmd`. [`EventChannels`] and [`Grants`] are the two other
//! drivers that a toolstack needs. Everything that is acquired is owned, and given back when it is dropped.
//!
//! It also starts programs ([`Standby`], [`SystemSpawn`]), since a child has to be set up before it becomes its program,
//! and has hostile bytes read by children that can do nothing else ([`compute`]).
//!
//! This is the one crate that uses `unsafe`. Three rules keep it small:
//! - hypercall arguments are copied into an arena that Xen can always reach, and answers are copied out of it; no reference into
//!   the arena exists while Xen runs;
//! - payloads that hold no address are made safe by a marker trait, so that only calls with lists need `unsafe`;
//! - memory of other domains is reached by volatile copies or by the kernel, never by reference.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod arena;
mod confine;
mod device;
mod domain;
mod events;
mod grants;
mod host;
mod mapping;
mod memory;
mod pages;
mod port;
mod privcmd;
mod process;
pub mod program;
mod rights;
mod scheduling;
mod spawn;
mod standby;
mod syscall;
mod vcpu;
mod xen;

pub use confine::{ComputeLimits, Computed, compute};
pub use events::{EventChannel, EventChannels};
pub use grants::{GrantedMemory, Grants};
pub use memory::ForeignMemory;
pub use privcmd::Stats;
pub use rights::give_up_rights;
pub use scheduling::{give_way_to_daemons, take_precedence_to_end};
pub use spawn::SystemSpawn;
pub use standby::{Standby, Streams, expect_children};
pub use xen::Xen;
