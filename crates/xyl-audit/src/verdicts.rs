//! Derives verdicts from facts: for each guest type and attack family, is the CPU affected, and does Xen protect?
//!
//! `affected` answers the first question, `defence` the second. If `affected` has no answer, an active defence still
//! counts; a missing defence then proves nothing.
//!
//! Source: Xen's `xen/arch/x86/spec_ctrl.c`, `docs/misc/xen-command-line.pandoc`, and the advisories in
//! `data/advisories.toml`.

use crate::audit::{Against, Audit, CoreSharing, Reason, Remedy, Row};
use crate::boot_log::Settings;
use crate::cpu::Vendor;
use crate::facts::{self, Facts, Known};
use crate::names::{Family, GuestType, Standing, Sure, Target};

/// The audit of a host with these facts, without advisories.
#[must_use]
pub fn audit(facts: &Facts) -> Audit {
    let rows = GuestType::ALL
        .iter()
        .flat_map(|guest| Family::ALL.iter().map(|family| row(facts, *guest, *family)))
        .collect();
    Audit {
        rows,
        core_sharing: facts.core_sharing(),
        advisories: Vec::new(),
    }
}

fn row(facts: &Facts, guest: GuestType, family: Family) -> Row {
    let cpu = affected(facts, family);
    if let Some(false) = cpu.is {
        return Row {
            guest,
            family,
            standing: Standing::NotAffected,
            sure: cpu.sure,
            against: against(
                Standing::NotAffected,
                Standing::NotAffected,
                Standing::NotAffected,
                &[],
            ),
            reasons: vec![cpu.why],
            remedies: Vec::new(),
        };
    }
    let defence = defence(facts, guest, family);
    let judged = |standing: Standing| match (cpu.is, standing) {
        (None, Standing::Unprotected) => Standing::Unknown,
        _ => standing,
    };
    let (hypervisor, guests) = (judged(defence.hypervisor), judged(defence.guests));
    let mut reasons = vec![cpu.why];
    reasons.extend(defence.reasons);
    let mut dom0 = guests;
    if guest == GuestType::HvmOpenDm && matches!(dom0, Standing::Protected) {
        dom0 = Standing::Partly;
        reasons.push(reason(
            "its device model works in domain 0 with domain 0's rights",
            "type of guest",
        ));
    }
    let standing = hypervisor.max(guests).max(dom0);
    let mut remedies = defence.remedies;
    if guest == GuestType::HvmOpenDm && dom0 != guests {
        remedies.push(Remedy::GuestType(
            "confine the device model with `dm_restrict = 1`, or use PVH".to_owned(),
        ));
    }
    if matches!(standing, Standing::Protected | Standing::NotAffected) {
        remedies.clear();
    }
    let sure = match standing {
        Standing::Unknown => Sure::Unsure,
        _ => defence.sure,
    };
    Row {
        guest,
        family,
        standing,
        sure,
        against: against(hypervisor, guests, dom0, &defence.by),
        reasons,
        remedies,
    }
}

fn against(hypervisor: Standing, guests: Standing, dom0: Standing, by: &[String]) -> Vec<Against> {
    [
        (Target::Hypervisor, hypervisor),
        (Target::Guests, guests),
        (Target::Dom0, dom0),
    ]
    .into_iter()
    .map(|(target, standing)| Against {
        target,
        standing,
        by: match standing {
            Standing::Protected | Standing::Partly => by.to_vec(),
            _ => Vec::new(),
        },
    })
    .collect()
}

fn reason(text: impl Into<String>, source: &str) -> Reason {
    Reason {
        text: text.into(),
        source: source.to_owned(),
    }
}

// ---- the CPU -------------------------------------------------------------------------------

/// Whether the CPU has a weakness.
struct Affected {
    is: Option<bool>,
    sure: Sure,
    why: Reason,
}

impl Affected {
    fn no(why: Reason, sure: Sure) -> Affected {
        Affected {
            is: Some(false),
            sure,
            why,
        }
    }

    fn yes(why: Reason) -> Affected {
        Affected {
            is: Some(true),
            sure: Sure::Stated,
            why,
        }
    }

    fn unknown(text: &str) -> Affected {
        Affected {
            is: None,
            sure: Sure::Unsure,
            why: reason(text, "no source"),
        }
    }
}

/// Families of Intel's CPUs only, with the bits that together mean that a CPU is not affected, and Linux's name.
fn intel_only(family: Family) -> Option<(&'static [&'static str], &'static str)> {
    match family {
        Family::V3 => Some((&["RDCL_NO"], "meltdown")),
        Family::V3a => Some((&[], "")),
        Family::L1tf => Some((&["RDCL_NO"], "l1tf")),
        Family::Mds => Some((&["MDS_NO"], "mds")),
        Family::Taa => Some((&["TAA_NO"], "tsx_async_abort")),
        Family::Srbds => Some((&[], "srbds")),
        Family::Mmio => Some((&["SBDR_SSDP_NO", "FBSDP_NO", "PSDP_NO"], "mmio_stale_data")),
        Family::Gds => Some((&["GDS_NO"], "gather_data_sampling")),
        Family::Rfds => Some((&["RFDS_NO"], "reg_file_data_sampling")),
        Family::Bhi => Some((&["BHI_NO"], "")),
        Family::Its => Some((&["ITS_NO"], "indirect_target_selection")),
        _ => None,
    }
}

/// Families that only AMD's CPUs have.
fn amd_only(family: Family) -> Option<(&'static [&'static str], &'static str)> {
    match family {
        Family::Srso => Some((&["SRSO_NO"], "spec_rstack_overflow")),
        Family::Tsa => Some((&["TSA_SQ_NO", "TSA_L1_NO"], "tsa")),
        _ => None,
    }
}

fn affected(facts: &Facts, family: Family) -> Affected {
    let vendor = facts.vendor();
    let source = facts
        .cpu
        .as_ref()
        .map_or("no source", |cpu| cpu.source.as_str());
    if let Some((bits, dom0)) = intel_only(family) {
        return match vendor {
            Some(Vendor::Amd | Vendor::Hygon) => Affected::no(
                reason("the CPU is AMD's, and this is found in Intel's", source),
                Sure::Inferred,
            ),
            Some(Vendor::Intel) => intel(facts, family, bits, dom0),
            _ => Affected::unknown("the CPU's maker is not known"),
        };
    }
    if let Some((bits, dom0)) = amd_only(family) {
        return match vendor {
            Some(Vendor::Intel) => Affected::no(
                reason("the CPU is Intel's, and this is found in AMD's", source),
                Sure::Inferred,
            ),
            Some(Vendor::Amd | Vendor::Hygon) => amd(facts, family, bits, dom0),
            _ => Affected::unknown("the CPU's maker is not known"),
        };
    }
    match family {
        Family::V4 => match facts.feature("SSB_NO") {
            Known::Yes(source) => Affected::no(reason("SSB_NO", source), Sure::Stated),
            _ => Affected::yes(reason("the CPU does not say SSB_NO", facts::CPU_POLICY)),
        },
        Family::Retbleed => retbleed(facts),
        _ => Affected::yes(reason(
            "all CPUs that predict branches are affected",
            "research of 2018",
        )),
    }
}

/// Whether the CPU is affected, by its feature bits and domain 0's kernel.
fn by_bits(facts: &Facts, bits: &[&str], dom0: &str) -> Option<Affected> {
    let said: Vec<Known> = bits.iter().map(|bit| facts.feature(bit)).collect();
    if !said.is_empty() && said.iter().all(|known| known.is_yes()) {
        let source = match said.first() {
            Some(Known::Yes(source)) => source,
            _ => facts::CPU_POLICY,
        };
        return Some(Affected::no(reason(bits.join(", "), source), Sure::Stated));
    }
    // The kernel knows models that have no bit for it. It sees through Xen, but the model it sees is the host's.
    if facts.dom0_says_not_affected(dom0) {
        let text = format!("{}/{dom0} says \"Not affected\"", facts::VULNERABILITIES);
        return Some(Affected::no(reason(text, facts::DOM0), Sure::Inferred));
    }
    None
}

fn intel(facts: &Facts, family: Family, bits: &[&str], dom0: &str) -> Affected {
    if let Some(no) = by_bits(facts, bits, dom0) {
        return no;
    }
    match family {
        Family::L1tf => match facts.log.l1tf_vulnerable {
            Some(true) => Affected::yes(reason("Xen believes the CPU vulnerable", facts::BOOT_LOG)),
            Some(false) => Affected::no(
                reason("Xen believes the CPU not vulnerable", facts::BOOT_LOG),
                Sure::Stated,
            ),
            // The line is printed on every vulnerable host.
            None if facts.log.has_block && facts.log.pv_l1tf.is_some() => Affected::no(
                reason(
                    "Xen does not say that the CPU is vulnerable",
                    facts::BOOT_LOG,
                ),
                Sure::Inferred,
            ),
            None => Affected::unknown("neither the CPU nor the boot log says"),
        },
        Family::Taa => match facts.feature("RTM") {
            Known::No(source) => Affected::no(
                reason("the CPU has no transactional memory", source),
                Sure::Stated,
            ),
            Known::Yes(source) => Affected::yes(reason("RTM without TAA_NO", source)),
            Known::Unknown => {
                Affected::unknown("whether the CPU has transactional memory is not known")
            }
        },
        Family::Srbds => match facts.feature("SRBDS_CTRL") {
            Known::Yes(source) => Affected::yes(reason("SRBDS_CTRL", source)),
            _ => Affected::unknown(
                "a CPU without SRBDS_CTRL may be too old, too new, or lack microcode",
            ),
        },
        Family::V3a => Affected::yes(reason("Intel's CPUs are affected", "Intel, 2018")),
        Family::V3 | Family::Mds => {
            match facts.feature(bits.first().copied().unwrap_or_default()) {
                Known::No(source) => {
                    Affected::yes(reason(format!("no {}", bits.join(", ")), source))
                }
                _ => Affected::unknown("neither the CPU nor the boot log says"),
            }
        }
        Family::Gds if facts.feature("GDS_CTRL").is_yes() => {
            Affected::yes(reason("GDS_CTRL", facts::CPU_POLICY))
        }
        Family::Rfds if facts.feature("RFDS_CLEAR").is_yes() => {
            Affected::yes(reason("RFDS_CLEAR", facts::CPU_POLICY))
        }
        _ => {
            Affected::unknown("the CPU does not say that it is not affected; only some models are")
        }
    }
}

fn amd(facts: &Facts, family: Family, bits: &[&str], dom0: &str) -> Affected {
    if let Some(no) = by_bits(facts, bits, dom0) {
        return no;
    }
    let Some(cpu) = &facts.cpu else {
        return Affected::unknown("the CPU's family is not known");
    };
    let of_family = format!("family {:#x}", cpu.value.family);
    match (family, cpu.value.family) {
        // Zen 1 and 2 are of family 0x17 (Hygon: 0x18), Zen 3 and 4 of 0x19, Zen 5 of 0x1a.
        (Family::Srso, 0x17..=0x19) | (Family::Tsa, 0x19) => Affected::yes(reason(
            format!("{of_family} without {}", bits.join(", ")),
            &cpu.source,
        )),
        (Family::Srso, 0..0x17) | (Family::Tsa, 0..0x19) => Affected::no(
            reason(format!("{of_family} is not affected"), &cpu.source),
            Sure::Inferred,
        ),
        _ => Affected::unknown("what holds for this family of CPUs is not known"),
    }
}

/// Retbleed on Intel, branch type confusion on AMD.
fn retbleed(facts: &Facts) -> Affected {
    if let Some(no) = by_bits(facts, &["BTC_NO"], "retbleed") {
        return no;
    }
    let Some(cpu) = &facts.cpu else {
        return Affected::unknown("the CPU is not known");
    };
    match (cpu.value.vendor, cpu.value.family) {
        (Vendor::Amd | Vendor::Hygon, 0x19..) => Affected::no(
            reason(
                format!("family {:#x} is not affected", cpu.value.family),
                &cpu.source,
            ),
            Sure::Inferred,
        ),
        (Vendor::Amd | Vendor::Hygon, 0x15..=0x18) => Affected::yes(reason(
            format!("family {:#x} without BTC_NO", cpu.value.family),
            &cpu.source,
        )),
        (Vendor::Intel, _) => match (facts.feature("RSBA"), facts.feature("RRSBA")) {
            (Known::Yes(source), _) | (_, Known::Yes(source)) => {
                Affected::yes(reason("RSBA or RRSBA", source))
            }
            _ => Affected::unknown("the CPU does not say how its returns are predicted"),
        },
        _ => Affected::unknown("what holds for this CPU is not known"),
    }
}

// ---- what stands in the way ------------------------------------------------------------------

/// The protection of Xen against guests of one type.
struct Defence {
    hypervisor: Standing,
    guests: Standing,
    by: Vec<String>,
    reasons: Vec<Reason>,
    remedies: Vec<Remedy>,
    sure: Sure,
}

impl Defence {
    /// The same standing against all targets.
    fn all(standing: Standing) -> Defence {
        Defence {
            hypervisor: standing,
            guests: standing,
            by: Vec::new(),
            reasons: Vec::new(),
            remedies: Vec::new(),
            sure: Sure::Stated,
        }
    }

    fn protected(by: &str, source: &str) -> Defence {
        let mut defence = Defence::all(Standing::Protected);
        defence.by.push(by.to_owned());
        defence.reasons.push(reason(by, source));
        defence
    }

    fn unprotected(why: &str, source: &str) -> Defence {
        Defence::all(Standing::Unprotected).because(why, source)
    }

    fn because(mut self, why: impl Into<String>, source: &str) -> Defence {
        self.reasons.push(reason(why, source));
        self
    }

    fn inferred(mut self) -> Defence {
        self.sure = Sure::Inferred;
        self
    }

    fn remedy(mut self, remedy: Remedy) -> Defence {
        self.remedies.push(remedy);
        self
    }

    /// The standing if no source reports it.
    fn unknown(facts: &Facts) -> Defence {
        let why = if facts.log.has_block {
            "the boot log of this Xen does not say"
        } else {
            "Xen's boot log has no block \"Speculative mitigation facilities\" any more"
        };
        Defence::all(Standing::Unknown)
            .because(why, "no source")
            .remedy(Remedy::BootOption(
                "boot with a larger `conring_size=`, and run `xyl audit` soon after".to_owned(),
            ))
    }

    /// The weaker standing if different guests run on the threads of one core.
    fn weakened_by_threads(mut self, facts: &Facts) -> Defence {
        if !matches!(self.guests, Standing::Protected) {
            return self;
        }
        match facts.core_sharing() {
            CoreSharing::No => self,
            CoreSharing::Yes => {
                self.guests = Standing::Partly;
                self.hypervisor = self.hypervisor.max(Standing::Partly);
                self.because(
                    "different guests run on the threads of one core",
                    facts::PHYSINFO,
                )
                .remedy(Remedy::BootOption(
                    "boot Xen with `smt=0`, or with `sched-gran=core` against other guests"
                        .to_owned(),
                ))
            }
            CoreSharing::Unknown => {
                self.guests = Standing::Unknown;
                self.because("whether guests share cores is not known", "no source")
            }
        }
    }
}

fn is_pv(guest: GuestType) -> bool {
    matches!(guest, GuestType::Pv64 | GuestType::Pv32)
}

/// The advice for a host whose command line switches something off, or whose microcode lacks it.
fn off_or_old(facts: &Facts, what: &str) -> Remedy {
    let switched_off: Vec<String> = facts
        .option_parts("spec-ctrl")
        .into_iter()
        .filter(|part| switches_off(part))
        .collect();
    if switched_off.is_empty() {
        Remedy::Microcode(format!(
            "load newer microcode (`ucode=scan`), which may bring {what}"
        ))
    } else {
        Remedy::BootOption(format!(
            "take `{}` from `spec-ctrl=` of Xen's command line, which switches off {what}",
            switched_off.join(",")
        ))
    }
}

/// Whether a part of `spec-ctrl=` switches something off.
fn switches_off(part: &str) -> bool {
    let value = part.split_once('=').map_or(part, |(_, value)| value);
    facts::is_no(value) || part.starts_with("no-")
}

fn defence(facts: &Facts, guest: GuestType, family: Family) -> Defence {
    let mut defence = match family {
        Family::V1 => v1(facts),
        Family::V2 => v2(facts, guest),
        Family::V3 => meltdown(facts, guest),
        Family::V3a => v3a(facts),
        Family::V4 => v4(facts),
        Family::L1tf => l1tf(facts, guest),
        Family::Mds | Family::Taa | Family::Mmio => {
            tsx_off(facts, family).unwrap_or_else(|| verw(facts, guest).weakened_by_threads(facts))
        }
        Family::Rfds | Family::Tsa => verw(facts, guest),
        Family::Srbds => srbds(facts),
        Family::Gds => gds(facts),
        Family::Retbleed => retbleed_defence(facts, guest),
        Family::Srso => srso(facts, guest),
        Family::Bhi => bhi(facts, guest),
        Family::Its => its(facts),
    };
    if guest == GuestType::PvShim {
        defence = defence.because(
            "the kernel has a hypervisor of its own, which is a PVH guest",
            "type of guest",
        );
    }
    if guest == GuestType::Pv32
        && defence.hypervisor == Standing::Protected
        && !matches!(family, Family::V3 | Family::L1tf)
    {
        defence.hypervisor = Standing::Partly;
        defence = ring_1(defence);
    }
    defence
}

fn ring_1(defence: Defence) -> Defence {
    defence
        .because(
            "the kernel runs in ring 1, which counts as the hypervisor's own for IBRS and its kin",
            "XSA-370",
        )
        .remedy(Remedy::GuestType(
            "start it in the PV shim (`pvshim = 1`)".to_owned(),
        ))
}

fn v1(facts: &Facts) -> Defence {
    let hardened: Vec<String> = facts
        .log
        .compiled_in
        .iter()
        .flatten()
        .filter(|word| word.starts_with("HARDEN_"))
        .cloned()
        .chain(
            settings(facts)
                .filter(|settings| settings.has("BRANCH_HARDEN"))
                .map(|_| "BRANCH_HARDEN".to_owned()),
        )
        .collect();
    if settings(facts).is_none() {
        return Defence::unknown(facts);
    }
    if hardened.is_empty() {
        // Releases before 4.17.4 do not print what is compiled in.
        return Defence::all(Standing::Unknown)
            .because(
                "the boot log names no hardening of branches",
                facts::BOOT_LOG,
            )
            .remedy(off_or_old(facts, "BRANCH_HARDEN"));
    }
    let mut defence = Defence::protected(&hardened.join(", "), facts::BOOT_LOG);
    defence.hypervisor = Standing::Partly;
    defence.guests = Standing::Partly;
    defence
        .because(
            "such code is hardened where it is found: no one can say that all is",
            "nature of the attack",
        )
        .remedy(Remedy::Upgrade("keep Xen up to date".to_owned()))
}

fn settings(facts: &Facts) -> Option<&Settings> {
    facts.log.settings.as_ref()
}

/// The log's words about guests of a type.
fn support(facts: &Facts, guest: GuestType) -> Option<&[String]> {
    let words = if is_pv(guest) {
        &facts.log.pv
    } else {
        &facts.log.hvm
    };
    words.as_deref()
}

fn supports(facts: &Facts, guest: GuestType, word: &str) -> bool {
    support(facts, guest).is_some_and(|words| words.iter().any(|other| other == word))
}

fn v2(facts: &Facts, guest: GuestType) -> Defence {
    let Some(settings) = settings(facts) else {
        return Defence::unknown(facts);
    };
    let mut by = Vec::new();
    let retpoline = settings.thunk.as_deref() == Some("RETPOLINE");
    if retpoline {
        by.push("retpolines".to_owned());
    }
    let ibrs = settings.bit("IBRS") == Some(true);
    if ibrs {
        by.push("IBRS".to_owned());
    }
    let lfence = settings.thunk.as_deref() == Some("LFENCE");
    if lfence {
        by.push("LFENCE thunks".to_owned());
    }
    let (hypervisor, why) = match (guest, retpoline, ibrs, lfence) {
        (GuestType::Pv32, true, ..) => {
            (Standing::Partly, "retpolines hold in ring 1, IBRS does not")
        }
        (GuestType::Pv32, ..) => (
            Standing::Unprotected,
            "IBRS does not hold back what ring 1 has taught the CPU",
        ),
        (_, true, ..) | (_, _, true, _) => (Standing::Protected, "indirect branches are guarded"),
        (.., true) => (Standing::Partly, "LFENCE thunks are known to leave a gap"),
        _ => (Standing::Unprotected, "indirect branches are not guarded"),
    };
    let barrier = if supports(facts, guest, "IBPB-entry") {
        Some("IBPB on entry")
    } else if settings.has("IBPB-ctxt") || settings.has("IBPB") {
        Some("IBPB between guests")
    } else {
        None
    };
    by.extend(barrier.map(str::to_owned));
    let threads_apart =
        facts.core_sharing() != CoreSharing::Yes || settings.bit("STIBP") == Some(true);
    let guests = match (barrier, threads_apart) {
        (Some(_), true) => Standing::Protected,
        (Some(_), false) => Standing::Partly,
        (None, _) => Standing::Unprotected,
    };
    let mut defence = Defence {
        hypervisor,
        guests,
        by,
        reasons: vec![reason(why, facts::BOOT_LOG)],
        remedies: Vec::new(),
        sure: Sure::Stated,
    };
    defence = match barrier {
        Some(barrier) => defence.because(barrier, facts::BOOT_LOG),
        None => defence
            .because(
                "predictions outlive the change from guest to guest (no IBPB)",
                facts::BOOT_LOG,
            )
            .remedy(off_or_old(facts, "IBPB")),
    };
    if guests == Standing::Partly {
        defence = defence
            .because(
                "different guests run on the threads of one core",
                facts::PHYSINFO,
            )
            .remedy(Remedy::BootOption(
                "boot Xen with `smt=0`, or with `sched-gran=core`".to_owned(),
            ));
    }
    match (guest, hypervisor) {
        (GuestType::Pv32, _) => ring_1(defence),
        (_, Standing::Unprotected) => defence.remedy(off_or_old(facts, "IBRS")),
        _ => defence,
    }
}

/// Whether Xen separates a PV guest's page tables, from the log or else from its documented default.
fn pv_switch(facts: &Facts, option: &str) -> Option<(bool, &'static str, Sure)> {
    let logged = match option {
        "xpti" => facts.log.xpti,
        _ => facts.log.pv_l1tf,
    };
    if let Some(switch) = logged {
        return Some((switch.domu, facts::BOOT_LOG, Sure::Stated));
    }
    facts.xen.version?;
    let mut on = true;
    if facts
        .option_parts("spec-ctrl")
        .iter()
        .any(|part| facts::is_no(part))
    {
        on = false;
    }
    for part in facts.option_parts(option) {
        match part.as_str() {
            word if facts::is_no(word) => on = false,
            "no-domu" | "domu=no" | "domu=0" | "domu=off" | "domu=false" => on = false,
            "yes" | "on" | "true" | "1" | "enable" | "domu" | "domu=yes" | "domu=1" | "domu=on"
            | "domu=true" | "default" => on = true,
            _ => {}
        }
    }
    Some((on, facts::COMMAND_LINE, Sure::Inferred))
}

fn meltdown(facts: &Facts, guest: GuestType) -> Defence {
    match guest {
        GuestType::Pv64 => match pv_switch(facts, "xpti") {
            Some((true, source, sure)) => Defence {
                sure,
                ..Defence::protected("XPTI", source)
            },
            Some((false, source, sure)) => Defence {
                sure,
                ..Defence::unprotected("XPTI is off for guests", source)
            }
            .remedy(Remedy::BootOption("boot Xen with `xpti=domu`".to_owned()))
            .remedy(Remedy::GuestType(
                "start it in the PV shim (`pvshim = 1`)".to_owned(),
            )),
            None => Defence::unknown(facts),
        },
        GuestType::Pv32 => Defence::protected(
            "a 32-bit guest's segments end below the hypervisor",
            "XSA-254",
        )
        .inferred(),
        _ => Defence::protected(
            "an address space apart from the hypervisor's",
            "type of guest",
        ),
    }
}

fn v3a(facts: &Facts) -> Defence {
    match facts.feature("SSBD") {
        Known::Yes(source) => {
            Defence::protected("microcode that came with SSBD", source).inferred()
        }
        Known::No(source) => Defence::unprotected("microcode without SSBD", source)
            .inferred()
            .remedy(Remedy::Microcode(
                "load newer microcode (`ucode=scan`)".to_owned(),
            )),
        Known::Unknown => Defence::unknown(facts),
    }
}

fn v4(facts: &Facts) -> Defence {
    let Some(settings) = settings(facts) else {
        return Defence::unknown(facts);
    };
    match settings.bit("SSBD") {
        Some(true) => Defence::protected("SSBD", facts::BOOT_LOG),
        Some(false) => {
            let mut defence = Defence::all(Standing::Partly).because(
                "the CPU has SSBD for guests to use; Xen leaves it off for itself, since no use against it is known",
                facts::BOOT_LOG,
            );
            defence.by.push("SSBD for guests".to_owned());
            defence.remedy(Remedy::BootOption(
                "boot Xen with `spec-ctrl=ssbd`".to_owned(),
            ))
        }
        None => Defence::unprotected("the CPU has no SSBD", facts::BOOT_LOG).remedy(
            Remedy::Microcode("load newer microcode (`ucode=scan`)".to_owned()),
        ),
    }
}

fn l1tf(facts: &Facts, guest: GuestType) -> Defence {
    if is_pv(guest) {
        return match pv_switch(facts, "pv-l1tf") {
            Some((true, source, sure)) => Defence {
                sure,
                ..Defence::protected("shadowing of PV guests with harmful page tables", source)
            },
            Some((false, source, sure)) => Defence {
                sure,
                ..Defence::unprotected("PV guests are not shadowed", source)
            }
            .remedy(Remedy::BootOption(
                "boot Xen with `pv-l1tf=domu`".to_owned(),
            ))
            .remedy(Remedy::GuestType(
                "start it in the PV shim (`pvshim = 1`)".to_owned(),
            )),
            None => Defence::unknown(facts),
        };
    }
    if let Known::Yes(source) = facts.feature("SKIP_L1DFL") {
        return Defence::protected("SKIP_L1DFL", source);
    }
    match settings(facts) {
        None => Defence::unknown(facts),
        Some(settings) if settings.has("L1D_FLUSH") => {
            Defence::protected("flush of the L1 cache", facts::BOOT_LOG).weakened_by_threads(facts)
        }
        Some(_) => Defence::unprotected("the L1 cache is not flushed", facts::BOOT_LOG)
            .remedy(off_or_old(facts, "L1D_FLUSH")),
    }
}

/// The standing if TSX is off: no transaction can be aborted.
fn tsx_off(facts: &Facts, family: Family) -> Option<Defence> {
    let off = settings(facts)?.bit("TSX") == Some(false);
    (family == Family::Taa && off).then(|| Defence::protected("TSX switched off", facts::BOOT_LOG))
}

/// The standing of buffers that VERW clears. The log names it `VERW`, or `MD_CLEAR` in older releases.
fn verw(facts: &Facts, guest: GuestType) -> Defence {
    let Some(settings) = settings(facts) else {
        return Defence::unknown(facts);
    };
    if support(facts, guest).is_none() {
        return Defence::unknown(facts);
    }
    let clears = ["MD_CLEAR", "FB_CLEAR", "RFDS_CLEAR", "VERW_CLEAR"].map(|bit| facts.feature(bit));
    let can = clears.iter().any(|known| known.is_yes());
    let cannot = clears.iter().all(|known| known.is_no());
    let used = settings.has("VERW")
        && (supports(facts, guest, "VERW") || supports(facts, guest, "MD_CLEAR"));
    if used && cannot {
        let mut defence = Defence::unprotected(
            "VERW is used, but the microcode does not clear buffers with it",
            facts::CPU_POLICY,
        );
        defence.remedies.push(Remedy::Microcode(
            "load newer microcode (`ucode=scan`)".to_owned(),
        ));
        return defence;
    }
    if used {
        let defence = Defence::protected("VERW", facts::BOOT_LOG);
        return if can { defence } else { defence.inferred() };
    }
    // The flush of the L1 cache clears the same buffers, so Xen spares itself the other for such guests.
    if !is_pv(guest) && settings.has("L1D_FLUSH") && can {
        return Defence::protected(
            "flush of the L1 cache, which clears the buffers too",
            facts::BOOT_LOG,
        );
    }
    Defence::unprotected(
        "buffers are not cleared before the guest runs",
        facts::BOOT_LOG,
    )
    .remedy(off_or_old(facts, "VERW"))
}

fn srbds(facts: &Facts) -> Defence {
    match settings(facts).map(|settings| settings.bit("SRB_LOCK")) {
        None => Defence::unknown(facts),
        Some(Some(true)) => Defence::protected("SRB_LOCK", facts::BOOT_LOG),
        Some(Some(false)) => Defence::unprotected("SRB_LOCK is off", facts::BOOT_LOG).remedy(
            Remedy::BootOption("boot Xen with `spec-ctrl=srb-lock`".to_owned()),
        ),
        Some(None) => Defence::unprotected("the CPU has no SRBDS_CTRL", facts::BOOT_LOG).remedy(
            Remedy::Microcode("load newer microcode (`ucode=scan`)".to_owned()),
        ),
    }
}

fn gds(facts: &Facts) -> Defence {
    let off = facts.option_parts("spec-ctrl").iter().any(|part| {
        matches!(
            part.as_str(),
            "no-gds-mit" | "gds-mit=0" | "gds-mit=no" | "gds-mit=off"
        )
    });
    match facts.feature("GDS_CTRL") {
        Known::Yes(source) if !off => Defence::protected("microcode (GDS_CTRL)", source).inferred(),
        Known::Yes(_) => Defence::unprotected("switched off by `gds-mit`", facts::COMMAND_LINE)
            .remedy(Remedy::BootOption(
                "take `gds-mit` from `spec-ctrl=`".to_owned(),
            )),
        Known::No(source) => Defence::unprotected("microcode without GDS_CTRL", source).remedy(
            Remedy::Microcode("load newer microcode (`ucode=scan`)".to_owned()),
        ),
        Known::Unknown => Defence::unknown(facts),
    }
}

fn retbleed_defence(facts: &Facts, guest: GuestType) -> Defence {
    let Some(settings) = settings(facts) else {
        return Defence::unknown(facts);
    };
    if supports(facts, guest, "IBPB-entry") {
        return Defence::protected("IBPB on entry", facts::BOOT_LOG).weakened_by_threads(facts);
    }
    match facts.vendor() {
        Some(Vendor::Intel) if settings.bit("IBRS") == Some(true) => {
            Defence::protected("IBRS", facts::BOOT_LOG)
        }
        Some(Vendor::Intel) => {
            Defence::unprotected("IBRS is off", facts::BOOT_LOG).remedy(off_or_old(facts, "IBRS"))
        }
        _ => Defence::unprotected("no IBPB on entry from this type of guest", facts::BOOT_LOG)
            .remedy(Remedy::BootOption(
                "boot Xen with `spec-ctrl=ibpb-entry`".to_owned(),
            )),
    }
}

fn srso(facts: &Facts, guest: GuestType) -> Defence {
    if facts
        .log
        .warnings
        .iter()
        .any(|line| line.starts_with("Vulnerable to SRSO"))
    {
        return Defence::unprotected(
            "Xen says that microcode to mitigate it is missing",
            facts::BOOT_LOG,
        )
        .remedy(Remedy::Microcode(
            "load newer microcode (`ucode=scan`)".to_owned(),
        ));
    }
    if support(facts, guest).is_none() {
        return Defence::unknown(facts);
    }
    if supports(facts, guest, "IBPB-entry") {
        let defence = Defence::protected("IBPB on entry", facts::BOOT_LOG);
        // Whether the barrier covers branch types depends on the microcode, too.
        return if facts.feature("IBPB_BRTYPE").is_yes() {
            defence
        } else {
            defence.inferred()
        };
    }
    Defence::unprotected("no IBPB on entry from this type of guest", facts::BOOT_LOG).remedy(
        Remedy::BootOption("boot Xen with `spec-ctrl=ibpb-entry`".to_owned()),
    )
}

fn bhi(facts: &Facts, guest: GuestType) -> Defence {
    let Some(settings) = settings(facts) else {
        return Defence::unknown(facts);
    };
    if settings.bit("BHI_DIS_S") == Some(true) {
        return Defence::protected("BHI_DIS_S", facts::BOOT_LOG);
    }
    if settings.bhb_seq.is_some() && supports(facts, guest, "BHB-entry") {
        return Defence::protected("clearing of the branch history on entry", facts::BOOT_LOG);
    }
    Defence::unprotected(
        "the branch history is not cleared on entry from this type of guest",
        facts::BOOT_LOG,
    )
    .remedy(Remedy::BootOption(
        "boot Xen with `spec-ctrl=bhi-dis-s` or `spec-ctrl=bhb-entry`".to_owned(),
    ))
}

fn its(facts: &Facts) -> Defence {
    let Some(compiled_in) = &facts.log.compiled_in else {
        return Defence::unknown(facts);
    };
    if compiled_in.iter().any(|word| word == "RETURN_THUNK") {
        Defence::protected("return thunks", facts::BOOT_LOG).inferred()
    } else {
        Defence::unprotected("Xen is built without return thunks", facts::BOOT_LOG).remedy(
            Remedy::Upgrade("use a Xen with the fixes of XSA-469".to_owned()),
        )
    }
}
