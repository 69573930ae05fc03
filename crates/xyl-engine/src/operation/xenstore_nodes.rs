//! A domain's xenstore nodes: their values, and the permissions that xl, the backends and the guest expect.
//!
//! The tables of rules here and of [`KINDS`] list every node and its readers; docs/operations.md shows them. A node
//! without a reader is not written, though xl writes it. A request to xenstored takes longer than a hypercall, so a
//! create sends as few as possible. A node inherits the permissions of its parent when it is created. So the guest's
//! own nodes are made first, while the guest owns their parents; then the parents become the toolstack's. All changes
//! are one transaction, so no other client sees a state in between.
//!
//! Facts: Xen's `docs/misc/xenstore-paths.pandoc`, the trees that xl makes, and their readers: libxl,
//! `tools/hotplug/Linux`, Linux' `drivers/xen` and `drivers/tty/hvc`.

use xen_port::{DomId, GuestKind};

use crate::device::console::Ring;
use crate::device::nodes::{Access, Change, NodeRule};
use crate::device::{DeviceInput, KINDS};
use crate::vm::hvm::Hvm;
use crate::vm::spec;

/// Data of a domain for its nodes.
#[derive(Clone, Debug)]
pub struct DomainTree {
    /// Number of the domain.
    pub domid: DomId,
    /// Its UUID in text.
    pub uuid: String,
    /// Name of the VM.
    pub name: String,
    /// PV, PVH or HVM.
    pub kind: GuestKind,
    /// Memory that it has at the start, in KiB.
    pub target_kib: u64,
    /// Memory that it may have, in KiB.
    pub max_kib: u64,
    /// For each vCPU: whether it is to be online at the start.
    pub vcpus_online: Vec<bool>,
    /// The console's ring.
    pub console: Ring,
    /// Time of the create as text, in seconds and hundredths since 1970.
    pub start_time: String,
    /// The machine of an HVM guest.
    pub hvm: Option<Hvm>,
}

impl DomainTree {
    fn video_kib(&self) -> u64 {
        self.hvm.as_ref().map_or(0, |hvm| hvm.video_kib)
    }
}

type Rule = NodeRule<DomainTree>;

/// Nodes below the domain's home. Those of the guest stand first.
const HOME: &[Rule] = &[
    own("control/shutdown", "guest: takes the request and clears it"),
    own(
        "control/feature-poweroff",
        "guest writes it: Linux stops listening to requests where it cannot",
    ),
    own("control/feature-reboot", "as control/feature-poweroff"),
    own("control/feature-suspend", "as control/feature-poweroff"),
    own("control/sysrq", "guest: takes the key and clears it"),
    own("data", "guest's agents and scripts write below it"),
    own(
        "attr",
        "guest's agents write addresses and versions below it",
    ),
    own("error", "guest's drivers write their errors below it"),
    toolstack("vm", "xl uptime, hot-plug scripts, guest", |tree| {
        Some(vm_path(&tree.uuid))
    }),
    toolstack("name", "all", |tree| Some(tree.name.clone())),
    toolstack(
        "domid",
        "guest, which has no other way to know its number",
        |tree| Some(tree.domid.to_string()),
    ),
    toolstack(
        "memory/static-max",
        "guest's balloon driver, xl mem-set, xl list -l",
        |tree| Some(tree.max_kib.to_string()),
    ),
    toolstack(
        "memory/target",
        "guest's balloon driver, xl mem-set, xl list -l",
        |tree| {
            let target_kib = tree.target_kib.saturating_sub(tree.video_kib());
            Some(target_kib.to_string())
        },
    ),
    toolstack(
        "memory/videoram",
        "xl mem-set, xyl mem-set: a part of the memory that is none of the target",
        |tree| Some(tree.hvm.as_ref()?.video_kib.to_string()),
    ),
    toolstack("hvmloader/bios", "hvmloader: its firmware", |tree| {
        Some(tree.hvm.as_ref()?.bios.to_string())
    }),
    // Without it hvmloader moves memory, and QEMU does not know.
    toolstack("hvmloader/allow-memory-relocate", "hvmloader", |tree| {
        tree.hvm.as_ref().map(|_| "0".to_owned())
    }),
    toolstack(
        "platform/acpi",
        "hvmloader: whether it makes ACPI tables",
        |tree| Some(flag(tree.hvm.as_ref()?.has_acpi)),
    ),
    toolstack("platform/acpi_s3", "as platform/acpi", |tree| {
        Some(flag(tree.hvm.as_ref()?.has_acpi_s3))
    }),
    toolstack("platform/acpi_s4", "as platform/acpi", |tree| {
        Some(flag(tree.hvm.as_ref()?.has_acpi_s4))
    }),
    toolstack(
        "platform/mmio_hole_size",
        "hvmloader: size of the hole below 4 GiB, in bytes",
        |tree| {
            let hole_mib = tree.hvm.as_ref()?.mmio_hole_mib?;
            Some((hole_mib << 20).to_string())
        },
    ),
    // Linux asks for it in guests with HVM's event channels alone.
    toolstack(
        "control/platform-feature-xs_reset_watches",
        "Linux in a PVH guest, before it resets xenstored's watches for kexec",
        |tree| (tree.kind != GuestKind::Pv).then(|| "1".to_owned()),
    ),
];

/// Nodes below `/vm/UUID`.
const VM: &[Rule] = &[
    toolstack(
        "uuid",
        "hot-plug scripts (vif-openvswitch), guest",
        |tree| Some(tree.uuid.clone()),
    ),
    toolstack(
        "name",
        "hot-plug scripts (vif-openvswitch), guest",
        |tree| Some(tree.name.clone()),
    ),
    toolstack("start_time", "xl uptime, xyl uptime", |tree| {
        Some(tree.start_time.clone())
    }),
];

/// Nodes below `/libxl/D`.
const LIBXL: &[Rule] = &[
    NodeRule {
        path: "type",
        access: Access::Dom0,
        reader: "libxl, for whatever it does to the domain",
        value: |tree| Some(spec::kind_text(tree.kind).to_owned()),
    },
    NodeRule {
        path: "dm-version",
        access: Access::Dom0,
        reader: "libxl: the kind of the device model",
        value: |tree| tree.hvm.as_ref().map(|_| "qemu_xen".to_owned()),
    },
];

/// A node for each vCPU, below the domain's home.
const VCPU_READER: &str = "guest's vCPU hot-plug, xl list -l";

fn flag(is_set: bool) -> String {
    u8::from(is_set).to_string()
}

/// An empty node of the guest's own.
const fn own(path: &'static str, reader: &'static str) -> Rule {
    NodeRule {
        path,
        access: Access::GuestOwns,
        reader,
        value: |_| Some(String::new()),
    }
}

/// A node of the toolstack's that the guest may read.
const fn toolstack(
    path: &'static str,
    reader: &'static str,
    value: fn(&DomainTree) -> Option<String>,
) -> Rule {
    NodeRule {
        path,
        access: Access::GuestReads,
        reader,
        value,
    }
}

/// Path of a domain's home: `/local/domain/D`.
pub fn domain_path(domid: DomId) -> String {
    format!("/local/domain/{domid}")
}

/// Path of a VM's node: `/vm/UUID`.
pub fn vm_path(uuid: &str) -> String {
    format!("/vm/{uuid}")
}

/// `/libxl/D`: the trusted copy of what the toolstack knows.
pub fn libxl_path(domid: DomId) -> String {
    format!("/libxl/{domid}")
}

/// All paths whose removal removes a domain from xenstore.
pub fn roots(domid: DomId, uuid: &str) -> Vec<String> {
    let mut roots = vec![domain_path(domid), vm_path(uuid), libxl_path(domid)];
    roots.extend(KINDS.iter().flat_map(|kind| kind.folders(domid)));
    roots
}

/// All changes that make the tree, in order.
pub fn changes(tree: &DomainTree) -> Vec<Change> {
    let mut plan = Plan {
        changes: Vec::with_capacity(64),
        domid: tree.domid,
    };
    plan.home(tree);
    plan.vm(tree);
    plan.devices(tree);
    plan.rules(&libxl_path(tree.domid), LIBXL, tree);
    plan.changes
}

struct Plan {
    changes: Vec<Change>,
    domid: DomId,
}

impl Plan {
    fn write(&mut self, path: String, value: String) {
        self.changes.push(Change::Write(path, value));
    }

    fn perms(&mut self, path: String, access: Access) {
        let perms = access.perms(self.domid, DomId::ZERO);
        self.changes.push(Change::Perms(path, perms));
    }

    fn rules<I>(&mut self, folder: &str, rules: &[NodeRule<I>], input: &I) {
        for rule in rules {
            if let Some(value) = (rule.value)(input) {
                self.write(format!("{folder}/{}", rule.path), value);
            }
        }
    }

    fn home(&mut self, tree: &DomainTree) {
        let home = domain_path(self.domid);
        let nr_own = HOME.partition_point(|rule| rule.access == Access::GuestOwns);
        let (own, others) = HOME.split_at(nr_own);
        self.write(home.clone(), String::new());
        self.perms(home.clone(), Access::GuestOwns);
        self.rules(&home, own, tree);
        for folder in folders(own) {
            self.perms(format!("{home}/{folder}"), Access::GuestReads);
        }
        self.perms(home.clone(), Access::GuestReads);
        self.rules(&home, others, tree);
        for (vcpu, online) in tree.vcpus_online.iter().enumerate() {
            let state = if *online { "online" } else { "offline" };
            self.write(format!("{home}/cpu/{vcpu}/availability"), state.to_owned());
        }
    }

    fn vm(&mut self, tree: &DomainTree) {
        let path = vm_path(&tree.uuid);
        self.write(path.clone(), String::new());
        self.perms(path.clone(), Access::GuestReads);
        self.rules(&path, VM, tree);
    }

    fn devices(&mut self, tree: &DomainTree) {
        let input = DeviceInput {
            domid: tree.domid,
            console: tree.console,
        };
        for kind in KINDS {
            self.rules(&domain_path(tree.domid), kind.nodes(), &input);
        }
    }
}

/// The folders that these nodes are in.
fn folders(rules: &[Rule]) -> Vec<&'static str> {
    let folders = rules.iter().filter_map(|rule| rule.path.rsplit_once('/'));
    let mut folders: Vec<&str> = folders.map(|(folder, _)| folder).collect();
    folders.dedup();
    folders
}

/// The nodes as a table for the documentation.
pub fn table() -> String {
    let mut table = "| node | rights of the guest | who reads it |\n|---|---|---|\n".to_owned();
    let mut row = |path: String, access: Access, reader: &str| {
        let rights = match access {
            Access::Dom0 => "none",
            Access::GuestReads => "reads",
            Access::GuestOwns => "owns it",
        };
        table.push_str(&format!("| `{path}` | {rights} | {reader} |\n"));
    };
    for rule in HOME {
        row(format!("~/{}", rule.path), rule.access, rule.reader);
    }
    row(
        "~/cpu/N/availability".to_owned(),
        Access::GuestReads,
        VCPU_READER,
    );
    for kind in KINDS {
        for rule in kind.nodes() {
            row(format!("~/{}", rule.path), rule.access, rule.reader);
        }
    }
    for rule in VM {
        row(format!("/vm/UUID/{}", rule.path), rule.access, rule.reader);
    }
    for rule in LIBXL {
        row(format!("/libxl/D/{}", rule.path), rule.access, rule.reader);
    }
    for (path, access, reader) in KINDS.iter().flat_map(|kind| kind.table()) {
        row(path, access, reader);
    }
    table
}

#[cfg(test)]
mod tests {
    use xen_port::{EvtchnPort, Gfn};
    use xenstore::mem::MemStore;
    use xenstore::{Batch, Client, Path, Tree};

    use super::*;
    use crate::config::plan;

    const DOMID: DomId = DomId(7);

    fn tree() -> DomainTree {
        DomainTree {
            domid: DOMID,
            uuid: "6a1d0c4e-0000-0000-0000-000000000001".to_owned(),
            name: "guest".to_owned(),
            kind: GuestKind::Hvm,
            target_kib: 65536,
            max_kib: 65536,
            vcpus_online: vec![true, false],
            console: Ring {
                gfn: Gfn(0x1235),
                port: EvtchnPort(2),
            },
            start_time: "1700000000.42".to_owned(),
            hvm: machine(),
        }
    }

    /// A machine that has a value for each node.
    fn machine() -> Option<Hvm> {
        let text = "name = 'g'\ntype = 'hvm'\nmemory = 64\nmmio_hole = 512\n";
        let planned = plan::plan_record("g.cfg", text, &mut || Ok(Vec::new()));
        planned.unwrap().spec.hvm
    }

    /// A xenstored in which the tree has been made.
    fn store() -> MemStore {
        let store = MemStore::new();
        let mut batch = Batch::new();
        for change in changes(&tree()) {
            change.add_to(&mut batch).unwrap();
        }
        store.client(0).unwrap().run(&batch).unwrap();
        store
    }

    /// The paths that the tables rule, with the rights that they give.
    fn ruled() -> Vec<(String, Access)> {
        let tree = tree();
        let (home, vm, libxl) = (domain_path(DOMID), vm_path(&tree.uuid), libxl_path(DOMID));
        let mut ruled: Vec<(String, Access)> = Vec::new();
        let mut add = |folder: &str, path: &str, access| {
            ruled.push((format!("{folder}/{path}"), access));
        };
        for rule in HOME {
            add(&home, rule.path, rule.access);
        }
        for kind in KINDS {
            for rule in kind.nodes() {
                add(&home, rule.path, rule.access);
            }
        }
        for rule in VM {
            add(&vm, rule.path, rule.access);
        }
        for rule in LIBXL {
            add(&libxl, rule.path, rule.access);
        }
        for folder in ["cpu/0/availability", "control", "console", "memory"] {
            add(&home, folder, Access::GuestReads);
        }
        add("", home.trim_start_matches('/'), Access::GuestReads);
        add("", vm.trim_start_matches('/'), Access::GuestReads);
        add("", libxl.trim_start_matches('/'), Access::Dom0);
        ruled
    }

    fn read(client: &mut Client, path: &str) -> Option<String> {
        let value = client.read(&Path::new(path).unwrap()).ok()?;
        Some(String::from_utf8(value).unwrap())
    }

    #[test]
    fn holds_what_xl_and_the_guest_read() {
        let mut client = store().client(0).unwrap();
        for (path, value) in [
            ("/local/domain/7/name", "guest"),
            ("/local/domain/7/cpu/0/availability", "online"),
            ("/local/domain/7/cpu/1/availability", "offline"),
            ("/local/domain/7/console/ring-ref", "4661"),
            ("/local/domain/7/console/port", "2"),
            ("/local/domain/7/memory/target", "57344"),
            ("/local/domain/7/memory/videoram", "8192"),
            ("/local/domain/7/hvmloader/bios", "seabios"),
            ("/local/domain/7/hvmloader/allow-memory-relocate", "0"),
            ("/local/domain/7/platform/acpi", "1"),
            ("/local/domain/7/platform/mmio_hole_size", "536870912"),
            ("/libxl/7/type", "hvm"),
        ] {
            assert_eq!(read(&mut client, path).as_deref(), Some(value), "{path}");
        }
    }

    #[test]
    fn guest_and_other_domains_can_do_what_the_tables_say() {
        let store = store();
        let (mut guest, mut third) = (
            store.client(DOMID.0).unwrap(),
            store.client(DOMID.0 + 1).unwrap(),
        );
        for (path, access) in ruled() {
            let node = Path::new(&path).unwrap();
            let reads = matches!(access, Access::GuestReads | Access::GuestOwns);
            assert_eq!(guest.read(&node).is_ok(), reads, "guest reads {path}");
            assert!(third.read(&node).is_err(), "another reads {path}");
            assert!(third.write(&node, b"x").is_err(), "another writes {path}");
            let writes = access == Access::GuestOwns;
            assert_eq!(
                guest.write(&node, b"x").is_ok(),
                writes,
                "guest writes {path}"
            );
            let below = Path::new(&format!("{path}/x")).unwrap();
            assert_eq!(
                guest.write(&below, b"x").is_ok(),
                writes,
                "guest writes {below}"
            );
            assert!(third.write(&below, b"x").is_err(), "another writes {below}");
        }
    }

    #[test]
    fn every_node_is_ruled_and_below_a_root_that_destroy_removes() {
        let tree = tree();
        let roots = roots(tree.domid, &tree.uuid);
        let ruled = ruled();
        for change in changes(&tree) {
            let (Change::Write(path, _) | Change::Perms(path, ..)) = change;
            assert!(
                roots.iter().any(|root| path.starts_with(root.as_str())),
                "{path}"
            );
            let is_ruled = ruled.iter().any(|(known, _)| *known == path);
            assert!(is_ruled || path.contains("/cpu/"), "{path}");
        }
    }

    #[test]
    fn takes_no_more_requests_than_it_should() {
        let one_vcpu = |kind| DomainTree {
            kind,
            vcpus_online: vec![true],
            hvm: None,
            ..tree()
        };
        assert_eq!(changes(&one_vcpu(GuestKind::Pvh)).len(), 30);
        assert_eq!(changes(&one_vcpu(GuestKind::Pv)).len(), 29);
    }
}
