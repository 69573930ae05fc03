//! Processes of xl that wait for a domain's end.
//!
//! After `xl create` and similar commands, a daemon waits for the domain's end. Its output goes to
//! `/var/log/xen/xl-NAME.log`, or `.log.1` and so on if that was rotated. It writes the line `Waiting for domain NAME
//! (domid D) to die [pid P]`, and again for each restart. Fact: `tools/xl/xl_vmcontrol.c`, the same in 4.17 to 4.22.
//!
//! A process of any user can call itself `xl create` and use any file as its output. So only processes of root count,
//! and their logs are opened only by [`Kernel::end_of_descriptor`].

use xen_port::DomId;

use crate::host::dom0::{Kernel, Program};

/// Number of bytes that are read from the end of a log. The last line about a domain is near the end.
const LOG_TAIL_BYTES: u64 = 1 << 20;
/// Commands of xl that create a domain and then wait for its end.
const MAKERS: [&str; 4] = ["create", "restore", "migrate-receive", "remus"];

/// A process of xl that can create domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XlProcess {
    /// The process of xl.
    pub program: Program,
    /// The domain whose end it waits for, from its log. `None` if the log names none.
    pub domid: Option<DomId>,
}

/// Returns all such processes. Options may precede xl's command.
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
    // A command may be shortened to a unique prefix, such as `xl cr`.
    let is_one = |command: &String| {
        !command.is_empty()
            && MAKERS
                .iter()
                .any(|maker| maker.starts_with(command.as_str()))
    };
    program.is_roots && program.name() == "xl" && command.is_some_and(is_one)
}

/// Reads the domain of a process from its log.
fn watched(kernel: &Kernel, program: &Program) -> Option<DomId> {
    let log = kernel.descriptor(program.pid, 1)?;
    let name = log.file_name()?.to_str()?;
    if !name.starts_with("xl-") || !name.contains(".log") {
        return None;
    }
    let end = kernel.end_of_descriptor(program.pid, 1, LOG_TAIL_BYTES)?;
    last_watched(&String::from_utf8_lossy(&end), program.pid)
}

/// Finds the last line of the process in its log. A name may contain any text, so the domid is searched from the
/// line's end.
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
