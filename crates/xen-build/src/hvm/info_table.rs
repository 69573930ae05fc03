//! `hvm_info_table`, by which hvmloader learns the domain's CPUs and memory.
//!
//! Source: `xen/include/public/hvm/hvm_info_table.h`, the same from 4.17 to 4.22.

use super::HvmMachine;
use super::layout::HvmRam;
use crate::bytes::{Writer, with_checksum};
use crate::request::BuildRequest;
use crate::span::PAGE_BYTES;
use crate::special::IOREQ_SERVERS;

/// Offset of the table in its page (`HVM_INFO_OFFSET`).
pub(crate) const OFFSET: u64 = 0x800;
const LEN: usize = 48;
const CHECKSUM_OFFSET: usize = 12;
/// Bytes of `HVM_MAX_VCPUS` bits.
const ONLINE_BYTES: usize = 16;

/// The bytes of the table.
pub(crate) fn info_table(
    request: &BuildRequest<'_>,
    machine: &HvmMachine,
    ram: &HvmRam,
) -> Vec<u8> {
    let page = |address: u64| (address / PAGE_BYTES) as u32;
    let bytes = Writer::new()
        .bytes(b"HVM INFO")
        .u32(LEN as u32)
        .u8(0)
        .u8(machine.apic.into())
        .align(4)
        .u32(request.max_vcpus)
        .u32(page(ram.low_end))
        .u32(IOREQ_SERVERS.first as u32)
        .u32(page(ram.high_end))
        .bytes(&online_vcpus(request))
        .finish();
    with_checksum(bytes, LEN, CHECKSUM_OFFSET)
}

/// One bit for each vCPU: whether it is there at the start.
fn online_vcpus(request: &BuildRequest<'_>) -> [u8; ONLINE_BYTES] {
    let online = request.online_vcpus.clamp(1, request.max_vcpus.max(1));
    std::array::from_fn(|index| {
        let in_this_byte = online.saturating_sub(8 * index as u32).min(8);
        ((1_u32 << in_this_byte) - 1) as u8
    })
}
