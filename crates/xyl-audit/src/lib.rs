//! The audit of a host: its protection against speculative execution attacks per guest type, and the decision which
//! guests may start.
//!
//! [`audit`] is the result for a host; [`policy`] and [`mod@admit`] use it to decide about one guest. This crate does
//! not guess: a fact without a source is reported as unknown. All I/O goes through ports.

pub mod admit;
pub mod advisories;
pub mod audit;
pub mod boot_log;
pub mod cpu;
pub mod facts;
pub mod host;
pub mod names;
pub mod policy;
pub mod verdicts;

pub use admit::{Decision, DeviceModel, ImageKind, Operation, Outcome, Request, Shim, admit};
pub use audit::{Audit, Row};
pub use facts::Facts;
pub use names::{AdvisoryVerdict, Family, GuestType, Standing, Sure, Target, UnsupportedSetting};
pub use policy::{Policy, PolicyError, ShimSettings};
