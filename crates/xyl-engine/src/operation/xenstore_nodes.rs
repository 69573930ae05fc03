//! A domain's xenstore nodes: what a create writes, with the permissions that xl, the backends and
//! the guest expect.
//!
//! Facts: Xen's `docs/misc/xenstore-paths.pandoc`, and the trees that xl makes. xenstored takes longer
//! for each request than Xen for a hypercall, so there are as few as will do. A node inherits the
//! permissions of its parent when it is created: what is the guest's own is made first, while its
//! parents are the guest's too, and then the parents become the toolstack's. All of it is one
//! transaction, so nobody sees the steps between. Left out, compared with xl, is what nothing reads:
//! `memory/videoram`, `/vm/UUID/image`, and for console 0 its backend's folder, the names of that
//! and `output` (xenconsoled takes what it needs from `console/`: `tools/console/daemon/io.c`).

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
    /// When it was created, in seconds and hundredths since 1970, as text.
    pub start_time: String,
}

/// Limit of the console's log that xenconsoled keeps for a guest, in bytes.
const CONSOLE_LIMIT_BYTES: &str = "1048576";

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

/// All changes that make the tree, in order.
pub fn changes(tree: &DomainTree<'_>) -> Vec<Change> {
    let mut plan = Plan {
        changes: Vec::with_capacity(64),
        domid: tree.domid,
    };
    plan.guest_owned();
    plan.local(tree);
    plan.vm(tree);
    plan.console(tree);
    plan.libxl(tree);
    plan.changes
}

/// What a guest may write, below its own folder.
const GUEST_OWNED: [&str; 11] = [
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "device/suspend/event-channel",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
];
/// The folders of those that the guest may only read.
const GUEST_READ: [&str; 3] = ["control", "device", "device/suspend"];

struct Plan {
    changes: Vec<Change>,
    domid: DomId,
}

impl Plan {
    fn write(&mut self, path: String, value: impl Into<String>) {
        self.changes.push(Change::Write(path, value.into()));
    }

    fn perms(&mut self, path: String, access: Access) {
        self.changes.push(Change::Perms(path, access));
    }

    fn guest_owned(&mut self) {
        let home = domain_path(self.domid);
        self.write(home.clone(), "");
        self.perms(home.clone(), Access::GuestOwns(self.domid));
        for node in GUEST_OWNED {
            self.write(format!("{home}/{node}"), "");
        }
        for folder in GUEST_READ {
            self.perms(format!("{home}/{folder}"), Access::GuestReads(self.domid));
        }
        self.perms(home, Access::GuestReads(self.domid));
    }

    fn local(&mut self, tree: &DomainTree<'_>) {
        let home = domain_path(self.domid);
        self.write(format!("{home}/vm"), vm_path(tree.uuid));
        self.write(format!("{home}/name"), tree.name);
        self.write(format!("{home}/domid"), self.domid.to_string());
        self.write(
            format!("{home}/memory/static-max"),
            tree.max_kib.to_string(),
        );
        self.write(format!("{home}/memory/target"), tree.target_kib.to_string());
        self.write(format!("{home}/store/port"), tree.store_port.to_string());
        self.write(format!("{home}/store/ring-ref"), tree.store_gfn.to_string());
        for (vcpu, online) in tree.vcpus_online.iter().enumerate() {
            let state = if *online { "online" } else { "offline" };
            self.write(format!("{home}/cpu/{vcpu}/availability"), state);
        }
        for feature in ["multiprocessor-suspend", "xs_reset_watches"] {
            self.write(format!("{home}/control/platform-feature-{feature}"), "1");
        }
    }

    fn vm(&mut self, tree: &DomainTree<'_>) {
        let path = vm_path(tree.uuid);
        self.write(path.clone(), "");
        self.perms(path.clone(), Access::GuestReads(self.domid));
        self.write(format!("{path}/uuid"), tree.uuid);
        self.write(format!("{path}/name"), tree.name);
        self.write(format!("{path}/start_time"), tree.start_time.as_str());
    }

    /// Console 0 knows no handshake of states: xenconsoled takes ring and port from the frontend's
    /// folder, which belongs to the toolstack so that the guest cannot redirect it.
    fn console(&mut self, tree: &DomainTree<'_>) {
        let console = format!("{}/console", domain_path(self.domid));
        self.write(format!("{console}/limit"), CONSOLE_LIMIT_BYTES);
        self.write(format!("{console}/type"), "xenconsoled");
        // Empty until xenconsoled has served the domain, which a destroy waits for.
        self.write(format!("{console}/tty"), "");
        self.write(format!("{console}/port"), tree.console_port.to_string());
        self.write(format!("{console}/ring-ref"), tree.console_gfn.to_string());
    }

    /// The toolstack's own record; everything below `/libxl` is domain 0's alone.
    fn libxl(&mut self, tree: &DomainTree<'_>) {
        self.write(format!("{}/type", libxl_path(self.domid)), tree.kind);
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

    /// Carries the changes out as xenstored does: a new node has its parent's permissions.
    fn carried_out(changes: &[Change]) -> std::collections::BTreeMap<String, Option<Access>> {
        let mut nodes = std::collections::BTreeMap::from([(String::new(), None)]);
        for change in changes {
            match change {
                Change::Write(path, _) => make(&mut nodes, path),
                Change::Perms(path, access) => {
                    assert!(nodes.contains_key(path), "{path} is not there yet");
                    nodes.insert(path.clone(), Some(*access));
                }
            }
        }
        nodes
    }

    fn make(nodes: &mut std::collections::BTreeMap<String, Option<Access>>, path: &str) {
        if !nodes.contains_key(path) {
            let (parent, _) = path.rsplit_once('/').unwrap();
            make(nodes, parent);
            nodes.insert(path.to_owned(), nodes[parent]);
        }
    }

    #[test]
    fn the_guest_owns_what_it_must_write_and_nothing_else() {
        let domid = DomId(7);
        for (path, access) in carried_out(&changes(&tree())) {
            let own = path
                .strip_prefix("/local/domain/7/")
                .is_some_and(|p| GUEST_OWNED.contains(&p));
            let readable = path.starts_with("/local/domain/7") || path.starts_with("/vm/6a1d");
            let expected = match (own, readable) {
                (true, _) => Some(Access::GuestOwns(domid)),
                (false, true) => Some(Access::GuestReads(domid)),
                (false, false) => None,
            };
            assert_eq!(access, expected, "{path}");
        }
    }

    #[test]
    fn takes_no_more_requests_than_it_should() {
        assert_eq!(changes(&tree()).len(), 39);
    }
}
