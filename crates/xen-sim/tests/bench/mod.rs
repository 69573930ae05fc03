//! A kernel on the real disk, which is read and never written to, and processes in a world that use it.

#![allow(dead_code, reason = "each test uses a part of it")]

#[path = "../../../xen-build/tests/common/mod.rs"]
pub mod common;
pub mod qemu;
pub mod seeds;

use std::path::{Path, PathBuf};

use common::{Kernel, MIB, PAGE, pattern};
use os_port::{BlockDevice, DeviceNumber, LinkName};
use xen_image::elfnote::types;
use xen_port::DomId;
use xen_sim::{Ended, Fate, Moment, Sabotage, Snapshot, World};
use xenstore::Tree;
use xyl_engine::config::plan::{self, Planned};
use xyl_engine::host::dom0;
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::{Cancel, Dirs, EngineError, Host};

/// UUIDs of the guests that the tests make.
const GUESTS: [&str; 5] = [
    "6a1d0c4e-0000-4000-8000-000000000001",
    "6a1d0c4e-0000-4000-8000-000000000002",
    "6a1d0c4e-0000-4000-8000-000000000003",
    "6a1d0c4e-0000-4000-8000-000000000004",
    "6a1d0c4e-0000-4000-8000-0000000000ff",
];

/// Virtual address of a PV guest's first page.
const PV_BASE: u64 = 0xffff_ffff_8000_0000;
/// The bridge of the host.
pub const BRIDGE: &str = "xenbr0";
/// A network interface of a guest.
const VIF: &str = "vif = [ '' ]\n";

pub struct Bench {
    /// A fault in every process that acts or recovers.
    pub sabotage: Option<Sabotage>,
    /// Whether its guests have disks and a network interface.
    pub has_devices: bool,
    /// Lives as long as somebody uses it.
    folder: std::sync::Arc<tempfile::TempDir>,
    kernel: PathBuf,
    kernel_cache: PathBuf,
}

impl Bench {
    pub fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("kernel");
        let elf = Kernel::default()
            .part(MIB, pattern(2 * PAGE, 1), PAGE)
            .note(types::PHYS32_ENTRY, &0x10_0010_u32.to_le_bytes())
            .text(types::GUEST_OS, "tests")
            .text(types::LOADER, "generic")
            .text(types::XEN_VERSION, "xen-3.0")
            .number(types::VIRT_BASE, PV_BASE)
            .number(types::ENTRY, PV_BASE + MIB + 0x40)
            .number(types::HYPERCALL_PAGE, PV_BASE + MIB + PAGE)
            .elf();
        std::fs::write(&kernel, elf).unwrap();
        let kernel_cache = folder.path().join("cache");
        Bench {
            sabotage: None,
            has_devices: false,
            folder: std::sync::Arc::new(folder),
            kernel,
            kernel_cache,
        }
    }

    /// The same without a fault in the engine.
    pub fn sound(&self) -> Bench {
        Bench {
            sabotage: None,
            has_devices: self.has_devices,
            folder: std::sync::Arc::clone(&self.folder),
            kernel: self.kernel.clone(),
            kernel_cache: self.kernel_cache.clone(),
        }
    }

    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The same whose guests have disks and a network interface.
    pub fn with_devices() -> Bench {
        Bench {
            has_devices: true,
            ..Bench::new()
        }
    }

    pub fn config(&self, name: &str, uuid: &str) -> String {
        let plain = format!(
            "name = \"{name}\"\nuuid = \"{uuid}\"\ntype = \"pvh\"\nmemory = 8\nkernel = \"{}\"\n",
            self.kernel.display()
        );
        match self.has_devices {
            true => plain + &disks(uuid) + VIF,
            false => plain,
        }
    }

    /// The images and block devices of all guests.
    fn furnish(world: &World) {
        if world
            .disk
            .contents(Path::new("/srv/6a1d0c4e-0000-4000-8000-0000000000ff.img"))
            .is_some()
        {
            return;
        }
        for (minor, uuid) in GUESTS.iter().enumerate() {
            let image = PathBuf::from(format!("/srv/{uuid}.img"));
            world.disk.put(&image, &[7; 4096]);
            let number = DeviceNumber {
                major: 253,
                minor: minor as u32,
            };
            let device = BlockDevice {
                number,
                name: format!("dm-{minor}"),
                size_bytes: 1 << 20,
                is_read_only: false,
                holders: Vec::new(),
                slaves: Vec::new(),
                partitions: Vec::new(),
                disk: None,
            };
            let path = PathBuf::from(format!("/dev/vg/{uuid}"));
            world.disks.put_device(&path, device);
        }
        world.disk.sync_all();
        let bridge = LinkName::parse(BRIDGE).unwrap();
        world.links.add(&bridge, Some("bridge"));
        let mut store = world.store.client(0).unwrap();
        // The kernel makes them at a backend's first error, and leaves them.
        for kind in ["vbd", "vif"] {
            let errors = format!("/local/domain/0/error/backend/{kind}");
            let errors = xenstore::Path::new(&errors).unwrap();
            store.mkdir(&errors).unwrap();
        }
    }

    pub fn plan(&self, text: &str) -> Result<Planned, EngineError> {
        plan::plan_record("bench", text, &mut || Ok(vec![(0, 0)]))
    }

    pub fn host(&self, world: &World, fate: &Fate) -> Host {
        Bench::furnish(world);
        let handles = world.handles(fate).unwrap();
        let mut dirs = Dirs::below(Path::new("/"));
        dirs.kernel_cache = self.kernel_cache.clone();
        let kernel = dom0::Kernel::new(
            handles.kernel_files,
            std::rc::Rc::clone(&handles.spawn),
            std::rc::Rc::clone(&handles.clock),
        );
        Host {
            hv: handles.hv,
            store: handles.store,
            dirs,
            files: handles.files,
            clock: handles.clock,
            process: handles.process,
            spawn: handles.spawn,
            doorbells: handles.doorbells,
            sources: Default::default(),
            kernel,
            devices: handles.devices,
            notice: std::rc::Rc::new(|_| ()),
        }
    }

    /// A process that does one thing.
    pub fn process<T>(
        &self,
        world: &World,
        doom: Option<(u64, Moment)>,
        act: impl FnOnce(&mut Host) -> Result<T, EngineError>,
    ) -> (Ended<Result<T, EngineError>>, u64) {
        self.run(world, world.fate(doom), act)
    }

    /// The process of this fate does one thing.
    pub fn run<T>(
        &self,
        world: &World,
        fate: Fate,
        act: impl FnOnce(&mut Host) -> Result<T, EngineError>,
    ) -> (Ended<Result<T, EngineError>>, u64) {
        let fate = fate.with(self.sabotage);
        let ended = fate.run(|| act(&mut self.host(world, &fate)));
        (ended, fate.calls())
    }

    pub fn must<T>(
        &self,
        world: &World,
        act: impl FnOnce(&mut Host) -> Result<T, EngineError>,
    ) -> T {
        match self.process(world, None, act).0 {
            Ended::Well(Ok(value)) => value,
            Ended::Well(Err(error)) => panic!("{error}"),
            Ended::Killed => panic!("killed"),
        }
    }

    pub fn create(&self, host: &mut Host, name: &str, uuid: &str) -> Result<DomId, EngineError> {
        self.create_from(host, &self.config(name, uuid))
    }

    pub fn create_from(&self, host: &mut Host, text: &str) -> Result<DomId, EngineError> {
        create_planned(host, &self.plan(text)?)
    }
}

/// Two disks of a guest: an image that it writes to, and a block device that it reads.
pub fn disks(uuid: &str) -> String {
    format!("disk = [ \"/srv/{uuid}.img,raw,xvda,rw\", \"/dev/vg/{uuid},raw,xvdb,ro\" ]\n")
}

/// Whether the host's end of a domain's network interface is up, and a port of the bridge.
pub fn is_bridged(now: &Snapshot, domid: DomId) -> bool {
    let named = |name: &str| now.links.iter().find(|link| link.name == name);
    let Some((link, bridge)) = named(&format!("vif{domid}.0")).zip(named(BRIDGE)) else {
        return false;
    };
    link.is_up && link.master == Some(bridge.index) && !link.makes_ipv6_address
}

pub fn create_planned(host: &mut Host, planned: &Planned) -> Result<DomId, EngineError> {
    let mut request = CreateRequest {
        spec: &planned.spec,
        config_text: &planned.config_text(),
        paused: false,
        process_ends: false,
        watch: &mut |_, _| Ok(()),
        before_start: &mut |_, _| Ok(()),
        notice: &mut |_| (),
    };
    create(host, &mut request, &Cancel::new())
}
