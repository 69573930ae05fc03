//! Requests to a VM and the replies to them, as versioned JSON.
//!
//! - [`Request`] is a change of a VM. An [`Envelope`] adds its [`RequestId`], its time, its VM, and its asker.
//! - [`Reply`] is its result: [`Done`], or an [`Error`] with a stable [`ErrorCode`].
//! - [`Event`] is a line of the log of a VM's monitor.
//!
//! The command, the VM's monitor and other programs use the same types. This crate reads and writes nothing.
//!
//! A reader ignores fields that it does not know. It refuses a version above [`VERSION`], and a type of request that it does
//! not know, with a [`ParseError`] that says so.

mod code;
mod envelope;
mod error;
mod event;
pub mod limits;
mod reply;
mod request;
mod wire;

pub use code::ErrorCode;
pub use envelope::{Asker, Envelope, Header, ParseError, RequestId};
pub use error::Error;
pub use event::{Event, EventKind};
pub use reply::{Done, Dumped, Outcome, PowerDelivery, Reply, Saved};
pub use request::{AfterSave, PowerRequest, Request, ShareChange};

/// Version of the JSON that this crate writes. It is raised when an older reader would misunderstand a newer writer.
pub const VERSION: u32 = 1;
