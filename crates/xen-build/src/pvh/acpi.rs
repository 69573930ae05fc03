//! The ACPI tables of a PVH domain: its CPUs, and no other hardware.
//!
//! They describe the same hardware as libacpi's tables for PVH domains of xl. The FADT has revision 5 and the same
//! power-management blocks, which have no emulation. It has no PM timer, VGA, keyboard controller or CMOS clock. The
//! MADT has a local APIC with ID `2 * vCPU` for each vCPU, and no I/O APIC. Every PVH kernel has been tested with
//! that. "Hardware-reduced ACPI" would be more exact, but would lead Linux and others through other code at boot.
//!
//! In the DSDT each CPU is a `Device` and not a `Processor`, which ACPI 6.0 has withdrawn. Its state is a constant:
//! libacpi's code reads it from a byte in the MADT, which nothing would update here. Linux adds and removes the CPUs
//! of a PVH domain through xenstore.
//!
//! The crate `acpi_tables` is not used, because it writes one revision of FADT and MADT, with fixed flags in the
//! MADT.
//!
//! All bytes of the pages are written, padding included, because the pages contain only the tables (XSA-464).

use super::aml;
use crate::bytes::{Writer, with_checksum};

/// Address of every local APIC.
const LAPIC_ADDRESS: u32 = 0xfee0_0000;
const HEADER_BYTES: usize = 36;
const OEM_ID: &str = "Xen";
const OEM_TABLE_ID: &str = "HVM";
const CREATOR: &[u8; 4] = b"Xyl ";
/// Alignment of tables; the FACS has one of its own.
const TABLE_ALIGN: u64 = 16;
const FACS_ALIGN: u64 = 64;
/// Bytes of an RSDP.
pub(crate) const RSDP_BYTES: usize = 36;

/// The tables, for the address that they were made for.
#[derive(Debug)]
pub(crate) struct Acpi {
    /// The tables, from the RSDP on.
    pub(crate) bytes: Vec<u8>,
    /// The RSDP alone, for a second copy.
    pub(crate) rsdp: Vec<u8>,
}

impl Acpi {
    /// Tables for `base`, a multiple of 64 below 4 GiB, and `max_vcpus` vCPUs of which the first `online` are there at the
    /// start.
    pub(crate) fn new(base: u32, max_vcpus: u8, online: u8) -> Acpi {
        let mut tables = Row {
            base: base.into(),
            bytes: vec![0; RSDP_BYTES],
        };
        let facs = tables.add(FACS_ALIGN, facs());
        let dsdt = tables.add(TABLE_ALIGN, dsdt(max_vcpus, online));
        let fadt = tables.add(TABLE_ALIGN, fadt(facs as u32, dsdt as u32));
        let madt = tables.add(TABLE_ALIGN, madt(max_vcpus, online));
        let xsdt = tables.add(TABLE_ALIGN, xsdt(&[fadt, madt]));
        let rsdp = rsdp(xsdt);
        let bytes = rsdp
            .iter()
            .chain(tables.bytes.iter().skip(RSDP_BYTES))
            .copied()
            .collect();
        Acpi { bytes, rsdp }
    }
}

/// Tables put one behind the other.
struct Row {
    base: u64,
    bytes: Vec<u8>,
}

impl Row {
    /// Adds a table and returns its address.
    fn add(&mut self, align: u64, table: Vec<u8>) -> u64 {
        let offset = (self.bytes.len() as u64).next_multiple_of(align);
        self.bytes.resize(offset as usize, 0);
        self.bytes.extend(table);
        self.base + offset
    }
}

/// `RSD PTR`, revision 2: two checksums, one over the first 20 bytes.
fn rsdp(xsdt: u64) -> Vec<u8> {
    let bytes = Writer::new()
        .bytes(b"RSD PTR ")
        .u8(0)
        .text(OEM_ID, 6)
        .u8(2)
        .u32(0)
        .u32(RSDP_BYTES as u32)
        .u64(xsdt)
        .zeros(4)
        .finish();
    with_checksum(with_checksum(bytes, 20, 8), RSDP_BYTES, 32)
}

fn xsdt(tables: &[u64]) -> Vec<u8> {
    table(
        b"XSDT",
        1,
        tables
            .iter()
            .fold(Writer::new(), |body, address| body.u64(*address)),
    )
}

/// The FACS, with only its signature. Nothing here wakes a guest or shares a lock with firmware.
fn facs() -> Vec<u8> {
    Writer::new()
        .bytes(b"FACS")
        .u32(64)
        .zeros(24)
        .u8(1)
        .pad_to(64)
        .finish()
}

fn fadt(facs: u32, dsdt: u32) -> Vec<u8> {
    const PM1A_EVENT: u16 = 0xb000;
    const PM1A_CONTROL: u16 = 0xb004;
    const GPE0: u32 = 0xafe0;
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_RTC: u16 = 1 << 5;
    // WBINVD, PROC_C1, PWR_BUTTON and SLP_BUTTON (none as fixed hardware), FIX_RTC (none), TMR_VAL_EXT, USE_PLATFORM_CLOCK.
    const FLAGS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 15;
    let body = Writer::new()
        .u32(facs)
        .u32(dsdt)
        .u8(0)
        .u8(0) // preferred power profile: none
        .u16(9) // SCI
        .u32(0) // SMI command port: none
        .zeros(4)
        .u32(PM1A_EVENT.into())
        .u32(0)
        .u32(PM1A_CONTROL.into())
        .zeros(12) // PM1b control, PM2 control, PM timer: none
        .u32(GPE0)
        .u32(0)
        .bytes(&[4, 2, 0, 0, 4, 0, 0, 0]) // lengths: PM1 event, PM1 control, PM2, timer, GPE0, GPE1; GPE1 base, C states
        .u16(0xfff) // C2: not there
        .u16(0xfff) // C3: not there
        .zeros(9)
        .u16(NO_VGA | NO_CMOS_RTC)
        .u8(0)
        .u32(FLAGS);
    let body = io_register(body, 8, 0xcf9) // reset register
        .u8(6)
        .zeros(3)
        .u64(facs.into())
        .u64(dsdt.into());
    let body = io_register(body, 32, PM1A_EVENT).zeros(12);
    let body = io_register(body, 16, PM1A_CONTROL);
    // PM1b control, PM2, timer, GPE0, GPE1, sleep control, sleep status: none.
    table(b"FACP", 5, body.zeros(7 * 12))
}

/// A register in I/O space, as a generic address structure.
fn io_register(body: Writer, bits: u8, port: u16) -> Writer {
    const SYSTEM_IO: u8 = 1;
    body.u8(SYSTEM_IO).u8(bits).u8(0).u8(0).u64(port.into())
}

fn madt(max_vcpus: u8, online: u8) -> Vec<u8> {
    const PCAT_COMPAT: u32 = 1;
    const LOCAL_APIC: u8 = 0;
    let body = Writer::new().u32(LAPIC_ADDRESS).u32(PCAT_COMPAT);
    let body = (0..max_vcpus).fold(body, |body, vcpu| {
        // A vCPU that is not enabled may come later: so kernels read a FADT of a revision below 6.3.
        body.u8(LOCAL_APIC)
            .u8(8)
            .u8(vcpu)
            .u8(apic_id(vcpu))
            .u32(is_online(vcpu, online).into())
    });
    table(b"APIC", 2, body)
}

/// Xen's rule for the APIC id of a vCPU, up to 4.22: no two of them look like threads of a core.
fn apic_id(vcpu: u8) -> u8 {
    vcpu.saturating_mul(2)
}

fn is_online(vcpu: u8, online: u8) -> bool {
    vcpu < online
}

/// A device for each CPU.
fn dsdt(max_vcpus: u8, online: u8) -> Vec<u8> {
    const PRESENT_AND_WORKING: u8 = 0xf;
    let device = |vcpu: u8| {
        let state = if is_online(vcpu, online) {
            PRESENT_AND_WORKING
        } else {
            0
        };
        let hid = aml::name_string(b"_HID", "ACPI0007");
        let uid = aml::name_byte(b"_UID", vcpu);
        aml::device(
            &cpu_name(vcpu),
            &[hid, uid, aml::name_byte(b"_STA", state)].concat(),
        )
    };
    let devices: Vec<u8> = (0..max_vcpus).flat_map(device).collect();
    table(
        b"DSDT",
        2,
        Writer::new().bytes(&aml::root_scope(b"_SB_", &devices)),
    )
}

/// `CP00` to `CPFF`.
fn cpu_name(vcpu: u8) -> [u8; 4] {
    let digit = |value: u8| {
        if value < 10 {
            b'0' + value
        } else {
            b'A' + value - 10
        }
    };
    [b'C', b'P', digit(vcpu >> 4), digit(vcpu & 0xf)]
}

/// A table: the common header, then `body`.
fn table(signature: &[u8; 4], revision: u8, body: Writer) -> Vec<u8> {
    const CHECKSUM_OFFSET: usize = 9;
    let body = body.finish();
    let len = HEADER_BYTES + body.len();
    let bytes = Writer::new()
        .bytes(signature)
        .u32(len as u32)
        .u8(revision)
        .u8(0)
        .text(OEM_ID, 6)
        .text(OEM_TABLE_ID, 8)
        .u32(0)
        .bytes(CREATOR)
        .u32(0)
        .bytes(&body)
        .finish();
    with_checksum(bytes, len, CHECKSUM_OFFSET)
}
