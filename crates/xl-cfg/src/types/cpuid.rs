//! The setting `cpuid`: libxl's notation (a string) and xend's (a list).

use serde::{Deserialize, Serialize};

use super::cpuid_features::{ALIASES, FEATURES, FIELDS};
use super::params::{Param, split};
use crate::diag::{Code, Remedy};
use crate::keyword::keywords;
use crate::number;
use crate::reader::Reader;
use crate::syntax::{NodeKind, Text};

const KEY: &str = "cpuid";
/// Length of a register in xend's notation: 32 characters, the highest bit first.
const REGISTER_BITS: usize = 32;

keywords! {
    /// The rule for one bit.
    BitPolicy {
        /// The bit is 0.
        Zero = "0",
        /// The bit is 1.
        One = "1",
        /// Xen's default value.
        Default = "x",
        /// The host's, kept over migration.
        Host = "k",
    }
}

/// One setting in libxl's notation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CpuidFlag {
    /// A feature bit.
    Feature {
        /// The feature's name.
        name: String,
        /// The rule for this flag.
        policy: BitPolicy,
    },
    /// A field that takes a number.
    Field {
        /// The field's name.
        name: String,
        /// Value of the field.
        value: u32,
    },
    /// A field that takes one policy for all of its bits.
    FieldPolicy {
        /// The field's name.
        name: String,
        /// The rule for all its bits.
        policy: BitPolicy,
    },
}

/// One leaf in xend's notation: for each register 32 characters, the highest bit first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidLeaf {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX before the CPUID instruction; `None` if the leaf has no subleaves.
    pub subleaf: Option<u32>,
    /// Bits of the answer in EAX, EBX, ECX and EDX: each of `0`, `1`, `x`, `k`, `s`.
    pub registers: [Option<String>; 4],
}

/// The results of the CPUID instruction that differ from the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cpuid {
    /// Entries in libxl's notation.
    Flags(Vec<CpuidFlag>),
    /// Entries in xend's notation.
    Leaves(Vec<CpuidLeaf>),
}

impl Cpuid {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let setting = reader.setting(KEY)?;
        if matches!(setting.value.kind, NodeKind::List(_)) {
            let leaves = reader
                .texts(KEY)
                .into_iter()
                .filter_map(|text| read_leaf(reader, text));
            return Some(Self::Leaves(leaves.collect()));
        }
        let text = reader.text(KEY)?;
        read_flags(reader, text).map(Self::Flags)
    }
}

fn read_flags(reader: &mut Reader<'_>, text: Text<'_>) -> Option<Vec<CpuidFlag>> {
    let mut params = split(text);
    match params.next() {
        Some(first) if first.name.text == "host" && first.value.is_none() => {}
        _ => {
            let with_host = format!("host,{}", text.text);
            let help = format!("write `cpuid = \"{with_host}\"`");
            let remedy = Remedy::new(help, text.replaced(&with_host));
            reader.error(
                Code::BadValue,
                text.whole_if_all(),
                "a `cpuid` text starts with `host`",
                remedy,
            );
            return None;
        }
    }
    Some(
        params
            .filter_map(|param| read_flag(reader, &param))
            .collect(),
    )
}

fn read_flag(reader: &mut Reader<'_>, param: &Param<'_>) -> Option<CpuidFlag> {
    let value = param.wanted_value(reader)?;
    let name = param.name.text;
    if let Some((_, _, _, width)) = FIELDS.iter().find(|(field, ..)| *field == name) {
        if let Some(policy) = parse_policy(value.text)
            .filter(|policy| !matches!(policy, BitPolicy::Zero | BitPolicy::One))
        {
            return Some(CpuidFlag::FieldPolicy {
                name: name.to_owned(),
                policy,
            });
        }
        let most = u32::MAX >> (32 - width);
        let value = param.u32(reader, "a number", 0..=most)?;
        return Some(CpuidFlag::Field {
            name: name.to_owned(),
            value,
        });
    }
    if !is_feature(name) {
        let remedy = reader.did_you_mean_or(
            param.name,
            feature_names(),
            "the names are those of Xen's public header, in lower case, `-` for `_`",
        );
        reader.warn(
            Code::UnknownName,
            param.name.span(),
            format!("unknown CPU feature `{name}`, ignored"),
            remedy,
        );
        return None;
    }
    let Some(policy) = parse_policy(value.text) else {
        let help = "known are `0`, `1`, `x` (default) and `k` (the host's)";
        reader.error(
            Code::BadValue,
            value.span(),
            format!("a CPU feature cannot be `{}`", value.text),
            help,
        );
        return None;
    };
    Some(CpuidFlag::Feature {
        name: name.to_owned(),
        policy,
    })
}

fn feature_names() -> impl Iterator<Item = &'static str> {
    let features = FEATURES.iter().map(|(name, ..)| *name);
    features.chain(ALIASES.iter().map(|(name, ..)| *name))
}

fn is_feature(name: &str) -> bool {
    FEATURES
        .binary_search_by_key(&name, |(known, ..)| known)
        .is_ok()
        || ALIASES.iter().any(|(known, ..)| *known == name)
}

/// `s` is an older name of `k`.
fn parse_policy(text: &str) -> Option<BitPolicy> {
    match text {
        "0" => Some(BitPolicy::Zero),
        "1" => Some(BitPolicy::One),
        "x" => Some(BitPolicy::Default),
        "k" | "s" => Some(BitPolicy::Host),
        _ => None,
    }
}

/// Reads one entry of xend's notation: `leaf[,subleaf]:eax=bits,ebx=bits`.
fn read_leaf(reader: &mut Reader<'_>, text: Text<'_>) -> Option<CpuidLeaf> {
    let parsed = parse_leaf(text.text);
    match parsed {
        Ok(leaf) => Some(leaf),
        Err(why) => {
            let help = format!(
                "write `LEAF[,SUBLEAF]:REGISTER=BITS`, {REGISTER_BITS} characters of 0, 1, x or k for a register"
            );
            reader.error(
                Code::BadValue,
                text.whole_if_all(),
                format!("this is no CPUID leaf: {why}"),
                help,
            );
            None
        }
    }
}

fn parse_leaf(text: &str) -> Result<CpuidLeaf, String> {
    let (question, answer) = text.split_once(':').ok_or("it has no colon")?;
    let (leaf, subleaf) = question
        .split_once(',')
        .map_or((question, None), |(leaf, subleaf)| (leaf, Some(subleaf)));
    let number = |text: &str| {
        number::parse(text)
            .ok()
            .and_then(|number| u32::try_from(number).ok())
    };
    let mut parsed = CpuidLeaf {
        leaf: number(leaf).ok_or("the leaf is no number")?,
        ..CpuidLeaf::default()
    };
    if let Some(subleaf) = subleaf {
        parsed.subleaf = Some(number(subleaf).ok_or("the subleaf is no number")?);
    }
    for register in answer.split(',').filter(|register| !register.is_empty()) {
        let (name, bits) = register
            .trim()
            .split_once('=')
            .ok_or("a register has no `=`")?;
        let index = ["eax", "ebx", "ecx", "edx"]
            .iter()
            .position(|known| *known == name);
        let slot = index.and_then(|index| parsed.registers.get_mut(index));
        let slot = slot.ok_or_else(|| format!("`{name}` is no register"))?;
        check_bits(bits)?;
        *slot = Some(bits.to_owned());
    }
    Ok(parsed)
}

fn check_bits(bits: &str) -> Result<(), String> {
    match bits
        .chars()
        .find(|c| !matches!(c, '0' | '1' | 'x' | 'k' | 's'))
    {
        Some(other) => Err(format!("a bit cannot be `{other}`")),
        None if bits.len() != REGISTER_BITS => Err(format!(
            "a register has {} bits, not {REGISTER_BITS}",
            bits.len()
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_sorted() {
        // Each name of a feature comes once. `clflush` is a field too, which is looked for first, as in libxl.
        assert!(FEATURES.is_sorted_by_key(|(name, ..)| name));
        let mut names: Vec<&str> = feature_names().collect();
        let nr_names = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), nr_names);
    }

    #[test]
    fn leaves() {
        let bits = "x".repeat(31) + "0";
        let leaf = parse_leaf(&format!("0x80000001:ecx={bits},edx={bits}")).unwrap();
        assert_eq!((leaf.leaf, leaf.subleaf), (0x8000_0001, None));
        assert_eq!(
            leaf.registers,
            [None, None, Some(bits.clone()), Some(bits.clone())]
        );
        assert_eq!(
            parse_leaf(&format!("7,0:ebx={bits}")).unwrap().subleaf,
            Some(0)
        );
        for text in [
            "",
            "1",
            "x:eax=",
            "1:efx=0",
            "1:eax",
            "1:eax=0",
            "1,x:eax=0",
            &format!("1:eax={}", "y".repeat(32)),
        ] {
            assert!(parse_leaf(text).is_err(), "{text}");
        }
    }
}
