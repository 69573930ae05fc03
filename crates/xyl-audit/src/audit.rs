//! The result of an audit: one row per guest type and attack family, and the reasons.

use serde::{Deserialize, Serialize};

use crate::names::{AdvisoryVerdict, Family, GuestType, Standing, Sure, Target};

/// A statement with its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The statement, as English text.
    pub text: String,
    /// The source of the statement: `boot log`, `command line`, `CPU policy` ...
    pub source: String,
}

/// A remedy for the administrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// An option for Xen's command line.
    BootOption(String),
    /// Newer microcode for the CPU.
    Microcode(String),
    /// Another type of guest.
    GuestType(String),
    /// A newer Xen.
    Upgrade(String),
    /// A remedy of another kind.
    Other(String),
}

impl Remedy {
    /// The advice as a clause.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Remedy::BootOption(text)
            | Remedy::Microcode(text)
            | Remedy::GuestType(text)
            | Remedy::Upgrade(text)
            | Remedy::Other(text) => text,
        }
    }
}

/// The verdict for one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Against {
    /// The target of the attack.
    pub target: Target,
    /// The verdict for this target.
    pub standing: Standing,
    /// The protections; empty if there is none or none is needed.
    pub by: Vec<String>,
}

/// One guest type and one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The guest type.
    pub guest: GuestType,
    /// The attack family.
    pub family: Family,
    /// The worst verdict of all targets.
    pub standing: Standing,
    /// Certainty of the verdict.
    pub sure: Sure,
    /// The verdict for each target.
    pub against: Vec<Against>,
    /// Reasons for the verdict, with their sources.
    pub reasons: Vec<Reason>,
    /// The remedies; empty if none is needed.
    pub remedies: Vec<Remedy>,
}

/// The verdict of one advisory for this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvisoryRow {
    /// Identifier, such as `XSA-297`.
    pub id: String,
    /// Title of the advisory.
    pub title: String,
    /// The verdict for this host.
    pub verdict: AdvisoryVerdict,
    /// Reasons for the verdict, with their sources.
    pub reasons: Vec<Reason>,
    /// The remedies; empty if none is needed.
    pub remedies: Vec<Remedy>,
    /// References, such as URLs.
    pub references: Vec<String>,
    /// Whether its conditions were compared with the advisory's source.
    pub checked: bool,
}

/// Whether guests of different owners can run on the threads of one core at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoreSharing {
    /// There is one thread on each core, or Xen schedules whole cores or sockets.
    No,
    /// Guests can share cores: nothing prevents it.
    Yes,
    /// No source reports it.
    Unknown,
}

/// The audit of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Guest types and families, in the order of their declarations.
    pub rows: Vec<Row>,
    /// Whether threads of one core can run different guests.
    pub core_sharing: CoreSharing,
    /// Advisories; empty if none were asked about.
    pub advisories: Vec<AdvisoryRow>,
}

impl Audit {
    /// An audit of a host of which nothing is known.
    #[must_use]
    pub fn of_nothing() -> Audit {
        Audit {
            rows: Vec::new(),
            core_sharing: CoreSharing::Unknown,
            advisories: Vec::new(),
        }
    }

    /// The row of a guest type and a family.
    #[must_use]
    pub fn row(&self, guest: GuestType, family: Family) -> Option<&Row> {
        self.rows
            .iter()
            .find(|row| row.guest == guest && row.family == family)
    }

    /// The verdict for a guest type and an attack family: against one target, or the worst of all without a target.
    #[must_use]
    pub fn standing(&self, guest: GuestType, family: Family, target: Option<Target>) -> Standing {
        let Some(row) = self.row(guest, family) else {
            return Standing::Unknown;
        };
        match target {
            None => row.standing,
            Some(target) => row
                .against
                .iter()
                .find(|against| against.target == target)
                .map_or(Standing::Unknown, |against| against.standing),
        }
    }

    /// The verdict for an advisory; unknown if the audit did not check it.
    #[must_use]
    pub fn advisory(&self, id: &str) -> AdvisoryVerdict {
        self.advisories
            .iter()
            .find(|row| row.id == id)
            .map_or(AdvisoryVerdict::CannotTell, |row| row.verdict)
    }
}
