//! The states of an operation, and the events that each state allows ([`next`]).
//!
//! [`table`] prints all combinations; the documentation contains that table, and a test compares both.

use std::fmt;

/// The state of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No operation is under way.
    Idle,
    /// An operation is under way, between two steps.
    Ready,
    /// A step is running. It may have had some or all of its effect.
    Applying,
    /// The process that ran a step died. How much effect the step had is unknown.
    InDoubt,
    /// The operation is being undone, and is between two undos.
    Reverting,
    /// The undo of a step is running. It may have had some or all of its effect.
    Undoing,
}

/// An event of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The operation begins.
    Begin,
    /// A step begins.
    StepStarted,
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
    pub const ALL: [State; 6] = [
        State::Idle,
        State::Ready,
        State::Applying,
        State::InDoubt,
        State::Reverting,
        State::Undoing,
    ];
}

impl Event {
    /// All events, in the order of the table's rows.
    pub const ALL: [Event; 10] = [
        Event::Begin,
        Event::StepStarted,
        Event::StepDone,
        Event::StepFailed,
        Event::UndoStarted,
        Event::UndoDone,
        Event::UndoFailed,
        Event::CancelAsked,
        Event::TakenOver,
        Event::Ended,
    ];
}

/// An event that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` cannot follow when the operation is `{state}`")]
pub struct Impossible {
    /// The state before the event.
    pub state: State,
    /// The event that was refused.
    pub event: Event,
}

/// The state after an event; an error if the state does not allow the event.
pub fn next(state: State, event: Event) -> Result<State, Impossible> {
    use Event as E;
    use State as S;
    let next = match (state, event) {
        (S::Idle, E::Begin) => S::Ready,
        (S::Ready | S::InDoubt | S::Reverting, E::StepStarted) => S::Applying,
        (S::Applying, E::StepDone) => S::Ready,
        (S::Applying, E::StepFailed) => S::Reverting,
        (S::Ready | S::InDoubt | S::Reverting, E::UndoStarted) => S::Undoing,
        (S::Undoing, E::UndoDone | E::UndoFailed) => S::Reverting,
        (S::Ready | S::InDoubt | S::Reverting, E::Ended) => S::Idle,
        (S::Ready, E::TakenOver) => S::Ready,
        // Several processes may die here in turn. The effect of the step stays unknown.
        (S::Applying | S::InDoubt, E::TakenOver) => S::InDoubt,
        // A partial undo is run again from its start.
        (S::Reverting | S::Undoing, E::TakenOver) => S::Reverting,
        (S::Ready | S::Applying | S::InDoubt | S::Reverting | S::Undoing, E::CancelAsked) => state,
        _ => return Err(Impossible { state, event }),
    };
    Ok(next)
}

/// The table of [`next`] as it stands in the documentation, in Markdown.
pub fn table() -> String {
    let mut text = String::from("| |");
    for state in State::ALL {
        text.push_str(&format!(" {state} |"));
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(State::ALL.len()));
    text.push('\n');
    for event in Event::ALL {
        text.push_str(&format!("| {event} |"));
        for state in State::ALL {
            let cell = next(state, event).map_or_else(|_| "–".to_owned(), |next| next.to_string());
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
            State::Ready => "between steps",
            State::Applying => "in a step",
            State::InDoubt => "in doubt about a step",
            State::Reverting => "between undos",
            State::Undoing => "in an undo",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::Begin => "begin",
            Event::StepStarted => "step started",
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
        let possible = State::ALL
            .iter()
            .flat_map(|state| Event::ALL.iter().map(move |event| next(*state, *event)))
            .filter(Result::is_ok)
            .count();
        assert_eq!(possible, 24);
        let error = next(State::Idle, Event::StepDone).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`step done` cannot follow when the operation is `idle`"
        );
    }

    #[test]
    fn every_state_can_end() {
        for state in [
            State::Ready,
            State::Applying,
            State::InDoubt,
            State::Reverting,
            State::Undoing,
        ] {
            let taken_over = next(state, Event::TakenOver).unwrap();
            assert_eq!(next(taken_over, Event::Ended), Ok(State::Idle), "{state}");
        }
    }
}
