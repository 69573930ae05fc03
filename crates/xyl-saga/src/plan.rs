//! The list of an operation's steps. The journal holds it, so that any process can finish the operation by it.
//!
//! A [`Plan`] is made when the operation begins and never changes. Its steps run one after the other; the members of a
//! group are started one after the other and then waited for together.

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The work of a step, with its arguments. The journal holds it as JSON.
pub trait Action: Serialize + DeserializeOwned + Clone + Eq {}

impl<A: Serialize + DeserializeOwned + Clone + Eq> Action for A {}

/// The action for a step that does not finish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeath {
    /// After a failure or a death the runner undoes this step. It also undoes the steps before, back to the last
    /// [`OnDeath::RollForward`].
    RollBack,
    /// After a failure the runner undoes the step. After a death it may have had its effect: the runner applies it
    /// again and undoes nothing more.
    RollForwardOnceStarted,
    /// The runner never undoes the step. After a death, it applies the step again. After a failure, the next process
    /// applies it again, unless [`crate::Subject::give_up`] ends the operation as failed. If the first step fails, nothing has
    /// happened and the operation ends as failed.
    RollForward,
    /// After a failure or a death the runner asks [`crate::Subject::look`] whether the step has happened.
    ///
    /// If it has, the operation goes on. If it has not, the steps before are undone; where the step before is
    /// [`OnDeath::RollForward`], the step is applied again. If that is not known, the operation stays open.
    Look,
}

/// One step of an operation, as the journal lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned<A> {
    /// Name in errors, progress and the journal, such as `build its memory`. No two steps of a plan have the same.
    pub name: String,
    /// The work of the step.
    pub action: A,
    /// Time limit in milliseconds. The step gets its deadline and must keep it.
    pub deadline_ms: u64,
    /// The action if this step or a later one does not finish.
    pub on_death: OnDeath,
    /// Whether the step is undone. If not, the undo of an earlier step includes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_undo: bool,
    /// Neighbours with the same number are one group; 0 is no group.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub group: u32,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

impl<A> Planned<A> {
    /// A step without an undo, outside of any group.
    pub fn new(name: &str, action: A, on_death: OnDeath, deadline_ms: u64) -> Planned<A> {
        Planned {
            name: name.to_owned(),
            action,
            deadline_ms,
            on_death,
            has_undo: false,
            group: 0,
        }
    }

    /// The same step with its action in another form.
    pub fn map<B>(self, action: impl FnOnce(A) -> B) -> Planned<B> {
        Planned {
            name: self.name,
            action: action(self.action),
            deadline_ms: self.deadline_ms,
            on_death: self.on_death,
            has_undo: self.has_undo,
            group: self.group,
        }
    }

    /// The same step with an undo.
    #[must_use]
    pub fn with_undo(mut self) -> Planned<A> {
        self.has_undo = true;
        self
    }
}

/// The steps of an operation, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan<A> {
    steps: Vec<Planned<A>>,
}

impl<A> Default for Plan<A> {
    fn default() -> Plan<A> {
        Plan { steps: Vec::new() }
    }
}

impl<A> Plan<A> {
    /// A plan without steps.
    pub fn new() -> Plan<A> {
        Plan::default()
    }

    /// The plan with one more step.
    #[must_use]
    pub fn step(mut self, step: Planned<A>) -> Plan<A> {
        self.push(step, 0);
        self
    }

    /// The plan with one more group. A step that is [`OnDeath::Look`] or [`OnDeath::RollForwardOnceStarted`] runs by itself.
    #[must_use]
    pub fn group(mut self, members: impl IntoIterator<Item = Planned<A>>) -> Plan<A> {
        let group = self.next_group();
        for step in members {
            self.push(step, group);
        }
        self
    }

    /// The plan, followed by the steps of another one.
    #[must_use]
    pub fn then(mut self, next: Plan<A>) -> Plan<A> {
        let first = self.next_group();
        for step in next.steps {
            let group = match step.group {
                0 => 0,
                group => group.saturating_add(first),
            };
            self.push(step, group);
        }
        self
    }

    /// The plan with its actions in another form, such as that of an operation which includes it.
    #[must_use]
    pub fn map<B>(self, action: impl Fn(A) -> B) -> Plan<B> {
        let steps = self.steps.into_iter();
        Plan {
            steps: steps.map(|step| step.map(&action)).collect(),
        }
    }

    /// The steps, in order.
    pub fn steps(&self) -> &[Planned<A>] {
        &self.steps
    }

    fn next_group(&self) -> u32 {
        let groups = self.steps.iter().map(|step| step.group);
        groups.max().unwrap_or(0).saturating_add(1)
    }

    /// Adds a step. One of a name that is taken gets a number behind its name.
    fn push(&mut self, mut step: Planned<A>, group: u32) {
        step.group = group;
        let is_taken = |name: &str| self.steps.iter().any(|other| other.name == name);
        if is_taken(&step.name) {
            let mut names = (2_u32..).map(|number| format!("{} ({number})", step.name));
            let free = names.find(|name| !is_taken(name));
            step.name = free.unwrap_or(step.name);
        }
        self.steps.push(step);
    }
}

impl<A: Action> Plan<A> {
    /// The plan as the journal holds it.
    pub(crate) fn listed(&self) -> Result<Vec<Planned<Value>>, serde_json::Error> {
        let listed = |step: &Planned<A>| {
            let action = serde_json::to_value(&step.action)?;
            Ok(step.clone().map(|_| action))
        };
        self.steps.iter().map(listed).collect()
    }
}

/// The steps that run together: indices of the first and behind the last, in order.
pub(crate) fn groups<A>(steps: &[Planned<A>]) -> Vec<Range<usize>> {
    let can_share = |step: &Planned<A>| {
        step.group != 0 && matches!(step.on_death, OnDeath::RollBack | OnDeath::RollForward)
    };
    let together = |one: &Planned<A>, next: &Planned<A>| {
        let are_alike = one.group == next.group && one.on_death == next.on_death;
        are_alike && can_share(one) && can_share(next)
    };
    let mut first = 0;
    let mut ranges = Vec::new();
    for chunk in steps.chunk_by(together) {
        let end = first + chunk.len();
        ranges.push(first..end);
        first = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, on_death: OnDeath) -> Planned<u8> {
        Planned::new(name, 1, on_death, 10)
    }

    #[test]
    fn plans_are_joined_and_their_groups_stay_apart() {
        use OnDeath::{Look, RollBack, RollForward};
        let pair = || {
            let members = ["a", "b"].map(|name| step(name, RollBack));
            Plan::new().group(members)
        };
        let plan = Plan::new().step(step("a", RollForward));
        let plan = plan.then(pair()).then(pair()).step(step("c", RollBack));
        let plan = plan.group([step("d", Look), step("e", Look)]);
        let names: Vec<&str> = plan.steps().iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["a", "a (2)", "b", "a (3)", "b (2)", "c", "d", "e"]);
        let ranges = [0..1, 1..3, 3..5, 5..6, 6..7, 7..8];
        assert_eq!(groups(plan.steps()), ranges);
    }
}
