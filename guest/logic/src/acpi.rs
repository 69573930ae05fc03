//! The ACPI tables that a PVH builder makes: found, and checked by signature and checksum.

use core::fmt;

/// Physical memory that can be read in place.
pub trait PhysicalMemory {
    /// The `len` bytes at physical address `address`; `None` when they cannot be reached.
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]>;
}

/// The reasons why a table is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its address is 0, or no table of that name is listed.
    Absent,
    /// Its address cannot be reached.
    Unreachable(u64),
    /// The signature differs; these bytes stand there.
    Signature([u8; 4]),
    /// The length field makes no sense.
    Length(u32),
    /// The bytes do not sum to zero; this is their sum.
    Checksum(u8),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("absent"),
            Self::Unreachable(address) => write!(f, "address {address:#x} out of reach"),
            Self::Signature(found) => write!(f, "wrong signature {found:02x?}"),
            Self::Length(len) => write!(f, "bad length {len}"),
            Self::Checksum(sum) => write!(f, "bytes sum to {sum:#04x}, not 0"),
        }
    }
}

/// Size of the header that every table but the RSDP begins with, in bytes.
const HEADER_SIZE: usize = 36;
/// Tables longer than this are taken for garbage.
const TABLE_SIZE_MAX: u32 = 1 << 20;

/// Checks the RSDP (version 2) at `address` and gives the physical address of the XSDT.
pub fn rsdp(memory: &impl PhysicalMemory, address: u64) -> Result<u64, Fault> {
    const RSDP_SIZE: usize = 36;
    if address == 0 {
        return Err(Fault::Absent);
    }
    let bytes = memory
        .bytes(address, RSDP_SIZE)
        .ok_or(Fault::Unreachable(address))?;
    if !bytes.starts_with(b"RSD PTR ") {
        return Err(Fault::Signature(array(bytes, 0).unwrap_or_default()));
    }
    check_sum(bytes.get(..20).unwrap_or_default())?;
    let len = u32_at(bytes, 20);
    if len as usize != RSDP_SIZE {
        return Err(Fault::Length(len));
    }
    check_sum(bytes)?;
    Ok(u64_at(bytes, 24))
}

/// Checks the table with `signature` at `address` and gives its bytes, header included.
pub fn table<'m>(
    memory: &'m impl PhysicalMemory,
    address: u64,
    signature: &[u8; 4],
) -> Result<&'m [u8], Fault> {
    if address == 0 {
        return Err(Fault::Absent);
    }
    let header = memory
        .bytes(address, HEADER_SIZE)
        .ok_or(Fault::Unreachable(address))?;
    let found = array(header, 0).unwrap_or_default();
    if found != *signature {
        return Err(Fault::Signature(found));
    }
    let len = u32_at(header, 4);
    if len < HEADER_SIZE as u32 || len > TABLE_SIZE_MAX {
        return Err(Fault::Length(len));
    }
    let bytes = memory
        .bytes(address, len as usize)
        .ok_or(Fault::Unreachable(address))?;
    check_sum(bytes)?;
    Ok(bytes)
}

/// The address of the table with `signature` that `xsdt` lists.
pub fn find(memory: &impl PhysicalMemory, xsdt: &[u8], signature: &[u8; 4]) -> Result<u64, Fault> {
    let entries = xsdt.get(HEADER_SIZE..).unwrap_or_default();
    entries
        .chunks_exact(8)
        .map(|entry| u64_at(entry, 0))
        .find(|&address| {
            memory
                .bytes(address, 4)
                .is_some_and(|found| found == signature)
        })
        .ok_or(Fault::Absent)
}

/// The address of the DSDT that a FADT names: the 64-bit field, else the 32-bit one.
pub fn dsdt_address(fadt: &[u8]) -> u64 {
    match u64_at(fadt, 140) {
        0 => u64::from(u32_at(fadt, 40)),
        address => address,
    }
}

/// Local APIC entries of a MADT (local APIC and x2APIC): (enabled, all).
pub fn count_lapics(madt: &[u8]) -> (u32, u32) {
    const LOCAL_APIC: u8 = 0;
    const LOCAL_X2APIC: u8 = 9;
    let (mut enabled, mut all) = (0, 0);
    let mut rest = madt.get(HEADER_SIZE + 8..).unwrap_or_default();
    while let [kind, len, ..] = *rest {
        let len = usize::from(len);
        let (Some(entry), true) = (rest.get(..len), len >= 2) else {
            break;
        };
        let flags = match kind {
            LOCAL_APIC => Some(u32_at(entry, 4)),
            LOCAL_X2APIC => Some(u32_at(entry, 8)),
            _ => None,
        };
        if let Some(flags) = flags {
            all += 1;
            enabled += flags & 1;
        }
        rest = rest.get(len..).unwrap_or_default();
    }
    (enabled, all)
}

fn check_sum(bytes: &[u8]) -> Result<(), Fault> {
    match bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte)) {
        0 => Ok(()),
        sum => Err(Fault::Checksum(sum)),
    }
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

/// A number that lies past the end reads as 0, as a field absent from an older table version does.
fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array(bytes, offset).unwrap_or_default())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(array(bytes, offset).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Memory(Vec<u8>);

    impl PhysicalMemory for Memory {
        fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
            let start = usize::try_from(address).ok()?;
            self.0.get(start..start.checked_add(len)?)
        }
    }

    fn fix_sum(bytes: &mut [u8], at: usize) {
        bytes[at] = 0;
        let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        bytes[at] = sum.wrapping_neg();
    }

    fn table_bytes(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_SIZE];
        bytes[..4].copy_from_slice(signature);
        bytes.extend_from_slice(body);
        let len = bytes.len() as u32;
        bytes[4..8].copy_from_slice(&len.to_le_bytes());
        fix_sum(&mut bytes, 9);
        bytes
    }

    fn put(memory: &mut [u8], at: usize, bytes: &[u8]) {
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn sample() -> Memory {
        let mut memory = vec![0; 0x1000];
        let mut root = vec![0; 36];
        root[..8].copy_from_slice(b"RSD PTR ");
        root[15] = 2;
        root[20] = 36;
        root[24..32].copy_from_slice(&0x200u64.to_le_bytes());
        fix_sum(&mut root[..20], 8);
        fix_sum(&mut root, 32);
        put(&mut memory, 0x100, &root);

        let mut entries = Vec::new();
        entries.extend_from_slice(&0x300u64.to_le_bytes());
        entries.extend_from_slice(&0x500u64.to_le_bytes());
        put(&mut memory, 0x200, &table_bytes(b"XSDT", &entries));

        let mut fadt = vec![0; 244 - HEADER_SIZE];
        fadt[140 - HEADER_SIZE..148 - HEADER_SIZE].copy_from_slice(&0x800u64.to_le_bytes());
        put(&mut memory, 0x300, &table_bytes(b"FACP", &fadt));

        let mut madt = vec![0; 8];
        madt.extend_from_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
        madt.extend_from_slice(&[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        madt.extend_from_slice(&[0, 8, 1, 2, 0, 0, 0, 0]);
        put(&mut memory, 0x500, &table_bytes(b"APIC", &madt));

        put(&mut memory, 0x800, &table_bytes(b"DSDT", &[1, 2, 3]));
        Memory(memory)
    }

    #[test]
    fn the_whole_chain() {
        let memory = sample();
        let xsdt = rsdp(&memory, 0x100).unwrap();
        let xsdt = table(&memory, xsdt, b"XSDT").unwrap();
        let fadt = table(&memory, find(&memory, xsdt, b"FACP").unwrap(), b"FACP").unwrap();
        assert_eq!(
            table(&memory, dsdt_address(fadt), b"DSDT").unwrap().len(),
            39
        );
        let madt = table(&memory, find(&memory, xsdt, b"APIC").unwrap(), b"APIC").unwrap();
        assert_eq!(count_lapics(madt), (1, 2));
        assert_eq!(find(&memory, xsdt, b"HPET"), Err(Fault::Absent));
    }

    #[test]
    fn faults_are_told_apart() {
        let mut memory = sample();
        assert_eq!(rsdp(&memory, 0), Err(Fault::Absent));
        assert_eq!(rsdp(&memory, 0xff8), Err(Fault::Unreachable(0xff8)));
        assert_eq!(rsdp(&memory, 0x200), Err(Fault::Signature(*b"XSDT")));
        memory.0[0x810] ^= 1;
        assert!(matches!(
            table(&memory, 0x800, b"DSDT"),
            Err(Fault::Checksum(_))
        ));
        memory.0[0x804] = 3;
        assert_eq!(table(&memory, 0x800, b"DSDT"), Err(Fault::Length(3)));
    }

    #[test]
    fn a_broken_madt_ends_the_count() {
        let mut madt = vec![0; 44];
        madt.extend_from_slice(&[0, 0, 0, 0]);
        assert_eq!(count_lapics(&madt), (0, 0));
        madt.truncate(44);
        madt.extend_from_slice(&[0, 200, 0]);
        assert_eq!(count_lapics(&madt), (0, 0));
    }
}
