//! How an operation stands, and what may happen to it then.

use std::fmt;

/// How an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// None is under way.
    Idle,
    /// Under way, between two steps.
    Ready,
    /// A step is being applied; some or all of it may have happened.
    Applying,
    /// The process that applied a step has died, and nobody knows how much of it has happened.
    InDoubt,
    /// It is being taken back, and stands between two undos.
    Reverting,
    /// A step is being undone; some or all of it may be undone.
    Undoing,
}

/// What happens to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It begins.
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
    /// Somebody asked for it to be cancelled.
    CancelAsked,
    /// Its process died, and another goes on.
    TakenOver,
    /// It has ended, one way or the other.
    Ended,
}

impl State {
    /// All states.
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
    /// All events.
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

/// An event that cannot happen in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` cannot follow when the operation is `{state}`")]
pub struct Impossible {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

/// The state after an event.
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
        // Some or all of the step may have happened, however many processes die before one goes on.
        (S::Applying | S::InDoubt, E::TakenOver) => S::InDoubt,
        // What was half undone is undone again.
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
