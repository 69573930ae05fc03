//! The work of each step of a create, and its undo. The create's context calls them in the order of its plan.

use std::time::{Instant, SystemTime};

use xen_build::cpu_policy::{self, PolicyBits, PolicyTarget};
use xen_build::memory;
use xen_port::{CreateDomain, DomId, GuestKind, HvmParam, SchedulerId, SchedulerParams, VcpuId};
use xenstore::{Batch, Tree};
use xl_cfg::types::{CpuidBits, CpuidTarget};
use xyl_audit::Operation;
use xyl_saga::At;

use super::prepared::{KIB, Order, Prepared, check_identity, machine, paging_size_bytes, uses_hap};
use super::{Context, Rings, path, restart_notice};
use crate::config::admission::{self};
use crate::config::libxl_json;
use crate::config::plan;
use crate::device::console::Ring;
use crate::device::{self, Owner};
use crate::device_model;
use crate::operation::destroy;
use crate::operation::patience;
use crate::operation::xenstore_nodes::{self, DomainTree};
use crate::vm::domid_history::DomidHistory;
use crate::vm::spec::VmSpec;
use crate::vm::{domains, store, userdata};
use crate::{Cancel, EngineError, Host};
/// Number of free domids that a create tries, until one was not in use within the last minute.
const DOMID_TRIES: u32 = 1000;
/// The mode that makes the time-stamp counter's frequency constant (`XEN_CPUID_TSC_MODE_ALWAYS_EMULATE`).
const TSC_ALWAYS_EMULATED: u32 = 1;

/// A VM that is to get its next domain is checked like one that is new, but for what [`Operation::Restart`] lets through.
pub(super) fn prepare_again(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let planned = plan::of_record(host, context.vm.uuid)?;
    let text = planned.config_text();
    let spec = planned.spec;
    let physical = host.hv.phys_info()?;
    if context.name_lock.is_none() {
        context.name_lock = Some(domains::reserve_name(host, &spec.name)?);
    }
    check_identity(host, &spec)?;
    let opened = context.kernel.take();
    let opened = opened.filter(|kernel| kernel.path == spec.kernel);
    let mut notice = restart_notice(host);
    let order = Order {
        operation: Operation::Restart,
        physical,
        spec,
        config_text: text,
        opened: opened.map(|kernel| kernel.image),
        cancel: &Cancel::new(),
    };
    context.prepared = Some(Prepared::new(host, order, &mut notice)?);
    Ok(())
}

pub(super) fn make_domain(
    host: &mut Host,
    context: &mut Context<'_>,
    at: &mut At<'_>,
) -> Result<(), EngineError> {
    let request = domain_request(context)?;
    for _ in 0..DOMID_TRIES {
        let domid = host.hv.create_domain(&request)?;
        context.domid = Some(domid);
        if !DomidHistory::of(host).is_recent(domid) {
            // One that an earlier domain of this number has left could map the new one's memory.
            return device_model::end_left(host, domid);
        }
        // Xen goes on from the last number it gave, so the next try gets another one.
        unmake_domain(host, context, at)?;
    }
    Err(EngineError::NoFreshDomid)
}

fn domain_request(context: &Context<'_>) -> Result<CreateDomain, EngineError> {
    let prepared = context.prepared()?;
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
        iommu: spec.has_iommu,
        max_vcpus: spec.max_vcpus,
        max_evtchn_port: spec.max_event_channels,
        max_grant_frames: spec.max_grant_frames,
        max_maptrack_frames: spec.max_maptrack_frames,
        max_grant_version: spec.max_grant_version.unwrap_or(newest_grants),
        cpupool: prepared.pool.as_ref().map_or(0, |pool| pool.id),
        msr_relaxed: spec.msr_relaxed,
        vmtrace_size_bytes: spec.vmtrace_size_bytes,
        hvm_pirq: spec.hvm.as_ref().is_some_and(|hvm| hvm.has_pirq),
    })
}

pub(super) fn unmake_domain(
    host: &mut Host,
    context: &mut Context<'_>,
    at: &mut At<'_>,
) -> Result<(), EngineError> {
    let Some(domid) = context.domid else {
        return Ok(());
    };
    refuse_domain_that_has_run(host, context)?;
    context.mapping = None;
    if context.vm.still_has(host, domid)? {
        destroy::end_domain(host, domid, at.deadline())?;
    }
    context.domid = None;
    Ok(())
}

/// Fails if the domain has run. Each undo calls this first, because another process may have unpaused the domain.
fn refuse_domain_that_has_run(host: &Host, context: &Context<'_>) -> Result<(), EngineError> {
    let Some(domid) = context.domid else {
        return Ok(());
    };
    let info = host.hv.domain_info(domid)?;
    let has_run = info.is_some_and(|info| {
        &info.handle == context.vm.uuid.as_bytes() && !info.flags.dying && domains::has_run(&info)
    });
    match has_run {
        true => Err(EngineError::HasRun(domid)),
        false => Ok(()),
    }
}

pub(super) fn set_limits(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let (domid, prepared) = (context.domid()?, context.prepared()?);
    let (spec, physical) = (&prepared.spec, &prepared.physical);
    let hv = &host.hv;
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

pub(super) fn open_channels(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let (domid, daemons) = (context.domid()?, &context.prepared()?.daemons);
    let (store, console) = (daemons.store, daemons.console);
    context.store_port = host.hv.alloc_unbound(domid, store)?;
    context.console_port = host.hv.alloc_unbound(domid, console)?;
    Ok(())
}

pub(super) fn describe_cpu(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let spec = &context.prepared()?.spec;
    let options = cpu_policy::CpuPolicyOptions {
        invariant_tsc: spec.nomigrate || spec.tsc_mode == TSC_ALWAYS_EMULATED,
        nested_virt: spec.nested_virt,
    };
    let bits: Vec<PolicyBits> = spec.cpuid.iter().map(policy_bits).collect();
    cpu_policy::apply_policy(&*host.hv, context.domid()?, spec.kind, options, &bits)?;
    Ok(())
}

fn policy_bits(bits: &CpuidBits) -> PolicyBits {
    let target = match bits.target {
        CpuidTarget::Leaf {
            leaf,
            subleaf,
            register,
        } => PolicyTarget::Leaf {
            leaf,
            subleaf,
            register,
        },
        CpuidTarget::Msr { index } => PolicyTarget::Msr { index },
    };
    PolicyBits {
        target,
        zeros: bits.zeros,
        ones: bits.ones,
        host: bits.host,
    }
}

pub(super) fn build_memory(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let prepared = context.prepared()?;
    let modules = prepared.modules();
    let ports = (context.store_port, context.console_port);
    let request = prepared.build_request(context.domid()?, ports, &modules);
    let mut request = request.ok_or_else(|| context.has_no_domain())?;
    let params = hvm_params(&prepared.spec);
    let hv = &*host.hv;
    let (built, mapping) = match (prepared.spec.kind, &prepared.spec.hvm) {
        // A mapped page of a PV guest cannot become one of its page tables.
        (GuestKind::Pv, _) => (xen_build::build_pv(hv, &request)?, None),
        (_, hvm) => {
            request.hvm_params = &params;
            let (built, mapping) = match hvm {
                Some(hvm) => xen_build::build_hvm_mapped(hv, &request, &machine(hvm))?,
                None => xen_build::build_pvh_mapped(hv, &request)?,
            };
            (built, context.keeps_mapping.then_some(mapping))
        }
    };
    context.rings = Some(Rings {
        store: built.store_gfn,
        console: built.console_gfn,
    });
    context.mapping = mapping;
    Ok(())
}

/// The parameters of a PVH or HVM guest that come from its configuration. Those of timers and Hyper-V are HVM's.
pub(super) fn hvm_params(spec: &VmSpec) -> Vec<(HvmParam, u64)> {
    let mut params = vec![(HvmParam::TimerMode, spec.timer_mode)];
    if let Some(hvm) = &spec.hvm {
        params.push((HvmParam::HpetEnabled, hvm.has_hpet.into()));
        params.push((HvmParam::VptAlign, hvm.aligns_timers.into()));
        // Xen lets it be set once, to a value that is not 0.
        params.extend((hvm.viridian != 0).then_some((HvmParam::Viridian, hvm.viridian)));
    }
    params
}

pub(super) fn set_scheduling(
    host: &mut Host,
    context: &mut Context<'_>,
) -> Result<(), EngineError> {
    let (domid, prepared) = (context.domid()?, context.prepared()?);
    let spec = &prepared.spec;
    if spec.cpu_weight.is_none() && spec.cpu_cap.is_none() {
        return Ok(());
    }
    let hv = &host.hv;
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

pub(super) fn write_nodes(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let domid = context.domid()?;
    let mut batch = removal_of(&[
        xenstore_nodes::domain_path(domid),
        xenstore_nodes::libxl_path(domid),
    ])?;
    for change in xenstore_nodes::changes(&domain_tree(host, context)?) {
        change.add_to(&mut batch)?;
    }
    host.store
        .transaction(|transaction| transaction.run(&batch).map(drop))?;
    Ok(())
}

fn domain_tree(host: &Host, context: &Context<'_>) -> Result<DomainTree, EngineError> {
    let spec = &context.prepared()?.spec;
    let rings = context.rings()?;
    Ok(DomainTree {
        domid: context.domid()?,
        uuid: context.vm.text(),
        name: spec.name.clone(),
        kind: spec.kind,
        target_kib: spec.target_kib,
        max_kib: spec.max_kib,
        vcpus_online: (0..spec.max_vcpus).map(|vcpu| vcpu < spec.vcpus).collect(),
        console: Ring {
            gfn: rings.console,
            port: context.console_port,
        },
        start_time: start_time(host.clock.calendar()),
        hvm: spec.hvm.clone(),
    })
}

/// Now, as xl writes it: seconds and hundredths.
fn start_time(now: SystemTime) -> String {
    let now = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}.{:02}", now.as_secs(), now.subsec_millis() / 10)
}

/// Removes what an earlier domain of this number may have left.
fn removal_of(roots: &[String]) -> Result<Batch, EngineError> {
    let mut batch = Batch::new();
    for root in roots {
        batch.rm(&path(root)?);
    }
    Ok(batch)
}

pub(super) fn remove_nodes(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let Some(domid) = context.domid else {
        return Ok(());
    };
    refuse_domain_that_has_run(host, context)?;
    let uuid = context.vm.text();
    destroy::remove_nodes_if_ours(host, domid, &uuid)
}

pub(super) fn attach_devices(
    host: &mut Host,
    context: &mut Context<'_>,
    at: &At<'_>,
) -> Result<(), EngineError> {
    let owner = Owner {
        domid: context.domid()?,
        uuid: context.vm.uuid,
    };
    device::attach(host, owner, &context.prepared()?.spec, &patience(at))
}

pub(super) fn detach_devices(
    host: &mut Host,
    context: &Context<'_>,
    deadline: Instant,
) -> Result<(), EngineError> {
    let Some(domid) = context.domid else {
        return Ok(());
    };
    refuse_domain_that_has_run(host, context)?;
    destroy::detach_devices_if_ours(host, domid, &context.vm, deadline)
}

pub(super) fn introduce(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let (domid, gfn) = (context.domid()?, context.rings()?.store);
    host.store.introduce(domid.0, gfn.0, context.store_port.0)?;
    match &mut context.before_start {
        Some(before_start) => before_start(host, domid),
        None => Ok(()),
    }
}

pub(super) fn write_records(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let (uuid, prepared, host) = (context.vm.text(), context.prepared()?, &*host);
    let spec = &prepared.spec;
    if !context.keeps_record {
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
    userdata::write_json(host, context.domid()?, &uuid, &record)
}

pub(super) fn remove_records(
    host: &mut Host,
    context: &mut Context<'_>,
) -> Result<(), EngineError> {
    refuse_domain_that_has_run(host, context)?;
    let (uuid, host) = (context.vm.text(), &*host);
    if let Some(domid) = context.domid {
        userdata::remove_all(host, domid, &uuid)?;
    }
    match context.keeps_record {
        true => Ok(()),
        false => store::remove(&*host.files, &host.dirs, &uuid),
    }
}

/// Starts the VM's monitor before the domain's first instruction. So no failure in between leaves a running VM without
/// a monitor.
pub(super) fn have_it_watched(
    host: &mut Host,
    context: &mut Context<'_>,
) -> Result<(), EngineError> {
    let domid = context.domid()?;
    match &mut context.watch {
        Some(watch) => watch(host, domid),
        None => Ok(()),
    }
}

pub(super) fn start(host: &mut Host, context: &mut Context<'_>) -> Result<(), EngineError> {
    let domid = context.domid()?;
    if context.paused || (context.vm.is_taken_over && has_been_started(host, context, domid)?) {
        return Ok(());
    }
    Ok(host.hv.unpause_domain(domid)?)
}

/// Whether the domain has run. Then another process may have paused it since, so it is not unpaused again.
fn has_been_started(host: &Host, context: &Context<'_>, domid: DomId) -> Result<bool, EngineError> {
    let info = host.hv.domain_info(domid)?;
    let info = info.filter(|info| &info.handle == context.vm.uuid.as_bytes());
    Ok(info.is_none_or(|info| domains::has_run(&info)))
}
