//! The VMs that start with the host: their files, and the order of their starts and stops.
//!
//! Each VM has a file `/etc/xyl/autostart.d/NAME.toml`, whose format is in `docs/host-life.md`. It names the VM's configuration by
//! path, so a start reads the configuration as it is then. [`plan`] puts the VMs in order: a VM starts after those that it
//! names in `after`, and of several by `order` and name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use os_port::{Files, create_folder_durably, list_if_there, remove_if_there, write_durably};
use serde::Deserialize;
use toml::Spanned;
use xl_cfg::types::{NameRule, VmName};

use crate::error::AutostartError;
use crate::{Dirs, EngineError};

/// Maximum number of bytes that are read of a file.
const MAX_BYTES: u64 = 64 << 10;
/// Extension of the files.
const EXTENSION: &str = ".toml";
/// Time limit for a VM to get ready where its file has none, in seconds.
pub const READY_TIMEOUT_S: u32 = 60;

/// A VM that starts with the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the VM.
    pub name: String,
    /// Absolute path of its configuration.
    pub config: PathBuf,
    /// Place in the sequence: of VMs that do not wait for each other, the one with the lower number starts first.
    pub order: i32,
    /// Names of the VMs that it waits for.
    pub after: Vec<String>,
    /// Sign that it is ready. VMs that wait for it start then.
    pub ready: Ready,
    /// Time limit for that sign, in seconds.
    pub ready_timeout_s: u32,
    /// Pause after its start, in seconds, before any other VM starts.
    pub delay_s: u32,
    /// Line of `after` in its file, from 1.
    after_line: usize,
}

/// Sign that a VM is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ready {
    /// It is ready as soon as it runs.
    None,
    /// A node of the guest's own folder in xenstore exists, or has this value.
    Xenstore {
        /// Path below `/local/domain/DOMID`.
        path: String,
        /// Its value. `None` takes any.
        value: Option<String>,
    },
    /// The guest has written this text to its console.
    Console(String),
    /// A TCP port accepts a connection.
    Tcp {
        /// Name or address of a host.
        host: String,
        /// Number of the port.
        port: u16,
    },
}

impl FromStr for Ready {
    type Err = String;

    fn from_str(text: &str) -> Result<Ready, String> {
        let wrong = || {
            format!(
                "`{text}` is no sign of readiness: give none, xenstore:PATH, xenstore:PATH=VALUE, console:TEXT or tcp:HOST:PORT"
            )
        };
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        match (kind, rest) {
            ("none", "") => Ok(Ready::None),
            ("xenstore", rest) => {
                let (path, value) = match rest.split_once('=') {
                    Some((path, value)) => (path, Some(value.to_owned())),
                    None => (rest, None),
                };
                if path.is_empty() || path.starts_with('/') || path.split('/').any(str::is_empty) {
                    return Err(format!(
                        "`{path}` is no path in the guest's own folder of xenstore: write it as data/ready"
                    ));
                }
                let path = path.to_owned();
                Ok(Ready::Xenstore { path, value })
            }
            ("console", text) if !text.is_empty() => Ok(Ready::Console(text.to_owned())),
            ("tcp", rest) => {
                let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                match port.parse() {
                    Ok(port) if port != 0 && !host.is_empty() => Ok(Ready::Tcp {
                        host: host.to_owned(),
                        port,
                    }),
                    _ => Err(wrong()),
                }
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ready::None => write!(f, "none"),
            Ready::Xenstore { path, value: None } => write!(f, "xenstore:{path}"),
            Ready::Xenstore {
                path,
                value: Some(value),
            } => write!(f, "xenstore:{path}={value}"),
            Ready::Console(text) => write!(f, "console:{text}"),
            Ready::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Ready::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    config: Spanned<PathBuf>,
    #[serde(default)]
    order: i32,
    after: Option<Spanned<Vec<String>>>,
    ready: Option<Spanned<String>>,
    ready_timeout_s: Option<u32>,
    #[serde(default)]
    delay_s: u32,
}

impl Entry {
    /// A VM with this configuration, and the default of everything else.
    pub fn new(name: &str, config: &Path) -> Entry {
        Entry {
            name: name.to_owned(),
            config: config.to_owned(),
            order: 0,
            after: Vec::new(),
            ready: Ready::None,
            ready_timeout_s: READY_TIMEOUT_S,
            delay_s: 0,
            after_line: 1,
        }
    }

    /// Reads the text of a VM's file; `path` is for messages.
    ///
    /// # Errors
    /// [`AutostartError::Wrong`] with the line.
    pub fn parse(name: &str, text: &str, path: &Path) -> Result<Entry, AutostartError> {
        let wrong = |at: usize, what: String| AutostartError::Wrong {
            path: path.to_owned(),
            line: line_of(text, at),
            what,
        };
        let raw: RawEntry = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(at, error.message().to_owned())
        })?;
        let at = raw.config.span().start;
        let config = raw.config.into_inner();
        if config.is_relative() {
            return Err(wrong(at, "`config` has to be an absolute path".to_owned()));
        }
        let ready = match raw.ready {
            Some(ready) => {
                let at = ready.span().start;
                let parsed = ready.get_ref().parse();
                parsed.map_err(|what| wrong(at, what))?
            }
            None => Ready::None,
        };
        let at = raw.after.as_ref().map_or(0, |after| after.span().start);
        Ok(Entry {
            name: name.to_owned(),
            config,
            order: raw.order,
            after: raw.after.map(Spanned::into_inner).unwrap_or_default(),
            ready,
            ready_timeout_s: raw.ready_timeout_s.unwrap_or(READY_TIMEOUT_S),
            delay_s: raw.delay_s,
            after_line: line_of(text, at),
        })
    }

    /// The text of the VM's file. [`Entry::parse`] reads it.
    fn text(&self) -> String {
        let after: Vec<String> = self.after.iter().map(|name| quoted(name)).collect();
        format!(
            "# docs/host-life.md has the format.\nconfig = {}\norder = {}\nafter = [{}]\nready = {}\nready_timeout_s = {}\ndelay_s = {}\n",
            quoted(&self.config.to_string_lossy()),
            self.order,
            after.join(", "),
            quoted(&self.ready.to_string()),
            self.ready_timeout_s,
            self.delay_s,
        )
    }
}

/// A string of TOML. Strings of JSON are a subset of them, but for one control character.
fn quoted(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.replace('\u{7f}', "\\u007f")
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// Path of a VM's file.
pub fn path(dirs: &Dirs, name: &str) -> PathBuf {
    dirs.autostart().join(format!("{name}{EXTENSION}"))
}

/// Reads all files. The second list has the errors of those that cannot be used.
///
/// # Errors
/// [`EngineError::Io`] if the folder cannot be read.
pub fn read(
    files: &dyn Files,
    dirs: &Dirs,
) -> Result<(Vec<Entry>, Vec<AutostartError>), EngineError> {
    let folder = dirs.autostart();
    let mut names =
        list_if_there(files, &folder).map_err(|source| EngineError::io("list", &folder, source))?;
    names.sort_unstable();
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    for name in names.iter().filter_map(|name| name.strip_suffix(EXTENSION)) {
        match read_one(files, dirs, name) {
            Ok(entry) => entries.push(entry),
            Err(error) => errors.push(error),
        }
    }
    Ok((entries, errors))
}

fn read_one(files: &dyn Files, dirs: &Dirs, name: &str) -> Result<Entry, AutostartError> {
    let path = path(dirs, name);
    let wrong = |what: String| AutostartError::Wrong {
        path: path.clone(),
        line: 1,
        what,
    };
    if let Err(error) = VmName::parse(name, NameRule::Any) {
        return Err(wrong(format!(
            "the file's name is no name of a VM: {error}"
        )));
    }
    let bytes = files
        .read_trusted(&path, MAX_BYTES)
        .map_err(|source| wrong(format!("it cannot be read: {source}")))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
    Entry::parse(name, &text, &path)
}

/// Writes a VM's file. It survives a power cut.
///
/// # Errors
/// [`AutostartError::Circle`] if VMs would wait for each other, [`AutostartError::Wrong`] for what no file can hold.
pub fn add(files: &dyn Files, dirs: &Dirs, entry: &Entry) -> Result<(), EngineError> {
    let path = path(dirs, &entry.name);
    let text = entry.text();
    let entry = Entry::parse(&entry.name, &text, &path)?;
    let (mut all, _) = read(files, dirs)?;
    all.retain(|other| other.name != entry.name);
    let name = entry.name.clone();
    all.push(entry);
    let makes_circle = |error: &AutostartError| matches!(error, AutostartError::Circle { names, .. } if names.contains(&name));
    if let Some(error) = plan(all, dirs).refused.into_iter().find(makes_circle) {
        return Err(error.into());
    }
    create_folder_durably(files, &dirs.autostart())?;
    let new = dirs.autostart().join(format!("{name}.new"));
    Ok(write_durably(files, &new, &path, text.as_bytes())?)
}

/// Removes a VM's file.
///
/// # Errors
/// [`AutostartError::Unknown`] if there is none.
pub fn remove(files: &dyn Files, dirs: &Dirs, name: &str) -> Result<(), EngineError> {
    let is_safe = VmName::parse(name, NameRule::Any).is_ok();
    let path = path(dirs, name);
    if !is_safe
        || files
            .read_trusted(&path, MAX_BYTES)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    {
        return Err(AutostartError::Unknown(name.to_owned()).into());
    }
    remove_if_there(files, &path).map_err(|source| EngineError::io("remove", &path, source))
}

/// The order in which VMs start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartPlan {
    /// The VMs, each behind those that it waits for.
    pub starts: Vec<Start>,
    /// The circles. Their VMs are not among `starts`.
    pub refused: Vec<AutostartError>,
}

/// A VM of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The VM itself.
    pub entry: Entry,
    /// Names of the VMs before it in the plan that it waits for.
    pub waits_for: Vec<String>,
    /// Names in `after` that no VM of the plan has.
    pub missing: Vec<String>,
}

/// Puts VMs in order. VMs that wait for each other in a circle are left out, and no other VM waits for them.
pub fn plan(entries: Vec<Entry>, dirs: &Dirs) -> StartPlan {
    let mut left: BTreeMap<(i32, String), Entry> = entries
        .into_iter()
        .map(|entry| ((entry.order, entry.name.clone()), entry))
        .collect();
    let mut plan = StartPlan::default();
    while !left.is_empty() {
        let names: BTreeSet<&String> = left.values().map(|entry| &entry.name).collect();
        let waits = |entry: &Entry| entry.after.iter().any(|name| names.contains(name));
        let next = left.iter().find(|(_, entry)| !waits(entry));
        match next.map(|(key, _)| key.clone()) {
            Some(key) => plan.starts.extend(left.remove(&key).map(|entry| Start {
                entry,
                waits_for: Vec::new(),
                missing: Vec::new(),
            })),
            None => {
                let circle = circle(&left);
                plan.refused.push(circle_error(&left, &circle, dirs));
                left.retain(|_, entry| !circle.contains(&entry.name));
            }
        }
    }
    let names: BTreeSet<String> = plan
        .starts
        .iter()
        .map(|start| start.entry.name.clone())
        .collect();
    for start in &mut plan.starts {
        let after = start.entry.after.iter().cloned();
        (start.waits_for, start.missing) = after.partition(|name| names.contains(name));
    }
    plan
}

/// The names of a circle. Each entry waits for another one, so a walk along `after` comes to one that it has seen.
fn circle(left: &BTreeMap<(i32, String), Entry>) -> Vec<String> {
    let by_name: BTreeMap<&str, &Entry> = left
        .values()
        .map(|entry| (entry.name.as_str(), entry))
        .collect();
    let mut walked: Vec<String> = Vec::new();
    let mut at = by_name.values().next().copied();
    while let Some(entry) = at {
        if let Some(begin) = walked.iter().position(|name| *name == entry.name) {
            return walked.split_off(begin);
        }
        walked.push(entry.name.clone());
        let mut next = entry.after.iter();
        at = next.find_map(|name| by_name.get(name.as_str()).copied());
    }
    walked
}

fn circle_error(
    left: &BTreeMap<(i32, String), Entry>,
    circle: &[String],
    dirs: &Dirs,
) -> AutostartError {
    let first = circle.first().cloned().unwrap_or_default();
    let line = left.values().find(|entry| entry.name == first);
    AutostartError::Circle {
        path: path(dirs, &first),
        line: line.map_or(1, |entry| entry.after_line),
        names: circle.iter().cloned().chain([first]).collect(),
    }
}

impl StartPlan {
    /// The wave in which each VM stops. Wave 0 has the VMs that no other VM waits for, and those without a file. A VM
    /// stops in a later wave than all VMs that wait for it.
    pub fn stop_waves(&self) -> BTreeMap<String, u32> {
        let mut waves: BTreeMap<String, u32> = BTreeMap::new();
        for start in self.starts.iter().rev() {
            let own = *waves.entry(start.entry.name.clone()).or_default();
            for name in &start.waits_for {
                let wave = waves.entry(name.clone()).or_default();
                *wave = (*wave).max(own + 1);
            }
        }
        waves
    }
}

#[cfg(test)]
mod tests {
    use os_port::SystemFiles;

    use super::*;

    fn entry(name: &str, order: i32, after: &[&str]) -> Entry {
        Entry {
            order,
            after: after.iter().map(|&name| name.to_owned()).collect(),
            ..Entry::new(name, Path::new("/etc/xen/x.cfg"))
        }
    }

    fn dirs() -> Dirs {
        Dirs::below(Path::new("/"))
    }

    fn names(plan: &StartPlan) -> Vec<&str> {
        plan.starts
            .iter()
            .map(|start| start.entry.name.as_str())
            .collect()
    }

    #[test]
    fn a_chain_and_free_vms_start_in_order() {
        let mut entries = vec![
            entry("e", -9, &["d"]),
            entry("d", -8, &["c"]),
            entry("c", -7, &["b"]),
            entry("b", -6, &["a", "gone"]),
            entry("a", 9, &[]),
        ];
        entries.extend((0..50).map(|number| entry(&format!("free{number:02}"), 0, &[])));
        let plan = plan(entries, &dirs());
        assert!(plan.refused.is_empty());
        let names = names(&plan);
        assert_eq!(names[0], "free00");
        assert_eq!(names[49], "free49");
        assert_eq!(names[50..], ["a", "b", "c", "d", "e"]);
        assert_eq!(plan.starts[51].waits_for, ["a"]);
        assert_eq!(plan.starts[51].missing, ["gone"]);
        let waves = plan.stop_waves();
        assert_eq!((waves["e"], waves["a"], waves["free07"]), (0, 4, 0));
    }

    #[test]
    fn a_circle_is_refused_with_its_line_and_the_others_start() {
        let text = "config = \"/a.cfg\"\n\nafter = [\"y\"]\n";
        let x = Entry::parse("x", text, Path::new("/etc/x")).unwrap();
        let all = vec![
            x,
            entry("y", 0, &["x"]),
            entry("z", 0, &["y"]),
            entry("self", 0, &["self"]),
        ];
        let plan = plan(all, &dirs());
        assert_eq!(names(&plan), ["z"]);
        assert_eq!(plan.refused.len(), 2);
        let of_x = plan.refused.iter().find_map(|error| match error {
            AutostartError::Circle { path, line, names } if names.len() == 3 => Some((path, line)),
            _ => None,
        });
        assert_eq!(of_x, Some((&path(&dirs(), "x"), &3)));
    }

    #[test]
    fn signs_are_read_as_they_are_written() {
        for text in [
            "none",
            "xenstore:data/ready",
            "xenstore:data/ready=a=b",
            "console:login:",
            "tcp:10.0.0.2:22",
            "tcp:[::1]:22",
        ] {
            assert_eq!(text.parse::<Ready>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "nothing",
            "none:x",
            "xenstore:",
            "xenstore:/local/domain/0/name",
            "xenstore:a//b",
            "console:",
            "tcp:host",
            "tcp::22",
            "tcp:host:0",
            "tcp:host:65536",
        ] {
            assert!(text.parse::<Ready>().is_err(), "{text}");
        }
    }

    #[test]
    fn files_are_written_read_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(root.path());
        let mut nas = entry("nas", 5, &[]);
        nas.config = PathBuf::from("/etc/xen/a \"b\"\u{7f}.cfg");
        nas.ready = "console:login: ".parse().unwrap();
        add(&SystemFiles, &dirs, &nas).unwrap();
        add(&SystemFiles, &dirs, &entry("web", 0, &["nas"])).unwrap();
        let again = add(&SystemFiles, &dirs, &entry("nas", 0, &["web"]));
        assert!(matches!(
            again,
            Err(EngineError::Autostart(AutostartError::Circle { .. }))
        ));
        std::fs::write(path(&dirs, "bad"), "config = \"/x\"\nordr = 1\n").unwrap();
        let (all, errors) = read(&SystemFiles, &dirs).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((&all[0].config, &all[0].ready), (&nas.config, &nas.ready));
        assert!(matches!(
            &errors[..],
            [AutostartError::Wrong { line: 2, .. }]
        ));
        remove(&SystemFiles, &dirs, "nas").unwrap();
        for name in ["nas", "../web", ""] {
            let gone = remove(&SystemFiles, &dirs, name);
            assert!(matches!(
                gone,
                Err(EngineError::Autostart(AutostartError::Unknown(_)))
            ));
        }
    }
}
