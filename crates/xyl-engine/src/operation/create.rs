//! Creating a domain.
//!
//! What can be found wrong without a domain is found first: names, kernel, memory. Then the steps of
//! [`Kind::Create`] make it, and the failure of any leaves nothing behind: no domain, no claim, no xenstore
//! node, no file.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use xen_build::{BootModule, BuildRequest, Channel, cpu_policy, memory};
use xen_image::Image;
use xen_port::{
    CreateDomain, DomId, EvtchnPort, GuestKind, HvmParam, Hypervisor, PhysInfo, SchedulerId,
    SchedulerParams, VcpuId,
};
use xenstore::{Access as StoreAccess, Batch, Path, Perms, Tree};
use xyl_audit::Operation;
use xyl_saga::{Facts, OnDeath, Step};

use crate::Notice;
use crate::config::admission::{self, Admitted, Decision};
use crate::config::boot_files::Images;
use crate::config::libxl_json;
use crate::config::plan;
use crate::config::plan::Planned;
use crate::config::shim;
use crate::device::console::Ring;
use crate::device::nodes::{Access, Change};
use crate::error::Lacking;
use crate::host::pools::{Pool, Pools};
use crate::operation::destroy;
use crate::operation::xenstore_nodes::{self, DomainTree};
use crate::operation::{Draft, KEEPS_RECORD, Kind, step};
use crate::vm::domid_history::DomidHistory;
use crate::vm::spec::VmSpec;
use crate::vm::{domains, names, store, userdata};
use crate::{Cancel, EngineError, Host, VmGuard};

/// How many free domids are tried until one was not in use a moment ago.
const DOMID_TRIES: u32 = 1000;
/// The mode that makes the time-stamp counter's frequency constant (`XEN_CPUID_TSC_MODE_ALWAYS_EMULATE`).
const TSC_ALWAYS_EMULATED: u32 = 1;
/// Number of bytes in a KiB.
const KIB: u64 = 1024;
/// Pages of a MiB.
const PAGES_PER_MIB: u64 = 256;

/// A domain to be created.
pub struct CreateRequest<'a> {
    /// What it is to be.
    pub spec: &'a VmSpec,
    /// Its configuration as text, kept for restarts.
    pub config_text: &'a str,
    /// Whether it stays paused.
    pub paused: bool,
    /// Whether the process ends right after: then what it has mapped of the domain is left to that, which takes Xen less.
    pub process_ends: bool,
    /// Starts the VM's monitor, once the VM's record is written. It has to end by itself when the domain goes, for
    /// the create may yet be taken back.
    pub watch: &'a mut dyn FnMut(&mut Host, DomId) -> Result<(), EngineError>,
    /// Called when all is there but the start, such as to attach a console.
    pub before_start: &'a mut dyn FnMut(&mut Host, DomId) -> Result<(), EngineError>,
    /// Told what happens.
    pub notice: &'a mut dyn FnMut(Notice<'_>),
}

/// Creates a domain, or leaves no trace of it.
pub fn create(
    host: &mut Host,
    request: &mut CreateRequest<'_>,
    cancel: &Cancel,
) -> Result<DomId, EngineError> {
    create_with(host, request, cancel, false)
}

/// Creates a VM's next domain from its record, which stays even if that fails.
pub(crate) fn again(host: &mut Host, planned: &Planned) -> Result<DomId, EngineError> {
    let mut notice = restart_notice(host);
    let mut request = CreateRequest {
        spec: &planned.spec,
        config_text: &planned.config_text(),
        paused: false,
        process_ends: false,
        watch: &mut |_, _| Ok(()),
        before_start: &mut |_, _| Ok(()),
        notice: &mut notice,
    };
    create_with(host, &mut request, &Cancel::new(), true)
}

/// A restart has no caller to warn: its warnings go where the host's notices go.
fn restart_notice(host: &Host) -> impl FnMut(Notice<'_>) + use<> {
    let tell = Rc::clone(&host.notice);
    move |notice| match notice {
        Notice::Warning(text) => tell(&format!("warning: {text}")),
        Notice::Step(_) => {}
    }
}

fn create_with(
    host: &mut Host,
    request: &mut CreateRequest<'_>,
    cancel: &Cancel,
    keeps_record: bool,
) -> Result<DomId, EngineError> {
    let spec = request.spec;
    let physical = host.hv.phys_info()?;
    let owner = VmGuard::take(host, spec.uuid)?;
    owner.tell(host);
    let name_lock = domains::reserve_name(host, &spec.name)?;
    check_identity(host, spec)?;
    let operation = match keeps_record {
        true => Operation::Restart,
        false => Operation::Create,
    };
    let prepared = Prepared::new(
        host,
        operation,
        physical,
        spec.clone(),
        request.config_text.to_owned(),
        request.notice,
    )?;
    let mut args = Facts::new();
    args.insert("paused".to_owned(), request.paused.into());
    if keeps_record {
        args.insert(KEEPS_RECORD.to_owned(), true.into());
    }
    let mut draft = Draft::new(host, spec.uuid);
    draft.prepared = Some(prepared);
    draft.paused = request.paused;
    draft.keeps_record = keeps_record;
    draft.keeps_mapping = request.process_ends;
    draft.watch = Some(&mut *request.watch);
    draft.before_start = Some(&mut *request.before_start);
    draft.name_lock = Some(name_lock);
    let notice = &mut *request.notice;
    owner.carry_out(
        Kind::Create,
        &spec.name,
        args,
        &mut draft,
        cancel,
        &mut |step| notice(Notice::Step(step)),
    )?;
    std::mem::forget(draft.mapping.take());
    draft.domid()
}

/// The step after which a domain has all that it needs.
pub(crate) const INTRODUCE: &str = "introduce it to xenstored";
/// The step in which a domain may begin to run.
pub(crate) const START: &str = "start it";

/// The steps of a create, in order.
pub(crate) fn steps<'a>() -> Vec<Step<Draft<'a>>> {
    use OnDeath::{RollBack, RollForwardOnceStarted};
    vec![
        step(
            "make the domain",
            RollBack,
            60,
            make_domain,
            Some(unmake_domain),
        ),
        step("set its limits", RollBack, 10, set_limits, None),
        step("open its channels", RollBack, 10, open_channels, None),
        step("describe its CPU", RollBack, 10, describe_cpu, None),
        step("build its memory", RollBack, 600, build_memory, None),
        step("share out the CPU", RollBack, 10, set_scheduling, None),
        step(
            "write its xenstore nodes",
            RollBack,
            30,
            write_nodes,
            Some(remove_nodes),
        ),
        step(
            "record its configuration",
            RollBack,
            10,
            write_records,
            Some(remove_records),
        ),
        step("have it watched", RollBack, 30, have_it_watched, None),
        // Late: from here on xenconsoled is at work, and this process competes with it for the CPU.
        step(INTRODUCE, RollBack, 10, introduce, None),
        step(START, RollForwardOnceStarted, 10, start, None),
    ]
}

/// The steps that give a VM its next domain.
pub(crate) fn steps_of_restart<'a>() -> Vec<Step<Draft<'a>>> {
    let mut steps = vec![step(
        "read its configuration",
        OnDeath::RollBack,
        60,
        prepare_again,
        None,
    )];
    steps.extend(self::steps());
    steps
}

/// What a domain is made from.
pub(crate) struct Prepared {
    spec: VmSpec,
    physical: PhysInfo,
    images: Images,
    /// The command line of what the domain starts.
    cmdline: String,
    /// Why it may start.
    admission: admission::Record,
    daemons: Daemons,
    /// The CPU pool that the configuration names.
    pool: Option<Pool>,
    config_text: String,
}

impl Prepared {
    fn new(
        host: &mut Host,
        operation: Operation,
        physical: PhysInfo,
        mut spec: VmSpec,
        config_text: String,
        notice: &mut dyn FnMut(Notice<'_>),
    ) -> Result<Prepared, EngineError> {
        let pool = find_pool(host, &spec)?;
        let kernel = Images::load_kernel(host, &spec, notice)?;
        let Admitted { record, shim } =
            admission::ask(host, operation, &physical, &mut spec, &kernel, notice)?;
        // How the guest is started is settled now.
        check_guest_type(&spec, &physical)?;
        check_hardware(&spec, &physical)?;
        check_label(&*host.hv, &spec, notice)?;
        if record.decision.is_bare_pv32() {
            admission::check_runs_pv32(&*host.hv)?;
        }
        check_memory(&spec, &physical)?;
        let images = Images::load_rest(&spec, kernel, shim)?;
        let daemons = Daemons::find(host)?;
        check_image(&spec, &images, &record.decision, notice)?;
        Ok(Prepared {
            cmdline: started_cmdline(&spec),
            admission: record,
            spec,
            physical,
            images,
            daemons,
            pool,
            config_text,
        })
    }

    fn modules(&self) -> Vec<BootModule<'_>> {
        self.images
            .modules(self.spec.cmdline.as_deref().unwrap_or(""))
    }

    fn build_request<'r>(
        &'r self,
        domid: DomId,
        ports: (EvtchnPort, EvtchnPort),
        modules: &'r [BootModule<'r>],
    ) -> BuildRequest<'r> {
        let channels = self.daemons.channels(ports);
        let start = Start {
            kernel: self.images.first(),
            cmdline: &self.cmdline,
            allow_bare_pv32: self.admission.decision.is_bare_pv32(),
        };
        build_request(&self.spec, domid, channels, start, modules)
    }
}

/// The command line of what the domain starts: the shim's, where the kernel runs in one.
fn started_cmdline(spec: &VmSpec) -> String {
    match &spec.shim {
        Some(shim) => shim.command_line(),
        None => spec.cmdline.clone().unwrap_or_default(),
    }
}

/// What the domain starts.
#[derive(Clone, Copy)]
struct Start<'r> {
    kernel: &'r Image,
    cmdline: &'r str,
    /// By the decision about this very image.
    allow_bare_pv32: bool,
}

/// The channels to xenstore and to the console.
type Channels = (Channel, Channel);

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

/// A VM that is to get its next domain is checked like one that is new, but for what [`Operation::Restart`] lets through.
fn prepare_again(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let planned = plan::of_record(draft.host, draft.uuid)?;
    let text = planned.config_text();
    let spec = planned.spec;
    let physical = draft.host.hv.phys_info()?;
    if draft.name_lock.is_none() {
        draft.name_lock = Some(domains::reserve_name(draft.host, &spec.name)?);
    }
    check_identity(draft.host, &spec)?;
    let mut notice = restart_notice(draft.host);
    draft.prepared = Some(Prepared::new(
        draft.host,
        Operation::Restart,
        physical,
        spec,
        text,
        &mut notice,
    )?);
    Ok(())
}

// ---- before the first step --------------------------------------------------------------------

fn check_guest_type(spec: &VmSpec, physical: &PhysInfo) -> Result<(), EngineError> {
    match spec.kind {
        GuestKind::Pv if !physical.caps.pv => Err(EngineError::NoPv),
        GuestKind::Pvh | GuestKind::Hvm if !physical.caps.hvm => {
            Err(EngineError::NoHardwareVirtualisation(spec.kind_text()))
        }
        _ => Ok(()),
    }
}

/// What Xen would refuse without a word of why, since the host lacks it.
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

fn check_identity(host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
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
    let free_pages = physical
        .free_pages
        .saturating_sub(physical.outstanding_pages);
    let free_mib = free_pages / PAGES_PER_MIB;
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

fn uses_hap(spec: &VmSpec, physical: &PhysInfo) -> bool {
    spec.kind != GuestKind::Pv && spec.hap.unwrap_or(physical.caps.hap)
}

fn paging_size_bytes(spec: &VmSpec, physical: &PhysInfo) -> u64 {
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

    fn channels(&self, (store, console): (EvtchnPort, EvtchnPort)) -> Channels {
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
    let modules = images.modules(spec.cmdline.as_deref().unwrap_or(""));
    let none = Daemons::default().channels((EvtchnPort(0), EvtchnPort(0)));
    let cmdline = started_cmdline(spec);
    let start = Start {
        kernel: images.first(),
        cmdline: &cmdline,
        allow_bare_pv32: decision.is_bare_pv32(),
    };
    let request = build_request(spec, DomId::ZERO, none, start, &modules);
    match spec.kind {
        GuestKind::Pv => xen_build::check_pv(&request)?,
        _ => xen_build::check_pvh(&request)?,
    }
    Ok(())
}

/// Tells of what cannot be known of a guest in the shim.
pub(crate) fn warn_of_shim(
    spec: &VmSpec,
    images: &Images,
    notice: &mut dyn FnMut(Notice<'_>),
) -> Result<(), EngineError> {
    if spec.shim.is_none() {
        return Ok(());
    }
    let modules = images.modules("");
    let bytes = modules.iter().map(|module| module.content.size_bytes());
    let tight = shim::warn_of_memory(spec, &images.kernel, bytes.sum())?;
    let warnings = images.shim.iter().flat_map(|shim| &shim.warnings);
    for warning in warnings.chain(&tight) {
        notice(Notice::Warning(warning));
    }
    Ok(())
}

// ---- the steps ----------------------------------------------------------------------------------

fn make_domain(draft: &mut Draft<'_>, deadline: Instant) -> Result<(), EngineError> {
    let request = domain_request(draft)?;
    for _ in 0..DOMID_TRIES {
        let domid = draft.host.hv.create_domain(&request)?;
        draft.domid = Some(domid);
        if !DomidHistory::of(draft.host).is_recent(domid) {
            return Ok(());
        }
        // Xen goes on from the last number it gave, so the next try gets another one.
        unmake_domain(draft, deadline)?;
    }
    Err(EngineError::NoFreshDomid)
}

fn domain_request(draft: &Draft<'_>) -> Result<CreateDomain, EngineError> {
    let prepared = draft.prepared()?;
    let spec = &prepared.spec;
    let caps = &prepared.physical.caps;
    let newest_grants = if caps.gnttab_v2 {
        2
    } else {
        u32::from(caps.gnttab_v1)
    };
    Ok(CreateDomain {
        domid: None,
        kind: spec.kind,
        handle: *spec.uuid.as_bytes(),
        ssidref: 0,
        hap: uses_hap(spec, &prepared.physical),
        oos_off: false,
        nested_virt: spec.nested_virt,
        vpmu: spec.vpmu,
        iommu: false,
        max_vcpus: spec.max_vcpus,
        max_evtchn_port: spec.max_event_channels,
        max_grant_frames: spec.max_grant_frames,
        max_maptrack_frames: spec.max_maptrack_frames,
        max_grant_version: spec.max_grant_version.unwrap_or(newest_grants),
        cpupool: prepared.pool.as_ref().map_or(0, |pool| pool.id),
        msr_relaxed: spec.msr_relaxed,
        vmtrace_size_bytes: spec.vmtrace_size_bytes,
    })
}

fn unmake_domain(draft: &mut Draft<'_>, deadline: Instant) -> Result<(), EngineError> {
    let Some(domid) = draft.domid else {
        return Ok(());
    };
    refuse_domain_that_has_run(draft)?;
    draft.mapping = None;
    if draft.is_still_ours(domid)? {
        destroy::end_domain(draft.host, domid, deadline)?;
    }
    draft.domid = None;
    Ok(())
}

/// What each undo asks first: somebody else may have unpaused the domain that is being made.
fn refuse_domain_that_has_run(draft: &Draft<'_>) -> Result<(), EngineError> {
    let Some(domid) = draft.domid else {
        return Ok(());
    };
    let info = draft.host.hv.domain_info(domid)?;
    let has_run = info.is_some_and(|info| {
        &info.handle == draft.uuid.as_bytes() && !info.flags.dying && domains::has_run(&info)
    });
    match has_run {
        true => Err(EngineError::HasRun(domid)),
        false => Ok(()),
    }
}

fn set_limits(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let (domid, prepared) = (draft.domid()?, draft.prepared()?);
    let (spec, physical) = (&prepared.spec, &prepared.physical);
    let hv = &draft.host.hv;
    hv.set_max_vcpus(domid, spec.max_vcpus)?;
    let pinned = spec.hard_affinity.len().max(spec.soft_affinity.len()) as u32;
    for vcpu in 0..pinned.min(spec.max_vcpus) {
        let hard = spec.hard_affinity.get(vcpu as usize);
        let soft = spec.soft_affinity.get(vcpu as usize);
        hv.set_vcpu_affinity(domid, VcpuId(vcpu), hard, soft, false)?;
    }
    hv.set_max_mem(domid, memory::max_mem_kib(spec.target_kib))?;
    if spec.tsc_mode != 0 {
        hv.set_tsc_mode(domid, spec.tsc_mode)?;
    }
    if spec.time_offset_s != 0 {
        hv.set_time_offset(domid, spec.time_offset_s)?;
    }
    if spec.kind != GuestKind::Pv {
        hv.set_paging_mempool(domid, paging_size_bytes(spec, physical))?;
    }
    Ok(())
}

fn open_channels(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let (domid, daemons) = (draft.domid()?, &draft.prepared()?.daemons);
    let (store, console) = (daemons.store, daemons.console);
    draft.store_port = draft.host.hv.alloc_unbound(domid, store)?;
    draft.console_port = draft.host.hv.alloc_unbound(domid, console)?;
    Ok(())
}

fn describe_cpu(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let spec = &draft.prepared()?.spec;
    let options = cpu_policy::CpuPolicyOptions {
        invariant_tsc: spec.nomigrate || spec.tsc_mode == TSC_ALWAYS_EMULATED,
        nested_virt: spec.nested_virt,
    };
    cpu_policy::apply_default_policy(&*draft.host.hv, draft.domid()?, spec.kind, options)?;
    Ok(())
}

fn build_memory(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let prepared = draft.prepared()?;
    let modules = prepared.modules();
    let ports = (draft.store_port, draft.console_port);
    let mut request = prepared.build_request(draft.domid()?, ports, &modules);
    let params = [(HvmParam::TimerMode, prepared.spec.timer_mode)];
    let hv = &*draft.host.hv;
    let (built, mapping) = match prepared.spec.kind {
        // A mapped page of a PV guest cannot become one of its page tables.
        GuestKind::Pv => (xen_build::build_pv(hv, &request)?, None),
        _ => {
            request.hvm_params = &params;
            let (built, mapping) = xen_build::build_pvh_mapped(hv, &request)?;
            (built, draft.keeps_mapping.then_some(mapping))
        }
    };
    (draft.built, draft.mapping) = (Some(built), mapping);
    Ok(())
}

fn set_scheduling(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let (domid, prepared) = (draft.domid()?, draft.prepared()?);
    let spec = &prepared.spec;
    if spec.cpu_weight.is_none() && spec.cpu_cap.is_none() {
        return Ok(());
    }
    let hv = &draft.host.hv;
    let scheduler = match &prepared.pool {
        Some(pool) => pool.scheduler,
        // Pool 0 is under the default scheduler.
        None => hv.scheduler_id()?,
    };
    if !matches!(scheduler, SchedulerId::Credit | SchedulerId::Credit2) {
        return Err(EngineError::NoShares(scheduler.name()));
    }
    let now = hv.scheduler_params(domid, scheduler)?;
    let change = |weight: u16, cap: u16| {
        (
            spec.cpu_weight.unwrap_or(weight),
            spec.cpu_cap.unwrap_or(cap),
        )
    };
    let wanted = match now {
        SchedulerParams::Credit { weight, cap } => {
            let (weight, cap) = change(weight, cap);
            SchedulerParams::Credit { weight, cap }
        }
        SchedulerParams::Credit2 { weight, cap } => {
            let (weight, cap) = change(weight, cap);
            SchedulerParams::Credit2 { weight, cap }
        }
    };
    Ok(hv.set_scheduler_params(domid, &wanted)?)
}

fn write_nodes(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let domid = draft.domid()?;
    let mut batch = removal_of(&[
        xenstore_nodes::domain_path(domid),
        xenstore_nodes::libxl_path(domid),
    ])?;
    for change in xenstore_nodes::changes(&domain_tree(draft)?) {
        add(&mut batch, &change)?;
    }
    draft
        .host
        .store
        .transaction(|transaction| transaction.run(&batch).map(drop))?;
    Ok(())
}

fn domain_tree(draft: &Draft<'_>) -> Result<DomainTree, EngineError> {
    let spec = &draft.prepared()?.spec;
    let built = draft.built()?;
    Ok(DomainTree {
        domid: draft.domid()?,
        uuid: draft.uuid_text(),
        name: spec.name.clone(),
        kind: spec.kind,
        target_kib: spec.target_kib,
        max_kib: spec.max_kib,
        vcpus_online: (0..spec.max_vcpus).map(|vcpu| vcpu < spec.vcpus).collect(),
        console: Ring {
            gfn: built.console_gfn,
            port: draft.console_port,
        },
        start_time: start_time(draft.host.clock.calendar()),
    })
}

/// Now, as xl writes it: seconds and hundredths.
fn start_time(now: SystemTime) -> String {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}.{:02}", now.as_secs(), now.subsec_millis() / 10)
}

/// Puts one change of a domain's tree into a batch.
pub(crate) fn add(batch: &mut Batch, change: &Change) -> Result<(), EngineError> {
    match change {
        Change::Write(at, value) => batch.write(&path(at)?, value.as_bytes()),
        Change::Perms(at, domid, access) => batch.set_perms(&path(at)?, &perms(*domid, *access)),
    };
    Ok(())
}

fn perms(domid: DomId, access: Access) -> Perms {
    match access {
        Access::Dom0 => Perms::owned_by(0),
        Access::GuestReads => Perms::owned_by(0).with(domid.0, StoreAccess::Read),
        Access::GuestOwns => Perms::owned_by(domid.0),
    }
}

/// Removes what an earlier domain of this number may have left.
fn removal_of(roots: &[String]) -> Result<Batch, EngineError> {
    let mut batch = Batch::new();
    for root in roots {
        batch.rm(&path(root)?);
    }
    Ok(batch)
}

fn remove_nodes(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let Some(domid) = draft.domid else {
        return Ok(());
    };
    refuse_domain_that_has_run(draft)?;
    let uuid = draft.uuid_text();
    destroy::remove_nodes_if_ours(draft.host, domid, &uuid)
}

fn introduce(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let (domid, gfn) = (draft.domid()?, draft.built()?.store_gfn);
    draft
        .host
        .store
        .introduce(domid.0, gfn.0, draft.store_port.0)?;
    match &mut draft.before_start {
        Some(before_start) => before_start(draft.host, domid),
        None => Ok(()),
    }
}

fn write_records(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let (uuid, prepared, host) = (draft.uuid_text(), draft.prepared()?, &*draft.host);
    let spec = &prepared.spec;
    if !draft.keeps_record {
        store::write(&*host.files, &host.dirs, &uuid, &prepared.config_text)?;
    }
    admission::write(&*host.files, &host.dirs, &uuid, &prepared.admission)?;
    let shadow_bytes = paging_size_bytes(spec, &prepared.physical);
    let pool = prepared.pool.as_ref().and_then(|pool| pool.name.as_deref());
    let record = libxl_json::write::record(&libxl_json::Source {
        spec,
        shadow_kib: shadow_bytes / KIB,
        pool,
    });
    userdata::write_json(host, draft.domid()?, &uuid, &record)
}

fn remove_records(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    refuse_domain_that_has_run(draft)?;
    let (uuid, host) = (draft.uuid_text(), &*draft.host);
    if let Some(domid) = draft.domid {
        userdata::remove_all(host, domid, &uuid)?;
    }
    match draft.keeps_record {
        true => Ok(()),
        false => store::remove(&*host.files, &host.dirs, &uuid),
    }
}

/// From before its first instruction on somebody waits for the domain's end, so that no failure
/// between the two leaves a VM that nobody restarts.
fn have_it_watched(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let domid = draft.domid()?;
    match &mut draft.watch {
        Some(watch) => watch(draft.host, domid),
        None => Ok(()),
    }
}

fn start(draft: &mut Draft<'_>, _: Instant) -> Result<(), EngineError> {
    let domid = draft.domid()?;
    if draft.paused || (draft.is_taken_over && has_been_started(draft, domid)?) {
        return Ok(());
    }
    Ok(draft.host.hv.unpause_domain(domid)?)
}

/// Whether a domain has run: then somebody else may have paused it since.
fn has_been_started(draft: &Draft<'_>, domid: DomId) -> Result<bool, EngineError> {
    let info = draft.host.hv.domain_info(domid)?;
    let info = info.filter(|info| &info.handle == draft.uuid.as_bytes());
    Ok(info.is_none_or(|info| domains::has_run(&info)))
}

fn path(text: &str) -> Result<Path, EngineError> {
    Ok(Path::new(text).map_err(xenstore::Error::from)?)
}
