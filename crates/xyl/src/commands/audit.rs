//! `xyl audit`: reports the host's protection against speculative execution. The facts come from `xyl-audit`.

mod running;

use clap::builder::PossibleValuesParser;
use os_port::SystemFiles;
use xyl_audit::advisories;
use xyl_audit::audit::{AdvisoryRow, CoreSharing, Reason, Remedy};
use xyl_audit::{AdvisoryVerdict, Audit, Facts, Family, GuestType, Row, Standing};
use xyl_engine::report::posture::{self, Running};

use crate::complete::words;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::output::{left, stdout_has_colours};
use crate::shown::Shown;

/// Show what protects this host against speculative execution, for each type of guest
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A row is a family of attacks, a column a type of guest that can run here. A cell shows the worst result of three: what \
a guest could do to the hypervisor, to other guests and to domain 0:
  ok       a protection is active               -        the CPU is not affected
  partly   it is active, with a known gap       NO       no protection is active
  ?        unknown: no source tells; nothing is guessed
A bare 32-bit PV guest is one whose kernel runs in ring 1. Guests in the shim, PVH and HVM have a column each; hvm-open-dm \
is HVM with a device model that is not deprivileged.

WORDs of --fail-on:
  unprotected, partly, unknown   any such verdict
  v1 v2 v3 v3a v4 l1tf mds taa srbds mmio retbleed srso gds rfds bhi its tsa
                                 a verdict on that family other than ok and -
  v2:unknown                     that verdict on that family
  affected, cannot-tell          any advisory with that verdict
  bare-pv32                      a running bare 32-bit PV guest, started by any toolstack
  changed                        a running guest that the policy would not start now as it runs
  XSA-471                        that advisory, if the host is affected or this is unknown

The running guests follow, by type. The audit gathers the host's facts again and keeps them for the policy (/etc/xyl/policy.toml) until the host is booted.

Examples:
  xyl audit
  xyl audit -v --type pv64
  xyl audit --advisories
  xyl audit --fail-on unprotected --fail-on XSA-471
  xyl audit --json | jq '.rows[] | select(.standing == \"unprotected\") | [.guest, .family]'

JSON: {facts, runs_here, core_sharing, rows: [{guest, family, standing, sure, against, reasons, remedies}], advisories: \
[{id, title, verdict, reasons, remedies, references, checked}], running: [{domid, name, guest, bare_pv32, changed, now}], or \
null if Xen did not tell}

Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  found what --fail-on names"
)]
pub struct Args {
    /// Print the reason, the certainty and the remedy of each verdict
    #[arg(short = 'v', long)]
    details: bool,
    /// Report only this type of guest, even if it cannot run here
    #[arg(long = "type", value_name = "TYPE", value_parser = PossibleValuesParser::new(GuestType::ALL.iter().map(|guest| guest.word())))]
    guest: Option<String>,
    /// Show every advisory
    #[arg(long)]
    advisories: bool,
    /// Exit with 3 if the audit finds this; may be repeated
    #[arg(long, value_name = "WORD", value_delimiter = ',', add = words(fail_on_words))]
    fail_on: Vec<String>,
}

/// Runs `xyl audit`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let wanted = args
        .fail_on
        .iter()
        .map(|word| FailOn::parse(word))
        .collect::<Result<Vec<_>, _>>()?;
    let advisories = advisories::load(&SystemFiles, advisories::FOLDER.as_ref())
        .map_err(|error| Failure::refused(error.to_string()))?;
    let facts = match context.dry_run() {
        true => Facts::gather(context.hv()?, &SystemFiles),
        false => Facts::renew(context.hv()?, &SystemFiles, &context.dirs.run),
    };
    let audit = xyl_audit::host::audit_of(&facts, &advisories);
    let guests = guests_of(args, &facts);
    // Without the list of guests the host's facts are still useful, unless `--fail-on` asks about guests.
    let running = match running::all(context) {
        Err(failure) if !wanted.iter().any(FailOn::is_of_the_running) => {
            context.warn(&failure);
            None
        }
        running => Some(running?),
    };
    if context.json() {
        let json = posture::to_json(&facts, &audit, &guests, running.as_deref());
        context.out.json(&json)?;
    } else {
        let report = Report {
            facts: &facts,
            audit: &audit,
            guests: &guests,
            colour: stdout_has_colours(),
        };
        for line in report
            .lines(args)
            .into_iter()
            .chain(running::lines(running.as_deref()))
        {
            context.out.line(line)?;
        }
    }
    let found: Vec<String> = wanted
        .iter()
        .flat_map(|wanted| {
            let mut found = wanted.found(&audit, &guests);
            let running = running.iter().flatten();
            found.extend(running.filter_map(|one| wanted.found_running(one)));
            found
        })
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Failure::Found(format!(
        "--fail-on: {} found\n{}",
        found.len(),
        found.join("\n")
    )))
}

/// The guest types to report: the one that `--guest` names, else all that can run here.
fn guests_of(args: &Args, facts: &Facts) -> Vec<GuestType> {
    let asked: Option<GuestType> = args.guest.as_deref().and_then(|word| word.parse().ok());
    match asked {
        Some(guest) => vec![guest],
        None => posture::types_here(facts),
    }
}

/// Words that the shell can complete for `--fail-on`: all but FAMILY:VERDICT and advisories.
fn fail_on_words() -> Vec<String> {
    let words = [
        "unprotected",
        "partly",
        "unknown",
        "affected",
        "cannot-tell",
        "bare-pv32",
        "changed",
    ];
    let families = Family::ALL.iter().map(|family| family.word().to_owned());
    words
        .map(str::to_owned)
        .into_iter()
        .chain(families)
        .collect()
}

/// One argument of `--fail-on`.
#[derive(Debug, PartialEq, Eq)]
enum FailOn {
    Standing(Standing),
    Family(Family),
    Both(Family, Standing),
    Advisories(AdvisoryVerdict),
    Advisory(String),
    BarePv32,
    Changed,
}

impl FailOn {
    fn parse(word: &str) -> Result<FailOn, Failure> {
        if let Some((family, standing)) = word.split_once(':') {
            let family = family.parse().map_err(wrong)?;
            return Ok(FailOn::Both(family, standing.parse().map_err(wrong)?));
        }
        if let Ok(standing @ (Standing::Unprotected | Standing::Partly | Standing::Unknown)) =
            word.parse()
        {
            return Ok(FailOn::Standing(standing));
        }
        if let Ok(verdict @ (AdvisoryVerdict::Affected | AdvisoryVerdict::CannotTell)) =
            word.parse()
        {
            return Ok(FailOn::Advisories(verdict));
        }
        if word.contains('-') && word.starts_with(|c: char| c.is_ascii_uppercase()) {
            return Ok(FailOn::Advisory(word.to_owned()));
        }
        match word {
            "bare-pv32" => return Ok(FailOn::BarePv32),
            "changed" => return Ok(FailOn::Changed),
            _ => {}
        }
        word.parse().map(FailOn::Family).map_err(|_| {
            Failure::usage(format!(
                "--fail-on {}: a verdict, a family, FAMILY:VERDICT or an advisory; `xyl audit --help` lists them",
                Shown::line(word)
            ))
        })
    }

    /// Lists what the audit found that this argument names.
    fn found(&self, audit: &Audit, guests: &[GuestType]) -> Vec<String> {
        let rows = audit
            .rows
            .iter()
            .filter(|row| guests.contains(&row.guest) && self.hits_row(row))
            .map(|row| format!("{} of {} is {}", row.family, row.guest, row.standing));
        let advisories = audit
            .advisories
            .iter()
            .filter(|row| self.hits_advisory(row))
            .map(|row| format!("{}: {}", row.id, row.verdict.title()));
        let mut found: Vec<String> = rows.chain(advisories).collect();
        if let FailOn::Advisory(id) = self
            && !audit.advisories.iter().any(|row| row.id == *id)
        {
            found.push(format!("{} is not among the advisories", Shown::line(id)));
        }
        found
    }

    fn hits_row(&self, row: &Row) -> bool {
        let weak = !matches!(row.standing, Standing::Protected | Standing::NotAffected);
        match self {
            FailOn::Standing(standing) => row.standing == *standing,
            FailOn::Family(family) => row.family == *family && weak,
            FailOn::Both(family, standing) => row.family == *family && row.standing == *standing,
            FailOn::Advisories(_) | FailOn::Advisory(_) | FailOn::BarePv32 | FailOn::Changed => {
                false
            }
        }
    }

    fn is_of_the_running(&self) -> bool {
        matches!(self, FailOn::BarePv32 | FailOn::Changed)
    }

    fn found_running(&self, running: &Running) -> Option<String> {
        let title = running::title(running);
        match self {
            FailOn::BarePv32 if running.is_bare_pv32() => {
                Some(format!("{title} is a bare 32-bit PV guest"))
            }
            FailOn::Changed if running.is_otherwise() => {
                Some(format!("{title} runs as the policy no longer allows"))
            }
            _ => None,
        }
    }

    fn hits_advisory(&self, row: &AdvisoryRow) -> bool {
        match self {
            FailOn::Advisories(verdict) => row.verdict == *verdict,
            FailOn::Advisory(id) => row.id == *id && is_open(row),
            _ => false,
        }
    }
}

fn wrong(error: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("--fail-on: {error}"))
}

fn is_open(row: &AdvisoryRow) -> bool {
    matches!(
        row.verdict,
        AdvisoryVerdict::Affected | AdvisoryVerdict::CannotTell
    )
}

/// The report as text.
struct Report<'a> {
    facts: &'a Facts,
    audit: &'a Audit,
    guests: &'a [GuestType],
    colour: bool,
}

impl Report<'_> {
    fn lines(&self, args: &Args) -> Vec<String> {
        let mut lines = self.head();
        lines.push(String::new());
        lines.extend(self.table());
        lines.extend(self.not_here(args));
        lines.extend(if args.details {
            self.details()
        } else {
            self.advice()
        });
        lines.extend(self.advisories(args));
        lines
    }

    /// The lines about the host, and about facts that could not be read.
    fn head(&self) -> Vec<String> {
        let facts = self.facts;
        let version = facts
            .xen
            .version
            .map_or("of unknown version".to_owned(), |(major, minor)| {
                format!("{major}.{minor}{}", facts.xen.extra)
            });
        let cpu = facts.cpu.as_ref().map_or("CPU unknown".to_owned(), |cpu| {
            let id = cpu.value;
            format!(
                "{} family {:#x} model {:#x} stepping {}",
                id.vendor.word(),
                id.family,
                id.model,
                id.stepping
            )
        });
        let microcode = facts
            .microcode
            .as_ref()
            .map_or("unknown".to_owned(), |revision| {
                format!("{:#x} ({})", revision.value, revision.source)
            });
        let threads = match self.audit.core_sharing {
            CoreSharing::No => "guests do not share cores",
            CoreSharing::Yes => "guests may share the threads of a core",
            CoreSharing::Unknown => "whether guests share cores is unknown",
        };
        let mut lines = vec![format!(
            "Xen {version}; {cpu}; microcode {microcode}; {threads}"
        )];
        lines.push(format!(
            "command line: {}",
            Shown::line(facts.xen.command_line.trim())
        ));
        lines.extend(
            facts
                .missing
                .iter()
                .map(|what| format!("missing: {}", Shown::line(what))),
        );
        let strange = facts.log.unrecognised.iter();
        lines.extend(
            strange.map(|line| format!("not understood in the boot log: {}", Shown::line(line))),
        );
        lines
    }

    fn table(&self) -> Vec<String> {
        let width = |guest: &GuestType| guest.word().len().max(7) + 2;
        let heads = self
            .guests
            .iter()
            .map(|guest| left(guest.word(), width(guest)));
        let mut lines = vec![
            format!("{}{}", left("", 10), heads.collect::<String>())
                .trim_end()
                .to_owned(),
        ];
        for family in Family::ALL {
            let cells = self.guests.iter().map(|guest| {
                let standing = self.audit.standing(*guest, *family, None);
                self.coloured(&left(cell(standing), width(guest)), standing)
            });
            let line = format!("{}{}", left(family.word(), 10), cells.collect::<String>());
            lines.push(line.trim_end().to_owned());
        }
        lines
    }

    fn coloured(&self, text: &str, standing: Standing) -> String {
        let code = match standing {
            Standing::Protected | Standing::NotAffected => "32",
            Standing::Partly | Standing::Unknown => "33",
            Standing::Unprotected => "31",
        };
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn not_here(&self, args: &Args) -> Option<String> {
        let missing: Vec<&str> = GuestType::ALL
            .iter()
            .filter(|guest| !self.guests.contains(guest))
            .map(|guest| guest.word())
            .collect();
        let shown = args.guest.is_none() && !missing.is_empty();
        shown.then(|| {
            format!(
                "cannot run here: {} (`--type` shows them)",
                missing.join(", ")
            )
        })
    }

    /// The remedies. Each is listed once, with the verdicts that it improves.
    fn advice(&self) -> Vec<String> {
        let mut advice: Vec<(&str, Vec<String>)> = Vec::new();
        for row in self.rows() {
            for remedy in row.remedies.iter().map(Remedy::text) {
                let family = row.family.word().to_owned();
                match advice.iter_mut().find(|(text, _)| *text == remedy) {
                    Some((_, families)) if families.contains(&family) => {}
                    Some((_, families)) => families.push(family),
                    None => advice.push((remedy, vec![family])),
                }
            }
        }
        if advice.is_empty() {
            return Vec::new();
        }
        let mut lines = vec![String::new(), "what to do (`-v` says more):".to_owned()];
        lines.extend(
            advice
                .iter()
                .map(|(text, families)| format!("  {}: {text}", families.join(", "))),
        );
        lines
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.audit
            .rows
            .iter()
            .filter(|row| self.guests.contains(&row.guest))
    }

    fn details(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for row in self.rows() {
            lines.push(String::new());
            lines.push(format!(
                "{}, {}: {} ({})",
                row.guest.title(),
                row.family.title(),
                self.coloured(row.standing.title(), row.standing),
                row.sure.title()
            ));
            for against in &row.against {
                let by = if against.by.is_empty() {
                    String::new()
                } else {
                    format!(" by {}", against.by.join(", "))
                };
                lines.push(format!(
                    "  {}: {}{by}",
                    against.target.title(),
                    against.standing.title()
                ));
            }
            lines.extend(reasons(&row.reasons));
            lines.extend(
                row.remedies
                    .iter()
                    .map(|remedy| format!("  what to do: {}", remedy.text())),
            );
        }
        lines
    }

    fn advisories(&self, args: &Args) -> Vec<String> {
        let mut lines = vec![String::new()];
        if !args.advisories {
            lines.push(self.advisories_in_short());
            return lines;
        }
        for row in &self.audit.advisories {
            let unchecked = if row.checked {
                ""
            } else {
                " (conditions not checked)"
            };
            lines.push(format!(
                "{}  {}  {}{unchecked}",
                left(&row.id, 8),
                left(row.verdict.title(), 12),
                Shown::line(&row.title)
            ));
            if args.details || is_open(row) {
                lines.extend(reasons(&row.reasons));
                lines.extend(
                    row.remedies
                        .iter()
                        .map(|remedy| format!("  what to do: {}", Shown::line(remedy.text()))),
                );
            }
            if args.details {
                lines.push(format!(
                    "  see: {}",
                    Shown::line(&row.references.join(", "))
                ));
            }
        }
        lines
    }

    fn advisories_in_short(&self) -> String {
        let ids = |verdict: AdvisoryVerdict| {
            let rows = self
                .audit
                .advisories
                .iter()
                .filter(move |row| row.verdict == verdict);
            rows.map(|row| Shown::line(&row.id).to_string())
                .collect::<Vec<_>>()
        };
        let part = |verdict: AdvisoryVerdict| {
            let ids = ids(verdict);
            let list = if ids.is_empty() {
                String::new()
            } else {
                format!(" ({})", ids.join(", "))
            };
            format!("{} {}{list}", ids.len(), verdict.title())
        };
        format!(
            "advisories: {}; {}; {} mitigated, {} not affected (`--advisories`)",
            part(AdvisoryVerdict::Affected),
            part(AdvisoryVerdict::CannotTell),
            ids(AdvisoryVerdict::Mitigated).len(),
            ids(AdvisoryVerdict::NotAffected).len(),
        )
    }
}

fn reasons(reasons: &[Reason]) -> impl Iterator<Item = String> + '_ {
    reasons.iter().map(|reason| {
        format!(
            "  because: {} [{}]",
            Shown::line(&reason.text),
            Shown::line(&reason.source)
        )
    })
}

fn cell(standing: Standing) -> &'static str {
    match standing {
        Standing::NotAffected => "-",
        Standing::Protected => "ok",
        Standing::Partly => "partly",
        Standing::Unknown => "?",
        Standing::Unprotected => "NO",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] =
        include_bytes!("../../../xyl-audit/tests/samples/4.17.5-intel-kaby-lake-r-qubes.txt");

    fn args() -> Args {
        Args {
            details: false,
            guest: None,
            advisories: false,
            fail_on: Vec::new(),
        }
    }

    fn report(args: &Args, colour: bool) -> String {
        let facts = Facts::of_log(LOG);
        let audit =
            xyl_audit::host::audit_of(&facts, &advisories::parse(advisories::OWN, "own").unwrap());
        let guests = guests_of(args, &facts);
        let report = Report {
            facts: &facts,
            audit: &audit,
            guests: &guests,
            colour,
        };
        report.lines(args).join("\n")
    }

    #[test]
    fn the_table_has_a_row_for_each_family_and_colour_only_when_asked() {
        let plain = report(&args(), false);
        for family in Family::ALL {
            assert!(
                plain
                    .lines()
                    .any(|line| line.starts_with(&format!("{family} "))),
                "{family}\n{plain}"
            );
        }
        assert!(plain.contains("microcode 0xf6"), "{plain}");
        assert!(!plain.contains('\x1b'));
        assert!(report(&args(), true).contains("\x1b[31m"));
    }

    #[test]
    fn one_type_with_details() {
        let one = Args {
            details: true,
            guest: Some("pv32".to_owned()),
            ..args()
        };
        let text = report(&one, false);
        assert!(
            text.contains(
                "32-bit PV, bare, Spectre v2 (branch target injection): unprotected (stated)"
            ),
            "{text}"
        );
        assert!(text.contains("ring 1"), "{text}");
        assert!(!text.contains("HVM, device model"), "{text}");
    }

    #[test]
    fn words_of_fail_on() {
        let facts = Facts::of_log(LOG);
        let audit =
            xyl_audit::host::audit_of(&facts, &advisories::parse(advisories::OWN, "own").unwrap());
        let found = |word: &str, guest: GuestType| {
            FailOn::parse(word).unwrap().found(&audit, &[guest]).len()
        };
        assert_eq!(found("v2", GuestType::Pv64), 0);
        assert_eq!(found("v2", GuestType::Pv32), 1);
        assert_eq!(found("v2:unprotected", GuestType::Pv32), 1);
        assert_eq!(found("v2:unknown", GuestType::Pv32), 0);
        assert!(found("unknown", GuestType::Pvh) > 0);
        assert!(found("cannot-tell", GuestType::Pvh) > 0);
        assert_eq!(found("XSA-471", GuestType::Pvh), 0, "AMD's alone");
        assert_eq!(
            found("XSA-1", GuestType::Pvh),
            1,
            "a name that is none is no silent pass"
        );
        for wrong in ["v9", "protected", "v2:maybe", ""] {
            assert!(FailOn::parse(wrong).is_err(), "{wrong}");
        }
    }
}
