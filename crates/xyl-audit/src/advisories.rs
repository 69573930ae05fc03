//! Xen's security advisories as data: testable conditions, and the verdict on this host.
//!
//! The format is in `docs/advisories.md`. Administrators can add files; an entry with the same name replaces Xyl's
//! entry.

use std::io;
use std::path::Path;

use os_port::Files;
use serde::Deserialize;
use toml::Spanned;

use crate::audit::{AdvisoryRow, Audit, Reason, Remedy};
use crate::cpu::Vendor;
use crate::facts::{self, Facts, Known, StoreDaemon};
use crate::names::{AdvisoryVerdict, Family, GuestType, Standing};

/// Xyl's own advisories.
pub const OWN: &str = include_str!("../../../data/advisories.toml");

/// Folder of the administrator's advisories.
pub const FOLDER: &str = "/etc/xyl/advisories.d";

const MAX_BYTES: u64 = 1 << 20;

/// The reasons why advisories cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AdvisoryError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file or folder.
        path: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The file does not have the format.
    #[error("{path}:{line}: {what}; the format is in docs/advisories.md")]
    Wrong {
        /// Path of the file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The error in the line.
        what: String,
    },
}

/// One security advisory with its conditions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Advisory {
    /// Name, such as `XSA-297`.
    pub id: String,
    /// Title of the advisory.
    pub title: String,
    /// The component that it is about.
    #[serde(default)]
    pub about: About,
    /// Families of the audit whose verdicts decide once the fix is in.
    #[serde(default)]
    pub families: Vec<Family>,
    /// The verdict if a family is partly protected; `affected` if it is `None`.
    pub partly: Option<AdvisoryVerdict>,
    /// Guest types that can make use of it; none for all.
    #[serde(default)]
    pub guests: Vec<GuestType>,
    /// The CPUs that it is about; none for all.
    #[serde(default)]
    pub cpu: Option<CpuCondition>,
    /// A word of Xen's capabilities without which it does not matter.
    pub capability: Option<String>,
    /// The first release with the fault.
    pub since: Option<String>,
    /// The first release of each branch with the fix; later branches have it.
    #[serde(default)]
    pub fixed: Vec<String>,
    /// Words of the boot log that only a Xen with the fix prints on an affected host.
    #[serde(default)]
    pub fix_shows_as: Vec<String>,
    /// Options on Xen's command line that mitigate it, such as `pv=no-32`.
    #[serde(default)]
    pub mitigated_by: Vec<String>,
    /// The remedy as text.
    #[serde(default)]
    pub remedy: Option<String>,
    /// References, such as URLs.
    pub references: Vec<String>,
    /// Source against which the conditions were checked. `None` if they were not checked.
    pub checked: Option<String>,
    /// Reason why a fix is not visible from outside. Then no host with the weakness is reported as mitigated or
    /// affected.
    pub unverified: Option<String>,
}

/// The component that an advisory is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// The Xen hypervisor.
    #[default]
    Xen,
    /// libxl and xl, of the same release as the hypervisor.
    Libxl,
    /// xenstored, of the same release as the hypervisor, whichever program it is.
    Xenstored,
    /// xenstored as it is written in C, and not oxenstored.
    CXenstored,
    /// Guests, who have to help themselves.
    Guests,
}

/// The CPUs that an advisory is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CpuCondition {
    /// Makers; none for all.
    #[serde(default)]
    pub vendors: Vec<Vendor>,
    /// Families by number; none for all.
    #[serde(default)]
    pub families: Vec<u32>,
    /// Features without which the CPU is not affected.
    #[serde(default)]
    pub has: Vec<String>,
    /// Features; each means that the CPU is not affected.
    #[serde(default)]
    pub lacks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Spanned<u32>,
    #[serde(default)]
    advisory: Vec<Spanned<Advisory>>,
}

/// Reads a file of advisories; `path` is for messages.
pub fn parse(text: &str, path: &str) -> Result<Vec<Advisory>, AdvisoryError> {
    let line_of = |at: usize| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    let wrong = |at: usize, what: String| AdvisoryError::Wrong {
        path: path.to_owned(),
        line: line_of(at),
        what,
    };
    let file: File = toml::from_str(text).map_err(|error| {
        wrong(
            error.span().map_or(0, |span| span.start),
            error.message().to_owned(),
        )
    })?;
    if *file.version.get_ref() != 1 {
        return Err(wrong(
            file.version.span().start,
            "this Xyl knows advisories of version 1".to_owned(),
        ));
    }
    let mut advisories: Vec<Advisory> = Vec::new();
    for entry in file.advisory {
        let at = entry.span().start;
        let advisory = entry.into_inner();
        let releases = advisory.fixed.iter().chain(&advisory.since);
        if let Some(bad) = releases.into_iter().find(|text| release(text).is_none()) {
            return Err(wrong(
                at,
                format!("{}: '{bad}' is no release such as 4.17.6", advisory.id),
            ));
        }
        if advisory.references.is_empty() {
            return Err(wrong(at, format!("{} has no reference", advisory.id)));
        }
        if advisories.iter().any(|other| other.id == advisory.id) {
            return Err(wrong(at, format!("{} comes twice", advisory.id)));
        }
        advisories.push(advisory);
    }
    Ok(advisories)
}

/// Xyl's advisories and those of this host's administrator.
pub fn load(files: &dyn Files, folder: &Path) -> Result<Vec<Advisory>, AdvisoryError> {
    let read_error = |path: &Path, source| AdvisoryError::Read {
        path: path.display().to_string(),
        source,
    };
    let mut advisories = parse(OWN, "data/advisories.toml")?;
    let mut names =
        os_port::list_if_there(files, folder).map_err(|error| read_error(folder, error))?;
    names.retain(|name| name.ends_with(".toml"));
    names.sort();
    for name in names {
        let path = folder.join(name);
        let bytes = files
            .read_trusted(&path, MAX_BYTES)
            .map_err(|error| read_error(&path, error))?;
        let text = String::from_utf8_lossy(&bytes);
        for advisory in parse(&text, &path.display().to_string())? {
            advisories.retain(|other| other.id != advisory.id);
            advisories.push(advisory);
        }
    }
    Ok(advisories)
}

/// The verdict of each advisory for this host.
#[must_use]
pub fn judge(advisories: &[Advisory], facts: &Facts, audit: &Audit) -> Vec<AdvisoryRow> {
    advisories
        .iter()
        .map(|advisory| {
            let (verdict, reasons) = verdict(advisory, facts, audit);
            let remedies = match verdict {
                AdvisoryVerdict::Affected | AdvisoryVerdict::CannotTell => remedies(advisory),
                _ => Vec::new(),
            };
            AdvisoryRow {
                id: advisory.id.clone(),
                title: advisory.title.clone(),
                verdict,
                reasons,
                remedies,
                references: advisory.references.clone(),
                checked: advisory.checked.is_some(),
            }
        })
        .collect()
}

fn remedies(advisory: &Advisory) -> Vec<Remedy> {
    let mut remedies: Vec<Remedy> = advisory.remedy.iter().cloned().map(Remedy::Other).collect();
    if !advisory.fixed.is_empty() {
        remedies.push(Remedy::Upgrade(format!(
            "use a Xen with the fix: {} or later",
            advisory.fixed.join(", ")
        )));
    }
    remedies.extend(
        advisory
            .mitigated_by
            .iter()
            .map(|option| Remedy::BootOption(format!("boot Xen with `{option}`"))),
    );
    remedies
}

type Judged = (AdvisoryVerdict, Vec<Reason>);

fn because(verdict: AdvisoryVerdict, text: impl Into<String>, source: &str) -> Judged {
    let reason = Reason {
        text: text.into(),
        source: source.to_owned(),
    };
    (verdict, vec![reason])
}

fn verdict(advisory: &Advisory, facts: &Facts, audit: &Audit) -> Judged {
    let daemon = facts.xenstored.as_ref();
    match (advisory.about, daemon.map(|daemon| daemon.value)) {
        (About::CXenstored, Some(StoreDaemon::Ocaml)) => because(
            AdvisoryVerdict::NotAffected,
            "xenstored is oxenstored here",
            facts::PROCESSES,
        ),
        (About::CXenstored, None) => if_it_is_in_c(verdict_of_any(advisory, facts, audit)),
        _ => verdict_of_any(advisory, facts, audit),
    }
}

/// The verdict about xenstored in C where it is not known whether this host has that one.
fn if_it_is_in_c((verdict, reasons): Judged) -> Judged {
    if verdict != AdvisoryVerdict::Affected {
        return (verdict, reasons);
    }
    let (_, mut unknown) = because(
        AdvisoryVerdict::CannotTell,
        "whether xenstored is the one in C or oxenstored is not known",
        "no source",
    );
    unknown.extend(reasons);
    (AdvisoryVerdict::CannotTell, unknown)
}

fn verdict_of_any(advisory: &Advisory, facts: &Facts, audit: &Audit) -> Judged {
    cpu_verdict(advisory, facts)
        .or_else(|| no_family_verdict(advisory, audit))
        .or_else(|| capability_verdict(advisory, facts))
        .or_else(|| unverified_verdict(advisory))
        .or_else(|| option_verdict(advisory, facts))
        .or_else(|| fix_verdict(advisory, facts))
        .unwrap_or_else(|| family_verdict(advisory, facts, audit))
}

/// The verdict if it is not known how the fix shows.
fn unverified_verdict(advisory: &Advisory) -> Option<Judged> {
    let why = advisory.unverified.as_ref()?;
    Some(because(
        AdvisoryVerdict::CannotTell,
        why.as_str(),
        "advisory",
    ))
}

/// The verdict, if the CPU decides.
fn cpu_verdict(advisory: &Advisory, facts: &Facts) -> Option<Judged> {
    let condition = advisory.cpu.as_ref()?;
    let mut unknown = None;
    if !condition.vendors.is_empty() || !condition.families.is_empty() {
        match &facts.cpu {
            None => unknown = Some("the CPU is not known".to_owned()),
            Some(cpu) => {
                let other_maker =
                    !condition.vendors.is_empty() && !condition.vendors.contains(&cpu.value.vendor);
                let other_family = !condition.families.is_empty()
                    && !condition.families.contains(&cpu.value.family);
                if other_maker || other_family {
                    let what = format!(
                        "the CPU is of {}, family {:#x}",
                        cpu.value.vendor.word(),
                        cpu.value.family
                    );
                    return Some(because(AdvisoryVerdict::NotAffected, what, &cpu.source));
                }
            }
        }
    }
    for feature in &condition.has {
        match facts.feature(feature) {
            Known::No(source) => {
                return Some(because(
                    AdvisoryVerdict::NotAffected,
                    format!("the CPU has no {feature}"),
                    source,
                ));
            }
            Known::Unknown => unknown = Some(format!("whether the CPU has {feature} is not known")),
            Known::Yes(_) => {}
        }
    }
    for feature in &condition.lacks {
        match facts.feature(feature) {
            Known::Yes(source) => {
                return Some(because(
                    AdvisoryVerdict::NotAffected,
                    format!("the CPU says {feature}"),
                    source,
                ));
            }
            // Families decide themselves about a CPU with unknown features. Other advisories cannot.
            Known::Unknown if advisory.families.is_empty() => {
                unknown = Some(format!("whether the CPU says {feature} is not known"));
            }
            _ => {}
        }
    }
    unknown.map(|what| because(AdvisoryVerdict::CannotTell, what, "no source"))
}

/// The verdict, if the CPU has none of the weaknesses, whatever this Xen is.
fn no_family_verdict(advisory: &Advisory, audit: &Audit) -> Option<Judged> {
    let mut rows = audit
        .rows
        .iter()
        .filter(|row| advisory.families.contains(&row.family))
        .peekable();
    let reasons = rows.peek()?.reasons.clone();
    rows.all(|row| row.standing == Standing::NotAffected)
        .then_some((AdvisoryVerdict::NotAffected, reasons))
}

fn capability_verdict(advisory: &Advisory, facts: &Facts) -> Option<Judged> {
    let capability = advisory.capability.as_ref()?;
    if facts.xen.capabilities.is_empty() {
        return Some(because(
            AdvisoryVerdict::CannotTell,
            "Xen's capabilities are not known",
            "no source",
        ));
    }
    let has = facts
        .xen
        .capabilities
        .split_whitespace()
        .any(|word| word == capability);
    (!has).then(|| {
        because(
            AdvisoryVerdict::NotAffected,
            format!("no {capability} here"),
            facts::CAPABILITY,
        )
    })
}

fn option_verdict(advisory: &Advisory, facts: &Facts) -> Option<Judged> {
    let line: Vec<&str> = facts.xen.command_line.split_whitespace().collect();
    let option = advisory
        .mitigated_by
        .iter()
        .find(|option| line.contains(&option.as_str()))?;
    Some(because(
        AdvisoryVerdict::Mitigated,
        format!("`{option}`"),
        facts::COMMAND_LINE,
    ))
}

/// The verdict, if this Xen is too old, or the fix is all that there is to it.
fn fix_verdict(advisory: &Advisory, facts: &Facts) -> Option<Judged> {
    if advisory.since.is_none() && advisory.fixed.is_empty() {
        return None;
    }
    let Some(this) = this_release(facts) else {
        return Some(because(
            AdvisoryVerdict::CannotTell,
            "Xen's version is not known",
            "no source",
        ));
    };
    let text = format!("{}.{}{}", this.0, this.1, facts.xen.extra);
    if advisory
        .since
        .as_deref()
        .and_then(release)
        .is_some_and(|since| this < since)
    {
        return Some(because(
            AdvisoryVerdict::NotAffected,
            format!("Xen {text} is older than the fault"),
            "version",
        ));
    }
    if advisory.fixed.is_empty() {
        return None;
    }
    if has_fix(&advisory.fixed, this) {
        return advisory.families.is_empty().then(|| {
            because(
                AdvisoryVerdict::Mitigated,
                format!("Xen {text} has the fix"),
                "version",
            )
        });
    }
    if let Some(sign) = advisory
        .fix_shows_as
        .iter()
        .find(|word| log_shows(facts, word))
    {
        return advisory.families.is_empty().then(|| {
            because(
                AdvisoryVerdict::Mitigated,
                format!("Xen {text} shows the fix: {sign}"),
                facts::BOOT_LOG,
            )
        });
    }
    let looked =
        !advisory.fix_shows_as.is_empty() && facts.log.has_block && facts.log.compiled_in.is_some();
    // A build of the project's own repository has a changeset, and a version that is only a number.
    let plain = !facts.xen.changeset.trim().is_empty()
        && facts
            .xen
            .extra
            .trim_start_matches('.')
            .bytes()
            .all(|byte| byte.is_ascii_digit());
    if plain || looked {
        let source = if looked { facts::BOOT_LOG } else { "version" };
        return Some(because(
            AdvisoryVerdict::Affected,
            format!("Xen {text} is older than the fix"),
            source,
        ));
    }
    Some(because(
        AdvisoryVerdict::CannotTell,
        format!(
            "Xen {text} is older than the fix, but whoever built it may have added that: ask there"
        ),
        "version",
    ))
}

fn log_shows(facts: &Facts, word: &str) -> bool {
    let lists = [
        &facts.log.compiled_in,
        &facts.log.hvm,
        &facts.log.pv,
        &facts.log.hints,
        &facts.log.features,
    ];
    lists
        .into_iter()
        .flatten()
        .flatten()
        .any(|other| other == word)
        || facts
            .log
            .settings
            .as_ref()
            .is_some_and(|settings| settings.has(word))
}

/// The worst verdict of the families, among the guest types that this host can run.
fn family_verdict(advisory: &Advisory, facts: &Facts, audit: &Audit) -> Judged {
    if advisory.about == About::Guests {
        return because(
            AdvisoryVerdict::CannotTell,
            "guests have to mitigate it for themselves",
            "advisory",
        );
    }
    if advisory.families.is_empty() {
        let what = match &advisory.capability {
            Some(capability) => format!("{capability} is there"),
            None => "nothing that could be tested speaks against it".to_owned(),
        };
        return because(AdvisoryVerdict::Affected, what, facts::CAPABILITY);
    }
    let mut worst = (
        AdvisoryVerdict::NotAffected,
        "no guest type that can run here".to_owned(),
    );
    for row in &audit.rows {
        let named = advisory.guests.is_empty() || advisory.guests.contains(&row.guest);
        if !named || !advisory.families.contains(&row.family) || !can_run(facts, row.guest) {
            continue;
        }
        let verdict = match row.standing {
            Standing::NotAffected => AdvisoryVerdict::NotAffected,
            Standing::Protected => AdvisoryVerdict::Mitigated,
            Standing::Partly => advisory.partly.unwrap_or(AdvisoryVerdict::Affected),
            Standing::Unprotected => AdvisoryVerdict::Affected,
            Standing::Unknown => AdvisoryVerdict::CannotTell,
        };
        let text = format!(
            "{}: {} is {}",
            row.guest.title(),
            row.family,
            row.standing.title()
        );
        let first = worst.1.starts_with("no guest");
        if verdict > worst.0 || first {
            worst = (verdict, text);
        }
    }
    because(worst.0, worst.1, "audit")
}

/// Whether a guest type can run here. An unknown fact counts as yes.
#[must_use]
pub fn can_run(facts: &Facts, guest: GuestType) -> bool {
    let abilities = facts.abilities;
    match guest {
        GuestType::Pv64 => abilities.is_none_or(|abilities| abilities.pv),
        GuestType::Pv32 => !facts.has_pv32().is_no(),
        _ => abilities.is_none_or(|abilities| abilities.hvm),
    }
}

type Release = (u16, u16, u16);

fn release(text: &str) -> Option<Release> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let patch = parts.next().map_or(Some(0), |part| part.parse().ok())?;
    parts.next().is_none().then_some((major, minor, patch))
}

/// Release of this host. `.6-pre` is between .5 and .6, so it counts as .5.
fn this_release(facts: &Facts) -> Option<Release> {
    let (major, minor) = facts.xen.version?;
    let extra = facts.xen.extra.trim_start_matches('.');
    let digits: String = extra.chars().take_while(char::is_ascii_digit).collect();
    let patch: u16 = digits.parse().unwrap_or(0);
    let on_the_way = extra
        .get(digits.len()..)
        .is_some_and(|rest| rest.starts_with("-pre") || rest.starts_with("-rc"));
    Some((
        major,
        minor,
        if on_the_way {
            patch.saturating_sub(1)
        } else {
            patch
        },
    ))
}

/// Whether a release is at or after the fix on its own branch, or on a later branch than any that is listed.
fn has_fix(fixed: &[String], this: Release) -> bool {
    let fixed: Vec<Release> = fixed.iter().filter_map(|text| release(text)).collect();
    match fixed.iter().find(|fix| (fix.0, fix.1) == (this.0, this.1)) {
        Some(fix) => this.2 >= fix.2,
        None => fixed.iter().all(|fix| (fix.0, fix.1) < (this.0, this.1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Sourced;
    use crate::verdicts::audit;

    fn facts(version: (u16, u16), extra: &str, changeset: &str) -> Facts {
        let mut facts = Facts::default();
        facts.xen.version = Some(version);
        facts.xen.extra = extra.to_owned();
        facts.xen.changeset = changeset.to_owned();
        facts.xen.capabilities = "xen-3.0-x86_64 hvm-3.0-x86_64".to_owned();
        facts
    }

    fn of(text: &str, facts: &Facts) -> AdvisoryVerdict {
        let text = format!(
            "version = 1\n[[advisory]]\nid = \"T-1\"\ntitle = \"t\"\nreferences = [\"r\"]\n{text}"
        );
        let advisories = parse(&text, "t.toml").unwrap();
        judge(&advisories, facts, &audit(facts))[0].verdict
    }

    #[test]
    fn the_fix_counts_by_branch() {
        let fixed = ["4.17.6".to_owned(), "4.18.5".to_owned()];
        for (release, has) in [
            ((4, 17, 5), false),
            ((4, 17, 6), true),
            ((4, 18, 4), false),
            ((4, 19, 0), true),
            ((4, 16, 9), false),
        ] {
            assert_eq!(has_fix(&fixed, release), has, "{release:?}");
        }
        assert_eq!(
            this_release(&facts((4, 17), ".6-pre", "")),
            Some((4, 17, 5))
        );
        assert_eq!(this_release(&facts((4, 20), ".0", "")), Some((4, 20, 0)));
        assert_eq!(
            this_release(&facts((4, 22), "-unstable", "")),
            Some((4, 22, 0))
        );
    }

    #[test]
    fn an_old_release_is_affected_unless_its_builder_may_have_fixed_it() {
        let fixed = "fixed = [\"4.17.6\"]\n";
        assert_eq!(
            of(fixed, &facts((4, 17), ".6", "")),
            AdvisoryVerdict::Mitigated
        );
        assert_eq!(
            of(fixed, &facts((4, 17), ".5", "")),
            AdvisoryVerdict::CannotTell
        );
        assert_eq!(
            of(fixed, &facts((4, 17), ".5", "git:abc")),
            AdvisoryVerdict::Affected
        );
        assert_eq!(
            of("since = \"4.18\"\n", &facts((4, 17), ".5", "")),
            AdvisoryVerdict::NotAffected
        );
        assert_eq!(of(fixed, &Facts::default()), AdvisoryVerdict::CannotTell);
    }

    #[test]
    fn what_nobody_can_verify_is_not_said() {
        let host = facts((4, 17), ".6", "git:abc");
        let unverified = "unverified = \"no commit names it\"\n";
        let fixed = format!("fixed = [\"4.17.6\"]\n{unverified}");
        assert_eq!(of(&fixed, &host), AdvisoryVerdict::CannotTell);
        // An advisory that does not concern the host needs no fix.
        let elsewhere = format!("{unverified}capability = \"xen-3.0-x86_32p\"\n");
        assert_eq!(of(&elsewhere, &host), AdvisoryVerdict::NotAffected);
    }

    #[test]
    fn conditions_on_the_cpu_capabilities_and_options() {
        let host = facts((4, 17), ".6", "");
        assert_eq!(
            of("cpu = { vendors = [\"amd\"] }\n", &host),
            AdvisoryVerdict::CannotTell
        );
        let mut amd = host.clone();
        amd.raw = Some(vec!["SRSO_NO".to_owned()]);
        assert_eq!(
            of("cpu = { has = [\"RTM\"] }\n", &amd),
            AdvisoryVerdict::NotAffected
        );
        assert_eq!(
            of("cpu = { lacks = [\"SRSO_NO\"] }\n", &amd),
            AdvisoryVerdict::NotAffected
        );
        assert_eq!(
            of("capability = \"xen-3.0-x86_32p\"\n", &host),
            AdvisoryVerdict::NotAffected
        );
        assert_eq!(
            of("capability = \"xen-3.0-x86_64\"\n", &host),
            AdvisoryVerdict::Affected
        );
        let mut with_option = host;
        with_option.xen.command_line = "pv=no-32".to_owned();
        let text = "capability = \"xen-3.0-x86_64\"\nmitigated-by = [\"pv=no-32\"]\n";
        assert_eq!(of(text, &with_option), AdvisoryVerdict::Mitigated);
    }

    #[test]
    fn errors_name_the_line() {
        let error = |text: &str| parse(text, "a.toml").unwrap_err().to_string();
        assert!(error("version = 1\nsome = 1\n").starts_with("a.toml:2: unknown field"));
        let one = "[[advisory]]\nid = \"X\"\ntitle = \"t\"\nreferences = [\"r\"]\n";
        assert!(error(&format!("version = 1\n{one}{one}")).starts_with("a.toml:6: X comes twice"));
        assert!(error(&format!("version = 1\n{one}fixed = [\"soon\"]\n")).contains("no release"));
    }

    #[test]
    fn xenstoreds_own_are_told_by_release() {
        let own = parse(OWN, "own").unwrap();
        let verdict = |id: &str, minor: u16, extra: &str| {
            let mut facts = facts((4, minor), extra, "git:abc");
            facts.xenstored = Some(Sourced::new(StoreDaemon::C, facts::PROCESSES));
            let rows = judge(&own, &facts, &audit(&facts));
            rows.iter().find(|row| row.id == id).map(|row| row.verdict)
        };
        let (affected, mitigated) = (
            Some(AdvisoryVerdict::Affected),
            Some(AdvisoryVerdict::Mitigated),
        );
        for (id, minor, first) in [
            ("XSA-326", 16, 3),
            ("XSA-425", 17, 1),
            ("XSA-440", 17, 3),
            ("XSA-481", 18, 6),
            ("XSA-484", 17, 7),
        ] {
            assert_eq!(verdict(id, minor, &format!(".{first}")), mitigated, "{id}");
            assert_eq!(
                verdict(id, minor, &format!(".{}", first - 1)),
                affected,
                "{id}"
            );
        }
        let older = verdict("XSA-425", 16, ".0");
        assert_eq!(older, Some(AdvisoryVerdict::NotAffected));
    }

    #[test]
    fn those_of_xenstored_in_c_do_not_concern_oxenstored() {
        let own = parse(OWN, "own").unwrap();
        let mut facts = facts((4, 17), ".0", "git:abc");
        let verdict = |facts: &Facts, id: &str| {
            let rows = judge(&own, facts, &audit(facts));
            rows.iter().find(|row| row.id == id).unwrap().verdict
        };
        for (daemon, expected) in [
            (Some(StoreDaemon::C), AdvisoryVerdict::Affected),
            (Some(StoreDaemon::Ocaml), AdvisoryVerdict::NotAffected),
            (None, AdvisoryVerdict::CannotTell),
        ] {
            facts.xenstored = daemon.map(|daemon| Sourced::new(daemon, facts::PROCESSES));
            for id in ["XSA-425", "XSA-440", "XSA-484"] {
                assert_eq!(verdict(&facts, id), expected, "{id}: {daemon:?}");
            }
            // The release decides first where it is fixed, and both programs had this one.
            assert_eq!(verdict(&facts, "XSA-326"), AdvisoryVerdict::Mitigated);
        }
    }

    #[test]
    fn own_advisories_are_in_the_format_and_each_has_a_reference() {
        let own = parse(OWN, "own").unwrap();
        assert!(own.len() > 30, "{}", own.len());
        for number in [
            254, 263, 273, 297, 305, 320, 326, 368, 370, 375, 398, 404, 407, 422, 425, 426, 434,
            435, 439, 440, 481, 484, 446, 452, 453, 455, 456, 469, 471, 479,
        ] {
            let id = format!("XSA-{number}");
            assert!(own.iter().any(|advisory| advisory.id == id), "{id}");
        }
        for advisory in &own {
            assert!(
                advisory.references[0].starts_with("https://xenbits.xen.org/xsa/advisory-"),
                "{}",
                advisory.id
            );
        }
    }
}
