//! The settings that xl.cfg(5) and xl know, with the facts for warnings about each.

mod table;

use serde::{Deserialize, Serialize};

use crate::diag::{Code, Diagnostic, Diags, Remedy};
use crate::keyword::{keywords, nearest};
use crate::number;
use crate::settings::{Setting, Settings};
use crate::syntax::Value;

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

/// Importance of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyClass {
    /// Nearly every configuration has it.
    Core,
    /// Many configurations have it.
    Common,
    /// Few configurations have it, for special uses.
    Niche,
    /// Not in the table of settings.
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
    /// Deprecated: another setting replaces it ([`successor`]). The text is the help.
    Deprecated(&'static str),
    /// xl reads it and ignores it. The text is an alternative.
    Ignored(&'static str),
    /// xl ignores it, and no setting replaces it. The text is the reason.
    Gone(&'static str),
    /// xl ignores it, and another setting replaces it.
    Renamed(&'static str),
}

/// The facts about a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyInfo {
    /// Name of the setting.
    pub name: &'static str,
    /// Importance of the setting.
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
        matches!(
            self.standing,
            Standing::Ignored(_) | Standing::Gone(_) | Standing::Renamed(_)
        )
    }
}

/// The facts about the setting `name`; `None` if it is not known.
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

/// Warns about names that are unknown, deprecated or without effect. `domain_type` is `None` if it is not known.
pub(crate) fn check(settings: &Settings, domain_type: Option<DomainType>, diags: &mut Diags) {
    for setting in settings.in_order() {
        if diags.is_full() {
            // The report is full, so the search for similar names is skipped.
            return;
        }
        match lookup(&setting.key) {
            Some(info) => check_known(info, setting, settings, domain_type, diags),
            None => diags.push(unknown(setting, settings)),
        }
    }
}

fn check_known(
    info: &KeyInfo,
    setting: &Setting,
    settings: &Settings,
    domain_type: Option<DomainType>,
    diags: &mut Diags,
) {
    let name = info.name;
    let no_effect = || {
        let message = format!("`{name}` has no effect");
        Diagnostic::warning(Code::NoEffect, setting.key_span, message)
    };
    let warn = |code, message| Diagnostic::warning(code, setting.key_span, message);
    match (info.standing, domain_type) {
        (Standing::Ignored(help), _) => {
            let remedy = in_successors_place(setting, settings, help);
            diags.push(no_effect().remedy(remedy));
        }
        (Standing::Gone(why), _) => {
            diags.push(no_effect().remedy(setting.take_out(why)));
        }
        (Standing::Renamed(to), _) => {
            diags.push(no_effect().remedy(settings.write_as(setting, to)));
        }
        (_, Some(domain_type)) if !info.applies_to(domain_type) => {
            let message = format!("`{name}` has no effect: it is for {}", info.guests.name());
            let note = format!("this guest is of type `{domain_type}`");
            diags.push(warn(Code::NoEffect, message).note(note));
        }
        (Standing::Deprecated(help), _) => {
            let remedy = in_successors_place(setting, settings, help);
            let message = format!("`{name}` is deprecated");
            diags.push(warn(Code::Deprecated, message).remedy(remedy));
        }
        (Standing::Current, _) => {}
    }
}

/// The successor of an old setting, and its value. `None` if the old value requests nothing.
fn successor(key: &str, value: &Value) -> Option<(&'static str, &'static str)> {
    let Value::Atom(text) = value else {
        return None;
    };
    let flag = || number::parse(text).ok().map(|number| number != 0);
    match (key, text.as_str()) {
        ("builder", "hvm") => Some(("type", "hvm")),
        ("builder", "pvh") => Some(("type", "pvh")),
        // xend called it "linux".
        ("builder", "generic" | "linux" | "pv") => Some(("type", "pv")),
        ("altp2mhvm", _) => Some(("altp2m", if flag()? { "mixed" } else { "disabled" })),
        ("stdvga", _) => Some(("vga", if flag()? { "stdvga" } else { "cirrus" })),
        _ => None,
    }
}

/// Help: "write the successor", or "take the line out" if the successor is set already; `otherwise` if the value
/// requests nothing.
pub(crate) fn in_successors_place(
    setting: &Setting,
    settings: &Settings,
    otherwise: &str,
) -> Remedy {
    let Some((key, value)) = successor(&setting.key, &setting.value.to_value()) else {
        return otherwise.into();
    };
    if settings.get(key).is_some() {
        return setting.take_out(&format!(": `{key}` is set"));
    }
    let statement = format!("{key} = \"{value}\"");
    Remedy::new(format!("write `{statement}`"), setting.replaced(statement))
}

fn unknown(setting: &Setting, settings: &Settings) -> Diagnostic {
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
    match meant(key).or_else(|| nearest(key, all().map(|info| info.name))) {
        Some(near) => {
            let help = format!("did you mean `{near}`?");
            let edit = settings.renamed(setting, near);
            warning.help(help).suggest(edit)
        }
        None => warning,
    }
}

/// The setting that people mean by another word.
fn meant(key: &str) -> Option<&'static str> {
    match key {
        "mem" | "ram" => Some("memory"),
        "disks" => Some("disk"),
        "initrd" => Some("ramdisk"),
        "bootargs" | "append" | "args" => Some("cmdline"),
        _ => None,
    }
}

/// Hint for a name that belongs elsewhere than in a domain's configuration.
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
        "cpu" => Some("did you mean `cpus` (which host CPUs) or `vcpus` (how many)?"),
        "network" | "nic" | "nics" => Some("did you mean `vif`, a list of interfaces?"),
        _ => None,
    }
}
