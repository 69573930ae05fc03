//! The names in an audit: guest types, attack families, targets, verdicts. Reports, JSON and policies use the same
//! spelling.

use std::fmt;
use std::str::FromStr;

/// A word that is none of those expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{word}' is no {what}: one of {expected}")]
pub struct UnknownName {
    /// The kind of name, such as `target`.
    pub what: &'static str,
    /// The word that was found.
    pub word: String,
    /// All valid words, as a list.
    pub expected: String,
}

macro_rules! names {
    ($(#[$meta:meta])* $name:ident ($what:literal) { $($(#[$doc:meta])* $variant:ident = $word:literal: $title:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// All values, in the order of reports.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The word for it in JSON, policies and options.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }

            /// The name in texts for users.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $($name::$variant => $title,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(word: &str) -> Result<Self, UnknownName> {
                Self::ALL.iter().copied().find(|value| value.word() == word).ok_or_else(|| UnknownName {
                    what: $what,
                    word: word.chars().take(64).collect(),
                    expected: Self::ALL.iter().map(|value| value.word()).collect::<Vec<_>>().join(", "),
                })
            }
        }
    };
}

names! {
    /// A guest type, as far as speculative execution makes a difference.
    GuestType ("guest type") {
        /// A 64-bit PV kernel, with nothing between it and the hypervisor.
        Pv64 = "pv64": "64-bit PV, bare",
        /// A 32-bit PV kernel, in ring 1 of the hypervisor's own address space.
        Pv32 = "pv32": "32-bit PV, bare",
        /// A PV kernel of either width with a hypervisor of its own, in a PVH guest.
        PvShim = "pv-shim": "PV in the shim",
        /// A PVH guest with its own kernel.
        Pvh = "pvh": "PVH",
        /// HVM with a device model that is confined after its start.
        Hvm = "hvm": "HVM",
        /// HVM with a device model that keeps its rights over the host.
        HvmOpenDm = "hvm-open-dm": "HVM, device model not deprivileged",
    }
}

names! {
    /// A setting of a guest that Xen has no security support for.
    UnsupportedSetting ("setting outside Xen's security support") {
        /// `nestedhvm = 1`. SUPPORT.md, "x86/Nested HVM": experimental.
        NestedHvm = "nestedhvm": "Xen's SUPPORT.md calls nested virtualisation experimental",
        /// `msr_relaxed = 1`. xl.cfg(5): an interim option; SUPPORT.md does not have it.
        MsrRelaxed = "msr_relaxed": "Xen's manual calls it an interim option, and SUPPORT.md does not have it",
        /// `vmtrace_buf_kb`. SUPPORT.md, "Virtual Machine Introspection": not security supported.
        VmtraceBufKb = "vmtrace_buf_kb": "it is for introspection, which Xen's SUPPORT.md has without security support",
    }
}

names! {
    /// A family of attacks.
    Family ("family of attacks") {
        /// Spectre v1: bounds checks.
        V1 = "v1": "Spectre v1 (bounds check)",
        /// Spectre v2: indirect branches.
        V2 = "v2": "Spectre v2 (branch target injection)",
        /// Spectre v3: Meltdown.
        V3 = "v3": "Meltdown (v3)",
        /// Spectre v3a: system registers.
        V3a = "v3a": "system register read (v3a)",
        /// Spectre v4: speculative store bypass.
        V4 = "v4": "speculative store bypass (v4)",
        /// L1 terminal fault.
        L1tf = "l1tf": "L1TF (Foreshadow)",
        /// Microarchitectural data sampling.
        Mds = "mds": "MDS",
        /// TSX asynchronous abort.
        Taa = "taa": "TAA",
        /// Special register buffer data sampling.
        Srbds = "srbds": "SRBDS (CrossTalk)",
        /// Processor MMIO stale data.
        Mmio = "mmio": "MMIO stale data",
        /// Arbitrary speculation from return instructions; AMD's branch type confusion.
        Retbleed = "retbleed": "Retbleed, branch type confusion",
        /// Speculative return stack overflow.
        Srso = "srso": "SRSO (Inception)",
        /// Gather data sampling.
        Gds = "gds": "GDS (Downfall)",
        /// Register file data sampling.
        Rfds = "rfds": "RFDS",
        /// Branch history injection, also its native form.
        Bhi = "bhi": "BHI",
        /// Indirect target selection.
        Its = "its": "ITS",
        /// Transient scheduler attacks.
        Tsa = "tsa": "TSA",
    }
}

names! {
    /// The verdict about an attack family.
    Standing ("verdict") {
        /// The CPU does not have the weakness.
        NotAffected = "not-affected": "not affected",
        /// The CPU is affected, and a protection is active.
        Protected = "protected": "protected",
        /// A protection is active, with a known gap.
        Partly = "partly": "partly",
        /// No source reports it.
        Unknown = "unknown": "unknown",
        /// The CPU is affected, and no protection is active.
        Unprotected = "unprotected": "unprotected",
    }
}

names! {
    /// Certainty of a statement.
    Sure ("degree of certainty") {
        /// The hypervisor or the CPU reports it.
        Stated = "stated": "stated",
        /// It follows from documentation, such as defaults, or domain 0's kernel reports it.
        Inferred = "inferred": "inferred",
        /// There is no source for it.
        Unsure = "unsure": "unsure",
    }
}

names! {
    /// The victim whose data a guest might read.
    Target ("target") {
        /// The Xen hypervisor.
        Hypervisor = "hypervisor": "the hypervisor",
        /// Other guests on the host.
        Guests = "guests": "other guests",
        /// Domain 0, the control domain.
        Dom0 = "dom0": "domain 0",
    }
}

names! {
    /// The verdict of an advisory for this host.
    AdvisoryVerdict ("verdict on an advisory") {
        /// The host is not affected.
        NotAffected = "not-affected": "not affected",
        /// The host is affected, and a mitigation or fix is active.
        Mitigated = "mitigated": "mitigated",
        /// A fact that the answer depends on is missing.
        CannotTell = "cannot-tell": "cannot tell",
        /// The host is affected.
        Affected = "affected": "affected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_as_it_is_written() {
        for family in Family::ALL {
            assert_eq!(family.word().parse(), Ok(*family));
        }
        for guest in GuestType::ALL {
            assert_eq!(guest.word().parse(), Ok(*guest));
        }
        let error = "v9".parse::<Family>().unwrap_err();
        assert!(error.to_string().contains("retbleed"), "{error}");
    }
}
