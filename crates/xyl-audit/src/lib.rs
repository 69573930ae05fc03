//! What protects this host against speculative execution attacks, for each type of guest, and which guests may start.
//!
//! [`policy`] and [`mod@admit`] decide about a guest from the host's [`audit`]. Nothing here guesses: what no source says is
//! unknown, and is said to be. All I/O goes through ports.

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
