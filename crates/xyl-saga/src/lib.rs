//! Operations that survive the death of their process.
//!
//! An operation on a VM is a [`Plan`]: a list of named steps with their arguments. Each step can be repeated, and most can be
//! undone. A [`Journal`] lists the steps and records how far each is. When a process dies, another one reads the journal and
//! finishes or undoes the operation by the list that stands there.
//!
//! - [`run`] carries an operation out, [`resume`] continues the operation of a dead process.
//! - [`Subject`] applies and undoes the steps, [`At`] is what a step can ask and write down.
//! - [`state`] has the tables of all states and events.
//! - [`Past`] is a journal as a list of operations.
//!
//! A journal is a text file with one record per line. It survives a process. It survives the host only if the operation
//! asks for that ([`Begin::sync`]): most do not, because a domain does not survive the host either.

mod at;
mod codec;
mod format_1;
mod journal;
mod past;
mod plan;
mod record;
mod runner;
pub mod state;

pub use at::{At, Stop};
pub use codec::{Contents, Damage, FILE_MAX_BYTES, LINE_MAX_BYTES, parse};
pub use journal::{Journal, JournalError, load};
pub use past::{Operation, Past, Standing, StepState, UnknownStep};
pub use plan::{Action, OnDeath, Plan, Planned};
pub use record::{Begin, Entry, Facts, Outcome, Record};
pub use runner::{Control, Failure, Happened, Progress, Resumed, Subject, resume, run};
