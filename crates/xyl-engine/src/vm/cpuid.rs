//! Facts about the bits of `cpuid=`: which of them a guest's kernel needs against speculative execution. The policy's decision warns of them
//! (`config::admission`).
//!
//! Facts: Xen's public header `arch-x86/cpufeatureset.h`.

use xl_cfg::types::{CpuidBits, CpuidTarget};

/// Index of EBX and EDX among the registers of an answer.
const EBX: usize = 1;
const EDX: usize = 3;

/// A feature with its leaf, subleaf, register and bit.
type Feature = (&'static str, u32, Option<u32>, usize, u32);

/// The features by which a kernel protects itself.
const MITIGATIONS: [Feature; 10] = [
    ("md-clear", 7, Some(0), EDX, 10),
    ("ibrsb", 7, Some(0), EDX, 26),
    ("stibp", 7, Some(0), EDX, 27),
    ("l1d-flush", 7, Some(0), EDX, 28),
    ("arch-caps", 7, Some(0), EDX, 29),
    ("ssbd", 7, Some(0), EDX, 31),
    ("ibpb", 0x8000_0008, None, EBX, 12),
    ("ibrs", 0x8000_0008, None, EBX, 14),
    ("amd-stibp", 0x8000_0008, None, EBX, 15),
    ("amd-ssbd", 0x8000_0008, None, EBX, 24),
];

/// The names of the features against speculative execution that these bits take away.
pub fn hidden_mitigations(bits: &[CpuidBits]) -> Vec<String> {
    let is_hidden = |(_, leaf, subleaf, register, bit): &&Feature| {
        let target = CpuidTarget::Leaf {
            leaf: *leaf,
            subleaf: *subleaf,
            register: *register,
        };
        let mut bits = bits.iter();
        bits.any(|bits| bits.target == target && bits.zeros >> bit & 1 == 1)
    };
    let hidden = MITIGATIONS.iter().filter(is_hidden);
    hidden.map(|(name, ..)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(cpuid: &str) -> Vec<String> {
        let text = format!("name = 'g'\nkernel = '/k'\ncpuid = {cpuid}\n");
        let source = xl_cfg::Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        let config = xl_cfg::parse::<&str>(source, &[]).unwrap();
        hidden_mitigations(&config.domain.processors.cpuid.unwrap().bits())
    }

    /// Each name is the one of xl.cfg.
    #[test]
    fn each_is_found_by_its_name() {
        for (name, ..) in MITIGATIONS {
            assert_eq!(hidden(&format!("'host,{name}=0'")), [name]);
            assert!(hidden(&format!("'host,{name}=1'")).is_empty(), "{name}");
        }
        assert!(hidden("'host,rdrand=0'").is_empty());
        let bits = format!("x0{}", "x".repeat(30));
        assert!(hidden(&format!("[ '1:ecx={bits}' ]")).is_empty());
        let bits = format!("0{}", "x".repeat(31));
        assert_eq!(hidden(&format!("[ '7,0:edx={bits}' ]")), ["ssbd"]);
    }
}
