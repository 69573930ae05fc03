//! Disks in libxl's record, loop devices of xl, and disks with a script.

use std::path::{Path as FilePath, PathBuf};

use os_port::mem::{Life, MemDisks, MemFiles};
use os_port::{DeviceNumber, LoopRequest, Opening};
use serde_json::json;
use uuid::Uuid;
use xen_sim::model::Model;
use xenstore::mem::MemStore;

use super::detach::loops_of_xl;
use super::*;
use crate::Dirs;
use crate::device::disk_users;
use crate::vm::disk::{Access, ImageFormat};

const DOMID: DomId = DomId(7);
const COPY_FOLDER: &str = "/libxl/7/device/vbd/51712";
const BACKEND_FOLDER: &str = "/local/domain/0/backend/vbd/7/51712";

/// A host with an image `/x` and a loop device of xl's that shows it.
struct Bench {
    host: Host,
    files: MemFiles,
    disks: MemDisks,
}

impl Bench {
    fn new() -> Bench {
        let files = MemFiles::new();
        let disks = MemDisks::new(&files);
        files.put(FilePath::new("/x"), &[0; 4096]);
        files.put(FilePath::new("/y"), &[0; 4096]);
        let store = MemStore::new().client(0).unwrap();
        let mut host = Host::new(
            Box::new(Model::new(64)),
            store,
            Dirs::below(FilePath::new("/")),
        );
        let life = Life::new(0);
        host.files = std::rc::Rc::new(files.of(&life));
        host.devices.blocks = std::rc::Rc::new(disks.of(&life));
        host.devices.loops = std::rc::Rc::new(disks.of(&life));
        let mut bench = Bench { host, files, disks };
        bench.attach_loop("/x");
        let backend = &format!("{BACKEND_FOLDER}/");
        let copy = &format!("{COPY_FOLDER}/");
        for (folder, name, value) in [
            (copy, "backend", BACKEND_FOLDER),
            (copy, "params", "/x"),
            (copy, "dev", "xvda"),
            (copy, "script", "/etc/xen/scripts/block"),
            (backend, "node", "/dev/loop0"),
            (backend, "physical-device", "7:0"),
        ] {
            bench.write(&format!("{folder}{name}"), value);
        }
        bench
    }

    fn attach_loop(&mut self, image: &str) {
        let opened = self
            .host
            .files
            .open(FilePath::new(image), &Opening::disk(true));
        let file = opened.unwrap();
        let request = LoopRequest {
            is_autoclear: false,
            ..LoopRequest::whole(&file, false, "")
        };
        drop(self.host.devices.loops.attach(&request).unwrap());
    }

    fn write(&mut self, path: &str, value: &str) {
        let path = node(path).unwrap();
        self.host.store.write(&path, value.as_bytes()).unwrap();
    }

    fn loops_of_xl(&mut self) -> Vec<u32> {
        let devices = bus::devices(&mut self.host, DOMID, KIND).unwrap();
        let loops = loops_of_xl(&mut self.host, &devices).unwrap();
        loops.iter().map(|one| one.number).collect()
    }
}

fn disk() -> Disk {
    Disk {
        target: PathBuf::from("/x"),
        vdev: Vdev::parse("xvda").unwrap(),
        format: ImageFormat::Raw,
        server: Server::Kernel,
        access: Access::Write,
        is_cdrom: true,
        discard: None,
        direct_io_safe: true,
        trusted: None,
        backend: None,
        script: None,
    }
}

/// libxl refuses a record with a member of another type.
#[test]
fn each_member_has_the_type_of_libxls_idl() {
    let entry = to_json(&disk());
    let members = entry.as_object().unwrap();
    assert_eq!(members.len(), 10);
    for (name, value) in members {
        let is_right = match name.as_str() {
            "readwrite" | "removable" | "is_cdrom" => value.is_i64(),
            "direct_io_safe" => value.is_boolean(),
            "discard_enable" | "trusted" => matches!(value.as_str(), Some("True" | "False")),
            "pdev_path" | "vdev" | "backend" | "format" => value.is_string(),
            _ => false,
        };
        assert!(is_right, "{name}: {value}");
    }
}

#[test]
fn only_a_whole_path_is_taken_from_a_record() {
    let mut entry = to_json(&disk());
    assert_eq!(cfg_of_json(&entry), Some(disk_text()));
    entry["pdev_path"] = json!("x");
    assert_eq!(cfg_of_json(&entry), None);
}

fn disk_text() -> String {
    Disk {
        discard: None,
        ..disk()
    }
    .cfg_text()
}

#[test]
fn a_disk_of_the_record_counts_if_the_toolstacks_copy_has_it() {
    let mut bench = Bench::new();
    let mut other = to_json(&disk());
    other["vdev"] = json!("xvdb");
    let mut record = json!({ "disks": [to_json(&disk()), other] });
    crate::device::drop_detached(&mut bench.host, DOMID, &mut record).unwrap();
    assert_eq!(record, json!({ "disks": [to_json(&disk())] }));
}

#[test]
fn a_loop_device_of_xl_is_detached_before_the_nodes_go() {
    let mut bench = Bench::new();
    assert_eq!(bench.loops_of_xl(), [0]);
    let user = bench.disks.open_loop(0);
    let deadline = bench.host.clock.now();
    Vbd.detach(&mut bench.host, DOMID, deadline).unwrap();
    // It was in use.
    assert_eq!(bench.disks.loops().len(), 1);
    drop(user);
    assert!(bench.disks.loops().is_empty());
}

#[test]
fn a_loop_device_that_may_be_anothers_stays() {
    for (path, value) in [
        (format!("{BACKEND_FOLDER}/physical-device"), "7:1"),
        (format!("{COPY_FOLDER}/params"), "/y"),
        (format!("{COPY_FOLDER}/params"), "/none"),
        (
            "/local/domain/0/backend/vbd/8/51728/node".to_owned(),
            "/dev/loop0",
        ),
    ] {
        let mut bench = Bench::new();
        bench.write(&path, value);
        assert!(bench.loops_of_xl().is_empty(), "{path} {value}");
    }
}

#[test]
fn a_disk_with_a_script_of_its_own_is_foreign() {
    let mut bench = Bench::new();
    let mut is_foreign = |script: &str| {
        bench.write(&format!("{COPY_FOLDER}/script"), script);
        Vbd.foreign(&mut bench.host, DOMID, "51712").unwrap()
    };
    assert!(!is_foreign("/etc/xen/scripts/block"));
    assert!(is_foreign("/etc/xen/scripts/block-nbd"));
    assert!(is_foreign("/srv/block"));
}

const SDA: DeviceNumber = DeviceNumber { major: 8, minor: 0 };

fn device(number: DeviceNumber, slaves: Vec<DeviceNumber>) -> os_port::BlockDevice {
    os_port::BlockDevice {
        number,
        name: format!("of-{number}"),
        size_bytes: 1 << 20,
        is_read_only: false,
        holders: Vec::new(),
        slaves,
        partitions: Vec::new(),
        disk: None,
    }
}

fn code(refused: Result<(), EngineError>) -> crate::error::ErrorCode {
    refused.unwrap_err().code()
}

#[test]
fn a_block_device_that_is_claimed_is_busy() {
    let bench = Bench::new();
    bench
        .disks
        .put_device(FilePath::new("/dev/sda"), device(SDA, Vec::new()));
    let mut disk = Disk {
        target: PathBuf::from("/dev/sda"),
        ..disk()
    };
    let files = bench.host.files.clone();
    let claimed = |disk: &Disk| claim(&*files, disk, open(&*files, disk)?).map(drop);
    claimed(&disk).unwrap();
    bench.files.claim_device(SDA);
    assert_eq!(code(claimed(&disk)), crate::error::ErrorCode::DiskBusy);
    disk.access = Access::WriteShared;
    claimed(&disk).unwrap();
    disk.access = Access::Read;
    claimed(&disk).unwrap();
}

#[test]
fn a_loop_device_of_an_earlier_domain_is_waited_for() {
    let mut bench = Bench::new();
    let uuid = Uuid::from_u128(1);
    let disk = disk();
    let file = open(&*bench.host.files, &disk).unwrap();
    let label = disk_users::label(uuid, disk.vdev.number);
    let request = LoopRequest::whole(&file, false, &label);
    let earlier = bench.host.devices.loops.attach(&request).unwrap();
    let closing = |bench: &Bench, id| {
        let found = disk_users::closing(&bench.host, &file, disk.access, id);
        found.unwrap().is_some()
    };
    // The loop device of another disk of this VM is its own one as long as blkback serves it.
    let driver = bench.host.dirs.backend_drivers().join("vbd-9-51712");
    let served = format!("7:{:x}\n", earlier.facts().number);
    assert!(closing(&bench, (uuid, 1)));
    bench
        .files
        .put(&driver.join("physical_device"), served.as_bytes());
    assert!(!closing(&bench, (uuid, 1)));
    assert!(closing(&bench, (uuid, disk.vdev.number)));
    assert!(closing(&bench, (Uuid::from_u128(2), 1)));
    drop(earlier);
    let deadline = bench.host.clock.now() + CLOSE_LIMIT;
    await_earlier_loops(&mut bench.host, (uuid, &disk), &file, deadline).unwrap();
}

/// A guest has the whole disk, and another one is to get a volume on it.
#[test]
fn what_a_volume_is_made_from_counts_for_guests() {
    let mut bench = Bench::new();
    let volume = DeviceNumber {
        major: 253,
        minor: 0,
    };
    bench
        .disks
        .put_device(FilePath::new("/dev/sda"), device(SDA, Vec::new()));
    bench
        .disks
        .put_device(FilePath::new("/dev/vg/v"), device(volume, vec![SDA]));
    let opened = bench
        .host
        .files
        .open(FilePath::new("/dev/vg/v"), &Opening::disk(true));
    let file = opened.unwrap();
    let find = |bench: &mut Bench| {
        let seen = Seen::of(&mut bench.host).unwrap();
        disk_users::find(&mut bench.host, &seen, &file, Access::Write, None)
    };
    assert_eq!(find(&mut bench).unwrap(), None);
    let driver = bench.host.dirs.backend_drivers().join("vbd-9-51712");
    bench.files.put(&driver.join("physical_device"), b"8:0\n");
    bench.files.put(&driver.join("mode"), b"w\n");
    assert!(find(&mut bench).unwrap().is_some());
}

/// A disk with a partition.
fn put_partitioned(bench: &Bench) -> DeviceNumber {
    let partition = DeviceNumber { major: 8, minor: 1 };
    let whole = os_port::BlockDevice {
        partitions: vec![partition],
        ..device(SDA, Vec::new())
    };
    let part = os_port::BlockDevice {
        disk: Some(SDA),
        ..device(partition, Vec::new())
    };
    bench.disks.put_device(FilePath::new("/dev/sda"), whole);
    bench.disks.put_device(FilePath::new("/dev/sda1"), part);
    partition
}

fn user_of(bench: &mut Bench, path: &str, access: Access) -> Option<String> {
    let opened = bench
        .host
        .files
        .open(FilePath::new(path), &Opening::disk(true));
    let seen = Seen::of(&mut bench.host).unwrap();
    disk_users::find(&mut bench.host, &seen, &opened.unwrap(), access, None).unwrap()
}

#[test]
fn a_guest_with_a_partition_has_the_disk_and_a_guest_with_the_disk_has_its_partitions() {
    for (used, wanted) in [("8:1\n", "/dev/sda"), ("8:0\n", "/dev/sda1")] {
        let mut bench = Bench::new();
        put_partitioned(&bench);
        assert_eq!(user_of(&mut bench, wanted, Access::Write), None);
        let driver = bench.host.dirs.backend_drivers().join("vbd-9-51712");
        let device = driver.join("physical_device");
        bench.files.put(&device, used.as_bytes());
        bench.files.put(&driver.join("mode"), b"w\n");
        assert!(user_of(&mut bench, wanted, Access::Write).is_some());
        assert!(user_of(&mut bench, wanted, Access::Read).is_some());
        assert_eq!(user_of(&mut bench, wanted, Access::WriteShared), None);
    }
}

#[test]
fn a_disk_whose_partition_is_mounted_or_swaps_is_domain_0s() {
    let mut bench = Bench::new();
    let partition = put_partitioned(&bench);
    let mount = |is_read_only| os_port::Mount {
        device: partition,
        target: PathBuf::from("/srv"),
        kind: "ext4".to_owned(),
        source: PathBuf::from("/dev/sda1"),
        is_read_only,
    };
    for wanted in ["/dev/sda", "/dev/sda1"] {
        bench.disks.set_mounts(vec![mount(false)]);
        assert!(user_of(&mut bench, wanted, Access::Write).is_some());
        assert!(user_of(&mut bench, wanted, Access::Read).is_some());
        bench.disks.set_mounts(vec![mount(true)]);
        assert!(user_of(&mut bench, wanted, Access::Write).is_some());
        assert_eq!(user_of(&mut bench, wanted, Access::Read), None);
        bench.disks.set_mounts(Vec::new());
        assert_eq!(user_of(&mut bench, wanted, Access::Write), None);
        bench.disks.set_swaps(vec![PathBuf::from("/dev/sda1")]);
        assert!(user_of(&mut bench, wanted, Access::Write).is_some());
        bench.disks.set_swaps(Vec::new());
    }
}

/// A program of domain 0 serves the image to another guest.
#[test]
fn what_a_program_serves_counts_by_its_mode() {
    for (folder, params) in [("qdisk", "aio:/y"), ("vbd3", "/y"), ("virtio_disk", "/y")] {
        let mut bench = Bench::new();
        let backend = format!("/local/domain/0/backend/{folder}/9/51712");
        bench.write(&format!("{backend}/params"), params);
        let opened = bench
            .host
            .files
            .open(FilePath::new("/y"), &Opening::disk(true));
        let file = opened.unwrap();
        let mut is_used = |mode: &str, access| {
            bench.write(&format!("{backend}/mode"), mode);
            let seen = Seen::of(&mut bench.host).unwrap();
            let found = disk_users::find(&mut bench.host, &seen, &file, access, None);
            found.unwrap().is_some()
        };
        assert!(
            is_used("w", Access::Read) && is_used("r", Access::Write),
            "{folder}"
        );
        assert!(!is_used("r", Access::Read), "{folder}");
    }
}

/// A user's folder leads to a file of root's: a symbolic link can take the place of the image at each restart.
#[test]
fn a_path_that_another_user_chooses_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    if std::os::unix::fs::chown(&home, Some(12345), None).is_err() {
        return;
    }
    let secret = folder.path().join("secret");
    std::fs::write(&secret, [0; 4096]).unwrap();
    std::os::unix::fs::symlink(&secret, home.join("disk.img")).unwrap();
    let of = |target| Disk { target, ..disk() };
    assert!(open(&os_port::SystemFiles, &of(secret)).is_ok());
    let refused = open(&os_port::SystemFiles, &of(home.join("disk.img"))).unwrap_err();
    assert!(matches!(
        refused,
        EngineError::Device(DeviceError::Untrusted { .. })
    ));
}

/// blkback has let go of a block device whose requests are under way.
#[test]
fn a_block_device_is_waited_for_until_it_has_no_requests() {
    let mut bench = Bench::new();
    bench.write(&format!("{BACKEND_FOLDER}/physical-device"), "8:0");
    let inflight = FilePath::new("/sys/dev/block/8:0/inflight");
    let devices = bus::devices(&mut bench.host, DOMID, KIND).unwrap();
    let mut left = Left::of(&mut bench.host, &devices).unwrap();
    for busy in ["       0        1\n", "       2        0\n"] {
        bench.files.put(inflight, busy.as_bytes());
        assert!(left.is_there(&bench.host).unwrap());
    }
    bench.files.put(inflight, b"       0        0\n");
    assert!(!left.is_there(&bench.host).unwrap());
    // Others' later requests count for nothing.
    bench.files.put(inflight, b"       7        0\n");
    assert!(!left.is_there(&bench.host).unwrap());
}
