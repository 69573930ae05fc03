//! What an audit says: a row for each guest type and family, and what they rest on.

use serde::{Deserialize, Serialize};

use crate::names::{AdvisoryVerdict, Family, GuestType, Standing, Sure, Target};

/// A statement, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// What holds.
    pub text: String,
    /// Who says so: `boot log`, `command line`, `CPU policy` ...
    pub source: String,
}

/// What an administrator can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// An option for Xen's command line.
    BootOption(String),
    /// Newer microcode.
    Microcode(String),
    /// Another type of guest.
    GuestType(String),
    /// A newer Xen.
    Upgrade(String),
    /// Something else.
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

/// What holds against one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Against {
    /// The target.
    pub target: Target,
    /// What holds.
    pub standing: Standing,
    /// What protects it; empty where nothing does or nothing needs to.
    pub by: Vec<String>,
}

/// One guest type and one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The guest type.
    pub guest: GuestType,
    /// The family.
    pub family: Family,
    /// The worst that holds against any target.
    pub standing: Standing,
    /// How sure that is.
    pub sure: Sure,
    /// Each target.
    pub against: Vec<Against>,
    /// Why.
    pub reasons: Vec<Reason>,
    /// What to do; empty where nothing needs doing.
    pub remedies: Vec<Remedy>,
}

/// What an advisory means here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdvisoryRow {
    /// Its name, such as `XSA-297`.
    pub id: String,
    /// Its title.
    pub title: String,
    /// The verdict.
    pub verdict: AdvisoryVerdict,
    /// Why.
    pub reasons: Vec<Reason>,
    /// What to do.
    pub remedies: Vec<Remedy>,
    /// Where to read about it.
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
    /// Nothing prevents it.
    Yes,
    /// No source says.
    Unknown,
}

/// The audit of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Guest types and families, in the order of their declarations.
    pub rows: Vec<Row>,
    /// Threads.
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

    /// What holds for a guest type and a family, against one target or, without, against all.
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

    /// What an advisory means here; one that was not asked about cannot be told.
    #[must_use]
    pub fn advisory(&self, id: &str) -> AdvisoryVerdict {
        self.advisories
            .iter()
            .find(|row| row.id == id)
            .map_or(AdvisoryVerdict::CannotTell, |row| row.verdict)
    }
}
