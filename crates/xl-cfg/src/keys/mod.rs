//! The settings that xl.cfg(5) and xl know, and what is to be said of each.

mod table;

use serde::{Deserialize, Serialize};

use crate::diag::{Code, Diagnostic, Diags};
use crate::keyword::{keywords, nearest};
use crate::settings::{Setting, Settings};

keywords! {
    /// The guest's type.
    DomainType {
        /// Paravirtualised: no hardware help, the kernel asks the hypervisor.
        Pv = "pv",
        /// Hardware-virtualised without a device model.
        Pvh = "pvh",
        /// Fully virtualised with emulated devices.
        Hvm = "hvm",
    }
}

/// How much a setting matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyClass {
    /// Nearly every configuration has it.
    Core,
    /// Often seen.
    Common,
    /// For particular uses.
    Niche,
    /// Nobody knows it.
    Unknown,
}

/// Which guests a setting means something to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guests {
    Any,
    Pv,
    Pvh,
    Hvm,
    PvAndPvh,
    HvmAndPvh,
    /// Guests of Arm hosts only.
    Arm,
}

impl Guests {
    fn include(self, domain_type: DomainType) -> bool {
        match self {
            Self::Any => true,
            Self::Pv => domain_type == DomainType::Pv,
            Self::Pvh => domain_type == DomainType::Pvh,
            Self::Hvm => domain_type == DomainType::Hvm,
            Self::PvAndPvh => domain_type != DomainType::Hvm,
            Self::HvmAndPvh => domain_type != DomainType::Pv,
            Self::Arm => false,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Any => "all guests",
            Self::Pv => "PV guests",
            Self::Pvh => "PVH guests",
            Self::Hvm => "HVM guests",
            Self::PvAndPvh => "PV and PVH guests",
            Self::HvmAndPvh => "HVM and PVH guests",
            Self::Arm => "guests of Arm hosts",
        }
    }
}

/// Whether a setting should still be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Current,
    /// It works, but there is something better: what.
    Deprecated(&'static str),
    /// It is read and thrown away, by xl too: why, or what to do instead.
    Ignored(&'static str),
}

/// What is known of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyInfo {
    /// The name.
    pub name: &'static str,
    /// How much it matters.
    pub class: KeyClass,
    pub(crate) guests: Guests,
    pub(crate) standing: Standing,
}

impl KeyInfo {
    /// Whether the setting means something to guests of this type on an x86 host.
    #[must_use]
    pub fn applies_to(&self, domain_type: DomainType) -> bool {
        self.guests.include(domain_type)
    }

    /// Whether the setting has a better successor, or no effect any more.
    #[must_use]
    pub fn is_deprecated(&self) -> bool {
        self.standing != Standing::Current
    }

    /// Whether the setting has no effect any more.
    #[must_use]
    pub fn is_ignored(&self) -> bool {
        matches!(self.standing, Standing::Ignored(_))
    }
}

/// What is known of the setting `name`; `None` if nothing is.
#[must_use]
pub fn lookup(name: &str) -> Option<&'static KeyInfo> {
    table::KEYS.iter().find(|info| info.name == name)
}

/// All known settings.
pub fn all() -> impl Iterator<Item = &'static KeyInfo> {
    table::KEYS.iter()
}

/// The class of a setting.
#[must_use]
pub fn class_of(name: &str) -> KeyClass {
    lookup(name).map_or(KeyClass::Unknown, |info| info.class)
}

/// Says what is to be said of the names alone: unknown, deprecated, without effect. `domain_type` is `None` where it is
/// not known.
pub(crate) fn check(settings: &Settings, domain_type: Option<DomainType>, diags: &mut Diags) {
    for setting in settings.in_order() {
        if diags.is_full() {
            // The search for similar names costs time that nobody gains from any more.
            return;
        }
        match lookup(&setting.key) {
            Some(info) => check_known(info, setting, domain_type, diags),
            None => diags.push(unknown(setting)),
        }
    }
}

fn check_known(
    info: &KeyInfo,
    setting: &Setting,
    domain_type: Option<DomainType>,
    diags: &mut Diags,
) {
    let name = info.name;
    let warn = |code, message| Diagnostic::warning(code, setting.key_span, message);
    match (info.standing, domain_type) {
        (Standing::Ignored(help), _) => {
            diags.push(warn(Code::NoEffect, format!("`{name}` has no effect")).help(help));
        }
        (_, Some(domain_type)) if !info.applies_to(domain_type) => {
            let message = format!("`{name}` has no effect: it is for {}", info.guests.name());
            let note = format!("this guest is of type `{domain_type}`");
            diags.push(warn(Code::NoEffect, message).note(note));
        }
        (Standing::Deprecated(help), _) => {
            diags.push(warn(Code::Deprecated, format!("`{name}` is deprecated")).help(help));
        }
        (Standing::Current, _) => {}
    }
}

fn unknown(setting: &Setting) -> Diagnostic {
    let key = setting.key.as_str();
    let shown: String = key.chars().take(60).collect();
    let warning = Diagnostic::warning(
        Code::UnknownName,
        setting.key_span,
        format!("unknown setting `{shown}`, ignored"),
    );
    if let Some(text) = elsewhere(key) {
        return warning.help(text);
    }
    match nearest(key, all().map(|info| info.name)) {
        Some(near) => warning.help(format!("did you mean `{near}`?")),
        None => warning,
    }
}

/// Where a name belongs that is no domain's setting.
fn elsewhere(key: &str) -> Option<&'static str> {
    match key {
        _ if key.starts_with("vif.default.") || key.starts_with("vm.") => {
            Some("it belongs into xl.conf")
        }
        "autoballoon"
        | "lockfile"
        | "output_format"
        | "claim_mode"
        | "domid_policy"
        | "run_hotplug_scripts" => Some("it belongs into xl.conf"),
        "sched" | "nodes" => Some("it belongs into the configuration of a CPU pool"),
        "mem" | "ram" => Some("did you mean `memory`?"),
        "cpu" => Some("did you mean `cpus` (which host CPUs) or `vcpus` (how many)?"),
        "network" | "nic" | "nics" => Some("did you mean `vif`?"),
        "disks" => Some("did you mean `disk`?"),
        "initrd" => Some("did you mean `ramdisk`?"),
        "bootargs" | "append" | "args" => Some("did you mean `cmdline`?"),
        _ => None,
    }
}
