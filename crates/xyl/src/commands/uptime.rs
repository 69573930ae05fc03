//! `xyl uptime`: prints how long domains have run.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use xen_port::{DomId, DomainInfo};
use xyl_engine::vm::domains;

use crate::complete::domain_names;
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::output::left;
use crate::shown;

/// Show how long all or some domains have been up
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  xyl uptime
  xyl uptime -s web

JSON: an array of {domid, name, uptime_s}; domains without a recorded start are left out")]
pub struct Args {
    /// One short line for each domain
    #[arg(short)]
    short: bool,
    /// Only these domains
    #[arg(value_name = "DOMAIN", add = domain_names())]
    domains: Vec<String>,
}

/// Runs `xyl uptime`.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let infos = chosen(args, context)?;
    let names = context.names_or_warning(&infos);
    let up = uptimes(context, &infos)?;
    let rows = infos
        .iter()
        .zip(&names)
        .zip(up)
        .filter_map(|((info, name), up)| Some((info, name, up?)));
    if context.json() {
        let rows = rows.map(|(info, name, up)| {
            json!({"domid": info.domid.0, "name": name, "uptime_s": up.as_secs()})
        });
        return Ok(context.out.json(&Value::Array(rows.collect()))?);
    }
    if !args.short {
        context
            .out
            .line(format!("{} {:>4} {}", left("Name", 33), "ID", "Uptime"))?;
    }
    for (info, name, up) in rows {
        let name = shown::cell(name.as_deref());
        if args.short {
            let now = xyl_engine::host::timezone::now().strftime("%H:%M:%S");
            context
                .out
                .line(format!(" {now} up {}, {name} ({})", short(up), info.domid))?;
        } else {
            context.out.line(format!(
                "{} {:4} {}",
                left(&name, 33),
                info.domid.0,
                long(up)
            ))?;
        }
    }
    Ok(())
}

fn chosen(args: &Args, context: &Context) -> Result<Vec<DomainInfo>, Failure> {
    if args.domains.is_empty() {
        let all = domains::list(context.hv()?)?;
        let stub = domains::stub_domains(&mut *context.store()?, &all)?;
        return Ok(all
            .into_iter()
            .filter(|info| !stub.contains(&info.domid))
            .collect());
    }
    args.domains
        .iter()
        .map(|asked| Ok(context.find(asked)?.info))
        .collect()
}

/// Uptime of each domain in seconds. Domain 0's kernel knows its own. The others have a start time from the
/// toolstack.
fn uptimes(context: &Context, infos: &[DomainInfo]) -> Result<Vec<Option<Duration>>, Failure> {
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let starts = domains::start_times(&mut *context.store()?, infos)?;
    let up = infos.iter().zip(starts).map(|(info, start_s)| {
        if info.domid == DomId::ZERO {
            let seconds = rustix::system::sysinfo().uptime;
            return Some(Duration::from_secs(seconds.max(0).unsigned_abs()));
        }
        start_s.map(|start_s| Duration::from_secs(now_s.saturating_sub(start_s)))
    });
    Ok(up.collect())
}

fn short(up: Duration) -> String {
    let (days, hours, minutes, _) = split(up);
    format!("{}{hours:2}:{minutes:02}", days_text(days))
}

fn long(up: Duration) -> String {
    let (days, hours, minutes, seconds) = split(up);
    format!("{}{hours:2}:{minutes:02}:{seconds:02}", days_text(days))
}

fn split(up: Duration) -> (u64, u64, u64, u64) {
    let seconds = up.as_secs();
    (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    )
}

fn days_text(days: u64) -> String {
    match days {
        0 => String::new(),
        1 => "1 day, ".to_owned(),
        _ => format!("{days} days, "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_xl_writes_them() {
        assert_eq!(long(Duration::from_secs(59)), " 0:00:59");
        assert_eq!(long(Duration::from_secs(86_400 + 3_661)), "1 day,  1:01:01");
        assert_eq!(
            long(Duration::from_secs(3 * 86_400 + 36_000)),
            "3 days, 10:00:00"
        );
        assert_eq!(short(Duration::from_secs(3_661)), " 1:01");
    }
}
