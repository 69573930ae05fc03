//! The states of a soft reset, and what leads from one to the next.

use std::fmt::Write as _;

/// How far a soft reset has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Not looked at yet, or to be looked at again after a failure.
    Unknown,
    /// The guest has shut down and asks.
    Asked,
    /// A note in xenstore says that the reset has begun.
    Noted,
    /// The domain is paused, so that nothing of it runs before all is there.
    Held,
    /// The device model's state is saved.
    ModelSaved,
    /// xenstored has let go of the domain: its watches, transactions and own nodes are gone.
    Released,
    /// Xen has reset the domain; its vCPUs would run if it were not paused.
    Reset,
    /// Event channels for xenstore and the console are open, and the guest can find them.
    Wired,
    /// The domain's xenstore nodes are as after a create.
    Described,
    /// xenstored serves the domain again.
    Introduced,
    /// The device model runs again.
    ModelBack,
    /// The end: the guest runs on.
    Running,
    /// The end: it could not be done, and what the configuration says for a crash follows.
    GivenUp,
    /// The end: the domain was destroyed meanwhile.
    Gone,
}

/// What happened in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A look at Xen and xenstore showed how far it is.
    Found(State),
    /// The state's step was taken.
    Done,
    /// It failed, and may be tried again.
    Failed,
    /// It failed for good, or too often.
    Refused,
    /// The domain does not exist any more.
    Gone,
}

/// An event that cannot happen in a state: a fault of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("soft reset: {event:?} cannot happen in the state {state:?}: this is a fault of Xyl")]
pub struct ImpossibleEvent {
    /// State before the event.
    pub state: State,
    /// Event that cannot happen.
    pub event: Event,
}

impl State {
    /// Every state, in the order in which they are passed.
    pub const ALL: [State; 14] = [
        State::Unknown,
        State::Asked,
        State::Noted,
        State::Held,
        State::ModelSaved,
        State::Released,
        State::Reset,
        State::Wired,
        State::Described,
        State::Introduced,
        State::ModelBack,
        State::Running,
        State::GivenUp,
        State::Gone,
    ];

    /// The state after this one's step; `None` where the step is a look, or where there is none.
    fn following(self) -> Option<State> {
        match self {
            State::Asked => Some(State::Noted),
            State::Noted => Some(State::Held),
            State::Held => Some(State::ModelSaved),
            State::ModelSaved => Some(State::Released),
            State::Released => Some(State::Reset),
            State::Reset => Some(State::Wired),
            State::Wired => Some(State::Described),
            State::Described => Some(State::Introduced),
            State::Introduced => Some(State::ModelBack),
            State::ModelBack => Some(State::Running),
            State::Unknown | State::Running | State::GivenUp | State::Gone => None,
        }
    }

    /// Whether nothing comes after it.
    pub fn is_end(self) -> bool {
        matches!(self, State::Running | State::GivenUp | State::Gone)
    }

    /// How a process that takes over knows the state, in words; empty where it finds the one before.
    fn seen_by(self) -> &'static str {
        match self {
            State::Asked => "shut down, no note",
            State::Noted => "note `asked`, shut down, not paused",
            State::Held => "note `asked`, shut down, paused, known to xenstored",
            State::Released => "note `asked`, shut down, paused, unknown to xenstored",
            State::Reset => "note `asked`, not shut down",
            State::Described => "note `described`, unknown to xenstored",
            State::Introduced => "note `described`, known to xenstored",
            State::Running => "not shut down, no note",
            State::GivenUp => "note `given-up`",
            State::Gone => "no such domain, or it is dying",
            State::Unknown | State::ModelSaved | State::Wired | State::ModelBack => "",
        }
    }
}

/// The state that an event leads to.
pub fn next(state: State, event: Event) -> Result<State, ImpossibleEvent> {
    match (state, event, state.following()) {
        (State::Unknown, Event::Found(found), _) if found != State::Unknown => Ok(found),
        (_, Event::Done, Some(following)) => Ok(following),
        (_, Event::Failed, _) if !state.is_end() => Ok(State::Unknown),
        (_, Event::Refused, _) if !state.is_end() => Ok(State::GivenUp),
        (_, Event::Gone, _) if !state.is_end() => Ok(State::Gone),
        _ => Err(ImpossibleEvent { state, event }),
    }
}

/// The whole table as Markdown, for `docs/soft-reset.md`. `step_of` names a state's step.
pub fn table(step_of: impl Fn(State) -> Option<&'static str>) -> String {
    let mut text = String::from(
        "| state | how a process that takes over knows it | step | done | failed | refused | domain gone |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for state in State::ALL {
        let step = match state {
            State::Unknown => "look at Xen and xenstore",
            _ => step_of(state).unwrap_or("(the end)"),
        };
        let done = match state {
            State::Unknown => "the state found".to_owned(),
            _ => cell(state, Event::Done),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {state:?} | {} | {step} | {done} | {} | {} | {} |",
            state.seen_by(),
            cell(state, Event::Failed),
            cell(state, Event::Refused),
            cell(state, Event::Gone),
        );
    }
    text
}

fn cell(state: State, event: Event) -> String {
    next(state, event).map_or_else(|_| "-".to_owned(), |next| format!("{next:?}"))
}
