//! The running guests in the report of `xyl audit`: their types, and whether the policy would still let each start.

use os_port::SystemFiles;
use serde_json::{Value, json};
use xen_port::{DomId, DomainInfo};
use xyl_audit::GuestType;
use xyl_engine::config::admission::{self, Decision, Outcome};
use xyl_engine::config::shim::KnownShims;
use xyl_engine::vm::domains;

use crate::commands::explain;
use crate::commands::list::BARE_PV32;
use crate::context::Context;
use crate::error::Failure;
use crate::output::left;
use crate::shown::Shown;

/// A running guest, as the audit reports it.
pub struct Running {
    domid: DomId,
    name: String,
    guest: GuestType,
    /// The policy's decision today, if it differs from the decision at the start.
    otherwise: Option<Decision>,
}

impl Running {
    /// Whether its kernel runs in ring 1, without a shim between it and the hypervisor.
    pub fn is_bare_pv32(&self) -> bool {
        self.guest == GuestType::Pv32
    }

    /// Whether the policy would decide otherwise today.
    pub fn is_otherwise(&self) -> bool {
        self.otherwise.is_some()
    }

    /// Name and domid of the guest.
    pub fn title(&self) -> String {
        format!("{} ({})", Shown::name(&self.name), self.domid)
    }

    fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        let bare = self.is_bare_pv32().then(|| BARE_PV32.to_owned());
        let otherwise = self.otherwise.as_ref().map(explain::otherwise);
        let line = |what: String| format!("warning: {}: {what}", self.title());
        bare.into_iter().chain(otherwise).map(line)
    }
}

/// Returns all guests except domain 0.
pub fn all(context: &Context) -> Result<Vec<Running>, Failure> {
    let mut infos = domains::list(context.hv()?)?;
    infos.retain(|info| info.domid != DomId::ZERO && !info.flags.dying);
    if infos.is_empty() {
        return Ok(Vec::new());
    }
    let bare_pv32 = admission::bare_pv32(context.hv()?, &infos)?;
    let shims = KnownShims::of_host(&SystemFiles, &context.dirs)?;
    let names = context.names_or_warning(&infos);
    let guests = infos.into_iter().zip(names).map(|(info, name)| {
        let name = name.unwrap_or_else(|| domains::NO_NAME.to_owned());
        let config = domains::libxl_record((&SystemFiles, &context.dirs.xen_lib), &info).ok();
        let is_bare_pv32 = bare_pv32.contains(&info.domid);
        let guest = admission::running_type(&info, is_bare_pv32, config.as_ref(), &shims);
        one(context, &info, name, guest)
    });
    Ok(guests.collect())
}

fn one(context: &Context, info: &DomainInfo, name: String, guest: GuestType) -> Running {
    let warn = |failure: &Failure| {
        context.warning(format!("{}: {failure}", Shown::name(&name)));
    };
    // A damaged admission record gives a warning. The guest is still listed.
    let explained = explain::of(context, info.clone(), name.clone());
    let explained = explained.inspect_err(warn).unwrap_or_default();
    let otherwise = match explained {
        Some(explained) => explained.is_changed().then_some(explained.now),
        None => refused_now(context, guest)
            .inspect_err(warn)
            .unwrap_or_default(),
    };
    Running {
        domid: info.domid,
        name,
        guest,
        otherwise,
    }
}

/// Asks the policy about a guest without a recorded decision, because xl has started it.
fn refused_now(context: &Context, guest: GuestType) -> Result<Option<Decision>, Failure> {
    let (files, dirs) = (&SystemFiles, &context.dirs);
    let now = admission::decide_running(context.hv()?, files, dirs, guest)?;
    Ok((now.outcome != Outcome::Allow).then_some(now))
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
        let titles: Vec<String> = of_type.map(Running::title).collect();
        if !titles.is_empty() {
            lines.push(format!("  {}{}", left(guest.word(), 13), titles.join(", ")));
        }
    }
    lines.extend(running.iter().flat_map(Running::warnings));
    lines
}

/// The running guests as JSON.
pub fn as_json(running: &[Running]) -> Value {
    let rows = running.iter().map(|one| {
        json!({
            "domid": one.domid.0,
            "name": one.name,
            "guest": one.guest,
            "bare_pv32": one.is_bare_pv32(),
            "changed": one.is_otherwise(),
            "now": one.otherwise,
        })
    });
    Value::Array(rows.collect())
}

#[cfg(test)]
mod tests {
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
        let now = explain::otherwise(refused.otherwise.as_ref().unwrap());
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
        let json = as_json(&running);
        assert_eq!(json[2]["bare_pv32"], true);
        assert_eq!(json[1]["changed"], true);
        assert_eq!(json[0]["now"], Value::Null);
    }
}
