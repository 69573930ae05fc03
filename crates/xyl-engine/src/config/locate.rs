//! Errors that come after a configuration was read, such as a kernel that is not there: which of its settings they are about.
//!
//! `plan` and the command's create call it, so that people see file, line and domain.

use std::path::{Path, PathBuf};

use xen_build::BuildError;
use xl_cfg::{Config, DomainConfig};

use crate::error::{EngineError, SettingError};

/// The error with the domain's name and the place of the setting that it is about. Others come back as they are.
pub(crate) fn locate(config: &Config, error: EngineError) -> EngineError {
    if matches!(error, EngineError::Setting(_)) {
        return error;
    }
    let keys = keys(&config.domain, error.cause());
    let found = keys
        .iter()
        .find_map(|key| Some((*key, config.location_of_value(key)?)));
    // What is not written there has no line: the file is named.
    let Some(key) = found
        .as_ref()
        .map(|(key, _)| *key)
        .or(keys.first().copied())
    else {
        return error;
    };
    EngineError::Setting(Box::new(SettingError {
        domain: config.domain.name.clone(),
        key,
        file: config.sources().main_name().to_owned(),
        place: found.map(|(_, place)| place),
        source: error,
    }))
}

/// The settings that an error is about, the likeliest first.
fn keys(domain: &DomainConfig, error: &EngineError) -> &'static [&'static str] {
    match error {
        EngineError::Image(error) | EngineError::Build(BuildError::Image(error)) => {
            file_keys(domain, error.path())
        }
        EngineError::Build(error) => build_keys(error),
        EngineError::NoSuchCpus { .. } => &["cpus", "cpus_soft"],
        EngineError::NoSuchPool(_) => &["pool"],
        EngineError::NoShares(_) => &["cpu_weight", "cap"],
        EngineError::NotEnoughMemory { .. } => &["memory", "maxmem"],
        EngineError::NoHardwareVirtualisation(_) | EngineError::NoPv => &["type", "builder"],
        EngineError::NoPv32 | EngineError::Shim(_) => &["pvshim", "kernel"],
        EngineError::HostLacks(lacking) => lacking.keys(),
        EngineError::LabelsUnsupported => &["seclabel", "init_seclabel"],
        EngineError::NotAdmitted { settings, .. } => match settings.first() {
            Some(setting) => setting_keys(*setting),
            None => &["kernel"],
        },
        EngineError::NameTaken { .. } | EngineError::NameBusy { .. } => &["name"],
        EngineError::UuidTaken { .. } => &["uuid"],
        _ => &[],
    }
}

fn setting_keys(setting: xyl_audit::UnsupportedSetting) -> &'static [&'static str] {
    use xyl_audit::UnsupportedSetting::{MsrRelaxed, NestedHvm, VmtraceBufKb};
    match setting {
        NestedHvm => &["nestedhvm"],
        MsrRelaxed => &["msr_relaxed"],
        VmtraceBufKb => &["vmtrace_buf_kb"],
    }
}

/// The setting that names a file.
fn file_keys(domain: &DomainConfig, path: &Path) -> &'static [&'static str] {
    let is = |named: &Option<String>| {
        named
            .as_deref()
            .is_some_and(|named| whole_path(named) == path)
    };
    if is(&domain.boot.ramdisk) {
        &["ramdisk"]
    } else if is(&domain.boot.shim.path) {
        &["pvshim_path"]
    } else if is(&domain.boot.kernel) {
        &["kernel"]
    } else {
        &[]
    }
}

fn build_keys(error: &BuildError) -> &'static [&'static str] {
    match error {
        BuildError::TooMuchMemory { .. }
        | BuildError::TooLittleMemory { .. }
        | BuildError::OutOfMemory { .. } => &["memory", "maxmem"],
        BuildError::CommandLineTooLong { .. } | BuildError::CommandLineZero { .. } => {
            &["cmdline", "extra", "root"]
        }
        BuildError::Vcpus { .. } => &["maxvcpus", "vcpus"],
        BuildError::Pv32
        | BuildError::NoPae
        | BuildError::RequiredFeature { .. }
        | BuildError::Layout { .. } => &["kernel"],
        _ => &[],
    }
}

/// The same file from whatever folder the VM is restarted.
pub(crate) fn whole_path(path: &str) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path))
}
