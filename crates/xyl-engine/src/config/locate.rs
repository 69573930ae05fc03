//! Finds the setting that caused an error after the configuration was parsed, such as a missing kernel.
//!
//! `plan` and the create call it, so that the error names file, line and domain.

use std::path::Path;

use xen_build::{BuildError, Step};
use xl_cfg::{Config, DomainConfig};

use crate::error::{DeviceError, EngineError, SettingError};
use crate::vm::paths::whole_path;

/// Adds the domain's name and the setting's place to an error about a setting. Returns other errors unchanged.
pub(crate) fn locate(config: &Config, error: EngineError) -> EngineError {
    if matches!(error, EngineError::Setting(_)) {
        return error;
    }
    let keys = keys(&config.domain, error.cause());
    let found = keys
        .iter()
        .find_map(|key| Some((*key, config.location_of_value(key)?)));
    // A default has no line. Then only the file is named.
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

/// The settings that say what a guest boots. A configuration has one of them; a boot loader may be asked for a kernel.
const KERNEL: [&str; 3] = ["bootloader", "kernel", "firmware"];

/// The settings that may cause an error, the likeliest first.
fn keys(domain: &DomainConfig, error: &EngineError) -> &'static [&'static str] {
    match error {
        EngineError::Image(error) | EngineError::Build(BuildError::Image(error)) => {
            file_keys(domain, error.path())
        }
        EngineError::Build(error) => build_keys(error),
        EngineError::NoFirmware { .. } => &["firmware"],
        EngineError::BootLoader(_) => &["bootloader"],
        EngineError::NoSuchCpus { .. } => &["cpus", "cpus_soft"],
        EngineError::NoSuchPool(_) => &["pool"],
        EngineError::NoShares(_) => &["cpu_weight", "cap"],
        EngineError::NotEnoughMemory { .. } => &["memory", "maxmem"],
        EngineError::NoHardwareVirtualisation(_) | EngineError::NoPv => &["type", "builder"],
        EngineError::NoPv32 | EngineError::Shim(_) => &["pvshim", "kernel", "firmware"],
        EngineError::HostLacks(lacking) => lacking.keys(),
        EngineError::LabelsUnsupported => &["seclabel", "init_seclabel"],
        EngineError::NotAdmitted { settings, .. } => match settings.first() {
            Some(setting) => setting_keys(*setting),
            None => &KERNEL,
        },
        EngineError::Device(error) if is_of_vif(error) => &["vif"],
        EngineError::Device(_) => &["disk"],
        EngineError::NameTaken { .. } | EngineError::NameBusy { .. } => &["name"],
        EngineError::UuidTaken { .. } => &["uuid"],
        _ => &[],
    }
}

fn is_of_vif(error: &DeviceError) -> bool {
    error
        .device()
        .is_some_and(|device| device.starts_with("vif "))
}

fn setting_keys(setting: xyl_audit::UnsupportedSetting) -> &'static [&'static str] {
    use xyl_audit::UnsupportedSetting::{MsrRelaxed, NestedHvm, VmtraceBufKb};
    match setting {
        NestedHvm => &["nestedhvm"],
        MsrRelaxed => &["msr_relaxed"],
        VmtraceBufKb => &["vmtrace_buf_kb"],
    }
}

/// The settings that name this file.
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
    } else if is(&domain.boot.kernel) || domain.boot.kernel.is_none() {
        &KERNEL
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
        BuildError::NoCpuRegister { .. } => &["cpuid"],
        BuildError::Hypervisor {
            step: Step::SetCpuPolicy,
            ..
        } => &["cpuid"],
        BuildError::Pv32
        | BuildError::NoPae
        | BuildError::RequiredFeature { .. }
        | BuildError::Layout { .. } => &KERNEL,
        _ => &[],
    }
}
