//! A simulated world behind the toolstack's ports, in which processes can be killed at any call.
//!
//! A [`World`] is a hypervisor, a xenstored, a disk and a clock, all in memory and deterministic.
//! [`World::handles`] starts a process in it: a set of handles behind the ports that live and die
//! together. A [`Fate`] counts the calls that cross a port, and can end the process before, in the
//! middle of, or after any of them: it unwinds, [`Fate::run`] catches that, and what the process still
//! holds is as dead as it is. [`Snapshot`] is what a checker compares.

mod fate;
mod hypervisor;
pub mod machine;
mod os;
mod store;
mod world;

pub use fate::{Ended, Fate, Moment, Sabotage};
pub use world::{Handles, Snapshot, World};
