//! A guest of a simulated host. It reports its start, obeys requests in xenstore, and answers a few console commands.

use std::time::{Duration, Instant};

use crate::model::Model;
use xen_port::{DomId, ShutdownReason};
use xenstore::mem::MemStore;
use xenstore::{Client, Path, Settings, Tree};

use super::console::Console;

/// Between two heartbeats.
const BEAT_EVERY: Duration = Duration::from_secs(2);
/// CPU time that a heartbeat takes.
const BEAT_NS: u64 = 10_000_000;
/// The commands of the guest's console.
const HELP: &str =
    "help, poweroff, reboot, crash, softreset, and whatever else comes back as it is";

/// A simulated guest in a domain.
pub(super) struct Guest {
    domid: DomId,
    store: Option<Client>,
    pub console: Option<Console>,
    /// Number of soft resets at its last boot.
    soft_resets: u32,
    beats: u64,
    next_beat: Instant,
}

impl Guest {
    pub fn new(domid: DomId) -> Guest {
        Guest {
            domid,
            store: None,
            console: None,
            soft_resets: 0,
            beats: 0,
            next_beat: Instant::now(),
        }
    }

    fn print(&mut self, line: &str) {
        if let Some(console) = &mut self.console {
            console.print(&format!("{line}\r\n"));
        }
    }

    /// Runs the guest until it is idle. Returns the time of its next timer, if it runs.
    pub fn live(&mut self, xen: &Model, store: &MemStore) -> Option<Instant> {
        let (runs, soft_resets) = match xen.domain(self.domid) {
            Some(domain) => (domain.is_running(), domain.soft_resets),
            None => return None,
        };
        if !runs {
            return None;
        }
        if self.store.is_none() || self.soft_resets != soft_resets {
            self.soft_resets = soft_resets;
            self.boot(xen, store);
        }
        let now = Instant::now();
        if now >= self.next_beat {
            self.beats += 1;
            self.next_beat = now + BEAT_EVERY;
            xen.use_cpu(self.domid, BEAT_NS);
            self.print(&format!("heartbeat {}", self.beats));
        }
        self.obey(xen, store);
        self.drive_devices();
        let words = self.console.as_mut().map(Console::typed);
        for word in words.unwrap_or_default() {
            self.hear(&word, xen, store);
        }
        Some(self.next_beat)
    }

    fn boot(&mut self, xen: &Model, store: &MemStore) {
        let own = store.connect(self.domid.0).ok();
        self.store = own.map(|transport| {
            let settings = Settings::default();
            Client::new(Box::new(transport), settings)
        });
        self.beats = 0;
        self.next_beat = Instant::now();
        for feature in ["control/feature-poweroff", "control/feature-reboot"] {
            self.write(feature, "1");
        }
        let memory_mib = xen
            .domain(self.domid)
            .map_or(0, |domain| domain.tot_pages / 256);
        let how = match self.soft_resets {
            0 => "started",
            _ => "started anew in its own memory",
        };
        self.print(&format!(
            "This is a simulated guest: domain {}, {memory_mib} MiB, {how}. No kernel runs here.",
            self.domid
        ));
        self.print(&format!("Words: {HELP}."));
    }

    /// A guest's own paths are relative.
    fn path(&self, relative: &str) -> Option<Path> {
        Path::domain(self.domid.0).join(relative).ok()
    }

    fn read(&mut self, relative: &str) -> Option<String> {
        let path = self.path(relative)?;
        let value = self.store.as_mut()?.read_opt(&path).ok()??;
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    /// A node outside of the guest's own folder.
    fn read_elsewhere(&mut self, path: &str) -> Option<String> {
        let value = self
            .store
            .as_mut()?
            .read_opt(&Path::new(path).ok()?)
            .ok()??;
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    fn children(&mut self, relative: &str) -> Vec<String> {
        let path = self.path(relative);
        let listed = path.zip(self.store.as_mut());
        listed
            .and_then(|(path, store)| store.directory(&path).ok())
            .unwrap_or_default()
    }

    fn write(&mut self, relative: &str, value: &str) {
        if let (Some(path), Some(store)) = (self.path(relative), &mut self.store) {
            // The guest continues if it may not write the node.
            let _ = store.write(&path, value.as_bytes());
        }
    }

    /// Handles the toolstack's requests in xenstore.
    fn obey(&mut self, xen: &Model, store: &MemStore) {
        let asked = self.read("control/shutdown").unwrap_or_default();
        let reason = match asked.as_str() {
            "poweroff" | "halt" => Some(ShutdownReason::Poweroff),
            "reboot" => Some(ShutdownReason::Reboot),
            "suspend" => Some(ShutdownReason::Suspend),
            _ => None,
        };
        if let Some(reason) = reason {
            self.write("control/shutdown", "");
            self.print(&format!("asked to {asked}"));
            return self.shut_down(reason, xen, store);
        }
        if let Some(key) = self.read("control/sysrq").filter(|key| !key.is_empty()) {
            self.write("control/sysrq", "");
            self.print(&format!("sysrq: {key}"));
        }
        let target = self
            .read("memory/target")
            .and_then(|kib| kib.parse::<u64>().ok());
        let has = xen.domain(self.domid).map(|domain| domain.tot_pages);
        if let (Some(kib), Some(has)) = (target, has) {
            // The video memory and the toolstack's slack stay with it.
            if kib / 4 + 1024 < has || kib / 4 > has {
                xen.balloon(self.domid, kib / 4);
                self.print(&format!("memory: {} MiB", kib / 1024));
            }
        }
        let is_online = |guest: &mut Guest, vcpu: u32| {
            let wanted = guest.read(&format!("cpu/{vcpu}/availability"));
            wanted.as_deref() == Some("online")
        };
        let mut nr_online = 0;
        while is_online(self, nr_online) {
            nr_online += 1;
        }
        if nr_online > 0 {
            xen.set_online_vcpus(self.domid, nr_online);
        }
    }

    /// Plays the drivers of disks and network interfaces: connects what the backends offer.
    fn drive_devices(&mut self) {
        for kind in ["vbd", "vif"] {
            for number in self.children(&format!("device/{kind}")) {
                self.drive(&format!("device/{kind}/{number}"));
            }
        }
    }

    fn drive(&mut self, folder: &str) {
        let state = format!("{folder}/state");
        let backend = self.read(&format!("{folder}/backend")).unwrap_or_default();
        let offered = self.read_elsewhere(&format!("{backend}/state"));
        match (self.read(&state).as_deref(), offered.as_deref()) {
            (Some("1"), Some("2")) => self.write(&state, "3"),
            (Some("3"), Some("4")) => {
                self.write(&state, "4");
                self.print(&format!("{folder}: connected"));
            }
            _ => {}
        }
    }

    fn hear(&mut self, word: &str, xen: &Model, store: &MemStore) {
        match word {
            "" => {}
            "help" => self.print(HELP),
            "poweroff" => self.shut_down(ShutdownReason::Poweroff, xen, store),
            "reboot" => self.shut_down(ShutdownReason::Reboot, xen, store),
            "crash" => self.shut_down(ShutdownReason::Crash, xen, store),
            "softreset" => self.shut_down(ShutdownReason::SoftReset, xen, store),
            other => self.print(other),
        }
    }

    fn shut_down(&mut self, reason: ShutdownReason, xen: &Model, store: &MemStore) {
        self.print(&format!("down ({reason:?})"));
        xen.shut_down(self.domid, reason);
        store.domain_shut_down(self.domid.0);
    }
}
