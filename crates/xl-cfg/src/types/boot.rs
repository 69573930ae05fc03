//! The boot settings of a guest: kernel, ramdisk, command line, bootloader.

use serde::{Deserialize, Serialize};

use crate::diag::{Code, Diagnostic};
use crate::keys::DomainType;
use crate::reader::Reader;
use crate::syntax::{NodeKind, Value};

/// The boot settings of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Path of the kernel.
    pub kernel: Option<String>,
    /// Path of the ramdisk.
    pub ramdisk: Option<String>,
    /// The kernel's command line: `cmdline`, else made of `root` and `extra`.
    pub cmdline: Option<String>,
    /// The program that finds a kernel on the guest's disk.
    pub bootloader: Option<String>,
    /// Arguments of the bootloader.
    pub bootloader_args: Vec<String>,
    /// Whether it runs confined. `None`: confined if `bootloader_user` is set.
    pub bootloader_restrict: Option<bool>,
    /// The user that it runs as.
    pub bootloader_user: Option<String>,
    /// `firmware`: for HVM a firmware's name or path, else `pvgrub32` or `pvgrub64`.
    pub firmware: Option<String>,
    /// The partial device tree for the guest (Arm).
    pub device_tree: Option<String>,
    /// The shim that a PV kernel runs in, for PVH guests.
    pub shim: PvShim,
}

/// The shim: a small hypervisor inside a PVH guest, for a PV kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvShim {
    /// Whether there is one (`pvshim`).
    pub enabled: bool,
    /// Path of the shim; `None` for the default.
    pub path: Option<String>,
    /// Command line of the shim; `None` for the default.
    pub cmdline: Option<String>,
    /// Text that is appended to its command line.
    pub extra: Option<String>,
}

impl Boot {
    pub(crate) fn read(reader: &mut Reader<'_>, domain_type: DomainType) -> Self {
        let is_hvm = domain_type == DomainType::Hvm;
        let boot = Self {
            kernel: read_kernel(reader, is_hvm),
            // An empty path is none, as in libxl.
            ramdisk: reader.string("ramdisk").filter(|path| !path.is_empty()),
            cmdline: read_cmdline(reader),
            bootloader: if is_hvm {
                None
            } else {
                reader.filled("bootloader")
            },
            bootloader_args: read_bootloader_args(reader),
            bootloader_restrict: reader.flag("bootloader_restrict"),
            bootloader_user: reader.filled("bootloader_user"),
            firmware: reader.filled("firmware"),
            device_tree: reader.path("device_tree"),
            shim: PvShim::of(reader, domain_type),
        };
        if is_hvm {
            boot.check_direct_boot(reader)
        } else {
            boot.check_firmware(reader, domain_type)
        }
        boot
    }

    /// Checks that the configuration has something to boot. Without it, an HVM guest boots from its disks.
    pub(crate) fn check_complete(&self, domain_type: DomainType, reader: &mut Reader<'_>) {
        let has = self.kernel.is_some() || self.bootloader.is_some() || self.firmware.is_some();
        let is_wrong = ["kernel", "bootloader", "firmware"].iter().any(|key| {
            let span = reader.span(key);
            span.is_some_and(|span| reader.diags.has_error_in(span))
        });
        if domain_type != DomainType::Hvm && !has && !is_wrong {
            let message = "there is no `kernel`: the guest has nothing to boot";
            let help = "name one, as in `kernel = \"/boot/vmlinuz\"`; a PV guest with a kernel on its own disk has `firmware = \"pvgrub64\"` instead";
            reader
                .diags
                .push(Diagnostic::error(Code::Missing, None, message).help(help));
        }
    }

    fn check_direct_boot(&self, reader: &mut Reader<'_>) {
        if self.kernel.is_some() || reader.is_set("kernel") {
            return;
        }
        for key in ["ramdisk", "cmdline", "root", "extra"] {
            if let Some(span) = reader.span(key) {
                let message = format!("`{key}` without `kernel` in an HVM guest");
                reader.error(
                    Code::Conflict,
                    span,
                    message,
                    "give a `kernel`, or take the line out",
                );
            }
        }
    }

    fn check_firmware(&self, reader: &mut Reader<'_>, domain_type: DomainType) {
        let (Some(firmware), Some(span)) = (&self.firmware, reader.span("firmware")) else {
            return;
        };
        if !matches!(firmware.as_str(), "pvgrub32" | "pvgrub64") {
            let message =
                format!("the firmware of a guest of type `{domain_type}` cannot be `{firmware}`");
            reader.error(
                Code::BadValue,
                span,
                message,
                "known are `pvgrub32` and `pvgrub64`",
            );
        }
        if let Some(kernel_span) = reader.span("kernel") {
            let message = "`firmware` and `kernel` both say what to boot";
            reader.diags.push(
                Diagnostic::error(Code::Conflict, span, message)
                    .note_at(kernel_span, "`kernel` is set here")
                    .help("take one of them out"),
            );
        }
    }
}

impl PvShim {
    fn of(reader: &mut Reader<'_>, domain_type: DomainType) -> Self {
        match domain_type {
            DomainType::Pvh => return Self::read(reader),
            DomainType::Pv => warn_of_shim_without_pvh(reader),
            DomainType::Hvm => {}
        }
        Self::default()
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        let shim = Self {
            enabled: reader.flag("pvshim").unwrap_or(false),
            path: reader.path("pvshim_path"),
            cmdline: reader.string("pvshim_cmdline"),
            extra: reader.string("pvshim_extra"),
        };
        for key in ["pvshim_path", "pvshim_cmdline", "pvshim_extra"] {
            if let (false, Some(setting)) = (shim.enabled, reader.setting(key)) {
                let message = format!("`{key}` has no effect without the shim");
                reader.warn(
                    Code::NoEffect,
                    setting.key_span,
                    message,
                    "set `pvshim` to 1 to start the guest in the shim",
                );
            }
        }
        shim
    }
}

/// A PV guest's `pvshim = 0` asks for a bare start, which the host's policy reads; `pvshim = 1` means nothing there.
fn warn_of_shim_without_pvh(reader: &mut Reader<'_>) {
    if let (Some(true), Some(span)) = (reader.flag("pvshim"), reader.span("pvshim")) {
        reader.warn(
            Code::NoEffect,
            span,
            "`pvshim` has no effect: this guest is of type `pv`",
            "only a guest of type `pvh` starts in the PV shim: set `type`",
        );
    }
}

/// The kernel. xl ignores a `kernel` that is hvmloader in an HVM guest: old configurations have it.
fn read_kernel(reader: &mut Reader<'_>, is_hvm: bool) -> Option<String> {
    let kernel = if is_hvm {
        reader.path("kernel")?
    } else {
        reader.wanted("kernel", "a path", "name a kernel, as in `/boot/vmlinuz`")?
    };
    if is_hvm && kernel.rsplit('/').next() == Some("hvmloader") {
        let span = reader.span("kernel")?;
        let why = "; `firmware_override` sets another firmware than the usual one";
        let remedy = reader.take_out("kernel", why);
        reader.warn(
            Code::NoEffect,
            span,
            "`kernel` has no effect: hvmloader is used anyway",
            remedy,
        );
        return None;
    }
    Some(kernel)
}

fn read_cmdline(reader: &mut Reader<'_>) -> Option<String> {
    let cmdline = reader.string("cmdline");
    let (root, extra) = (reader.string("root"), reader.string("extra"));
    if let (Some(cmdline), Some(cmdline_span)) = (cmdline, reader.span("cmdline")) {
        for key in ["root", "extra"] {
            if let Some(setting) = reader.setting(key) {
                reader.diags.push(
                    Diagnostic::warning(
                        Code::NoEffect,
                        setting.key_span,
                        format!("`{key}` has no effect: `cmdline` is set"),
                    )
                    .note_at(cmdline_span, "`cmdline` is set here")
                    .help("put it into `cmdline`"),
                );
            }
        }
        return Some(cmdline);
    }
    match (root, extra) {
        (Some(root), Some(extra)) => Some(format!("root={root} {extra}")),
        (Some(root), None) => Some(format!("root={root}")),
        (None, extra) => extra,
    }
}

/// Reads a list of arguments, or one text of words.
fn read_bootloader_args(reader: &mut Reader<'_>) -> Vec<String> {
    let key = "bootloader_args";
    let Some(setting) = reader.setting(key) else {
        return Vec::new();
    };
    if matches!(setting.value.kind, NodeKind::List(_)) {
        return reader.strings(key);
    }
    let words = reader.string(key).unwrap_or_default();
    let words: Vec<String> = words
        .split([' ', '\t', '\n'])
        .filter(|word| !word.is_empty())
        .map(String::from)
        .collect();
    let list = Value::List(words.iter().cloned().map(Value::Atom).collect());
    reader.warn(
        Code::Deprecated,
        setting.value.span,
        format!("`{key}` as one text is deprecated"),
        setting.write(&list, ""),
    );
    words
}
