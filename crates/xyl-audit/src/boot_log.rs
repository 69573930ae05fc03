//! Reads the facts about speculative execution in Xen's boot log, for Xen 4.11 to 4.22.
//!
//! The log is not a stable interface: its words change between releases, also within stable branches. The parser
//! keeps and reports unknown lines and words. A fact that it does not find is unknown. Xen's log has a limited size,
//! so a busy host has lost the lines of its boot.
//!
//! Source: `print_details` in `xen/arch/x86/spec_ctrl.c` of the releases 4.11.0 to 4.22.0, and the lines printed near
//! it.

use serde::{Deserialize, Serialize};

use crate::cpu::{CpuId, Vendor};

/// The facts found in a boot log. `None` and empty mean not found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BootLog {
    /// Xen's version from the first lines of the log.
    pub version: Option<String>,
    /// Vendor, family, model and stepping of the CPU.
    pub cpu: Option<CpuId>,
    /// Microcode of the CPU that booted.
    pub microcode: Option<u32>,
    /// Whether the head of the block of mitigations is there.
    pub has_block: bool,
    /// Hints: weaknesses and immunities that the CPU reports.
    pub hints: Option<Vec<String>>,
    /// Features of the CPU for mitigations.
    pub features: Option<Vec<String>>,
    /// Mitigations that Xen is built with.
    pub compiled_in: Option<Vec<String>>,
    /// Mitigations that Xen uses for itself.
    pub settings: Option<Settings>,
    /// Mitigations for HVM guests; empty for none.
    pub hvm: Option<Vec<String>>,
    /// Mitigations for PV guests; empty for none.
    pub pv: Option<Vec<String>>,
    /// Page-table isolation of 64-bit PV.
    pub xpti: Option<Switch>,
    /// Shadowing of PV guests against L1TF.
    pub pv_l1tf: Option<Switch>,
    /// Whether Xen believes the CPU vulnerable to L1TF.
    pub l1tf_vulnerable: Option<bool>,
    /// Unit of scheduling: `cpu`, `core` or `socket`.
    pub granularity: Option<String>,
    /// Xen's own warnings about speculation and threads.
    pub warnings: Vec<String>,
    /// Lines and words of the block that are unknown to this parser.
    pub unrecognised: Vec<String>,
}

/// A switch for domain 0 and for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// Setting for domain 0.
    pub dom0: bool,
    /// Setting for all other domains.
    pub domu: bool,
}

/// The line of Xen's own settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Replacement of indirect branches: `RETPOLINE`, `LFENCE`, `JMP`; `None` if there is none.
    pub thunk: Option<String>,
    /// The sequence that clears the branch history.
    pub bhb_seq: Option<String>,
    /// Bits of `MSR_SPEC_CTRL` and similar settings, and whether they are on.
    pub bits: Vec<(String, bool)>,
    /// Words that are unknown to the parser.
    pub other: Vec<String>,
}

impl Settings {
    /// Whether a bit is set; `None` if the CPU does not have it.
    #[must_use]
    pub fn bit(&self, name: &str) -> Option<bool> {
        self.bits
            .iter()
            .find(|(bit, _)| bit == name)
            .map(|(_, on)| *on)
    }

    /// Whether the rest has a word.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.other.iter().any(|other| other == word)
    }
}

const HINTS: &[&str] = &[
    "RDCL_NO",
    "IBRS_ALL",
    "EIBRS",
    "RSBA",
    "RRSBA",
    "SKIP_L1DFL",
    "SSB_NO",
    "MDS_NO",
    "TAA_NO",
    "SBDR_SSDP_NO",
    "FBSDP_NO",
    "PSDP_NO",
    "FB_CLEAR",
    "PBRSB_NO",
    "GDS_NO",
    "RFDS_NO",
    "IBRS_ALWAYS",
    "STIBP_ALWAYS",
    "IBRS_FAST",
    "IBRS_SAME_MODE",
    "BTC_NO",
    "IBPB_RET",
    "IBPB_BRTYPE",
    "SRSO_NO",
    "SRSO_US_NO",
    "TSA_SQ_NO",
    "TSA_L1_NO",
    "BHI_NO",
    "ITS_NO",
];
const FEATURES: &[&str] = &[
    "IBRS/IBPB",
    "IBPB",
    "IBRS",
    "STIBP",
    "SSBD",
    "PSFD",
    "L1D_FLUSH",
    "MD_CLEAR",
    "SRBDS_CTRL",
    "VIRT_SSBD",
    "TSX_CTRL",
    "FB_CLEAR",
    "FB_CLEAR_CTRL",
    "GDS_CTRL",
    "RFDS_CLEAR",
    "SBPB",
    "SRSO_MSR_FIX",
    "VERW_CLEAR",
    // Until 4.15 the hints stood among the features.
    "RDCL_NO",
    "IBRS_ALL",
    "RSBA",
    "SKIP_L1DFL",
    "SSB_NO",
    "MDS_NO",
    "TAA_NO",
];
const COMPILED_IN: &[&str] = &[
    "INDIRECT_THUNK",
    "RETURN_THUNK",
    "SHADOW_PAGING",
    "HARDEN_ARRAY",
    "HARDEN_BRANCH",
    "HARDEN_GUEST_ACCESS",
    "HARDEN_LOCK",
];
const BITS: &[&str] = &[
    "IBRS",
    "STIBP",
    "SSBD",
    "PSFD",
    "BHI_DIS_S",
    "TSX",
    "SRB_LOCK",
];
const OTHER: &[&str] = &[
    "IBPB",
    "IBPB-ctxt",
    "L1D_FLUSH",
    "VERW",
    "DIV",
    "BRANCH_HARDEN",
    "LOCK_HARDEN",
];
const SUPPORT: &[&str] = &[
    "MSR_SPEC_CTRL",
    "MSR_VIRT_SPEC_CTRL",
    "RSB",
    "EAGER_FPU",
    "MD_CLEAR",
    "VERW",
    "IBPB-entry",
    "BHB-entry",
];

/// Start of Xen's first line after its banner.
const FIRST_OF_BOOT: &str = "(XEN) Xen version ";
/// Start of lines of guests: `(d5) `.
const GUEST_MARK: &str = "(d";

impl BootLog {
    /// Parses Xen's log. Lines of guests, which Xen marks, and lines that are not text are ignored. Of two equal
    /// lines the first counts.
    ///
    /// The first line may be the end of a guest's line that has lost its mark in the ring. It counts only if the ring
    /// begins with the boot. The block of mitigations counts only if it is complete, and if no guest wrote before it.
    #[must_use]
    pub fn parse(log: &[u8]) -> BootLog {
        let mut found = BootLog::default();
        let text = String::from_utf8_lossy(log);
        let mut lines = text.lines().peekable();
        let dropped = lines.next_if(|line| !line.starts_with(FIRST_OF_BOOT));
        let mut has_guest = dropped.is_some_and(|line| line.starts_with(GUEST_MARK));
        let mut in_block = false;
        for line in lines {
            has_guest |= line.starts_with(GUEST_MARK);
            let Some(line) = own_line(line) else { continue };
            if line == "Speculative mitigation facilities:" {
                in_block = !found.has_block && !has_guest;
                found.has_block |= in_block;
                continue;
            }
            in_block &= line.starts_with("  ");
            if !in_block {
                found.other_line(line);
            } else if !found.block_line(line) {
                found
                    .unrecognised
                    .push(line.trim().chars().take(200).collect());
            }
        }
        found
    }

    /// A line of the block; whether it is one that this parser knows.
    fn block_line(&mut self, line: &str) -> bool {
        let Some((head, rest)) = line
            .strip_prefix("  ")
            .and_then(|line| line.split_once(':'))
        else {
            return false;
        };
        let mut strange = Vec::new();
        match head {
            "Hardware hints" => once(&mut self.hints, words(rest, HINTS, &mut strange)),
            "Hardware features" => once(&mut self.features, words(rest, FEATURES, &mut strange)),
            "Compiled-in support" => {
                once(
                    &mut self.compiled_in,
                    words(rest, COMPILED_IN, &mut strange),
                );
            }
            "Xen settings" => once(&mut self.settings, settings(rest, &mut strange)),
            "Support for HVM VMs" => once(&mut self.hvm, words(rest, SUPPORT, &mut strange)),
            "Support for PV VMs" => once(&mut self.pv, words(rest, SUPPORT, &mut strange)),
            "L1TF" if rest.starts_with(" believed") => {
                once(
                    &mut self.l1tf_vulnerable,
                    !rest.starts_with(" believed not"),
                );
            }
            "XPTI (64-bit PV only)" => match switch(rest) {
                Some(value) => once(&mut self.xpti, value),
                None => return false,
            },
            "PV L1TF shadowing" => match switch(rest) {
                Some(value) => once(&mut self.pv_l1tf, value),
                None => return false,
            },
            _ => return false,
        }
        let strange = strange.iter().map(|word| format!("{head}: {word}"));
        self.unrecognised.extend(strange);
        true
    }

    fn other_line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("Xen version ") {
            let version = rest.split_whitespace().next().unwrap_or_default();
            once(&mut self.version, version.to_owned());
        } else if let Some(rest) = line.strip_prefix("CPU Vendor: ") {
            if let Some(cpu) = cpu(rest) {
                once(&mut self.cpu, cpu);
            }
        } else if let Some(rest) = line.strip_prefix("BSP microcode revision: ") {
            if let Some(revision) = hex(rest.trim()) {
                once(&mut self.microcode, revision);
            }
        } else if let Some(rest) = line.strip_prefix("microcode: CPU0 updated from revision ") {
            // An update after the line above: the newer revision counts.
            let revision = rest
                .split(" to ")
                .nth(1)
                .and_then(|rest| hex(rest.split([',', ' ']).next().unwrap_or_default()));
            self.microcode = revision.or(self.microcode);
        } else if let Some(rest) = line.strip_prefix("Scheduling granularity: ") {
            let word = rest.split(',').next().unwrap_or_default();
            // The granularity of the default pool, printed when the CPUs are up. The first line counts.
            once(&mut self.granularity, word.trim().to_owned());
        } else if is_warning(line) && self.warnings.len() < 32 {
            self.warnings.push(line.trim().chars().take(200).collect());
        }
    }

    /// Whether the block is there.
    #[must_use]
    pub fn says_anything(&self) -> bool {
        self.has_block
    }
}

/// A line of the hypervisor's own, without its mark and time stamp.
fn own_line(line: &str) -> Option<&str> {
    let line = line.strip_prefix("(XEN) ")?;
    let line = match line.strip_prefix('[') {
        // Time stamps are a date, or seconds, or a counter; a memory map's lines are indented.
        Some(rest) => rest.split_once("] ").map_or(line, |(_, rest)| rest),
        None => line,
    };
    Some(line.trim_end())
}

fn once<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

fn is_warning(line: &str) -> bool {
    const MARKS: &[&str] = &[
        "Vulnerable to SRSO",
        "hardware with SMT/Hyperthreading",
        "assuming vulnerable to",
        "assuming not reptpoline safe",
        "FIRMWARE BUG: CPU",
        "Disabling PV32 due to CET",
        "No SSBD controls available",
    ];
    MARKS.iter().any(|mark| line.contains(mark))
}

fn words(rest: &str, known: &[&str], strange: &mut Vec<String>) -> Vec<String> {
    let words = rest
        .split_whitespace()
        .filter(|word| *word != "None")
        .take(64);
    let words: Vec<String> = words.map(str::to_owned).collect();
    let unknown = words.iter().filter(|word| !known.contains(&word.as_str()));
    strange.extend(unknown.cloned());
    words
}

/// `BTI-Thunk: JMP, BHB-Seq: LONG, SPEC_CTRL: IBRS+ STIBP-, Other: VERW`; until 4.18 `BTI-Thunk JMP`, with `N/A` for none.
fn settings(rest: &str, strange: &mut Vec<String>) -> Settings {
    let mut settings = Settings::default();
    for part in rest.split(',') {
        let mut words = part.split_whitespace();
        let head = words.next().unwrap_or_default().trim_end_matches(':');
        match head {
            "BTI-Thunk" => {
                settings.thunk = words
                    .next()
                    .filter(|word| *word != "N/A")
                    .map(str::to_owned);
            }
            "BHB-Seq" => settings.bhb_seq = words.next().map(str::to_owned),
            "SPEC_CTRL" => words
                .filter(|word| *word != "No")
                .for_each(|word| add_setting(&mut settings, word, strange)),
            "Other" => words.for_each(|word| add_setting(&mut settings, word, strange)),
            "" => {}
            other => strange.push(other.to_owned()),
        }
    }
    settings
}

fn add_setting(settings: &mut Settings, word: &str, strange: &mut Vec<String>) {
    let (known, bit) = match (word.strip_suffix('+'), word.strip_suffix('-')) {
        (Some(bit), _) => (BITS.contains(&bit), Some((bit.to_owned(), true))),
        (_, Some(bit)) => (BITS.contains(&bit), Some((bit.to_owned(), false))),
        _ => (OTHER.contains(&word), None),
    };
    match bit {
        Some(bit) => settings.bits.push(bit),
        None => settings.other.push(word.to_owned()),
    }
    if !known {
        strange.push(word.to_owned());
    }
}

/// ` Dom0 enabled, DomU disabled (with PCID)`.
fn switch(rest: &str) -> Option<Switch> {
    let state = |domain: &str| {
        let (_, after) = rest.split_once(domain)?;
        match after.trim_start().split([',', ' ']).next()? {
            "enabled" => Some(true),
            "disabled" => Some(false),
            _ => None,
        }
    };
    Some(Switch {
        dom0: state("Dom0")?,
        domu: state("DomU")?,
    })
}

/// `AMD, Family 25 (0x19), Model 33 (0x21), Stepping 2 (raw 00a20f12)`.
fn cpu(rest: &str) -> Option<CpuId> {
    let number = |name: &str| {
        let (_, after) = rest.split_once(name)?;
        after
            .trim_start()
            .split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    Some(CpuId {
        vendor: Vendor::from_word(rest.split(',').next()?),
        family: number("Family")?,
        model: number("Model")?,
        stepping: number("Stepping")?,
    })
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_cannot_speak_for_the_hypervisor() {
        let log = b"(d3) (XEN)   XPTI (64-bit PV only): Dom0 enabled, DomU enabled (with PCID)\n\
            (d3)   XPTI (64-bit PV only): Dom0 enabled, DomU enabled (with PCID)\n";
        assert_eq!(BootLog::parse(log), BootLog::default());
    }

    #[test]
    fn a_guests_line_that_has_lost_its_mark_counts_for_nothing() {
        const SAID: &str =
            "(XEN)   XPTI (64-bit PV only): Dom0 enabled, DomU enabled (without PCID)\n";
        const TRUTH: &str = "(XEN) Speculative mitigation facilities:\n\
            (XEN)   XPTI (64-bit PV only): Dom0 disabled, DomU disabled (without PCID)\n";
        let off = Some(Switch {
            dom0: false,
            domu: false,
        });
        let head = "(XEN) Speculative mitigation facilities:\n";
        for before in ["", "(X"] {
            assert_eq!(
                BootLog::parse(format!("{before}{SAID}{TRUTH}").as_bytes()).xpti,
                off
            );
        }
        // The ring begins within a guest's line that is the block's head, or the guest has the last word.
        for log in [
            format!("{head}(d5) {SAID}"),
            format!("{head}{SAID}"),
            format!("(d5) x\n{head}{SAID}"),
        ] {
            assert_eq!(BootLog::parse(log.as_bytes()), BootLog::default(), "{log}");
        }
        let log = format!("(XEN) Booting\n{TRUTH}(d5) x\n{head}{SAID}");
        assert_eq!(BootLog::parse(log.as_bytes()).xpti, off);
    }

    #[test]
    fn what_is_not_known_is_reported() {
        let log = "(XEN) Booting\n\
            (XEN) Speculative mitigation facilities:\n\
            (XEN)   Hardware hints: RDCL_NO NEW_NO\n\
            (XEN)   Xen settings: BTI-Thunk: JMP, NEW: x, SPEC_CTRL: IBRS+ NEW-, Other: ELSE\n\
            (XEN)   XPTI (64-bit PV only): sometimes\n\
            (XEN)   A new line\n\
            (XEN) Using scheduler: something\n\
            (XEN)   not of the block\n";
        let found = BootLog::parse(log.as_bytes());
        assert_eq!(
            found.unrecognised,
            [
                "Hardware hints: NEW_NO",
                "Xen settings: NEW",
                "Xen settings: NEW-",
                "Xen settings: ELSE",
                "XPTI (64-bit PV only): sometimes",
                "A new line",
            ]
        );
        assert_eq!(found.xpti, None);
    }

    #[test]
    fn a_ring_that_has_wrapped_says_nothing() {
        let found = BootLog::parse(b"(XEN) d1: something\n(XEN) PCI add device 0000:00:00.0\n");
        assert!(!found.says_anything());
        assert_eq!(found, BootLog::default());
    }

    #[test]
    fn updated_microcode_counts() {
        let log = b"(XEN) BSP microcode revision: 0x000000f4\n(XEN) microcode: CPU0 updated from revision 0xf4 to 0xf6, date = 2023-07-26\n";
        assert_eq!(BootLog::parse(log).microcode, Some(0xf6));
    }
}
