//! The operations that change which domain a VM has, as sagas: what they are, their steps, and the
//! draft that the steps work on.

pub mod create;
pub mod destroy;
pub mod dump_core;
pub mod preview;
pub mod rename_aside;
pub mod restart;
pub mod run;
pub mod soft_reset;
pub mod xenstore_nodes;

use std::rc::Rc;
use std::time::Instant;

use os_port::Lock;
use uuid::Uuid;
use xen_build::Built;
use xen_port::{DomId, EvtchnPort, GuestMemory};
use xyl_saga::{Act, Facts, OnDeath, Operation, Past, Step, Subject};

use crate::operation::create::Prepared;
use crate::operation::dump_core::Dump;
use crate::{EngineError, Host};

/// The argument of a create whose VM keeps its record even where it fails.
pub(crate) const KEEPS_RECORD: &str = "keeps_record";

/// Kind of an operation on a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A VM gets a domain.
    Create,
    /// A VM loses its domain, and is forgotten.
    Destroy,
    /// A VM's domain makes place for a new one.
    Restart,
    /// The same, and the old domain is kept under another name.
    RenameRestart,
    /// A VM's domain has its core written to a file. It stays the VM's domain.
    DumpCore,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 5] = [
        Kind::Create,
        Kind::Destroy,
        Kind::Restart,
        Kind::RenameRestart,
        Kind::DumpCore,
    ];

    /// Its word, in journals and for people.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Create => "create",
            Kind::Destroy => "destroy",
            Kind::Restart => "restart",
            Kind::RenameRestart => "rename-restart",
            Kind::DumpCore => "dump-core",
        }
    }

    /// The operation of a word.
    pub fn parse(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }

    /// Its steps, in order.
    pub(crate) fn steps<'a>(self) -> Vec<Step<Draft<'a>>> {
        match self {
            Kind::Create => create::steps(),
            Kind::Destroy => destroy::steps(),
            Kind::Restart => [destroy::steps(), create::steps_of_restart()]
                .into_iter()
                .flatten()
                .collect(),
            Kind::RenameRestart => [rename_aside::steps(), create::steps_of_restart()]
                .into_iter()
                .flatten()
                .collect(),
            Kind::DumpCore => dump_core::steps(),
        }
    }

    /// Whether whoever takes it over does again what had to be taken back.
    pub(crate) fn is_done_again(self) -> bool {
        matches!(self, Kind::Restart | Kind::RenameRestart)
    }
}

/// The last operation that had to do with which domain the VM has: all but a core that was dumped.
pub(crate) fn last_of_domain(past: &Past) -> Option<&Operation> {
    let mut last = past.operations.iter().rev();
    last.find(|operation| Kind::parse(&operation.begin.kind) != Some(Kind::DumpCore))
}

/// The steps of an operation, in Markdown, as the documentation shows them.
pub fn steps_table(kind: Kind) -> String {
    let mut text = String::from(
        "| step | limit | when it fails | when its process dies |\n|---|---|---|---|\n",
    );
    for (index, step) in kind.steps().into_iter().enumerate() {
        let failure = match step.way {
            OnDeath::RollForward if index == 0 => "the operation fails; nothing was done",
            OnDeath::RollForward => "the operation stays open; whoever comes next applies it again",
            OnDeath::RollBack | OnDeath::RollForwardOnceStarted if step.undo.is_some() => {
                "undone, with those before it"
            }
            OnDeath::RollBack | OnDeath::RollForwardOnceStarted => "those before it are undone",
        };
        let death = match step.way {
            OnDeath::RollBack if kind.is_done_again() => "undone, then done again",
            OnDeath::RollBack => "undone",
            OnDeath::RollForwardOnceStarted | OnDeath::RollForward => "applied again",
        };
        let limit_s = step.deadline_ms / 1000;
        text.push_str(&format!(
            "| {} | {limit_s} s | {failure} | {death} |\n",
            step.name
        ));
    }
    text
}

/// A step of a VM's operation.
pub(crate) fn step<'a>(
    name: &'static str,
    way: OnDeath,
    limit_s: u64,
    apply: Act<Draft<'a>>,
    undo: Option<Act<Draft<'a>>>,
) -> Step<Draft<'a>> {
    Step {
        name,
        deadline_ms: limit_s * 1000,
        way,
        apply,
        undo,
    }
}

/// Called when all is there but the start.
pub(crate) type Callback<'a> = &'a mut dyn FnMut(&mut Host, DomId) -> Result<(), EngineError>;

/// An operation under way.
pub(crate) struct Draft<'a> {
    pub host: &'a mut Host,
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Whether it is carried on by another process than it was begun by: then what is found may be
    /// somebody else's by now.
    pub is_taken_over: bool,
    /// The domain that is to end, or to be set aside.
    pub old: Option<DomId>,
    /// What the old domain becomes where it is set aside.
    pub aside: Option<Aside>,
    /// The domain that is being made.
    pub domid: Option<DomId>,
    /// Whether it stays paused.
    pub paused: bool,
    /// Whether the VM outlives its old domain, and so its configuration has to.
    pub keeps_record: bool,
    /// What the new domain is made from.
    pub prepared: Option<Prepared>,
    pub watch: Option<Callback<'a>>,
    pub before_start: Option<Callback<'a>>,
    pub name_lock: Option<Box<dyn Lock>>,
    pub store_port: EvtchnPort,
    pub console_port: EvtchnPort,
    pub built: Option<Built>,
    /// Whether what was mapped of the new domain stays so, and what that is.
    pub keeps_mapping: bool,
    pub mapping: Option<Box<dyn GuestMemory>>,
    /// The core that is being dumped.
    pub dump: Option<Dump<'a>>,
    /// Whether somebody wishes the operation to be taken back; for steps that take long.
    pub is_cancelled: Rc<dyn Fn() -> bool>,
}

/// Another identity for a domain.
pub(crate) struct Aside {
    pub uuid: Uuid,
    pub name: String,
}

impl<'a> Draft<'a> {
    pub fn new(host: &'a mut Host, uuid: Uuid) -> Draft<'a> {
        Draft {
            host,
            uuid,
            is_taken_over: false,
            old: None,
            aside: None,
            domid: None,
            paused: false,
            keeps_record: false,
            prepared: None,
            watch: None,
            before_start: None,
            name_lock: None,
            store_port: EvtchnPort(0),
            console_port: EvtchnPort(0),
            built: None,
            keeps_mapping: false,
            mapping: None,
            dump: None,
            is_cancelled: Rc::new(|| false),
        }
    }

    pub fn uuid_text(&self) -> String {
        self.uuid.hyphenated().to_string()
    }

    /// The domain that is being made.
    pub fn domid(&self) -> Result<DomId, EngineError> {
        self.domid.ok_or_else(|| self.has_no_domain())
    }

    /// The domain that is to end.
    pub fn old(&self) -> Result<DomId, EngineError> {
        self.old.ok_or_else(|| self.has_no_domain())
    }

    pub fn prepared(&self) -> Result<&Prepared, EngineError> {
        self.prepared.as_ref().ok_or_else(|| self.has_no_domain())
    }

    pub fn built(&self) -> Result<&Built, EngineError> {
        self.built.as_ref().ok_or_else(|| self.has_no_domain())
    }

    pub fn has_no_domain(&self) -> EngineError {
        EngineError::NoSuchDomain(format!("uuid={}", self.uuid_text()))
    }

    /// An error where the operation was cancelled, or what is being done has come to its limit of time.
    pub fn must_go_on(
        &self,
        what: &str,
        deadline: Instant,
        limit_s: u64,
    ) -> Result<(), EngineError> {
        if (self.is_cancelled)() {
            return Err(EngineError::Cancelled);
        }
        match self.host.clock.now() < deadline {
            true => Ok(()),
            false => Err(EngineError::Deadline {
                what: what.to_owned(),
                limit_s,
            }),
        }
    }

    /// Whether this number is still the VM's. Whoever has begun the operation knows that it is.
    pub fn is_still_ours(&self, domid: DomId) -> Result<bool, EngineError> {
        if !self.is_taken_over {
            return Ok(true);
        }
        let info = self.host.hv.domain_info(domid)?;
        Ok(info.is_some_and(|info| &info.handle == self.uuid.as_bytes()))
    }
}

impl Subject for Draft<'_> {
    type Error = EngineError;

    fn cancelled() -> EngineError {
        EngineError::Cancelled
    }

    fn made(&self) -> Facts {
        let mut facts = Facts::new();
        if let Some(domid) = self.domid {
            facts.insert("domid".to_owned(), domid.0.into());
        }
        if self.console_port != EvtchnPort(0) {
            facts.insert("store_port".to_owned(), self.store_port.0.into());
            facts.insert("console_port".to_owned(), self.console_port.0.into());
        }
        facts
    }
}
