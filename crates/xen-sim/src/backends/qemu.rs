//! QEMU as the backend of disks, channels, framebuffers and keyboards: a program that a process of the world starts for a domain.

use std::collections::BTreeSet;
use std::path::Path as FilePath;

use os_port::mem::MemPrograms;
use os_port::{ChildEnd, Launch};
use xenstore::{Client, Path, Tree};

use super::{FOLDER, Manner, Manners, children, value, write};

/// Path of QEMU on the simulated host.
pub(super) const BINARY: &str = "/usr/libexec/xen-qemu-system-i386";
/// libxl's name of the backend of disks.
const DISKS: &str = "qdisk";
/// libxl's name of the backend of channels.
const CHANNELS: &str = "console";
/// The kinds of backends that need nothing of QEMU's arguments.
const OTHERS: [&str; 2] = ["vfb", "vkbd"];

/// The driver that this QEMU does not have, as Debian's later ones.
const MISSING_DRIVER: &str = "vpc";
/// QEMU's words for that.
pub const UNKNOWN_DRIVER: &str = "Unknown driver 'vpc'";

/// The terminal of each channel.
const TERMINAL: &str = "/dev/pts/7";

/// All QEMUs of a host.
#[derive(Debug)]
pub(super) struct Qemus {
    programs: MemPrograms,
    /// Those that have begun, by their PIDs.
    begun: BTreeSet<u32>,
    /// Those that have refused a disk.
    refused: BTreeSet<u32>,
}

impl Qemus {
    pub(super) fn new(programs: &MemPrograms) -> Qemus {
        programs.obey(FilePath::new(BINARY));
        programs.confine_later(FilePath::new(BINARY));
        Qemus {
            programs: programs.clone(),
            begun: BTreeSet::new(),
            refused: BTreeSet::new(),
        }
    }

    /// Does what there is to do. Whether there was anything.
    pub(super) fn act(&mut self, store: &mut Client, manners: Manners) -> bool {
        let mut has_acted = false;
        for (pid, launch) in self.programs.running() {
            let Some(domid) = domain_of(&launch) else {
                continue;
            };
            match manners.backend {
                Manner::Hangs => continue,
                Manner::Refuses => {
                    self.programs.end(pid, ChildEnd::Exit(1));
                    has_acted = true;
                    continue;
                }
                Manner::Good | Manner::NeverCloses => {}
            }
            has_acted |= self.refuse_missing_driver(pid);
            if self.begun.insert(pid) {
                self.programs.confine(pid);
                let state = format!("/local/domain/0/device-model/{domid}/state");
                has_acted |= write(store, &state, "running");
            }
            for kind in [DISKS, CHANNELS].into_iter().chain(OTHERS) {
                let folder = format!("{FOLDER}/{kind}/{domid}");
                for number in children(store, &folder) {
                    let backend = format!("{folder}/{number}");
                    let frontend = value(store, &format!("{backend}/frontend"));
                    let mut device = Device {
                        store,
                        programs: &self.programs,
                        pid,
                        kind,
                        backend,
                        frontend: frontend.unwrap_or_default(),
                    };
                    has_acted |= !self.refused.contains(&pid)
                        && device.is_of(&launch)
                        && device.serve(&launch, manners);
                }
            }
        }
        has_acted
    }

    /// Refuses once the image that needs a driver which is not there, and serves no disk. Whether it has.
    fn refuse_missing_driver(&mut self, pid: u32) -> bool {
        let told = self.programs.told(pid);
        let told = String::from_utf8_lossy(&told);
        let wanted = format!("\"driver\":\"{MISSING_DRIVER}\"");
        let Some(command) = told.lines().find(|line| line.contains(&wanted)) else {
            return false;
        };
        if !self.refused.insert(pid) {
            return false;
        }
        let id = id_of(command);
        let error = format!(
            "{{\"id\": \"{id}\", \"error\": {{\"class\": \"GenericError\", \"desc\": \"{UNKNOWN_DRIVER}\"}}}}\n"
        );
        self.programs.say(pid, &error);
        true
    }
}

/// The identity of a command.
fn id_of(command: &str) -> &str {
    let behind = command.rsplit_once("\"id\":\"").map(|(_, rest)| rest);
    behind.and_then(|rest| rest.split('"').next()).unwrap_or("")
}

/// The domain of a QEMU.
fn domain_of(launch: &Launch) -> Option<String> {
    if launch.program() != FilePath::new(BINARY) {
        return None;
    }
    let words: Vec<String> = launch
        .arguments()
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let mut words = words.into_iter().skip_while(|word| word != "-xen-domid");
    words.nth(1)
}

/// Whether an argument of a QEMU ends so.
fn has_argument(launch: &Launch, end: &str) -> bool {
    let mut words = launch.arguments().iter();
    words.any(|word| word.to_string_lossy().ends_with(end))
}

/// Whether a QEMU has the socket of this name.
fn has_socket(launch: &Launch, id: &str) -> bool {
    let begin = format!("socket,id={id},fd=");
    let mut words = launch.arguments().iter();
    words.any(|word| word.to_string_lossy().starts_with(&begin))
}

/// Whether a QEMU is the first one of its domain. A later one serves the disk alone that it was started for.
fn is_first(launch: &Launch) -> bool {
    let name = domain_of(launch).map(|domid| format!("domain-{domid}"));
    name.is_some_and(|name| has_argument(launch, &name))
}

/// A device of a domain, as its QEMU sees it.
struct Device<'a> {
    store: &'a mut Client,
    programs: &'a MemPrograms,
    /// The process of the QEMU.
    pid: u32,
    kind: &'a str,
    backend: String,
    frontend: String,
}

impl Device<'_> {
    fn text(&mut self, path: &str) -> String {
        value(self.store, path).unwrap_or_default()
    }

    /// Whether this QEMU has what it needs for the device. Only then it is the one that serves it.
    fn is_of(&mut self, launch: &Launch) -> bool {
        if self.kind == DISKS {
            return self.command().is_some();
        }
        if OTHERS.contains(&self.kind) {
            return is_first(launch);
        }
        let id = self.id_in_qemu();
        self.has_terminal(launch) || id.is_some_and(|id| has_socket(launch, &id))
    }

    /// The command to make this disk.
    fn command(&mut self) -> Option<String> {
        let name = self.text(&format!("{}/dev", self.backend));
        let told = self.programs.told(self.pid);
        let told = String::from_utf8_lossy(&told).into_owned();
        let wanted = format!("\"vdev\":\"{name}\"");
        let command = told.lines().find(|line| line.contains(&wanted));
        command.map(str::to_owned)
    }

    fn set_state(&mut self, state: &str) -> bool {
        write(self.store, &format!("{}/state", self.backend), state)
    }

    /// Looks at the device once. Whether there was anything to do.
    fn serve(&mut self, launch: &Launch, manners: Manners) -> bool {
        let state = self.text(&format!("{}/state", self.backend));
        let is_going = self.text(&format!("{}/online", self.backend)) == "0";
        let front_state = value(self.store, &format!("{}/state", self.frontend));
        let closes = manners.backend != Manner::NeverCloses;
        match (state.as_str(), front_state.as_deref()) {
            ("1", Some(_)) => self.take(launch),
            ("2", Some("3")) => self.set_state("4"),
            ("2" | "3" | "4" | "5", None | Some("5" | "6")) if closes => self.set_state("6"),
            // The guest lets it go.
            ("5", Some(_)) if is_going && !manners.guest_keeps => {
                write(self.store, &format!("{}/state", self.frontend), "6")
            }
            ("6", _) if is_going && closes => self.remove(),
            _ => false,
        }
    }

    /// Whether it is a channel with a terminal in this QEMU.
    fn has_terminal(&mut self, launch: &Launch) -> bool {
        let id = self.id_in_qemu();
        id.is_some_and(|id| has_argument(launch, &format!("pty,id={id}")))
    }

    /// The name of a channel's end in QEMU.
    fn id_in_qemu(&mut self) -> Option<String> {
        let output = self.text(&format!("{}/output", self.frontend));
        output.strip_prefix("chardev:").map(str::to_owned)
    }

    fn take(&mut self, launch: &Launch) -> bool {
        if self.kind == CHANNELS && self.has_terminal(launch) {
            write(self.store, &format!("{}/tty", self.frontend), TERMINAL);
        }
        if self.kind == DISKS {
            write(self.store, &format!("{}/online", self.backend), "1");
            let command = self.command().unwrap_or_default();
            let reply = format!("{{\"return\": {{}}, \"id\": \"{}\"}}\n", id_of(&command));
            // The thread, the image, the device.
            self.programs.say(self.pid, &reply.repeat(3));
        }
        self.set_state("2")
    }

    /// QEMU removes the nodes of a device that it has closed for good.
    fn remove(&mut self) -> bool {
        for folder in [&self.frontend, &self.backend] {
            if let Ok(path) = Path::new(folder) {
                // The toolstack may have removed it.
                let _ = self.store.rm(&path);
            }
        }
        true
    }
}
