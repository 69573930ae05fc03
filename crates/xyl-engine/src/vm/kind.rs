//! The kinds of operations on a VM, and what a journal's operation means for the VM's domain.

use xyl_saga::{Operation, Outcome, Past};

/// The argument of a create whose VM keeps its record even where it fails.
pub(crate) const KEEPS_RECORD: &str = "keeps_record";

/// The fact of a save that has the size of its file, in bytes.
pub(crate) const SAVED_BYTES: &str = "size_bytes";

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
    /// A VM's domain gets interfaces as new for its guest's next kernel. It stays the VM's domain.
    SoftReset,
    /// A VM's domain gets a device.
    Attach,
    /// A VM's domain loses a device.
    Detach,
    /// A VM's guest is suspended. It stays in its domain.
    Suspend,
    /// A VM's suspended guest goes on in its domain.
    Resume,
    /// A VM's guest is saved to a file. Its domain ends, and the VM is forgotten.
    Save,
    /// A VM's guest is saved to a file, and stays in its domain.
    Checkpoint,
    /// A VM gets a domain with a saved guest.
    Restore,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 13] = [
        Kind::Create,
        Kind::Destroy,
        Kind::Restart,
        Kind::RenameRestart,
        Kind::DumpCore,
        Kind::SoftReset,
        Kind::Attach,
        Kind::Detach,
        Kind::Suspend,
        Kind::Resume,
        Kind::Save,
        Kind::Checkpoint,
        Kind::Restore,
    ];

    /// Its word, in journals and for people.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Create => "create",
            Kind::Destroy => "destroy",
            Kind::Restart => "restart",
            Kind::RenameRestart => "rename-restart",
            Kind::DumpCore => "dump-core",
            Kind::SoftReset => "soft-reset",
            Kind::Attach => "attach",
            Kind::Detach => "detach",
            Kind::Suspend => "suspend",
            Kind::Resume => "resume",
            Kind::Save => "save",
            Kind::Checkpoint => "checkpoint",
            Kind::Restore => "restore",
        }
    }

    /// Whether the VM has the same domain after the operation as before.
    pub(crate) fn keeps_domain(self) -> bool {
        matches!(
            self,
            Kind::DumpCore
                | Kind::SoftReset
                | Kind::Attach
                | Kind::Detach
                | Kind::Suspend
                | Kind::Resume
                | Kind::Checkpoint
        )
    }

    /// Whether a restart or a soft reset may follow such an operation that could not be finished: all devices go with the
    /// domain, and a core whose unfinished file cannot be removed is no reason to leave the guest down. A guest that has ended is
    /// neither suspended nor resumed.
    pub(crate) fn holds_up_nothing(self) -> bool {
        matches!(
            self,
            Kind::DumpCore
                | Kind::Attach
                | Kind::Detach
                | Kind::Suspend
                | Kind::Resume
                | Kind::Checkpoint
        )
    }

    /// The operation of a word.
    pub fn parse(word: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// The last operation that had to do with which domain the VM has.
pub(crate) fn last_of_domain(past: &Past) -> Option<&Operation> {
    let mut last = past.operations.iter().rev();
    last.find(|operation| !Kind::parse(&operation.begin.kind).is_some_and(Kind::keeps_domain))
}

/// Whether an operation gives a VM its next domain: the VM keeps its record even if the operation fails.
pub(crate) fn is_restart(operation: &Operation) -> bool {
    match Kind::parse(&operation.begin.kind) {
        Some(Kind::Restart | Kind::RenameRestart) => true,
        _ => operation.is_set(KEEPS_RECORD),
    }
}

/// Whether a VM without a domain is to get one by its last operation: that was to give it one, and has not.
pub(crate) fn is_owed_by(last: &Operation) -> bool {
    last.outcome != Some(Outcome::Done) && is_restart(last)
}
