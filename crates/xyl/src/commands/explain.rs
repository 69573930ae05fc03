//! `xyl explain`: prints the policy's decision about a guest, and its reasons.

use jiff::Timestamp;
use serde_json::Value;
use xyl_engine::config::admission::ImageKind;
use xyl_engine::report::explained::{self, Explained, otherwise};

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Explain what the host's policy decided about a domain, and what it would decide now
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The decision was made when the domain was created, from its kernel and the policy at that time \
(/etc/xyl/policy.toml, or the default without that file). If the decision would be different now, a warning says so: the \
running guest stays as it is, and its next start is refused or changed. A restart is not refused for a setting of [unsupported]: a warning goes to the monitor's log.

Examples:
  xyl explain web
  xyl explain                                  all domains that Xyl has created
  xyl explain --json web

JSON: an array of {domid, name, uuid, kernel, image, pvshim, shim, is_boot_loader, decided_s, decision, now, changed, \
unseen}; decision and now are {outcome (allow, convert-to-shim, refuse), guest, reasons, warnings, remedies}"
)]
pub struct Args {
    /// The domain; all domains of Xyl if left out
    #[arg(value_name = "DOMAIN", add = domain_names())]
    domain: Option<String>,
}

/// Runs `xyl explain`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let domains = chosen(args, context)?;
    if context.json() {
        let rows = domains.iter().map(Explained::to_json).collect();
        context.out.json(&Value::Array(rows))?;
    } else {
        for domain in &domains {
            show(context, domain)?;
        }
    }
    for domain in domains.iter().filter(|domain| domain.is_changed()) {
        context.warning(format!(
            "{}: {}",
            Shown::name(&domain.name),
            otherwise(&domain.now)
        ));
    }
    Ok(())
}

fn chosen(args: &Args, context: &Context) -> Result<Vec<Explained>, Failure> {
    let Some(asked) = &args.domain else {
        let infos = xyl_engine::vm::domains::list(context.hv()?)?;
        let names = context.names_or_warning(&infos);
        let reader = context.reader()?;
        let mut all = Vec::new();
        for (info, name) in infos.into_iter().zip(names) {
            let name = name.unwrap_or_default();
            match explained::of(&reader, info, name.clone()) {
                Ok(explained) => all.extend(explained),
                // A damaged record does not hide the other domains.
                Err(failure) => context.warning(format!("{}: {failure}", Shown::name(&name))),
            }
        }
        return Ok(all);
    };
    let domain = context.find(asked)?;
    let name = context.name_of(&domain)?.unwrap_or_default();
    let explained = explained::of(&context.reader()?, domain.info, name)?;
    explained.map(|one| vec![one]).ok_or_else(|| {
        Failure::refused(format!(
            "there is no decision about `{asked}`: Xyl has not created it; `xyl audit` shows the protection of each type of guest"
        ))
    })
}

fn show(context: &Context, domain: &Explained) -> Outcome {
    let record = &domain.record;
    let mut lines = vec![format!(
        "{} ({}): {}",
        Shown::name(&domain.name),
        domain.info.domid,
        record.decision.line()
    )];
    let mut add = |what: &str, text: String| lines.push(format!("  {what:<8} {text}"));
    let kernel = record.kernel.display();
    add("kernel", format!("{kernel}: {}", title(record.image)));
    if let Some(shim) = &record.shim {
        add("shim", shim.display().to_string());
    }
    add("decided", time(record.decided_s));
    for warning in &record.decision.warnings {
        add("warning", warning.clone());
    }
    if domain.is_changed() {
        add("now", domain.now.line());
    }
    if let Some(text) = record.unseen() {
        add("unseen", text.to_owned());
    }
    Ok(context.out.line(Shown::lines(&lines.join("\n")))?)
}

fn title(image: ImageKind) -> &'static str {
    match image {
        ImageKind::Pv64 => "a 64-bit PV kernel",
        ImageKind::Pv32 => "a 32-bit PV kernel",
        ImageKind::Pvh => "a PVH kernel",
        ImageKind::Hvm => "firmware with a device model",
    }
}

fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "at an unknown time".to_owned(), |time| time.to_string())
}
