//! The bits that the setting `cpuid` changes, register by register.

use super::cpuid::{BitPolicy, Cpuid, CpuidFlag, CpuidLeaf};
use super::cpuid_features::{ALIASES, FEATURES, FIELDS, WORDS, Word};

/// A register whose bits the setting changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuidTarget {
    /// A register of an answer of the CPUID instruction.
    Leaf {
        /// EAX before the instruction.
        leaf: u32,
        /// ECX before the instruction; `None` if the leaf has no subleaves.
        subleaf: Option<u32>,
        /// Index of the register: EAX, EBX, ECX, EDX.
        register: usize,
    },
    /// A model-specific register.
    Msr {
        /// Number of the register.
        index: u32,
    },
}

/// The bits of one register. No bit is in two of the masks; the others keep their values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidBits {
    /// The register with the bits.
    pub target: CpuidTarget,
    /// Bits that become 0.
    pub zeros: u64,
    /// Bits that become 1.
    pub ones: u64,
    /// Bits that get the host's values.
    pub host: u64,
}

impl Cpuid {
    /// The bits of all registers that the setting changes, each register once. A later setting of a bit replaces an earlier one.
    #[must_use]
    pub fn bits(&self) -> Vec<CpuidBits> {
        let mut changes = Changes::default();
        match self {
            Self::Flags(flags) => flags.iter().for_each(|flag| changes.add_flag(flag)),
            Self::Leaves(leaves) => leaves.iter().for_each(|leaf| changes.add_leaf(leaf)),
        }
        changes.registers.retain(CpuidBits::changes_something);
        changes.registers
    }
}

impl CpuidBits {
    fn changes_something(&self) -> bool {
        self.zeros | self.ones | self.host != 0
    }

    fn set(&mut self, mask: u64, policy: BitPolicy) {
        self.zeros &= !mask;
        self.ones &= !mask;
        self.host &= !mask;
        match policy {
            BitPolicy::Zero => self.zeros |= mask,
            BitPolicy::One => self.ones |= mask,
            BitPolicy::Host => self.host |= mask,
            BitPolicy::Default => {}
        }
    }
}

/// A run of bits of a register.
#[derive(Clone, Copy)]
struct Field {
    target: CpuidTarget,
    first: u32,
    width: u32,
}

impl Field {
    fn mask(self) -> u64 {
        ((1_u64 << self.width) - 1) << self.first
    }

    /// Another run of the same register.
    fn elsewhere(self, first: u32, width: u32) -> Field {
        Field {
            first,
            width,
            ..self
        }
    }
}

/// The changes so far.
#[derive(Default)]
struct Changes {
    registers: Vec<CpuidBits>,
}

impl Changes {
    fn register(&mut self, target: CpuidTarget) -> Option<&mut CpuidBits> {
        if !self.registers.iter().any(|known| known.target == target) {
            self.registers.push(CpuidBits {
                target,
                zeros: 0,
                ones: 0,
                host: 0,
            });
        }
        self.registers
            .iter_mut()
            .find(|known| known.target == target)
    }

    fn set_policy(&mut self, field: Field, policy: BitPolicy) {
        if let Some(register) = self.register(field.target) {
            register.set(field.mask(), policy);
        }
    }

    fn set_number(&mut self, field: Field, number: u64) {
        let ones = number << field.first & field.mask();
        if let Some(register) = self.register(field.target) {
            register.set(ones, BitPolicy::One);
            register.set(field.mask() & !ones, BitPolicy::Zero);
        }
    }

    fn add_flag(&mut self, flag: &CpuidFlag) {
        match flag {
            CpuidFlag::Feature { name, policy } => {
                if let Some(bit) = bit_of(name) {
                    self.set_policy(bit, *policy);
                }
            }
            CpuidFlag::Field { name, value } => {
                for (field, number) in parts(name, (*value).into()) {
                    self.set_number(field, number);
                }
            }
            CpuidFlag::FieldPolicy { name, policy } => {
                for (field, _) in parts(name, 0) {
                    self.set_policy(field, *policy);
                }
            }
        }
    }

    fn add_leaf(&mut self, entry: &CpuidLeaf) {
        for (register, bits) in entry.registers.iter().enumerate() {
            let target = CpuidTarget::Leaf {
                leaf: entry.leaf,
                subleaf: entry.subleaf,
                register,
            };
            let bits = bits.iter().flat_map(|bits| bits.chars().rev());
            for (first, policy) in (0..u32::BITS).zip(bits) {
                let bit = Field {
                    target,
                    first,
                    width: 1,
                };
                self.set_policy(bit, policy_of(policy));
            }
        }
    }
}

fn policy_of(letter: char) -> BitPolicy {
    match letter {
        '0' => BitPolicy::Zero,
        '1' => BitPolicy::One,
        'k' | 's' => BitPolicy::Host,
        _ => BitPolicy::Default,
    }
}

fn target((leaf, subleaf, register): (u32, Option<u32>, usize)) -> CpuidTarget {
    CpuidTarget::Leaf {
        leaf,
        subleaf,
        register,
    }
}

/// The bit of a feature.
fn bit_of(name: &str) -> Option<Field> {
    if let Some((_, register, bit)) = ALIASES.iter().find(|(known, ..)| *known == name) {
        return Some(Field {
            target: target(*register),
            first: *bit,
            width: 1,
        });
    }
    let index = FEATURES
        .binary_search_by_key(&name, |(known, ..)| known)
        .ok()?;
    let (_, word, bit) = FEATURES.get(index)?;
    let (target, first) = match WORDS.get(*word)? {
        Word::Cpuid(register) => (target(*register), *bit),
        Word::Msr(index, first) => (CpuidTarget::Msr { index: *index }, first + bit),
    };
    Some(Field {
        target,
        first,
        width: 1,
    })
}

/// The runs of bits of a field, and the number that each gets. `family` and `model` have their extended parts in bits 20 to 27
/// and 16 to 19 of EAX of leaf 1; a family above 15 is 15 and the rest.
fn parts(name: &str, value: u64) -> Vec<(Field, u64)> {
    const BASE_FAMILY_MAX: u64 = 15;
    let Some((_, register, first, width)) = FIELDS.iter().find(|(known, ..)| *known == name) else {
        return Vec::new();
    };
    let field = Field {
        target: target(*register),
        first: *first,
        width: *width,
    };
    match name {
        "family" => {
            let base = value.min(BASE_FAMILY_MAX);
            vec![
                (field.elsewhere(*first, 4), base),
                (field.elsewhere(20, 8), value - base),
            ]
        }
        "model" => vec![
            (field.elsewhere(*first, 4), value & 0xf),
            (field.elsewhere(16, 4), value >> 4),
        ],
        _ => vec![(field, value)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EAX: usize = 0;
    const ECX: usize = 2;
    const EDX: usize = 3;

    fn leaf(leaf: u32, subleaf: Option<u32>, register: usize) -> CpuidTarget {
        CpuidTarget::Leaf {
            leaf,
            subleaf,
            register,
        }
    }

    fn feature(name: &str, policy: BitPolicy) -> CpuidFlag {
        CpuidFlag::Feature {
            name: name.to_owned(),
            policy,
        }
    }

    fn field(name: &str, value: u32) -> CpuidFlag {
        CpuidFlag::Field {
            name: name.to_owned(),
            value,
        }
    }

    fn bits(target: CpuidTarget, zeros: u64, ones: u64, host: u64) -> CpuidBits {
        CpuidBits {
            target,
            zeros,
            ones,
            host,
        }
    }

    #[test]
    fn features_are_bits_of_their_registers_and_the_last_setting_counts() {
        let flags = vec![
            feature("htt", BitPolicy::Zero),
            feature("avx", BitPolicy::One),
            feature("aes", BitPolicy::Host),
            feature("avx", BitPolicy::Zero),
            feature("fpu", BitPolicy::Default),
            feature("rdcl-no", BitPolicy::One),
            feature("rfds-clear", BitPolicy::Host),
            feature("avx2", BitPolicy::Zero),
            feature("lfence-dispatch", BitPolicy::One),
        ];
        assert_eq!(
            Cpuid::Flags(flags).bits(),
            [
                bits(leaf(1, None, EDX), 1 << 28, 0, 0),
                bits(leaf(1, None, ECX), 1 << 28, 0, 1 << 25),
                bits(CpuidTarget::Msr { index: 0x10a }, 0, 1, 1 << 28),
                bits(leaf(7, Some(0), 1), 1 << 5, 0, 0),
                bits(leaf(0x8000_0021, None, EAX), 0, 1 << 2, 0),
            ]
        );
    }

    #[test]
    fn numbers_fill_their_fields() {
        let flags = vec![
            field("family", 0x17),
            field("model", 0x31),
            field("stepping", 2),
        ];
        // Family 15 + 8, model 1 + 3 << 4, stepping 2.
        let eax = 0x0083_0f12;
        assert_eq!(
            Cpuid::Flags(flags).bits(),
            [bits(leaf(1, None, EAX), 0x0fff_0fff & !eax, eax, 0)]
        );
        let flags = vec![field("family", 6), field("maxleaf", 0xd)];
        assert_eq!(
            Cpuid::Flags(flags).bits(),
            [
                bits(leaf(1, None, EAX), 0x0ff0_0900, 0x600, 0),
                bits(leaf(0, None, EAX), 0xffff_fff2, 0xd, 0),
            ]
        );
    }

    #[test]
    fn xends_notation_has_the_highest_bit_first() {
        let entry = CpuidLeaf {
            leaf: 7,
            subleaf: Some(0),
            registers: [Some(format!("01k{}1", "x".repeat(28))), None, None, None],
        };
        assert_eq!(
            Cpuid::Leaves(vec![entry]).bits(),
            [bits(leaf(7, Some(0), EAX), 1 << 31, 1 << 30 | 1, 1 << 29)]
        );
    }

    #[test]
    fn each_name_has_a_place() {
        for (name, ..) in FEATURES {
            assert!(bit_of(name).is_some(), "{name}");
        }
    }
}
