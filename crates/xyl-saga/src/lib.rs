//! Operations that cannot be lost.
//!
//! An operation on a VM is a list of named [`Step`]s, each of which can be applied, taken back, and
//! repeated. A [`Journal`] says how far it has come, so that when its process dies another one finishes
//! it or takes it back: [`run`] carries an operation out, [`resume`] takes one over. What may follow
//! what is the table of [`state`]; what a journal tells is read by [`Past`].
//!
//! A journal is a text file of one record a line. It is written and never flushed to the disk: it
//! outlives a process, and a domain does not outlive the host.

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
