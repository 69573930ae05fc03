//! A simulated world behind the toolstack's ports, in which processes can be killed at any call.
//!
//! A [`World`] is a hypervisor, a xenstored, a disk and a clock, all in memory and deterministic. [`World::handles`]
//! starts a process in it: a set of handles behind the ports that live and die together. A [`Fate`] counts the calls
//! that cross a port. It can end the process before, in the middle of, or after any of them. The process unwinds, and
//! [`Fate::run`] catches that. Everything that the process holds ends with it. Checkers compare [`Snapshot`]s.
//!
//! A [`Fault`] is a call that fails with an error that its caller has not caused. A table has these errors for each
//! call, and a number selects one, so a test can try all. A [`LastingFault`] stays until it is removed, such as a
//! full disk. [`Fate::interrupted`] runs code just before a call: for instance, a guest shuts down or fills its part
//! of xenstore. A [`Sabotage`] is a planted bug of the engine that the tests must find.
//!
//! With [`Turns`], several processes run concurrently. Each is a thread that waits for its turn at every call, and a
//! seed decides the order. A process without a [`Seat`] runs from its start to its end or death.
//!
//! Not modelled: domains that die slowly, memory that other domains hold, and a kernel's use of its memory. The lab
//! has those.
//!
//! [`model`] is the hypervisor in memory. [`machine`] is the same world as a process of its own, for the command.

mod backends;
mod disks;
mod doorbells;
mod fate;
mod guests;
mod hypervisor;
mod lasting;
mod links;
pub mod machine;
pub mod model;
mod os;
mod programs;
mod store;
mod turns;
mod world;

pub use backends::{Backends, DriverManner, Manner, UNKNOWN_DRIVER};
pub use fate::{Ended, Fate, Fault, Moment, Sabotage};
pub use guests::{Guests, SuspendManner};
pub use lasting::LastingFault;
pub use turns::{Seat, Turns};
pub use world::{Handles, Snapshot, World, version};
