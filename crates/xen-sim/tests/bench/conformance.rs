//! What the toolstack relies on of a host, a check each: the same ones run on the simulated host (`tests/conformance.rs`) and on
//! real Xen (`examples/conformance.rs`, in the lab). They are what keeps the simulated host honest.

#[path = "os_conformance.rs"]
pub mod os_conformance;

use std::fmt::Debug;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use uuid::Uuid;
use xen_port::{
    CpuMap, CreateDomain, DomId, DomainInfo, Errno, FrameKind, Gfn, GuestKind, HvError, HvmParam,
    PopulateFlags, ShutdownReason, TscInfo, VcpuId, VcpuPart,
};
use xenstore::{Path, Tree};
use xyl_engine::config::plan;
use xyl_engine::operation::create::{CreateRequest, create};
use xyl_engine::operation::{destroy, restart};
use xyl_engine::supervise::requests::{self, Done, Request};
use xyl_engine::vm::domains;
use xyl_engine::{Cancel, EngineError, Event, Host};

use os_conformance::{DOORBELL_CHECKS, LOOP_CHECKS, Outcome, Ports, has_failed, run_all, same};

/// The host that is looked at.
pub struct Subject<'s> {
    /// A process's way to it.
    pub host: &'s mut Host,
    /// A kernel of a PVH guest.
    pub kernel: &'s FilePath,
    /// Where a core may be written.
    pub folder: &'s FilePath,
}

/// Looks at one thing.
type Check = fn(&mut Subject<'_>) -> Outcome;

/// The checks, by what they say.
pub const CHECKS: &[(&str, Check)] = &[
    ("a domain that is not there is ESRCH", absent),
    ("a new domain is paused, empty and has no vCPU", new_domain),
    ("a number that is taken is EEXIST", taken),
    ("pauses are counted, that of the creation too", pauses),
    ("the first reason of a shutdown stays", first_reason),
    ("no more pages than the maximum", page_limit),
    (
        "a claim is seen, taken back, and refused where it is too large",
        claims,
    ),
    ("event channels have the lowest free port", ports),
    ("parameters of a PVH domain are kept", parameters),
    (
        "an HVM domain has its devices, and parameters within their limits",
        hvm_domain,
    ),
    ("a handle can be changed", handles),
    (
        "pages are found, removed, and noted when they are written to",
        pages_of_domain,
    ),
    (
        "the state of vCPUs and of the TSC is read, and loaded again",
        state_of_domain,
    ),
    ("debug keys are answered in the log", debug_keys),
    (
        "a parameter that is not there is ENOENT, and one that is fixed EACCES",
        parameters_of_xen,
    ),
    ("without Flask its requests are ENOSYS", flask),
    (
        "a CPU is in one pool or free, and a pool in use stays",
        cpu_pools,
    ),
    (
        "a transaction sees what it wrote, and a conflict is tried again",
        transactions,
    ),
    (
        "a watch tells of itself at once, and of what goes with its parent",
        watches,
    ),
    ("a VM's life: create, change, dump, restart, destroy", life),
];

/// The number of all checks.
pub fn count() -> usize {
    CHECKS.len() + LOOP_CHECKS.len() + DOORBELL_CHECKS.len()
}

/// Runs all checks, and calls `tell` with the line of each. Returns the number of failures.
pub fn run(mut subject: Subject<'_>, tell: &mut dyn FnMut(&str)) -> usize {
    let mut failures = 0;
    for (what, check) in CHECKS {
        failures += usize::from(has_failed(what, check(&mut subject), tell));
    }
    let host = &subject.host;
    let ports = Ports {
        files: &*host.files,
        clock: &*host.clock,
        doorbells: &*host.doorbells,
        // The checks of links have a host of their own.
        add_link: &|_, _| Err(std::io::ErrorKind::Unsupported.into()),
        devices: &host.devices,
        folder: subject.folder.to_owned(),
    };
    failures += [LOOP_CHECKS, DOORBELL_CHECKS]
        .map(|checks| run_all(&ports, checks, tell))
        .iter()
        .sum::<usize>();
    failures
}

fn fails<T: Debug>(what: &str, outcome: Result<T, HvError>, errno: Errno) -> Outcome {
    match &outcome {
        Err(error) if error.is(errno) => Ok(()),
        _ => Err(format!("{what}: {outcome:?}, not {errno:?}").into()),
    }
}

// ---- the hypervisor -------------------------------------------------------------------------------

const HANDLE: [u8; 16] = *b"xyl-conformance!";
/// Its number is not given to anybody for a while, so nobody has it.
const NOBODY: DomId = DomId(32_000);

fn request(kind: GuestKind) -> CreateDomain {
    CreateDomain {
        domid: None,
        kind,
        handle: HANDLE,
        ssidref: 0,
        hap: kind != GuestKind::Pv,
        oos_off: true,
        nested_virt: false,
        vpmu: false,
        iommu: false,
        max_vcpus: 2,
        max_evtchn_port: 1023,
        max_grant_frames: Some(4),
        max_maptrack_frames: Some(0),
        max_grant_version: 1,
        cpupool: 0,
        msr_relaxed: false,
        vmtrace_size_bytes: 0,
        hvm_pirq: false,
    }
}

/// Lets a check have an empty domain, and ends that.
fn with_domain(
    subject: &mut Subject<'_>,
    kind: GuestKind,
    check: impl FnOnce(&mut Host, DomId) -> Outcome,
) -> Outcome {
    let host = &mut *subject.host;
    let domid = host.hv.create_domain(&request(kind))?;
    let outcome = check(host, domid);
    let deadline = host.clock.now() + Duration::from_secs(60);
    host.hv.destroy_domain(domid, deadline)?;
    let uuid = Uuid::from_bytes(HANDLE);
    let left = destroy::await_gone(host, domid, uuid, Duration::from_secs(20))?;
    outcome?;
    same("left", left.map(|info| info.flags), None)
}

fn info(host: &Host, domid: DomId) -> Result<DomainInfo, Box<dyn std::error::Error>> {
    Ok(host
        .hv
        .domain_info(domid)?
        .ok_or("there is no such domain")?)
}

fn absent(subject: &mut Subject<'_>) -> Outcome {
    let host = &mut *subject.host;
    let deadline = host.clock.now() + Duration::from_secs(5);
    same("domain_info", host.hv.domain_info(NOBODY)?, None)?;
    fails("pause", host.hv.pause_domain(NOBODY), Errno::ESRCH)?;
    fails("unpause", host.hv.unpause_domain(NOBODY), Errno::ESRCH)?;
    fails(
        "set_max_mem",
        host.hv.set_max_mem(NOBODY, 1024),
        Errno::ESRCH,
    )?;
    fails(
        "set_max_vcpus",
        host.hv.set_max_vcpus(NOBODY, 1),
        Errno::ESRCH,
    )?;
    let destroyed = host.hv.destroy_domain(NOBODY, deadline);
    fails("destroy", destroyed, Errno::ESRCH)
}

fn new_domain(subject: &mut Subject<'_>) -> Outcome {
    for kind in [GuestKind::Pv, GuestKind::Pvh] {
        with_domain(subject, kind, |host, domid| {
            let new = info(host, domid)?;
            same("kind", new.kind(), kind)?;
            same("handle", new.handle, HANDLE)?;
            let flags = &new.flags;
            same(
                "flags",
                (flags.paused, flags.shutdown, flags.dying),
                (true, false, false),
            )?;
            same("pages", new.tot_pages, 0)?;
            same("vCPUs", new.max_vcpu_id, None)?;
            let other = host.hv.set_max_vcpus(domid, 1);
            fails("another number of vCPUs", other, Errno::EINVAL)?;
            host.hv.set_max_vcpus(domid, 2)?;
            same("vCPUs then", info(host, domid)?.max_vcpu_id, Some(1))
        })?;
    }
    Ok(())
}

fn taken(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pvh, |host, domid| {
        let again = CreateDomain {
            domid: Some(domid),
            ..request(GuestKind::Pvh)
        };
        fails("create", host.hv.create_domain(&again), Errno::EEXIST)
    })
}

fn pauses(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pvh, |host, domid| {
        host.hv.set_max_vcpus(domid, 2)?;
        host.hv.pause_domain(domid)?;
        host.hv.unpause_domain(domid)?;
        same("paused", info(host, domid)?.flags.paused, true)?;
        // Its vCPU has never been started: nothing runs.
        host.hv.unpause_domain(domid)?;
        same("paused then", info(host, domid)?.flags.paused, false)?;
        fails(
            "one unpause more",
            host.hv.unpause_domain(domid),
            Errno::EINVAL,
        )
    })
}

fn first_reason(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pvh, |host, domid| {
        host.hv.set_max_vcpus(domid, 2)?;
        for reason in [ShutdownReason::Reboot, ShutdownReason::Poweroff] {
            host.hv.remote_shutdown(domid, reason)?;
            let ended = info(host, domid)?;
            same(
                "reason",
                ended.shutdown_reason,
                Some(ShutdownReason::Reboot),
            )?;
            same("shutdown", ended.flags.shutdown, true)?;
        }
        Ok(())
    })
}

fn page_limit(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pv, |host, domid| {
        host.hv.set_max_mem(domid, 1024)?;
        same("limit", info(host, domid)?.max_pages, 256)?;
        let frames: Vec<Gfn> = (0..512).map(Gfn).collect();
        let flags = PopulateFlags::default();
        let got = host.hv.populate_physmap(domid, 0, flags, &frames)?;
        same("pages", got.len(), 256)?;
        same("pages by Xen", info(host, domid)?.tot_pages, 256)
    })
}

fn claims(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pv, |host, domid| {
        host.hv.set_max_mem(domid, 16 << 10)?;
        host.hv.claim_pages(domid, 1000)?;
        same("claimed", info(host, domid)?.outstanding_pages, 1000)?;
        host.hv.claim_pages(domid, 0)?;
        same("claimed then", info(host, domid)?.outstanding_pages, 0)?;
        fails(
            "more than it may have",
            host.hv.claim_pages(domid, 5000),
            Errno::EINVAL,
        )
    })
}

fn ports(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pvh, |host, domid| {
        host.hv.set_max_vcpus(domid, 2)?;
        for expected in [1, 2, 3] {
            let port = host.hv.alloc_unbound(domid, DomId::ZERO)?;
            same("port", port.0, expected)?;
        }
        Ok(())
    })
}

fn parameters(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pvh, |host, domid| {
        same("before", host.hv.hvm_param(domid, HvmParam::ConsolePfn)?, 0)?;
        host.hv
            .set_hvm_param(domid, HvmParam::ConsolePfn, 0xfefff)?;
        same(
            "after",
            host.hv.hvm_param(domid, HvmParam::ConsolePfn)?,
            0xfefff,
        )
    })
}

/// Parameters that are checked, set once, or of hardware-virtualised domains alone.
fn hvm_domain(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Hvm, |host, domid| {
        same("its kind", info(host, domid)?.kind(), GuestKind::Hvm)?;
        let set = |param, value| host.hv.set_hvm_param(domid, param, value);
        set(HvmParam::TimerMode, 3)?;
        fails("a mode", set(HvmParam::TimerMode, 4), Errno::EINVAL)?;
        fails(
            "no pages",
            set(HvmParam::NrIoreqServerPages, 0),
            Errno::EINVAL,
        )?;
        set(HvmParam::IoreqServerPfn, 0xfeff0)?;
        set(HvmParam::IoreqServerPfn, 0xfeff0)?;
        fails(
            "twice",
            set(HvmParam::IoreqServerPfn, 0xfeff1),
            Errno::EEXIST,
        )?;
        // Xen 4.17 and 4.20 panic when a domain with valid bits and without vCPUs is unpaused, as `set_tsc_mode` does.
        fails("odd bits", set(HvmParam::Viridian, 2), Errno::EINVAL)?;
        fails(
            "a reason",
            set(HvmParam::TripleFaultReason, 99),
            Errno::EINVAL,
        )?;
        fails("PAE", set(HvmParam::PaeEnabled, 1), Errno::EINVAL)?;
        fails("nested", set(HvmParam::NestedHvm, 1), Errno::EINVAL)?;
        fails("TSC", host.hv.set_tsc_mode(domid, 9), Errno::EINVAL)?;
        host.hv.set_tsc_mode(domid, 1)?;
        Ok(host.hv.set_time_offset(domid, -3600)?)
    })?;
    with_domain(subject, GuestKind::Pv, |host, domid| {
        let set = host.hv.set_hvm_param(domid, HvmParam::TimerMode, 1);
        fails("a PV domain", set, Errno::EINVAL)
    })
}

/// An empty PVH or PV domain that can have 1 MiB.
fn make_ready(host: &Host, domid: DomId, kind: GuestKind) -> Outcome {
    host.hv.set_max_vcpus(domid, 2)?;
    host.hv.set_max_mem(domid, 1024)?;
    if kind != GuestKind::Pv {
        host.hv.set_paging_mempool(domid, 4 << 20)?;
    }
    Ok(())
}

fn pages_of_domain(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pvh, |host, domid| {
        make_ready(host, domid, GuestKind::Pvh)?;
        let pages: Vec<Gfn> = (0x10..0x14).map(Gfn).collect();
        let flags = PopulateFlags::default();
        host.hv.populate_physmap(domid, 0, flags, &pages)?;
        same("the last", host.hv.maximum_gpfn(domid)?, Gfn(0x13))?;
        let looked_at = [Gfn(0x10), Gfn(0x13), Gfn(0x14)];
        let kinds = |host: &Host| host.hv.frame_kinds(domid, &looked_at);
        let (data, absent) = (FrameKind::Data, FrameKind::Absent);
        same("the kinds", kinds(host)?, vec![data, data, absent])?;
        host.hv.remove_pages(domid, &[Gfn(0x13)])?;
        same("then", kinds(host)?, vec![data, absent, absent])?;
        same("pages", info(host, domid)?.tot_pages, 3)?;
        host.hv.track_writes(domid)?;
        let again = host.hv.track_writes(domid);
        fails("notes twice", again, Errno::EINVAL)?;
        let bitmap = host.hv.take_written_pages(domid, 64, false)?;
        same("bytes", bitmap.len(), 8)?;
        host.hv.stop_tracking_writes(domid)?;
        host.hv.stop_tracking_writes(domid)?;
        host.hv.track_writes(domid)?;
        Ok(host.hv.stop_tracking_writes(domid)?)
    })
}

fn state_of_domain(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pvh, |host, domid| {
        make_ready(host, domid, GuestKind::Pvh)?;
        let context = host.hv.hvm_context(domid)?;
        host.hv.set_hvm_context(domid, &context)?;
        let cut = context.get(..16).unwrap_or_default();
        same("cut", host.hv.set_hvm_context(domid, cut).is_err(), true)?;
        let tsc = TscInfo {
            mode: 1,
            khz: 1_000_000,
            incarnation: 2,
            elapsed_ns: 1 << 30,
        };
        host.hv.set_tsc_info(domid, &tsc)?;
        same("mode", host.hv.tsc_info(domid)?.mode, 1)?;
        let wrong = TscInfo { mode: 9, ..tsc };
        let refused = host.hv.set_tsc_info(domid, &wrong);
        fails("a mode", refused, Errno::EINVAL)?;
        let part = host.hv.pv_vcpu_state(domid, VcpuId(9), VcpuPart::Extended);
        same("no such vCPU", part.is_err(), true)
    })?;
    with_domain(subject, GuestKind::Pv, |host, domid| {
        make_ready(host, domid, GuestKind::Pv)?;
        let extended = host
            .hv
            .pv_vcpu_state(domid, VcpuId(1), VcpuPart::Extended)?;
        same("bytes", extended.len(), 64)?;
        let set = |state: &[u8]| {
            host.hv
                .set_pv_vcpu_state(domid, VcpuId(1), VcpuPart::Extended, state)
        };
        set(&extended)?;
        let other = host
            .hv
            .pv_vcpu_state(domid, VcpuId(0), VcpuPart::Extended)?;
        fails("of another vCPU", set(&other), Errno::EINVAL)?;
        let context = host.hv.hvm_context(domid);
        fails("an HVM context", context, Errno::EINVAL)
    })
}

fn handles(subject: &mut Subject<'_>) -> Outcome {
    with_domain(subject, GuestKind::Pv, |host, domid| {
        host.hv.set_domain_handle(domid, [7; 16])?;
        same("handle", info(host, domid)?.handle, [7; 16])?;
        let found = domains::find_uuid(&*host.hv, [7; 16])?;
        same("found", found.info.domid, domid)?;
        Ok(host.hv.set_domain_handle(domid, HANDLE)?)
    })
}

// ---- xenstore -------------------------------------------------------------------------------------

fn path(text: &str) -> Result<Path, EngineError> {
    Ok(Path::new(text).map_err(xenstore::Error::from)?)
}

fn debug_keys(subject: &mut Subject<'_>) -> Outcome {
    let hv = &subject.host.hv;
    hv.send_debug_keys("h")?;
    let log = hv.console_ring(false)?;
    let text = String::from_utf8_lossy(&log);
    same(
        "the key is in the log",
        &text.contains("'h' pressed"),
        &true,
    )
}

fn parameters_of_xen(subject: &mut Subject<'_>) -> Outcome {
    let hv = &subject.host.hv;
    fails("none", hv.parameter("no-such-parameter"), Errno::ENOENT)?;
    let fixed = hv.parameter("ler");
    match fixed {
        Ok(parameter) => same("it is fixed", &parameter.max_write_bytes, &0)?,
        // Not each Xen shows it.
        Err(error) if error.is(Errno::ENOENT) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    fails("it is set", hv.set_parameter("ler", &[1]), Errno::EACCES)
}

fn flask(subject: &mut Subject<'_>) -> Outcome {
    let hv = &subject.host.hv;
    fails("the mode", hv.flask_is_enforcing(), Errno::ENOSYS)?;
    fails("a new mode", hv.set_flask_enforcing(true), Errno::ENOSYS)?;
    fails("a policy", hv.load_flask_policy(b"none"), Errno::ENOSYS)
}

/// The number of a pool that nobody has.
const POOL: u32 = 4000;

/// A host with one CPU has none to give to another pool: there the pool stays empty.
fn cpu_pools(subject: &mut Subject<'_>) -> Outcome {
    let host = &mut *subject.host;
    let before = cpus_of_pools(host)?;
    let outcome = with_pool(host);
    // What the checks have left, if one of them has failed.
    for cpu in cpus_of(host, POOL)?.unwrap_or_default().iter() {
        host.hv.remove_cpu_from_pool(POOL, cpu)?;
    }
    if cpus_of(host, POOL)?.is_some() {
        host.hv.destroy_cpu_pool(POOL)?;
    }
    for cpu in host.hv.free_cpus()?.iter() {
        host.hv.add_cpu_to_pool(0, cpu)?;
    }
    outcome?;
    same("the pools", &cpus_of_pools(host)?, &before)
}

/// Each pool with its CPUs. The number of its domains changes some time after a domain has left the list.
fn cpus_of_pools(host: &Host) -> Result<Vec<(u32, CpuMap)>, HvError> {
    let pools = host.hv.cpu_pools()?.into_iter();
    Ok(pools.map(|pool| (pool.id, pool.cpus)).collect())
}

fn cpus_of(host: &Host, pool: u32) -> Result<Option<CpuMap>, HvError> {
    let pools = host.hv.cpu_pools()?;
    let found = pools.into_iter().find(|one| one.id == pool);
    Ok(found.map(|one| one.cpus))
}

fn with_pool(host: &mut Host) -> Outcome {
    let scheduler = host.hv.scheduler_id()?;
    host.hv.create_cpu_pool(POOL, scheduler)?;
    let again = host.hv.create_cpu_pool(POOL, scheduler);
    // Xen allows two pools for each CPU, and looks at their number first.
    let is_full = host.hv.cpu_pools()?.len() >= 2 * host.hv.phys_info()?.nr_cpus as usize;
    let refusal = if is_full {
        Errno::ENOSPC
    } else {
        Errno::EEXIST
    };
    fails("a pool that is there", again, refusal)?;
    let taken = host.hv.add_cpu_to_pool(POOL, 0);
    fails("a CPU of another pool", taken, Errno::ENODEV)?;
    let none = host.hv.remove_cpu_from_pool(POOL, 0);
    fails(
        "a CPU that a pool does not have",
        none,
        Errno::EADDRNOTAVAIL,
    )?;
    let first = host.hv.remove_cpu_from_pool(0, 0);
    fails("CPU 0 of pool 0", first, Errno::EINVAL)?;
    let domid = host.hv.create_domain(&request(GuestKind::Pvh))?;
    let moved = with_domain_in_pool(host, domid);
    let deadline = host.clock.now() + Duration::from_secs(60);
    host.hv.destroy_domain(domid, deadline)?;
    destroy::await_gone(
        host,
        domid,
        Uuid::from_bytes(HANDLE),
        Duration::from_secs(20),
    )?;
    moved?;
    host.hv.destroy_cpu_pool(POOL)?;
    let gone = host.hv.destroy_cpu_pool(POOL);
    fails("a pool that is gone", gone, Errno::ENOENT)
}

fn with_domain_in_pool(host: &mut Host, domid: DomId) -> Outcome {
    let empty = host.hv.move_to_pool(domid, POOL);
    fails("a pool without CPUs", empty, Errno::ENOENT)?;
    let Some(cpu) = cpus_of(host, 0)?
        .unwrap_or_default()
        .iter()
        .find(|cpu| *cpu > 0)
    else {
        return Ok(());
    };
    host.hv.remove_cpu_from_pool(0, cpu)?;
    same("it is free", &host.hv.free_cpus()?.contains(cpu), &true)?;
    host.hv.add_cpu_to_pool(POOL, cpu)?;
    same(
        "it is not free",
        &host.hv.free_cpus()?.contains(cpu),
        &false,
    )?;
    host.hv.move_to_pool(domid, POOL)?;
    let info = host.hv.domain_info(domid)?;
    same("its pool", &info.map(|info| info.cpupool), &Some(POOL))?;
    let last = host.hv.remove_cpu_from_pool(POOL, cpu);
    fails("the last CPU", last, Errno::EBUSY)?;
    let in_use = host.hv.destroy_cpu_pool(POOL);
    fails("a pool with a domain", in_use, Errno::EBUSY)?;
    host.hv.move_to_pool(domid, 0)?;
    Ok(host.hv.remove_cpu_from_pool(POOL, cpu)?)
}

fn transactions(subject: &mut Subject<'_>) -> Outcome {
    let store = &mut subject.host.store;
    let (folder, node) = (path("/tool/conformance")?, path("/tool/conformance/a/b")?);
    let mut tries = 0;
    store.try_transaction(|transaction| {
        tries += 1;
        transaction.write(&node, b"inside")?;
        same("inside", transaction.read(&node)?, b"inside".to_vec())
    })?;
    same("after", store.read(&node)?, b"inside".to_vec())?;
    store.rm(&folder)?;
    same("gone", store.read_opt(&node)?, None)?;
    // What is not there can be removed, whether its parent is there or not.
    store.rm(&folder)?;
    store.rm(&node)?;
    same("tries", tries, 1)
}

fn watches(subject: &mut Subject<'_>) -> Outcome {
    let host = &mut *subject.host;
    let (folder, node) = (path("/tool/conformance")?, path("/tool/conformance/a/b")?);
    host.store.write(&node, b"1")?;
    host.store.watch(&node, "conformance")?;
    let mut events = Vec::new();
    for change in [false, true] {
        if change {
            host.store.rm(&folder)?;
        }
        let event = host.wait_for(&["conformance"], Duration::from_secs(10))?;
        events.push(event.and_then(|event| match event {
            Event::Watch(event) => Some(event.path.to_string()),
            _ => None,
        }));
    }
    let more = host.wait_for(&["conformance"], Duration::from_millis(200))?;
    host.store.unwatch(&node, "conformance")?;
    let expected = Some(node.to_string());
    same("events", events, vec![expected.clone(), expected])?;
    same("one more", more.is_some(), false)
}

// ---- the engine's way ------------------------------------------------------------------------------

const VM: &str = "6a1d0c4e-0000-4000-8000-00000000c0de";

fn life(subject: &mut Subject<'_>) -> Outcome {
    let uuid = Uuid::parse_str(VM)?;
    let before = roots_of(subject.host, uuid)?;
    let domid = make(subject)?;
    let outcome = live(subject, uuid, domid);
    // However far it came, nothing is to stay.
    if let Ok(found) = domains::find_uuid(&*subject.host.hv, *uuid.as_bytes()) {
        requests::ask_for(
            subject.host,
            &found.info,
            &Request::Destroy { force: false },
        )?;
        let limit = Duration::from_secs(20);
        let left = destroy::await_gone(subject.host, found.info.domid, uuid, limit)?;
        same("there still", left.map(|info| info.flags), None)?;
    }
    outcome?;
    same("nodes", roots_of(subject.host, uuid)?, before)
}

/// How much of the VM xenstore has.
fn roots_of(host: &mut Host, uuid: Uuid) -> Result<bool, EngineError> {
    let vm = path(&format!("/vm/{}", uuid.hyphenated()))?;
    Ok(host.store.exists(&vm)?)
}

fn make(subject: &mut Subject<'_>) -> Result<DomId, Box<dyn std::error::Error>> {
    let text = format!(
        "name = \"conformance\"\nuuid = \"{VM}\"\ntype = \"pvh\"\nmemory = 16\nvcpus = 1\nmaxvcpus = 2\nkernel = \"{}\"\n",
        subject.kernel.display()
    );
    let planned = plan::plan_record("conformance", &text, &mut || Ok(vec![(0, 0)]))?;
    let mut request = CreateRequest {
        spec: &planned.spec,
        config_text: &planned.config_text(),
        paused: true,
        process_ends: false,
        watch: &mut |_, _| Ok(()),
        before_start: &mut |_, _| Ok(()),
        notice: &mut |_| (),
    };
    Ok(create(subject.host, &mut request, &Cancel::new())?)
}

fn live(subject: &mut Subject<'_>, uuid: Uuid, domid: DomId) -> Outcome {
    let host = &mut *subject.host;
    let made = info(host, domid)?;
    same("paused", made.flags.paused, true)?;
    let node = |host: &mut Host, name: &str| -> Result<_, Box<dyn std::error::Error>> {
        let value = host
            .store
            .read(&path(&format!("/local/domain/{domid}/{name}"))?)?;
        Ok(String::from_utf8(value)?)
    };
    same("name", node(host, "name")?, "conformance".to_owned())?;

    let ask = |host: &mut Host, request: Request| requests::ask_for(host, &made, &request);
    ask(host, Request::Unpause)?;
    ask(host, Request::Unpause)?;
    ask(host, Request::Pause)?;
    ask(host, Request::Pause)?;
    same("paused again", info(host, domid)?.flags.paused, true)?;
    ask(
        host,
        Request::Rename {
            name: "renamed".to_owned(),
        },
    )?;
    same("new name", node(host, "name")?, "renamed".to_owned())?;
    ask(host, Request::MemoryMaximum { max_kib: 32 << 10 })?;
    ask(
        host,
        Request::MemoryTarget {
            target_kib: 12 << 10,
        },
    )?;
    same("target", node(host, "memory/target")?, "12288".to_owned())?;
    same("maximum", info(host, domid)?.max_pages, (13 << 20) / 4096)?;
    ask(host, Request::Vcpus { nr_vcpus: 2 })?;
    same(
        "vCPU 1",
        node(host, "cpu/1/availability")?,
        "online".to_owned(),
    )?;
    let refused = ask(host, Request::Vcpus { nr_vcpus: 3 });
    same("three vCPUs", refused.is_err(), true)?;

    let file: PathBuf = subject.folder.join("conformance.core");
    let done = ask(
        host,
        Request::DumpCore {
            file: file.clone(),
            is_live: false,
        },
    )?;
    let Done::Dumped(dumped) = done else {
        return Err(format!("a dump says {done:?}").into());
    };
    same("pages that are missing", dumped.nr_missing, 0)?;
    let core = host.files.read(&file, 64 << 20)?;
    same("ELF", core.starts_with(b"\x7fELF"), true)?;
    same("size", core.len() as u64, dumped.size_bytes)?;
    host.files.remove(&file)?;

    host.hv.remote_shutdown(domid, ShutdownReason::Reboot)?;
    let next = restart::restart(host, uuid, domid, false)?.ok_or("no restart")?;
    same("another number", next != domid, true)?;
    let now = info(host, next)?;
    same("handle", now.handle, *uuid.as_bytes())?;
    let name = host
        .store
        .read(&path(&format!("/local/domain/{next}/name"))?)?;
    same("name kept", name, b"renamed".to_vec())?;
    same(
        "nodes of the old",
        host.store
            .exists(&path(&format!("/local/domain/{domid}"))?)?,
        false,
    )
}
