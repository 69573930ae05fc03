//! The processes of xl that watch over a domain each.
//!
//! `xl create` and its kin turn into a daemon that waits for their domain's end: its output goes to
//! `/var/log/xen/xl-NAME.log` (`.log.1` and so on once there is a newer one), and there it says
//! `Waiting for domain NAME (domid D) to die [pid P]`, again for each domain that it has restarted.
//! Fact: `tools/xl/xl_vmcontrol.c`, the same in 4.17 to 4.22.
//!
//! Any user's process can call itself `xl create` and name any file as its output. So only processes of root count, and
//! their logs only as [`Kernel::open_descriptor`] opens them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use xen_port::DomId;

use crate::host::dom0::{Kernel, Program};

/// How much of the end of a log is read, in bytes: what says which domain is watched is near its end.
const LOG_TAIL_BYTES: u64 = 1 << 20;
/// Commands of xl that make a domain, and then watch over it.
const MAKERS: [&str; 4] = ["create", "restore", "migrate-receive", "remus"];

/// A process of xl that can make domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XlProcess {
    /// The process of xl.
    pub program: Program,
    /// The domain that it watched over last, if it says so anywhere.
    pub domid: Option<DomId>,
}

/// All of them. xl may have been started with options before its command.
pub fn all(kernel: &Kernel) -> Vec<XlProcess> {
    let programs = kernel.programs().into_iter();
    programs
        .filter(is_maker)
        .map(|program| XlProcess {
            domid: watched(kernel, &program),
            program,
        })
        .collect()
}

fn is_maker(program: &Program) -> bool {
    let command = program
        .args
        .iter()
        .skip(1)
        .find(|arg| !arg.starts_with('-'));
    // A command may be shortened to what is unique: `xl cr`.
    let is_one = |command: &String| {
        !command.is_empty()
            && MAKERS
                .iter()
                .any(|maker| maker.starts_with(command.as_str()))
    };
    program.is_roots && program.name() == "xl" && command.is_some_and(is_one)
}

/// The domain that a process says it watches over.
fn watched(kernel: &Kernel, program: &Program) -> Option<DomId> {
    let log = kernel.descriptor(program.pid, 1)?;
    let name = log.file_name()?.to_str()?;
    if !name.starts_with("xl-") || !name.contains(".log") {
        return None;
    }
    let log = kernel.open_descriptor(program.pid, 1)?;
    last_watched(&tail(log)?, program.pid)
}

fn tail(mut file: File) -> Option<String> {
    let size_bytes = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(size_bytes.saturating_sub(LOG_TAIL_BYTES)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last line of this process counts. A name may hold anything, so the number is looked for from the end.
fn last_watched(log: &str, pid: u32) -> Option<DomId> {
    let end = format!(") to die [pid {pid}]");
    let lines = log.lines().rev();
    let mut numbers = lines.filter_map(|line| {
        let (before, _) = line.trim_end().rsplit_once(&end)?;
        let (start, number) = before.rsplit_once("(domid ")?;
        start
            .contains("Waiting for domain ")
            .then(|| number.parse().ok())?
    });
    numbers.next().map(DomId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dom0::{pretend_process, pretend_uid};

    #[test]
    fn the_last_line_of_this_process_counts() {
        let log = "Waiting for domain a (domid 3) to die [pid 7]\n\
            Domain 3 has shut down, reason code 1 0x1\n\
            Waiting for domain a (domid 9) to die [pid 8] (domid 4) to die [pid 7]\n\
            Waiting for domain b (domid 5) to die [pid 77]\n";
        assert_eq!(last_watched(log, 7), Some(DomId(4)));
        assert_eq!(last_watched(log, 77), Some(DomId(5)));
        assert_eq!(last_watched("Parsing config from x\n", 7), None);
    }

    #[test]
    fn xls_processes_are_told_from_others() {
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("xl-web.log.1");
        std::fs::write(&log, "Waiting for domain web (domid 6) to die [pid 20]\n").unwrap();
        pretend_process(
            root.path(),
            20,
            &["/usr/sbin/xl", "-v", "cr", "web.cfg"],
            &[(1, &log)],
            "",
        );
        pretend_process(root.path(), 21, &["xl", "create", "db.cfg"], &[], "");
        pretend_process(root.path(), 22, &["xl", "list"], &[], "");
        pretend_process(root.path(), 23, &["xyl", "create", "x.cfg"], &[], "");
        let found = all(&Kernel::below(root.path()));
        let found: Vec<_> = found.iter().map(|xl| (xl.program.pid, xl.domid)).collect();
        assert_eq!(found, [(20, Some(DomId(6))), (21, None)]);
        pretend_uid(root.path(), 20, 65534);
        let found = all(&Kernel::below(root.path()));
        let found: Vec<_> = found.iter().map(|xl| xl.program.pid).collect();
        assert_eq!(found, [21]);
    }

    #[test]
    fn a_log_that_would_make_this_process_wait_is_not_opened() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("xl-a.log");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        pretend_process(root.path(), 20, &["xl", "create", "a"], &[(1, &pipe)], "");
        let found = all(&Kernel::below(root.path()));
        let found: Vec<_> = found.iter().map(|xl| (xl.program.pid, xl.domid)).collect();
        assert_eq!(found, [(20, None)]);
    }
}
