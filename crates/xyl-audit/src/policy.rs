//! The policy file, `/etc/xyl/policy.toml`: which guests may start on this host. Its format is in `docs/policy.md`.

use std::io;
use std::path::{Path, PathBuf};

use os_port::Files;
use serde::Deserialize;
use toml::Spanned;

use crate::names::{AdvisoryVerdict, Family, GuestType, Standing, Target, UnsupportedSetting};

/// Path of the policy file.
pub const POLICY_PATH: &str = "/etc/xyl/policy.toml";

/// The policy of a host without a file, as a file.
pub const DEFAULT_POLICY: &str = include_str!("../../../data/policy.toml");

/// Largest file that is read.
const MAX_BYTES: u64 = 256 << 10;

/// The rules of a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    guests: Vec<(GuestType, Action)>,
    /// The rules, in the order of the file.
    pub rules: Vec<Rule>,
    /// The shim of guests that are converted.
    pub shim: ShimSettings,
    /// Which names new VMs may have.
    pub names: NamesAllowed,
    /// Limits for the cores of guests that have ended.
    pub cores: Cores,
    unsupported: Unsupported,
}

/// Limits for the cores that are written when guests end (`on_crash = "coredump-restart"` and the like).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cores {
    /// Number of cores that are written for one VM within an hour.
    pub per_hour: u32,
    /// Number of files that the folder of the cores may have.
    pub kept: u32,
    /// Space in MiB that must stay free on the file system of that folder.
    pub min_free_mib: u64,
}

impl Default for Cores {
    fn default() -> Cores {
        Cores {
            per_hour: 3,
            kept: 16,
            min_free_mib: 256,
        }
    }
}

/// Which names new VMs may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamesAllowed {
    /// Names that cannot be mistaken for a number, a UUID or a part of a shell's command.
    #[default]
    Strict,
    /// All that can be part of a file's name.
    Any,
}

/// The shim of guests without a shim in their configuration: the values of `pvshim_path` and `pvshim_extra`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShimSettings {
    /// Absolute path of the shim. `None` selects that of the host's Xen.
    pub path: Option<PathBuf>,
    /// Text that is appended to its command line.
    pub extra: Option<String>,
}

/// The treatment of a guest. The later variant is the stricter one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The guest starts.
    Allow,
    /// The guest starts, and the administrator gets a warning with the reasons.
    Warn,
    /// The guest starts in the PV shim.
    Convert,
    /// The guest does not start.
    Refuse,
}

/// A rule: its action applies to guests of these types if all its conditions hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name of the rule in messages.
    pub name: String,
    /// The guest types that it is about.
    pub guests: Vec<GuestType>,
    /// The conditions on the host.
    pub conditions: Vec<Condition>,
    /// The action of the rule.
    pub action: Action,
    /// The administrator's text for users whose guest is refused.
    pub why: Option<String>,
}

/// A condition of a rule. It holds if any of its listed values holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A family's verdict for the guest's type.
    Verdict {
        /// The attack families that match.
        families: Vec<Family>,
        /// The verdicts that match.
        verdicts: Vec<Standing>,
        /// Only against this target.
        against: Option<Target>,
    },
    /// An advisory's verdict.
    Advisory {
        /// Names of advisories; `None` matches any advisory.
        ids: Option<Vec<String>>,
        /// The verdicts that match.
        verdicts: Vec<AdvisoryVerdict>,
    },
    /// Threads of one core may run different guests. With `unknown`, also if the host does not say.
    SharedCores {
        /// Not knowing counts too.
        unknown: bool,
    },
}

/// The reasons why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read.
    #[error("cannot read the policy {path}: {source}; no guest is created until it can be read")]
    Read {
        /// Path of the file.
        path: String,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The file does not have the format of a policy.
    #[error(
        "{path}:{line}: {what}; the format is in docs/policy.md, and no guest is created until this is put right"
    )]
    Wrong {
        /// Path of the file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The error in the line.
        what: String,
    },
}

impl Default for Policy {
    /// The policy [`DEFAULT_POLICY`], which is part of the program.
    fn default() -> Policy {
        // A test shows that the file is a policy; were it none, the strictest one is right.
        Policy::parse(DEFAULT_POLICY, "the default").unwrap_or_else(|_| Policy {
            guests: GuestType::ALL
                .iter()
                .map(|guest| (*guest, Action::Refuse))
                .collect(),
            rules: Vec::new(),
            shim: ShimSettings::default(),
            names: NamesAllowed::default(),
            cores: Cores::default(),
            unsupported: Unsupported::default(),
        })
    }
}

impl Policy {
    /// Reads the host's policy; the default policy if there is no file.
    pub fn load(files: &dyn Files, path: &Path) -> Result<Policy, PolicyError> {
        let read_error = |source| PolicyError::Read {
            path: path.display().to_string(),
            source,
        };
        match files.read_trusted(path, MAX_BYTES) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| PolicyError::Wrong {
                    path: path.display().to_string(),
                    line: 1,
                    what: "the file is not text in UTF-8".to_owned(),
                })?;
                Policy::parse(&text, &path.display().to_string())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Policy::default()),
            Err(error) => Err(read_error(error)),
        }
    }

    /// Reads a policy; `path` is for messages.
    pub fn parse(text: &str, path: &str) -> Result<Policy, PolicyError> {
        let wrong = |line, what| PolicyError::Wrong {
            path: path.to_owned(),
            line,
            what,
        };
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(line_of(text, at), error.message().to_owned())
        })?;
        if *file.version.get_ref() != 1 {
            let line = line_of(text, file.version.span().start);
            return Err(wrong(
                line,
                "this Xyl knows policies of version 1".to_owned(),
            ));
        }
        let line_of_shim = line_of(text, file.shim.span().start);
        let shim = file.shim.into_inner();
        if shim.path.as_ref().is_some_and(|path| path.is_relative()) {
            let what = "the shim's `path` has to be absolute".to_owned();
            return Err(wrong(line_of_shim, what));
        }
        let mut rules = Vec::new();
        for (index, rule) in file.rules.into_iter().enumerate() {
            let line = line_of(text, rule.span().start);
            rules.push(
                rule.into_inner()
                    .into_rule(index)
                    .map_err(|what| wrong(line, what))?,
            );
        }
        Ok(Policy {
            guests: file.guests.actions(),
            rules,
            shim,
            names: file.names.allow,
            cores: file.cores,
            unsupported: file.unsupported,
        })
    }

    /// The action for a guest type before any rule.
    #[must_use]
    pub fn base(&self, guest: GuestType) -> Action {
        self.guests
            .iter()
            .find(|(listed, _)| *listed == guest)
            .map_or(Action::Refuse, |(_, action)| *action)
    }

    /// The action for a setting outside Xen's security support.
    #[must_use]
    pub fn unsupported(&self, setting: UnsupportedSetting) -> Action {
        let Unsupported {
            nestedhvm,
            msr_relaxed,
            vmtrace_buf_kb,
        } = self.unsupported;
        match setting {
            UnsupportedSetting::NestedHvm => nestedhvm,
            UnsupportedSetting::MsrRelaxed => msr_relaxed,
            UnsupportedSetting::VmtraceBufKb => vmtrace_buf_kb,
        }
        .into()
    }

    /// The rules about a guest type that are stricter than its base action.
    pub fn rules_for(&self, guest: GuestType) -> impl Iterator<Item = &Rule> {
        self.rules
            .iter()
            .filter(move |rule| rule.guests.contains(&guest))
    }

    /// Whether facts of the host are needed to decide about a guest type.
    #[must_use]
    pub fn needs_host(&self, guest: GuestType) -> bool {
        self.base(guest) != Action::Refuse && self.rules_for(guest).next().is_some()
    }

    /// Whether advisories are needed for that.
    #[must_use]
    pub fn needs_advisories(&self, guest: GuestType) -> bool {
        self.rules_for(guest)
            .flat_map(|rule| &rule.conditions)
            .any(|condition| matches!(condition, Condition::Advisory { .. }))
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Spanned<u32>,
    #[serde(default)]
    guests: Guests,
    #[serde(default)]
    rules: Vec<Spanned<RawRule>>,
    #[serde(default = "no_shim_settings")]
    shim: Spanned<ShimSettings>,
    #[serde(default)]
    names: Names,
    #[serde(default)]
    cores: Cores,
    #[serde(default)]
    unsupported: Unsupported,
}

/// The actions for settings outside Xen's security support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Unsupported {
    nestedhvm: PlainAction,
    msr_relaxed: PlainAction,
    vmtrace_buf_kb: PlainAction,
}

impl Default for Unsupported {
    fn default() -> Unsupported {
        Unsupported {
            nestedhvm: PlainAction::Refuse,
            msr_relaxed: PlainAction::Refuse,
            vmtrace_buf_kb: PlainAction::Refuse,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Names {
    #[serde(default)]
    allow: NamesAllowed,
}

fn no_shim_settings() -> Spanned<ShimSettings> {
    Spanned::new(0..0, ShimSettings::default())
}

/// The possible actions for a guest type that is not PV.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PlainAction {
    Allow,
    Warn,
    Refuse,
}

impl From<PlainAction> for Action {
    fn from(action: PlainAction) -> Action {
        match action {
            PlainAction::Allow => Action::Allow,
            PlainAction::Warn => Action::Warn,
            PlainAction::Refuse => Action::Refuse,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Guests {
    pv64: Action,
    pv32: Action,
    pv_shim: PlainAction,
    pvh: PlainAction,
    hvm: PlainAction,
    hvm_open_dm: PlainAction,
}

impl Default for Guests {
    fn default() -> Guests {
        Guests {
            pv64: Action::Allow,
            pv32: Action::Convert,
            pv_shim: PlainAction::Allow,
            pvh: PlainAction::Allow,
            hvm: PlainAction::Allow,
            hvm_open_dm: PlainAction::Allow,
        }
    }
}

impl Guests {
    fn actions(&self) -> Vec<(GuestType, Action)> {
        vec![
            (GuestType::Pv64, self.pv64),
            (GuestType::Pv32, self.pv32),
            (GuestType::PvShim, self.pv_shim.into()),
            (GuestType::Pvh, self.pvh.into()),
            (GuestType::Hvm, self.hvm.into()),
            (GuestType::HvmOpenDm, self.hvm_open_dm.into()),
        ]
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRule {
    name: Option<String>,
    guests: Vec<GuestType>,
    families: Option<AllOr<Family>>,
    verdicts: Option<Vec<Standing>>,
    against: Option<Target>,
    advisories: Option<AllOr<String>>,
    advisory_verdicts: Option<Vec<AdvisoryVerdict>>,
    shared_cores: Option<SharedCores>,
    action: Action,
    why: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SharedCores {
    Yes,
    YesOrUnknown,
}

/// `"all"`, or a list.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected \"all\", or a list of known names")]
enum AllOr<T> {
    All(All),
    List(Vec<T>),
}

#[derive(Deserialize)]
enum All {
    #[serde(rename = "all")]
    All,
}

impl RawRule {
    fn into_rule(self, index: usize) -> Result<Rule, String> {
        let name = self.name.unwrap_or_else(|| format!("rule {}", index + 1));
        if self.guests.is_empty() {
            return Err(format!("'{name}' is about no guest type: give `guests`"));
        }
        let pv = |guest: &GuestType| matches!(guest, GuestType::Pv64 | GuestType::Pv32);
        if self.action == Action::Convert && !self.guests.iter().all(pv) {
            return Err(format!(
                "'{name}' converts to the PV shim, which is for pv64 and pv32 alone"
            ));
        }
        let mut conditions = Vec::new();
        match (self.families, self.verdicts) {
            (Some(families), Some(verdicts)) if !verdicts.is_empty() => {
                conditions.push(Condition::Verdict {
                    families: match families {
                        AllOr::All(All::All) => Family::ALL.to_vec(),
                        AllOr::List(families) => families,
                    },
                    verdicts,
                    against: self.against,
                });
            }
            (None, None) if self.against.is_none() => {}
            _ => {
                return Err(format!(
                    "'{name}' needs `families` and `verdicts` together, and `against` only with them"
                ));
            }
        }
        match (self.advisories, self.advisory_verdicts) {
            (Some(ids), Some(verdicts)) if !verdicts.is_empty() => {
                conditions.push(Condition::Advisory {
                    ids: match ids {
                        AllOr::All(All::All) => None,
                        AllOr::List(ids) => Some(ids),
                    },
                    verdicts,
                });
            }
            (None, None) => {}
            _ => {
                return Err(format!(
                    "'{name}' needs `advisories` and `advisory-verdicts` together"
                ));
            }
        }
        if let Some(shared) = self.shared_cores {
            conditions.push(Condition::SharedCores {
                unknown: matches!(shared, SharedCores::YesOrUnknown),
            });
        }
        if conditions.is_empty() {
            return Err(format!(
                "'{name}' has no condition: for a guest type as such write it under [guests]"
            ));
        }
        Ok(Rule {
            name,
            guests: self.guests,
            conditions,
            action: self.action,
            why: self.why,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Policy::parse(text, "policy.toml").unwrap_err().to_string()
    }

    #[test]
    fn the_default_is_what_is_said_of_it() {
        let policy = Policy::parse(DEFAULT_POLICY, "default").unwrap();
        assert_eq!(policy, Policy::default());
        assert_eq!(policy.base(GuestType::Pv32), Action::Convert);
        assert_eq!(policy.base(GuestType::Pvh), Action::Allow);
        assert!(policy.needs_host(GuestType::Pv64));
        assert!(
            !policy.needs_host(GuestType::Pvh),
            "a PVH create asks nothing"
        );
        assert!(!policy.needs_host(GuestType::Pv32));
    }

    #[test]
    fn a_file_without_a_guest_type_keeps_the_safe_default_for_it() {
        let policy = Policy::parse("version = 1\n[guests]\npvh = \"refuse\"\n", "p").unwrap();
        assert_eq!(policy.base(GuestType::Pv32), Action::Convert);
        assert_eq!(policy.base(GuestType::Pvh), Action::Refuse);
        assert!(policy.rules.is_empty());
    }

    #[test]
    fn the_shim_of_converted_guests_has_settings() {
        let policy = |shim: &str| Policy::parse(&format!("version = 1\n{shim}"), "policy.toml");
        assert_eq!(policy("").unwrap().shim, ShimSettings::default());
        let both = policy("[shim]\npath = \"/s/xen-shim\"\nextra = \"xsave=0\"\n");
        assert_eq!(
            both.unwrap().shim,
            ShimSettings {
                path: Some("/s/xen-shim".into()),
                extra: Some("xsave=0".to_owned()),
            }
        );
        assert_eq!(
            policy("[shim]\npath = \"xen-shim\"\n")
                .unwrap_err()
                .to_string(),
            "policy.toml:2: the shim's `path` has to be absolute; the format is in docs/policy.md, and no guest is created until this is put right"
        );
    }

    #[test]
    fn a_limit_of_cores_that_is_not_named_has_its_default() {
        let cores =
            |text: &str| Policy::parse(&format!("version = 1\n{text}"), "p").map(|p| p.cores);
        assert_eq!(cores("").unwrap(), Cores::default());
        let one_an_hour = Cores {
            per_hour: 1,
            ..Cores::default()
        };
        assert_eq!(cores("[cores]\nper_hour = 1\n").unwrap(), one_an_hour);
        assert!(cores("[cores]\nper_day = 1\n").is_err());
        assert_eq!(Policy::default().cores, Cores::default());
    }

    #[test]
    fn names_are_strict_unless_the_host_allows_all() {
        let names = |text: &str| {
            let policy = Policy::parse(&format!("version = 1\n{text}"), "policy.toml");
            policy.map(|policy| policy.names)
        };
        assert_eq!(names("").unwrap(), NamesAllowed::Strict);
        assert_eq!(names("[names]\n").unwrap(), NamesAllowed::Strict);
        let any = names("[names]\nallow = \"any\"\n");
        assert_eq!(any.unwrap(), NamesAllowed::Any);
        assert!(names("[names]\nallow = \"all\"\n").is_err());
    }

    #[test]
    fn settings_outside_xens_security_support_are_refused_unless_named() {
        let nested = UnsupportedSetting::NestedHvm;
        let policy = |text: &str| Policy::parse(&format!("version = 1\n{text}"), "policy.toml");
        for setting in UnsupportedSetting::ALL {
            assert_eq!(policy("").unwrap().unsupported(*setting), Action::Refuse);
        }
        let named = policy("[unsupported]\nnestedhvm = \"warn\"\n").unwrap();
        assert_eq!(named.unsupported(nested), Action::Warn);
        let other = UnsupportedSetting::MsrRelaxed;
        assert_eq!(named.unsupported(other), Action::Refuse);
        assert!(policy("[unsupported]\nnestedhvm = \"convert\"\n").is_err());
        assert!(policy("[unsupported]\nvcpus = \"allow\"\n").is_err());
    }

    #[test]
    fn errors_name_the_line() {
        assert!(
            error("version = 1\nmagic = 2\n").starts_with("policy.toml:2: unknown field `magic`")
        );
        assert!(error("version = 1\n[guests]\npv33 = \"allow\"\n").starts_with("policy.toml:3: "));
        assert!(
            error("version = 1\n[guests]\n\npvh = \"convert\"\n").starts_with("policy.toml:4: ")
        );
        assert!(error("version = 2\n").starts_with("policy.toml:1: this Xyl knows"));
        assert!(error("\n").contains("version"));
        assert!(error("version = 1\n[[rules]]\nguests=[\"pvh\"]\nfamilies=[\"v2\"]\nverdicts=[\"unprotected\"]\naction=\"convert\"\n")
            .starts_with("policy.toml:2: 'rule 1' converts"));
        assert!(
            error("version = 1\n[[rules]]\nguests=[\"pvh\"]\naction=\"refuse\"\n")
                .contains("no condition")
        );
        assert!(error("version = 1\n[[rules]]\nguests=[\"pvh\"]\nfamilies=[\"v99\"]\nverdicts=[\"unknown\"]\naction=\"refuse\"\n")
            .starts_with("policy.toml:4: expected \"all\""));
    }
}
