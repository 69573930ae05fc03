//! The CPU policy of a new domain whose configuration sets nothing about the CPU.
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
//! Xen merges these into the domain's policy (`update_domain_cpu_policy`).

use xen_port::{CpuPolicy, CpuidLeaf, DomId, GuestKind, Hypervisor};

use crate::error::{During, Result, Step};

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

/// The CPU settings of a configuration without `cpuid=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuPolicyOptions {
    /// Tell the guest that the TSC's frequency never changes: for a domain that does not migrate (`nomigrate`), or whose
    /// TSC is emulated always (`tsc_mode="always_emulate"`).
    pub invariant_tsc: bool,
    /// Virtualisation for the guest's own guests (`nestedhvm`); not for PV.
    pub nested_virt: bool,
}

/// Sets the CPU policy of a new domain. It must have its vCPUs, and must not have run.
///
/// # Errors
/// [`crate::BuildError::Hypervisor`] with [`Step::ReadCpuPolicy`] or [`Step::SetCpuPolicy`].
pub fn apply_default_policy(
    hv: &dyn Hypervisor,
    domid: DomId,
    kind: GuestKind,
    options: CpuPolicyOptions,
) -> Result<()> {
    if kind == GuestKind::Pv && !options.invariant_tsc {
        return Ok(());
    }
    let default = hv.cpu_policy(domid).during(domid, Step::ReadCpuPolicy)?;
    let leaves = changed_leaves(&default.leaves, kind, options);
    if leaves.is_empty() {
        return Ok(());
    }
    let changes = CpuPolicy {
        leaves,
        msrs: Vec::new(),
    };
    hv.set_cpu_policy(domid, &changes)
        .during(domid, Step::SetCpuPolicy)
}

/// The leaves that must change.
fn changed_leaves(
    default: &[CpuidLeaf],
    kind: GuestKind,
    options: CpuPolicyOptions,
) -> Vec<CpuidLeaf> {
    let vendor = Vendor::of(default);
    let wanted = default.iter().map(|leaf| {
        let mut leaf = *leaf;
        if leaf.leaf == EXTENDED_POWER {
            leaf.d = with_bit(leaf.d, ITSC, options.invariant_tsc);
        }
        if kind != GuestKind::Pv {
            set_nested_virt(&mut leaf, options.nested_virt);
            set_topology(&mut leaf, vendor);
        }
        leaf
    });
    default
        .iter()
        .zip(wanted)
        .filter(|(was, is)| *was != is)
        .map(|(_, is)| is)
        .collect()
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

    fn changed(leaves: &[CpuidLeaf]) -> Vec<CpuidLeaf> {
        changed_leaves(leaves, GuestKind::Pvh, CpuPolicyOptions::default())
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
