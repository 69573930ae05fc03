//! Xen's facts about the host: version, CPUs, memory, log.

use xen_abi::domctl;
use xen_abi::sysctl::{self, Sysctl};
use xen_abi::xen::{HYPERVISOR_MEMORY_OP, HYPERVISOR_SYSCTL, HYPERVISOR_XEN_VERSION};
use xen_abi::{memory, version};
use xen_port::{
    CpuPolicy, CpuTopology, Errno, HostCpuPolicy, HostFeatureset, NumaNode, PhysCaps, PhysInfo,
    Result, SchedulerGlobals, SchedulerId, VersionInfo,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::Xen;
use crate::privcmd::Site;
use crate::vcpu::{POLICY_LEAVES, POLICY_MSRS, policy_from_xen};
use crate::xen::Failure;

/// Bytes of a bitmap of CPUs or nodes: as many as Xen can be built for.
pub(crate) const BITMAP_BYTES: usize = 2048;

/// Bytes of Xen's log that are read at a time.
const LOG_CHUNK_BYTES: u32 = 32 << 10;
/// Maximum number of bytes that are read of the log: more than any ring holds (`conring_size`, 16 KiB by default).
const LOG_MAX_BYTES: usize = 64 << 20;

impl Xen {
    pub(crate) fn read_version(&self) -> Result<VersionInfo> {
        let extra = self
            .version_text::<version::ExtraVersion>("XENVER_extraversion", version::EXTRA_VERSION)?;
        let info: version::CompileInfo =
            self.version_answer("XENVER_compile_info", version::COMPILE_INFO)?;
        let platform: version::PlatformParameters =
            self.version_answer("XENVER_platform_parameters", version::PLATFORM_PARAMETERS)?;
        Ok(VersionInfo {
            major: self.number.0,
            minor: self.number.1,
            extra,
            compiler: text(&info.compiler),
            compile_by: text(&info.compile_by),
            compile_domain: text(&info.compile_domain),
            compile_date: text(&info.compile_date),
            capabilities: self.read_capabilities()?,
            changeset: self
                .version_text::<version::ChangeSet>("XENVER_changeset", version::CHANGE_SET)?,
            command_line: self.version_text::<version::CommandLine>(
                "XENVER_commandline",
                version::COMMAND_LINE,
            )?,
            build_id: self.build_id()?,
            page_size_bytes: self.page_size()?,
            virt_start: platform.virt_start,
        })
    }

    pub(crate) fn read_capabilities(&self) -> Result<String> {
        self.version_text::<version::Capabilities>("XENVER_capabilities", version::CAPABILITIES)
    }

    fn version_text<T: FromBytes + IntoBytes + zerocopy::Immutable>(
        &self,
        op: &'static str,
        cmd: u32,
    ) -> Result<String> {
        Ok(text(self.version_answer::<T>(op, cmd)?.as_bytes()))
    }

    fn version_answer<T: FromBytes + IntoBytes>(&self, op: &'static str, cmd: u32) -> Result<T> {
        let mut call = self.privcmd.call(size_of::<T>())?;
        let answer = call.reserve::<T>(1)?;
        // SAFETY: each of these sub-operations writes its one structure, whose size the ABI fixes.
        unsafe { call.run(HYPERVISOR_XEN_VERSION, &[cmd.into(), answer.address()]) }
            .map_err(|errno| Site::host(op).error(errno))?;
        call.get(&answer)
    }

    fn page_size(&self) -> Result<u32> {
        let mut call = self.privcmd.call(0)?;
        // SAFETY: XENVER_pagesize takes no address.
        let size = unsafe { call.run(HYPERVISOR_XEN_VERSION, &[version::PAGE_SIZE.into()]) };
        size.map(i32::cast_unsigned)
            .map_err(|errno| Site::host("XENVER_pagesize").error(errno))
    }

    fn build_id(&self) -> Result<String> {
        const MAX_BYTES: u32 = 1024;
        let mut call = self.privcmd.call(MAX_BYTES as usize + 4)?;
        let mut request = vec![0_u8; MAX_BYTES as usize + 4];
        request
            .iter_mut()
            .zip(MAX_BYTES.to_ne_bytes())
            .for_each(|(to, from)| *to = from);
        let buffer = call.put_slice(&request)?;
        // SAFETY: the structure is a length and that many bytes, all in `buffer`.
        let length = match unsafe {
            call.run(
                HYPERVISOR_XEN_VERSION,
                &[version::BUILD_ID.into(), buffer.address()],
            )
        } {
            Ok(length) => length.cast_unsigned().min(MAX_BYTES) as usize,
            // Built without one.
            Err(Errno::ENODATA | Errno::ENOSYS) => return Ok(String::new()),
            Err(errno) => return Err(Site::host("XENVER_build_id").error(errno)),
        };
        let answer = call.get_slice(&buffer, length + 4)?;
        Ok(answer
            .iter()
            .skip(4)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    pub(crate) fn read_phys_info(&self) -> Result<PhysInfo> {
        let info: sysctl::PhysInfo = self
            .sysctl(
                "XEN_SYSCTL_physinfo",
                sysctl::PHYS_INFO,
                &sysctl::PhysInfo::new_zeroed(),
            )?
            .payload();
        Ok(PhysInfo {
            threads_per_core: info.threads_per_core,
            cores_per_socket: info.cores_per_socket,
            nr_cpus: info.nr_cpus,
            max_cpu_id: info.max_cpu_id,
            nr_nodes: info.nr_nodes,
            max_node_id: info.max_node_id,
            cpu_khz: info.cpu_khz,
            caps: phys_caps(info.capabilities),
            total_pages: info.total_pages,
            free_pages: info.free_pages,
            scrub_pages: info.scrub_pages,
            outstanding_pages: info.outstanding_pages,
            max_mfn: info.max_mfn,
            hw_caps: info.hw_cap,
        })
    }

    pub(crate) fn read_console_ring(&self, clear: bool) -> Result<Vec<u8>> {
        let mut log = Vec::new();
        let mut index = 0;
        loop {
            let (bytes, next) = self.read_console_chunk(index, clear)?;
            log.extend_from_slice(&bytes);
            // A ring that is written to faster than it is read has no end.
            if bytes.len() < LOG_CHUNK_BYTES as usize || log.len() >= LOG_MAX_BYTES {
                return Ok(log);
            }
            index = next;
        }
    }

    /// Reads a chunk of the log. Returns it, and the index of the next one. With `clear`, Xen removes the bytes that
    /// were read, so each chunk starts at the ring's start.
    fn read_console_chunk(&self, index: u32, clear: bool) -> Result<(Vec<u8>, u32)> {
        self.with_sysctl_version(Site::host("XEN_SYSCTL_readconsole"), |version| {
            let mut call = self.privcmd.call(LOG_CHUNK_BYTES as usize)?;
            let buffer = call.reserve::<u8>(LOG_CHUNK_BYTES as usize)?;
            let request = sysctl::ReadConsole {
                clear: clear.into(),
                incremental: (!clear).into(),
                pad: [0; 2],
                index,
                buffer: buffer.address(),
                count: LOG_CHUNK_BYTES,
                tail: 0,
            };
            let op = call.put(&Sysctl::new(version, sysctl::READ_CONSOLE, &request))?;
            // SAFETY: `op` is one sysctl, `buffer` has `count` bytes.
            unsafe { call.run(HYPERVISOR_SYSCTL, &[op.address()]) }?;
            let answer: sysctl::ReadConsole = call.get(&op)?.payload();
            Ok((
                call.get_slice(&buffer, answer.count as usize)?,
                answer.index,
            ))
        })
    }

    pub(crate) fn read_scheduler_id(&self) -> Result<SchedulerId> {
        let answer: sysctl::SchedId = self
            .sysctl(
                "XEN_SYSCTL_sched_id",
                sysctl::SCHED_ID,
                &sysctl::SchedId { sched_id: 0 },
            )?
            .payload();
        Ok(SchedulerId::from_number(answer.sched_id))
    }

    pub(crate) fn read_cpu_topology(&self) -> Result<Vec<CpuTopology>> {
        const MAX_CPUS: u32 = 4096;
        let cpus = self.with_sysctl_version(Site::host("XEN_SYSCTL_cputopoinfo"), |version| {
            let mut call = self
                .privcmd
                .call(MAX_CPUS as usize * size_of::<sysctl::CpuTopo>())?;
            let buffer = call.reserve::<sysctl::CpuTopo>(MAX_CPUS as usize)?;
            let request = sysctl::CpuTopoInfo {
                num_cpus: MAX_CPUS,
                pad: 0,
                cputopo: buffer.address(),
            };
            let op = call.put(&Sysctl::new(version, sysctl::CPU_TOPO_INFO, &request))?;
            // SAFETY: `op` is one sysctl, `buffer` has `num_cpus` entries.
            unsafe { call.run(HYPERVISOR_SYSCTL, &[op.address()]) }?;
            let answer: sysctl::CpuTopoInfo = call.get(&op)?.payload();
            Ok(call.get_slice(&buffer, answer.num_cpus.min(MAX_CPUS) as usize)?)
        })?;
        let location = |cpu: sysctl::CpuTopo| {
            (cpu.core != sysctl::INVALID_CORE_ID).then_some((cpu.core, cpu.socket, cpu.node))
        };
        Ok(cpus
            .into_iter()
            .map(|cpu| CpuTopology {
                location: location(cpu),
            })
            .collect())
    }

    pub(crate) fn read_numa_nodes(&self) -> Result<Vec<NumaNode>> {
        const MAX_NODES: u32 = 64;
        let (memory, distances) =
            self.with_sysctl_version(Site::host("XEN_SYSCTL_numainfo"), |version| {
                let matrix = (MAX_NODES * MAX_NODES) as usize;
                let mut call = self
                    .privcmd
                    .call(matrix * 4 + MAX_NODES as usize * size_of::<sysctl::MemInfo>())?;
                let memory = call.reserve::<sysctl::MemInfo>(MAX_NODES as usize)?;
                let distances = call.reserve::<u32>(matrix)?;
                let request = sysctl::NumaInfo {
                    num_nodes: MAX_NODES,
                    pad: 0,
                    meminfo: memory.address(),
                    distance: distances.address(),
                };
                let op = call.put(&Sysctl::new(version, sysctl::NUMA_INFO, &request))?;
                // SAFETY: `op` is one sysctl, `memory` has `num_nodes` entries, `distances` the square of that.
                unsafe { call.run(HYPERVISOR_SYSCTL, &[op.address()]) }?;
                let answer: sysctl::NumaInfo = call.get(&op)?.payload();
                let nodes = answer.num_nodes.min(MAX_NODES) as usize;
                Ok((
                    call.get_slice(&memory, nodes)?,
                    call.get_slice(&distances, nodes * nodes)?,
                ))
            })?;
        let rows = distances.chunks(memory.len().max(1));
        let nodes = (0..)
            .zip(memory)
            .zip(rows)
            .filter(|((_, memory), _)| memory.memsize != sysctl::INVALID_MEM_SZ);
        let node = |((id, memory), row): ((u32, sysctl::MemInfo), &[u32])| NumaNode {
            id,
            size_bytes: memory.memsize,
            free_bytes: memory.memfree,
            distances: row.to_vec(),
        };
        Ok(nodes.map(node).collect())
    }

    pub(crate) fn read_sharing_pages(&self) -> Result<(u64, u64)> {
        let freed = self.sharing_count(
            "XENMEM_get_sharing_freed_pages",
            memory::GET_SHARING_FREED_PAGES,
        )?;
        let shared = self.sharing_count(
            "XENMEM_get_sharing_shared_pages",
            memory::GET_SHARING_SHARED_PAGES,
        )?;
        Ok((freed, shared))
    }

    fn sharing_count(&self, op: &'static str, cmd: u32) -> Result<u64> {
        let mut call = self.privcmd.call(0)?;
        // SAFETY: these sub-operations take no address.
        match unsafe { call.run(HYPERVISOR_MEMORY_OP, &[cmd.into()]) } {
            Ok(pages) => Ok(pages.cast_unsigned().into()),
            // Built without memory sharing.
            Err(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ENODEV) => Ok(0),
            Err(errno) => Err(Site::host(op).error(errno)),
        }
    }

    pub(crate) fn read_host_policy(&self, which: HostCpuPolicy) -> Result<CpuPolicy> {
        self.with_sysctl_version(Site::host("XEN_SYSCTL_get_cpu_policy"), |version| {
            let array_bytes = POLICY_LEAVES * size_of::<domctl::CpuidLeaf>()
                + POLICY_MSRS * size_of::<domctl::MsrEntry>();
            let mut call = self.privcmd.call(array_bytes)?;
            let leaves = call.reserve::<domctl::CpuidLeaf>(POLICY_LEAVES)?;
            let msrs = call.reserve::<domctl::MsrEntry>(POLICY_MSRS)?;
            let request = sysctl::CpuPolicy {
                index: policy_number(which),
                nr_leaves: POLICY_LEAVES as u32,
                nr_msrs: POLICY_MSRS as u32,
                rsvd: 0,
                leaves: leaves.address(),
                msrs: msrs.address(),
            };
            let op = call.put(&Sysctl::new(version, sysctl::GET_CPU_POLICY, &request))?;
            // SAFETY: `op` is one sysctl, the arrays have `nr_leaves` and `nr_msrs` entries.
            unsafe { call.run(HYPERVISOR_SYSCTL, &[op.address()]) }?;
            let answer: sysctl::CpuPolicy = call.get(&op)?.payload();
            let nr_leaves = POLICY_LEAVES.min(answer.nr_leaves as usize);
            let nr_msrs = POLICY_MSRS.min(answer.nr_msrs as usize);
            Ok(policy_from_xen(
                &call.get_slice(&leaves, nr_leaves)?,
                &call.get_slice(&msrs, nr_msrs)?,
            ))
        })
    }

    pub(crate) fn read_featureset(&self, which: HostFeatureset) -> Result<Vec<u32>> {
        /// More than any Xen has: some twenty.
        const WORDS: usize = 64;
        self.with_sysctl_version(Site::host("XEN_SYSCTL_get_cpu_featureset"), |version| {
            let mut call = self.privcmd.call(WORDS * size_of::<u32>())?;
            let words = call.reserve::<u32>(WORDS)?;
            let request = sysctl::CpuFeatureset {
                index: featureset_number(which),
                nr_features: WORDS as u32,
                features: words.address(),
            };
            let op = call.put(&Sysctl::new(version, sysctl::GET_CPU_FEATURESET, &request))?;
            // SAFETY: `op` is one sysctl, `words` has `nr_features` entries.
            unsafe { call.run(HYPERVISOR_SYSCTL, &[op.address()]) }?;
            let answer: sysctl::CpuFeatureset = call.get(&op)?.payload();
            Ok(call.get_slice(&words, WORDS.min(answer.nr_features as usize))?)
        })
    }

    pub(crate) fn read_scheduler_globals(&self, pool: u32) -> Result<SchedulerGlobals> {
        let site = Site::host("XEN_SYSCTL_scheduler_op");
        let scheduler = self.pool_scheduler(pool)?;
        let request = sysctl::SchedulerOp {
            cpupool_id: pool,
            sched_id: scheduler.number(),
            cmd: sysctl::SCHEDOP_GETINFO,
            ..sysctl::SchedulerOp::new_zeroed()
        };
        let answer: sysctl::SchedulerOp = self
            .sysctl(site.op, sysctl::SCHEDULER_OP, &request)?
            .payload();
        match scheduler {
            SchedulerId::Credit => Ok(SchedulerGlobals::Credit {
                tslice_ms: answer.credit.tslice_ms,
                ratelimit_us: answer.credit.ratelimit_us,
                vcpu_migr_delay_us: answer.credit.vcpu_migr_delay_us,
            }),
            SchedulerId::Credit2 => Ok(SchedulerGlobals::Credit2 {
                ratelimit_us: answer.credit.tslice_ms,
            }),
            other => Err(site.error_with(
                Errno::EOPNOTSUPP,
                format!(": pool {pool} is of scheduler {}", other.name()),
            )),
        }
    }

    pub(crate) fn write_scheduler_globals(
        &self,
        pool: u32,
        globals: &SchedulerGlobals,
    ) -> Result<()> {
        let (scheduler, credit) = match *globals {
            SchedulerGlobals::Credit {
                tslice_ms,
                ratelimit_us,
                vcpu_migr_delay_us,
            } => (
                SchedulerId::Credit,
                sysctl::CreditSchedule {
                    tslice_ms,
                    ratelimit_us,
                    vcpu_migr_delay_us,
                },
            ),
            // The parameter of credit2 has the place of credit's first parameter.
            SchedulerGlobals::Credit2 { ratelimit_us } => (
                SchedulerId::Credit2,
                sysctl::CreditSchedule {
                    tslice_ms: ratelimit_us,
                    ratelimit_us: 0,
                    vcpu_migr_delay_us: 0,
                },
            ),
        };
        let request = sysctl::SchedulerOp {
            cpupool_id: pool,
            sched_id: scheduler.number(),
            cmd: sysctl::SCHEDOP_PUTINFO,
            pad: 0,
            credit,
            rest: 0,
        };
        self.sysctl("XEN_SYSCTL_scheduler_op", sysctl::SCHEDULER_OP, &request)
            .map(drop)
    }

    fn pool_scheduler(&self, pool: u32) -> Result<SchedulerId> {
        match self.cpu_pool_from(pool)? {
            Some(found) if found.id == pool => Ok(found.scheduler),
            _ => Err(Failure::Xen(Errno::ENOENT).at(Site::host("XEN_SYSCTL_cpupool_op"))),
        }
    }
}

/// Text up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

fn policy_number(which: HostCpuPolicy) -> u32 {
    match which {
        HostCpuPolicy::Raw => sysctl::CPU_POLICY_RAW,
        HostCpuPolicy::Host => sysctl::CPU_POLICY_HOST,
        HostCpuPolicy::PvMax => sysctl::CPU_POLICY_PV_MAX,
        HostCpuPolicy::HvmMax => sysctl::CPU_POLICY_HVM_MAX,
        HostCpuPolicy::PvDefault => sysctl::CPU_POLICY_PV_DEFAULT,
        HostCpuPolicy::HvmDefault => sysctl::CPU_POLICY_HVM_DEFAULT,
    }
}

fn featureset_number(which: HostFeatureset) -> u32 {
    match which {
        HostFeatureset::Raw => sysctl::CPU_FEATURESET_RAW,
        HostFeatureset::Host => sysctl::CPU_FEATURESET_HOST,
        HostFeatureset::Pv => sysctl::CPU_FEATURESET_PV,
        HostFeatureset::Hvm => sysctl::CPU_FEATURESET_HVM,
    }
}

fn phys_caps(capabilities: u32) -> PhysCaps {
    let has = |capability| capabilities & capability != 0;
    PhysCaps {
        hvm: has(sysctl::PHYSCAP_HVM),
        pv: has(sysctl::PHYSCAP_PV),
        hvm_directio: has(sysctl::PHYSCAP_HVM) && has(sysctl::PHYSCAP_DIRECTIO),
        pv_directio: has(sysctl::PHYSCAP_PV) && has(sysctl::PHYSCAP_DIRECTIO),
        hap: has(sysctl::PHYSCAP_HAP),
        shadow: has(sysctl::PHYSCAP_SHADOW),
        iommu_hap_pt_share: has(sysctl::PHYSCAP_IOMMU_HAP_PT_SHARE),
        vmtrace: has(sysctl::PHYSCAP_VMTRACE),
        vpmu: has(sysctl::PHYSCAP_VPMU),
        gnttab_v1: has(sysctl::PHYSCAP_GNTTAB_V1),
        gnttab_v2: has(sysctl::PHYSCAP_GNTTAB_V2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ends_at_its_nul_and_bears_anything() {
        assert_eq!(text(b"4.17\0rubbish"), "4.17");
        assert_eq!(text(b"no end"), "no end");
        assert_eq!(text(b"\xff\0"), "\u{fffd}");
    }

    #[test]
    fn direct_io_counts_for_the_guests_that_can_run() {
        let caps = phys_caps(sysctl::PHYSCAP_PV | sysctl::PHYSCAP_DIRECTIO);
        assert!(caps.pv_directio && caps.pv);
        assert!(!caps.hvm_directio && !caps.hvm);
    }
}
