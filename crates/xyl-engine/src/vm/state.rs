//! The states of a VM, and what leads from one to the next.
//!
//! A VM outlives its domains. This is the state of the VM, not of one domain:
//!
//! ```text
//!            create begins                 it runs
//!   Absent ────────────────▶ Building ───────────────▶ Running ◀──▶ Paused
//!     ▲  ▲                      │                       │  │
//!     │  └── create taken back ─┘        soft reset ◀───┘  │ the guest ends
//!     │                              (SoftResetting)       ▼
//!     │           destroy                                Ended
//!   Dying ◀─────────────────── (any state)                 │ on_... says restart
//!                                                          ▼
//!                restart begins                    WaitingForRestart
//!   Restarting ◀──────────────────────────────────────┘ ▲   │
//!     │  │                a try has failed              │   │
//!     │  └──────────────────────────────────────────────┘   │ the last try has failed
//!     ▼                                                     ▼
//!   Running                                              GivenUp
//! ```
//!
//! A guest that is suspended (`Suspended`) goes on when it is resumed, and is running then.
//!
//! `Dumping` and `Saving` stand beside the states of a VM that has a domain: its core or its guest's state is being written. `Unfinished` is an operation whose
//! process has died, or that can go neither forth nor back. The next command that changes the VM finishes it.
//!
//! No process holds the state. [`VmState::of`] derives it from what Xen says of the domain, the VM's journal, the VM's record
//! and the files of the restart backoff ([`Observed`]). `xyl list --json`, `xyl list --states` and `xyl ops` show it. A
//! request to shut down is no state: only the guest knows whether it obeys.

use std::fmt::Write as _;

use xen_port::{DomainInfo, ShutdownReason};
use xyl_saga::{Operation, Past};

use crate::vm::kind::{self, Kind};

/// State of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmState {
    /// The VM has no domain and gets none.
    Absent,
    /// Its first domain is being made.
    Building,
    /// Its domain runs, or could run.
    Running,
    /// Its domain's vCPUs are stopped.
    Paused,
    /// Its guest has suspended itself, and can go on.
    Suspended,
    /// Its guest has asked for a soft reset.
    SoftResetting,
    /// Its domain has shut down, and nothing is done about that now.
    Ended(ShutdownReason),
    /// Its domain's core is being written to a file.
    Dumping,
    /// Its guest is being saved to a file.
    Saving,
    /// It gets its next domain now.
    Restarting,
    /// Its next restart waits until it is due, in seconds since the host was started.
    WaitingForRestart {
        /// Time of the restart, in seconds since the host was started.
        due_s: u64,
    },
    /// Its domain is being destroyed.
    Dying,
    /// An operation on it is open, and no process works on it.
    Unfinished,
    /// Its restart was given up.
    GivenUp,
}

/// An event of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A create has begun.
    CreateBegun,
    /// The domain runs: it was started, let run on, or reset.
    Started,
    /// The domain was stopped, or was made and not started.
    Stopped,
    /// The guest has ended for this reason.
    GuestEnded(ShutdownReason),
    /// A core is being written.
    DumpBegun,
    /// A save has begun.
    SaveBegun,
    /// A restart has begun.
    RestartBegun,
    /// A restart has to wait, or a try has failed.
    RestartPutOff {
        /// Time of the next try, in seconds since the host was started.
        due_s: u64,
    },
    /// The last try has failed.
    RestartGivenUp,
    /// A destroy has begun.
    DestroyBegun,
    /// The VM has no domain any more and gets none: destroyed, taken back, or forgotten.
    Gone,
    /// The process that works on the VM has died.
    ProcessDied,
}

/// An event that cannot happen in a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to a VM in the state {state:?}")]
pub struct ImpossibleEvent {
    /// State before the event.
    pub state: VmState,
    /// Event that cannot happen.
    pub event: Event,
}

/// The state that an event leads to.
pub fn next(state: VmState, event: Event) -> Result<VmState, ImpossibleEvent> {
    use VmState::{
        Absent, Building, Dumping, Dying, Ended, GivenUp, Paused, Restarting, Running, Saving,
        SoftResetting, Suspended, Unfinished, WaitingForRestart,
    };
    let may_run = matches!(
        state,
        Building
            | Running
            | Paused
            | Suspended
            | SoftResetting
            | Dumping
            | Saving
            | Restarting
            | Unfinished
    );
    let is_worked_on = matches!(
        state,
        Building | Dumping | Saving | Restarting | Dying | SoftResetting
    );
    let may_restart = matches!(
        state,
        Ended(_) | Dumping | Restarting | WaitingForRestart { .. } | Unfinished
    );
    match (state, event) {
        (Absent | GivenUp, Event::CreateBegun) => Ok(Building),
        (_, Event::Started) if may_run => Ok(Running),
        (_, Event::Stopped) if may_run => Ok(Paused),
        (_, Event::GuestEnded(ShutdownReason::SoftReset)) if may_run => Ok(SoftResetting),
        (_, Event::GuestEnded(ShutdownReason::Suspend)) if may_run => Ok(Suspended),
        (_, Event::GuestEnded(reason)) if may_run => Ok(Ended(reason)),
        // A core that was written after the guest's end leaves the domain as it was.
        (Running | Paused | Suspended | Ended(_), Event::DumpBegun) => Ok(Dumping),
        (Running | Suspended, Event::SaveBegun) => Ok(Saving),
        (_, Event::RestartBegun) if may_restart => Ok(Restarting),
        (_, Event::RestartPutOff { due_s }) if may_restart => Ok(WaitingForRestart { due_s }),
        (_, Event::RestartGivenUp) if may_restart => Ok(GivenUp),
        (Absent, Event::DestroyBegun) => Err(ImpossibleEvent { state, event }),
        (_, Event::DestroyBegun) => Ok(Dying),
        (_, Event::Gone) if state != Absent => Ok(Absent),
        (_, Event::ProcessDied) if is_worked_on => Ok(Unfinished),
        _ => Err(ImpossibleEvent { state, event }),
    }
}

/// The facts about a VM at one moment.
#[derive(Clone, Copy, Default)]
pub struct Observed<'o> {
    /// The domain in Xen. If there are two, the one that is not dying.
    pub domain: Option<&'o DomainInfo>,
    /// The operations in its journal.
    pub past: Option<&'o Past>,
    /// Whether the process of the open operation runs, and has the VM's lock.
    pub is_worked_on: bool,
    /// Whether the VM has a record, from which its next domain is made.
    pub has_record: bool,
    /// Whether the VM is supervised, so that a monitor acts on its domain's end.
    pub is_supervised: bool,
    /// Time of the next restart, in seconds since the host was started; of its present domain or of its last one.
    pub due_s: Option<u64>,
    /// Seconds since the host was started.
    pub now_s: u64,
    /// Whether its restart was given up.
    pub is_given_up: bool,
}

impl VmState {
    /// The state of a VM, by what is known of it.
    pub fn of(observed: &Observed<'_>) -> VmState {
        let open = observed.past.and_then(Past::under_way);
        match (open, observed.domain) {
            (Some(_), _) if !observed.is_worked_on => VmState::Unfinished,
            (Some(open), Some(info)) if leaves_state(open) => of_domain(info, observed),
            (Some(open), _) => of_operation(open),
            (None, Some(info)) => of_domain(info, observed),
            (None, None) => without_domain(observed),
        }
    }

    /// The state as a word for programs.
    pub fn word(self) -> &'static str {
        match self {
            VmState::Absent => "absent",
            VmState::Building => "building",
            VmState::Running => "running",
            VmState::Paused => "paused",
            VmState::Suspended => "suspended",
            VmState::SoftResetting => "soft-resetting",
            VmState::Ended(_) => "ended",
            VmState::Dumping => "dumping",
            VmState::Saving => "saving",
            VmState::Restarting => "restarting",
            VmState::WaitingForRestart { .. } => "waiting-for-restart",
            VmState::Dying => "dying",
            VmState::Unfinished => "unfinished",
            VmState::GivenUp => "given-up",
        }
    }
}

/// Whether the state of the domain says all while an operation is under way: it attaches or detaches a device, or waits for the
/// guest to suspend itself.
fn leaves_state(open: &Operation) -> bool {
    let kind = Kind::parse(&open.begin.kind);
    matches!(
        kind,
        Some(Kind::Attach | Kind::Detach | Kind::Suspend | Kind::Resume)
    )
}

fn of_operation(open: &Operation) -> VmState {
    match Kind::parse(&open.begin.kind) {
        _ if kind::is_restart(open) => VmState::Restarting,
        Some(Kind::DumpCore) => VmState::Dumping,
        Some(Kind::Save | Kind::Checkpoint) => VmState::Saving,
        Some(Kind::SoftReset) => VmState::SoftResetting,
        Some(Kind::Destroy) => VmState::Dying,
        Some(_) => VmState::Building,
        // Another version has begun it.
        None => VmState::Unfinished,
    }
}

fn of_domain(info: &DomainInfo, observed: &Observed<'_>) -> VmState {
    let reason = info.shutdown_reason.filter(|_| info.flags.shutdown);
    match reason {
        _ if info.flags.dying => without_living_domain(observed),
        _ if observed.is_given_up && !observed.is_supervised => VmState::GivenUp,
        Some(ShutdownReason::SoftReset) if observed.is_supervised => VmState::SoftResetting,
        Some(ShutdownReason::Suspend) => VmState::Suspended,
        Some(_) if observed.is_supervised && is_put_off(observed) => waiting(observed),
        Some(reason) => VmState::Ended(reason),
        None if info.flags.paused => VmState::Paused,
        None => VmState::Running,
    }
}

fn is_put_off(observed: &Observed<'_>) -> bool {
    observed.due_s.is_some_and(|due_s| due_s > observed.now_s)
}

fn waiting(observed: &Observed<'_>) -> VmState {
    VmState::WaitingForRestart {
        due_s: observed.due_s.unwrap_or(observed.now_s),
    }
}

fn without_living_domain(observed: &Observed<'_>) -> VmState {
    match without_domain(observed) {
        VmState::Absent => VmState::Dying,
        other => other,
    }
}

fn without_domain(observed: &Observed<'_>) -> VmState {
    let last = observed.past.and_then(kind::last_of_domain);
    let is_owed = observed.has_record && last.is_some_and(kind::is_owed_by);
    match is_owed {
        true => waiting(observed),
        false if observed.is_given_up => VmState::GivenUp,
        false => VmState::Absent,
    }
}

/// One of each state, in the order of the documentation.
pub const STATES: [VmState; 14] = [
    VmState::Absent,
    VmState::Building,
    VmState::Running,
    VmState::Paused,
    VmState::Suspended,
    VmState::SoftResetting,
    VmState::Ended(ShutdownReason::Reboot),
    VmState::Dumping,
    VmState::Saving,
    VmState::Restarting,
    VmState::WaitingForRestart { due_s: 0 },
    VmState::Dying,
    VmState::Unfinished,
    VmState::GivenUp,
];

/// One of each event, with its words for the documentation.
pub const EVENTS: [(Event, &str); 13] = [
    (Event::CreateBegun, "create begins"),
    (Event::Started, "domain runs"),
    (Event::Stopped, "domain is paused"),
    (
        Event::GuestEnded(ShutdownReason::Suspend),
        "guest suspends itself",
    ),
    (Event::GuestEnded(ShutdownReason::Reboot), "guest ends"),
    (Event::DumpBegun, "dump begins"),
    (Event::SaveBegun, "save begins"),
    (Event::RestartBegun, "restart begins"),
    (Event::RestartPutOff { due_s: 0 }, "restart waits"),
    (Event::RestartGivenUp, "restart given up"),
    (Event::DestroyBegun, "destroy begins"),
    (Event::Gone, "no domain, no next one"),
    (Event::ProcessDied, "process dies"),
];

/// The whole table as Markdown, for `docs/operations.md`: a line for each event, a column for each state.
pub fn table() -> String {
    let mut text = String::from("| |");
    for state in STATES {
        let _ = write!(text, " {} |", state.word());
    }
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(STATES.len()));
    text.push('\n');
    for (event, words) in EVENTS {
        let _ = write!(text, "| {words} |");
        for state in STATES {
            let word = next(state, event).map_or("–", VmState::word);
            let _ = write!(text, " {word} |");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use xen_port::DomainFlags;

    use super::*;

    fn domain(flags: DomainFlags, reason: Option<ShutdownReason>) -> DomainInfo {
        DomainInfo {
            flags,
            shutdown_reason: reason,
            ..DomainInfo::default()
        }
    }

    #[test]
    fn every_state_can_be_reached_and_left() {
        let mut reached = vec![VmState::Absent];
        let mut left = 0;
        while let Some(state) = reached.get(left).copied() {
            left += 1;
            let found = EVENTS
                .iter()
                .filter_map(|(event, _)| next(state, *event).ok());
            let soft_reset = next(state, Event::GuestEnded(ShutdownReason::SoftReset)).ok();
            for found in found.chain(soft_reset) {
                if !reached.contains(&found) {
                    reached.push(found);
                }
            }
            let is_left = EVENTS
                .iter()
                .any(|(event, _)| next(state, *event).is_ok_and(|next| next != state));
            assert!(is_left, "{state:?}");
        }
        let words: Vec<&str> = reached.iter().map(|state| state.word()).collect();
        for state in STATES {
            assert!(words.contains(&state.word()), "{state:?}");
        }
    }

    #[test]
    fn a_domain_alone_decides_where_there_is_no_record() {
        let running = domain(DomainFlags::default(), None);
        let paused = domain(
            DomainFlags {
                paused: true,
                ..DomainFlags::default()
            },
            None,
        );
        let shutdown = DomainFlags {
            shutdown: true,
            ..DomainFlags::default()
        };
        let ended = domain(shutdown, Some(ShutdownReason::Poweroff));
        let dying = domain(
            DomainFlags {
                dying: true,
                ..DomainFlags::default()
            },
            None,
        );
        for (info, state) in [
            (&running, VmState::Running),
            (&paused, VmState::Paused),
            (&ended, VmState::Ended(ShutdownReason::Poweroff)),
            (&dying, VmState::Dying),
        ] {
            let observed = Observed {
                domain: Some(info),
                ..Observed::default()
            };
            assert_eq!(VmState::of(&observed), state);
        }
        assert_eq!(VmState::of(&Observed::default()), VmState::Absent);
    }

    #[test]
    fn an_ended_domain_waits_only_where_somebody_supervises_it() {
        let shutdown = DomainFlags {
            shutdown: true,
            ..DomainFlags::default()
        };
        let ended = domain(shutdown, Some(ShutdownReason::Reboot));
        let mut observed = Observed {
            domain: Some(&ended),
            due_s: Some(7),
            now_s: 5,
            ..Observed::default()
        };
        let not_restarted = VmState::Ended(ShutdownReason::Reboot);
        assert_eq!(VmState::of(&observed), not_restarted);
        observed.is_supervised = true;
        let waiting = VmState::WaitingForRestart { due_s: 7 };
        assert_eq!(VmState::of(&observed), waiting);
        observed.now_s = 7;
        assert_eq!(VmState::of(&observed), not_restarted);
        observed.is_supervised = false;
        observed.is_given_up = true;
        assert_eq!(VmState::of(&observed), VmState::GivenUp);
    }

    #[test]
    fn the_documentation_holds_this_table() {
        let docs = include_str!("../../../../docs/operations.md");
        assert!(
            docs.contains(&table()),
            "docs/operations.md lacks:\n{}",
            table()
        );
    }
}
