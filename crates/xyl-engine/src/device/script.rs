//! Hot-plug scripts: the administrator's programs that set the host's end of a device up, and take it down.
//!
//! A script is run as xl runs it: `SCRIPT online type_if=vif` once the backend has the device, `offline` once the backend has closed
//! it. It gets the device by variables, and reads the rest from the backend's nodes. Its exit code and the node `hotplug-error`
//! say whether it has succeeded. It runs as root, so no other user can change it or exchange it (`os_port::Accepts::Program`).
//!
//! A monitor has given up most rights, and a script would have no more. Such a process asks a child that has kept them
//! (`xen_sys::ScriptRunner`), which checks each request by [`check_launch`].
//!
//! Facts: `libxl_linux.c`, `libxl_device.c`, `tools/hotplug/Linux`.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use os_port::{Ended, Files, Launch, Opening};
use xenstore::Tree;

use crate::device::bus::{Device, printable};
use crate::error::DeviceError;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// Longest time that a script has, in seconds, as in libxl (`LIBXL_HOTPLUG_TIMEOUT`).
const LIMIT_S: u64 = 40;
/// The word that ends the command line of a script for an interface of netback.
const OF_VIF: &str = "type_if=vif";
/// The variables that a script gets.
const VARIABLES: [&str; 6] = [
    "script",
    "XENBUS_TYPE",
    "XENBUS_PATH",
    "XENBUS_BASE_PATH",
    "netdev",
    "vif",
];

/// The work that a script is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// To set the host's end up.
    Online,
    /// To take it down.
    Offline,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Action::Online => "online",
            Action::Offline => "offline",
        }
    }
}

/// The script of a device.
#[derive(Clone, Copy, Debug)]
pub(super) struct Script<'a> {
    /// The device that it is for.
    pub device: &'a Device,
    /// The device, in words.
    pub what: &'a str,
    /// Path of the script, as in the device's nodes.
    pub path: &'a str,
}

/// Refuses a script that is not there, or that a user other than root can change.
///
/// # Errors
/// [`DeviceError::UntrustedScript`].
pub(super) fn check(host: &Host, what: &str, path: &str) -> Result<(), EngineError> {
    let opened = host.files.open(&place(host, path), &Opening::program());
    let refused = |source| DeviceError::UntrustedScript {
        device: what.to_owned(),
        script: path.to_owned(),
        source,
    };
    Ok(opened.map(drop).map_err(refused)?)
}

/// Refuses a process that can have no script run.
///
/// # Errors
/// [`DeviceError::NoRightToScript`].
pub(super) fn check_right(host: &Host, what: &str) -> Result<(), EngineError> {
    match host.process.may_run_scripts() {
        true => Ok(()),
        false => Err(DeviceError::NoRightToScript {
            device: what.to_owned(),
        }
        .into()),
    }
}

/// Refuses a program that is no hot-plug script as this module starts one, for a child that runs them with all rights.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`]; that of a file that is no program of root's.
pub fn check_launch(files: &dyn Files, launch: &Launch) -> io::Result<()> {
    let actions = [Action::Online, Action::Offline];
    let is_asked = actions.iter().any(|action| {
        let words = [action.word(), OF_VIF].map(OsString::from);
        launch.arguments() == words
    });
    let mut variables = launch.script_variables().unwrap_or_default().iter();
    let is_known = variables.all(|(name, _)| VARIABLES.iter().any(|known| name == known));
    match is_asked && is_known {
        true => files.open(launch.program(), &Opening::program()).map(drop),
        false => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Runs a script to its end, and reports what it says.
///
/// # Errors
/// [`DeviceError::Script`], [`DeviceError::UntrustedScript`], [`DeviceError::NoRightToScript`], those of xenstore.
pub(super) fn run(host: &mut Host, script: Script<'_>, action: Action) -> Result<(), EngineError> {
    check_right(host, script.what)?;
    check(host, script.what, script.path)?;
    let launch = launch(host, script, action)?;
    let ended = match host.spawn.run(&launch, Duration::from_secs(LIMIT_S)) {
        Ok(ended) => ended,
        // The child that runs scripts for this process is gone.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            let device = script.what.to_owned();
            return Err(DeviceError::NoRightToScript { device }.into());
        }
        Err(error) => {
            let why = match error.kind() {
                io::ErrorKind::TimedOut => {
                    format!("has not ended within {LIMIT_S} s, and was killed")
                }
                _ => format!("cannot be run: {error}"),
            };
            return Err(failure(script, action, why));
        }
    };
    let told = match action {
        Action::Online => node_text(host, script.device, "hotplug-error")?,
        Action::Offline => None,
    };
    if ended.code != Some(0) || told.is_some() {
        return Err(failure(script, action, why_failed(&ended, told)));
    }
    if let Some(said) = words_of(&ended.errors) {
        (host.notice)(&format!(
            "{}: `{} {}` says: {said}",
            script.what,
            script.path,
            action.word()
        ));
    }
    Ok(())
}

/// The place of a path that a device's nodes have: simulated hosts have theirs below a folder.
fn place(host: &Host, path: &str) -> PathBuf {
    let path = Path::new(path);
    let root = host.dirs.usr.parent().unwrap_or(Path::new("/"));
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The command line and the variables, as libxl has them.
fn launch(host: &mut Host, script: Script<'_>, action: Action) -> Result<Launch, EngineError> {
    let device = script.device;
    let (kind, domid, number) = (device.served_by, device.domid, device.number);
    let gateway_dev = node_text(host, device, "gatewaydev")?.unwrap_or_default();
    let values = [
        script.path.to_owned(),
        kind.to_owned(),
        format!("backend/{kind}/{domid}/{number}"),
        "backend".to_owned(),
        gateway_dev,
        format!("vif{domid}.{number}"),
    ];
    let variables = VARIABLES.into_iter().zip(values);
    let variables = variables.map(|(name, value)| (name.into(), value.into()));
    let program = place(host, script.path);
    let launch = Launch::new(&program);
    let launch = launch.map_err(|source| EngineError::io("run", &program, source))?;
    let launch = launch.args([action.word(), OF_VIF]);
    Ok(launch.as_script(variables.collect()))
}

fn failure(script: Script<'_>, action: Action, why: String) -> EngineError {
    DeviceError::Script {
        device: script.what.to_owned(),
        domid: script.device.domid,
        script: script.path.to_owned(),
        action: action.word(),
        why,
    }
    .into()
}

/// The end of a program, in words.
pub(crate) fn end_of(ended: &Ended) -> String {
    match ended.code {
        Some(code) => format!("has ended with exit code {code}"),
        None => "was ended by a signal".to_owned(),
    }
}

fn why_failed(ended: &Ended, told: Option<String>) -> String {
    let end = end_of(ended);
    let told = told.map(|told| format!(": {told}")).unwrap_or_default();
    let said = words_of(&ended.errors);
    let said = said.map(|said| format!("; it says: {said}"));
    format!("{end}{told}{}", said.unwrap_or_default())
}

/// The words of a program, in one line; `None` for none.
pub(crate) fn words_of(said: &[u8]) -> Option<String> {
    let said = String::from_utf8_lossy(said).into_owned();
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.collect();
    let line = printable(lines.join("; ").as_bytes());
    (!line.is_empty()).then_some(line)
}

/// A node of the backend, which a script may have written. `None` for one that is not there or empty.
fn node_text(host: &mut Host, device: &Device, name: &str) -> Result<Option<String>, EngineError> {
    let path = node(&format!("{}/{name}", device.backend()))?;
    let value = host.store.read_opt(&path)?;
    let value = value.filter(|value| !value.is_empty());
    Ok(value.map(|value| printable(&value)))
}

#[cfg(test)]
mod tests {
    use os_port::SystemFiles;

    use super::*;

    #[test]
    fn only_a_script_of_this_module_is_run_with_all_rights() {
        let launch = |words: &[&str], name: &str| {
            let shell = Launch::new(Path::new("/bin/sh")).unwrap();
            shell.args(words).as_script(vec![(name.into(), "x".into())])
        };
        check_launch(&SystemFiles, &launch(&["online", "type_if=vif"], "vif")).unwrap();
        for (words, name) in [
            (&["-c", "reboot"][..], "vif"),
            (&["online", "type_if=vif", "x"], "vif"),
            (&["online", "type_if=vif"], "LD_PRELOAD"),
        ] {
            let refused = check_launch(&SystemFiles, &launch(words, name)).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{words:?}");
        }
    }

    #[test]
    fn what_a_script_says_is_one_short_line() {
        assert_eq!(words_of(b" a\n\n\x1b[2Jb \n"), Some("a; [2Jb".to_owned()));
        assert_eq!(words_of(b"\n"), None);
        assert!(words_of(&[b'a'; 4096]).unwrap().len() < 300);
    }
}
