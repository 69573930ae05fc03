//! `/etc/xen/xl.conf`: the administrator's defaults for all domains.
//!
//! Xyl obeys the settings that concern its features, and ignores the others without a warning, because the file
//! belongs to xl.

use std::path::{Path, PathBuf};

use xen_port::GuestKind;
use xl_cfg::types::CpuList;
use xl_cfg::{DomidPolicy, Report, Source, SourceError, XlConf, parse_xl_conf};
use xyl_engine::config::plan::HostDefaults;
use xyl_engine::vm::nic::VifDefaults;

/// Environment variable with another path for the file.
const VARIABLE: &str = "XYL_XL_CONF";
/// Default path, as in xl.
const PATH: &str = "/etc/xen/xl.conf";

/// The reasons why xl.conf cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// The file cannot be read.
    #[error(transparent)]
    Unreadable(#[from] SourceError),
    /// The file that the variable names cannot be read.
    #[error(
        "{VARIABLE} names a file to read in place of {PATH}: {0}\nset it to one that is there, or unset it"
    )]
    Named(SourceError),
    /// The file has errors.
    #[error("{}\n{}", .0.summary(), .0.render(false).trim_end())]
    Rejected(Box<Report>),
}

/// Reads the file, or the one that `XYL_XL_CONF` names. Without a file, returns the defaults.
///
/// # Errors
/// The file cannot be read, or has errors.
pub fn read() -> Result<XlConf, ConfError> {
    let Some(chosen) = std::env::var_os(VARIABLE).map(PathBuf::from) else {
        return match Path::new(PATH) {
            path if path.exists() => parse(Source::read_file(path)?),
            _ => Ok(XlConf::default()),
        };
    };
    parse(Source::read_file(&chosen).map_err(ConfError::Named)?)
}

fn parse(source: Source) -> Result<XlConf, ConfError> {
    let (conf, report) = parse_xl_conf(source);
    match report.has_errors() {
        true => Err(ConfError::Rejected(Box::new(report))),
        false => Ok(conf),
    }
}

/// The defaults for domains whose configuration does not set a value.
pub fn defaults(conf: &XlConf) -> HostDefaults {
    HostDefaults {
        max_grant_frames: conf.max_grant_frames,
        max_maptrack_frames: conf.max_maptrack_frames,
        max_grant_version: conf.max_grant_version,
        no_claim: !conf.claim_mode,
        vif: VifDefaults {
            bridge: conf.vif_default_bridge.clone(),
            script: conf.vif_default_script.clone(),
            gateway_dev: conf.vif_default_gateway_dev.clone(),
            backend: conf.vif_default_backend.clone(),
        },
    }
}

/// Warnings about settings that Xyl should obey on a create and does not obey yet.
pub fn not_obeyed(conf: &XlConf) -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if conf.domid_policy == DomidPolicy::Random {
        warnings.push("xl.conf: domid_policy=random is not obeyed yet: Xen chooses the numbers");
    }
    warnings
}

/// The CPU masks for guests of this kind.
pub fn cpu_masks(conf: &XlConf, kind: GuestKind) -> impl Iterator<Item = &CpuList> {
    let of_kind = if kind == GuestKind::Pv {
        &conf.vm_pv_cpumask
    } else {
        &conf.vm_hvm_cpumask
    };
    conf.vm_cpumask.iter().chain(of_kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<XlConf, ConfError> {
        parse(Source::from_bytes("xl.conf", text.as_bytes()).unwrap())
    }

    #[test]
    fn debians_file_changes_nothing() {
        let text =
            "# Global XL config file #\n#autoballoon=\"auto\"\n\n# vif.default.bridge=\"xenbr0\"\n";
        assert_eq!(read_text(text).unwrap(), XlConf::default());
        assert_eq!(defaults(&XlConf::default()), HostDefaults::default());
    }

    #[test]
    fn what_bears_on_domains_is_taken() {
        let conf = read_text(
            "max_grant_frames = 64\nclaim_mode=0\nvm.cpumask=\"0-3\"\nvm.pv.cpumask=\"all,^1\"\n",
        )
        .unwrap();
        assert_eq!(defaults(&conf).max_grant_frames, Some(64));
        assert!(defaults(&conf).no_claim);
        let conf_of_vifs = read_text("vif.default.bridge=\"lan\"\n").unwrap();
        let bridge = defaults(&conf_of_vifs).vif.bridge;
        assert_eq!(bridge.as_deref(), Some("lan"));
        assert_eq!(cpu_masks(&conf, GuestKind::Pv).count(), 2);
        assert_eq!(cpu_masks(&conf, GuestKind::Pvh).count(), 1);
    }

    #[test]
    fn what_is_not_obeyed_is_told() {
        let told = |text| not_obeyed(&read_text(text).unwrap());
        assert!(told("").is_empty());
        assert!(told("autoballoon = 1\n").is_empty());
        assert!(told("domid_policy = \"random\"\n")[0].contains("domid_policy"));
    }

    #[test]
    fn a_wrong_value_is_named_with_its_line() {
        let error = read_text("\nmax_grant_frames=\"many\"\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("xl.conf:2") && error.contains("max_grant_frames"),
            "{error}"
        );
    }
}
