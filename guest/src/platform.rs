//! The differences between PV and PVH, behind one type.

use core::arch::asm;
use core::sync::atomic::Ordering;

use testguest_logic::command::Reason;
use testguest_logic::text::Text;

use crate::checks::Checks;
use crate::hypercall::{self, Errno};
use crate::memtest::Outcome;
use crate::pv::Pv;
use crate::pvh::Pvh;
use crate::{events, memtest};

/// Longest command line kept, in bytes: what PV's start info page can hold.
pub const CMDLINE_MAX: usize = 1024;

/// The guest type, and what it needs to know.
pub enum Platform {
    /// A 64-bit PV guest.
    Pv(Pv),
    /// A PVH guest; it has no firmware.
    Pvh(Pvh),
}

impl Platform {
    /// `pv` or `pvh`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pv(_) => "pv",
            Self::Pvh(_) => "pvh",
        }
    }

    /// Makes hypercalls, exceptions, the shared info page, console and xenstore work.
    pub fn attach(&mut self) -> Result<(), Errno> {
        match self {
            Self::Pv(pv) => pv.attach(),
            Self::Pvh(pvh) => pvh.attach(),
        }
    }

    /// An answer of the CPUID instruction, as Xen gives it to this domain: EAX, EBX, ECX, EDX.
    pub fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        match self {
            Self::Pv(_) => crate::pv::cpuid(leaf, subleaf),
            Self::Pvh(_) => {
                let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
                [answer.eax, answer.ebx, answer.ecx, answer.edx]
            }
        }
    }

    /// Memory in KiB, as the builder describes it.
    pub fn memory_kib(&self) -> u64 {
        match self {
            Self::Pv(pv) => pv.nr_pages() * 4,
            Self::Pvh(pvh) => pvh.ram().total() / 1024,
        }
    }

    /// The kernel's command line.
    pub fn cmdline(&self) -> Text<CMDLINE_MAX> {
        match self {
            Self::Pv(pv) => pv.cmdline(),
            Self::Pvh(pvh) => pvh.cmdline(),
        }
    }

    /// Checks what only this type of guest has.
    pub fn check(&self, checks: &mut Checks) {
        match self {
            Self::Pv(pv) => pv.check(checks),
            Self::Pvh(pvh) => pvh.check(checks),
        }
    }

    /// Writes and reads all memory that is not in use.
    pub fn test_memory(&mut self) -> Outcome {
        match self {
            Self::Pv(pv) => memtest::run(pv),
            Self::Pvh(pvh) => memtest::run(pvh),
        }
    }

    /// Suspends the domain. Returns when it runs again: `true` when the suspend was cancelled,
    /// `false` in a new domain. [`Platform::attach`] is due afterwards.
    pub fn suspend(&mut self) -> Result<bool, Errno> {
        match self {
            Self::Pv(pv) => pv.suspend(),
            Self::Pvh(pvh) => pvh.suspend(),
        }
    }

    /// Asks for a soft reset. Returns when it is done; [`Platform::attach`] is due afterwards.
    pub fn soft_reset(&mut self) -> Result<(), Errno> {
        hypercall::shutdown(Reason::SoftReset, 0)?;
        events::detach();
        Ok(())
    }
}

/// Number of vCPUs that the domain has, up or not.
pub fn count_vcpus() -> u32 {
    (0..)
        .take_while(|&vcpu| hypercall::vcpu_is_up(vcpu).is_ok())
        .count() as u32
}

/// The address of the page fault that is being handled.
pub fn fault_address() -> u64 {
    if !hypercall::through_page() {
        let first = events::shared_info().and_then(|shared| shared.vcpu_info.first());
        return first.map_or(0, |vcpu| vcpu.cr2.load(Ordering::Relaxed));
    }
    let cr2;
    // SAFETY: a PVH kernel runs in ring 0; reading CR2 changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) cr2, options(nomem, nostack)) };
    cr2
}
