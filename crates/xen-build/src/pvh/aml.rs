//! The part of AML, the byte code of ACPI, that names devices (ACPI specification 6.5, chapter 20).

const SCOPE: u8 = 0x10;
const NAME: u8 = 0x08;
const DEVICE: [u8; 2] = [0x5b, 0x82];
const ROOT: &[u8] = b"\\";
const BYTE: u8 = 0x0a;
const STRING: u8 = 0x0d;

/// `Scope (\name) { contents }`
pub(super) fn root_scope(name: &[u8; 4], contents: &[u8]) -> Vec<u8> {
    package(&[SCOPE], &[ROOT, name, contents].concat())
}

/// `Device (name) { contents }`
pub(super) fn device(name: &[u8; 4], contents: &[u8]) -> Vec<u8> {
    package(&DEVICE, &[name, contents].concat())
}

/// `Name (name, "text")`
pub(super) fn name_string(name: &[u8; 4], text: &str) -> Vec<u8> {
    [&[NAME], name.as_slice(), &[STRING], text.as_bytes(), &[0]].concat()
}

/// `Name (name, value)`
pub(super) fn name_byte(name: &[u8; 4], value: u8) -> Vec<u8> {
    [&[NAME], name.as_slice(), &[BYTE, value]].concat()
}

/// An object whose length is written between its opcode and its contents.
fn package(opcode: &[u8], contents: &[u8]) -> Vec<u8> {
    [opcode, &package_length(contents.len()), contents].concat()
}

/// Encodes `PkgLength`: the length of itself and the contents. Up to 63 it is one byte. Otherwise the first byte has
/// four bits and the number of further bytes, which have eight bits each.
fn package_length(contents_len: usize) -> Vec<u8> {
    const ONE_BYTE_MAX: usize = 63;
    const TWO_BYTES_MAX: usize = 0xfff;
    if contents_len < ONE_BYTE_MAX {
        return vec![contents_len as u8 + 1];
    }
    let following = if contents_len + 2 <= TWO_BYTES_MAX {
        1
    } else {
        2
    };
    let len = contents_len + 1 + following;
    let lead = (following as u8) << 6 | (len & 0xf) as u8;
    let rest = (0..following).map(|i| (len >> (4 + 8 * i)) as u8);
    std::iter::once(lead).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_include_themselves() {
        assert_eq!(package_length(0), [1]);
        assert_eq!(package_length(62), [63]);
        // 65 = 0x41: low four bits 1, then 4.
        assert_eq!(package_length(63), [0x41, 0x04]);
        assert_eq!(package_length(4093), [0x4f, 0xff]);
        // 4097 = 0x1001.
        assert_eq!(package_length(4094), [0x81, 0x00, 0x01]);
    }

    #[test]
    fn a_device_in_a_scope_is_what_the_compiler_makes_of_it() {
        let code = root_scope(b"_SB_", &device(b"C000", &name_byte(b"_UID", 0)));
        assert_eq!(code, b"\x10\x14\\_SB_\x5b\x82\x0cC000\x08_UID\x0a\x00");
    }
}
