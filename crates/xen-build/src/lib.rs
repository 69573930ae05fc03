//! A domain's memory, laid out and filled: 64-bit PV and PVH.
//!
//! A new domain is empty: it has vCPUs, a memory limit and event channels, and no memory. [`build_pv`] and [`build_pvh`]
//! give it its memory, put the kernel, its modules and all that the boot contract promises into it, and set vCPU 0's
//! registers. Then it can be introduced to xenstore and unpaused. They do what libxc's `xc_dom_*` functions do for xl, in
//! fewer requests; each lists its requests in its module.
//!
//! Everything about the layout is decided, and refused where it cannot be, before the first request: [`check_pv`] and
//! [`check_pvh`] do that alone, for a caller that has no domain yet.
//!
//! Kernels are hostile (they may come from a guest's own disk). `xen-image` has checked every number in an [`Image`] that
//! it gives; here only sums of them are made, and checked against the domain's memory before anything is done with them.
//!
//! [`Image`]: xen_image::Image

mod area;
mod bytes;
pub mod cpu_policy;
mod error;
mod grants;
pub mod memory;
mod place;
mod populate;
mod pv;
mod pvh;
mod request;
mod rings;
mod span;

pub use error::{BuildError, Result, Step};
pub use grants::seed_grants;
pub use pv::{build_pv, check_pv};
pub use pvh::{build_pvh, build_pvh_mapped, check_pvh};
pub use request::{
    BootModule, BuildRequest, Built, Channel, ExtentCounts, MEMORY_MAX_KIB, ModuleContent,
};
