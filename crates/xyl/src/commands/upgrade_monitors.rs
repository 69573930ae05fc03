//! `xyl upgrade-monitors`: has this program's version watch over all VMs.

use std::time::{Duration, Instant};

use os_port::{Files, SystemFiles};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};
use uuid::Uuid;
use xyl_engine::watchers::{self, Watched};
use xyl_engine::{EngineError, ops};

use crate::commands::monitor::heir;
use crate::context::Context;
use crate::error::{Failure, Outcome};

/// How long an operation on a VM may take until the VM is passed over.
const OPERATION_LIMIT: Duration = Duration::from_secs(30);
/// How long a process may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Have this version of xyl watch over all VMs, in the place of the processes that do
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For after an update of xyl. A monitor holds nothing: for each VM the old one is ended while it is at rest, and a
new one starts, looks what the VM does, and goes on. The guest notices nothing, and nothing that it does meanwhile is
missed. A VM that is being changed for more than 30 s is passed over, and so is one that `xyl create -F` watches over.

Examples:
  xyl upgrade-monitors
  xyl upgrade-monitors --json | jq '.[] | select(.failed)'

Exit code 1: a VM was passed over.

JSON: an array of {uuid, vm, old_pid, pid, failed}, pid and failed (why) being null where there is none"
)]
pub struct Args {}

/// What became of one VM's monitor.
struct Report {
    uuid: Uuid,
    name: String,
    old_pid: Option<u32>,
    outcome: Result<u32, Failure>,
}

/// Runs `xyl upgrade-monitors`.
pub fn run(_args: &Args, context: &Context) -> Outcome {
    if context.would("replace the monitors of all VMs".to_owned())? {
        return Ok(());
    }
    let all = watchers::all(&SystemFiles, &context.dirs)?;
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
            "{count} of {} VMs were passed over: try again later",
            reports.len()
        ))),
    }
}

fn tell(context: &Context, report: &Report) -> Outcome {
    let old = report
        .old_pid
        .map_or_else(|| "none".to_owned(), |pid| format!("process {pid}"));
    let now = match &report.outcome {
        Ok(pid) => format!("process {pid} in the place of {old}"),
        Err(failure) => format!("{old} stays: {failure}"),
    };
    Ok(context
        .out
        .line(format!("{} ({}): {now}", report.name, report.uuid))?)
}

fn as_json(report: &Report) -> Value {
    json!({
        "uuid": report.uuid.hyphenated().to_string(),
        "vm": report.name,
        "old_pid": report.old_pid,
        "pid": report.outcome.as_ref().ok(),
        "failed": report.outcome.as_ref().err().map(ToString::to_string),
    })
}

fn replace(context: &Context, watched: Watched) -> Report {
    let uuid = watched.uuid;
    let watcher = watchers::watcher(&SystemFiles, &context.dirs, uuid);
    let old_pid = watcher.filter(|_| watched.is_held);
    let outcome = match old_pid {
        Some(pid) => end_at_rest(context, uuid, pid),
        None => Ok(()),
    };
    Report {
        uuid,
        name: ops::name(&SystemFiles, &context.dirs, uuid).unwrap_or_default(),
        old_pid,
        outcome: outcome.and_then(|()| {
            let heir = heir(context, uuid)?
                .ok_or_else(|| Failure::refused("another process starts one just now"))?;
            Ok(heir.pid)
        }),
    }
}

/// Ends a VM's monitor while nobody, and so not the monitor, changes the VM.
fn end_at_rest(context: &Context, uuid: Uuid, pid: u32) -> Outcome {
    let vm_lock = context.dirs.vm_lock(uuid);
    let lock = lock(&vm_lock, OPERATION_LIMIT)?;
    let Some(_lock) = lock else {
        return Err(Failure::refused(
            "the VM is being changed: `xyl ops` shows how",
        ));
    };
    end(uuid, pid)?;
    let watch = context.dirs.watch(uuid);
    match self::lock(&watch, END_LIMIT)? {
        // The next one is to find the file.
        Some(lock) => {
            lock.leave();
            Ok(())
        }
        None => Err(Failure::refused("it does not end")),
    }
}

fn lock(
    path: &std::path::Path,
    limit: Duration,
) -> Result<Option<Box<dyn os_port::Lock>>, Failure> {
    let lock = SystemFiles.lock(path, Some(Instant::now() + limit));
    Ok(lock.map_err(|source| EngineError::io("lock", path, source))?)
}

/// Ends a process if it is the VM's monitor. It is held by a descriptor while that is looked at, so that
/// no other process of its number is meant.
fn end(uuid: Uuid, pid: u32) -> Outcome {
    let failed = |source: rustix::io::Errno| Failure::io("end the old monitor", source.into());
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| Failure::refused("its number is none of a process"))?;
    let process = match pidfd_open(number, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if !is_monitor_of(uuid, &words) {
        return Err(Failure::refused(
            "it is no monitor in the background: end it, and the next command starts one",
        ));
    }
    match pidfd_send_signal(&process, Signal::TERM) {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => other.map_err(failed),
    }
}

/// Whether a command line (as in `/proc/PID/cmdline`) is that of a VM's monitor.
fn is_monitor_of(uuid: Uuid, words: &[u8]) -> bool {
    let uuid = uuid.hyphenated().to_string();
    let words: Vec<&[u8]> = words.split(|byte| *byte == 0).collect();
    words.contains(&b"monitor".as_slice()) && words.contains(&uuid.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

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
