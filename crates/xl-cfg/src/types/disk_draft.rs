//! Reads a disk description piece by piece into a draft.

use super::disk::{Disk, DiskBackend, DiskColo, DiskFormat, DiskSpecification};
use super::disk_lexer::{Piece, next};
use super::vdev::Vdev;
use crate::diag::{Code, Diagnostic, Remedy};
use crate::keyword::Keyword;
use crate::reader::Reader;
use crate::syntax::Text;

/// The access of a disk that others may write to at the same time.
const SHARED: &str = "w!";

/// The parts of a description that are read so far.
#[derive(Default)]
struct Draft<'a> {
    target: Option<Text<'a>>,
    format: Option<DiskFormat>,
    vdev: Option<Text<'a>>,
    access: Option<Text<'a>>,
    access_by_position: bool,
    has_prefix: bool,
    /// The parts in xend's notation.
    old: Vec<String>,
    cdrom: bool,
    backend: Option<Text<'a>>,
    backend_type: Option<DiskBackend>,
    script: Option<String>,
    direct_io_safe: bool,
    discard: Option<bool>,
    trusted: Option<bool>,
    specification: Option<DiskSpecification>,
    grant_usage: Option<bool>,
    colo: DiskColo,
    failed: bool,
}

/// Parses one description. Errors are reported to `reader`.
pub(super) fn parse(reader: &mut Reader<'_>, text: Text<'_>) -> Option<Disk> {
    let mut draft = Draft::default();
    let mut rest = text;
    while let Some(piece) = next(&mut rest) {
        match piece {
            Piece::Named { name, value } => draft.named(reader, name, value),
            Piece::Flag(flag) => draft.flag(flag),
            Piece::Prefix(prefix) => draft.prefix(reader, prefix),
            Piece::Positional(value) => draft.positional(reader, value),
            Piece::Bad(piece) => {
                let help = "a target with `=` or `,` in it goes last, as `target=...`";
                draft.fail(
                    reader,
                    piece,
                    "this is no parameter of a disk".to_owned(),
                    help,
                );
            }
        }
        if draft.failed {
            return None;
        }
    }
    let old = std::mem::take(&mut draft.old);
    let disk = draft.finish(reader, text)?;
    warn_of_old_notation(reader, text, &old, &disk);
    Some(disk)
}

/// xend's notation is taken; the description is shown as xl's manual has it.
fn warn_of_old_notation(reader: &mut Reader<'_>, text: Text<'_>, old: &[String], disk: &Disk) {
    if old.is_empty() {
        return;
    }
    let message = format!("xend's notation is deprecated: {}", old.join(", "));
    let new = disk.to_string();
    let edit = text
        .replaced(&new)
        .unwrap_or_else(|| text.whole_replaced(&new));
    let remedy = Remedy::new(format!("write `{new}`"), edit);
    reader.warn(Code::Deprecated, text.whole_if_all(), message, remedy);
}

const NAMES: [&str; 17] = [
    "target",
    "format",
    "vdev",
    "access",
    "devtype",
    "backend",
    "backendtype",
    "script",
    "specification",
    "grant_usage",
    "colo-host",
    "colo-port",
    "colo-export",
    "active-disk",
    "hidden-disk",
    "cdrom",
    "discard",
];

impl<'a> Draft<'a> {
    fn fail(
        &mut self,
        reader: &mut Reader<'_>,
        at: Text<'_>,
        message: String,
        remedy: impl Into<Remedy>,
    ) {
        self.failed = true;
        reader.error(Code::BadValue, at.span(), message, remedy);
    }

    fn named(&mut self, reader: &mut Reader<'_>, name: Text<'a>, value: Text<'a>) {
        match name.text {
            "target" => set(reader, &mut self.failed, &mut self.target, "target", value),
            "vdev" => set(reader, &mut self.failed, &mut self.vdev, "vdev", value),
            "backend" => set(
                reader,
                &mut self.failed,
                &mut self.backend,
                "backend",
                value,
            ),
            "access" => self.access = Some(value),
            "format" => self.set_format(reader, value),
            "devtype" => match value.text {
                "cdrom" => self.cdrom = true,
                "disk" => self.cdrom = false,
                _ => self.fail(
                    reader,
                    value,
                    format!("`devtype` cannot be `{}`", value.text),
                    "known are `disk` and `cdrom`",
                ),
            },
            "backendtype" => self.backend_type = self.keyword(reader, name, value),
            "specification" => self.specification = self.keyword(reader, name, value),
            "script" => self.set_script(reader, value, value.text.to_owned()),
            "grant_usage" => match value.text {
                "0" => self.grant_usage = Some(false),
                "1" => self.grant_usage = Some(true),
                _ => self.fail(
                    reader,
                    value,
                    "`grant_usage` is 0 or 1".into(),
                    "write 0 or 1",
                ),
            },
            "colo-host" => self.colo.host = Some(value.text.to_owned()),
            "colo-export" => self.colo.export = Some(value.text.to_owned()),
            "active-disk" => self.colo.active_disk = Some(value.text.to_owned()),
            "hidden-disk" => self.colo.hidden_disk = Some(value.text.to_owned()),
            "colo-port" => {
                let port = reader.number_in(value, "`colo-port`", "a port", 1..=65535);
                self.colo.port = port.and_then(|port| u32::try_from(port).ok());
                self.failed |= port.is_none();
            }
            other => {
                let otherwise = "a target with `=` in it goes last, as `target=...`";
                let remedy = reader.did_you_mean_or(name, NAMES.into_iter(), otherwise);
                self.fail(
                    reader,
                    name,
                    format!("disks have no parameter `{other}`"),
                    remedy,
                );
            }
        }
    }

    fn keyword<T: Keyword>(
        &mut self,
        reader: &mut Reader<'_>,
        name: Text<'a>,
        value: Text<'a>,
    ) -> Option<T> {
        let found = reader.keyword_in(value, &format!("`{}`", name.text), T::find);
        self.failed |= found.is_none();
        found
    }

    fn flag(&mut self, flag: Text<'a>) {
        match flag.text {
            "cdrom" => self.cdrom = true,
            "direct-io-safe" => self.direct_io_safe = true,
            "discard" => self.discard = Some(true),
            "no-discard" => self.discard = Some(false),
            "colo" => self.colo.enabled = Some(true),
            "no-colo" => self.colo.enabled = Some(false),
            "trusted" => self.trusted = Some(true),
            _ => self.trusted = Some(false),
        }
    }

    /// Applies xend's prefixes: formats, scripts, and obsolete ones.
    fn prefix(&mut self, reader: &mut Reader<'_>, prefix: Text<'a>) {
        match prefix.text {
            "raw" | "qcow" | "qcow2" | "vhd" => self.set_format(reader, prefix),
            script @ ("iscsi" | "nbd" | "enbd" | "drbd") => {
                self.set_script(reader, prefix, format!("block-{script}"));
            }
            "tapdisk" | "tap" | "tap2" | "aio" | "ioemu" | "file" | "phy" => {}
            other => {
                let message = format!("disks have no prefix `{other}:`");
                let help = "a target with a colon in it goes last, as `target=...`";
                return self.fail(reader, prefix, message, help);
            }
        }
        self.has_prefix = true;
        self.old.push(format!("`{}:`", prefix.text));
    }

    /// Target, format, vdev, access: whichever is the first that has not been given.
    fn positional(&mut self, reader: &mut Reader<'_>, value: Text<'a>) {
        let has_target = self.target.is_some_and(|target| !target.text.is_empty());
        if self.target.is_none() {
            self.target = Some(value);
        } else if !self.has_prefix && self.format.is_none() {
            if !has_target && self.vdev_and_type(reader, value) {
                self.format = Some(DiskFormat::Empty);
            } else {
                self.set_format(reader, value);
            }
        } else if self.vdev.is_none() {
            if !self.vdev_and_type(reader, value) {
                self.vdev = Some(value);
            }
        } else if !self.access_by_position {
            self.access_by_position = true;
            self.access = Some(value);
        } else {
            let help = "by position come target, format, vdev, access, and no more";
            let message = "too many parameters without a name".to_owned();
            self.fail(reader, value, message, help);
        }
    }

    /// xend's `hdc:cdrom`. False if the value is not of that form.
    fn vdev_and_type(&mut self, reader: &mut Reader<'_>, value: Text<'a>) -> bool {
        let Some(colon) = value.text.rfind(':') else {
            return false;
        };
        let (vdev, devtype) = (
            value.slice(0..colon),
            value.slice(colon + 1..value.text.len()),
        );
        match devtype.text {
            "cdrom" => self.cdrom = true,
            "disk" => self.cdrom = false,
            other => {
                let message = format!("`{other}` is no type of disk");
                self.fail(reader, devtype, message, "known are `disk` and `cdrom`");
                return true;
            }
        }
        self.old.push(format!("`{}`", value.text));
        set(reader, &mut self.failed, &mut self.vdev, "vdev", vdev);
        true
    }

    fn set_format(&mut self, reader: &mut Reader<'_>, value: Text<'a>) {
        let found = if value.text.is_empty() {
            Some(DiskFormat::Raw)
        } else {
            DiskFormat::find(value.text)
        };
        let Some(format) = found else {
            let known = DiskFormat::ALL.iter().map(|(name, _)| *name);
            let remedy = reader.did_you_mean(value, known);
            let message = format!("`{}` is no format of a disk", value.text);
            return self.fail(reader, value, message, remedy);
        };
        match self.format {
            Some(earlier) if earlier != format => {
                let message = format!("the format is `{earlier}` and `{format}`");
                self.fail(reader, value, message, "give one format");
            }
            _ => self.format = Some(format),
        }
    }

    fn set_script(&mut self, reader: &mut Reader<'_>, at: Text<'a>, script: String) {
        if self
            .script
            .as_ref()
            .is_some_and(|script| !script.is_empty())
        {
            return self.fail(
                reader,
                at,
                "the script is given twice".into(),
                "give it once",
            );
        }
        self.script = Some(script);
    }

    fn finish(self, reader: &mut Reader<'_>, whole: Text<'_>) -> Option<Disk> {
        let target = self
            .target
            .map(|target| target.text.to_owned())
            .filter(|target| !target.is_empty());
        let Some(vdev_text) = self.vdev.filter(|vdev| !vdev.text.is_empty()) else {
            let help = "give the guest's name for it, as in `vdev=xvda`";
            reader.error(
                Code::Missing,
                whole.whole_if_all(),
                "this disk has no `vdev`",
                help,
            );
            return None;
        };
        let Some(vdev) = Vdev::parse(vdev_text.text) else {
            let help = "guests see disks as `xvda`, `xvdb1`, `hda`, `sda` and the like";
            let message = format!("`{}` is no virtual disk", vdev_text.text);
            reader.error(Code::BadValue, vdev_text.span(), message, help);
            return None;
        };
        if target.is_none() && !self.cdrom {
            let help =
                "name an image or device, as in `target=/srv/image`; only a CD drive can be empty";
            reader.error(
                Code::Missing,
                whole.whole_if_all(),
                "this disk has no target",
                help,
            );
            return None;
        }
        let writable = self.writable(reader)?;
        let shared = writable && self.access.is_some_and(|access| access.text == SHARED);
        let format = match (&target, self.format) {
            (None, _) => DiskFormat::Empty,
            (Some(_), format) => format.unwrap_or(DiskFormat::Raw),
        };
        if target.is_some() && format == DiskFormat::Empty {
            let help = "take the target out, or give the format that it has";
            reader.error(
                Code::Conflict,
                whole.whole_if_all(),
                "this disk has a target, but the format `empty`",
                help,
            );
            return None;
        }
        Some(Disk {
            target,
            format,
            vdev,
            writable,
            shared,
            cdrom: self.cdrom,
            backend: self
                .backend
                .map(|backend| backend.text.to_owned())
                .filter(|backend| !backend.is_empty()),
            backend_type: self.backend_type,
            script: self.script.filter(|script| !script.is_empty()),
            direct_io_safe: self.direct_io_safe,
            discard: self.discard,
            trusted: self.trusted,
            specification: self.specification,
            grant_usage: self.grant_usage,
            colo: self.colo,
        })
    }

    fn writable(&self, reader: &mut Reader<'_>) -> Option<bool> {
        let Some(access) = self.access else {
            return Some(!self.cdrom);
        };
        let writable = match access.text {
            "r" | "ro" => false,
            "" => !self.cdrom,
            "w" | "rw" | SHARED if self.cdrom => {
                reader.warn(
                    Code::NoEffect,
                    access.span(),
                    "a CD drive is read-only",
                    Remedy::new("write `ro`", access.replaced("ro")),
                );
                false
            }
            "w" | "rw" | SHARED => true,
            other => {
                let message = format!("`{other}` is no way to access a disk");
                reader.error(
                    Code::BadValue,
                    access.span(),
                    message,
                    "known are `ro` (or `r`), `rw` (or `w`), and `w!` for a disk that others write to at the same time",
                );
                return None;
            }
        };
        Some(writable)
    }
}

/// Sets a parameter that may be given once. An empty one may be given again.
fn set<'a>(
    reader: &mut Reader<'_>,
    failed: &mut bool,
    slot: &mut Option<Text<'a>>,
    name: &str,
    value: Text<'a>,
) {
    if let Some(earlier) = slot.filter(|earlier| !earlier.text.is_empty()) {
        *failed = true;
        let message = format!("`{name}` is given twice");
        reader.diags.push(
            Diagnostic::error(Code::Duplicate, value.span(), message)
                .note_at(earlier.span(), "it is given here first")
                .help("take one of them out"),
        );
        return;
    }
    *slot = Some(value);
}
