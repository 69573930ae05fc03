//! Operations that survive the death of their process.
//!
//! An operation on a VM is a list of named [`Step`]s. Each step can be repeated, and most can be undone.
//! A [`Journal`] records each step. When a process dies, another one reads the journal and finishes or undoes the
//! operation.
//!
//! - [`run`] carries an operation out, [`resume`] continues the operation of a dead process.
//! - [`state`] has the table of all states and events.
//! - [`Past`] is a journal as a list of operations.
//!
//! A journal is a text file with one record per line. This crate does not flush it to the disk: it must survive a
//! process, not the host, because a domain does not survive the host either.

mod codec;
mod journal;
mod past;
mod record;
mod runner;
pub mod state;

pub use codec::{Contents, Damage, FILE_MAX_BYTES, LINE_MAX_BYTES, parse};
pub use journal::{Journal, JournalError, load};
pub use past::{Operation, Past};
pub use record::{Begin, Entry, Facts, Outcome, Record};
pub use runner::{
    Act, Control, Failure, OnDeath, Resumed, Step, Subject, UnknownStep, check_known, resume, run,
};
