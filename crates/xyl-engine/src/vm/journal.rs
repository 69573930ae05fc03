//! Facts from a VM's journal: the VM's name, and the process that works on the VM.
//!
//! Reading needs no lock.

use std::time::SystemTime;

use os_port::{Files, Process};
use uuid::Uuid;
use xyl_saga::Past;

use crate::{Dirs, Host};

/// Name of the VM, from the last operation that recorded it.
pub fn name(files: &dyn Files, dirs: &Dirs, uuid: Uuid) -> Option<String> {
    let contents = xyl_saga::load(files, &dirs.journal(uuid)).ok()?;
    let operations = Past::of(&contents).operations.into_iter().rev();
    let mut names = operations.map(|operation| operation.begin.name);
    names.find(|name| !name.is_empty())
}

/// Describes the process that holds a VM's lock, and its operation, for an error text.
pub(crate) fn holder(host: &Host, uuid: Uuid, now: SystemTime) -> String {
    let contents = xyl_saga::load(&*host.files, &host.dirs.journal(uuid)).unwrap_or_default();
    let past = Past::of(&contents);
    let Some(operation) = past.under_way() else {
        return format!("another process that works on the VM {uuid}");
    };
    let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH);
    let now_ms = u64::try_from(since_1970.unwrap_or_default().as_millis()).unwrap_or(0);
    let begin = &operation.begin;
    let name = match begin.name.as_str() {
        "" => begin.uuid.as_str(),
        name => name,
    };
    format!(
        "process {}, which has been at `{}` of {name} for {} s: {} ({})",
        operation.pid,
        begin.kind,
        now_ms.saturating_sub(operation.begun_ms) / 1000,
        operation.step.as_deref().unwrap_or("about to begin"),
        begin.id,
    )
}

/// Whether a VM's journal has an open operation whose process has died, or is this process.
pub(crate) fn is_orphaned(
    files: &dyn Files,
    dirs: &Dirs,
    process: &dyn Process,
    uuid: Uuid,
) -> bool {
    let contents = xyl_saga::load(files, &dirs.journal(uuid)).unwrap_or_default();
    let past = Past::of(&contents);
    past.under_way().is_some_and(|operation| {
        operation.pid == process.id() || !operation.process().is_running(process)
    })
}

#[cfg(test)]
mod tests {
    use os_port::mem::{Life, MemFiles, VirtualClock};
    use std::path::Path;
    use xyl_saga::{Begin, Contents, Journal, Record};

    use super::*;

    /// Process 7 runs, and started at 500.
    struct Other;

    impl Process for Other {
        fn id(&self) -> u32 {
            8
        }
        fn is_running(&self, id: u32) -> bool {
            id == 7
        }
        fn started_ticks(&self, id: u32) -> Option<u64> {
            (id == 7).then_some(500)
        }
        fn new_uuid(&self) -> [u8; 16] {
            [0; 16]
        }
    }

    /// Whether an operation of process 7 is taken for one whose process has died.
    fn is_orphan_of(started_ticks: Option<u64>) -> bool {
        let files = MemFiles::new().of(&Life::new(1));
        let (dirs, uuid) = (Dirs::below(Path::new("/")), Uuid::from_bytes([1; 16]));
        let mut journal = Journal::open(&files, &dirs.journal(uuid), &Contents::default()).unwrap();
        let begin = Begin {
            pid: 7,
            started_ticks,
            ..Begin::default()
        };
        journal.note(&VirtualClock::new(), Record::Begin(begin));
        journal.flush().unwrap();
        is_orphaned(&files, &dirs, &Other, uuid)
    }

    #[test]
    fn a_pid_that_another_process_has_by_now_is_no_holder() {
        assert!(!is_orphan_of(Some(500)));
        assert!(is_orphan_of(Some(499)));
        assert!(!is_orphan_of(None), "a journal of format 1 has no start");
    }
}
