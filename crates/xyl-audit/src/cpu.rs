//! The CPU: its vendor, and the facts about speculation in its CPUID leaves and `MSR_ARCH_CAPABILITIES`.

use serde::{Deserialize, Serialize};
use xen_port::CpuPolicy;

/// Manufacturer of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vendor {
    /// CPUs made by Intel.
    Intel,
    /// CPUs made by AMD.
    Amd,
    /// Hygon, whose CPUs are AMD's.
    Hygon,
    /// CPUs of another vendor.
    Other,
}

impl Vendor {
    /// Parses a name from Xen's log, `/proc/cpuinfo` or CPUID's twelve letters.
    #[must_use]
    pub fn from_word(word: &str) -> Vendor {
        match word.trim() {
            "Intel" | "GenuineIntel" => Vendor::Intel,
            "AMD" | "AuthenticAMD" => Vendor::Amd,
            "Hygon" | "HygonGenuine" => Vendor::Hygon,
            _ => Vendor::Other,
        }
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Vendor::Intel => "Intel",
            Vendor::Amd => "AMD",
            Vendor::Hygon => "Hygon",
            Vendor::Other => "other",
        }
    }
}

/// A type of CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuId {
    /// Vendor of the CPU.
    pub vendor: Vendor,
    /// Family, the extended one included.
    pub family: u32,
    /// Model, the extended one included.
    pub model: u32,
    /// Stepping of the model.
    pub stepping: u32,
}

/// Number of the MSR `MSR_ARCH_CAPABILITIES`.
const ARCH_CAPS: u32 = 0x10a;

/// Position of a feature: leaf, subleaf, register (a to d as 0 to 3), bit. From Xen's public
/// `arch-x86/cpufeatureset.h`.
type Place = (u32, u32, u8, u8);

const LEAF_BITS: &[(&str, Place)] = &[
    ("RTM", (7, 0, 1, 11)),
    ("SRBDS_CTRL", (7, 0, 3, 9)),
    ("MD_CLEAR", (7, 0, 3, 10)),
    ("RTM_ALWAYS_ABORT", (7, 0, 3, 11)),
    ("IBRS", (7, 0, 3, 26)),
    ("IBPB", (7, 0, 3, 26)),
    ("STIBP", (7, 0, 3, 27)),
    ("L1D_FLUSH", (7, 0, 3, 28)),
    ("ARCH_CAPS", (7, 0, 3, 29)),
    ("SSBD", (7, 0, 3, 31)),
    ("BHI_CTRL", (7, 2, 3, 4)),
    ("IBPB", (0x8000_0008, 0, 1, 12)),
    ("IBRS", (0x8000_0008, 0, 1, 14)),
    ("STIBP", (0x8000_0008, 0, 1, 15)),
    ("IBRS_ALWAYS", (0x8000_0008, 0, 1, 16)),
    ("STIBP_ALWAYS", (0x8000_0008, 0, 1, 17)),
    ("IBRS_FAST", (0x8000_0008, 0, 1, 18)),
    ("IBRS_SAME_MODE", (0x8000_0008, 0, 1, 19)),
    ("SSBD", (0x8000_0008, 0, 1, 24)),
    ("VIRT_SSBD", (0x8000_0008, 0, 1, 25)),
    ("SSB_NO", (0x8000_0008, 0, 1, 26)),
    ("BTC_NO", (0x8000_0008, 0, 1, 29)),
    ("IBPB_RET", (0x8000_0008, 0, 1, 30)),
    ("VERW_CLEAR", (0x8000_0021, 0, 0, 5)),
    ("AUTO_IBRS", (0x8000_0021, 0, 0, 8)),
    ("SBPB", (0x8000_0021, 0, 0, 27)),
    ("IBPB_BRTYPE", (0x8000_0021, 0, 0, 28)),
    ("SRSO_NO", (0x8000_0021, 0, 0, 29)),
    ("SRSO_US_NO", (0x8000_0021, 0, 0, 30)),
    ("SRSO_MSR_FIX", (0x8000_0021, 0, 0, 31)),
    ("TSA_SQ_NO", (0x8000_0021, 0, 2, 1)),
    ("TSA_L1_NO", (0x8000_0021, 0, 2, 2)),
];

const ARCH_CAPS_BITS: &[(&str, u8)] = &[
    ("RDCL_NO", 0),
    ("EIBRS", 1),
    ("RSBA", 2),
    ("SKIP_L1DFL", 3),
    ("SSB_NO", 4),
    ("MDS_NO", 5),
    ("TSX_CTRL", 7),
    ("TAA_NO", 8),
    ("SBDR_SSDP_NO", 13),
    ("FBSDP_NO", 14),
    ("PSDP_NO", 15),
    ("FB_CLEAR", 17),
    ("FB_CLEAR_CTRL", 18),
    ("RRSBA", 19),
    ("BHI_NO", 20),
    ("PBRSB_NO", 24),
    ("GDS_CTRL", 25),
    ("GDS_NO", 26),
    ("RFDS_NO", 27),
    ("RFDS_CLEAR", 28),
    ("ITS_NO", 62),
];

/// The names of the features about speculation that a policy has.
#[must_use]
pub fn features(policy: &CpuPolicy) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut add = |name: &str, has: bool| {
        if has && !found.iter().any(|other| other == name) {
            found.push(name.to_owned());
        }
    };
    for (name, (leaf, subleaf, register, bit)) in LEAF_BITS {
        let has = policy.leaves.iter().any(|answer| {
            let value = match register {
                0 => answer.a,
                1 => answer.b,
                2 => answer.c,
                _ => answer.d,
            };
            answer.leaf == *leaf
                && (answer.subleaf == *subleaf || answer.subleaf == u32::MAX)
                && value & (1 << bit) != 0
        });
        add(name, has);
    }
    let caps = policy
        .msrs
        .iter()
        .find(|msr| msr.index == ARCH_CAPS)
        .map_or(0, |msr| msr.value);
    for (name, bit) in ARCH_CAPS_BITS {
        add(name, caps & (1 << bit) != 0);
    }
    found
}

/// Whether a name is that of a bit in `MSR_ARCH_CAPABILITIES`.
pub(crate) fn is_in_arch_caps(name: &str) -> bool {
    ARCH_CAPS_BITS.iter().any(|(other, _)| *other == name)
}

/// The CPU that a policy describes.
#[must_use]
pub fn identify(policy: &CpuPolicy) -> Option<CpuId> {
    let leaf = |number| policy.leaves.iter().find(|leaf| leaf.leaf == number);
    let (first, second) = (leaf(0)?, leaf(1)?);
    let letters: Vec<u8> = [first.b, first.d, first.c]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let (base, extended) = ((second.a >> 8) & 0xf, (second.a >> 20) & 0xff);
    let family = if base == 0xf { base + extended } else { base };
    let model = (second.a >> 4) & 0xf;
    let high = (second.a >> 16) & 0xf;
    let model = if base >= 6 {
        model | (high << 4)
    } else {
        model
    };
    Some(CpuId {
        vendor: Vendor::from_word(&String::from_utf8_lossy(&letters)),
        family,
        model,
        stepping: second.a & 0xf,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use xen_port::{CpuidLeaf, MsrEntry};

    fn leaf(leaf: u32, subleaf: u32, [a, b, c, d]: [u32; 4]) -> CpuidLeaf {
        CpuidLeaf {
            leaf,
            subleaf,
            a,
            b,
            c,
            d,
        }
    }

    #[test]
    fn a_policy_names_the_cpu_and_its_features() {
        let words = |text: &[u8; 12]| {
            let word = |at: usize| u32::from_le_bytes(text[at..at + 4].try_into().unwrap());
            [word(0), word(4), word(8)]
        };
        let [b, d, c] = words(b"AuthenticAMD");
        let policy = CpuPolicy {
            leaves: vec![
                leaf(0, u32::MAX, [0x10, b, c, d]),
                leaf(1, u32::MAX, [0x00a2_0f12, 0, 0, 0]),
                leaf(0x8000_0008, u32::MAX, [0, 1 << 12 | 1 << 29, 0, 0]),
                leaf(7, 1, [0, 0, 0, 1 << 26]),
            ],
            msrs: vec![MsrEntry {
                index: ARCH_CAPS,
                flags: 0,
                value: 1 << 62,
            }],
        };
        let cpu = identify(&policy).unwrap();
        assert_eq!(
            cpu,
            CpuId {
                vendor: Vendor::Amd,
                family: 25,
                model: 33,
                stepping: 2
            }
        );
        assert_eq!(features(&policy), ["IBPB", "BTC_NO", "ITS_NO"]);
    }
}
