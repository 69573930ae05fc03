//! `xyl fsck`: finds and removes what dead domains of any toolstack have left on the host.

use serde_json::Value;
use xyl_engine::recover::fsck::{self, Finding, Verdict};
use xyl_engine::report::leftovers;

use crate::context::Context;
use crate::error::{Exit, Failure, Outcome};
use crate::shown::Shown;

/// Find what is left over of domains that are no more, and remove it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Looks for leftovers of any toolstack: xenstore nodes without a domain, domains that were destroyed and still \
exist (and the processes that may hold them), half-made domains, operations whose process has died, VMs' records, and libxl's \
userdata, QEMU processes, loop devices and network interfaces of domains that no longer exist. `fsck` looks twice, two seconds apart, so that \
work in progress is not reported. It never changes a running guest.

Examples:
  xyl fsck                     what is left over, why, and what to do about it
  xyl fsck --repair            the same, and remove it

Exit codes:
  0  nothing is left over
  1  the host could not be read
  5  something was found
  6  something was found, and all of it was removed
  7  something was found that could not be removed

JSON: an array of {kind, object, cause, remedy, verdict, why}; verdict is found, removed or left"
)]
pub struct Args {
    /// Remove what was found
    #[arg(long)]
    repair: bool,
}

/// Runs `xyl fsck`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let mut host = context.open_host()?;
    let kernel = context.kernel();
    let mut findings = fsck::look(&mut host, &kernel)?;
    if args.repair && !findings.is_empty() && !context.would("remove what follows".to_owned())? {
        findings = fsck::repair(&mut host, &kernel, findings)?;
    }
    context.count(&host);
    if context.json() {
        let rows = findings.iter().map(leftovers::to_json).collect();
        context.out.json(&Value::Array(rows))?;
    } else {
        tell(context, &findings)?;
    }
    match exit(&findings) {
        Exit::Done => Ok(()),
        exit => Err(Failure::Said(exit)),
    }
}

fn exit(findings: &[Finding]) -> Exit {
    let any = |wanted: fn(&Verdict) -> bool| findings.iter().any(|one| wanted(&one.verdict));
    if findings.is_empty() {
        Exit::Done
    } else if any(|verdict| matches!(verdict, Verdict::Left(_))) {
        Exit::LeaksLeft
    } else if any(|verdict| *verdict == Verdict::Found) {
        Exit::Leaks
    } else {
        Exit::Repaired
    }
}

fn tell(context: &Context, findings: &[Finding]) -> Outcome {
    for finding in findings {
        context.out.line(Shown::line(&finding.object))?;
        for cause in &finding.cause {
            context
                .out
                .line(format!("  cause: {}", Shown::line(cause)))?;
        }
        let last = match &finding.verdict {
            Verdict::Found => format!("  remedy: {}", Shown::line(&finding.remedy)),
            Verdict::Removed => "  removed".to_owned(),
            Verdict::Left(why) => format!(
                "  left as it is: {}\n  remedy: {}",
                Shown::line(why),
                Shown::line(&finding.remedy)
            ),
        };
        context.out.line(last)?;
    }
    let count =
        |wanted: fn(&Verdict) -> bool| findings.iter().filter(|one| wanted(&one.verdict)).count();
    let removed = count(|verdict| *verdict == Verdict::Removed);
    let left = count(|verdict| matches!(verdict, Verdict::Left(_)));
    Ok(context.out.line(match (findings.len(), removed, left) {
        (0, _, _) => "nothing is left over".to_owned(),
        (found, 0, 0) => format!("found: {found}; `xyl fsck --repair` removes what can be removed"),
        (found, removed, left) => format!("found: {found}; removed: {removed}; left: {left}"),
    })?)
}
