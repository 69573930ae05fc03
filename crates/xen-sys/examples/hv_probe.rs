//! Exercises every request of the port on real Xen, with domains that it makes and destroys. Run it in dom0 as root.
//!
//! Prints a line for each check; exit code 0 only if all of them held.

use std::fmt::Debug;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use xen_abi::Release;
use xen_port::{
    CpuMap, CreateDomain, DomId, E820Entry, E820Kind, Errno, EvtchnPort, Gfn, GuestKind,
    GuestMemory, HvError, HvmBootCpu, HvmParam, Hypervisor, Mfn, PAGE_SIZE, PageTableLevel,
    PopulateFlags, PvBootCpu, PvMode, SchedulerGlobals, SchedulerParams, ShutdownReason, Trigger,
    VcpuId, VcpuRunState,
};
use xen_sys::{EventChannel, EventChannels, Grants, Xen};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let xen = match Xen::open() {
        Ok(xen) => xen,
        Err(error) => {
            eprintln!("hv_probe: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut probe = Probe { failures: 0 };
    probe.run("open costs one hypercall", || {
        same(xen.stats().hypercalls, 1)
    });
    versions(&mut probe, &xen);
    host(&mut probe, &xen);
    pv_domain(&mut probe, &xen);
    pvh_domain(&mut probe, &xen);
    events(&mut probe);
    refusals(&mut probe, &xen);
    if std::env::args().any(|word| word == "--times") {
        probe.run("times", || times(&xen));
    }
    println!(
        "hv_probe: Xen {}, {:?}, {} failures",
        xen.release(),
        xen.stats(),
        probe.failures
    );
    if probe.failures == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

struct Probe {
    failures: u32,
}

impl Probe {
    fn run(&mut self, name: &str, check: impl FnOnce() -> Outcome) {
        match check() {
            Ok(()) => println!("ok      {name}"),
            Err(error) => {
                self.failures += 1;
                println!("FAILED  {name}: {error}");
            }
        }
    }
}

fn same<T: PartialEq + Debug>(found: T, expected: T) -> Outcome {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:?} where {expected:?} was expected").into())
    }
}

fn that(holds: bool, what: impl Debug) -> Outcome {
    if holds {
        Ok(())
    } else {
        Err(format!("{what:?}").into())
    }
}

/// `check` makes just this many hypercalls.
fn costs(xen: &Xen, hypercalls: u64, check: impl FnOnce() -> Outcome) -> Outcome {
    let before = xen.stats().hypercalls;
    check()?;
    same(xen.stats().hypercalls - before, hypercalls)
}

/// Whatever release is expected, the first calls find the one that is there.
fn versions(probe: &mut Probe, xen: &Xen) {
    for expected in Release::ALL {
        probe.run(
            &format!("the interface is found where {expected} is expected"),
            || {
                let other = Xen::open_expecting(expected)?;
                let created = other.create_domain(&request(GuestKind::Pv))?;
                let domctls = other.stats().hypercalls;
                let domains = other.domain_list()?;
                println!(
                    "        {domctls} hypercalls to create, {} to list",
                    other.stats().hypercalls - domctls
                );
                other.destroy_domain(created, in_a_minute())?;
                that(
                    domains.iter().any(|domain| domain.domid == created),
                    domains,
                )?;
                same(
                    other.release().interface().domctl,
                    xen.release().interface().domctl,
                )
            },
        );
    }
}

fn host(probe: &mut Probe, xen: &Xen) {
    probe.run("version", || {
        let version = xen.version()?;
        println!("        {version:?}");
        that(
            version.capabilities.contains("xen-3.0-x86_64") && version.page_size_bytes == 4096,
            &version,
        )?;
        same(xen.release().minor(), version.minor)
    });
    probe.run("phys_info", || {
        let info = xen.phys_info()?;
        println!("        {info:?}");
        that(
            info.nr_cpus > 0 && info.total_pages > info.free_pages && info.caps.pv && info.caps.hvm,
            info,
        )
    });
    probe.run("console_ring", || {
        let log = String::from_utf8_lossy(&xen.console_ring(false)?).into_owned();
        that(
            log.contains("Xen version") || log.contains("(XEN)"),
            log.len(),
        )
    });
    probe.run("scheduler_id and globals", || {
        let scheduler = xen.scheduler_id()?;
        let globals = xen.scheduler_globals(0)?;
        println!("        {scheduler:?} {globals:?}");
        xen.set_scheduler_globals(0, &globals)?;
        if let SchedulerGlobals::Credit2 { ratelimit_us } = globals {
            xen.set_scheduler_globals(0, &SchedulerGlobals::Credit2 { ratelimit_us: 2000 })?;
            same(
                xen.scheduler_globals(0)?,
                SchedulerGlobals::Credit2 { ratelimit_us: 2000 },
            )?;
            xen.set_scheduler_globals(0, &SchedulerGlobals::Credit2 { ratelimit_us })?;
        }
        same(xen.scheduler_globals(0)?, globals)
    });
    probe.run("cpu_pools", || {
        let pools = xen.cpu_pools()?;
        println!("        {pools:?}");
        that(
            pools
                .first()
                .is_some_and(|pool| pool.id == 0 && pool.cpus.contains(0) && pool.nr_domains > 0),
            pools,
        )
    });
    probe.run("cpu_topology", || {
        // Emulated CPUs may have no known place; each CPU has an entry all the same.
        let cpus = xen.cpu_topology()?;
        println!("        {cpus:?}");
        same(cpus.len(), xen.phys_info()?.max_cpu_id as usize + 1)
    });
    probe.run("numa_nodes", || {
        let nodes = xen.numa_nodes()?;
        println!("        {nodes:?}");
        that(
            nodes
                .first()
                .is_some_and(|node| node.size_bytes > 1 << 28 && node.distances == [10]),
            nodes,
        )
    });
    probe.run("sharing_pages", || {
        let pages = xen.sharing_pages()?;
        println!("        {pages:?}");
        Ok(())
    });
    probe.run("domain_list in one hypercall", || {
        costs(xen, 1, || {
            let domains = xen.domain_list()?;
            that(
                domains
                    .first()
                    .is_some_and(|domain| domain.domid == DomId::ZERO && domain.flags.running),
                domains,
            )
        })
    });
    probe.run("counters", || {
        that(
            xen.counters()
                .iter()
                .any(|(name, count)| *name == "hypercalls" && *count > 5),
            xen.counters(),
        )
    });
}

fn request(kind: GuestKind) -> CreateDomain {
    CreateDomain {
        domid: None,
        kind,
        handle: *b"hv-probe-domain!",
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

fn in_a_minute() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// Makes a domain, lets `check` use it, destroys it.
fn with_domain(
    probe: &mut Probe,
    xen: &Xen,
    kind: GuestKind,
    check: impl FnOnce(&mut Probe, DomId),
) {
    let domid = match xen.create_domain(&request(kind)) {
        Ok(domid) => domid,
        Err(error) => return probe.run(&format!("{kind:?}: create_domain"), || Err(error.into())),
    };
    probe.run(&format!("{kind:?}: create_domain, domain_info"), || {
        costs(xen, 1, || {
            let info = xen.domain_info(domid)?.ok_or("no domain")?;
            same(info.kind(), kind)?;
            same(info.handle, *b"hv-probe-domain!")?;
            same(
                (info.tot_pages, info.max_vcpu_id, info.shutdown_reason),
                (0, None, None),
            )?;
            that(info.flags.paused && !info.flags.dying, info)
        })
    });
    check(probe, domid);
    probe.run(&format!("{kind:?}: destroy_domain"), || {
        xen.destroy_domain(domid, in_a_minute())?;
        let left = xen.domain_info(domid)?;
        // A page of it may be mapped for a moment longer.
        that(left.as_ref().is_none_or(|info| info.flags.dying), left)?;
        until(|| Ok(xen.domain_info(domid)?.is_none()))?;
        let again = xen.destroy_domain(domid, in_a_minute());
        that(
            again.as_ref().is_err_and(|error| error.is(Errno::ESRCH)),
            again,
        )
    });
}

fn until(mut done: impl FnMut() -> Result<bool, HvError>) -> Outcome {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done()? {
        if Instant::now() > deadline {
            return Err("not within 20 s".into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Checks for every kind of domain before it has memory.
fn common(probe: &mut Probe, xen: &Xen, domid: DomId) {
    let info = || -> Result<_, Box<dyn std::error::Error>> {
        Ok(xen.domain_info(domid)?.ok_or("no domain")?)
    };
    probe.run("set_max_vcpus, vcpu_info", || {
        xen.set_max_vcpus(domid, 2)?;
        same(info()?.max_vcpu_id, Some(1))?;
        same(
            xen.vcpu_info(domid, VcpuId(1))?.state,
            VcpuRunState::Offline,
        )
    });
    probe.run("vcpu_affinity", || {
        let cpu0: CpuMap = [0].into_iter().collect();
        let (hard, soft) = xen.set_vcpu_affinity(domid, VcpuId(0), Some(&cpu0), None, false)?;
        same((hard, soft), (Some(cpu0.clone()), None))?;
        let (hard, soft) = xen.vcpu_affinity(domid, VcpuId(0))?;
        same(hard, cpu0)?;
        that(!soft.is_empty(), soft)?;
        let none = xen.set_vcpu_affinity(domid, VcpuId(0), Some(&CpuMap::new()), None, false);
        that(
            none.as_ref().is_err_and(|error| error.is(Errno::EINVAL)),
            none,
        )
    });
    probe.run("capabilities", || {
        same(xen.capabilities()?, xen.version()?.capabilities)
    });
    probe.run("node_affinity", || {
        let nodes = xen.node_affinity(domid)?;
        that(nodes.contains(0), nodes)
    });
    probe.run("scheduler_params", || {
        let scheduler = xen.scheduler_id()?;
        let wanted = match xen.scheduler_params(domid, scheduler)? {
            SchedulerParams::Credit { .. } => SchedulerParams::Credit {
                weight: 300,
                cap: 50,
            },
            SchedulerParams::Credit2 { .. } => SchedulerParams::Credit2 {
                weight: 300,
                cap: 50,
            },
        };
        xen.set_scheduler_params(domid, &wanted)?;
        same(xen.scheduler_params(domid, scheduler)?, wanted)?;
        let uncapped = match wanted {
            SchedulerParams::Credit { .. } => SchedulerParams::Credit {
                weight: 256,
                cap: 0,
            },
            SchedulerParams::Credit2 { .. } => SchedulerParams::Credit2 {
                weight: 256,
                cap: 0,
            },
        };
        Ok(xen.set_scheduler_params(domid, &uncapped)?)
    });
    probe.run("pause_domain, unpause_domain", || {
        xen.pause_domain(domid)?;
        xen.unpause_domain(domid)?;
        that(info()?.flags.paused, "the pause of its creation is gone")
    });
    probe.run("set_domain_handle", || {
        xen.set_domain_handle(domid, [7; 16])?;
        same(info()?.handle, [7; 16])
    });
    probe.run("set_max_mem", || {
        xen.set_max_mem(domid, 16 << 10)?;
        same(info()?.max_pages, 4096)
    });
    probe.run("set_time_offset", || Ok(xen.set_time_offset(domid, -3600)?));
    probe.run("claim_pages", || {
        xen.claim_pages(domid, 1000)?;
        same(info()?.outstanding_pages, 1000)?;
        xen.claim_pages(domid, 0)?;
        same(info()?.outstanding_pages, 0)?;
        let all = xen.phys_info()?.total_pages;
        let refused = xen.claim_pages(domid, all);
        that(
            refused
                .as_ref()
                .is_err_and(|error| error.is(Errno::ENOMEM) || error.is(Errno::EINVAL)),
            refused,
        )
    });
    probe.run("set_memory_map", || {
        let map = [
            E820Entry {
                start: 0,
                size_bytes: 16 << 20,
                kind: E820Kind::Ram,
            },
            E820Entry {
                start: 0xfc00_0000,
                size_bytes: 4096,
                kind: E820Kind::Acpi,
            },
        ];
        costs(xen, 1, || Ok(xen.set_memory_map(domid, &map)?))
    });
}

/// Checks of memory for every kind of domain. `frames` are those of 512 of its pages.
fn memory(probe: &mut Probe, xen: &Xen, domid: DomId, frames: &[Gfn]) {
    probe.run(
        "map_foreign: write, read, zero, fill_with, fill_from_file",
        || {
            let maps = xen.stats().map_calls;
            let mut memory = xen.map_foreign(domid, frames)?;
            same(xen.stats().map_calls - maps, 1)?;
            same(memory.size_bytes(), frames.len() * PAGE_SIZE)?;
            memory.write(PAGE_SIZE - 3, b"across a page")?;
            memory.write(8 * PAGE_SIZE, &[0xff; PAGE_SIZE])?;
            memory.zero(8 * PAGE_SIZE + 1, 100)?;
            let mut next = 0_u8;
            let filled = memory.fill_with(16 * PAGE_SIZE, 300 << 10, &mut |piece| {
                next += 1;
                piece.fill(next);
                Ok(())
            })?;
            filled?;
            let path = std::env::temp_dir().join(format!("hv-probe-{}", std::process::id()));
            File::create(&path)?.write_all(&[0x5a; 3 * PAGE_SIZE])?;
            let file = File::open(&path)?;
            std::fs::remove_file(&path)?;
            memory.fill_from_file(100 * PAGE_SIZE + 5, 2 * PAGE_SIZE, &file, 10)??;
            drop(memory);

            let memory = xen.map_foreign(domid, frames)?;
            let read = |offset: usize, len: usize| -> Result<Vec<u8>, HvError> {
                let mut bytes = vec![0; len];
                memory.read(offset, &mut bytes)?;
                Ok(bytes)
            };
            same(read(PAGE_SIZE - 3, 13)?, b"across a page".to_vec())?;
            same(
                read(8 * PAGE_SIZE, 102)?,
                [&[0xff][..], &[0; 100], &[0xff]].concat(),
            )?;
            same(read(16 * PAGE_SIZE, 1)?, vec![1])?;
            same(read(16 * PAGE_SIZE + (256 << 10), 1)?, vec![2])?;
            same(
                read(100 * PAGE_SIZE + 4, 2 * PAGE_SIZE + 2)?,
                [&[0][..], &[0x5a; 2 * PAGE_SIZE], &[0]].concat(),
            )?;
            let beyond = memory.read(frames.len() * PAGE_SIZE, &mut [0]);
            that(beyond.is_err(), beyond)
        },
    );
    probe.run("map_foreign names the frame that it cannot map", || {
        let wrong = Gfn(0xf_ffff_ffff);
        let list: Vec<Gfn> = frames.iter().copied().take(3).chain([wrong]).collect();
        let refused = xen.map_foreign(domid, &list).map(|_| ());
        that(
            matches!(refused, Err(HvError::Map { gfn, .. }) if gfn == wrong),
            refused,
        )
    });
}

fn pages(start: u64, count: u64) -> Vec<Gfn> {
    (start..start + count).map(Gfn).collect()
}

fn pv_domain(probe: &mut Probe, xen: &Xen) {
    with_domain(probe, xen, GuestKind::Pv, |probe, domid| {
        common(probe, xen, domid);
        probe.run("Pv: address_size_bits", || {
            let bits = xen.address_size_bits(domid)?;
            that(bits == 64, bits)
        });
        let mut frames = Vec::new();
        probe.run("Pv: populate_physmap", || {
            let small = costs_one_populate(xen, domid, 0, &pages(0, 512))?;
            that(
                small.len() == 512 && small.iter().all(|mfn| mfn.0 > 0),
                small.len(),
            )?;
            let large = costs_one_populate(xen, domid, 9, &pages(512, 1))?;
            that(
                large.len() == 1 && large.iter().all(|mfn| mfn.0 % 512 == 0),
                &large,
            )?;
            let too_many = xen.populate_physmap(
                domid,
                9,
                PopulateFlags::default(),
                &[
                    512 * 2,
                    512 * 3,
                    512 * 99,
                    512 * 4,
                    512 * 5,
                    512 * 6,
                    512 * 7,
                ]
                .map(Gfn),
            )?;
            same(too_many.len(), 6)?;
            same(
                xen.domain_info(domid)?.map(|info| info.tot_pages),
                Some(4096),
            )?;
            frames = small;
            Ok(())
        });
        let gfns: Vec<Gfn> = frames.iter().map(|mfn| Gfn(mfn.0)).collect();
        memory(probe, xen, domid, &gfns);
        let [table, stubs, shared, ..] = frames[..] else {
            return;
        };
        probe.run("Pv: pin_tables", || {
            xen.map_foreign(domid, &[Gfn(table.0)])?
                .zero(0, PAGE_SIZE)?;
            costs(xen, 1, || {
                Ok(xen.pin_tables(domid, &[(PageTableLevel::L4, table)])?)
            })?;
            let twice = xen.pin_tables(domid, &[(PageTableLevel::L1, table)]);
            that(twice.is_err(), twice)
        });
        probe.run("Pv: clear_pages", || {
            let pages = [Gfn(stubs.0), Gfn(shared.0)];
            xen.map_foreign(domid, &pages)?
                .write(0, &[1; 2 * PAGE_SIZE])?;
            costs(xen, 1, || Ok(xen.clear_pages(domid, &pages)?))?;
            let mut bytes = [1; 2 * PAGE_SIZE];
            xen.map_foreign(domid, &pages)?.read(0, &mut bytes)?;
            that(bytes == [0; 2 * PAGE_SIZE], "not zero")?;
            let table = xen.clear_pages(domid, &[Gfn(shared.0), Gfn(table.0)]);
            that(
                table
                    .as_ref()
                    .is_err_and(|error| error.to_string().contains("1 of 2 done")),
                table,
            )
        });
        probe.run("Pv: init_hypercall_page", || {
            xen.init_hypercall_page(domid, Gfn(stubs.0))?;
            let mut stub = [0; 32];
            xen.map_foreign(domid, &[Gfn(stubs.0)])?
                .read(29 * 32, &mut stub)?;
            that(stub.iter().any(|byte| *byte != 0), stub)
        });
        probe.run(
            "Pv: map_grant_frames, grants of the domain through gntdev",
            || {
                const REFERENCE: usize = 8;
                xen.map_foreign(domid, &[Gfn(shared.0)])?
                    .write(0, b"granted")?;
                let mut table = xen.map_grant_frames(domid, 1)?;
                same(table.size_bytes(), PAGE_SIZE)?;
                let mut entry = [1, 0, 0, 0, 0, 0, 0, 0];
                entry[4..].copy_from_slice(&u32::try_from(shared.0)?.to_ne_bytes());
                table.write(REFERENCE * 8, &entry)?;
                let mut granted = Grants::open()?.map(domid, &[REFERENCE as u32], true)?;
                let mut bytes = [0; 7];
                granted.memory().read(0, &mut bytes)?;
                same(bytes, *b"granted")?;
                granted.memory().write(0, b"Granted")?;
                xen.map_foreign(domid, &[Gfn(shared.0)])?
                    .read(0, &mut bytes)?;
                same(bytes, *b"Granted")
            },
        );
        probe.run("Pv: alloc_unbound, bound from here", || {
            let port = xen.alloc_unbound(domid, DomId::ZERO)?;
            same(
                xen.alloc_unbound(domid, DomId::ZERO)?,
                EvtchnPort(port.0 + 1),
            )?;
            let events = EventChannels::open()?;
            let channel = events.bind_interdomain(domid, port)?;
            channel.notify()?;
            let wrong = events.bind_interdomain(domid, EvtchnPort(77)).map(|_| ());
            that(wrong.is_err(), wrong)
        });
        probe.run("Pv: remote_shutdown, resume_domain", || {
            shut_down_and_resume(xen, domid)
        });
        probe.run("Pv: set_tsc_mode", || Ok(xen.set_tsc_mode(domid, 2)?));
        probe.run(
            "Pv: set_pv_boot_cpu; it runs, and dies of its empty page table",
            || {
                costs(xen, 1, || {
                    Ok(xen.set_pv_boot_cpu(
                        domid,
                        &PvBootCpu {
                            rip: 0x1000,
                            rsp: 0x2000,
                            rsi: 0,
                            cr3: table,
                            mode: PvMode::Bits64,
                        },
                    )?)
                })?;
                same(
                    xen.vcpu_info(domid, VcpuId(0))?.state,
                    VcpuRunState::Runnable,
                )?;
                xen.send_trigger(domid, VcpuId(0), Trigger::Nmi)?;
                xen.unpause_domain(domid)?;
                until(|| {
                    Ok(xen
                        .domain_info(domid)?
                        .is_some_and(|info| info.shutdown_reason == Some(ShutdownReason::Crash)))
                })
            },
        );
    });
}

fn costs_one_populate(
    xen: &Xen,
    domid: DomId,
    order: u32,
    start: &[Gfn],
) -> Result<Vec<Mfn>, Box<dyn std::error::Error>> {
    let before = xen.stats().hypercalls;
    let frames = xen.populate_physmap(domid, order, PopulateFlags::default(), start)?;
    same(xen.stats().hypercalls - before, 1)?;
    Ok(frames)
}

fn shut_down_and_resume(xen: &Xen, domid: DomId) -> Outcome {
    xen.remote_shutdown(domid, ShutdownReason::Suspend)?;
    same(
        xen.domain_info(domid)?
            .and_then(|info| info.shutdown_reason),
        Some(ShutdownReason::Suspend),
    )?;
    xen.resume_domain(domid)?;
    same(
        xen.domain_info(domid)?
            .and_then(|info| info.shutdown_reason),
        None,
    )
}

fn pvh_domain(probe: &mut Probe, xen: &Xen) {
    with_domain(probe, xen, GuestKind::Pvh, |probe, domid| {
        common(probe, xen, domid);
        probe.run("Pvh: address_size_bits", || {
            let none = xen.address_size_bits(domid);
            let is_refused = |error: &HvError| error.is(Errno::EOPNOTSUPP);
            that(none.as_ref().is_err_and(is_refused), none)
        });
        probe.run("Pvh: set_paging_mempool", || {
            costs(xen, 1, || Ok(xen.set_paging_mempool(domid, (4 << 20) + 1)?))
        });
        probe.run("Pvh: cpu_policy, set_cpu_policy", || {
            let policy = xen.cpu_policy(domid)?;
            println!("        {} leaves, {} MSRs", policy.leaves.len(), policy.msrs.len());
            that(policy.leaves.len() > 10, &policy)?;
            costs(xen, 1, || Ok(xen.set_cpu_policy(domid, &policy)?))?;
            same(xen.cpu_policy(domid)?, policy.clone())?;
            let mut wrong = policy;
            wrong.leaves.iter_mut().filter(|leaf| leaf.leaf == 0).for_each(|leaf| leaf.a = 0xfff);
            let refused = xen.set_cpu_policy(domid, &wrong);
            println!("        {refused:?}");
            that(matches!(&refused, Err(HvError::Call { detail, .. }) if detail.contains("leaf 0x0")), refused)
        });
        probe.run("Pvh: populate_physmap", || {
            same(
                costs_one_populate(xen, domid, 0, &pages(0, 512))?.len(),
                512,
            )?;
            same(costs_one_populate(xen, domid, 9, &pages(512, 1))?.len(), 1)
        });
        memory(probe, xen, domid, &pages(0, 512));
        probe.run("Pvh: set_hvm_params in one hypercall, hvm_param", || {
            let params = [(HvmParam::StorePfn, 0x3fd), (HvmParam::ConsolePfn, 0x3fe), (HvmParam::TimerMode, 1)];
            costs(xen, 1, || Ok(xen.set_hvm_params(domid, &params)?))?;
            for (param, value) in params {
                same(xen.hvm_param(domid, param)?, value)?;
            }
            xen.set_hvm_param(domid, HvmParam::StoreEvtchn, 3)?;
            same(xen.hvm_param(domid, HvmParam::StoreEvtchn)?, 3)?;
            let refused = xen.set_hvm_params(domid, &[(HvmParam::ConsoleEvtchn, 4), (HvmParam::TimerMode, 99)]);
            println!("        {refused:?}");
            that(matches!(&refused, Err(HvError::Call { detail, .. }) if detail.contains("TimerMode")), refused)
        });
        probe.run("Pvh: set_pod_target", || {
            let outcome = xen.set_pod_target(domid, 1024);
            println!("        {outcome:?}");
            Ok(())
        });
        probe.run("Pvh: map_grant_frames", || {
            same(xen.map_grant_frames(domid, 1)?.size_bytes(), PAGE_SIZE)
        });
        probe.run("Pvh: remote_shutdown, resume_domain", || {
            shut_down_and_resume(xen, domid)
        });
        probe.run("Pvh: send_trigger", || {
            Ok(xen.send_trigger(domid, VcpuId(0), Trigger::Power)?)
        });
        probe.run(
            "Pvh: set_hvm_boot_cpu; the guest runs and shuts itself down",
            || run_pvh_program(xen, domid),
        );
    });
}

/// Puts a program into the domain that asks Xen for a shutdown, and lets it run.
fn run_pvh_program(xen: &Xen, domid: DomId) -> Outcome {
    const CODE: u32 = 0x10_0000;
    const REASON: u32 = 0x10_1000;
    const STUBS: u32 = 0x10_2000;
    const SCHED_OP: u32 = 29;
    const SCHEDOP_SHUTDOWN: u32 = 2;
    let mut code = vec![0x81, 0xfb]; // cmp ebx, 0x1234: the boot contract gives it there
    code.extend(0x1234_u32.to_le_bytes());
    code.extend([0x75, 0x11]); // jne to the hlt
    code.push(0xbb); // mov ebx, SCHEDOP_shutdown
    code.extend(SCHEDOP_SHUTDOWN.to_le_bytes());
    code.push(0xb9); // mov ecx, &reason
    code.extend(REASON.to_le_bytes());
    code.push(0xb8); // mov eax, the stub of sched_op
    code.extend((STUBS + SCHED_OP * 32).to_le_bytes());
    code.extend([0xff, 0xd0]); // call eax
    code.extend([0xf4, 0xeb, 0xfd]); // hlt; jmp to it
    // call needs a stack: mov esp, the end of the reason's page, goes first.
    let mut program = vec![0xbc];
    program.extend((REASON + 0x1000).to_le_bytes());
    program.extend(code);

    xen.init_hypercall_page(domid, Gfn((STUBS >> 12).into()))?;
    let mut memory = xen.map_foreign(domid, &pages((CODE >> 12).into(), 2))?;
    memory.write(0, &program)?;
    memory.write(PAGE_SIZE, &5_u32.to_le_bytes())?;
    drop(memory);
    costs(xen, 1, || {
        Ok(xen.set_hvm_boot_cpu(
            domid,
            &HvmBootCpu {
                eip: CODE,
                ebx: 0x1234,
                nr_vcpus: 2,
            },
        )?)
    })?;
    same(
        xen.vcpu_info(domid, VcpuId(0))?.state,
        VcpuRunState::Runnable,
    )?;
    same(
        xen.vcpu_info(domid, VcpuId(1))?.state,
        VcpuRunState::Offline,
    )?;
    xen.unpause_domain(domid)?;
    until(|| {
        Ok(xen
            .domain_info(domid)?
            .is_some_and(|info| info.shutdown_reason.is_some()))
    })?;
    same(
        xen.domain_info(domid)?
            .and_then(|info| info.shutdown_reason),
        Some(ShutdownReason::SoftReset),
    )
}

fn events(probe: &mut Probe) {
    probe.run(
        "event channels: two ends here, poll, pending, unmask",
        || {
            let here = EventChannels::open()?;
            let there = EventChannels::open()?;
            let one = here.bind_unbound(DomId::ZERO)?;
            let other = there.bind_interdomain(DomId::ZERO, one.port())?;
            // A new channel may report once without a cause.
            drain(&here, &one)?;
            drain(&there, &other)?;
            that(!readable(&here, 0)?, "readable without an event")?;
            for _ in 0..3 {
                other.notify()?;
                that(readable(&here, 5000)?, "no event within 5 s")?;
                same(here.pending()?, Some(one.port()))?;
                same(here.pending()?, None)?;
                one.unmask()?;
            }
            let port = other.port();
            drop(other);
            let mut again = there.bind_unbound(DomId::ZERO)?;
            while again.port().0 < port.0 {
                again = there.bind_unbound(DomId::ZERO)?;
            }
            Ok(())
        },
    );
    probe.run("event channels: a virtual interrupt", || {
        let events = EventChannels::open()?;
        let channel = events.bind_virq(6)?;
        that(channel.port().0 > 0, channel.port())
    });
}

fn drain(events: &EventChannels, channel: &EventChannel) -> Outcome {
    while events.pending()?.is_some() {
        channel.unmask()?;
    }
    Ok(())
}

fn readable(events: &EventChannels, timeout_ms: i32) -> Result<bool, std::io::Error> {
    let mut wanted = libc::pollfd {
        fd: events.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, as told; it lives across the call.
    match unsafe { libc::poll(&mut wanted, 1, timeout_ms) } {
        -1 => Err(std::io::Error::last_os_error()),
        ready => Ok(ready > 0),
    }
}

/// Measures single requests: the median of several, in microseconds.
fn times(xen: &Xen) -> Outcome {
    let domid = xen.create_domain(&request(GuestKind::Pvh))?;
    let outcome = times_of(xen, domid);
    xen.destroy_domain(domid, in_a_minute())?;
    let mut made = Vec::new();
    time("create_domain", || {
        made.push(xen.create_domain(&request(GuestKind::Pv))?);
        Ok(())
    })?;
    time("destroy_domain", || {
        Ok(made
            .pop()
            .map_or(Ok(()), |domid| xen.destroy_domain(domid, in_a_minute()))?)
    })?;
    outcome
}

fn times_of(xen: &Xen, domid: DomId) -> Outcome {
    xen.set_max_vcpus(domid, 2)?;
    xen.set_max_mem(domid, 64 << 10)?;
    time("set_paging_mempool", || {
        Ok(xen.set_paging_mempool(domid, 4 << 20)?)
    })?;
    time("domain_info", || Ok(xen.domain_info(domid).map(drop)?))?;
    time("domain_list", || Ok(xen.domain_list().map(drop)?))?;
    time("set_max_mem", || Ok(xen.set_max_mem(domid, 64 << 10)?))?;
    time("cpu_policy", || Ok(xen.cpu_policy(domid).map(drop)?))?;
    let mut next = 0;
    time("populate_physmap of 512 pages", || {
        next += 512;
        Ok(xen
            .populate_physmap(domid, 0, PopulateFlags::default(), &pages(next - 512, 512))
            .map(drop)?)
    })?;
    time("populate_physmap of a superpage", || {
        next += 512;
        Ok(xen
            .populate_physmap(domid, 9, PopulateFlags::default(), &pages(next - 512, 1))
            .map(drop)?)
    })?;
    time("map_foreign of 1 page", || {
        Ok(xen.map_foreign(domid, &pages(0, 1)).map(drop)?)
    })?;
    time("map_foreign of 512 pages", || {
        Ok(xen.map_foreign(domid, &pages(0, 512)).map(drop)?)
    })?;
    let mut memory = xen.map_foreign(domid, &pages(0, 512))?;
    time("write of 2 MiB", || Ok(memory.write(0, &vec![1; 2 << 20])?))?;
    time("zero of 2 MiB", || Ok(memory.zero(0, 2 << 20)?))?;
    time("set_hvm_boot_cpu", || {
        Ok(xen.set_hvm_boot_cpu(
            domid,
            &HvmBootCpu {
                eip: 0x1000,
                ebx: 0,
                nr_vcpus: 2,
            },
        )?)
    })?;
    let params = [
        (HvmParam::StorePfn, 3),
        (HvmParam::ConsolePfn, 4),
        (HvmParam::TimerMode, 1),
    ];
    time("set_hvm_params of three", || {
        Ok(xen.set_hvm_params(domid, &params)?)
    })?;
    time("set_hvm_param, three times", || {
        Ok(params
            .iter()
            .try_for_each(|(param, value)| xen.set_hvm_param(domid, *param, *value))?)
    })?;
    time("map_grant_frames", || {
        Ok(xen.map_grant_frames(domid, 1).map(drop)?)
    })?;
    time("alloc_unbound", || {
        Ok(xen.alloc_unbound(domid, DomId::ZERO).map(drop)?)
    })?;
    time("open", || Ok(Xen::open().map(drop)?))
}

fn time(name: &str, mut action: impl FnMut() -> Outcome) -> Outcome {
    let mut times_us = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        action()?;
        times_us.push(start.elapsed().as_micros());
    }
    times_us.sort_unstable();
    println!(
        "        {:>8} us  {name}",
        times_us.get(3).copied().unwrap_or(0)
    );
    Ok(())
}

fn refusals(probe: &mut Probe, xen: &Xen) {
    probe.run("a domain that is not there", || {
        same(xen.domain_info(DomId(32000))?, None)?;
        let refused = xen
            .pause_domain(DomId(32000))
            .map_err(|error| error.to_string());
        same(
            refused,
            Err("XEN_DOMCTL_pausedomain on domain 32000: no such domain (ESRCH)".to_owned()),
        )
    });
    probe.run("a domid that is taken", || {
        let refused = xen.create_domain(&CreateDomain {
            domid: Some(DomId(0x7fef)),
            ..request(GuestKind::Pv)
        });
        let taken = xen.create_domain(&CreateDomain {
            domid: Some(DomId(0x7fef)),
            ..request(GuestKind::Pv)
        });
        xen.destroy_domain(refused?, in_a_minute())?;
        that(
            taken.as_ref().is_err_and(|error| error.is(Errno::EEXIST)),
            taken,
        )
    });
    probe.run("more memory than the host has", || {
        let domid = xen.create_domain(&request(GuestKind::Pv))?;
        xen.set_max_mem(domid, 1 << 40)?;
        let outcome = xen.populate_physmap(domid, 18, PopulateFlags::default(), &pages(0, 64));
        xen.destroy_domain(domid, in_a_minute())?;
        that(
            outcome.as_ref().is_ok_and(|frames| frames.len() < 64),
            outcome,
        )
    });
}
