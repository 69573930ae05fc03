//! Xen's firmware folder, the boot loaders that `firmware` names, and the files of an HVM guest: hvmloader, SeaBIOS, OVMF.
//!
//! `firmware = "pvgrub64"` starts GRUB as a PV kernel. GRUB reads the guest's disk inside the guest, so no process of
//! domain 0 does. xl looks for `pvgrub32.bin` and `pvgrub64.bin` in Xen's firmware folder alone. Debian packages no such
//! files: its GRUB for Xen is elsewhere, under other names. Xyl looks at both places.
//!
//! Facts: xl.cfg(5); `tools/xl/xl_parse.c` (`XENFIRMWAREDIR`); `libxl_dom.c` (`SEABIOS_PATH`, `OVMF_PATH`); the files of Debian's packages
//! `grub-xen-host`, `seabios` and `ovmf`, and of openSUSE's `grub2-x86_64-xen` and `grub2-i386-xen`.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use os_port::{Accepts, Files, Opening};
use xl_cfg::types::Bios;

use crate::EngineError;

/// Folders below /usr where distributions and Xen's own installation put Xen's firmware.
pub(crate) const FOLDERS: [&str; 4] = [
    "lib/xen/boot",
    "libexec/xen/boot",
    "local/lib/xen/boot",
    "local/libexec/xen/boot",
];
/// The same for the programs that only Xen's tools start (`LIBEXEC_BIN`).
const FOLDERS_OF_PROGRAMS: [&str; 4] = [
    "lib/xen/bin",
    "libexec/xen/bin",
    "local/lib/xen/bin",
    "local/libexec/xen/bin",
];
/// GRUB for 32-bit PV guests as distributions install it, below /usr.
const GRUB_32: [&str; 2] = [
    "lib/grub-xen/grub-i386-xen.bin",
    "share/grub2/i386-xen/grub.xen",
];
/// GRUB for 64-bit PV guests as distributions install it, below /usr.
const GRUB_64: [&str; 2] = [
    "lib/grub-xen/grub-x86_64-xen.bin",
    "share/grub2/x86_64-xen/grub.xen",
];

/// Name of hvmloader in Xen's firmware folder.
const HVMLOADER: &str = "hvmloader";
/// SeaBIOS as distributions install it, below /usr. Xen's own installation has it as `seabios.bin`.
const SEABIOS: [&str; 3] = [
    "share/seabios/bios-256k.bin",
    "share/qemu/bios-256k.bin",
    "share/seabios/bios.bin",
];
/// OVMF as distributions install it, in one file, below /usr. Xen's own installation has it as `ovmf.bin`.
const OVMF: [&str; 3] = [
    "share/ovmf/OVMF.fd",
    "share/OVMF/OVMF.fd",
    "share/qemu/ovmf-x86_64-xen-4m.bin",
];

/// Possible paths of a file of Xen's firmware folder. With a release of Xen (major, minor), Debian's folder of that
/// release comes first.
pub(crate) fn places(usr: &Path, release: Option<(u16, u16)>, name: &str) -> Vec<PathBuf> {
    places_in(usr, release, ("boot", FOLDERS), name)
}

/// The same for a program of Xen's tools.
pub(crate) fn places_of_program(
    usr: &Path,
    release: Option<(u16, u16)>,
    name: &str,
) -> Vec<PathBuf> {
    places_in(usr, release, ("bin", FOLDERS_OF_PROGRAMS), name)
}

fn places_in(
    usr: &Path,
    release: Option<(u16, u16)>,
    (kind, folders): (&str, [&str; 4]),
    name: &str,
) -> Vec<PathBuf> {
    let own = release.map(|(major, minor)| format!("lib/xen-{major}.{minor}/{kind}"));
    own.as_deref()
        .into_iter()
        .chain(folders)
        .map(|folder| usr.join(folder).join(name))
        .collect()
}

/// Path of the boot loader that `firmware` names: `pvgrub32` or `pvgrub64`. `release` is the running Xen's major and minor
/// version; `None` if Xen is not running, as for a dry run on another machine.
///
/// # Errors
/// [`EngineError::NoFirmware`] if this host has none of the possible files.
pub fn find(
    files: &dyn Files,
    usr: &Path,
    release: Option<(u16, u16)>,
    firmware: &str,
) -> Result<PathBuf, EngineError> {
    let packaged = match firmware {
        "pvgrub32" => GRUB_32,
        _ => GRUB_64,
    };
    let name = format!("{firmware}.bin");
    first_of(
        files,
        usr,
        firmware,
        (places(usr, release, &name), &packaged),
    )
}

/// Path of hvmloader. `release` is as for [`find`].
///
/// # Errors
/// [`EngineError::NoFirmware`] if this host has none of the possible files.
pub fn find_hvmloader(
    files: &dyn Files,
    usr: &Path,
    release: Option<(u16, u16)>,
) -> Result<PathBuf, EngineError> {
    let mut all = places(usr, release, HVMLOADER);
    if release.is_none() {
        // Which release will run is not known, and Debian has a folder for each.
        let names = files.list(&usr.join("lib")).unwrap_or_default();
        let releases = names.iter().filter(|name| name.starts_with("xen-"));
        let folders = releases.map(|name| usr.join("lib").join(name).join("boot"));
        all.extend(folders.map(|folder| folder.join(HVMLOADER)));
    }
    first_of(files, usr, HVMLOADER, (all, &[]))
}

/// Path of the firmware that `bios` names. `release` is as for [`find`].
///
/// # Errors
/// [`EngineError::NoFirmware`] if this host has none of the possible files.
pub fn find_bios(
    files: &dyn Files,
    usr: &Path,
    release: Option<(u16, u16)>,
    bios: Bios,
) -> Result<PathBuf, EngineError> {
    let packaged: &[&str] = match bios {
        Bios::Ovmf => &OVMF,
        _ => &SEABIOS,
    };
    let firmware = bios.to_string();
    let places = places(usr, release, &format!("{firmware}.bin"));
    first_of(files, usr, &firmware, (places, packaged))
}

/// The first file that is there: at these places, or where distributions have it below /usr.
fn first_of(
    files: &dyn Files,
    usr: &Path,
    firmware: &str,
    (mut looked_at, packaged): (Vec<PathBuf>, &[&str]),
) -> Result<PathBuf, EngineError> {
    looked_at.extend(packaged.iter().map(|path| usr.join(path)));
    match looked_at.iter().position(|path| is_there(files, path)) {
        Some(found) => Ok(looked_at.swap_remove(found)),
        None => Err(EngineError::NoFirmware {
            firmware: firmware.to_owned(),
            looked_at,
        }),
    }
}

/// Whether there is something at the path. A file that cannot be opened is there: its own error says more.
fn is_there(files: &dyn Files, path: &Path) -> bool {
    let opening = Opening {
        accepts: Accepts::Regular,
        ..Opening::disk(false)
    };
    match files.open(path, &opening) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use os_port::SystemFiles;

    use super::*;

    fn with_files(names: &[&str]) -> tempfile::TempDir {
        let usr = tempfile::tempdir().unwrap();
        for name in names {
            let path = usr.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"grub").unwrap();
        }
        usr
    }

    #[test]
    fn the_file_of_xens_own_folder_comes_before_the_distributions() {
        let debian = [
            "lib/grub-xen/grub-x86_64-xen.bin",
            "lib/grub-xen/grub-i386-xen.bin",
        ];
        let usr = with_files(&debian);
        let find = |firmware| find(&SystemFiles, usr.path(), Some((4, 17)), firmware).unwrap();
        assert_eq!(find("pvgrub64"), usr.path().join(debian[0]));
        assert_eq!(find("pvgrub32"), usr.path().join(debian[1]));
        let own = usr.path().join("lib/xen-4.17/boot/pvgrub64.bin");
        std::fs::create_dir_all(own.parent().unwrap()).unwrap();
        std::fs::write(&own, b"grub").unwrap();
        assert_eq!(find("pvgrub64"), own);
        assert_eq!(find("pvgrub32"), usr.path().join(debian[1]));
    }

    #[test]
    fn hvmloader_and_its_firmware_are_where_debian_has_them() {
        let debian = [
            "lib/xen-4.17/boot/hvmloader",
            "share/seabios/bios-256k.bin",
            "share/ovmf/OVMF.fd",
        ];
        let usr = with_files(&debian);
        let (files, at, release) = (&SystemFiles, usr.path(), Some((4, 17)));
        let found = find_hvmloader(files, at, release).unwrap();
        assert_eq!(found, at.join(debian[0]));
        for (bios, wanted) in [(Bios::Seabios, debian[1]), (Bios::Ovmf, debian[2])] {
            let found = find_bios(files, at, release, bios).unwrap();
            assert_eq!(found, at.join(wanted));
        }
        assert_eq!(find_hvmloader(files, at, None).unwrap(), found);
    }

    #[test]
    fn without_a_file_the_error_names_each_place() {
        let usr = with_files(&["lib/grub-xen/grub-i386-xen.bin"]);
        let error = find(&SystemFiles, usr.path(), None, "pvgrub64").unwrap_err();
        let EngineError::NoFirmware { looked_at, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(looked_at.len(), FOLDERS.len() + GRUB_64.len());
        assert!(looked_at.iter().all(|path| path.starts_with(usr.path())));
    }
}
