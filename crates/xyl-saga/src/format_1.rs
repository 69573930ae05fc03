//! Journals of format 1, which do not list the steps of their operations.
//!
//! [`Contents::with_steps`] turns an operation that is under way in such a journal into one of format 2.
//! [`crate::Journal::open`] then rewrites the file.

use serde_json::Value;

use crate::codec::Contents;
use crate::past::{Past, Standing, StepState, renumbered};
use crate::plan::{OnDeath, Planned};
use crate::record::{Entry, Record};
use crate::state::Status;

impl Contents {
    /// The contents of a journal of format 1 with the steps of the operation under way. `list_of` knows the steps that each
    /// kind had then. Contents of format 2 stay as they are, and so do steps that no list has.
    #[must_use]
    pub fn with_steps(self, list_of: impl FnOnce(&str) -> Option<Vec<Planned<Value>>>) -> Contents {
        if !self.is_format_1 {
            return self;
        }
        let past = Past::of(&self);
        let Some(open) = past.under_way() else {
            return self;
        };
        let entries = self.entries.get(open.first_entry..).unwrap_or_default();
        let listed = list_of(&open.begin.kind).and_then(|steps| listed(entries, &steps));
        let Some(listed) = listed else {
            return self;
        };
        let before = self.entries.iter().take(open.first_entry).cloned();
        let last = self.entries.last().map_or(0, |entry| entry.sequence);
        Contents {
            entries: renumbered(before.chain(listed).collect(), last),
            ..self
        }
    }
}

/// The records of an operation as format 2 has them; `None` where a step is not in the list.
fn listed(entries: &[Entry], steps: &[Planned<Value>]) -> Option<Vec<Entry>> {
    let mut standing = Standing::of(steps);
    let mut converted = Vec::new();
    for entry in entries {
        let mut record = entry.record.clone();
        if let Record::Begin(begin) = &mut record {
            begin.steps = steps.to_vec();
        } else {
            if let Record::Step { name } = &record {
                for undone in undone_before(&standing, steps, name)? {
                    converted.push(with_record(entry, &undone));
                    standing.follow(&undone).ok()?;
                }
                standing.follow(&record).ok()?;
            } else if let Some(name) = record.step() {
                standing.index_of(name)?;
                // Format 1 undid steps that had not started, and undid steps twice.
                if standing.follow(&record).is_err() {
                    continue;
                }
            } else {
                standing.follow(&record).ok()?;
            }
        }
        converted.push(with_record(entry, &record));
    }
    Some(converted)
}

fn with_record(entry: &Entry, record: &Record) -> Entry {
    Entry {
        record: record.clone(),
        ..*entry
    }
}

/// Format 1 has no record for a step that the undo of an earlier one included. Such steps are undone by the time that the
/// operation goes forward again.
fn undone_before(standing: &Standing, steps: &[Planned<Value>], name: &str) -> Option<Vec<Record>> {
    let index = standing.index_of(name)?;
    if steps.get(index)?.on_death == OnDeath::RollForward {
        return Some(Vec::new());
    }
    let left = standing.steps.iter().skip(index);
    let left =
        left.filter(|step| step.status.may_have_effect() && step.status != Status::UndoFailed);
    let left: Vec<&StepState> = left.collect();
    let is_applied_again = |step: &StepState| {
        step.name == name && matches!(step.status, Status::InDoubt | Status::Failed)
    };
    if left.iter().all(|step| is_applied_again(step)) {
        return Some(Vec::new());
    }
    let undone = left.iter().map(|step| Record::Undone {
        name: step.name.clone(),
    });
    Some(undone.collect())
}
