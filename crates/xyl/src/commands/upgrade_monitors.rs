//! `xyl upgrade-monitors`: replaces each VM's monitor with one of this program's version.

use std::fs::File;
use std::time::{Duration, Instant};

use os_port::{Files, SystemFiles};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use uuid::Uuid;
use xyl_engine::EngineError;
use xyl_engine::vm::journal;
use xyl_engine::vm::monitor_lock::{self, Supervised};

use crate::commands::monitor::{lock_for, start_with_lock};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Time limit for an operation on a VM. After it the VM keeps its old monitor.
const OPERATION_LIMIT: Duration = Duration::from_secs(30);
/// Time limit for an old monitor to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Replace the monitors of all VMs with monitors of this version of xyl
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Use this after an update of xyl. For each VM, the old monitor is ended while no operation is under way. A \
new one starts, reads the VM's state, and continues. The guest does not notice, and its reboot or shutdown meanwhile is not \
missed. A VM with an operation under way for more than 30 s keeps its old monitor, and so does a VM of `xyl create -F`.

Examples:
  xyl upgrade-monitors
  xyl upgrade-monitors --json | jq '.[] | select(.failed)'

Exit code 1: a VM kept its old monitor.

JSON: an array of {uuid, vm, old_pid, pid, failed}, pid and failed (why) being null where there is none"
)]
pub struct Args {}

/// The result for one VM.
struct Report {
    uuid: Uuid,
    name: String,
    old_pid: Option<u32>,
    outcome: Result<u32, Stays>,
}

/// The reason why a VM has no new monitor.
struct Stays {
    failure: Failure,
    /// Whether the old monitor has ended nevertheless.
    has_ended: bool,
}

impl Report {
    /// The line about the VM in the report.
    fn line(&self) -> String {
        let old = self
            .old_pid
            .map_or_else(|| "none".to_owned(), |pid| format!("process {pid}"));
        match &self.outcome {
            Ok(pid) => format!("process {pid} in the place of {old}"),
            Err(stays) if stays.has_ended => {
                format!("{old} was ended, and none was started: {}", stays.failure)
            }
            Err(stays) => format!("{old} stays: {}", stays.failure),
        }
    }
}

/// Runs `xyl upgrade-monitors`.
pub fn run(_args: &Args, context: &Context) -> Outcome {
    if context.would("replace the monitors of all VMs".to_owned())? {
        return Ok(());
    }
    let all = monitor_lock::supervised(&SystemFiles, &context.dirs)?;
    let mut reports = Vec::new();
    for watched in all {
        let report = replace(context, watched);
        if !context.json() {
            tell(context, &report)?;
        }
        reports.push(report);
    }
    if context.json() {
        let rows = reports.iter().map(as_json).collect();
        context.out.json(&Value::Array(rows))?;
    }
    match reports.iter().filter(|one| one.outcome.is_err()).count() {
        0 => Ok(()),
        count => Err(Failure::refused(format!(
            "{count} of {} VMs have no new monitor: try again later",
            reports.len()
        ))),
    }
}

fn tell(context: &Context, report: &Report) -> Outcome {
    Ok(context.out.line(format!(
        "{} ({}): {}",
        Shown::name(&report.name),
        report.uuid,
        Shown::line(&report.line())
    ))?)
}

fn as_json(report: &Report) -> Value {
    json!({
        "uuid": report.uuid.hyphenated().to_string(),
        "vm": report.name,
        "old_pid": report.old_pid,
        "pid": report.outcome.as_ref().ok(),
        "failed": report.outcome.is_err().then(|| report.line()),
    })
}

fn replace(context: &Context, supervised: Supervised) -> Report {
    let uuid = supervised.uuid;
    let monitor = monitor_lock::monitor_pid(&SystemFiles, &context.dirs, uuid);
    let old_pid = monitor.filter(|_| supervised.is_held);
    let outcome = match old_pid {
        Some(pid) => end_at_rest(context, uuid, pid),
        None => lock_for(context, uuid, None).map_err(Failure::from),
    };
    // The lock never becomes free, so no other process starts a monitor for the VM.
    let outcome = match outcome {
        Ok(Some(lock)) => start_with_lock(context, uuid, lock).map_err(|failure| Stays {
            failure,
            has_ended: old_pid.is_some(),
        }),
        Ok(None) => Err(Stays {
            failure: Failure::refused("another process is the monitor, or is starting one"),
            has_ended: old_pid.is_some_and(|pid| !is_alive(uuid, pid)),
        }),
        Err(failure) => Err(Stays {
            failure,
            has_ended: false,
        }),
    };
    Report {
        uuid,
        name: journal::name(&SystemFiles, &context.dirs, uuid).unwrap_or_default(),
        old_pid,
        outcome: outcome.map(|monitor| monitor.pid),
    }
}

/// Ends a VM's monitor while no operation on the VM is under way. Returns the monitor lock.
///
/// `None` if the monitor does not end, or another process has taken the lock.
fn end_at_rest(context: &Context, uuid: Uuid, pid: u32) -> Result<Option<File>, Failure> {
    let vm_lock = context.dirs.vm_lock(uuid);
    let lock = SystemFiles.lock(&vm_lock, Some(Instant::now() + OPERATION_LIMIT));
    let Some(_lock) = lock.map_err(|source| EngineError::io("lock", &vm_lock, source))? else {
        return Err(Failure::refused(
            "the VM is being changed: `xyl ops` shows how",
        ));
    };
    end(uuid, pid)?;
    let lock = lock_for(context, uuid, Some(Instant::now() + END_LIMIT))?;
    match lock {
        None if is_alive(uuid, pid) => Err(Failure::refused("it does not end")),
        lock => Ok(lock),
    }
}

/// Whether the process exists and is the VM's monitor.
fn is_alive(uuid: Uuid, pid: u32) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    is_monitor_of(uuid, &words)
}

/// Ends a process if it is the VM's monitor. A pidfd keeps its number from being reused during the check.
fn end(uuid: Uuid, pid: u32) -> Outcome {
    let failed = |source: rustix::io::Errno| Failure::io("end the old monitor", source.into());
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| Failure::refused("the lock names no valid process ID"))?;
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other.map_err(failed)?,
    };
    if !is_alive(uuid, pid) {
        return Err(Failure::refused(
            "it runs in the foreground (`create -F`): end it, and the next command starts a monitor",
        ));
    }
    let sent = pidfd_send_signal(&process, Signal::TERM)
        // A stopped process ends only after SIGCONT.
        .and_then(|()| pidfd_send_signal(&process, Signal::CONT));
    match sent {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => other.map_err(failed),
    }
}

/// Whether a command line, as in `/proc/PID/cmdline`, is that of a VM's monitor.
fn is_monitor_of(uuid: Uuid, words: &[u8]) -> bool {
    let uuid = uuid.hyphenated().to_string();
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    words.contains(&b"monitor".as_slice()) && words.contains(&uuid.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_the_old_one_is_told() {
        let line = |has_ended| {
            let failure = Failure::refused("no memory");
            let report = Report {
                uuid: Uuid::nil(),
                name: "web".to_owned(),
                old_pid: Some(7),
                outcome: Err(Stays { failure, has_ended }),
            };
            report.line()
        };
        assert!(line(false).starts_with("process 7 stays: "));
        assert!(line(true).starts_with("process 7 was ended, and none was started: "));
    }

    #[test]
    fn monitors_are_known_by_their_words() {
        let uuid = Uuid::from_bytes([7; 16]);
        let line = format!("/usr/bin/xyl\0-T\0monitor\03\0{uuid}\0");
        assert!(is_monitor_of(uuid, line.as_bytes()));
        assert!(!is_monitor_of(Uuid::nil(), line.as_bytes()));
        assert!(!is_monitor_of(
            uuid,
            format!("xyl\0create\0-F\0{uuid}\0").as_bytes()
        ));
        assert!(!is_monitor_of(uuid, b""));
    }
}
