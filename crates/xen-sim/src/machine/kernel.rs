//! A small valid kernel image, for guests of a simulated host.

/// Address at which it is loaded and entered, in bytes.
const ADDRESS: u32 = 0x10_0000;
/// Type of the ELF note `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;
/// `cli`, and `hlt` for ever: on a real Xen it does nothing. The simulated host does not run it at all.
const CODE: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

const HEADER_BYTES: u32 = 64;
const PROGRAM_HEADER_BYTES: u32 = 56;

/// The kernel as a 64-bit ELF file with the note that makes it a PVH kernel.
pub(super) fn image() -> Vec<u8> {
    let note = note();
    let code_at = HEADER_BYTES + 2 * PROGRAM_HEADER_BYTES;
    let note_at = code_at + 16;
    let mut image = header();
    image.extend(program_header(1, code_at, CODE.len() as u32));
    image.extend(program_header(4, note_at, note.len() as u32));
    image.extend(CODE);
    image.resize(note_at as usize, 0);
    image.extend(note);
    image
}

fn header() -> Vec<u8> {
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    for half in [2_u16, 62] {
        header.extend(half.to_le_bytes());
    }
    header.extend(1_u32.to_le_bytes());
    for long in [u64::from(ADDRESS), u64::from(HEADER_BYTES), 0] {
        header.extend(long.to_le_bytes());
    }
    header.extend(0_u32.to_le_bytes());
    let sizes = [HEADER_BYTES, PROGRAM_HEADER_BYTES, 2, 64, 0, 0];
    for half in sizes {
        header.extend((half as u16).to_le_bytes());
    }
    header
}

/// A segment (`PT_LOAD` 1, `PT_NOTE` 4) of so many bytes.
fn program_header(kind: u32, offset: u32, size: u32) -> Vec<u8> {
    let readable_and_executable = 5_u32;
    let mut header: Vec<u8> = kind.to_le_bytes().to_vec();
    header.extend(readable_and_executable.to_le_bytes());
    let address = u64::from(ADDRESS) + if kind == 1 { 0 } else { 0x1000 };
    let size = u64::from(size);
    for long in [u64::from(offset), address, address, size, size, 4] {
        header.extend(long.to_le_bytes());
    }
    header
}

fn note() -> Vec<u8> {
    let mut note = Vec::new();
    for word in [4, 4, PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(ADDRESS.to_le_bytes());
    note
}
