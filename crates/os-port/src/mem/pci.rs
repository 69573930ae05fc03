//! PCI devices and their drivers in a simulated sysfs: what writes to the files of a driver do.
//!
//! `MemKernelFiles` has the files. A device has at most one driver; the driver `pciback` takes devices alone that are among its slots.
//!
//! Facts: `drivers/pci/pci-driver.c`, `drivers/base/bus.c` and `drivers/xen/xen-pciback/pci_stub.c` of Linux.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::programs::Entry;

const DEVICES: &str = "/sys/bus/pci/devices";
const DRIVERS: &str = "/sys/bus/pci/drivers";
/// The driver of devices for guests.
const PCIBACK: &str = "pciback";
/// The file with its slots, a line each.
const SLOTS: &str = "/sys/bus/pci/drivers/pciback/slots";
/// The file with the permissive ones among its devices, a line each.
const PERMISSIVE: &str = "/sys/bus/pci/drivers/pciback/permissive";
/// Linux's error numbers.
const ENODEV: i32 = 19;
const EBUSY: i32 = 16;

type Entries = BTreeMap<PathBuf, Entry>;

pub(super) fn add(
    entries: &mut Entries,
    address: &str,
    files: &[(&str, &str)],
    driver: Option<&str>,
) {
    for (name, text) in files {
        let path = Path::new(DEVICES).join(address).join(name);
        entries.insert(path, Entry::File(text.as_bytes().to_vec()));
    }
    if let Some(driver) = driver {
        add_driver(entries, driver);
        bind(entries, address, driver);
    }
}

pub(super) fn add_driver(entries: &mut Entries, name: &str) {
    let mut files = vec!["bind", "unbind"];
    if name == PCIBACK {
        files.extend(["slots", "new_slot", "remove_slot", "permissive"]);
    }
    for file in files {
        let path = Path::new(DRIVERS).join(name).join(file);
        entries.entry(path).or_insert(Entry::File(Vec::new()));
    }
}

/// A write to the file of a driver.
pub(super) fn write(entries: &mut Entries, path: &Path, bytes: &[u8]) -> io::Result<()> {
    if !entries.contains_key(path) {
        return Err(ErrorKind::NotFound.into());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ErrorKind::InvalidInput)?;
    let mut parts = path.strip_prefix(DRIVERS).map_err(denied)?.iter();
    let part =
        |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).map(str::to_owned);
    let (driver, file) = (part(parts.next()), part(parts.next()));
    let (Some(driver), Some(file)) = (driver, file) else {
        return Err(ErrorKind::PermissionDenied.into());
    };
    match file.as_str() {
        "bind" => try_bind(entries, text, &driver),
        "unbind" if driver_of(entries, text).as_deref() == Some(&driver) => {
            entries.remove(&Path::new(DEVICES).join(text).join("driver"));
            entries.remove(&Path::new(DRIVERS).join(&driver).join(text));
            change_lines(entries, PERMISSIVE, |lines| lines.retain(|one| one != text));
            Ok(())
        }
        "new_slot" => {
            change_lines(entries, SLOTS, |lines| lines.push(text.to_owned()));
            Ok(())
        }
        "remove_slot" => {
            change_lines(entries, SLOTS, |lines| lines.retain(|one| one != text));
            Ok(())
        }
        "permissive" if driver_of(entries, text).as_deref() == Some(PCIBACK) => {
            change_lines(entries, PERMISSIVE, |lines| lines.push(text.to_owned()));
            Ok(())
        }
        _ => Err(io::Error::from_raw_os_error(ENODEV)),
    }
}

fn denied(_: std::path::StripPrefixError) -> io::Error {
    ErrorKind::PermissionDenied.into()
}

fn try_bind(entries: &mut Entries, address: &str, driver: &str) -> io::Result<()> {
    let is_there = entries
        .keys()
        .any(|path| path.starts_with(Path::new(DEVICES).join(address)));
    let has_slot = driver != PCIBACK || lines(entries, SLOTS).iter().any(|slot| slot == address);
    if !is_there || !has_slot {
        return Err(io::Error::from_raw_os_error(ENODEV));
    }
    if driver_of(entries, address).is_some() {
        return Err(io::Error::from_raw_os_error(EBUSY));
    }
    bind(entries, address, driver);
    Ok(())
}

fn bind(entries: &mut Entries, address: &str, driver: &str) {
    let driver_folder = Path::new(DRIVERS).join(driver);
    let device = Path::new(DEVICES).join(address);
    entries.insert(driver_folder.join(address), Entry::Link(device.clone()));
    entries.insert(device.join("driver"), Entry::Link(driver_folder));
}

fn driver_of(entries: &Entries, address: &str) -> Option<String> {
    match entries.get(&Path::new(DEVICES).join(address).join("driver"))? {
        Entry::Link(target) => Some(target.file_name()?.to_str()?.to_owned()),
        _ => None,
    }
}

fn lines(entries: &Entries, path: &str) -> Vec<String> {
    match entries.get(Path::new(path)) {
        Some(Entry::File(bytes)) => {
            let text = String::from_utf8_lossy(bytes);
            text.lines().map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Changes the lines of a file, if it is there.
fn change_lines(entries: &mut Entries, path: &str, change: impl FnOnce(&mut Vec<String>)) {
    let mut changed = lines(entries, path);
    change(&mut changed);
    let text: String = changed.into_iter().map(|line| line + "\n").collect();
    if let Some(entry) = entries.get_mut(Path::new(path)) {
        *entry = Entry::File(text.into_bytes());
    }
}
