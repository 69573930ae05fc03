//! The steps that the first release gave its operations. Its journals do not list them.
//!
//! Recovery finishes an operation of that release by these lists, whatever a create or a destroy does today. They never
//! change; [`steps`] goes when no host can have such a journal any more.

use serde_json::Value;
use xyl_saga::{Action, OnDeath, Planned};

use crate::operation::{Kind, create, destroy, dump_core, rename_aside, restart, step};

/// The steps of an operation's kind.
pub(crate) fn steps(kind: &str) -> Option<Vec<Planned<Value>>> {
    match Kind::parse(kind)? {
        Kind::Create => listed(of_create()),
        Kind::Destroy => listed(of_destroy()),
        Kind::Restart => with_next_domain(mapped(of_destroy(), restart::Action::Destroy)),
        Kind::RenameRestart => with_next_domain(mapped(of_aside(), restart::Action::Aside)),
        Kind::DumpCore => listed(of_dump_core()),
        // These were no operations then.
        Kind::SoftReset
        | Kind::Attach
        | Kind::Detach
        | Kind::Suspend
        | Kind::Resume
        | Kind::Save
        | Kind::Checkpoint
        | Kind::Restore => None,
    }
}

fn with_next_domain(old: Vec<Planned<restart::Action>>) -> Option<Vec<Planned<Value>>> {
    let read = create::Action::ReadConfiguration;
    let read = step("read its configuration", read, OnDeath::RollBack, 60);
    let next = [vec![read], of_create()].concat();
    listed([old, mapped(next, restart::Action::Create)].concat())
}

fn mapped<A, B>(steps: Vec<Planned<A>>, action: impl Fn(A) -> B) -> Vec<Planned<B>> {
    let steps = steps.into_iter();
    steps.map(|step| step.map(&action)).collect()
}

fn listed<A: Action>(steps: Vec<Planned<A>>) -> Option<Vec<Planned<Value>>> {
    let listed = |step: Planned<A>| {
        let action = serde_json::to_value(&step.action).ok()?;
        Some(step.map(|_| action))
    };
    steps.into_iter().map(listed).collect()
}

fn of_create() -> Vec<Planned<create::Action>> {
    use OnDeath::{RollBack, RollForwardOnceStarted};
    use create::Action::*;
    vec![
        step("make the domain", MakeDomain, RollBack, 60).with_undo(),
        step("set its limits", SetLimits, RollBack, 10),
        step("open its channels", OpenChannels, RollBack, 10),
        step("describe its CPU", DescribeCpu, RollBack, 10),
        step("build its memory", BuildMemory, RollBack, 600),
        step("share out the CPU", ShareCpu, RollBack, 10),
        step("write its xenstore nodes", WriteNodes, RollBack, 30).with_undo(),
        step("record its configuration", WriteRecords, RollBack, 10).with_undo(),
        step("have it watched", HaveWatched, RollBack, 30),
        step("introduce it to xenstored", Introduce, RollBack, 10),
        step("start it", Start, RollForwardOnceStarted, 10),
    ]
}

fn of_destroy() -> Vec<Planned<destroy::Action>> {
    use OnDeath::RollForward;
    use destroy::Action::*;
    vec![
        step("stop it", Stop, RollForward, 10),
        step("remove its xenstore nodes", RemoveNodes, RollForward, 30),
        step("remove its records", RemoveRecords, RollForward, 10),
        step("keep its number aside", KeepNumber, RollForward, 20),
        step("end it", End, RollForward, 120),
    ]
}

fn of_aside() -> Vec<Planned<rename_aside::Action>> {
    use OnDeath::RollForward;
    use rename_aside::Action::*;
    vec![
        step("give it another UUID", ChangeHandle, RollForward, 10),
        step("rename its xenstore nodes", RenameNodes, RollForward, 30),
        step("remove its old userdata", RemoveUserdata, RollForward, 10),
    ]
}

fn of_dump_core() -> Vec<Planned<dump_core::Action>> {
    use OnDeath::{RollBack, RollForwardOnceStarted};
    use dump_core::Action::*;
    vec![
        step("stop it", Hold, RollBack, 10).with_undo(),
        step("write its memory", Write, RollBack, 12 * 3600).with_undo(),
        step("let it run on", LetGo, RollBack, 10),
        step("wait for the disk", Sync, RollBack, 3600),
        step(
            "give the file its name",
            GiveName,
            RollForwardOnceStarted,
            60,
        ),
    ]
}
