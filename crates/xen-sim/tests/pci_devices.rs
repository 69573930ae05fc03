//! PCI devices for guests: a process that makes one assignable, or takes it back, dies at each call. The next process finishes or
//! undoes it, and no device is left without its driver.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod bench;

use std::path::Path;

use bench::Bench;
use os_port::{BlockDevice, DeviceNumber, Mount};
use xen_port::{DomId, Errno, HostResource, Hypervisor, Mfn, PciSbdf};
use xen_sim::{Ended, Moment, World};
use xyl_engine::device::assignable::{self, NewAssignable};
use xyl_engine::device::passed_through;
use xyl_engine::error::PciError;
use xyl_engine::operation::destroy;
use xyl_engine::recover;
use xyl_engine::supervise::requests::{self, Request};
use xyl_engine::{EngineError, Host};

const UUID: &str = "6a1d0c4e-0000-4000-8000-000000000001";
const OTHER_UUID: &str = "6a1d0c4e-0000-4000-8000-000000000002";
const NIC: PciSbdf = PciSbdf(0x0300);
const BRIDGE: PciSbdf = PciSbdf(0x0008);
const DISK: PciSbdf = PciSbdf(0x0400);
const DRIVER: &str = "e1000e";
/// The block device of the disk.
const NVME: DeviceNumber = DeviceNumber {
    major: 259,
    minor: 0,
};

/// A host with an IOMMU, a network card, a disk and a bridge.
fn world() -> World {
    let world = World::new(256);
    world.xen.add_iommu();
    world.xen.add_control_domain(256);
    let files = &world.kernel_files;
    files.add_pci_driver("pciback");
    let nic = [
        ("class", "0x020000\n"),
        ("irq", "16\n"),
        ("resource", RESOURCE),
    ];
    files.add_pci_device(&NIC.to_string(), &nic, Some(DRIVER));
    let bridge = [("class", "0x060400\n"), ("irq", "0\n")];
    files.add_pci_device(&BRIDGE.to_string(), &bridge, Some("pcieport"));
    let disk = [
        ("class", "0x010802\n"),
        (
            "resource",
            "0x00000000feb00000 0x00000000feb03fff 0x0000000000140204\n",
        ),
    ];
    files.add_pci_device(&DISK.to_string(), &disk, Some("nvme"));
    add_block(&world, NVME);
    world
}

/// Adds the one block device of the disk.
fn add_block(world: &World, number: DeviceNumber) {
    let files = &world.kernel_files;
    files.put_link(
        "/sys/class/block/nvme0n1",
        "../../devices/pci0000:00/0000:04:00.0/nvme/nvme0/nvme0n1",
    );
    files.put("/sys/class/block/nvme0n1/dev", b"259:0\n");
    let device = BlockDevice {
        number,
        name: "nvme0n1".to_owned(),
        size_bytes: 1 << 20,
        is_read_only: false,
        holders: Vec::new(),
        slaves: Vec::new(),
        partitions: Vec::new(),
        disk: None,
    };
    world.disks.put_device(Path::new("/dev/nvme0n1"), device);
}

const RESOURCE: &str = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
    0x00000000fea00000 0x00000000fea1ffff 0x0000000000040200\n\
    0x000000000000c000 0x000000000000c01f 0x0000000000040101\n";

/// A process that lives does one thing.
fn attempt(
    bench: &Bench,
    world: &World,
    act: impl FnOnce(&mut Host) -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    match bench.process(world, None, act).0 {
        Ended::Well(outcome) => outcome,
        Ended::Killed => panic!("nothing kills it"),
    }
}

fn new(device: PciSbdf, name: Option<&str>) -> NewAssignable {
    NewAssignable {
        device,
        name: name.map(str::to_owned),
        is_forced: false,
    }
}

/// The driver that has a device.
fn driver(bench: &Bench, world: &World, device: PciSbdf) -> Option<String> {
    bench.must(world, |host| Ok(host.kernel.pci_driver(device).unwrap()))
}

/// The slots of pciback.
fn slots(bench: &Bench, world: &World) -> String {
    let slots = bench.must(world, |host| Ok(host.kernel.pci_slots().unwrap()));
    slots.iter().map(|slot| format!("{slot} ")).collect()
}

/// All nodes of what toolstacks know of PCI devices.
fn nodes(bench: &Bench, world: &World) -> Vec<String> {
    bench.must(world, |host| {
        let path = xenstore::Path::new("/libxl/pci").unwrap();
        match xenstore::Tree::directory(&mut host.store, &path) {
            Err(xenstore::Error::NotFound { .. }) => Ok(Vec::new()),
            other => Ok(other?),
        }
    })
}

fn is_assignable(bench: &Bench, world: &World) {
    assert_eq!(driver(bench, world, NIC).as_deref(), Some("pciback"));
    assert_eq!(world.xen.pci_owner(NIC), DomId::IO);
    assert_eq!(slots(bench, world), format!("{NIC} "));
    let listed = bench.must(world, assignable::list);
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].device, NIC);
    assert_eq!(listed[0].name.as_deref(), Some("nic"));
}

fn is_domain_0s(bench: &Bench, world: &World) {
    assert_eq!(driver(bench, world, NIC).as_deref(), Some(DRIVER));
    assert_eq!(world.xen.pci_owner(NIC), DomId::ZERO);
    assert_eq!(slots(bench, world), "");
    assert!(bench.must(world, assignable::list).is_empty());
    assert_eq!(nodes(bench, world), Vec::<String>::new());
}

fn add(host: &mut Host) -> Result<(), EngineError> {
    assignable::add(host, &new(NIC, Some("nic")))
}

fn remove(host: &mut Host) -> Result<(), EngineError> {
    assignable::remove(host, NIC, true)
}

#[test]
fn a_device_goes_to_pciback_and_back_to_its_driver() {
    let (bench, world) = (Bench::new(), world());
    for _ in 0..2 {
        bench.must(&world, add);
        is_assignable(&bench, &world);
        // A second time it changes nothing.
        bench.must(&world, add);
        is_assignable(&bench, &world);
        assert_eq!(
            bench.must(&world, |host| assignable::named(host, "nic")),
            Some(NIC)
        );
        bench.must(&world, remove);
        is_domain_0s(&bench, &world);
    }
    let again = attempt(&bench, &world, remove);
    assert!(matches!(
        again,
        Err(EngineError::Pci(PciError::NotAssignable(NIC)))
    ));
}

#[test]
fn what_cannot_be_given_away_is_refused_by_name_and_stays() {
    let (bench, world) = (Bench::new(), world());
    let refused = |wanted: NewAssignable| match attempt(&bench, &world, |host| {
        assignable::add(host, &wanted)
    }) {
        Err(EngineError::Pci(error)) => error,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        refused(new(BRIDGE, None)),
        PciError::Bridge(BRIDGE)
    ));
    let absent = PciSbdf(0x0500);
    assert!(matches!(refused(new(absent, None)), PciError::Absent(_)));
    assert!(matches!(
        refused(new(NIC, Some("a b"))),
        PciError::BadName(_)
    ));
    let files = &world.kernel_files;
    files.put_link(
        "/sys/class/net/eth0",
        "../../devices/pci0000:00/0000:03:00.0/net/eth0",
    );
    files.put("/sys/class/net/eth0/flags", b"0x1003\n");
    assert!(matches!(refused(new(NIC, None)), PciError::InUse { .. }));
    let forced = NewAssignable {
        is_forced: true,
        ..new(NIC, Some("nic"))
    };
    bench.must(&world, |host| assignable::add(host, &forced));
    assert!(matches!(
        refused(new(DISK, Some("nic"))),
        PciError::NameTaken { .. }
    ));
    assert_eq!(driver(&bench, &world, DISK).as_deref(), Some("nvme"));
}

#[test]
fn a_disk_that_domain_0_uses_in_any_way_is_refused() {
    let (bench, world) = (Bench::new(), world());
    let refuses = |device: PciSbdf, why: &str| match attempt(&bench, &world, |host| {
        assignable::check_add(host, &new(device, None))
    }) {
        Err(EngineError::Pci(PciError::InUse { .. })) => {}
        other => panic!("{why}: {other:?}"),
    };
    let check = |host: &mut Host| assignable::check_add(host, &new(DISK, None));
    bench.must(&world, check);
    // The number of a btrfs is that of no disk.
    let root = Mount {
        device: DeviceNumber {
            major: 0,
            minor: 35,
        },
        target: "/".into(),
        kind: "btrfs".into(),
        source: "/dev/nvme0n1".into(),
        is_read_only: false,
    };
    world.disks.set_mounts(vec![root]);
    refuses(DISK, "a root on btrfs");
    world.disks.set_mounts(Vec::new());
    world.disks.set_swaps(vec!["/dev/nvme0n1".into()]);
    refuses(DISK, "swap");
    world.disks.set_swaps(Vec::new());
    bench.must(&world, check);
    // A mount in another namespace is in no table.
    world.disk.claim_device(NVME);
    refuses(DISK, "a claim");

    let (unseen, idle) = (PciSbdf(0x0600), PciSbdf(0x0700));
    let files = &world.kernel_files;
    let class = [("class", "0x010802\n")];
    files.add_pci_device(&unseen.to_string(), &class, Some("nvme"));
    refuses(unseen, "a controller without a disk");
    files.put_link(
        "/sys/class/block/nvme0c1n1",
        "../../devices/pci0000:00/0000:06:00.0/nvme/nvme1/nvme0c1n1",
    );
    refuses(unseen, "a hidden disk");
    // Without a driver domain 0 does not use it.
    files.add_pci_device(&idle.to_string(), &class, None);
    for (device, is_forced) in [(idle, false), (unseen, true), (DISK, true)] {
        let new = NewAssignable {
            is_forced,
            ..new(device, None)
        };
        bench.must(&world, |host| assignable::add(host, &new));
    }
}

#[test]
fn without_an_iommu_nothing_is_changed_and_a_device_that_xen_does_not_take_goes_back() {
    let bench = Bench::new();
    let without = World::new(256);
    without.kernel_files.add_pci_driver("pciback");
    without
        .kernel_files
        .add_pci_device(&NIC.to_string(), &[("class", "0x020000")], Some(DRIVER));
    let refused = attempt(&bench, &without, add);
    assert!(matches!(refused, Err(EngineError::Pci(PciError::NoIommu))));
    is_domain_0s(&bench, &without);

    let world = world();
    world.xen.fail_always("assign_pci", Errno::EBADF);
    let refused = attempt(&bench, &world, add);
    assert!(matches!(
        refused,
        Err(EngineError::Pci(PciError::Quarantine { device: NIC, .. }))
    ));
    is_domain_0s(&bench, &world);
}

/// Kills `act` at each of its calls. Then `again` runs, and `check` looks.
fn sweep(
    before: &dyn Fn(&mut Host) -> Result<(), EngineError>,
    act: &dyn Fn(&mut Host) -> Result<(), EngineError>,
    again: &dyn Fn(&mut Host) -> Result<(), EngineError>,
    check: &dyn Fn(&Bench, &World),
) {
    let bench = Bench::new();
    for moment in Moment::ALL {
        for call in 1.. {
            let world = world();
            bench.must(&world, |host| before(host));
            let (ended, _) = bench.process(&world, Some((call, moment)), |host| act(host));
            let is_over = matches!(ended, Ended::Well(_));
            if let Ended::Well(outcome) = ended {
                outcome.unwrap();
            }
            bench.must(&world, |host| again(host));
            check(&bench, &world);
            if is_over {
                assert!(call > 10, "{call}");
                break;
            }
        }
    }
}

#[test]
fn an_add_that_was_killed_is_finished_by_the_next() {
    sweep(&|_| Ok(()), &add, &add, &is_assignable);
}

#[test]
fn an_add_that_was_killed_is_undone_by_a_remove() {
    let undo = |host: &mut Host| match remove(host) {
        // It was killed before it had changed anything.
        Err(EngineError::Pci(PciError::NotAssignable(_))) => Ok(()),
        other => other,
    };
    sweep(&|_| Ok(()), &add, &undo, &is_domain_0s);
}

#[test]
fn a_remove_that_was_killed_is_finished_by_the_next_or_undone_by_an_add() {
    let finish = |host: &mut Host| match remove(host) {
        Err(EngineError::Pci(PciError::NotAssignable(_))) => Ok(()),
        other => other,
    };
    sweep(&add, &remove, &finish, &is_domain_0s);
    sweep(&add, &remove, &add, &is_assignable);
}

/// What a process does on a host.
type Act<'a> = dyn Fn(&mut Host) -> Result<(), EngineError> + 'a;

/// A toolstack has lost its note of the domain that has a device: Xen alone knows.
#[test]
fn a_device_that_a_domain_has_without_a_note_stays_with_it() {
    let (bench, world) = (Bench::new(), world());
    bench.must(&world, add);
    let domid = bench.must(&world, |host| create(&bench, host));
    let note = xenstore::Path::new("/libxl/pci/0000-03-00-0/domid").unwrap();
    bench.must(&world, |host| {
        Ok(xenstore::Tree::rm(&mut host.store, &note)?)
    });
    let other = config_of(&bench, "other", OTHER_UUID);
    let acts: [&Act<'_>; 4] = [
        &add,
        &remove,
        &|host| assignable::remove(host, NIC, false),
        &|host| bench.create_from(host, &other).map(drop),
    ];
    for (number, act) in acts.iter().enumerate() {
        let refused = attempt(&bench, &world, act).unwrap_err();
        let code = refused.code();
        assert_eq!(
            code,
            xyl_engine::ErrorCode::PciDevice,
            "{number}: {refused}"
        );
        assert_eq!(world.xen.pci_owner(NIC), domid, "{number}");
        assert_eq!(driver(&bench, &world, NIC).as_deref(), Some("pciback"));
        assert!(is_permissive(&bench, &world), "{number}");
        assert_eq!(node(&bench, &world, "/libxl/pci/0000-03-00-0/domid"), None);
    }
}

#[test]
fn a_create_whose_second_device_fails_takes_the_first_back() {
    let (bench, world) = (Bench::new(), world());
    bench.must(&world, add);
    bench.must(&world, |host| assignable::add(host, &new(DISK, None)));
    let other = config_of(&bench, "other", OTHER_UUID).replace("03:00.0", "04:00.0");
    let domid = bench.must(&world, |host| bench.create_from(host, &other));
    let note = xenstore::Path::new("/libxl/pci/0000-04-00-0/domid").unwrap();
    bench.must(&world, |host| {
        Ok(xenstore::Tree::rm(&mut host.store, &note)?)
    });
    let both = config(&bench).replace("permissive=1\"", "permissive=1\", \"04:00.0\"");
    let refused = attempt(&bench, &world, |host| {
        bench.create_from(host, &both).map(drop)
    });
    assert_eq!(
        refused.unwrap_err().code(),
        xyl_engine::ErrorCode::PciDevice
    );
    assert_eq!(world.xen.pci_owner(DISK), domid);
    assert_eq!(world.xen.pci_owner(NIC), DomId::IO);
    assert_eq!(driver(&bench, &world, NIC).as_deref(), Some("pciback"));
    assert_eq!(node(&bench, &world, "/libxl/pci/0000-03-00-0/domid"), None);
    assert!(!is_permissive(&bench, &world));
}

/// libxl keeps no copy of a bus among the devices of its domain.
#[test]
fn a_guest_of_xl_is_destroyed_with_its_devices() {
    let (bench, world) = (Bench::new(), world());
    bench.must(&world, add);
    let domid = bench.must(&world, |host| create(&bench, host));
    let copy = xenstore::Path::new(&format!("/libxl/{domid}/device/pci")).unwrap();
    bench.must(&world, |host| {
        Ok(xenstore::Tree::rm(&mut host.store, &copy)?)
    });
    bench.must(&world, destroy);
    is_free(&bench, &world);
}

#[test]
fn a_device_without_its_driver_is_removed_once_alone() {
    let (bench, world) = (Bench::new(), world());
    let leave = |host: &mut Host| assignable::remove(host, NIC, false);
    bench.must(&world, add);
    bench.must(&world, leave);
    assert_eq!(driver(&bench, &world, NIC), None);
    assert!(matches!(
        attempt(&bench, &world, leave),
        Err(EngineError::Pci(PciError::NotAssignable(NIC)))
    ));
    // Its driver is known still.
    bench.must(&world, remove);
    is_domain_0s(&bench, &world);
}

/// A PV guest with the card.
fn config(bench: &Bench) -> String {
    config_of(bench, "guest", UUID)
}

fn config_of(bench: &Bench, name: &str, uuid: &str) -> String {
    let pci = "pci = [ \"03:00.0,vslot=4,permissive=1\" ]\n";
    bench.config(name, uuid).replace("\"pvh\"", "\"pv\"") + pci
}

fn create(bench: &Bench, host: &mut Host) -> Result<DomId, EngineError> {
    bench.create_from(host, &config(bench))
}

fn destroy(host: &mut Host) -> Result<(), EngineError> {
    let found = host
        .hv
        .domain_list()?
        .into_iter()
        .find(|info| info.domid != DomId::ZERO);
    match found {
        Some(info) => destroy::destroy(host, info.domid, false),
        None => Ok(()),
    }
}

fn node(bench: &Bench, world: &World, path: &str) -> Option<String> {
    let path = xenstore::Path::new(path).unwrap();
    bench.must(world, |host| {
        Ok(xenstore::Tree::read_text_opt(&mut host.store, &path)?)
    })
}

fn is_permissive(bench: &Bench, world: &World) -> bool {
    bench.must(world, |host| {
        Ok(host.kernel.is_pci_permissive(NIC).unwrap())
    })
}

/// The card is assignable again, and nothing is left of a domain.
fn is_free(bench: &Bench, world: &World) {
    assert_eq!(world.xen.domain_list().unwrap().len(), 1);
    is_assignable(bench, world);
    assert_eq!(node(bench, world, "/libxl/pci/0000-03-00-0/domid"), None);
    assert!(!is_permissive(bench, world));
    let backend = bench.must(world, |host| {
        let path = xenstore::Path::new("/local/domain/0/backend/pci").unwrap();
        Ok(xenstore::Tree::directory(&mut host.store, &path).unwrap_or_default())
    });
    assert_eq!(backend, Vec::<String>::new());
}

#[test]
fn a_pv_guest_has_its_device_until_it_is_destroyed() {
    let (bench, world) = (Bench::new(), world());
    // It is not assignable yet.
    let refused = bench.process(&world, None, |host| create(&bench, host)).0;
    assert!(matches!(
        refused,
        Ended::Well(Err(error)) if error.code() == xyl_engine::ErrorCode::PciDevice
    ));
    bench.must(&world, add);
    let domid = bench.must(&world, |host| create(&bench, host));
    assert_eq!(world.xen.pci_owner(NIC), domid);
    let memory = HostResource::Memory {
        first: Mfn(0xfea00),
        nr_pages: 32,
    };
    let ports = HostResource::Ports {
        first: 0xc000,
        count: 32,
    };
    let all = [ports, memory, HostResource::Interrupt(16)];
    assert_eq!(world.xen.permissions(domid), all);
    let backend = format!("/local/domain/0/backend/pci/{domid}/0");
    for (name, value) in [
        ("state", "3"),
        ("num_devs", "1"),
        ("dev-0", "0000:03:00.0"),
        ("vdevfn-0", "20"),
        (
            "opts-0",
            "msitranslate=0,power_mgmt=0,permissive=1,rdm_policy=strict",
        ),
    ] {
        let found = node(&bench, &world, &format!("{backend}/{name}"));
        assert_eq!(found.as_deref(), Some(value), "{name}");
    }
    assert!(is_permissive(&bench, &world));
    let owner = node(&bench, &world, "/libxl/pci/0000-03-00-0/domid");
    assert_eq!(owner, Some(domid.to_string()));
    assert!(bench.must(&world, assignable::list).is_empty());
    let taken = attempt(&bench, &world, remove);
    assert!(matches!(
        taken,
        Err(EngineError::Pci(PciError::Assigned { .. }))
    ));
    bench.must(&world, destroy);
    is_free(&bench, &world);
}

/// xl leaves a device permissive after its guest.
#[test]
fn a_device_that_an_earlier_guest_had_as_permissive_is_so_no_more() {
    let (bench, world) = (Bench::new(), world());
    bench.must(&world, add);
    bench.must(&world, |host| {
        host.kernel.make_pci_permissive(NIC).unwrap();
        Ok(())
    });
    assert!(is_permissive(&bench, &world));
    let config = config(&bench).replace(",permissive=1", "");
    bench.must(&world, |host| bench.create_from(host, &config));
    assert!(!is_permissive(&bench, &world));
    assert_eq!(driver(&bench, &world, NIC).as_deref(), Some("pciback"));
    bench.must(&world, destroy);
    is_free(&bench, &world);
}

#[test]
fn a_create_and_a_destroy_that_were_killed_leave_the_device_assignable() {
    let bench = Bench::new();
    for moment in Moment::ALL {
        for is_destroy in [false, true] {
            let mut call = 1;
            loop {
                let world = world();
                bench.must(&world, add);
                if is_destroy {
                    bench.must(&world, |host| create(&bench, host));
                }
                let act = |host: &mut Host| match is_destroy {
                    true => destroy(host),
                    false => create(&bench, host).map(drop),
                };
                let (ended, _) = bench.process(&world, Some((call, moment)), act);
                bench.must(&world, |host| recover::all(host, true).map(drop));
                bench.must(&world, destroy);
                is_free(&bench, &world);
                if matches!(ended, Ended::Well(_)) {
                    break;
                }
                // The calls about the device are among the last ones; others have sweeps of their own.
                call += if call < 60 { 7 } else { 1 };
            }
        }
    }
}

fn attach(host: &mut Host, device: PciSbdf) -> Result<(), EngineError> {
    change(
        host,
        &Request::AttachDevice {
            kind: "pci".to_owned(),
            device: device.to_string(),
        },
    )
}

fn detach(host: &mut Host, device: PciSbdf) -> Result<(), EngineError> {
    change(
        host,
        &Request::DetachDevice {
            kind: "pci".to_owned(),
            device: device.to_string(),
            force: false,
        },
    )
}

fn change(host: &mut Host, request: &Request) -> Result<(), EngineError> {
    let mut domains = host.hv.domain_list()?.into_iter();
    let info = domains.find(|info| info.domid != DomId::ZERO).unwrap();
    requests::ask_for(host, &info, request).map(drop)
}

/// A host with two assignable devices, and a guest with the card, whose driver has connected.
fn with_guest(bench: &Bench) -> (World, DomId) {
    let world = world();
    bench.must(&world, add);
    bench.must(&world, |host| assignable::add(host, &new(DISK, None)));
    let domid = bench.must(&world, |host| create(bench, host));
    connect(bench, &world, domid);
    (world, domid)
}

/// The guest's driver connects.
fn connect(bench: &Bench, world: &World, domid: DomId) {
    let path = format!("/local/domain/{domid}/device/pci/0/state");
    let path = xenstore::Path::new(&path).unwrap();
    bench.must(world, |host| {
        Ok(xenstore::Tree::write(&mut host.store, &path, b"3")?)
    });
}

/// The devices of the guest's bus, by the backend's nodes, and by the VM's record.
fn devices(bench: &Bench, world: &World, domid: DomId) -> (Vec<String>, usize) {
    bench.must(world, |host| {
        let on_bus = passed_through::pci_devices(&mut host.store, domid)?;
        let uuid = uuid::Uuid::parse_str(UUID).unwrap();
        let record = xyl_engine::vm::store::read(&*host.files, &host.dirs, &uuid.to_string())?;
        let listed = record
            .lines()
            .find(|line| line.starts_with("pci = "))
            .map_or(0, |line| line.matches("rdm_policy").count());
        Ok((on_bus.into_iter().map(|one| one.address).collect(), listed))
    })
}

#[test]
fn a_device_comes_and_goes_while_the_guest_runs() {
    let bench = Bench::new();
    let (world, domid) = with_guest(&bench);
    bench.must(&world, |host| attach(host, DISK));
    assert_eq!(world.xen.pci_owner(DISK), domid);
    let both = vec![NIC.to_string(), DISK.to_string()];
    assert_eq!(devices(&bench, &world, domid), (both, 2));
    // The second one moves up.
    bench.must(&world, |host| detach(host, NIC));
    assert_eq!(world.xen.pci_owner(NIC), DomId::IO);
    let left = HostResource::Memory {
        first: Mfn(0xfeb00),
        nr_pages: 4,
    };
    assert_eq!(world.xen.permissions(domid), [left]);
    assert_eq!(devices(&bench, &world, domid), (vec![DISK.to_string()], 1));
    // The bus goes with the last one, and comes with the next.
    bench.must(&world, |host| detach(host, DISK));
    assert_eq!(devices(&bench, &world, domid), (Vec::new(), 0));
    bench.must(&world, |host| attach(host, NIC));
    assert_eq!(devices(&bench, &world, domid), (vec![NIC.to_string()], 1));
    let again = attempt(&bench, &world, |host| attach(host, NIC));
    assert!(again.is_err());
}

#[test]
fn a_guest_that_keeps_a_device_has_it_and_a_detach_can_be_repeated() {
    let bench = Bench::new();
    let (world, domid) = with_guest(&bench);
    world.backends.set_guest_keeps(true);
    let kept = attempt(&bench, &world, |host| detach(host, NIC)).unwrap_err();
    assert_eq!(kept.code(), xyl_engine::ErrorCode::PciDevice, "{kept}");
    assert_eq!(world.xen.pci_owner(NIC), domid);
    world.backends.set_guest_keeps(false);
    bench.must(&world, |host| detach(host, NIC));
    assert_eq!(devices(&bench, &world, domid), (Vec::new(), 0));
}

#[test]
fn an_attach_and_a_detach_that_were_killed_are_finished_or_undone() {
    let bench = Bench::new();
    for moment in Moment::ALL {
        for is_detach in [false, true] {
            for call in 1.. {
                let (world, domid) = with_guest(&bench);
                let device = if is_detach { NIC } else { DISK };
                let act = |host: &mut Host| match is_detach {
                    true => detach(host, device),
                    false => attach(host, device),
                };
                let (ended, _) = bench.process(&world, Some((call, moment)), act);
                bench.must(&world, |host| recover::all(host, true).map(drop));
                let (on_bus, listed) = devices(&bench, &world, domid);
                let is_there = on_bus.contains(&device.to_string());
                let what =
                    format!("killed at call {call}, {moment:?}, detach {is_detach}: {on_bus:?}");
                assert_eq!(on_bus.len(), listed, "{what}");
                assert_eq!(world.xen.pci_owner(device) == domid, is_there, "{what}");
                let owner = bench.must(&world, |host| assignable::owner(host, device));
                assert_eq!(owner.is_some(), is_there, "{what}");
                // The other way always works then.
                if is_there {
                    bench.must(&world, |host| detach(host, device));
                } else {
                    bench.must(&world, |host| attach(host, device));
                }
                bench.must(&world, destroy);
                let listed = bench.must(&world, assignable::list);
                assert_eq!(listed.len(), 2, "{what}");
                if matches!(ended, Ended::Well(_)) {
                    break;
                }
            }
        }
    }
}
