//! A simulated world behind the toolstack's ports, in which processes can be killed at any call.
//!
//! A [`World`] is a hypervisor, a xenstored, a disk and a clock, all in memory and deterministic.
//! [`World::handles`] starts a process in it: a set of handles behind the ports that live and die
//! together. A [`Fate`] counts the calls that cross a port, and can end the process before, in the
//! middle of, or after any of them: it unwinds, [`Fate::run`] catches that, and what the process still
//! holds is as dead as it is. [`Snapshot`] is what a checker compares.
//!
//! A [`Fault`] is a call that fails: with each of the errors that it can return for a reason that is none of its caller's
//! making, picked by number from a table per call, so that a test can try them all. A [`LastingFault`] is a fault that
//! stays until it is lifted, such as a full disk. [`Fate::interrupted`] lets something
//! happen in the world just before a call, such as a guest that shuts down or fills its part of xenstore. A [`Sabotage`]
//! is a fault in the engine itself, for tests of the looks: a planted one has to be found.
//!
//! Several processes run beside each other with [`Turns`]: each is a thread that waits for its turn at every call, and a
//! seed decides whose turn it is. One without a [`Seat`] runs from its start to its end or death.
//!
//! What is not modelled: domains that take long to die, memory that other domains hold, and what a kernel does with its
//! memory. The lab has those.
//!
//! [`model`] is the hypervisor in memory. [`machine`] is the same world as a process of its own, for the command.

mod fate;
mod hypervisor;
mod lasting;
pub mod machine;
pub mod model;
mod os;
mod store;
mod turns;
mod world;

pub use fate::{Ended, Fate, Fault, Moment, Sabotage};
pub use lasting::LastingFault;
pub use turns::{Seat, Turns};
pub use world::{Handles, Snapshot, World, version};
