//! [`Record`]: the records of a libxc stream other than pages.

use crate::error::Cause;
use crate::fields::{Fields, all_zero, entries, unique, within};
use crate::hvm_context::HvmContext;
use crate::kinds::LibxcKind;
use crate::limits::Limits;
use crate::pages::PAGE_BYTES;

/// Largest number of entries of a policy, of MSRs of a vCPU, and of HVM parameters.
const TABLE_MAX: u64 = 4096;
/// Length of the head of a vCPU's record.
const VCPU_HEAD_BYTES: u64 = 8;
/// Lengths of a vCPU's registers (`vcpu_guest_context`) of a 32-bit and of a 64-bit guest.
const VCPU_BASIC_BYTES: [usize; 2] = [VcpuPart::BASIC_32_BYTES, 5168];
/// Largest further registers of a vCPU (`xen_domctl_ext_vcpucontext`).
const VCPU_EXTENDED_MAX_BYTES: usize = 128;
/// Length of the number and the size that they begin with.
const EXTENDED_HEAD_BYTES: u64 = 8;
/// Smallest and largest state of XSAVE. A vCPU that has never used it has the two masks alone.
const VCPU_XSAVE_BYTES: [usize; 2] = [16, 64 << 10];
/// Length of an MSR's entry.
const VCPU_MSR_BYTES: usize = 16;

/// A record of a libxc stream that has no pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Width of a PV guest.
    PvInfo(PvInfo),
    /// Pages that hold the P2M of a PV guest.
    P2mFrames(P2mFrames),
    /// A part of a PV guest's vCPU.
    Vcpu(VcpuState),
    /// The shared info page of a PV guest.
    SharedInfo(Box<[u8; PAGE_BYTES]>),
    /// Mode and values of the TSC.
    TscInfo(TscInfo),
    /// State of vCPUs and Xen's own devices. Its list of records has been checked ([`HvmContext`]).
    HvmContext(Vec<u8>),
    /// HVM parameters of the guest.
    HvmParams(Vec<HvmParam>),
    /// CPUID policy of the guest.
    CpuidPolicy(Vec<CpuidLeaf>),
    /// MSR policy of the guest.
    MsrPolicy(Vec<MsrEntry>),
    /// The end of the static data.
    StaticDataEnd,
    /// The pages that follow are to be compared.
    Verify,
    /// The end of the libxc stream.
    End,
}

/// Width of a PV guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PvInfo {
    /// Whether the guest has 64 bits and 4 levels of page tables. Otherwise it has 32 bits and 3 levels.
    pub is_64_bit: bool,
}

impl PvInfo {
    /// Levels of page tables.
    pub fn levels(self) -> u8 {
        if self.is_64_bit { 4 } else { 3 }
    }

    /// Bytes of an entry of the P2M.
    fn width_bytes(self) -> u8 {
        if self.is_64_bit { 8 } else { 4 }
    }

    /// Entries of the P2M that a page holds.
    pub(crate) fn entries_per_page(self) -> u64 {
        PAGE_BYTES as u64 / u64::from(self.width_bytes())
    }
}

/// Pages that hold the P2M of a PV guest. libxc writes it whole, in one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct P2mFrames {
    /// Last page frame number of the guest. The P2M begins with number 0.
    pub last_pfn: u32,
    /// Page frame numbers of the pages that hold the P2M.
    pub frames: Vec<u64>,
}

/// A part of a PV guest's vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuState {
    /// Part of the vCPU.
    pub part: VcpuPart,
    /// Number of the vCPU.
    pub vcpu: u32,
    /// The registers. Xen 4.6 to 4.8 may have written none.
    pub state: Vec<u8>,
}

/// Parts of a PV guest's vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum VcpuPart {
    /// Registers of the vCPU (`vcpu_guest_context`).
    Basic,
    /// Further registers (`xen_domctl_ext_vcpucontext`).
    Extended,
    /// Floating point and vector registers.
    Xsave,
    /// Model specific registers.
    Msrs,
}

impl VcpuPart {
    /// Length of the registers of a 32-bit guest's vCPU.
    pub(crate) const BASIC_32_BYTES: usize = 2800;

    /// Checks the length of a state.
    fn check(self, length: usize) -> Result<(), Cause> {
        let outside = |min_bytes: usize, max_bytes: usize| Cause::Length {
            length_bytes: length as u64,
            min_bytes: min_bytes as u64,
            max_bytes: max_bytes as u64,
        };
        match self {
            _ if length == 0 => Ok(()),
            VcpuPart::Basic => {
                let [small, large] = VCPU_BASIC_BYTES;
                match VCPU_BASIC_BYTES.contains(&length) {
                    true => Ok(()),
                    false => Err(outside(small, large)),
                }
            }
            VcpuPart::Extended if length > VCPU_EXTENDED_MAX_BYTES => {
                Err(outside(0, VCPU_EXTENDED_MAX_BYTES))
            }
            VcpuPart::Xsave => {
                let [min_bytes, max_bytes] = VCPU_XSAVE_BYTES;
                match (min_bytes..=max_bytes).contains(&length) {
                    true => Ok(()),
                    false => Err(outside(min_bytes, max_bytes)),
                }
            }
            // Their entries are checked.
            VcpuPart::Extended | VcpuPart::Msrs => Ok(()),
        }
    }

    /// Checks what the state of a vCPU says about itself.
    fn check_state(self, vcpu: u32, state: &[u8]) -> Result<(), Cause> {
        self.check(state.len())?;
        match self {
            VcpuPart::Extended if !state.is_empty() => check_extended(vcpu, state),
            VcpuPart::Msrs => check_msrs(state),
            _ => Ok(()),
        }
    }

    fn max_bytes(self) -> u64 {
        let state = match self {
            VcpuPart::Basic => VCPU_BASIC_BYTES.iter().copied().max().unwrap_or(0),
            VcpuPart::Extended => VCPU_EXTENDED_MAX_BYTES,
            VcpuPart::Xsave => VCPU_XSAVE_BYTES.iter().copied().max().unwrap_or(0),
            VcpuPart::Msrs => VCPU_MSR_BYTES * TABLE_MAX as usize,
        };
        VCPU_HEAD_BYTES + state as u64
    }
}

/// Mode and values of the TSC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscInfo {
    /// Mode of the TSC (`TSC_MODE_*`).
    pub mode: u32,
    /// Frequency in kHz.
    pub khz: u32,
    /// Elapsed time in nanoseconds.
    pub elapsed_ns: u64,
    /// Number of hosts that the guest has run on.
    pub incarnation: u32,
}

/// An HVM parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmParam {
    /// Number of the parameter (`HVM_PARAM_*`).
    pub index: u32,
    /// Value of the parameter.
    pub value: u64,
}

/// A leaf of a CPUID policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidLeaf {
    /// Number of the leaf.
    pub leaf: u32,
    /// Number of the subleaf, or all ones for a leaf without subleaves.
    pub subleaf: u32,
    /// Registers EAX, EBX, ECX and EDX.
    pub registers: [u32; 4],
}

/// An entry of an MSR policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrEntry {
    /// Number of the MSR.
    pub index: u32,
    /// Flags of the entry. Xen defines none.
    pub flags: u32,
    /// Value of the MSR.
    pub value: u64,
}

/// Checks the length of a record before anything is allocated by it.
pub(crate) fn check_length(
    kind: LibxcKind,
    length_bytes: u32,
    limits: &Limits,
) -> Result<(), Cause> {
    let (min_bytes, max_bytes) = match kind {
        LibxcKind::PvInfo => (8, 8),
        // A 64-bit guest has 512 entries of the P2M in a page, a 32-bit guest has twice as many.
        LibxcKind::P2mFrames => (16, 16 + limits.pfn_end.min(1 << 32) / 512 * 8),
        LibxcKind::VcpuBasic => (VCPU_HEAD_BYTES, VcpuPart::Basic.max_bytes()),
        LibxcKind::VcpuExtended => (VCPU_HEAD_BYTES, VcpuPart::Extended.max_bytes()),
        LibxcKind::VcpuXsave => (VCPU_HEAD_BYTES, VcpuPart::Xsave.max_bytes()),
        LibxcKind::VcpuMsrs => (VCPU_HEAD_BYTES, VcpuPart::Msrs.max_bytes()),
        LibxcKind::SharedInfo => (PAGE_BYTES as u64, PAGE_BYTES as u64),
        LibxcKind::TscInfo => (24, 24),
        LibxcKind::HvmContext => (1, u64::from(limits.hvm_context_max_bytes)),
        LibxcKind::HvmParams => (8, 8 + TABLE_MAX * 16),
        LibxcKind::CpuidPolicy => (24, TABLE_MAX * 24),
        LibxcKind::MsrPolicy => (16, TABLE_MAX * 16),
        _ => (0, 0),
    };
    within(length_bytes, min_bytes, max_bytes)
}

impl Record {
    /// Reads the body of a record of a kind that has no pages.
    pub(crate) fn parse(kind: LibxcKind, body: Vec<u8>, limits: &Limits) -> Result<Record, Cause> {
        let fields = Fields::of(&body);
        match kind {
            LibxcKind::PvInfo => parse_pv_info(fields),
            LibxcKind::P2mFrames => parse_p2m_frames(fields),
            LibxcKind::VcpuBasic => parse_vcpu(VcpuPart::Basic, fields),
            LibxcKind::VcpuExtended => parse_vcpu(VcpuPart::Extended, fields),
            LibxcKind::VcpuXsave => parse_vcpu(VcpuPart::Xsave, fields),
            LibxcKind::VcpuMsrs => parse_vcpu(VcpuPart::Msrs, fields),
            LibxcKind::SharedInfo => parse_shared_info(fields),
            LibxcKind::TscInfo => parse_tsc_info(fields),
            LibxcKind::HvmContext => {
                HvmContext::parse(&body)?.check_vcpus(limits.vcpu_end)?;
                Ok(Record::HvmContext(body))
            }
            LibxcKind::HvmParams => parse_hvm_params(fields),
            LibxcKind::CpuidPolicy => parse_cpuid_policy(&body),
            LibxcKind::MsrPolicy => parse_msr_policy(&body),
            LibxcKind::StaticDataEnd => Ok(Record::StaticDataEnd),
            LibxcKind::Verify => Ok(Record::Verify),
            LibxcKind::End => Ok(Record::End),
            LibxcKind::Toolstack => Err(Cause::Obsolete),
            LibxcKind::Checkpoint | LibxcKind::CheckpointDirtyPfns => Err(Cause::Checkpointed),
            LibxcKind::PageData => Err(Cause::Misplaced),
        }
    }

    /// Type of the record.
    pub fn kind(&self) -> LibxcKind {
        match self {
            Record::PvInfo(_) => LibxcKind::PvInfo,
            Record::P2mFrames(_) => LibxcKind::P2mFrames,
            Record::Vcpu(vcpu) => match vcpu.part {
                VcpuPart::Basic => LibxcKind::VcpuBasic,
                VcpuPart::Extended => LibxcKind::VcpuExtended,
                VcpuPart::Xsave => LibxcKind::VcpuXsave,
                VcpuPart::Msrs => LibxcKind::VcpuMsrs,
            },
            Record::SharedInfo(_) => LibxcKind::SharedInfo,
            Record::TscInfo(_) => LibxcKind::TscInfo,
            Record::HvmContext(_) => LibxcKind::HvmContext,
            Record::HvmParams(_) => LibxcKind::HvmParams,
            Record::CpuidPolicy(_) => LibxcKind::CpuidPolicy,
            Record::MsrPolicy(_) => LibxcKind::MsrPolicy,
            Record::StaticDataEnd => LibxcKind::StaticDataEnd,
            Record::Verify => LibxcKind::Verify,
            Record::End => LibxcKind::End,
        }
    }

    /// Body of the record, without what fills it up.
    pub(crate) fn body(&self) -> Result<Vec<u8>, Cause> {
        Ok(match self {
            Record::PvInfo(info) => vec![info.width_bytes(), info.levels(), 0, 0, 0, 0, 0, 0],
            Record::P2mFrames(frames) => frames.body(),
            Record::Vcpu(vcpu) => [&words([vcpu.vcpu, 0])[..], &vcpu.state].concat(),
            Record::SharedInfo(page) => page.to_vec(),
            Record::TscInfo(tsc) => tsc.body(),
            Record::HvmContext(state) => state.clone(),
            Record::HvmParams(params) => hvm_params_body(params)?,
            Record::CpuidPolicy(leaves) => leaves.iter().flat_map(cpuid_leaf_bytes).collect(),
            Record::MsrPolicy(entries) => entries.iter().flat_map(msr_entry_bytes).collect(),
            Record::StaticDataEnd | Record::Verify | Record::End => Vec::new(),
        })
    }
}

impl P2mFrames {
    fn body(&self) -> Vec<u8> {
        let mut bytes = words([0, self.last_pfn]);
        bytes.extend(self.frames.iter().flat_map(|frame| frame.to_le_bytes()));
        bytes
    }
}

impl TscInfo {
    fn body(&self) -> Vec<u8> {
        let mut bytes = words([self.mode, self.khz]);
        bytes.extend(self.elapsed_ns.to_le_bytes());
        bytes.extend(words([self.incarnation, 0]));
        bytes
    }
}

fn hvm_params_body(params: &[HvmParam]) -> Result<Vec<u8>, Cause> {
    let count = u32::try_from(params.len()).map_err(|_| Cause::Value {
        field: "count",
        value: params.len() as u64,
    })?;
    let mut bytes = words([count, 0]);
    for param in params {
        bytes.extend(u64::from(param.index).to_le_bytes());
        bytes.extend(param.value.to_le_bytes());
    }
    Ok(bytes)
}

fn cpuid_leaf_bytes(leaf: &CpuidLeaf) -> Vec<u8> {
    let [a, b, c, d] = leaf.registers;
    words([leaf.leaf, leaf.subleaf, a, b, c, d])
}

fn msr_entry_bytes(entry: &MsrEntry) -> Vec<u8> {
    let mut bytes = words([entry.index, entry.flags]);
    bytes.extend(entry.value.to_le_bytes());
    bytes
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn parse_pv_info(mut fields: Fields<'_>) -> Result<Record, Cause> {
    let is_64_bit = match (fields.u8()?, fields.u8()?) {
        (4, 3) => false,
        (8, 4) => true,
        (width, levels) => {
            return Err(Cause::Value {
                field: "guest_width, pt_levels",
                value: u64::from(width) << 8 | u64::from(levels),
            });
        }
    };
    all_zero(fields.rest())?;
    Ok(Record::PvInfo(PvInfo { is_64_bit }))
}

fn parse_p2m_frames(mut fields: Fields<'_>) -> Result<Record, Cause> {
    let (first_pfn, last_pfn) = (fields.u32()?, fields.u32()?);
    if first_pfn != 0 {
        return Err(Cause::Value {
            field: "p2m_start_pfn",
            value: u64::from(first_pfn),
        });
    }
    Ok(Record::P2mFrames(P2mFrames {
        last_pfn,
        frames: entries::<8, _>(fields.rest(), |fields| fields.u64())?,
    }))
}

fn parse_vcpu(part: VcpuPart, mut fields: Fields<'_>) -> Result<Record, Cause> {
    let vcpu = fields.u32()?;
    fields.zero::<4>()?;
    let state = fields.rest();
    part.check_state(vcpu, state)?;
    Ok(Record::Vcpu(VcpuState {
        part,
        vcpu,
        state: state.to_vec(),
    }))
}

/// Checks that the further registers name the same vCPU as their record: Xen uses the number in the registers.
fn check_extended(vcpu: u32, state: &[u8]) -> Result<(), Cause> {
    let mut fields = Fields::of(state);
    let (named, size_bytes) = (fields.u32()?, fields.u32()?);
    if named != vcpu {
        return Err(Cause::Value {
            field: "vcpu",
            value: u64::from(named),
        });
    }
    let max_bytes = state.len() as u64;
    within(size_bytes, EXTENDED_HEAD_BYTES, max_bytes)
}

/// Checks the list of a vCPU's MSRs: number, reserved, value.
fn check_msrs(state: &[u8]) -> Result<(), Cause> {
    let numbers = entries::<VCPU_MSR_BYTES, _>(state, |fields| {
        let number = fields.u32()?;
        fields.zero::<4>()?;
        Ok(number)
    })?;
    unique("index", &numbers, |number| u64::from(*number))
}

fn parse_shared_info(mut fields: Fields<'_>) -> Result<Record, Cause> {
    let page = fields.bytes::<PAGE_BYTES>()?;
    Ok(Record::SharedInfo(Box::new(*page)))
}

fn parse_tsc_info(mut fields: Fields<'_>) -> Result<Record, Cause> {
    let tsc = TscInfo {
        mode: fields.u32()?,
        khz: fields.u32()?,
        elapsed_ns: fields.u64()?,
        incarnation: fields.u32()?,
    };
    all_zero(fields.rest())?;
    Ok(Record::TscInfo(tsc))
}

fn parse_hvm_params(mut fields: Fields<'_>) -> Result<Record, Cause> {
    let count = fields.u32()?;
    fields.zero::<4>()?;
    let params = entries::<16, _>(fields.rest(), |fields| {
        let index = fields.u64()?;
        Ok(HvmParam {
            index: u32::try_from(index).map_err(|_| Cause::Value {
                field: "index",
                value: index,
            })?,
            value: fields.u64()?,
        })
    })?;
    unique("index", &params, |param| u64::from(param.index))?;
    match params.len() as u64 == u64::from(count) {
        true => Ok(Record::HvmParams(params)),
        false => Err(Cause::Value {
            field: "count",
            value: u64::from(count),
        }),
    }
}

fn parse_cpuid_policy(body: &[u8]) -> Result<Record, Cause> {
    let leaves = entries::<24, _>(body, |fields| {
        Ok(CpuidLeaf {
            leaf: fields.u32()?,
            subleaf: fields.u32()?,
            registers: [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?],
        })
    })?;
    unique("leaf, subleaf", &leaves, |leaf| {
        u64::from(leaf.leaf) << 32 | u64::from(leaf.subleaf)
    })?;
    Ok(Record::CpuidPolicy(leaves))
}

fn parse_msr_policy(body: &[u8]) -> Result<Record, Cause> {
    let entries = entries::<16, _>(body, |fields| {
        Ok(MsrEntry {
            index: fields.u32()?,
            flags: fields.u32()?,
            value: fields.u64()?,
        })
    })?;
    unique("index", &entries, |entry| u64::from(entry.index))?;
    Ok(Record::MsrPolicy(entries))
}
