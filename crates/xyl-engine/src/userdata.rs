//! libxl's record of a domain's configuration.
//!
//! `xl list -l`, `xl destroy` and the others look for
//! `/var/lib/xen/userdata-d.DOMID.UUID.libxl-json`; a domain of ours gets one, so that xl takes it
//! for one of its own. Only what libxl cannot default is written. Facts: libxl's `libxl_types.idl`
//! and the files that xl 4.17 and 4.20 write.

use std::path::{Path, PathBuf};

use os_port::{Files, list_if_there, remove_if_there};
use serde_json::{Map, Value, json};
use xen_port::DomId;

use crate::EngineError;
use crate::record::write_whole;
use crate::spec::VmSpec;

/// What the record says.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// `pv` or `pvh`.
    pub kind: &'static str,
    /// Name.
    pub name: &'a str,
    /// UUID in text.
    pub uuid: &'a str,
    /// vCPUs that it may have.
    pub max_vcpus: u32,
    /// vCPUs online at the start: 0 to this, less one.
    pub vcpus: u32,
    /// Memory limit in KiB.
    pub max_kib: u64,
    /// Memory at the start in KiB.
    pub target_kib: u64,
    /// Paging memory in KiB.
    pub shadow_kib: u64,
    /// Kernel's path.
    pub kernel: &'a str,
    /// Ramdisk's path.
    pub ramdisk: Option<&'a str>,
    /// Command line.
    pub cmdline: Option<&'a str>,
    /// The actions on poweroff, reboot, watchdog, crash and soft reset, in libxl's words.
    pub on: [(&'static str, &'static str); 5],
}

impl<'a> Record<'a> {
    /// The record of a VM to be; `uuid` is its UUID in text.
    pub fn of(spec: &'a VmSpec, uuid: &'a str, shadow_kib: u64) -> Record<'a> {
        Record {
            kind: spec.kind_text(),
            name: &spec.name,
            uuid,
            max_vcpus: spec.max_vcpus,
            vcpus: spec.vcpus,
            max_kib: spec.max_kib,
            target_kib: spec.target_kib,
            shadow_kib,
            kernel: spec.kernel.to_str().unwrap_or(""),
            ramdisk: spec.ramdisk.as_deref().and_then(|path| path.to_str()),
            cmdline: spec.cmdline.as_deref(),
            on: [
                ("on_poweroff", spec.on.poweroff.libxl_name()),
                ("on_reboot", spec.on.reboot.libxl_name()),
                ("on_watchdog", spec.on.watchdog.libxl_name()),
                ("on_crash", spec.on.crash.libxl_name()),
                ("on_soft_reset", spec.on.soft_reset.libxl_name()),
            ],
        }
    }
}

/// The record as libxl's JSON.
pub fn to_json(record: &Record<'_>) -> Value {
    let mut b_info = json!({
        "max_vcpus": record.max_vcpus,
        "avail_vcpus": (0..record.vcpus).collect::<Vec<u32>>(),
        "max_memkb": record.max_kib,
        "target_memkb": record.target_kib,
        "shadow_memkb": record.shadow_kib,
        "kernel": record.kernel,
    });
    if let Some(map) = b_info.as_object_mut() {
        if let Some(ramdisk) = record.ramdisk {
            map.insert("ramdisk".to_owned(), ramdisk.into());
        }
        if let Some(cmdline) = record.cmdline {
            map.insert("cmdline".to_owned(), cmdline.into());
        }
        map.insert(format!("type.{}", record.kind), Value::Object(Map::new()));
    }
    let mut top = json!({
        "c_info": {
            "type": record.kind,
            "name": record.name,
            "uuid": record.uuid,
            "run_hotplug_scripts": "True",
        },
        "b_info": b_info,
    });
    if let Some(map) = top.as_object_mut() {
        for (event, action) in record.on {
            map.insert(event.to_owned(), action.into());
        }
    }
    top
}

/// The record's path.
pub fn path(xen_lib: &Path, domid: DomId, uuid: &str) -> PathBuf {
    xen_lib.join(format!("userdata-d.{domid}.{uuid}.libxl-json"))
}

/// Writes the record, whole or not at all.
pub fn write(
    files: &dyn Files,
    xen_lib: &Path,
    domid: DomId,
    record: &Record<'_>,
) -> Result<(), EngineError> {
    let path = path(xen_lib, domid, record.uuid);
    let new = xen_lib.join(format!("userdata-n.{domid}.{}.libxl-json", record.uuid));
    files
        .create_folder(xen_lib)
        .map_err(|source| EngineError::io("create folder", xen_lib, source))?;
    write_whole(files, &new, &path, to_json(record).to_string().as_bytes())
}

/// Removes every userdata file of the domain, ours and those that xl added.
pub fn remove_all(
    files: &dyn Files,
    xen_lib: &Path,
    domid: DomId,
    uuid: &str,
) -> Result<(), EngineError> {
    let middle = format!(".{domid}.{uuid}.");
    let names =
        list_if_there(files, xen_lib).map_err(|source| EngineError::io("list", xen_lib, source))?;
    for name in names {
        if name.starts_with("userdata-") && name.contains(&middle) {
            let path = xen_lib.join(name);
            remove_if_there(files, &path)
                .map_err(|source| EngineError::io("remove", &path, source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use os_port::SystemFiles;

    use super::*;

    fn record() -> Record<'static> {
        Record {
            kind: "pv",
            name: "g",
            uuid: "u-1",
            max_vcpus: 2,
            vcpus: 1,
            max_kib: 65536,
            target_kib: 65536,
            shadow_kib: 1280,
            kernel: "/k",
            ramdisk: None,
            cmdline: Some("quiet \"x\""),
            on: [
                ("on_poweroff", "destroy"),
                ("on_reboot", "restart"),
                ("on_watchdog", "destroy"),
                ("on_crash", "destroy"),
                ("on_soft_reset", "soft_reset"),
            ],
        }
    }

    #[test]
    fn is_written_whole_and_removed_with_its_kin() {
        let folder = tempfile::tempdir().unwrap();
        write(&SystemFiles, folder.path(), DomId(3), &record()).unwrap();
        let file = path(folder.path(), DomId(3), "u-1");
        let value: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(value["b_info"]["cmdline"], "quiet \"x\"");
        assert_eq!(value["b_info"]["avail_vcpus"], json!([0]));
        assert_eq!(value["on_reboot"], "restart");
        let kin = folder.path().join("userdata-d.3.u-1.xl");
        let other = folder.path().join("userdata-d.33.u-1.xl");
        fs::write(&kin, "").unwrap();
        fs::write(&other, "").unwrap();
        remove_all(&SystemFiles, folder.path(), DomId(3), "u-1").unwrap();
        assert!(!file.exists() && !kin.exists() && other.exists());
    }
}
