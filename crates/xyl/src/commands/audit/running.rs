//! The running guests in the report of `xyl audit`: their types, and whether the policy would still let each start.

use xyl_audit::GuestType;
use xyl_engine::report::explained;
use xyl_engine::report::posture::{self, BARE_PV32, Running};

use crate::context::Context;
use crate::error::Failure;
use crate::output::left;
use crate::shown::Shown;

/// Name and domid of the guest.
pub fn title(running: &Running) -> String {
    format!("{} ({})", Shown::name(&running.name), running.domid)
}

fn warnings(running: &Running) -> impl Iterator<Item = String> + '_ {
    let bare = running.is_bare_pv32().then(|| BARE_PV32.to_owned());
    let otherwise = running.otherwise.as_ref().map(explained::otherwise);
    let line = |what: String| format!("warning: {}: {what}", title(running));
    bare.into_iter().chain(otherwise).map(line)
}

/// Returns all guests except domain 0.
pub fn all(context: &Context) -> Result<Vec<Running>, Failure> {
    let reader = context.reader()?;
    let infos = posture::guests(&reader)?;
    if infos.is_empty() {
        return Ok(Vec::new());
    }
    let names = context.names_or_warning(&infos);
    let mut warn = |name: &str, error| {
        context.warning(format!("{}: {}", Shown::name(name), Failure::from(error)));
    };
    Ok(posture::of_guests(&reader, infos, names, &mut warn)?)
}

/// The report's lines: the guests of each type, and remarks about some of them. `None` means that Xen gave no list.
pub fn lines(running: Option<&[Running]>) -> Vec<String> {
    let Some(running) = running else {
        return vec![String::new(), "running guests: unknown".to_owned()];
    };
    if running.is_empty() {
        return vec![String::new(), "no guest runs".to_owned()];
    }
    let mut lines = vec![String::new(), "running guests:".to_owned()];
    for guest in GuestType::ALL {
        let of_type = running.iter().filter(|one| one.guest == *guest);
        let titles: Vec<String> = of_type.map(title).collect();
        if !titles.is_empty() {
            lines.push(format!("  {}{}", left(guest.word(), 13), titles.join(", ")));
        }
    }
    lines.extend(running.iter().flat_map(warnings));
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use xen_port::DomId;
    use xyl_engine::config::admission::{Decision, Outcome};

    use super::*;

    fn guest(domid: u16, name: &str, guest: GuestType) -> Running {
        Running {
            domid: DomId(domid),
            name: name.to_owned(),
            guest,
            otherwise: None,
        }
    }

    #[test]
    fn guests_are_shown_by_type_and_marked() {
        let mut refused = guest(4, "later", GuestType::Pv64);
        refused.otherwise = Some(Decision {
            outcome: Outcome::Refuse,
            guest: GuestType::Pv64,
            reasons: vec!["why".to_owned()],
            warnings: Vec::new(),
            remedies: Vec::new(),
        });
        let now = explained::otherwise(refused.otherwise.as_ref().unwrap());
        let running = [
            guest(3, "web", GuestType::Pv64),
            refused,
            guest(5, "old", GuestType::Pv32),
        ];
        let text = lines(Some(&running)).join("\n");
        assert!(
            text.contains("  pv64         web (3), later (4)\n"),
            "{text}"
        );
        assert!(
            text.contains(&format!("warning: later (4): {now}\n")),
            "{text}"
        );
        assert!(
            text.contains(&format!("warning: old (5): {BARE_PV32}")),
            "{text}"
        );
        let json = posture::running_json(&running);
        assert_eq!(json[2]["bare_pv32"], true);
        assert_eq!(json[1]["changed"], true);
        assert_eq!(json[0]["now"], Value::Null);
    }
}
