//! The floor: the bare hypercalls and the least xenstore requests of a create, and nothing else.
//!
//! No process is started, no file read, nothing checked, nothing copied into the guest: what is left
//! is what Xen, the kernel's privcmd driver and xenstored take for themselves. The domain cannot run;
//! it is unpaused all the same, crashes at its first instruction, and is destroyed outside the time.

use std::time::{Duration, Instant};

use xen_port::{
    CreateDomain, DomId, E820Entry, E820Kind, Gfn, GuestKind, HvmBootCpu, HvmParam, Hypervisor,
    Mfn, PageTableLevel, PopulateFlags, PvBootCpu, PvMode,
};
use xenstore::{Access, Batch, Client, Path, Perms, Tree};

use crate::Outcome;

/// Pages of a 2 MiB extent.
const PAGES_PER_EXTENT: u64 = 512;
/// Order of such an extent.
const EXTENT_ORDER: u32 = 9;
/// Pages that a builder maps of a small guest: kernel, tables, special pages.
const MAPPED_PAGES: u64 = 128;
/// Offset in bytes of the grant for xenstored's ring: the second entry of the table.
const XENSTORE_GRANT_OFFSET: usize = 8;
/// Nodes that a guest and the toolstack cannot do without.
const LEAST_NODES: [&str; 10] = [
    "name",
    "vm",
    "domid",
    "console/port",
    "console/ring-ref",
    "console/type",
    "console/limit",
    "memory/target",
    "cpu/0/availability",
    "control/shutdown",
];

/// Makes such a domain of `memory_mib`, returns the duration, and destroys the domain.
pub fn once(
    hv: &dyn Hypervisor,
    store: &mut Client,
    kind: GuestKind,
    memory_mib: u64,
) -> Outcome<Duration> {
    let started = Instant::now();
    let domid = hv.create_domain(&request(kind))?;
    let built = make(hv, store, kind, domid, memory_mib);
    let took = started.elapsed();
    store.rm(&Path::domain(domid.0))?;
    hv.destroy_domain(domid, Instant::now() + Duration::from_secs(60))?;
    built.map(|()| took)
}

fn request(kind: GuestKind) -> CreateDomain {
    CreateDomain {
        domid: None,
        kind,
        handle: *b"xyl-bench-floor!",
        ssidref: 0,
        hap: kind != GuestKind::Pv,
        oos_off: false,
        nested_virt: false,
        vpmu: false,
        iommu: false,
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: None,
        max_maptrack_frames: None,
        max_grant_version: 1,
        cpupool: 0,
        msr_relaxed: false,
        vmtrace_size_bytes: 0,
        hvm_pirq: false,
    }
}

fn make(
    hv: &dyn Hypervisor,
    store: &mut Client,
    kind: GuestKind,
    domid: DomId,
    memory_mib: u64,
) -> Outcome<()> {
    hv.set_max_vcpus(domid, 1)?;
    hv.set_max_mem(domid, (memory_mib + 1) * 1024)?;
    if kind != GuestKind::Pv {
        hv.set_paging_mempool(domid, (256 + memory_mib) * 4096)?;
    }
    let store_port = hv.alloc_unbound(domid, DomId::ZERO)?;
    hv.alloc_unbound(domid, DomId::ZERO)?;
    hv.set_memory_map(domid, &[whole(memory_mib)])?;
    let extents: Vec<Gfn> = (0..memory_mib / 2)
        .map(|n| Gfn(n * PAGES_PER_EXTENT))
        .collect();
    let frames = hv.populate_physmap(domid, EXTENT_ORDER, PopulateFlags::default(), &extents)?;
    let first = *frames.first().ok_or("no memory")?;
    let store_gfn = match kind {
        GuestKind::Pv => make_pv(hv, domid, first)?,
        _ => make_pvh(hv, domid)?,
    };
    hv.map_grant_frames(domid, 1)?
        .write(XENSTORE_GRANT_OFFSET, &grant(store_gfn)?)?;
    write_nodes(store, domid)?;
    store.introduce(domid.0, store_gfn.0, store_port.0)?;
    hv.unpause_domain(domid)?;
    Ok(())
}

/// A version 1 entry (`grant_table.h`): access for domain 0 to one frame.
fn grant(gfn: Gfn) -> Outcome<[u8; 8]> {
    const PERMIT_ACCESS: u16 = 1;
    let [a, b, c, d] = u32::try_from(gfn.0)?.to_le_bytes();
    let [e, f] = PERMIT_ACCESS.to_le_bytes();
    Ok([e, f, 0, 0, a, b, c, d])
}

fn whole(memory_mib: u64) -> E820Entry {
    E820Entry {
        start: 0,
        size_bytes: memory_mib << 20,
        kind: E820Kind::Ram,
    }
}

/// An empty page is a valid top-level page table, and any page will do for the rings.
fn make_pv(hv: &dyn Hypervisor, domid: DomId, first: Mfn) -> Outcome<Gfn> {
    let mapped: Vec<Gfn> = (0..MAPPED_PAGES).map(|n| Gfn(first.0 + n)).collect();
    drop(hv.map_foreign(domid, &mapped)?);
    hv.domain_info(domid)?;
    hv.init_hypercall_page(domid, Gfn(first.0 + 1))?;
    hv.pin_tables(domid, &[(PageTableLevel::L4, Mfn(first.0))])?;
    hv.set_pv_boot_cpu(
        domid,
        &PvBootCpu {
            rip: 0,
            rsp: 0,
            rsi: 0,
            cr3: first,
            mode: PvMode::Bits64,
        },
    )?;
    Ok(Gfn(first.0 + 2))
}

fn make_pvh(hv: &dyn Hypervisor, domid: DomId) -> Outcome<Gfn> {
    let mapped: Vec<Gfn> = (0..MAPPED_PAGES).map(Gfn).collect();
    drop(hv.map_foreign(domid, &mapped)?);
    let params = [
        (HvmParam::StorePfn, 2),
        (HvmParam::StoreEvtchn, 1),
        (HvmParam::ConsolePfn, 3),
        (HvmParam::ConsoleEvtchn, 2),
    ];
    hv.set_hvm_params(domid, &params)?;
    let policy = hv.cpu_policy(domid)?;
    hv.set_cpu_policy(domid, &policy)?;
    hv.set_hvm_boot_cpu(
        domid,
        &HvmBootCpu {
            eip: 0,
            ebx: 0,
            nr_vcpus: 1,
        },
    )?;
    Ok(Gfn(2))
}

fn write_nodes(store: &mut Client, domid: DomId) -> Outcome<()> {
    let home = Path::domain(domid.0);
    let mut batch = Batch::new();
    batch.mkdir(&home);
    batch.set_perms(&home, &Perms::owned_by(0).with(domid.0, Access::Read));
    for node in LEAST_NODES {
        batch.write(&home.join(node)?, b"1");
    }
    store.transaction(|transaction| transaction.run(&batch).map(drop))?;
    Ok(())
}
