//! The host's configuration /etc/xen/xl.conf: the grammar of xl.cfg with other settings (xl.conf(5)).

use serde::{Deserialize, Serialize};

use crate::diag::{Code, Diagnostic, Diags, Report};
use crate::keyword::{Keyword, keywords, nearest};
use crate::reader::Reader;
use crate::settings::Settings;
use crate::source::{Source, Sources};
use crate::syntax;
use crate::types::{CpuList, read_cpu_list};

keywords! {
    /// Whether domain 0 gives memory up for new domains.
    Autoballoon {
        /// Domain 0 never gives memory up.
        Off = "off",
        /// Domain 0 always gives memory up.
        On = "on",
        /// Unless its memory was set on Xen's command line.
        Auto = "auto",
    }
}

keywords! {
    /// The choice of domids.
    DomidPolicy {
        /// By Xen, one after another.
        Xen = "xen",
        /// A random free number.
        Random = "random",
    }
}

keywords! {
    /// Format of machine-readable output.
    OutputFormat {
        /// Output in JSON.
        Json = "json",
        /// S-expressions, as in xm.
        Sxp = "sxp",
    }
}

/// The settings of /etc/xen/xl.conf, with xl's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XlConf {
    /// Whether domain 0 gives memory up (`autoballoon`). Default: auto.
    pub autoballoon: Autoballoon,
    /// Whether the toolstack runs hotplug scripts, rather than udev (`run_hotplug_scripts`). Default: yes.
    pub run_hotplug_scripts: bool,
    /// The file that serialises the making of domains (`lockfile`). Default: `/var/lock/xl`.
    pub lockfile: String,
    /// The choice of domids (`domid_policy`). Default: by Xen.
    pub domid_policy: DomidPolicy,
    /// Whether memory is claimed before a domain is built (`claim_mode`). Default: yes.
    pub claim_mode: bool,
    /// Default for the setting of the same name in xl.cfg.
    pub max_grant_frames: Option<u32>,
    /// Default for the setting of the same name in xl.cfg.
    pub max_maptrack_frames: Option<u32>,
    /// Default for the setting of the same name in xl.cfg.
    pub max_grant_version: Option<u32>,
    /// Default for the setting of the same name in xl.cfg.
    pub bootloader_restrict: Option<bool>,
    /// Host CPUs that guests may use (`vm.cpumask`).
    pub vm_cpumask: Option<CpuList>,
    /// Host CPUs that HVM and PVH guests may use (`vm.hvm.cpumask`).
    pub vm_hvm_cpumask: Option<CpuList>,
    /// Host CPUs that PV guests may use (`vm.pv.cpumask`).
    pub vm_pv_cpumask: Option<CpuList>,
    /// Default script of interfaces (`vif.default.script`, formerly `vifscript`).
    pub vif_default_script: Option<String>,
    /// Default bridge of interfaces (`vif.default.bridge`, formerly `defaultbridge`).
    pub vif_default_bridge: Option<String>,
    /// Default gateway device of interfaces (`vif.default.gatewaydev`).
    pub vif_default_gateway_dev: Option<String>,
    /// Default backend domain of interfaces (`vif.default.backend`).
    pub vif_default_backend: Option<String>,
    /// The format of machine-readable output (`output_format`). Default: JSON.
    pub output_format: OutputFormat,
    /// First virtual disk that the toolstack takes for itself (`blkdev_start`). Default: `xvda`.
    pub blkdev_start: String,
    /// Remus' script (`remus.default.netbufscript`).
    pub remus_netbuf_script: Option<String>,
    /// COLO's script (`colo.default.proxyscript`).
    pub colo_proxy_script: Option<String>,
}

impl Default for XlConf {
    fn default() -> Self {
        Self::read(&mut Reader::new(
            &Settings::default(),
            &mut Diags::default(),
        ))
    }
}

/// Parses /etc/xen/xl.conf. There is always a result: a wrong setting gets its default and an error in the report.
/// Unknown settings are warnings.
#[must_use]
pub fn parse_xl_conf(source: Source) -> (XlConf, Report) {
    let mut diags = Diags::default();
    let mut settings = Settings::default();
    let statements = syntax::parse(&source, 0, &mut diags);
    settings.apply(statements, &source, &mut diags);
    let conf = XlConf::read(&mut Reader::new(&settings, &mut diags));
    warn_of_unknown(&settings, &NAMES, &mut diags);
    (conf, diags.into_report(Sources::new(vec![source])))
}

const NAMES: [&str; 22] = [
    "autoballoon",
    "run_hotplug_scripts",
    "lockfile",
    "domid_policy",
    "claim_mode",
    "max_grant_frames",
    "max_maptrack_frames",
    "max_grant_version",
    "bootloader_restrict",
    "vm.cpumask",
    "vm.hvm.cpumask",
    "vm.pv.cpumask",
    "vif.default.script",
    "vif.default.bridge",
    "vif.default.gatewaydev",
    "vif.default.backend",
    "output_format",
    "blkdev_start",
    "remus.default.netbufscript",
    "colo.default.proxyscript",
    "vifscript",
    "defaultbridge",
];

impl XlConf {
    fn read(reader: &mut Reader<'_>) -> Self {
        let most = i32::MAX.unsigned_abs();
        Self {
            autoballoon: read_autoballoon(reader),
            run_hotplug_scripts: reader.flag("run_hotplug_scripts").unwrap_or(true),
            lockfile: reader
                .path("lockfile")
                .unwrap_or_else(|| "/var/lock/xl".to_owned()),
            domid_policy: reader.keyword("domid_policy").unwrap_or(DomidPolicy::Xen),
            claim_mode: reader.flag("claim_mode").unwrap_or(true),
            max_grant_frames: reader.u32("max_grant_frames", "a number of frames", 0..=most),
            max_maptrack_frames: reader.u32("max_maptrack_frames", "a number of frames", 0..=most),
            max_grant_version: reader.u32(
                "max_grant_version",
                "a version of the grant table",
                0..=2,
            ),
            bootloader_restrict: reader.flag("bootloader_restrict"),
            vm_cpumask: read_mask(reader, "vm.cpumask"),
            vm_hvm_cpumask: read_mask(reader, "vm.hvm.cpumask"),
            vm_pv_cpumask: read_mask(reader, "vm.pv.cpumask"),
            vif_default_script: renamed(reader, "vif.default.script", "vifscript"),
            vif_default_bridge: renamed(reader, "vif.default.bridge", "defaultbridge"),
            vif_default_gateway_dev: reader.string("vif.default.gatewaydev"),
            vif_default_backend: reader.string("vif.default.backend"),
            output_format: reader
                .keyword("output_format")
                .unwrap_or(OutputFormat::Json),
            blkdev_start: reader
                .filled("blkdev_start")
                .unwrap_or_else(|| "xvda".to_owned()),
            remus_netbuf_script: reader.string("remus.default.netbufscript"),
            colo_proxy_script: reader.string("colo.default.proxyscript"),
        }
    }
}

/// A word, or 0 or 1.
fn read_autoballoon(reader: &mut Reader<'_>) -> Autoballoon {
    let Some(text) = reader.text("autoballoon") else {
        return Autoballoon::Auto;
    };
    let find = |name: &str| match name {
        "0" => Some(Autoballoon::Off),
        "1" => Some(Autoballoon::On),
        other => Autoballoon::find(other),
    };
    reader
        .keyword_in(text, "`autoballoon`", find)
        .unwrap_or(Autoballoon::Auto)
}

fn read_mask(reader: &mut Reader<'_>, key: &str) -> Option<CpuList> {
    let text = reader.text(key)?;
    read_cpu_list(reader, text, key)
}

/// A setting with an old name. The new name counts if both are set.
fn renamed(reader: &mut Reader<'_>, key: &str, old: &str) -> Option<String> {
    if let Some(setting) = reader.setting(old) {
        let remedy = reader.renamed(setting, key);
        reader.warn(
            Code::Deprecated,
            setting.key_span,
            format!("`{old}` is deprecated"),
            remedy,
        );
    }
    reader.string(key).or(reader.string(old))
}

/// Warns of each setting that is none of `known`.
pub(crate) fn warn_of_unknown(settings: &Settings, known: &[&'static str], diags: &mut Diags) {
    for setting in settings.in_order() {
        let key = setting.key.as_str();
        if diags.is_full() {
            return;
        }
        if !known.contains(&key) {
            let message = format!("unknown setting `{key}`, ignored");
            let warning = Diagnostic::warning(Code::UnknownName, setting.key_span, message);
            diags.push(match nearest(key, known.iter().copied()) {
                Some(near) => warning
                    .help(format!("did you mean `{near}`?"))
                    .suggest(settings.renamed(setting, near)),
                None => warning,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (XlConf, Report) {
        parse_xl_conf(Source::from_bytes("xl.conf", text.as_bytes()).unwrap())
    }

    #[test]
    fn defaults_are_xls() {
        let (conf, report) = parse("# nothing\n");
        assert!(report.is_empty());
        assert_eq!(conf, XlConf::default());
        assert_eq!(
            (conf.autoballoon, conf.claim_mode),
            (Autoballoon::Auto, true)
        );
    }

    #[test]
    fn reads_all_kinds_of_settings() {
        let text = "autoballoon = 0\nclaim_mode=0; vm.hvm.cpumask=\"0-3,^1\"\nvifscript='s'\nmax_grant_frames=64\n";
        let (conf, report) = parse(text);
        assert!(!report.has_errors());
        assert_eq!(
            (conf.autoballoon, conf.claim_mode),
            (Autoballoon::Off, false)
        );
        assert_eq!(conf.vm_hvm_cpumask.unwrap().to_string(), "0-3,^1");
        assert_eq!(conf.vif_default_script.as_deref(), Some("s"));
        assert_eq!(conf.max_grant_frames, Some(64));
        assert!(
            report
                .to_string()
                .contains("xl.conf:3:1: warning: `vifscript` is deprecated")
        );
    }

    #[test]
    fn wrong_values_are_reported_and_replaced() {
        let (conf, report) =
            parse("autoballoon = 'maybe'\nlockfil = '/x'\nmax_grant_frames = '-1'\n");
        assert!(report.has_errors());
        assert_eq!(conf, XlConf::default());
        assert!(report.to_string().contains("did you mean `lockfile`?"));
    }
}
