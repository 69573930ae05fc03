//! QEMU as the backend of disks and channels: a program that a process of the world starts for a domain.

use std::collections::BTreeSet;
use std::path::Path;

use os_port::mem::MemPrograms;
use os_port::{ChildEnd, Launch};
use xenstore::Client;

use super::{FOLDER, Manner, children, value, write};

/// Path of QEMU on the simulated host.
pub(super) const BINARY: &str = "/usr/libexec/xen-qemu-system-i386";
/// libxl's name of the backend of disks.
const DISKS: &str = "qdisk";
/// libxl's name of the backend of channels.
const CHANNELS: &str = "console";

/// The terminal of each channel.
const TERMINAL: &str = "/dev/pts/7";

/// All QEMUs of a host.
#[derive(Debug)]
pub(super) struct Qemus {
    programs: MemPrograms,
    /// Those that have begun, by their PIDs.
    begun: BTreeSet<u32>,
}

impl Qemus {
    pub(super) fn new(programs: &MemPrograms) -> Qemus {
        programs.obey(Path::new(BINARY));
        Qemus {
            programs: programs.clone(),
            begun: BTreeSet::new(),
        }
    }

    /// Does what there is to do. Whether there was anything.
    pub(super) fn act(&mut self, store: &mut Client, manner: Manner) -> bool {
        let mut has_acted = false;
        for (pid, launch) in self.programs.running() {
            let Some(domid) = domain_of(&launch) else {
                continue;
            };
            match manner {
                Manner::Hangs => continue,
                Manner::Refuses => {
                    self.programs.end(pid, ChildEnd::Exit(1));
                    has_acted = true;
                    continue;
                }
                Manner::Good | Manner::NeverCloses => {}
            }
            if self.begun.insert(pid) {
                let state = format!("/local/domain/0/device-model/{domid}/state");
                has_acted |= write(store, &state, "running");
            }
            for kind in [DISKS, CHANNELS] {
                let folder = format!("{FOLDER}/{kind}/{domid}");
                for number in children(store, &folder) {
                    let backend = format!("{folder}/{number}");
                    has_acted |= serve(store, kind, &backend, &launch, manner);
                }
            }
        }
        has_acted
    }
}

/// The domain of a QEMU.
fn domain_of(launch: &Launch) -> Option<String> {
    if launch.program() != Path::new(BINARY) {
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

/// Looks at one device.
fn serve(store: &mut Client, kind: &str, backend: &str, launch: &Launch, manner: Manner) -> bool {
    let text = |store: &mut Client, path: &str| value(store, path).unwrap_or_default();
    let state_path = format!("{backend}/state");
    let state = text(store, &state_path);
    let frontend = text(store, &format!("{backend}/frontend"));
    let front_state = value(store, &format!("{frontend}/state"));
    match (state.as_str(), front_state.as_deref()) {
        ("1", Some(_)) if kind == DISKS => {
            let params = text(store, &format!("{backend}/params"));
            let file = params.rsplit_once("/dev/fdset/").map(|(_, number)| number);
            let has_it = |number: &str| has_argument(launch, &format!(",set={number}"));
            file.is_some_and(has_it) && write(store, &state_path, "2")
        }
        ("1", Some(_)) => {
            let output = text(store, &format!("{frontend}/output"));
            let terminal = output.strip_prefix("chardev:");
            let is_there = terminal.is_some_and(|id| has_argument(launch, &format!("pty,id={id}")));
            is_there
                && write(store, &format!("{frontend}/tty"), TERMINAL)
                && write(store, &state_path, "2")
        }
        ("2", Some("3")) => write(store, &state_path, "4"),
        ("2" | "3" | "4" | "5", None | Some("5" | "6")) if manner != Manner::NeverCloses => {
            write(store, &state_path, "6")
        }
        _ => false,
    }
}
