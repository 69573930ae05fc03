//! vCPUs: affinity, policy, starting registers, scheduling, time.

use xen_abi::domctl::{self, Bitmap, Domctl};
use xen_abi::hvm;
use xen_abi::xen::HYPERVISOR_DOMCTL;
use xen_abi::{vcpu, x86_32};
use xen_port::{
    CpuMap, CpuPolicy, CpuidLeaf, DomId, Errno, HvmBootCpu, MsrEntry, PvBootCpu, PvMode, Result,
    SchedulerId, SchedulerParams, VcpuId, VcpuInfo, VcpuRunState,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::Xen;
use crate::host::BITMAP_BYTES;
use crate::privcmd::Site;
use crate::xen::Failure;

/// Entries of the arrays that a policy is read into, more than any Xen has: some 120 leaves and a few MSRs.
pub(crate) const POLICY_LEAVES: usize = 256;
pub(crate) const POLICY_MSRS: usize = 64;

const SET_VCPU_CONTEXT: &str = "XEN_DOMCTL_setvcpucontext";
const FIRST_VCPU: VcpuId = VcpuId(0);

impl Xen {
    pub(crate) fn make_vcpus(&self, domid: DomId, nr_vcpus: u32) -> Result<()> {
        self.domctl(
            "XEN_DOMCTL_max_vcpus",
            domctl::MAX_VCPUS,
            domid,
            &domctl::MaxVcpus { max: nr_vcpus },
        )
        .map(drop)
    }

    pub(crate) fn read_vcpu_info(&self, domid: DomId, vcpu: VcpuId) -> Result<VcpuInfo> {
        let request = domctl::VcpuInfo {
            vcpu: vcpu.0,
            ..domctl::VcpuInfo::new_zeroed()
        };
        let info: domctl::VcpuInfo = self
            .domctl(
                "XEN_DOMCTL_getvcpuinfo",
                domctl::GET_VCPU_INFO,
                domid,
                &request,
            )?
            .payload();
        let state = match (info.online != 0, info.blocked != 0, info.running != 0) {
            (false, _, _) => VcpuRunState::Offline,
            (true, _, true) => VcpuRunState::Running,
            (true, true, false) => VcpuRunState::Blocked,
            (true, false, false) => VcpuRunState::Runnable,
        };
        Ok(VcpuInfo {
            state,
            cpu_time_ns: info.cpu_time,
            cpu: info.cpu,
        })
    }

    pub(crate) fn read_affinity(&self, domid: DomId, vcpu: VcpuId) -> Result<(CpuMap, CpuMap)> {
        let flags = domctl::VCPUAFFINITY_HARD | domctl::VCPUAFFINITY_SOFT;
        self.affinity_call(
            Site::domain("XEN_DOMCTL_getvcpuaffinity", domid),
            domctl::GET_VCPU_AFFINITY,
            domid,
            vcpu,
            flags,
            [&CpuMap::new(), &CpuMap::new()],
        )
    }

    pub(crate) fn write_affinity(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        hard: Option<&CpuMap>,
        soft: Option<&CpuMap>,
        force: bool,
    ) -> Result<(Option<CpuMap>, Option<CpuMap>)> {
        let flag = |wanted: bool, flag: u32| if wanted { flag } else { 0 };
        let flags = flag(hard.is_some(), domctl::VCPUAFFINITY_HARD)
            | flag(soft.is_some(), domctl::VCPUAFFINITY_SOFT)
            | flag(force, domctl::VCPUAFFINITY_FORCE);
        let none = CpuMap::new();
        let (made_hard, made_soft) = self.affinity_call(
            Site::domain("XEN_DOMCTL_setvcpuaffinity", domid),
            domctl::SET_VCPU_AFFINITY,
            domid,
            vcpu,
            flags,
            [hard.unwrap_or(&none), soft.unwrap_or(&none)],
        )?;
        Ok((hard.map(|_| made_hard), soft.map(|_| made_soft)))
    }

    fn affinity_call(
        &self,
        site: Site,
        cmd: u32,
        domid: DomId,
        vcpu: VcpuId,
        flags: u32,
        maps: [&CpuMap; 2],
    ) -> Result<(CpuMap, CpuMap)> {
        self.with_release(site, |release| {
            let mut call = self.privcmd.call(2 * BITMAP_BYTES)?;
            let [hard, soft] = maps.map(|map| call.put_slice(&map.to_bytes(BITMAP_BYTES)));
            let (hard, soft) = (hard?, soft?);
            let bitmap = |address| Bitmap {
                bitmap: address,
                nr_bits: BITMAP_BYTES as u32 * 8,
                pad: 0,
            };
            let request = domctl::VcpuAffinity {
                vcpu: vcpu.0,
                flags,
                cpumap_hard: bitmap(hard.address()),
                cpumap_soft: bitmap(soft.address()),
            };
            let op = call.put(&Domctl::new(
                release.interface().domctl,
                cmd,
                domid.0,
                &request,
            ))?;
            // SAFETY: `op` is one domctl, `hard` and `soft` have `nr_bits` bits.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            let map =
                |slot| Ok::<_, Failure>(CpuMap::from_bytes(&call.get_slice(slot, BITMAP_BYTES)?));
            Ok((map(&hard)?, map(&soft)?))
        })
    }

    pub(crate) fn read_policy(&self, domid: DomId) -> Result<CpuPolicy> {
        self.with_release(
            Site::domain("XEN_DOMCTL_get_cpu_policy", domid),
            |release| {
                let array_bytes = POLICY_LEAVES * size_of::<domctl::CpuidLeaf>()
                    + POLICY_MSRS * size_of::<domctl::MsrEntry>();
                let mut call = self.privcmd.call(array_bytes)?;
                let leaves = call.reserve::<domctl::CpuidLeaf>(POLICY_LEAVES)?;
                let msrs = call.reserve::<domctl::MsrEntry>(POLICY_MSRS)?;
                let request = domctl::CpuPolicy {
                    nr_leaves: POLICY_LEAVES as u32,
                    nr_msrs: POLICY_MSRS as u32,
                    leaves: leaves.address(),
                    msrs: msrs.address(),
                    ..domctl::CpuPolicy::new_zeroed()
                };
                let version = release.interface().domctl;
                let op = call.put(&Domctl::new(
                    version,
                    domctl::GET_CPU_POLICY,
                    domid.0,
                    &request,
                ))?;
                // SAFETY: `op` is one domctl, the arrays have `nr_leaves` and `nr_msrs` entries.
                unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
                let answer: domctl::CpuPolicy = call.get(&op)?.payload();
                let leaves = call.get_slice(&leaves, answer.nr_leaves as usize)?;
                let msrs = call.get_slice(&msrs, answer.nr_msrs as usize)?;
                Ok(policy_from_xen(&leaves, &msrs))
            },
        )
    }

    pub(crate) fn write_policy(&self, domid: DomId, policy: &CpuPolicy) -> Result<()> {
        let site = Site::domain("XEN_DOMCTL_set_cpu_policy", domid);
        let leaves: Vec<domctl::CpuidLeaf> = policy.leaves.iter().map(leaf_to_xen).collect();
        let msrs: Vec<domctl::MsrEntry> = policy
            .msrs
            .iter()
            .map(|msr| domctl::MsrEntry {
                idx: msr.index,
                flags: msr.flags,
                val: msr.value,
            })
            .collect();
        self.with_release(site, |release| {
            let mut call = self
                .privcmd
                .call(leaves.as_bytes().len() + msrs.as_bytes().len())?;
            let leaves_slot = call.put_slice(&leaves)?;
            let msrs_slot = call.put_slice(&msrs)?;
            let request = domctl::CpuPolicy {
                nr_leaves: leaves.len() as u32,
                nr_msrs: msrs.len() as u32,
                leaves: leaves_slot.address(),
                msrs: msrs_slot.address(),
                err_leaf: u32::MAX,
                err_subleaf: u32::MAX,
                err_msr: u32::MAX,
                pad: 0,
            };
            let version = release.interface().domctl;
            let op = call.put(&Domctl::new(
                version,
                domctl::SET_CPU_POLICY,
                domid.0,
                &request,
            ))?;
            // SAFETY: `op` is one domctl, the arrays have `nr_leaves` and `nr_msrs` entries.
            let outcome = unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) };
            let answer: domctl::CpuPolicy = call.get(&op)?.payload();
            match outcome {
                Ok(_) => Ok(()),
                // Another interface version: Xen has not looked at the policy.
                Err(Errno::EACCES) => Err(Failure::Xen(Errno::EACCES)),
                Err(errno) => Err(site.error_with(errno, policy_detail(&answer)).into()),
            }
        })
    }

    pub(crate) fn start_pv_vcpu(&self, domid: DomId, cpu: &PvBootCpu) -> Result<()> {
        match cpu.mode {
            PvMode::Bits64 => {
                self.write_vcpu_context(domid, FIRST_VCPU, pv_context(cpu).as_bytes())
            }
            PvMode::Bits32 { extended_cr3 } => {
                let site = Site::domain(SET_VCPU_CONTEXT, domid);
                let context = pv32_context(cpu, extended_cr3)
                    .ok_or_else(|| site.error_with(Errno::EINVAL, BEYOND_32_BITS.to_owned()))?;
                self.write_vcpu_context(domid, FIRST_VCPU, context.as_bytes())
            }
        }
    }

    /// `context`: of the size that Xen reads for the domain's width, at least.
    pub(crate) fn write_vcpu_context(
        &self,
        domid: DomId,
        vcpu: VcpuId,
        context: &[u8],
    ) -> Result<()> {
        self.with_release(Site::domain(SET_VCPU_CONTEXT, domid), |release| {
            // Room for the larger one: Xen, not the caller, knows the domain's width.
            let mut bytes = [0; size_of::<vcpu::VcpuGuestContext>()];
            for (to, from) in bytes.iter_mut().zip(context) {
                *to = *from;
            }
            let mut call = self.privcmd.call(bytes.len())?;
            let registers = call.put_slice(&bytes)?;
            let request = domctl::VcpuContext {
                vcpu: vcpu.0,
                pad: 0,
                ctxt: registers.address(),
            };
            let version = release.interface().domctl;
            let op = call.put(&Domctl::new(
                version,
                domctl::SET_VCPU_CONTEXT,
                domid.0,
                &request,
            ))?;
            // SAFETY: `op` is one domctl, `registers` the one context that Xen reads.
            unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) }?;
            Ok(())
        })
    }

    pub(crate) fn read_vcpu_context(&self, domid: DomId, vcpu: VcpuId) -> Result<Option<Vec<u8>>> {
        self.with_release(
            Site::domain("XEN_DOMCTL_getvcpucontext", domid),
            |release| {
                let mut call = self.privcmd.call(size_of::<vcpu::VcpuGuestContext>())?;
                // The unused part of a 32-bit guest's registers stays zero.
                let registers = call.put(&vcpu::VcpuGuestContext::new_zeroed())?;
                let request = domctl::VcpuContext {
                    vcpu: vcpu.0,
                    pad: 0,
                    ctxt: registers.address(),
                };
                let version = release.interface().domctl;
                let op = call.put(&Domctl::new(
                    version,
                    domctl::GET_VCPU_CONTEXT,
                    domid.0,
                    &request,
                ))?;
                // SAFETY: `op` is one domctl, `registers` the one context that Xen writes.
                match unsafe { call.run(HYPERVISOR_DOMCTL, &[op.address()]) } {
                    Ok(_) => Ok(Some(call.get(&registers)?.as_bytes().to_vec())),
                    // No such vCPU; one that was never started.
                    Err(Errno::EINVAL | Errno::ENODATA) => Ok(None),
                    Err(errno) => Err(errno.into()),
                }
            },
        )
    }

    pub(crate) fn start_hvm_vcpu(&self, domid: DomId, cpu: &HvmBootCpu) -> Result<()> {
        self.write_hvm_context(domid, &hvm_records(cpu))
    }

    pub(crate) fn read_scheduler_params(
        &self,
        domid: DomId,
        scheduler: SchedulerId,
    ) -> Result<SchedulerParams> {
        let site = Site::domain("XEN_DOMCTL_scheduler_op", domid);
        let request = domctl::SchedulerOp {
            sched_id: scheduler.number(),
            cmd: domctl::SCHEDOP_GETINFO,
            ..domctl::SchedulerOp::new_zeroed()
        };
        let answer: domctl::SchedulerOp = self
            .domctl(site.op, domctl::SCHEDULER_OP, domid, &request)?
            .payload();
        let domctl::SchedCredit { weight, cap } = answer.credit;
        match scheduler {
            SchedulerId::Credit => Ok(SchedulerParams::Credit { weight, cap }),
            SchedulerId::Credit2 => Ok(SchedulerParams::Credit2 { weight, cap }),
            other => {
                Err(site.error_with(Errno::EOPNOTSUPP, format!(": scheduler {}", other.name())))
            }
        }
    }

    pub(crate) fn write_scheduler_params(
        &self,
        domid: DomId,
        params: &SchedulerParams,
    ) -> Result<()> {
        let (scheduler, weight, cap) = match *params {
            SchedulerParams::Credit { weight, cap } => (SchedulerId::Credit, weight, cap),
            SchedulerParams::Credit2 { weight, cap } => (SchedulerId::Credit2, weight, cap),
        };
        let request = domctl::SchedulerOp {
            sched_id: scheduler.number(),
            cmd: domctl::SCHEDOP_PUTINFO,
            credit: domctl::SchedCredit { weight, cap },
            rest: [0; 3],
        };
        self.domctl(
            "XEN_DOMCTL_scheduler_op",
            domctl::SCHEDULER_OP,
            domid,
            &request,
        )
        .map(drop)
    }

    pub(crate) fn write_tsc_mode(&self, domid: DomId, mode: u32) -> Result<()> {
        let request = domctl::TscInfo {
            tsc_mode: mode,
            ..domctl::TscInfo::new_zeroed()
        };
        self.domctl(
            "XEN_DOMCTL_settscinfo",
            domctl::SET_TSC_INFO,
            domid,
            &request,
        )
        .map(drop)
    }

    pub(crate) fn write_time_offset(&self, domid: DomId, offset_s: i64) -> Result<()> {
        let request = domctl::SetTimeOffset {
            time_offset_seconds: offset_s,
        };
        self.domctl(
            "XEN_DOMCTL_settimeoffset",
            domctl::SET_TIME_OFFSET,
            domid,
            &request,
        )
        .map(drop)
    }
}

pub(crate) fn policy_from_xen(
    leaves: &[domctl::CpuidLeaf],
    msrs: &[domctl::MsrEntry],
) -> CpuPolicy {
    CpuPolicy {
        leaves: leaves.iter().map(leaf_from_xen).collect(),
        msrs: msrs
            .iter()
            .map(|msr| MsrEntry {
                index: msr.idx,
                flags: msr.flags,
                value: msr.val,
            })
            .collect(),
    }
}

fn leaf_from_xen(leaf: &domctl::CpuidLeaf) -> CpuidLeaf {
    let domctl::CpuidLeaf {
        leaf,
        subleaf,
        a,
        b,
        c,
        d,
    } = *leaf;
    CpuidLeaf {
        leaf,
        subleaf,
        a,
        b,
        c,
        d,
    }
}

fn leaf_to_xen(leaf: &CpuidLeaf) -> domctl::CpuidLeaf {
    let CpuidLeaf {
        leaf,
        subleaf,
        a,
        b,
        c,
        d,
    } = *leaf;
    domctl::CpuidLeaf {
        leaf,
        subleaf,
        a,
        b,
        c,
        d,
    }
}

/// The leaf or MSR that Xen refused; empty if Xen does not name one.
fn policy_detail(answer: &domctl::CpuPolicy) -> String {
    match (answer.err_leaf, answer.err_subleaf, answer.err_msr) {
        (u32::MAX, _, u32::MAX) => String::new(),
        (u32::MAX, _, msr) => format!(": MSR {msr:#x}"),
        (leaf, u32::MAX, _) => format!(": CPUID leaf {leaf:#x}"),
        (leaf, subleaf, _) => format!(": CPUID leaf {leaf:#x}, subleaf {subleaf:#x}"),
    }
}

/// Debug registers 6 and 7 after a reset.
const DR6_RESET: u64 = 0xffff_0ff0;
const DR7_RESET: u64 = 0x400;

/// vCPU 0 of a 64-bit PV domain at its entry: kernel mode, flat segments, interrupts on.
fn pv_context(cpu: &PvBootCpu) -> vcpu::VcpuGuestContext {
    const INTERRUPTS_ON: u64 = 1 << 9;
    let mut context = vcpu::VcpuGuestContext::new_zeroed();
    context.flags = vcpu::VGCF_IN_KERNEL | vcpu::VGCF_ONLINE;
    context.user_regs = vcpu::UserRegs {
        rip: cpu.rip,
        rsp: cpu.rsp,
        rsi: cpu.rsi,
        rflags: INTERRUPTS_ON,
        cs: vcpu::FLAT_KERNEL_CS,
        ds: vcpu::FLAT_KERNEL_DS,
        es: vcpu::FLAT_KERNEL_DS,
        fs: vcpu::FLAT_KERNEL_DS,
        gs: vcpu::FLAT_KERNEL_DS,
        ss: vcpu::FLAT_KERNEL_SS,
        ..vcpu::UserRegs::new_zeroed()
    };
    context.kernel_ss = vcpu::FLAT_KERNEL_SS.into();
    context.kernel_sp = cpu.rsp;
    let [_, _, _, cr3, ..] = &mut context.ctrlreg;
    *cr3 = cpu.cr3.0 << xen_port::PAGE_SHIFT;
    let [.., dr6, dr7] = &mut context.debugreg;
    (*dr6, *dr7) = (DR6_RESET, DR7_RESET);
    context
}

/// Reason why a 32-bit vCPU cannot start with these values.
const BEYOND_32_BITS: &str = ": an address or a frame needs more than 32 bits";

/// vCPU 0 of a 32-bit PV domain at its entry: kernel mode in ring 1, flat segments, interrupts on. `None`: some number does not
/// fit into 32 bits.
fn pv32_context(cpu: &PvBootCpu, extended_cr3: bool) -> Option<x86_32::VcpuGuestContext> {
    const INTERRUPTS_ON: u32 = 1 << 9;
    let narrow = |address: u64| u32::try_from(address).ok();
    let mut context = x86_32::VcpuGuestContext::new_zeroed();
    context.flags = x86_32::VGCF_IN_KERNEL | x86_32::VGCF_ONLINE;
    context.user_regs = x86_32::UserRegs {
        eip: narrow(cpu.rip)?,
        esp: narrow(cpu.rsp)?,
        esi: narrow(cpu.rsi)?,
        eflags: INTERRUPTS_ON,
        cs: x86_32::FLAT_KERNEL_CS,
        ds: x86_32::FLAT_KERNEL_DS,
        es: x86_32::FLAT_KERNEL_DS,
        fs: x86_32::FLAT_KERNEL_DS,
        gs: x86_32::FLAT_KERNEL_DS,
        ss: x86_32::FLAT_KERNEL_SS,
        ..x86_32::UserRegs::new_zeroed()
    };
    context.kernel_ss = x86_32::FLAT_KERNEL_SS.into();
    context.kernel_sp = narrow(cpu.rsp)?;
    let [_, _, _, cr3, ..] = &mut context.ctrlreg;
    *cr3 = x86_32::cr3(cpu.cr3.0)?;
    let [.., dr6, dr7] = &mut context.debugreg;
    // Both are below 4 GiB.
    (*dr6, *dr7) = (DR6_RESET as u32, DR7_RESET as u32);
    context.vm_assist = u32::from(extended_cr3) << vcpu::VMASST_TYPE_PAE_EXTENDED_CR3;
    Some(context)
}

/// The records that start vCPU 0: a header, the memory types of each vCPU, the registers, the end.
///
/// All of them are written here. Reading Xen's own first would cost a hypercall in which Xen saves the whole domain.
fn hvm_records(cpu: &HvmBootCpu) -> Vec<u8> {
    let mut records = Vec::new();
    push_record(&mut records, hvm::SAVE_HEADER, 0, hvm_header().as_bytes());
    let vcpus = u16::try_from(cpu.nr_vcpus).unwrap_or(u16::MAX);
    for vcpu in 0..vcpus {
        push_record(
            &mut records,
            hvm::SAVE_MTRR,
            vcpu,
            write_back_mtrr().as_bytes(),
        );
    }
    push_record(
        &mut records,
        hvm::SAVE_CPU,
        0,
        hvm_registers(cpu).as_bytes(),
    );
    push_record(&mut records, hvm::SAVE_END, 0, &[]);
    records
}

fn push_record(records: &mut Vec<u8>, typecode: u16, instance: u16, body: &[u8]) {
    let head = hvm::SaveDescriptor {
        typecode,
        instance,
        length: body.len() as u32,
    };
    records.extend_from_slice(head.as_bytes());
    records.extend_from_slice(body);
}

/// A header that Xen accepts: it checks the two numbers, and logs a line if the CPU differs.
fn hvm_header() -> hvm::SaveHeader {
    hvm::SaveHeader {
        magic: hvm::FILE_MAGIC,
        version: hvm::FILE_VERSION,
        changeset: 0,
        cpuid: cpu_signature(),
        gtsc_khz: 0,
    }
}

/// EAX of CPUID leaf 1: the CPU's family and model.
fn cpu_signature() -> u32 {
    // Newer compilers know that this is safe on x86-64; older ones do not.
    #[allow(unused_unsafe)]
    // SAFETY: every x86-64 CPU has CPUID and its leaf 1.
    unsafe {
        std::arch::x86_64::__cpuid(1).eax
    }
}

/// The memory types of a vCPU after its reset (`hvm_vcpu_cacheattr_init` of Xen 4.17 to 4.22), but with write-back as the default.
fn write_back_mtrr() -> hvm::Mtrr {
    const PAT_RESET: u64 = 0x0007_0406_0007_0406;
    const VARIABLE_RANGES: u64 = 8;
    const HAS_FIXED_RANGES: u64 = 1 << 8;
    const HAS_WRITE_COMBINING: u64 = 1 << 10;
    const WRITE_BACK: u64 = 6;
    const ENABLED: u64 = 1 << 11;
    hvm::Mtrr {
        msr_pat_cr: PAT_RESET,
        msr_mtrr_cap: HAS_WRITE_COMBINING | HAS_FIXED_RANGES | VARIABLE_RANGES,
        msr_mtrr_def_type: WRITE_BACK | ENABLED,
        ..hvm::Mtrr::new_zeroed()
    }
}

/// vCPU 0 of a PVH domain at its entry (docs/misc/pvh.pandoc): 32-bit protected mode, flat segments, paging off.
fn hvm_registers(cpu: &HvmBootCpu) -> hvm::Cpu {
    const PROTECTED_MODE: u64 = 1;
    const EXTENSION_TYPE: u64 = 1 << 4;
    const CODE: u32 = 0xc9b;
    const DATA: u32 = 0xc93;
    const BUSY_TSS: u32 = 0x8b;
    hvm::Cpu {
        rip: cpu.eip.into(),
        rbx: cpu.ebx.into(),
        cr0: PROTECTED_MODE | EXTENSION_TYPE,
        dr6: DR6_RESET,
        dr7: DR7_RESET,
        cs_limit: u32::MAX,
        ds_limit: u32::MAX,
        es_limit: u32::MAX,
        ss_limit: u32::MAX,
        tr_limit: 0x67,
        cs_arbytes: CODE,
        ds_arbytes: DATA,
        es_arbytes: DATA,
        ss_arbytes: DATA,
        tr_arbytes: BUSY_TSS,
        ..hvm::Cpu::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_port::Mfn;
    use zerocopy::FromBytes;

    #[test]
    fn a_pv_vcpu_starts_in_kernel_mode_on_its_page_table() {
        let context = pv_context(&PvBootCpu {
            rip: 0x1000,
            rsp: 0x2000,
            rsi: 0x3000,
            cr3: Mfn(0x1234),
            mode: PvMode::Bits64,
        });
        assert_eq!(context.ctrlreg[3], 0x123_4000);
        assert_eq!(
            (context.debugreg[6], context.debugreg[7]),
            (0xffff_0ff0, 0x400)
        );
        assert_eq!(context.flags, 0b10_0100);
        assert_eq!(
            (context.user_regs.cs, context.user_regs.ss),
            (0xe033, 0xe02b)
        );
        assert_eq!((context.kernel_ss, context.kernel_sp), (0xe02b, 0x2000));
        assert_eq!(context.user_regs.rflags, 0x200);
    }

    #[test]
    fn a_32_bit_vcpu_starts_in_ring_1_on_its_page_table() {
        let cpu = PvBootCpu {
            rip: 0xc010_0000,
            rsp: 0xc020_0000,
            rsi: 0xc020_1000,
            cr3: Mfn(0x12_3456),
            mode: PvMode::Bits32 { extended_cr3: true },
        };
        let context = pv32_context(&cpu, true).unwrap();
        assert_eq!(context.ctrlreg[3], 0x2345_6001);
        assert_eq!((context.flags, context.vm_assist), (0b10_0100, 1 << 3));
        let registers = &context.user_regs;
        assert_eq!(
            (registers.eip, registers.esp, registers.esi),
            (0xc010_0000, 0xc020_0000, 0xc020_1000)
        );
        assert_eq!(
            (registers.cs, registers.ds, registers.ss),
            (0xe019, 0xe021, 0xe021)
        );
        assert_eq!(
            (context.kernel_ss, context.kernel_sp),
            (0xe021, 0xc020_0000)
        );
        assert_eq!(pv32_context(&cpu, false).unwrap().vm_assist, 0);
        let high = PvBootCpu {
            rip: 1 << 32,
            ..cpu
        };
        assert_eq!(pv32_context(&high, false), None);
    }

    /// Type, instance and body of each record.
    fn records_of(mut image: &[u8]) -> Vec<(u16, u16, &[u8])> {
        let mut records = Vec::new();
        while !image.is_empty() {
            let (head, rest) = hvm::SaveDescriptor::read_from_prefix(image).unwrap();
            let (body, next) = rest.split_at(head.length as usize);
            records.push((head.typecode, head.instance, body));
            image = next;
        }
        records
    }

    #[test]
    fn pvh_records_turn_write_back_on_for_every_vcpu_and_end_with_the_boot_cpu() {
        let image = hvm_records(&HvmBootCpu {
            eip: 0x10_0000,
            ebx: 0x9000,
            nr_vcpus: 2,
        });
        let records = records_of(&image);
        let kinds: Vec<(u16, u16)> = records
            .iter()
            .map(|(kind, instance, _)| (*kind, *instance))
            .collect();
        assert_eq!(kinds, [(1, 0), (14, 0), (14, 1), (2, 0), (0, 0)]);
        assert_eq!(records[0].2[..8], [0x86, 0x12, 0x38, 0x54, 1, 0, 0, 0]);
        assert_eq!(records[2].2[232..], 0x806_u64.to_le_bytes());
        assert_eq!(records[3].2[640..648], 0x10_0000_u64.to_le_bytes());
        assert_eq!(records[3].2[520..528], 0x9000_u64.to_le_bytes());
        assert!(records[4].2.is_empty());
    }

    #[test]
    fn without_vcpus_the_memory_types_are_left_alone() {
        let image = hvm_records(&HvmBootCpu {
            eip: 0,
            ebx: 0,
            nr_vcpus: 0,
        });
        assert!(
            records_of(&image)
                .iter()
                .all(|record| record.0 != hvm::SAVE_MTRR)
        );
    }

    #[test]
    fn a_refused_policy_names_what_was_refused() {
        let answer = |err_leaf, err_subleaf, err_msr| domctl::CpuPolicy {
            err_leaf,
            err_subleaf,
            err_msr,
            ..domctl::CpuPolicy::new_zeroed()
        };
        assert_eq!(policy_detail(&answer(u32::MAX, u32::MAX, u32::MAX)), "");
        assert_eq!(
            policy_detail(&answer(7, 0, u32::MAX)),
            ": CPUID leaf 0x7, subleaf 0x0"
        );
        assert_eq!(
            policy_detail(&answer(7, u32::MAX, u32::MAX)),
            ": CPUID leaf 0x7"
        );
        assert_eq!(
            policy_detail(&answer(u32::MAX, u32::MAX, 0x10a)),
            ": MSR 0x10a"
        );
    }
}
