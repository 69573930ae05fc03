//! A domain's xenstore nodes: what a create writes, with the permissions that xl, the backends and
//! the guest expect.
//!
//! Facts: Xen's `docs/misc/xenstore-paths.pandoc`, and the trees that xl makes. A node that is
//! created below another inherits its permissions, so only the nodes that differ from their parent
//! need a request of their own.

use xen_port::{DomId, EvtchnPort, Gfn};

/// One change to xenstore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a value; creates the node if need be.
    Write(String, String),
    /// Sets permissions: owner without rights for others, and who else may read.
    Perms(String, Access),
}

/// Who may do what with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Domain 0 alone: `n0`.
    Toolstack,
    /// Domain 0's, readable by the guest: `n0,rD`.
    GuestReads(DomId),
    /// The guest's own: `nD`.
    GuestOwns(DomId),
}

/// What the tree says of a domain.
#[derive(Clone, Debug)]
pub struct DomainTree<'a> {
    /// The domain.
    pub domid: DomId,
    /// Its UUID in text.
    pub uuid: &'a str,
    /// Its name.
    pub name: &'a str,
    /// `pv` or `pvh`.
    pub kind: &'static str,
    /// What it has now, and what it may have, in KiB.
    pub target_kib: u64,
    /// The same for its maximum.
    pub max_kib: u64,
    /// For each vCPU: whether it is to be online at the start.
    pub vcpus_online: Vec<bool>,
    /// Xenstore's ring.
    pub store_gfn: Gfn,
    /// Xenstore's event channel.
    pub store_port: EvtchnPort,
    /// The console's ring.
    pub console_gfn: Gfn,
    /// The console's event channel.
    pub console_port: EvtchnPort,
    /// Kernel, ramdisk and command line, kept under `/vm` for a PV guest.
    pub image: Option<ImageNodes<'a>>,
    /// When it was created, in seconds and hundredths since 1970, as text.
    pub start_time: String,
}

/// What `/vm/UUID/image` says.
#[derive(Clone, Debug)]
pub struct ImageNodes<'a> {
    /// The kernel's path.
    pub kernel: &'a str,
    /// The ramdisk's path.
    pub ramdisk: Option<&'a str>,
    /// The command line.
    pub cmdline: Option<&'a str>,
}

/// Limit of the console's log that xenconsoled keeps for a guest, in bytes.
const CONSOLE_LIMIT_BYTES: &str = "1048576";
/// A device's state at the start (`XenbusStateInitialising`).
const INITIALISING: &str = "1";

/// `/local/domain/D`.
pub fn domain_path(domid: DomId) -> String {
    format!("/local/domain/{domid}")
}

/// `/vm/UUID`.
pub fn vm_path(uuid: &str) -> String {
    format!("/vm/{uuid}")
}

/// `/libxl/D`: the trusted copy of what the toolstack knows.
pub fn libxl_path(domid: DomId) -> String {
    format!("/libxl/{domid}")
}

/// The console backend's folder for a domain.
pub fn console_backend_path(domid: DomId) -> String {
    format!("/local/domain/0/backend/console/{domid}")
}

/// All paths whose removal removes a domain from xenstore.
pub fn roots(domid: DomId, uuid: &str) -> [String; 4] {
    [
        domain_path(domid),
        vm_path(uuid),
        libxl_path(domid),
        console_backend_path(domid),
    ]
}

/// All changes that make the tree, parents before their children.
pub fn changes(tree: &DomainTree<'_>) -> Vec<Change> {
    let mut plan = Plan {
        changes: Vec::with_capacity(96),
        domid: tree.domid,
    };
    plan.local(tree);
    plan.control();
    plan.guest_owned_folders();
    plan.vm(tree);
    plan.libxl(tree);
    plan.console(tree);
    plan.changes
}

struct Plan {
    changes: Vec<Change>,
    domid: DomId,
}

impl Plan {
    fn write(&mut self, path: String, value: impl Into<String>) {
        self.changes.push(Change::Write(path, value.into()));
    }

    /// An empty node with permissions of its own.
    fn node(&mut self, path: String, access: Access) {
        self.write(path.clone(), "");
        self.changes.push(Change::Perms(path, access));
    }

    fn local(&mut self, tree: &DomainTree<'_>) {
        let path = domain_path(self.domid);
        self.node(path.clone(), Access::GuestReads(self.domid));
        self.write(format!("{path}/vm"), vm_path(tree.uuid));
        self.write(format!("{path}/name"), tree.name);
        self.write(format!("{path}/domid"), self.domid.to_string());
        self.write(
            format!("{path}/memory/static-max"),
            tree.max_kib.to_string(),
        );
        self.write(format!("{path}/memory/target"), tree.target_kib.to_string());
        self.write(format!("{path}/memory/videoram"), "0");
        self.write(format!("{path}/store/port"), tree.store_port.to_string());
        self.write(format!("{path}/store/ring-ref"), tree.store_gfn.to_string());
        for (vcpu, online) in tree.vcpus_online.iter().enumerate() {
            let state = if *online { "online" } else { "offline" };
            self.write(format!("{path}/cpu/{vcpu}/availability"), state);
        }
        self.write(format!("{path}/device"), "");
        self.node(
            format!("{path}/device/suspend/event-channel"),
            Access::GuestOwns(self.domid),
        );
    }

    fn control(&mut self) {
        let path = format!("{}/control", domain_path(self.domid));
        for name in [
            "shutdown",
            "feature-poweroff",
            "feature-reboot",
            "feature-suspend",
            "sysrq",
        ] {
            self.node(format!("{path}/{name}"), Access::GuestOwns(self.domid));
        }
        self.write(
            format!("{path}/platform-feature-multiprocessor-suspend"),
            "1",
        );
        self.write(format!("{path}/platform-feature-xs_reset_watches"), "1");
    }

    fn guest_owned_folders(&mut self) {
        let path = domain_path(self.domid);
        for name in ["data", "drivers", "feature", "attr", "error"] {
            self.node(format!("{path}/{name}"), Access::GuestOwns(self.domid));
        }
    }

    fn vm(&mut self, tree: &DomainTree<'_>) {
        let path = vm_path(tree.uuid);
        self.node(path.clone(), Access::GuestReads(self.domid));
        self.write(format!("{path}/uuid"), tree.uuid);
        self.write(format!("{path}/name"), tree.name);
        self.write(format!("{path}/start_time"), tree.start_time.as_str());
        let Some(image) = &tree.image else { return };
        self.write(format!("{path}/image/ostype"), "linux");
        self.write(format!("{path}/image/kernel"), image.kernel);
        if let Some(ramdisk) = image.ramdisk {
            self.write(format!("{path}/image/ramdisk"), ramdisk);
        }
        if let Some(cmdline) = image.cmdline {
            self.write(format!("{path}/image/cmdline"), cmdline);
        }
    }

    fn libxl(&mut self, tree: &DomainTree<'_>) {
        let path = libxl_path(self.domid);
        self.node(path.clone(), Access::Toolstack);
        self.write(format!("{path}/device"), "");
        self.write(format!("{path}/type"), tree.kind);
    }

    /// Console 0 knows no handshake of states: xenconsoled takes ring and port from the frontend's
    /// folder, which belongs to the toolstack so that the guest cannot redirect it.
    fn console(&mut self, tree: &DomainTree<'_>) {
        let domid = self.domid;
        let frontend = format!("{}/console", domain_path(domid));
        let backend = format!("{}/0", console_backend_path(domid));
        self.write(format!("{frontend}/backend"), backend.as_str());
        self.write(format!("{frontend}/backend-id"), "0");
        self.write(format!("{frontend}/limit"), CONSOLE_LIMIT_BYTES);
        self.write(format!("{frontend}/type"), "xenconsoled");
        self.write(format!("{frontend}/output"), "pty");
        self.write(format!("{frontend}/tty"), "");
        self.write(format!("{frontend}/port"), tree.console_port.to_string());
        self.write(format!("{frontend}/ring-ref"), tree.console_gfn.to_string());
        self.node(console_backend_path(domid), Access::GuestReads(domid));
        self.backend_nodes(&backend, &frontend);
        let trusted = format!("{}/device/console/0", libxl_path(domid));
        self.write(format!("{trusted}/backend"), backend.as_str());
        self.backend_nodes(&trusted, &frontend);
    }

    fn backend_nodes(&mut self, path: &str, frontend: &str) {
        self.write(format!("{path}/frontend"), frontend);
        self.write(format!("{path}/frontend-id"), self.domid.to_string());
        self.write(format!("{path}/online"), "1");
        self.write(format!("{path}/state"), INITIALISING);
        self.write(format!("{path}/protocol"), "vt100");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> DomainTree<'static> {
        DomainTree {
            domid: DomId(7),
            uuid: "6a1d0c4e-0000-0000-0000-000000000001",
            name: "guest",
            kind: "pv",
            target_kib: 65536,
            max_kib: 65536,
            vcpus_online: vec![true, false],
            store_gfn: Gfn(0x1234),
            store_port: EvtchnPort(1),
            console_gfn: Gfn(0x1235),
            console_port: EvtchnPort(2),
            image: Some(ImageNodes {
                kernel: "/boot/k",
                ramdisk: None,
                cmdline: Some("quiet"),
            }),
            start_time: "1700000000.42".to_owned(),
        }
    }

    fn value<'a>(changes: &'a [Change], wanted: &str) -> Option<&'a str> {
        changes.iter().find_map(|change| match change {
            Change::Write(path, value) if path == wanted => Some(value.as_str()),
            _ => None,
        })
    }

    #[test]
    fn holds_what_xl_and_the_guest_read() {
        let all = changes(&tree());
        assert_eq!(value(&all, "/local/domain/7/name"), Some("guest"));
        assert_eq!(
            value(&all, "/local/domain/7/cpu/1/availability"),
            Some("offline")
        );
        assert_eq!(
            value(&all, "/local/domain/7/console/ring-ref"),
            Some("4661")
        );
        assert_eq!(value(&all, "/libxl/7/type"), Some("pv"));
        assert_eq!(
            value(&all, "/local/domain/0/backend/console/7/0/frontend"),
            Some("/local/domain/7/console")
        );
    }

    #[test]
    fn every_node_is_below_a_root_that_destroy_removes() {
        let tree = tree();
        let roots = roots(tree.domid, tree.uuid);
        for change in changes(&tree) {
            let (Change::Write(path, _) | Change::Perms(path, _)) = change;
            assert!(
                roots.iter().any(|root| path.starts_with(root.as_str())),
                "{path}"
            );
        }
    }

    #[test]
    fn the_guest_owns_nothing_of_the_toolstack() {
        for change in changes(&tree()) {
            if let Change::Perms(path, Access::GuestOwns(_)) = change {
                assert!(path.starts_with("/local/domain/7/"), "{path}");
                assert!(!path.contains("/console"), "{path}");
            }
        }
    }
}
