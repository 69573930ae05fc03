//! The states of an operation and of its steps, and the events that each state allows.
//!
//! [`next`] is about the operation, [`next_of_step`] about one step of it. [`table`] prints all combinations of both; the
//! documentation contains that text, and a test compares both.

use std::fmt;

/// The state of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No operation is under way.
    Idle,
    /// Its steps are being applied.
    Forward,
    /// Its steps are being undone, or one of them failed.
    Back,
}

/// The state of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It has not started.
    Pending,
    /// It is running. It may have had some or all of its effect.
    Started,
    /// The process that ran it died. How much effect it had is unknown.
    InDoubt,
    /// It is done.
    Done,
    /// It failed. It may have had some of its effect.
    Failed,
    /// Its undo is running. It may have had some or all of its effect.
    Undoing,
    /// It is undone.
    Undone,
    /// Its undo failed, or the process of its undo died.
    UndoFailed,
}

/// An event of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The operation begins.
    Begin,
    /// A step begins.
    StepStarted,
    /// A running step or undo wrote down a fact.
    Noted,
    /// The step is done.
    StepDone,
    /// The step failed.
    StepFailed,
    /// The undo of a step begins.
    UndoStarted,
    /// The undo is done.
    UndoDone,
    /// The undo failed.
    UndoFailed,
    /// A process asked to cancel the operation.
    CancelAsked,
    /// The process died, and another one continues.
    TakenOver,
    /// The operation ended: done, undone or failed.
    Ended,
}

impl State {
    /// All states, in the order of the table's columns.
    pub const ALL: [State; 3] = [State::Idle, State::Forward, State::Back];
}

impl Status {
    /// All states of a step, in the order of the table's columns.
    pub const ALL: [Status; 8] = [
        Status::Pending,
        Status::Started,
        Status::InDoubt,
        Status::Done,
        Status::Failed,
        Status::Undoing,
        Status::Undone,
        Status::UndoFailed,
    ];

    /// Whether the step may have had an effect that is still there.
    pub fn may_have_effect(self) -> bool {
        !matches!(self, Status::Pending | Status::Undone)
    }
}

impl Event {
    /// All events, in the order of the table's rows.
    pub const ALL: [Event; 11] = [
        Event::Begin,
        Event::StepStarted,
        Event::Noted,
        Event::StepDone,
        Event::StepFailed,
        Event::UndoStarted,
        Event::UndoDone,
        Event::UndoFailed,
        Event::CancelAsked,
        Event::TakenOver,
        Event::Ended,
    ];

    /// The events of the second table: those of one step, and those that concern every step.
    pub const OF_STEP: [Event; 9] = [
        Event::StepStarted,
        Event::Noted,
        Event::StepDone,
        Event::StepFailed,
        Event::UndoStarted,
        Event::UndoDone,
        Event::UndoFailed,
        Event::TakenOver,
        Event::Ended,
    ];
}

/// An event that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` cannot follow when {what} is `{state}`")]
pub struct Impossible<S: fmt::Display> {
    /// The owner of the state: `the operation` or `the step`.
    pub what: &'static str,
    /// The state before the event.
    pub state: S,
    /// The event that was refused.
    pub event: Event,
}

/// The state of an operation after an event; an error if the state does not allow the event.
pub fn next(state: State, event: Event) -> Result<State, Impossible<State>> {
    use Event as E;
    use State as S;
    let next = match (state, event) {
        (S::Idle, E::Begin) => S::Forward,
        (S::Forward | S::Back, E::StepStarted | E::StepDone) => S::Forward,
        (S::Forward | S::Back, E::StepFailed | E::UndoStarted | E::UndoDone | E::CancelAsked) => {
            S::Back
        }
        (S::Back, E::UndoFailed) => S::Back,
        (S::Forward | S::Back, E::Noted | E::TakenOver) => state,
        (S::Forward | S::Back, E::Ended) => S::Idle,
        _ => {
            let what = "the operation";
            return Err(Impossible { what, state, event });
        }
    };
    Ok(next)
}

/// The state of a step after an event; an error if the state does not allow the event. [`Event::Begin`] and
/// [`Event::CancelAsked`] are about no step, and change none.
pub fn next_of_step(state: Status, event: Event) -> Result<Status, Impossible<Status>> {
    use Event as E;
    use Status as S;
    let next = match (state, event) {
        (S::Pending | S::InDoubt | S::Failed | S::Undone, E::StepStarted) => S::Started,
        // A look at a step that is in doubt or failed may write facts down too.
        (S::Started | S::InDoubt | S::Failed | S::Undoing, E::Noted) => state,
        // What was in doubt or failed may turn out to have happened.
        (S::Started | S::InDoubt | S::Failed, E::StepDone) => S::Done,
        (S::Started, E::StepFailed) => S::Failed,
        (S::Started | S::InDoubt | S::Done | S::Failed | S::UndoFailed, E::UndoStarted) => {
            S::Undoing
        }
        // A step without an undo of its own is undone at once.
        (S::Started | S::InDoubt | S::Done | S::Failed | S::Undoing, E::UndoDone) => S::Undone,
        (S::Undoing, E::UndoFailed) => S::UndoFailed,
        (S::Started, E::TakenOver) => S::InDoubt,
        // A partial undo is run again from its start.
        (S::Undoing, E::TakenOver) => S::UndoFailed,
        (S::Started | S::Undoing, E::Ended) => {
            let what = "the step";
            return Err(Impossible { what, state, event });
        }
        (_, E::TakenOver | E::Ended | E::Begin | E::CancelAsked) => state,
        _ => {
            let what = "the step";
            return Err(Impossible { what, state, event });
        }
    };
    Ok(next)
}

/// The tables of [`next`] and [`next_of_step`] as they stand in the documentation, in Markdown.
pub fn table() -> String {
    let of_operation = table_of("operation", &State::ALL, &Event::ALL, |state, event| {
        next(state, event).ok()
    });
    let of_step = table_of("step", &Status::ALL, &Event::OF_STEP, |state, event| {
        next_of_step(state, event).ok()
    });
    format!("{of_operation}\n{of_step}")
}

fn table_of<S: fmt::Display + Copy>(
    what: &str,
    states: &[S],
    events: &[Event],
    next: impl Fn(S, Event) -> Option<S>,
) -> String {
    let mut text = format!("| {what} |");
    for state in states {
        text.push_str(&format!(" {state} |"));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(states.len()));
    text.push('\n');
    for event in events {
        text.push_str(&format!("| {event} |"));
        for state in states {
            let cell = next(*state, *event).map_or_else(|| "–".to_owned(), |next| next.to_string());
            text.push_str(&format!(" {cell} |"));
        }
        text.push('\n');
    }
    text
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Idle => "idle",
            State::Forward => "going forward",
            State::Back => "going back",
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Pending => "pending",
            Status::Started => "started",
            Status::InDoubt => "in doubt",
            Status::Done => "done",
            Status::Failed => "failed",
            Status::Undoing => "undoing",
            Status::Undone => "undone",
            Status::UndoFailed => "undo failed",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::Begin => "begin",
            Event::StepStarted => "step started",
            Event::Noted => "fact noted",
            Event::StepDone => "step done",
            Event::StepFailed => "step failed",
            Event::UndoStarted => "undo started",
            Event::UndoDone => "undo done",
            Event::UndoFailed => "undo failed",
            Event::CancelAsked => "cancel asked",
            Event::TakenOver => "taken over",
            Event::Ended => "ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_an_answer() {
        let possible = |state: &State| {
            let events = Event::ALL.iter();
            events.filter(|event| next(*state, **event).is_ok()).count()
        };
        assert_eq!(State::ALL.iter().map(possible).sum::<usize>(), 20);
        let possible = |state: &Status| {
            let events = Event::OF_STEP.iter();
            let allowed = events.filter(|event| next_of_step(*state, **event).is_ok());
            allowed.count()
        };
        assert_eq!(Status::ALL.iter().map(possible).sum::<usize>(), 37);
        let error = next(State::Idle, Event::StepDone).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`step done` cannot follow when the operation is `idle`"
        );
    }

    #[test]
    fn every_state_can_end() {
        for state in [State::Forward, State::Back] {
            assert_eq!(next(state, Event::Ended), Ok(State::Idle), "{state}");
        }
        for state in Status::ALL {
            let taken_over = next_of_step(state, Event::TakenOver).unwrap();
            assert!(next_of_step(taken_over, Event::Ended).is_ok(), "{state}");
        }
    }
}
