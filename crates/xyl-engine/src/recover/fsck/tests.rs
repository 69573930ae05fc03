//! A host in memory and a folder, with leaks planted.

use std::path::Path as FilePath;
use std::rc::Rc;

use os_port::mem::{Life, MemDisks, MemFiles, ProcessFiles};
use os_port::{Files, LoopRequest, Opening};
use uuid::Uuid;
use xen_port::{DomId, Hypervisor};
use xen_sim::model::Model;
use xenstore::mem::MemStore;
use xenstore::{Client, Path, Tree};
use xyl_saga::{Begin, Contents, Facts, Journal, Outcome, Record};

use super::*;
use crate::Dirs;
use crate::host::dom0::{
    pretend_exe, pretend_named_netback, pretend_netback, pretend_process, pretend_tun, pretend_uid,
};
use crate::testing::pv_request;
use crate::vm::store;

const UUID: Uuid = Uuid::from_bytes([7; 16]);
const GONE: Uuid = Uuid::from_bytes([8; 16]);

struct World {
    root: tempfile::TempDir,
    client: Client,
    host: Host,
    images: ProcessFiles,
}

impl World {
    /// A host with one guest, with all that belongs to it.
    fn new() -> World {
        let root = tempfile::tempdir().unwrap();
        let (hv, store) = (Model::new(4096), MemStore::new());
        let domid = hv.create_domain(&pv_request(*UUID.as_bytes())).unwrap();
        let client = store.client(0).unwrap();
        let mut host = Host::new(
            Box::new(hv),
            store.client(0).unwrap(),
            Dirs::below(root.path()),
        );
        let images = MemFiles::new();
        images.put(FilePath::new("/image"), &[0; 4096]);
        let life = Life::new(0);
        host.devices.loops = Rc::new(MemDisks::new(&images).of(&life));
        let images = images.of(&life);
        let mut world = World {
            root,
            client,
            host,
            images,
        };
        world.write(&format!("/local/domain/{domid}/vm"), &format!("/vm/{UUID}"));
        world.write(&format!("/libxl/{domid}/type"), "pv");
        world.write(&format!("/vm/{UUID}/name"), "g");
        world.write("/local/domain/0/backend/vif/1/0/vifname", "vif1.0");
        world.put(
            &format!("var/lib/xen/userdata-d.{domid}.{UUID}.libxl-json"),
            "{}",
        );
        world.host.store.introduce(domid.0, 1, 1).unwrap();
        let (files, dirs) = (&*world.host.files, &world.host.dirs);
        store::write(files, dirs, &UUID.to_string(), "name = \"g\"\n").unwrap();
        pretend_netback(world.root.path(), "vif1.0");
        let domid = domid.to_string();
        pretend_process(
            world.root.path(),
            50,
            &["qemu-system-i386", "-xen-domid", &domid],
            &[],
            "",
        );
        world
    }

    fn write(&mut self, path: &str, value: &str) {
        self.client
            .write(&Path::new(path).unwrap(), value.as_bytes())
            .unwrap();
    }

    fn exists(&mut self, path: &str) -> bool {
        self.client.exists(&Path::new(path).unwrap()).unwrap()
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A journal of one operation that has ended.
    fn journal(&mut self, uuid: Uuid, kind: &str, outcome: Outcome) {
        let host = &self.host;
        let mut journal =
            Journal::open(&*host.files, &host.dirs.journal(uuid), &Contents::default()).unwrap();
        let begin = Begin {
            id: "1".to_owned(),
            kind: kind.to_owned(),
            uuid: uuid.to_string(),
            name: "gone".to_owned(),
            pid: 1,
            ..Begin::default()
        };
        let name = "a step".to_owned();
        let step = Record::Step { name: name.clone() };
        let end = match outcome {
            Outcome::Done => Record::Done {
                name,
                made: Facts::new(),
            },
            Outcome::Undone | Outcome::Failed => Record::Failed {
                name,
                cause: "no memory".to_owned(),
            },
        };
        for record in [Record::Begin(begin), step, end, Record::Ended { outcome }] {
            journal.note(&*host.clock, record);
        }
        journal.flush().unwrap();
    }

    fn kernel(&self) -> Kernel {
        Kernel::below(self.root.path())
    }

    fn look(&mut self) -> Vec<Finding> {
        let kernel = self.kernel();
        look::once(&mut self.host, &kernel).unwrap()
    }

    fn kinds(&mut self) -> Vec<&'static str> {
        self.look()
            .iter()
            .map(|finding| finding.leak.kind())
            .collect()
    }

    /// Removes what one look finds; the verdicts.
    fn repair(&mut self) -> Vec<Verdict> {
        let (found, kernel) = (self.look(), self.kernel());
        let made = repair(&mut self.host, &kernel, found).unwrap();
        made.into_iter().map(|finding| finding.verdict).collect()
    }
}

#[test]
fn a_host_in_order_has_nothing_left_over() {
    let mut world = World::new();
    assert_eq!(world.look(), []);
    let kernel = world.kernel();
    assert_eq!(super::look(&mut world.host, &kernel).unwrap(), []);
}

#[test]
fn nodes_without_a_domain_are_removed_and_no_others() {
    let mut world = World::new();
    world.write("/local/domain/9/name", "gone");
    world.write("/local/domain/9/backend/vif/3/0/state", "4");
    world.write("/libxl/9/type", "pv");
    world.write(&format!("/vm/{GONE}/name"), "gone");
    world.write("/local/domain/0/backend/vbd/9/51712/state", "4");
    world.write("/libxl/notes", "not a domain's");
    let paths: Vec<String> = world
        .look()
        .iter()
        .map(|finding| finding.object.clone())
        .collect();
    let what = "xenstore nodes without a domain: ";
    let gone = format!("{what}/vm/{GONE}");
    assert_eq!(
        paths,
        [
            &format!("{what}/local/domain/9"),
            &format!("{what}/libxl/9"),
            &gone,
            &format!("{what}/local/domain/0/backend/vbd/9"),
        ]
        .map(String::as_str)
    );
    assert!(
        world
            .repair()
            .iter()
            .all(|verdict| *verdict == Verdict::Removed)
    );
    assert_eq!(world.look(), []);
    for there in ["/libxl/notes", "/libxl/1", "/local/domain/0/backend/vif/1"] {
        assert!(world.exists(there), "{there}");
    }
    assert!(!world.exists("/local/domain/9") && !world.exists(&format!("/vm/{GONE}")));
}

#[test]
fn nodes_of_a_domain_that_is_made_after_the_look_are_left() {
    let mut world = World::new();
    world.write("/local/domain/2/name", "next");
    let (found, kernel) = (world.look(), world.kernel());
    assert_eq!(found.len(), 1);
    let domid = world
        .host
        .hv
        .create_domain(&pv_request(*GONE.as_bytes()))
        .unwrap();
    assert_eq!(domid, DomId(2));
    let made = repair(&mut world.host, &kernel, found).unwrap();
    assert!(matches!(made[0].verdict, Verdict::Left(_)));
    assert!(world.exists("/local/domain/2"));
}

#[test]
fn files_of_vms_that_are_no_more_are_removed() {
    let mut world = World::new();
    world.put(&format!("var/lib/xen/userdata-d.1.{GONE}.xl"), "");
    world.put(&format!("var/lib/xen/userdata-n.9.{UUID}.libxl-json"), "");
    world.put(
        &format!("var/lib/xyl/vm/{GONE}/config.cfg"),
        "name = \"x\"\n",
    );
    world.put(&format!("run/xyl/damaged/{GONE}"), "?");
    // The index of names counts no entry of a dead process, and tidies itself.
    world.put("run/xyl/names", &format!("9 {GONE} 4294967290 gone\n"));
    assert_eq!(
        world.kinds(),
        ["userdata", "userdata", "record", "damaged-journal"]
    );
    // What tells of trouble with a VM keeps its configuration, until that is dealt with.
    let verdicts = world.repair();
    assert!(matches!(verdicts[2], Verdict::Left(_)), "{verdicts:?}");
    assert_eq!(world.kinds(), ["record"]);
    assert_eq!(world.repair(), [Verdict::Removed]);
    assert_eq!(world.look(), []);
    let record = store::read(&*world.host.files, &world.host.dirs, &UUID.to_string());
    assert!(record.is_ok());
}

#[test]
fn a_vm_that_is_being_worked_on_is_left_alone() {
    let mut world = World::new();
    world.put(
        &format!("var/lib/xyl/vm/{GONE}/config.cfg"),
        "name = \"x\"\n",
    );
    let path = world.host.dirs.vm_lock(GONE);
    let lock = world.host.files.lock(&path, None).unwrap().unwrap();
    assert_eq!(world.look(), []);
    // One whose owner died is not.
    lock.leave();
    assert_eq!(world.kinds(), ["operation", "record"]);
    assert!(path.exists(), "a look changes nothing");
    assert_eq!(world.repair(), [Verdict::Removed, Verdict::Removed]);
    assert_eq!(world.look(), []);
}

#[test]
fn a_vm_whose_monitor_lives_is_left_alone() {
    let mut world = World::new();
    world.put(
        &format!("var/lib/xyl/vm/{GONE}/config.cfg"),
        "name = \"x\"\n",
    );
    let path = world.host.dirs.watch(GONE);
    let lock = world.host.files.lock(&path, None).unwrap().unwrap();
    assert_eq!(world.look(), []);
    drop(lock);
    // A process that only calls itself its monitor hides nothing.
    let uuid = GONE.to_string();
    pretend_process(
        world.root.path(),
        60,
        &["/usr/bin/xyl", "-T", "monitor", "9", &uuid],
        &[],
        "",
    );
    assert_eq!(world.kinds(), ["record"]);
}

#[test]
fn qemus_and_interfaces_are_known_by_their_domain() {
    let mut world = World::new();
    let root = world.root.path().to_owned();
    pretend_process(
        &root,
        51,
        &["/usr/lib/xen/bin/qemu-system-i386", "-xen-domid", "9"],
        &[],
        "",
    );
    pretend_process(&root, 52, &["vim", "-xen-domid", "9"], &[], "");
    // Device models of domain 9, which is gone, and of domain 1, which have changed their arguments.
    for (pid, domid) in [(53, 9), (54, 1)] {
        pretend_process(&root, pid, &["innocent"], &[], "");
        pretend_uid(&root, pid, 1_900_000_000 + (17 << 16) + domid);
    }
    for name in ["vif9.0", "vif12.0"] {
        pretend_netback(&root, name);
    }
    for name in ["vif9.1-emu", "tap9.2", "tap0"] {
        pretend_tun(&root, name);
    }
    pretend_named_netback(&root, "lan", "vif-9-3");
    pretend_named_netback(&root, "wan", "vif-1-2");
    // The configuration of domain 1 calls its interface like this.
    world.write("/local/domain/0/backend/vif/1/1/vifname", "vif12.0");
    let found = world.look();
    let objects: Vec<&str> = found
        .iter()
        .map(|finding| finding.object.as_str())
        .collect();
    assert_eq!(
        objects,
        [
            "network interface without a domain: lan",
            "network interface without a domain: tap9.2",
            "network interface without a domain: vif9.0",
            "network interface without a domain: vif9.1-emu",
            "QEMU without a domain: process 53 (innocent)",
            "QEMU without a domain: process 51 (qemu-system-i386)",
        ]
    );
}

#[test]
fn a_process_that_only_calls_itself_a_qemu_is_not_ended() {
    let mut world = World::new();
    let root = world.root.path().to_owned();
    for (pid, uid, exe) in [
        (51, 1000, "/usr/bin/qemu-system-i386"),
        (52, 0, "/usr/bin/bash"),
    ] {
        pretend_process(
            &root,
            pid,
            &["qemu-system-i386", "-xen-domid", "9"],
            &[],
            "",
        );
        pretend_uid(&root, pid, uid);
        pretend_exe(&root, pid, exe);
    }
    let verdicts = world.repair();
    assert_eq!(verdicts.len(), 2);
    for verdict in verdicts {
        assert!(matches!(verdict, Verdict::Left(_)), "{verdict:?}");
    }
}

#[test]
fn interfaces_that_only_have_such_a_name_are_no_leaks() {
    let mut world = World::new();
    let root = world.root.path().to_owned();
    let net = root.join("sys/class/net");
    // VLAN 100 of the interface `tap9`, a bridge, and a VLAN of which more is pretended.
    std::fs::create_dir_all(net.join("tap9.100/lower_tap9")).unwrap();
    std::fs::create_dir_all(net.join("vif9.0/bridge")).unwrap();
    pretend_tun(&root, "tap9.101");
    std::fs::create_dir_all(net.join("tap9.101/lower_tap9")).unwrap();
    assert_eq!(world.look(), []);
    // One takes the place of a leak between the look and the removal.
    pretend_netback(&root, "vif9.1");
    let (found, kernel) = (world.look(), world.kernel());
    assert_eq!(found.len(), 1);
    std::fs::remove_dir_all(net.join("vif9.1/device")).unwrap();
    let made = repair(&mut world.host, &kernel, found).unwrap();
    assert_eq!(made[0].verdict, Verdict::Removed, "nobody ran `ip`");
}

#[test]
fn a_vm_whose_restart_was_given_up_is_no_leak() {
    let mut world = World::new();
    world.journal(GONE, "restart", Outcome::Undone);
    assert_eq!(world.kinds(), ["record"]);
    assert!(matches!(world.repair()[..], [Verdict::Left(_)]));
    world.put(&format!("var/lib/xyl/kept/{GONE}.cfg"), "name = \"x\"\n");
    assert_eq!(world.look(), []);
}

#[test]
fn what_is_left_of_a_vm_in_this_run_alone_is_removed() {
    let mut world = World::new();
    world.journal(GONE, "restart", Outcome::Done);
    assert_eq!(world.kinds(), ["record"]);
    assert_eq!(world.repair(), [Verdict::Removed]);
    assert_eq!(world.look(), []);
}

#[test]
fn a_journal_that_cannot_be_read_is_told_and_keeps_nothing_else() {
    let mut world = World::new();
    let other = Uuid::from_bytes([9; 16]);
    for uuid in [GONE, other] {
        let path = format!("var/lib/xyl/vm/{uuid}/config.cfg");
        world.put(&path, "name = \"x\"\n");
    }
    world.put(&format!("run/xyl/vm/{GONE}/journal"), "xyl-journal 99\n");
    let found = world.look();
    let [unreadable, gone] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(unreadable.leak, Leak::Record(GONE, false));
    assert_eq!(gone.leak, Leak::Record(other, true));
    let verdicts = world.repair();
    assert!(
        matches!(&verdicts[..], [Verdict::Left(_), Verdict::Removed]),
        "{verdicts:?}"
    );
    let recovered = crate::recover::all(&mut world.host, true).unwrap();
    let [one] = &recovered[..] else {
        panic!("{recovered:?}");
    };
    assert!(one.has_failed && one.uuid == GONE, "{one:?}");
}

#[test]
fn a_loop_device_is_known_by_its_backends_nodes() {
    let mut world = World::new();
    for number in 0..5 {
        let file = format!("/images/{number}\n");
        world.put(&format!("sys/block/loop{number}/loop/backing_file"), &file);
    }
    let mut disk = |domid: u16, device: u16, number: u8, file: &str| {
        let folder = format!("/local/domain/0/backend/vbd/{domid}/{device}");
        world.write(&format!("{folder}/node"), &format!("/dev/loop{number}"));
        world.write(&format!("{folder}/params"), file);
    };
    disk(9, 1, 0, "/images/0");
    disk(9, 2, 1, "/images/another, by now");
    disk(9, 3, 2, "/images/2");
    disk(1, 3, 2, "/images/2");
    disk(1, 4, 3, "/images/3");
    disk(9, 4, 4, "/images/4");
    world.put("proc/self/mounts", "/dev/loop4 /mnt ext4 rw 0 0\n");
    let found = world.look();
    assert_eq!(
        found[0].object,
        "loop device without a domain: /dev/loop0 (/images/0)"
    );
    assert_eq!(found[1].leak.kind(), "nodes");
    assert_eq!(found.len(), 2);
}

fn half_make(world: &mut World) -> DomId {
    let domid = world
        .host
        .hv
        .create_domain(&pv_request(*GONE.as_bytes()))
        .unwrap();
    world.write(&format!("/libxl/{domid}/type"), "pv");
    world.write(&format!("/local/domain/{domid}/vm"), &format!("/vm/{GONE}"));
    world.write(
        &format!("/local/domain/0/backend/console/{domid}/0/state"),
        "1",
    );
    domid
}

#[test]
fn a_half_made_domain_that_is_nobodys_is_removed() {
    let mut world = World::new();
    let domid = half_make(&mut world);
    assert_eq!(world.kinds(), ["half-made-domain"]);
    assert_eq!(world.repair(), [Verdict::Removed]);
    assert_eq!(world.host.hv.domain_info(domid).unwrap(), None);
    assert_eq!(world.look(), []);
}

#[test]
fn a_half_made_domain_that_somebody_may_be_making_is_left() {
    let mut world = World::new();
    let (domid, root) = (half_make(&mut world), world.root.path().to_owned());
    let privcmd = FilePath::new("/dev/xen/privcmd");
    pretend_process(&root, 70, &["xl", "create", "x.cfg"], &[(5, privcmd)], "");
    let found = world.look();
    let is_suspect =
        |leak: &Leak| matches!(leak, Leak::HalfMade { suspects, .. } if suspects == &[70]);
    assert!(is_suspect(&found[0].leak), "{found:?}");
    assert!(matches!(world.repair()[..], [Verdict::Left(_)]));
    assert!(world.host.hv.domain_info(domid).unwrap().is_some());
    // It comes between the look and the removal.
    std::fs::remove_dir_all(root.join("proc/70")).unwrap();
    let (found, kernel) = (world.look(), world.kernel());
    pretend_process(&root, 71, &["libvirtd"], &[(5, privcmd)], "");
    let made = repair(&mut world.host, &kernel, found).unwrap();
    assert!(matches!(made[0].verdict, Verdict::Left(_)));
}

#[test]
fn a_domain_that_was_created_paused_is_no_leak() {
    let mut world = World::new();
    let domid = half_make(&mut world);
    world.put(
        &format!("var/lib/xen/userdata-d.{domid}.{GONE}.libxl-json"),
        "{}",
    );
    world.host.store.introduce(domid.0, 1, 1).unwrap();
    assert_eq!(world.look(), []);
}

#[test]
fn a_doorbell_without_supervision_is_removed() {
    let mut world = World::new();
    for name in [GONE.to_string(), format!("{GONE}.new"), "other".to_owned()] {
        world.put(&format!("run/xyl/doorbell/{name}"), "");
    }
    // The monitor of a supervised VM has died: the next one takes its place.
    world.put(&format!("run/xyl/doorbell/{UUID}"), "");
    world.put(&format!("run/xyl/watch/{UUID}"), "");
    assert_eq!(world.kinds(), ["doorbell"]);
    assert_eq!(world.repair(), [Verdict::Removed]);
    let folder = world.root.path().join("run/xyl/doorbell");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 2);
    assert_eq!(world.look(), []);
}

#[test]
fn a_damaged_reply_is_reported_and_removed() {
    let mut world = World::new();
    let id = xyl_api::RequestId::new(1, [0; 16]);
    world.put(&format!("run/xyl/replies/{UUID}.{id}.json"), "no reply");
    let recovered = crate::recover::all(&mut world.host, true).unwrap();
    let [one] = &recovered[..] else {
        panic!("{recovered:?}");
    };
    assert_eq!(
        (one.uuid, one.has_failed, one.was_reported),
        (UUID, true, false)
    );
    let again = crate::recover::all(&mut world.host, true).unwrap();
    assert!(again[0].was_reported, "{again:?}");
    assert_eq!(world.kinds(), ["damaged-reply"]);
    assert_eq!(world.repair(), [Verdict::Removed]);
    assert_eq!(world.look(), []);
}

#[test]
fn a_loop_device_of_xyls_without_a_disk_is_found() {
    let mut world = World::new();
    let image = FilePath::new("/image");
    let file = world.images.open(image, &Opening::disk(true)).unwrap();
    let label = format!("{UUID}/51712");
    let attach = |world: &World, label: &str| {
        let request = LoopRequest::whole(&file, false, label);
        world.host.devices.loops.attach(&request).unwrap()
    };
    let _of_another_program = attach(&world, "/image");
    let own = attach(&world, &label);
    let number = own.facts().number;
    let backend = "/local/domain/0/backend/vbd/1/51712/physical-device";
    world.write(backend, &format!("7:{number:x}"));
    assert_eq!(world.look(), []);
    world.write(backend, "7:7f");
    let found = world.look();
    assert_eq!(found.len(), 1);
    let leak = Leak::OpenLoop { number, uuid: UUID };
    assert_eq!(found[0].leak, leak);
    let kernel = world.kernel();
    let made = repair(&mut world.host, &kernel, found.clone()).unwrap();
    assert!(matches!(made[0].verdict, Verdict::Left(_)));
    drop(own);
    let made = repair(&mut world.host, &kernel, found).unwrap();
    assert_eq!(made[0].verdict, Verdict::Removed);
}
