//! Builds the memory of a new domain: PV, PVH and HVM. Saves the memory and the CPU state of a domain, and restores them.
//!
//! A new domain has vCPUs, a memory limit and event channels, and no memory. [`build_pv`], [`build_pvh`] and [`build_hvm`]
//! allocate its memory and load the kernel, its modules and the structures of the boot contract. They set the registers of
//! vCPU 0. Then the domain can be introduced to xenstored and unpaused. libxc's `xc_dom_*` functions do the same for
//! xl, with more requests. Each of the three modules lists its requests.
//!
//! The layout is computed and checked before the first request. [`check_pv`], [`check_pvh`] and [`check_hvm`] do only that, for a
//! caller that has no domain yet.
//!
//! [`save`] writes the memory and the CPU state of a suspended domain as a stream of `xen-stream`; [`restore`] fills a new domain
//! with them.
//!
//! Kernels are hostile: they may come from a guest's disk. `xen-image` has checked every number in an [`Image`]. This
//! crate only adds them, and checks each sum against the domain's memory before it is used.
//!
//! [`Image`]: xen_image::Image

mod area;
mod bytes;
mod container;
pub mod cpu_policy;
mod error;
mod grants;
mod hvm;
mod hvm_start_info;
pub mod memory;
mod place;
mod populate;
mod pv;
mod pv_state;
mod pvh;
mod request;
mod restore;
mod rings;
mod save;
mod span;
mod special;

pub use error::{BuildError, Result, Step};
pub use grants::seed_grants;
pub use hvm::{
    FIRMWARE, HvmMachine, HvmRam, MMIO_HOLE_MAX_MIB, MMIO_HOLE_MIN_MIB, build_hvm,
    build_hvm_mapped, check_hvm, hvm_module_addresses,
};
pub use pv::{build_pv, check_pv};
pub use pvh::{build_pvh, build_pvh_mapped, check_pvh};
pub use request::{
    BootModule, BuildRequest, Built, Channel, ExtentCounts, MEMORY_MAX_KIB, ModuleContent,
};
pub use restore::{RestoreError, RestoreProgress, RestoreRequest, RestoreStep, Restored, restore};
pub use save::{SaveError, SaveFailure, SaveProgress, SaveRequest, SaveStep, SaveSummary, save};
