//! Finds and checks the parts of a domain before the first step: kernel, ramdisk, policy, memory, devices, pool.
//!
//! The create's context owns a [`Prepared`]; a restart and the dry run call single checks.

use std::path::PathBuf;

use uuid::Uuid;
use xen_build::{BootModule, BuildRequest, Channel, HvmMachine, memory};
use xen_image::Image;
use xen_port::{DomId, EvtchnPort, GuestKind, Hypervisor, PhysInfo};
use xenstore::{Batch, Tree};
use xyl_audit::Operation;

use super::{SavedGuest, path};
use crate::Notice;
use crate::config::admission::{self, Admitted, Decision};
use crate::config::boot_files::{Images, Opened};
use crate::config::boot_loader;
use crate::config::plan;
use crate::config::shim;
use crate::device::{self};
use crate::error::Lacking;
use crate::host::pools::{Pool, Pools};
use crate::vm::hvm::Hvm;
use crate::vm::spec::VmSpec;
use crate::vm::{names, without_domain};
use crate::{Cancel, EngineError, Host};
/// Number of bytes in a KiB.
pub(super) const KIB: u64 = 1024;
/// Pages of a MiB.
const PAGES_PER_MIB: u64 = 256;

/// All that the steps of a create need, checked before the first step.
pub(crate) struct Prepared {
    pub(super) spec: VmSpec,
    pub(super) physical: PhysInfo,
    /// Kernel, ramdisk and firmware. A restored guest has them in its memory.
    images: Option<Images>,
    /// The command line of the kernel that the domain starts: the shim's, if the guest runs in one.
    cmdline: String,
    /// The policy's decision, with its reasons.
    pub(super) admission: admission::Record,
    pub(super) daemons: Daemons,
    /// The CPU pool that the configuration names.
    pub(super) pool: Option<Pool>,
    pub(super) config_text: String,
}

/// The input of a [`Prepared`].
pub(super) struct Order<'a> {
    pub operation: Operation,
    pub physical: PhysInfo,
    pub spec: VmSpec,
    pub config_text: String,
    /// The kernel, if it is open already.
    pub opened: Option<Image>,
    pub cancel: &'a Cancel,
}

impl Prepared {
    pub(super) fn new(
        host: &mut Host,
        order: Order<'_>,
        notice: &mut dyn FnMut(Notice<'_>),
    ) -> Result<Prepared, EngineError> {
        let (operation, cancel) = (order.operation, order.cancel);
        let (physical, mut spec) = (order.physical, order.spec);
        let pool = find_pool(host, &spec)?;
        let config_text = name_backends(host, &mut spec, order.config_text)?;
        let reads_disk = spec.boot_loader.is_some();
        if reads_disk {
            // The cheap checks come first. No earlier user of the disk may have requests under way.
            check_memory(&spec, &physical)?;
            device::check(host, &spec)?;
        }
        let opened = match order.opened {
            Some(kernel) => Opened::named(kernel),
            None => Opened::open(host, &spec, cancel, notice)?,
        };
        let kernel = &opened.kernel;
        let Admitted { record, shim } =
            admission::ask(host, operation, &physical, &mut spec, kernel, notice)?;
        // How the guest is started is settled now.
        check_guest_type(&spec, &physical)?;
        check_hardware(&spec, &physical)?;
        check_label(&*host.hv, &spec, notice)?;
        if record.decision.is_bare_pv32() {
            admission::check_runs_pv32(&*host.hv)?;
        }
        check_memory(&spec, &physical)?;
        let images = Images::load(host, &spec, opened, shim)?;
        let daemons = Daemons::find(host)?;
        check_image(&spec, &images, &record.decision, notice)?;
        if !reads_disk {
            device::check(host, &spec)?;
        }
        Ok(Prepared {
            cmdline: started_cmdline(&spec, &images),
            admission: record,
            spec,
            physical,
            images: Some(images),
            daemons,
            pool,
            config_text,
        })
    }

    /// The same for a saved guest, whose memory has all that was booted. The policy is asked about it as about a new one.
    pub(super) fn of_saved(
        host: &mut Host,
        order: Order<'_>,
        guest: &SavedGuest,
        notice: &mut dyn FnMut(Notice<'_>),
    ) -> Result<Prepared, EngineError> {
        let (physical, mut spec) = (order.physical, order.spec);
        guest.check(&spec)?;
        let pool = find_pool(host, &spec)?;
        let config_text = name_backends(host, &mut spec, order.config_text)?;
        let admission = admission::ask_of_saved(host, guest.is_pv32(), &spec)?;
        guest.check_decision(&admission.decision)?;
        admission::report(&admission.decision, notice);
        check_guest_type(&spec, &physical)?;
        check_hardware(&spec, &physical)?;
        check_label(&*host.hv, &spec, notice)?;
        if guest.is_pv32() {
            admission::check_runs_pv32(&*host.hv)?;
        }
        check_memory(&spec, &physical)?;
        let daemons = Daemons::find(host)?;
        device::check(host, &spec)?;
        Ok(Prepared {
            cmdline: String::new(),
            admission,
            spec,
            physical,
            images: None,
            daemons,
            pool,
            config_text,
        })
    }

    pub(super) fn modules(&self) -> Vec<BootModule<'_>> {
        self.images.iter().flat_map(Images::modules).collect()
    }

    /// The request for the builder of its memory; `None` for a saved guest.
    pub(super) fn build_request<'r>(
        &'r self,
        domid: DomId,
        ports: (EvtchnPort, EvtchnPort),
        modules: &'r [BootModule<'r>],
    ) -> Option<BuildRequest<'r>> {
        let channels = self.daemons.channels(ports);
        let start = Start {
            kernel: self.images.as_ref()?.first(),
            cmdline: &self.cmdline,
            allow_bare_pv32: self.admission.decision.is_bare_pv32(),
        };
        Some(build_request(&self.spec, domid, channels, start, modules))
    }
}

/// Puts the names of driver domains in place of their numbers. The text of the record after that.
fn name_backends(
    host: &mut Host,
    spec: &mut VmSpec,
    mut text: String,
) -> Result<String, EngineError> {
    for kind in device::KINDS {
        let before = kind.recorded(spec);
        kind.name_backends(host, spec)?;
        let after = kind.recorded(spec);
        if let Some(setting) = kind.setting().filter(|_| before != after) {
            let entries = after.into_iter().map(|device| device.text).collect();
            text = plan::change_list("record", &text, setting, |list| *list = entries)?;
        }
    }
    Ok(text)
}

/// The command line of what the domain starts: the shim's, where the kernel runs in one.
fn started_cmdline(spec: &VmSpec, images: &Images) -> String {
    match &spec.shim {
        Some(shim) => shim.command_line(),
        None => images.cmdline.clone(),
    }
}

/// The kernel that the domain starts, and its command line.
#[derive(Clone, Copy)]
struct Start<'r> {
    kernel: &'r Image,
    cmdline: &'r str,
    /// Whether the policy allows this very image as a 32-bit PV guest without the shim.
    allow_bare_pv32: bool,
}

/// The channels to xenstore and to the console.
pub(super) type Channels = (Channel, Channel);

fn build_request<'r>(
    spec: &VmSpec,
    domid: DomId,
    (store, console): Channels,
    start: Start<'r>,
    modules: &'r [BootModule<'r>],
) -> BuildRequest<'r> {
    BuildRequest {
        domid,
        kernel: start.kernel,
        cmdline: start.cmdline,
        modules,
        target_kib: spec.target_kib,
        max_kib: spec.max_kib,
        max_vcpus: spec.max_vcpus,
        // A shim starts each CPU that is there when its guest does, and refuses others; its guest reads in xenstore
        // which are to be online.
        online_vcpus: match spec.shim {
            Some(_) => spec.max_vcpus,
            None => spec.vcpus,
        },
        store,
        console,
        claim: spec.claim,
        allow_bare_pv32: start.allow_bare_pv32,
        hvm_params: &[],
    }
}

/// A kernel that a restart has opened before it ends the old domain.
pub(crate) struct OpenedKernel {
    pub(super) path: PathBuf,
    pub(super) image: Image,
}

/// Refuses a restart that the policy or the guest's type would refuse, while the VM has its old domain still. What may be there
/// by the time that the next one is made (its kernel, memory) is left to the restart. Returns the kernel that the policy was asked
/// about, for [`Context::of_next_domain`]; `None` where it cannot be opened yet.
pub(crate) fn check_admission(
    host: &mut Host,
    uuid: Uuid,
) -> Result<Option<OpenedKernel>, EngineError> {
    let mut spec = plan::of_record(host, uuid)?.spec;
    let physical = host.hv.phys_info()?;
    if spec.boot_loader.is_some() {
        // The guest's disk is read once the old domain has let it go.
        boot_loader::check_right(host, &spec)?;
        return Ok(None);
    }
    let silent = &mut |_: Notice<'_>| ();
    let Ok(Opened { kernel: image, .. }) = Opened::open(host, &spec, &Cancel::new(), silent) else {
        return Ok(None);
    };
    let path = spec.kernel.clone();
    let operation = Operation::Restart;
    match admission::ask(host, operation, &physical, &mut spec, &image, silent) {
        Ok(_) => {}
        Err(
            refusal @ (EngineError::NotAdmitted { .. }
            | EngineError::Policy(_)
            | EngineError::Advisories(_)),
        ) => return Err(refusal),
        Err(_) => return Ok(None),
    }
    check_guest_type(&spec, &physical)?;
    check_hardware(&spec, &physical)?;
    Ok(Some(OpenedKernel { path, image }))
}

fn check_guest_type(spec: &VmSpec, physical: &PhysInfo) -> Result<(), EngineError> {
    match spec.kind {
        GuestKind::Pv if !physical.caps.pv => Err(EngineError::NoPv),
        GuestKind::Pvh | GuestKind::Hvm if !physical.caps.hvm => {
            Err(EngineError::NoHardwareVirtualisation(spec.kind_text()))
        }
        _ => Ok(()),
    }
}

/// Refuses what the host's hardware lacks. Xen would refuse it too, but names no reason.
fn check_hardware(spec: &VmSpec, physical: &PhysInfo) -> Result<(), EngineError> {
    let caps = &physical.caps;
    let has_paging = |with_hap: bool| if with_hap { caps.hap } else { caps.shadow };
    let lacking = match spec.kind {
        GuestKind::Pv => None,
        _ if spec.hap == Some(true) && !caps.hap => Some(Lacking::Hap),
        _ if !has_paging(uses_hap(spec, physical)) => Some(Lacking::Shadow),
        _ if spec.nested_virt && !uses_hap(spec, physical) => Some(Lacking::HapForNested),
        _ if spec.vmtrace_size_bytes > 0 && !caps.vmtrace => Some(Lacking::Vmtrace),
        _ => None,
    };
    lacking.map_or(Ok(()), |what| Err(EngineError::HostLacks(what)))
}

/// A label says nothing to a Xen without security modules; xl warns and goes on, too. Domain 0 has a label if there are
/// any. Labels themselves are not supported yet.
fn check_label(
    hv: &dyn Hypervisor,
    spec: &VmSpec,
    notice: &mut dyn FnMut(Notice<'_>),
) -> Result<(), EngineError> {
    if !spec.has_label {
        return Ok(());
    }
    let dom0 = hv.domain_info(DomId::ZERO)?;
    if dom0.is_some_and(|dom0| dom0.ssidref != 0) {
        return Err(EngineError::LabelsUnsupported);
    }
    notice(Notice::Warning(
        "`seclabel` and `init_seclabel` have no effect: this Xen has no security modules (XSM)",
    ));
    Ok(())
}

pub(super) fn check_identity(host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
    let mut others = host.hv.domain_list()?;
    // One that has been destroyed lingers until Xen has freed the last of it; its name and UUID are free.
    others.retain(|domain| !domain.flags.dying);
    if let Some(other) = others
        .iter()
        .find(|domain| &domain.handle == spec.uuid.as_bytes())
    {
        return Err(EngineError::UuidTaken {
            uuid: spec.uuid_text(),
            domid: other.domid,
        });
    }
    without_domain::refuse_its_name(&host.records(), &others, &spec.name, spec.uuid.as_bytes())?;
    match names::find(&mut host.store, &others, &spec.name)? {
        Some(domid) => Err(EngineError::NameTaken {
            name: spec.name.clone(),
            domid,
        }),
        None => Ok(()),
    }
}

fn check_memory(spec: &VmSpec, physical: &PhysInfo) -> Result<(), EngineError> {
    let paging_kib = match spec.kind {
        GuestKind::Pv => 0,
        _ => paging_size_bytes(spec, physical) / KIB,
    };
    let wanted_mib = (spec.target_kib.saturating_add(paging_kib)).div_ceil(KIB);
    let free_mib = physical.unclaimed_pages() / PAGES_PER_MIB;
    if wanted_mib > free_mib {
        return Err(EngineError::NotEnoughMemory {
            wanted_mib,
            free_mib,
        });
    }
    Ok(())
}

/// Xen and xenstore are asked only where the configuration names a pool.
pub(crate) fn find_pool(host: &mut Host, spec: &VmSpec) -> Result<Option<Pool>, EngineError> {
    let Some(wanted) = &spec.pool else {
        return Ok(None);
    };
    let pools = Pools::read(&*host.hv, &mut host.store)?;
    match pools.find(wanted) {
        Some(pool) => Ok(Some(pool.clone())),
        None => Err(EngineError::NoSuchPool(wanted.clone())),
    }
}

pub(super) fn uses_hap(spec: &VmSpec, physical: &PhysInfo) -> bool {
    spec.kind != GuestKind::Pv && spec.hap.unwrap_or(physical.caps.hap)
}

pub(super) fn paging_size_bytes(spec: &VmSpec, physical: &PhysInfo) -> u64 {
    memory::paging_mempool_size_bytes(spec.max_kib, spec.max_vcpus, uses_hap(spec, physical))
}

/// The domains that serve xenstore and consoles; domain 0 unless they say otherwise.
#[derive(Default)]
pub(crate) struct Daemons {
    pub(crate) store: DomId,
    pub(crate) console: DomId,
}

impl Daemons {
    pub(crate) fn find(host: &mut Host) -> Result<Daemons, EngineError> {
        let mut batch = Batch::new();
        let store = batch.read_opt(&path("/tool/xenstored/domid")?);
        let console = batch.read_opt(&path("/tool/xenconsoled/domid")?);
        let replies = host.store.run(&batch)?;
        let domid = |index| {
            let text = std::str::from_utf8(replies.value(index)?).ok()?;
            text.trim().parse().ok().map(DomId)
        };
        Ok(Daemons {
            store: domid(store).unwrap_or(DomId::ZERO),
            console: domid(console).unwrap_or(DomId::ZERO),
        })
    }

    pub(super) fn channels(&self, (store, console): (EvtchnPort, EvtchnPort)) -> Channels {
        let to = |port, backend| Channel { port, backend };
        (to(store, self.store), to(console, self.console))
    }
}

/// Checks that what the domain starts fits into it.
pub(crate) fn check_image(
    spec: &VmSpec,
    images: &Images,
    decision: &Decision,
    notice: &mut dyn FnMut(Notice<'_>),
) -> Result<(), EngineError> {
    warn_of_shim(spec, images, notice)?;
    let modules = images.modules();
    let none = Daemons::default().channels((EvtchnPort(0), EvtchnPort(0)));
    let cmdline = started_cmdline(spec, images);
    let start = Start {
        kernel: images.first(),
        cmdline: &cmdline,
        allow_bare_pv32: decision.is_bare_pv32(),
    };
    let request = build_request(spec, DomId::ZERO, none, start, &modules);
    match &spec.hvm {
        Some(hvm) => drop(xen_build::check_hvm(&request, &machine(hvm))?),
        None if spec.kind == GuestKind::Pv => xen_build::check_pv(&request)?,
        None => xen_build::check_pvh(&request)?,
    }
    Ok(())
}

/// The machine of an HVM guest, as the builder of its memory needs it.
pub(super) fn machine(hvm: &Hvm) -> HvmMachine {
    let usual = HvmMachine::default();
    HvmMachine {
        video_ram_kib: hvm.video_kib,
        mmio_hole_mib: hvm.mmio_hole_mib.unwrap_or(usual.mmio_hole_mib),
        apic: hvm.has_apic,
    }
}

/// Checks the command line of a guest in the shim, and warns of limits that Xyl cannot check.
pub(crate) fn warn_of_shim(
    spec: &VmSpec,
    images: &Images,
    notice: &mut dyn FnMut(Notice<'_>),
) -> Result<(), EngineError> {
    if spec.shim.is_none() {
        return Ok(());
    }
    shim::check_cmdline(&images.cmdline)?;
    let modules = images.modules();
    let bytes = modules.iter().map(|module| module.content.size_bytes());
    let tight = shim::warn_of_memory(spec, &images.kernel, bytes.sum())?;
    let warnings = images.shim.iter().flat_map(|shim| &shim.warnings);
    for warning in warnings.chain(&tight) {
        notice(Notice::Warning(warning));
    }
    Ok(())
}
