//! The CPU policy of a new domain: Xen's default, and what the configuration sets (`cpuid=`).
//!
//! Xen gives a new domain the default policy of its kind. libxc's `xc_cpuid_apply_policy` makes these changes for a
//! new domain without `cpuid=` (the same in 4.17 to 4.22):
//!
//! - For PVH and HVM, the topology: each vCPU has the APIC ID `2 * vCPU`. CPUID must agree with it, in the form of
//!   each CPU manufacturer.
//! - Nested virtualisation and invariant TSC, if requested. The default policies hide both.
//! - For PV, HTT and CMP_LEGACY get the host's values, because a PV guest can see the host's topology. Xen's default
//!   has these values in all versions.
//!
//! So a PV domain needs no request. The others need one request to read the policy and one to set the changed leaves.
//! Xen merges these into the domain's policy (`update_domain_cpu_policy`). Bits of `cpuid=` come last; bits that get the host's
//! values need one more request. Xen itself takes away features that the host does not have.

use xen_port::{CpuPolicy, CpuidLeaf, DomId, GuestKind, HostCpuPolicy, Hypervisor, MsrEntry};

use crate::error::{BuildError, During, Result, Step};

const BASIC: u32 = 0;
const FEATURES: u32 = 1;
const CACHE: u32 = 4;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const EXTENDED_POWER: u32 = 0x8000_0007;
const EXTENDED_SIZES: u32 = 0x8000_0008;

/// Leaf 1, EDX: the count of logical processors is valid.
const HTT: u32 = 1 << 28;
/// Leaf 1, ECX: Intel's virtualisation.
const VMX: u32 = 1 << 5;
/// Leaf 0x80000001, ECX: the count of cores is to be read in AMD's old way.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x80000001, ECX: AMD's virtualisation.
const SVM: u32 = 1 << 2;
/// Leaf 0x80000007, EDX: invariant TSC.
const ITSC: u32 = 1 << 8;

/// ECX before the instruction, for a leaf without subleaves (`XEN_CPUID_NO_SUBLEAF`).
const NO_SUBLEAF: u32 = 0xffff_ffff;

/// A register of a CPU policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyTarget {
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

/// Bits of one register that a configuration sets (`cpuid=`). No bit is in two of the masks; the others keep their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyBits {
    /// The register with the bits.
    pub target: PolicyTarget,
    /// Bits that become 0.
    pub zeros: u64,
    /// Bits that become 1.
    pub ones: u64,
    /// Bits that get the host's values.
    pub host: u64,
}

/// The CPU settings of a configuration besides `cpuid=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuPolicyOptions {
    /// Tell the guest that the TSC's frequency never changes: for a domain that does not migrate (`nomigrate`), or whose
    /// TSC is emulated always (`tsc_mode="always_emulate"`).
    pub invariant_tsc: bool,
    /// Virtualisation for the guest's own guests (`nestedhvm`); not for PV.
    pub nested_virt: bool,
}

/// Sets the CPU policy of a new domain whose configuration has no `cpuid=`, as [`apply_policy`] does.
///
/// # Errors
/// Those of [`apply_policy`].
pub fn apply_default_policy(
    hv: &dyn Hypervisor,
    domid: DomId,
    kind: GuestKind,
    options: CpuPolicyOptions,
) -> Result<()> {
    apply_policy(hv, domid, kind, options, &[])
}

/// Sets the CPU policy of a new domain. It must have its vCPUs, and must not have run.
///
/// # Errors
/// [`BuildError::Hypervisor`] with [`Step::ReadCpuPolicy`] or [`Step::SetCpuPolicy`]; [`BuildError::NoCpuRegister`] for bits of a
/// register that the policy does not have.
pub fn apply_policy(
    hv: &dyn Hypervisor,
    domid: DomId,
    kind: GuestKind,
    options: CpuPolicyOptions,
    bits: &[PolicyBits],
) -> Result<()> {
    if kind == GuestKind::Pv && !options.invariant_tsc && bits.is_empty() {
        return Ok(());
    }
    let default = hv.cpu_policy(domid).during(domid, Step::ReadCpuPolicy)?;
    let host = if bits.iter().any(|bits| bits.host != 0) {
        let host = hv.host_cpu_policy(HostCpuPolicy::Host);
        host.during(domid, Step::ReadCpuPolicy)?
    } else {
        CpuPolicy::default()
    };
    let mut wanted = default.clone();
    adjust(&mut wanted.leaves, kind, options);
    for bits in bits {
        set_bits(&mut wanted, &host, bits)?;
    }
    let changes = CpuPolicy {
        leaves: changed(&default.leaves, wanted.leaves),
        msrs: changed(&default.msrs, wanted.msrs),
    };
    if changes == CpuPolicy::default() {
        return Ok(());
    }
    hv.set_cpu_policy(domid, &changes)
        .during(domid, Step::SetCpuPolicy)
}

/// The entries of `wanted` that differ from those of `default`, which are as many and in the same order.
fn changed<T: PartialEq>(default: &[T], wanted: Vec<T>) -> Vec<T> {
    let pairs = default.iter().zip(wanted);
    pairs
        .filter(|(was, is)| *was != is)
        .map(|(_, is)| is)
        .collect()
}

/// Sets bits of one register.
fn set_bits(policy: &mut CpuPolicy, host: &CpuPolicy, bits: &PolicyBits) -> Result<()> {
    let missing = BuildError::NoCpuRegister {
        target: bits.target,
    };
    let with_bits =
        |value: u64, host: u64| value & !bits.zeros & !bits.host | bits.ones | host & bits.host;
    match bits.target {
        PolicyTarget::Leaf {
            leaf,
            subleaf,
            register,
        } => {
            let key = (leaf, subleaf.unwrap_or(NO_SUBLEAF));
            let host = find_leaf(&host.leaves, key).and_then(|leaf| register_of(leaf, register));
            let entry = policy
                .leaves
                .iter_mut()
                .find(|entry| (entry.leaf, entry.subleaf) == key);
            let CpuidLeaf { a, b, c, d, .. } = entry.ok_or(missing)?;
            let value = match register {
                0 => a,
                1 => b,
                2 => c,
                _ => d,
            };
            // Masks of a register of CPUID have 32 bits.
            *value = with_bits((*value).into(), host.unwrap_or(0).into()) as u32;
        }
        PolicyTarget::Msr { index } => {
            let host = host.msrs.iter().find(|msr| msr.index == index);
            let entry = policy.msrs.iter_mut().find(|msr| msr.index == index);
            let MsrEntry { value, .. } = entry.ok_or(missing)?;
            *value = with_bits(*value, host.map_or(0, |msr| msr.value));
        }
    }
    Ok(())
}

fn find_leaf(leaves: &[CpuidLeaf], key: (u32, u32)) -> Option<&CpuidLeaf> {
    leaves.iter().find(|leaf| (leaf.leaf, leaf.subleaf) == key)
}

fn register_of(leaf: &CpuidLeaf, register: usize) -> Option<u32> {
    [leaf.a, leaf.b, leaf.c, leaf.d].get(register).copied()
}

/// Makes the changes that do not come from `cpuid=`.
fn adjust(leaves: &mut [CpuidLeaf], kind: GuestKind, options: CpuPolicyOptions) {
    let vendor = Vendor::of(leaves);
    for leaf in leaves {
        if leaf.leaf == EXTENDED_POWER {
            leaf.d = with_bit(leaf.d, ITSC, options.invariant_tsc);
        }
        if kind != GuestKind::Pv {
            set_nested_virt(leaf, options.nested_virt);
            set_topology(leaf, vendor);
        }
    }
}

fn set_nested_virt(leaf: &mut CpuidLeaf, nested_virt: bool) {
    match leaf.leaf {
        FEATURES => leaf.c = with_bit(leaf.c, VMX, nested_virt),
        EXTENDED_FEATURES => leaf.c = with_bit(leaf.c, SVM, nested_virt),
        _ => {}
    }
}

/// Makes room for APIC IDs that are twice the vCPUs' numbers, by doubling each field that counts them, up to its
/// maximum.
fn set_topology(leaf: &mut CpuidLeaf, vendor: Vendor) {
    match (leaf.leaf, vendor) {
        (FEATURES, _) => {
            leaf.d |= HTT;
            leaf.b = with_field(
                leaf.b,
                16,
                8,
                doubled_logical_processors(field(leaf.b, 16, 8)),
            );
        }
        (EXTENDED_FEATURES, _) => leaf.c &= !CMP_LEGACY,
        (CACHE, Vendor::Intel) if field(leaf.a, 0, 5) != 0 => {
            let cores = field(leaf.a, 26, 6);
            leaf.a = with_field(leaf.a, 26, 6, cores << 1 | 1);
            leaf.a = with_field(leaf.a, 14, 12, 0);
        }
        (EXTENDED_SIZES, Vendor::Amd) => leaf.c = doubled_amd_cores(leaf.c),
        _ => {}
    }
}

/// Leaf 1, EBX bits 23 to 16.
fn doubled_logical_processors(count: u32) -> u32 {
    match count {
        0 => 2,
        1..0x80 => count * 2,
        full => full,
    }
}

/// Leaf 0x80000008, ECX: cores less one in bits 7 to 0, the width of a core's part of the APIC id in bits 15 to 12 (0: as
/// many bits as the cores take). Widths beyond 7 confuse some systems.
fn doubled_amd_cores(ecx: u32) -> u32 {
    let (cores, width) = (field(ecx, 0, 8), field(ecx, 12, 4));
    if cores >= 0x7f {
        return ecx;
    }
    let width = if (1..7).contains(&width) {
        width + 1
    } else {
        width
    };
    with_field(with_field(ecx, 0, 8, cores << 1 | 1), 12, 4, width)
}

/// Makers of processors, as far as they differ here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vendor {
    Intel,
    /// AMD and Hygon.
    Amd,
    Other,
}

impl Vendor {
    /// By leaf 0: EBX, EDX, ECX spell a name.
    fn of(leaves: &[CpuidLeaf]) -> Vendor {
        let Some(leaf) = leaves.iter().find(|leaf| leaf.leaf == BASIC) else {
            return Vendor::Other;
        };
        let name = [leaf.b, leaf.d, leaf.c].map(u32::to_le_bytes);
        match name.as_flattened() {
            b"GenuineIntel" => Vendor::Intel,
            b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Other,
        }
    }
}

fn with_bit(value: u32, bit: u32, on: bool) -> u32 {
    if on { value | bit } else { value & !bit }
}

fn field(value: u32, shift: u32, width: u32) -> u32 {
    value >> shift & ((1 << width) - 1)
}

/// Replaces a field of a register. Cuts off bits that do not fit.
fn with_field(value: u32, shift: u32, width: u32, new: u32) -> u32 {
    let mask = ((1 << width) - 1) << shift;
    value & !mask | new << shift & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(leaf: u32, [a, b, c, d]: [u32; 4]) -> CpuidLeaf {
        CpuidLeaf {
            leaf,
            subleaf: 0,
            a,
            b,
            c,
            d,
        }
    }

    fn vendor(name: &[u8; 12]) -> CpuidLeaf {
        let word = |i: usize| u32::from_le_bytes(name[i..i + 4].try_into().unwrap());
        leaf(BASIC, [0xd, word(0), word(8), word(4)])
    }

    fn changed_leaves(
        leaves: &[CpuidLeaf],
        kind: GuestKind,
        options: CpuPolicyOptions,
    ) -> Vec<CpuidLeaf> {
        let mut wanted = leaves.to_vec();
        adjust(&mut wanted, kind, options);
        super::changed(leaves, wanted)
    }

    fn changed(leaves: &[CpuidLeaf]) -> Vec<CpuidLeaf> {
        changed_leaves(leaves, GuestKind::Pvh, CpuPolicyOptions::default())
    }

    fn policy(value: u32) -> CpuPolicy {
        let msr = MsrEntry {
            index: 0x10a,
            flags: 0,
            value: value.into(),
        };
        let mut features = leaf(FEATURES, [value; 4]);
        features.subleaf = NO_SUBLEAF;
        let seven = leaf(7, [value; 4]);
        CpuPolicy {
            leaves: vec![vendor(b"AuthenticAMD"), features, seven],
            msrs: vec![msr],
        }
    }

    #[test]
    fn bits_of_the_configuration_are_set_in_their_registers_alone() {
        let (mut changed, host) = (policy(0xff), policy(0xf0f));
        let bits = |target| PolicyBits {
            target,
            zeros: 1,
            ones: 1 << 31,
            host: 0xff0,
        };
        let of_leaf = |leaf, subleaf| PolicyTarget::Leaf {
            leaf,
            subleaf,
            register: 2,
        };
        for target in [
            of_leaf(FEATURES, None),
            of_leaf(7, Some(0)),
            PolicyTarget::Msr { index: 0x10a },
        ] {
            set_bits(&mut changed, &host, &bits(target)).unwrap();
        }
        let mut expected = policy(0xff);
        expected.leaves[1].c = 0x8000_0f0e;
        expected.leaves[2].c = 0x8000_0f0e;
        expected.msrs[0].value = 0x8000_0f0e;
        assert_eq!(changed, expected);
        for target in [
            of_leaf(7, None),
            of_leaf(99, None),
            PolicyTarget::Msr { index: 1 },
        ] {
            let refused = set_bits(&mut changed, &host, &bits(target));
            assert!(matches!(refused, Err(BuildError::NoCpuRegister { .. })));
        }
    }

    #[test]
    fn amd_counts_cores_in_the_extended_leaf() {
        let leaves = [
            vendor(b"AuthenticAMD"),
            leaf(FEATURES, [0, 0x0004_0800, VMX, 0]),
            leaf(CACHE, [0x21, 0, 0, 0]),
            leaf(EXTENDED_FEATURES, [0, 0, CMP_LEGACY | SVM | 1, 0]),
            leaf(EXTENDED_SIZES, [0x3030, 0, 0x3003, 0]),
        ];
        assert_eq!(
            changed(&leaves),
            [
                leaf(FEATURES, [0, 0x0008_0800, 0, HTT]),
                leaf(EXTENDED_FEATURES, [0, 0, 1, 0]),
                leaf(EXTENDED_SIZES, [0x3030, 0, 0x4007, 0]),
            ]
        );
    }

    #[test]
    fn intel_counts_cores_in_the_cache_leaf() {
        let cache = leaf(CACHE, [1 << 26 | 3 << 14 | 0x121, 7, 8, 9]);
        let end = leaf(CACHE, [0, 0, 0, 0]);
        let sizes = leaf(EXTENDED_SIZES, [0, 0, 0x3003, 0]);
        assert_eq!(
            changed(&[vendor(b"GenuineIntel"), cache, end, sizes]),
            [leaf(CACHE, [3 << 26 | 0x121, 7, 8, 9])]
        );
    }

    #[test]
    fn counts_that_are_full_stay() {
        assert_eq!(doubled_logical_processors(0), 2);
        assert_eq!(doubled_logical_processors(0x7f), 0xfe);
        assert_eq!(doubled_logical_processors(0x80), 0x80);
        assert_eq!(doubled_amd_cores(0x707f), 0x707f);
        assert_eq!(doubled_amd_cores(0x7001), 0x7003, "no width beyond 7");
        assert_eq!(doubled_amd_cores(0x0001), 0x0003, "no width stays none");
    }

    #[test]
    fn pv_sees_the_host_but_for_the_tsc() {
        let leaves = [
            leaf(FEATURES, [0, 0, VMX, 0]),
            leaf(EXTENDED_POWER, [0, 0, 0, 0]),
        ];
        let options = CpuPolicyOptions {
            invariant_tsc: true,
            nested_virt: true,
        };
        assert_eq!(
            changed_leaves(&leaves, GuestKind::Pv, options),
            [leaf(EXTENDED_POWER, [0, 0, 0, ITSC])]
        );
    }
}
