//! Reports of a host for programs: its VMs, operations, leftovers, posture and metrics, as JSON and as Prometheus's text.
//!
//! The command `xyl` and the daemon `xyld` call it, so both give the same answers. Each module owns the JSON of one subject. Reading takes
//! no lock and changes nothing. What cannot be read is left out or `null`, and the caller gets the reason.

pub mod check;
pub mod explained;
pub mod host;
pub mod leftovers;
pub mod metrics;
pub mod names;
pub mod operations;
pub mod posture;
mod value;
pub mod vms;

pub use value::{Reader, set};
