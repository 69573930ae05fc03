//! Disks in libxl's record.

use std::path::PathBuf;

use serde_json::{Value as Json, json};
use xl_cfg::types::Vdev;

use crate::device::hotplug::{backend_of_json, says_nothing};
use crate::vm::disk::{Access, Disk, ImageFormat, Server};

/// A disk in libxl's record (`libxl_device_disk`). Its `defbool` members are texts, `direct_io_safe` is a `bool`.
pub(super) fn to_json(disk: &Disk) -> Json {
    let word = |value: bool| json!(if value { "True" } else { "False" });
    let always = [
        ("pdev_path", json!(disk.target.display().to_string())),
        ("vdev", json!(disk.vdev.name)),
        ("backend", json!(disk.server.word())),
        ("format", json!(disk.format.word())),
        ("readwrite", json!(u8::from(disk.is_writable()))),
        ("discard_enable", word(disk.may_discard())),
        ("trusted", word(disk.is_trusted())),
    ];
    let cdrom = [("removable", json!(1)), ("is_cdrom", json!(1))];
    let cdrom = cdrom.into_iter().filter(|_| disk.is_cdrom);
    let safe = [("direct_io_safe", json!(true))];
    let safe = safe.into_iter().filter(|_| disk.direct_io_safe);
    let elsewhere = [
        ("backend_domname", disk.backend.as_ref()),
        ("script", disk.script.as_ref()),
    ];
    let elsewhere = elsewhere.into_iter();
    let elsewhere = elsewhere.filter_map(|(name, word)| Some((name, json!(word?))));
    let members = always.into_iter().chain(cdrom).chain(safe);
    let members = members.chain(elsewhere);
    members
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The members of a disk that Xyl knows, and those that say nothing about what it serves.
const KNOWN: [&str; 14] = [
    "backend_domid",
    "backend_domname",
    "script",
    "pdev_path",
    "vdev",
    "backend",
    "format",
    "readwrite",
    "discard_enable",
    "trusted",
    "removable",
    "is_cdrom",
    "direct_io_safe",
    "specification",
];

/// A disk of libxl's record as xl.cfg says it; `None` where neither blkback nor QEMU serves it, or the record says what Xyl does not know.
pub(super) fn cfg_of_json(entry: &Json) -> Option<String> {
    let members = entry.as_object()?;
    let says = |name: &str| members.get(name).filter(|value| !says_nothing(value));
    let is_unknown = |name: &String| !KNOWN.contains(&name.as_str()) && says(name).is_some();
    let text = |name: &str| members.get(name).and_then(Json::as_str);
    let is = |name: &str, wanted: &str| text(name).is_none_or(|word| word == wanted);
    if members.keys().any(is_unknown) || !is("specification", "xen") {
        return None;
    }
    let backend = backend_of_json(entry)?;
    let script = says("script").and_then(Json::as_str).map(str::to_owned);
    let format = ImageFormat::find(text("format").unwrap_or("raw"))?;
    let server = match text("backend") {
        None | Some("phy") if format == ImageFormat::Raw => Server::Kernel,
        Some("qdisk") if backend.is_none() => Server::Qemu,
        _ => return None,
    };
    let target = text("pdev_path").filter(|path| backend.is_some() || path.starts_with('/'))?;
    if script.is_some() && backend.is_none() {
        return None;
    }
    let is_writable = says("readwrite").is_some();
    let flag = |name: &str| text(name).map(|word| word == "True");
    let disk = Disk {
        target: PathBuf::from(target),
        vdev: Vdev::parse(text("vdev")?)?,
        format,
        server,
        access: if is_writable {
            Access::Write
        } else {
            Access::Read
        },
        is_cdrom: says("is_cdrom").is_some(),
        discard: flag("discard_enable").filter(|discard| *discard != is_writable),
        direct_io_safe: says("direct_io_safe").is_some(),
        trusted: flag("trusted").filter(|trusted| *trusted != backend.is_none()),
        backend,
        script,
    };
    Some(disk.cfg_text())
}
