//! Decides whether a guest may start: a pure function of the policy, the host's audit and the request.
//!
//! The engine calls it before it creates a domain. The outcome is: start, start in the shim, or refuse.

use serde::{Deserialize, Serialize};

use crate::audit::{Audit, CoreSharing};
use crate::names::{AdvisoryVerdict, GuestType, UnsupportedSetting};
use crate::policy::{Action, Condition, POLICY_PATH, Policy, Rule};

/// A guest as its kernel image shows it, never as its configuration calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageKind {
    /// A 64-bit PV kernel.
    Pv64,
    /// A 32-bit PV kernel.
    Pv32,
    /// A PVH kernel.
    Pvh,
    /// HVM: firmware, with a device model.
    Hvm,
}

/// The operation that needs the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A create of the guest.
    Create,
    /// A restart of its VM, which its operator has created before.
    Restart,
    /// A restore from a file.
    Restore,
    /// A migration from another host.
    MigrateIn,
    /// An adoption of a running guest.
    Adopt,
}

/// The device model of an HVM guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceModel {
    /// There is none.
    None,
    /// Confined after its start (`dm_restrict`), or in a domain of its own.
    Confined,
    /// A device model with its rights over the host.
    Open,
}

/// Whether the host can run a PV guest in the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shim {
    /// The caller has not checked the shim. A decision to convert holds only if the shim is usable.
    NotLooked,
    /// The shim can run this kernel.
    Ready,
    /// The host has no hardware virtualisation, or Xen is built without HVM.
    NoHvm,
    /// There is no shim binary.
    NoBinary {
        /// Path where the shim was expected.
        path: String,
    },
    /// The shim was built without 32-bit PV.
    No32BitPv {
        /// Path of the shim.
        path: String,
    },
    /// The shim cannot be used for another reason.
    Unfit {
        /// Path of the shim.
        path: String,
        /// The reason, as a clause.
        what: String,
    },
}

/// The facts about the guest that the decision needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The image that is loaded.
    pub image: ImageKind,
    /// The operation that starts the guest.
    pub operation: Operation,
    /// `pvshim` of the configuration. `Some(false)` asks for a start without the shim; `None` leaves it to the
    /// policy.
    pub pvshim: Option<bool>,
    /// The device model.
    pub device_model: DeviceModel,
    /// Whether the shim is usable.
    pub shim: Shim,
    /// Settings of the guest outside Xen's security support.
    pub unsupported: Vec<UnsupportedSetting>,
    /// Names of the CPU features against speculative execution that `cpuid` hides from the guest.
    pub hidden_mitigations: Vec<String>,
}

/// The result of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest starts as its configuration says.
    Allow,
    /// The guest starts in the PV shim, although its configuration does not ask for it.
    ConvertToShim,
    /// The guest does not start.
    Refuse,
}

/// A decision, to be recorded with the VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The result of the decision.
    pub outcome: Outcome,
    /// The guest's type after the decision. For a refused guest, the type that it would have.
    pub guest: GuestType,
    /// Reasons for the outcome, as English texts.
    pub reasons: Vec<String>,
    /// Warnings for the administrator, also if the guest may start.
    pub warnings: Vec<String>,
    /// Remedies as texts; a refusal has at least one.
    pub remedies: Vec<String>,
}

impl Decision {
    /// Whether a 32-bit PV kernel starts with nothing between it and the hypervisor: to be marked wherever it is shown.
    #[must_use]
    pub fn is_bare_pv32(&self) -> bool {
        self.outcome == Outcome::Allow && self.guest == GuestType::Pv32
    }

    /// Cause and remedy in one line.
    #[must_use]
    pub fn line(&self) -> String {
        let what = match self.outcome {
            Outcome::Allow => "allowed",
            Outcome::ConvertToShim => "started in the PV shim",
            Outcome::Refuse => "refused",
        };
        let mut line = what.to_owned();
        if !self.reasons.is_empty() {
            line = format!("{line}: {}", self.reasons.join("; "));
        }
        if !self.remedies.is_empty() {
            line = format!("{line} (remedy: {})", self.remedies.join("; or "));
        }
        line
    }

    fn new(outcome: Outcome, guest: GuestType, found: Findings) -> Decision {
        Decision {
            outcome,
            guest,
            reasons: found.reasons,
            warnings: found.warnings,
            remedies: found.remedies,
        }
    }
}

impl Request {
    /// The guest's type by its configuration, before the policy changes it.
    #[must_use]
    pub fn guest_type(&self) -> GuestType {
        match (self.image, self.pvshim == Some(true)) {
            (ImageKind::Pv64 | ImageKind::Pv32, true) => GuestType::PvShim,
            (ImageKind::Pv64, false) => GuestType::Pv64,
            (ImageKind::Pv32, false) => GuestType::Pv32,
            (ImageKind::Pvh, _) => GuestType::Pvh,
            (ImageKind::Hvm, _) if self.device_model == DeviceModel::Open => GuestType::HvmOpenDm,
            (ImageKind::Hvm, _) => GuestType::Hvm,
        }
    }
}

/// Whether [`admit`] needs the host's audit for this request; without it, it is not to be made.
#[must_use]
pub fn needs_host(policy: &Policy, request: &Request) -> bool {
    let guest = request.guest_type();
    policy.needs_host(guest) || (is_bare_pv(guest) && policy.needs_host(GuestType::PvShim))
}

/// Whether the audit needs to know of advisories for that.
#[must_use]
pub fn needs_advisories(policy: &Policy, request: &Request) -> bool {
    let guest = request.guest_type();
    policy.needs_advisories(guest)
        || (is_bare_pv(guest) && policy.needs_advisories(GuestType::PvShim))
}

/// Decides. Without an audit all that rules ask of the host is unknown.
///
/// A bare 32-bit PV guest is the outcome only if the policy allows it and the configuration asks for it. A setting outside
/// Xen's security support is let through only if the policy names it, or at a restart.
#[must_use]
pub fn admit(policy: &Policy, audit: Option<&Audit>, request: &Request) -> Decision {
    let mut decision = admit_type(policy, audit, request);
    for setting in &request.unsupported {
        judge_setting(policy, request.operation, *setting, &mut decision);
    }
    decision.warnings.extend(hides(&request.hidden_mitigations));
    decision
}

/// A warning of the CPU features that a guest's kernel lacks; `None` if it lacks none.
fn hides(mitigations: &[String]) -> Option<String> {
    let names = mitigations.join(", ");
    (!mitigations.is_empty()).then(|| {
        format!("`cpuid` hides from the guest what its kernel needs against speculative execution: {names}")
    })
}

/// The guest's settings that the policy refuses.
#[must_use]
pub fn refused_settings(policy: &Policy, request: &Request) -> Vec<UnsupportedSetting> {
    let is_refused = |setting: &UnsupportedSetting| {
        action_on_setting(policy, request.operation, *setting) == Action::Refuse
    };
    let mut settings = request.unsupported.clone();
    settings.retain(is_refused);
    settings
}

/// A restart is not refused for a setting: the old domain is gone by then, and the VM would be lost with it.
fn action_on_setting(policy: &Policy, operation: Operation, setting: UnsupportedSetting) -> Action {
    match policy.unsupported(setting) {
        Action::Refuse if operation == Operation::Restart => Action::Warn,
        action => action,
    }
}

fn judge_setting(
    policy: &Policy,
    operation: Operation,
    setting: UnsupportedSetting,
    decision: &mut Decision,
) {
    let why = format!(
        "`{setting}` is outside Xen's security support: {}",
        setting.title()
    );
    match action_on_setting(policy, operation, setting) {
        Action::Allow => {}
        Action::Warn => decision.warnings.push(why),
        Action::Refuse | Action::Convert => {
            if decision.outcome != Outcome::Refuse {
                decision.outcome = Outcome::Refuse;
                decision.reasons.clear();
                decision.remedies.clear();
            }
            decision.reasons.push(why);
            decision.remedies.push(format!(
                "take `{setting}` out, or write `{setting} = \"allow\"` under [unsupported] in {POLICY_PATH}"
            ));
        }
    }
}

/// The decision about the guest's type.
fn admit_type(policy: &Policy, audit: Option<&Audit>, request: &Request) -> Decision {
    let guest = request.guest_type();
    let mut found = judge(policy, audit, guest);
    if guest == GuestType::Pv32 {
        found = hold_back_pv32(found, request);
    }
    match found.action {
        Action::Refuse => refuse(guest, found),
        Action::Convert => convert(policy, audit, request, found),
        Action::Allow | Action::Warn if guest == GuestType::PvShim => {
            with_shim(Outcome::Allow, guest, request, found)
        }
        Action::Allow | Action::Warn => Decision::new(Outcome::Allow, guest, found),
    }
}

/// The policy's action with its reasons.
struct Findings {
    action: Action,
    reasons: Vec<String>,
    warnings: Vec<String>,
    remedies: Vec<String>,
}

fn is_bare_pv(guest: GuestType) -> bool {
    matches!(guest, GuestType::Pv64 | GuestType::Pv32)
}

/// The strictest action of the policy for a guest type, with its reasons.
fn judge(policy: &Policy, audit: Option<&Audit>, guest: GuestType) -> Findings {
    let nothing = Audit::of_nothing();
    let audit = audit.unwrap_or(&nothing);
    let base = policy.base(guest);
    let says = |action: Action| format!("the policy has {guest} = \"{}\"", word(action));
    let mut statements: Vec<(Action, Vec<String>, Vec<String>)> = Vec::new();
    if base != Action::Allow {
        statements.push((base, vec![says(base)], Vec::new()));
    }
    for rule in policy.rules_for(guest) {
        if let Some((why, remedies)) = applies(rule, audit, guest) {
            let why = match &rule.why {
                Some(words) => format!("rule \"{}\": {why}; {words}", rule.name),
                None => format!("rule \"{}\": {why}", rule.name),
            };
            statements.push((rule.action, vec![why], remedies));
        }
    }
    let action = statements
        .iter()
        .map(|(action, ..)| *action)
        .max()
        .unwrap_or(Action::Allow);
    let mut found = Findings {
        action,
        reasons: Vec::new(),
        warnings: Vec::new(),
        remedies: Vec::new(),
    };
    for (of, why, remedies) in statements {
        if of == Action::Warn {
            found.warnings.extend(why);
        } else if of == action {
            found.reasons.extend(why);
            found.remedies.extend(remedies);
        }
    }
    found.remedies.dedup();
    found
}

/// The reason why a rule applies, and a remedy. `None` if it does not apply.
fn applies(rule: &Rule, audit: &Audit, guest: GuestType) -> Option<(String, Vec<String>)> {
    let mut why = Vec::new();
    let mut remedies = Vec::new();
    for condition in &rule.conditions {
        let (text, remedy) = holds(condition, audit, guest)?;
        why.push(text);
        remedies.extend(remedy);
    }
    Some((why.join(", and "), remedies))
}

fn holds(condition: &Condition, audit: &Audit, guest: GuestType) -> Option<(String, Vec<String>)> {
    match condition {
        Condition::Verdict {
            families,
            verdicts,
            against,
        } => {
            let hits: Vec<_> = families
                .iter()
                .map(|family| (*family, audit.standing(guest, *family, *against)))
                .filter(|(_, standing)| verdicts.contains(standing))
                .collect();
            let texts: Vec<String> = hits
                .iter()
                .map(|(family, standing)| format!("{} is {}", family.title(), standing.title()))
                .collect();
            let remedies = hits
                .iter()
                .filter_map(|(family, _)| audit.row(guest, *family))
                .flat_map(|row| row.remedies.iter().map(|remedy| remedy.text().to_owned()))
                .collect();
            (!hits.is_empty()).then(|| (texts.join(", "), remedies))
        }
        Condition::Advisory { ids, verdicts } => {
            let hit = |id: &str, verdict: AdvisoryVerdict| {
                verdicts
                    .contains(&verdict)
                    .then(|| format!("{id}: {}", verdict.title()))
            };
            let hits: Vec<String> = match ids {
                Some(ids) => ids
                    .iter()
                    .filter_map(|id| hit(id, audit.advisory(id)))
                    .collect(),
                None => audit
                    .advisories
                    .iter()
                    .filter_map(|row| hit(&row.id, row.verdict))
                    .collect(),
            };
            (!hits.is_empty()).then(|| (hits.join(", "), Vec::new()))
        }
        Condition::SharedCores { unknown } => {
            let remedy = "boot Xen with `sched-gran=core`, or with `smt=0`".to_owned();
            match audit.core_sharing {
                CoreSharing::Yes => Some((
                    "different guests may run on the threads of one core".to_owned(),
                    vec![remedy],
                )),
                CoreSharing::Unknown if *unknown => Some((
                    "whether guests share cores is unknown".to_owned(),
                    vec![remedy],
                )),
                _ => None,
            }
        }
    }
}

/// A 32-bit PV kernel starts bare only if its configuration asks for it, too.
fn hold_back_pv32(mut found: Findings, request: &Request) -> Findings {
    const RING_1: &str =
        "a 32-bit PV kernel runs in ring 1, where IBRS and its kin do not protect the hypervisor";
    if matches!(found.action, Action::Allow | Action::Warn) && request.pvshim != Some(false) {
        found.action = Action::Convert;
        found
            .reasons
            .push("the configuration does not ask for a bare start (`pvshim = 0`)".to_owned());
    }
    match found.action {
        Action::Allow | Action::Warn => found.warnings.insert(0, RING_1.to_owned()),
        Action::Convert | Action::Refuse => found.reasons.insert(0, RING_1.to_owned()),
    }
    found
}

fn convert(
    policy: &Policy,
    audit: Option<&Audit>,
    request: &Request,
    mut found: Findings,
) -> Decision {
    let guest = request.guest_type();
    if request.pvshim == Some(false) {
        found
            .reasons
            .push("the configuration asks for a bare start (`pvshim = 0`), which the policy does not allow".to_owned());
        found
            .remedies
            .push("remove `pvshim = 0`, then it starts in the PV shim".to_owned());
        found
            .remedies
            .push(format!("set {guest} = \"allow\" in /etc/xyl/policy.toml"));
        return refuse(guest, found);
    }
    if !matches!(request.operation, Operation::Create | Operation::Restart) {
        found.reasons.push(
            "a guest that has begun its life bare cannot be moved into the PV shim".to_owned(),
        );
        found
            .remedies
            .push("shut it down, and create it anew".to_owned());
        return refuse(guest, found);
    }
    let in_shim = judge(policy, audit, GuestType::PvShim);
    found.warnings.extend(in_shim.warnings);
    if in_shim.action == Action::Refuse {
        found.reasons.extend(in_shim.reasons);
        found.remedies.extend(in_shim.remedies);
        return refuse(guest, found);
    }
    // Advice on the host's state is not for a guest that starts.
    if matches!(request.shim, Shim::Ready | Shim::NotLooked) {
        found.remedies.clear();
    }
    with_shim(Outcome::ConvertToShim, GuestType::PvShim, request, found)
}

/// The outcome, if the host can run the shim.
fn with_shim(
    outcome: Outcome,
    guest: GuestType,
    request: &Request,
    mut found: Findings,
) -> Decision {
    if request.operation == Operation::Adopt {
        return Decision::new(outcome, guest, found);
    }
    let (cause, remedy) = match &request.shim {
        Shim::Ready | Shim::NotLooked => return Decision::new(outcome, guest, found),
        Shim::NoHvm => (
            "the PV shim needs hardware virtualisation, which this host does not have or Xen does not use".to_owned(),
            "switch it on in the firmware's set-up (VT-x, AMD-V)".to_owned(),
        ),
        Shim::NoBinary { path } => (
            format!("there is no PV shim at {path}"),
            "install Xen's shim (xen-shim), or name it under [shim] in the policy".to_owned(),
        ),
        Shim::No32BitPv { path } if request.image == ImageKind::Pv32 => (
            format!("the PV shim {path} is built without 32-bit PV"),
            "install a shim that is built with CONFIG_PV32, or use a 64-bit kernel".to_owned(),
        ),
        Shim::No32BitPv { .. } => return Decision::new(outcome, guest, found),
        Shim::Unfit { path, what } => (
            format!("the PV shim {path} cannot be used: {what}"),
            "name another one under [shim] in the policy".to_owned(),
        ),
    };
    found.reasons.push(cause);
    found.remedies.push(remedy);
    refuse(guest, found)
}

fn refuse(guest: GuestType, mut found: Findings) -> Decision {
    if found.remedies.is_empty() {
        found.remedies.push(match guest {
            GuestType::Pv32 | GuestType::Pv64 => {
                "start it in the PV shim (`type = \"pvh\"`, `pvshim = 1`), or change /etc/xyl/policy.toml".to_owned()
            }
            _ => "change /etc/xyl/policy.toml".to_owned(),
        });
    }
    Decision::new(Outcome::Refuse, guest, found)
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Warn => "warn",
        Action::Convert => "convert",
        Action::Refuse => "refuse",
    }
}
