//! Driver domains: the kernel of each, and its toolstack (`xyl devd`).
//!
//! A good one takes a device, sets it up, closes it when its frontend goes, and removes its nodes. [`DriverManner`] makes it a bad one.

use std::collections::BTreeMap;
use std::fmt;

use xenstore::{Client, Path, Tree};

use super::{children, value, write};

/// The kinds of devices that a driver domain serves.
const KINDS: [&str; 2] = ["vbd", "vif"];
/// The changes of a driver domain that changes its state again and again.
const FLIPS_MAX: u32 = 500;

/// Behaviour of a driver domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverManner {
    /// As it should.
    Good,
    /// It does nothing at all.
    Hangs,
    /// Its kernel takes each device, and its script says nothing.
    SaysNothing,
    /// Its script fails.
    Fails,
    /// It writes values that mean nothing, and paths of others.
    Lies,
    /// It changes its state again and again.
    Flips,
    /// It removes the nodes of each device.
    Deletes,
    /// It closes no device, and says that each is to stay.
    NeverCloses,
    /// It closes devices, and does not remove their nodes.
    LeavesNodes,
    /// It ends once it sees a device.
    Dies,
}

/// The end of a driver domain that dies.
pub(super) struct End(pub Box<dyn FnMut() + Send>);

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("End")
    }
}

/// All driver domains of a host.
#[derive(Debug, Default)]
pub(super) struct DriverDomains {
    manners: BTreeMap<u16, DriverManner>,
    flips: u32,
    end: Option<End>,
}

impl DriverDomains {
    pub fn set(&mut self, domid: u16, manner: DriverManner) {
        self.manners.insert(domid, manner);
        self.flips = 0;
    }

    pub fn remove(&mut self, domid: u16) {
        self.manners.remove(&domid);
    }

    pub fn set_end(&mut self, end: End) {
        self.end = Some(end);
    }

    /// Whether there was anything to do.
    pub fn act(&mut self, store: &mut Client, guest_keeps: bool) -> bool {
        let mut has_acted = false;
        for (domid, manner) in self.manners.clone() {
            for kind in KINDS {
                let folder = format!("/local/domain/{domid}/backend/{kind}");
                for guest in children(store, &folder) {
                    for number in children(store, &format!("{folder}/{guest}")) {
                        let backend = format!("{folder}/{guest}/{number}");
                        has_acted |= self.look_at(store, &backend, manner, guest_keeps, domid);
                    }
                }
            }
        }
        has_acted
    }

    fn look_at(
        &mut self,
        store: &mut Client,
        backend: &str,
        manner: DriverManner,
        guest_keeps: bool,
        domid: u16,
    ) -> bool {
        let put = |store: &mut Client, name: &str, text: &str| {
            write(store, &format!("{backend}/{name}"), text)
        };
        let state = value(store, &format!("{backend}/state")).unwrap_or_default();
        match manner {
            DriverManner::Hangs => return false,
            DriverManner::Deletes => return remove(store, backend),
            DriverManner::Dies => {
                self.manners.remove(&domid);
                if let Some(End(end)) = &mut self.end {
                    end();
                }
                return true;
            }
            DriverManner::Lies if state == "1" => {
                put(store, "hotplug-status", &"connected, ".repeat(50));
                put(store, "frontend", "/local/domain/0");
                put(store, "online", "\u{1b}[2J");
                return put(store, "state", &"4".repeat(300));
            }
            DriverManner::Lies => return false,
            DriverManner::Flips => {
                self.flips += 1;
                let next = if self.flips % 2 == 1 { "2" } else { "1" };
                return self.flips < FLIPS_MAX && put(store, "state", next);
            }
            _ => {}
        }
        let frontend = value(store, &format!("{backend}/frontend")).unwrap_or_default();
        let front_state = value(store, &format!("{frontend}/state"));
        let online = value(store, &format!("{backend}/online"));
        let goes = front_state
            .as_deref()
            .is_none_or(|state| matches!(state, "5" | "6"));
        if state == "6" {
            let is_left = online.as_deref() != Some("0") || manner == DriverManner::LeavesNodes;
            return !is_left && remove(store, backend);
        }
        if manner == DriverManner::NeverCloses && online.as_deref() == Some("0") {
            put(store, "online", "1");
            return put(store, "state", "4");
        }
        if goes {
            return manner != DriverManner::NeverCloses && put(store, "state", "6");
        }
        match state.as_str() {
            "1" => put(store, "state", "2"),
            "5" if !guest_keeps => write(store, &format!("{frontend}/state"), "6"),
            "2" => {
                let status = value(store, &format!("{backend}/hotplug-status"));
                if status.is_some_and(|status| !status.is_empty()) {
                    return false;
                }
                match manner {
                    DriverManner::SaysNothing => false,
                    DriverManner::Fails => put(store, "hotplug-status", "error"),
                    _ => put(store, "hotplug-status", "connected"),
                }
            }
            _ => false,
        }
    }
}

/// Always true: it has acted.
fn remove(store: &mut Client, folder: &str) -> bool {
    if let Ok(path) = Path::new(folder) {
        let _ = store.rm(&path);
    }
    true
}
