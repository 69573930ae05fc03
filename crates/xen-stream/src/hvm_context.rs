//! [`HvmContext`], the list of records in the state of an HVM or PVH guest. Facts: `xen/include/public/hvm/save.h`,
//! `xen/include/public/arch-x86/hvm/save.h`.

use std::collections::BTreeSet;

use crate::error::Cause;
use crate::fields::Fields;

const MAGIC: u32 = 0x5438_1286;
const VERSION: u32 = 1;
/// Length of the descriptor before each record.
const DESCRIPTOR_BYTES: usize = 8;
const HEADER_BYTES: usize = 24;
/// Largest number of records: some 20 for each of 4096 vCPUs.
const RECORDS_MAX: usize = 1 << 17;

const END: u16 = 0;
const HEADER: u16 = 1;
const CPU: u16 = 2;
/// Types of which each vCPU has a record: CPU, LAPIC, LAPIC_REGS, MTRR, CPU_XSAVE, VIRIDIAN_VCPU, VMCE_VCPU, TSC_ADJUST, CPU_MSR.
const PER_VCPU: [u16; 9] = [CPU, 5, 6, 14, 16, 17, 18, 19, 20];

/// The reason why the state of an HVM or PVH guest is refused, with the offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HvmContextError {
    /// The state ends inside of a record.
    #[error("the state of the guest ends inside of the record at its byte {at_bytes}")]
    Cut {
        /// Offset of the record.
        at_bytes: usize,
    },
    /// The first record is not a header.
    #[error("the state of the guest does not begin with a header of 24 bytes")]
    NoHeader,
    /// The header has another magic number or version.
    #[error("the state of the guest has magic {magic:#x} and version {version}")]
    Format {
        /// Magic number of the header.
        magic: u32,
        /// Version of the header.
        version: u32,
    },
    /// Two records have the same type and number.
    #[error("the state of the guest has two records of type {code} for number {instance}")]
    Repeated {
        /// Type of the records.
        code: u16,
        /// Number of the device or vCPU.
        instance: u16,
    },
    /// The last record is not an end, or bytes follow it.
    #[error("the end of the guest's state is not at byte {at_bytes}, where its last record is")]
    End {
        /// Offset of the last record.
        at_bytes: usize,
    },
    /// The state has no vCPU 0.
    #[error("the state of the guest has no vCPU 0")]
    NoVcpu,
    /// A vCPU has a number that is too large.
    #[error(
        "the state of the guest has a record of type {code} for vCPU {instance}, which the limit of vCPUs excludes"
    )]
    Vcpu {
        /// Type of the record.
        code: u16,
        /// Number of the vCPU.
        instance: u16,
    },
    /// The state has too many records.
    #[error("the state of the guest has more than 131072 records")]
    TooMany,
}

/// The header of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmHeader {
    /// Changeset of the Xen that saved the guest, as far as Xen filled it in.
    pub changeset: u64,
    /// Family, model and stepping of the CPU (`CPUID[1].EAX`).
    pub cpuid: u32,
    /// Frequency of the guest's TSC in kHz.
    pub tsc_khz: u32,
}

/// A record of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmRecord<'a> {
    /// Type of the record (`HVM_SAVE_CODE`).
    pub code: u16,
    /// Number of the device or vCPU.
    pub instance: u16,
    /// Body of the record. Its length belongs to the release of Xen that wrote it.
    pub body: &'a [u8],
}

/// State of an HVM or PVH guest: vCPUs and Xen's own devices. Only its list of records is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HvmContext<'a> {
    /// Header of the state.
    pub header: HvmHeader,
    /// The records between header and end.
    pub records: Vec<HvmRecord<'a>>,
}

impl<'a> HvmContext<'a> {
    /// Reads the list of records and checks it.
    ///
    /// # Errors
    /// The list has no right header or no vCPU 0, a record is cut, is there twice, or the end is not last.
    pub fn parse(state: &'a [u8]) -> Result<HvmContext<'a>, HvmContextError> {
        let mut walk = Walk { state, at_bytes: 0 };
        let header = parse_header(walk.step()?)?;
        let mut records = Vec::new();
        let mut seen = BTreeSet::new();
        loop {
            let at_bytes = walk.at_bytes;
            let record = walk.step()?;
            let (code, instance) = (record.code, record.instance);
            if code == END {
                let is_last = walk.at_bytes == state.len() && record.body.is_empty();
                return match (is_last, seen.contains(&(CPU, 0))) {
                    (false, _) => Err(HvmContextError::End { at_bytes }),
                    (true, false) => Err(HvmContextError::NoVcpu),
                    (true, true) => Ok(HvmContext { header, records }),
                };
            }
            if code == HEADER || !seen.insert((code, instance)) {
                return Err(HvmContextError::Repeated { code, instance });
            }
            if records.len() == RECORDS_MAX {
                return Err(HvmContextError::TooMany);
            }
            records.push(record);
        }
    }

    /// Checks that no record is about a vCPU of this number or a larger one.
    pub(crate) fn check_vcpus(&self, vcpu_end: u32) -> Result<(), HvmContextError> {
        let is_outside = |record: &&HvmRecord<'_>| {
            PER_VCPU.contains(&record.code) && u32::from(record.instance) >= vcpu_end
        };
        match self.records.iter().find(is_outside) {
            Some(HvmRecord { code, instance, .. }) => Err(HvmContextError::Vcpu {
                code: *code,
                instance: *instance,
            }),
            None => Ok(()),
        }
    }

    /// Number of vCPUs that the state has.
    pub fn nr_vcpus(&self) -> usize {
        let is_vcpu = |record: &&HvmRecord<'_>| record.code == CPU;
        self.records.iter().filter(is_vcpu).count()
    }
}

fn parse_header(record: HvmRecord<'_>) -> Result<HvmHeader, HvmContextError> {
    let is_header = (record.code, record.instance) == (HEADER, 0);
    if !is_header || record.body.len() != HEADER_BYTES {
        return Err(HvmContextError::NoHeader);
    }
    match header_fields(record.body) {
        Ok((MAGIC, VERSION, header)) => Ok(header),
        Ok((magic, version, _)) => Err(HvmContextError::Format { magic, version }),
        Err(_) => Err(HvmContextError::NoHeader),
    }
}

/// Magic number, version, and the other fields of the header.
fn header_fields(body: &[u8]) -> Result<(u32, u32, HvmHeader), Cause> {
    let mut fields = Fields::of(body);
    let (magic, version) = (fields.u32()?, fields.u32()?);
    let header = HvmHeader {
        changeset: fields.u64()?,
        cpuid: fields.u32()?,
        tsc_khz: fields.u32()?,
    };
    Ok((magic, version, header))
}

/// Goes from record to record.
struct Walk<'a> {
    state: &'a [u8],
    at_bytes: usize,
}

impl<'a> Walk<'a> {
    fn step(&mut self) -> Result<HvmRecord<'a>, HvmContextError> {
        let at_bytes = self.at_bytes;
        self.read().ok_or(HvmContextError::Cut { at_bytes })
    }

    fn read(&mut self) -> Option<HvmRecord<'a>> {
        let mut fields = Fields::of(self.state.get(self.at_bytes..)?);
        let code = fields.u16().ok()?;
        let instance = fields.u16().ok()?;
        let length = fields.u32().ok()? as usize;
        let body = fields.rest().get(..length)?;
        self.at_bytes += DESCRIPTOR_BYTES + length;
        Some(HvmRecord {
            code,
            instance,
            body,
        })
    }
}
