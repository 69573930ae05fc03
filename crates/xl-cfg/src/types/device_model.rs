//! The device model: QEMU, its place and its arguments.

use serde::{Deserialize, Serialize};

use super::memory::read_mib;
use crate::diag::{Code, Remedy};
use crate::keys::DomainType;
use crate::keyword::keywords;
use crate::reader::Reader;
use crate::syntax::Text;

keywords! {
    /// Kind of device model.
    DeviceModelVersion {
        /// QEMU of its own project.
        QemuXen = "qemu-xen",
    }
}

/// The device model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceModel {
    /// Kind of device model (`device_model_version`).
    pub version: Option<DeviceModelVersion>,
    /// Path of the device model; `None` for the default (`device_model_override`).
    pub path: Option<String>,
    /// Whether it is confined after its start (`dm_restrict`).
    pub restrict: Option<bool>,
    /// The user that it runs as (`device_model_user`).
    pub user: Option<String>,
    /// Further arguments (`device_model_args`).
    pub args: Vec<String>,
    /// Further arguments for PV guests.
    pub args_pv: Vec<String>,
    /// Further arguments for HVM guests.
    pub args_hvm: Vec<String>,
    /// The domain of its own that it may run in.
    pub stubdomain: Stubdomain,
}

/// The domain of its own that a device model may run in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stubdomain {
    /// Whether there is one (`device_model_stubdomain_override`).
    pub enabled: Option<bool>,
    /// XSM label of the stub domain (`device_model_stubdomain_seclabel`).
    pub security_label: Option<String>,
    /// Kernel of the stub domain (`stubdomain_kernel`).
    pub kernel: Option<String>,
    /// Ramdisk of the stub domain (`stubdomain_ramdisk`).
    pub ramdisk: Option<String>,
    /// Kernel command line of the stub domain (`stubdomain_cmdline`).
    pub cmdline: Option<String>,
    /// Memory of the stub domain in MiB (`stubdomain_memory`).
    pub memory_mib: Option<u64>,
}

impl DeviceModel {
    pub(crate) fn read(reader: &mut Reader<'_>, domain_type: DomainType) -> Self {
        let path = reader.path("device_model_override");
        let version = read_version(reader, domain_type);
        if let (Some(_), false, Some(setting)) = (
            &path,
            reader.is_set("device_model_version"),
            reader.setting("device_model_override"),
        ) {
            let message = "the device model is replaced, but its version is not given";
            let statement = "device_model_version = \"qemu-xen\"";
            let help = format!("write `{statement}` besides");
            let remedy = Remedy::new(help, setting.preceded(statement));
            reader.warn(Code::Missing, setting.value.span, message, remedy);
        }
        Self {
            version,
            path,
            restrict: reader.flag("dm_restrict"),
            user: reader.filled("device_model_user"),
            args: reader.strings("device_model_args"),
            args_pv: reader.strings("device_model_args_pv"),
            args_hvm: reader.strings("device_model_args_hvm"),
            stubdomain: Stubdomain {
                enabled: reader.flag("device_model_stubdomain_override"),
                security_label: reader.filled("device_model_stubdomain_seclabel"),
                kernel: reader.path("stubdomain_kernel"),
                ramdisk: reader.path("stubdomain_ramdisk"),
                cmdline: reader.string("stubdomain_cmdline"),
                memory_mib: read_mib(reader, "stubdomain_memory"),
            },
        }
    }
}

fn read_version(reader: &mut Reader<'_>, domain_type: DomainType) -> Option<DeviceModelVersion> {
    let text = reader.text("device_model_version")?;
    if text.text == "qemu-xen-traditional" {
        refuse_traditional(reader, text, domain_type);
        return None;
    }
    reader.keyword("device_model_version")
}

/// xl takes it up to Xen 4.20, with a program that hardly any host has. Xyl has no part for it, and only an HVM guest
/// would be another one without it.
fn refuse_traditional(reader: &mut Reader<'_>, text: Text<'_>, domain_type: DomainType) {
    let span = text.whole_if_all();
    if domain_type == DomainType::Hvm {
        let message = "`qemu-xen-traditional` is not supported: Xen 4.21 has removed it";
        let remedy = Remedy::new("write `qemu-xen`", text.replaced("qemu-xen"));
        reader.error(Code::BadValue, span, message, remedy);
    } else {
        let message =
            format!("`qemu-xen-traditional` has no effect on a guest of type `{domain_type}`");
        let remedy = reader.take_out("device_model_version", "");
        reader.warn(Code::NoEffect, span, message, remedy);
    }
}
