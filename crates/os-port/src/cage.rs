//! A folder to which a program is confined, with the few devices that it needs.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;

/// Mode of the folder above the cage: only root passes through it.
const ABOVE_MODE: u32 = 0o700;
/// Mode of the folders in a cage: each user passes through them, only root changes them.
const FOLDER_MODE: u32 = 0o755;
/// Mode of the devices in a cage.
const DEVICE_MODE: u32 = 0o666;

/// A folder for chroot(2), to be made. All its folders belong to root. A program in it reads and writes its devices, and changes
/// nothing else. Only root gets into it from outside.
#[derive(Clone, Copy, Debug)]
pub struct Cage<'a> {
    /// The folder. The one above it is made, too.
    pub folder: &'a Path,
    /// Character devices, by their absolute paths outside and inside.
    pub devices: &'a [&'a str],
}

impl Cage<'_> {
    /// Makes it on the real system. Its file system must allow devices, as `/dev` does.
    pub(crate) fn make(&self) -> io::Result<()> {
        let above = self.folder.parent().unwrap_or(Path::new("/"));
        make_folder(above, ABOVE_MODE)?;
        make_folder(self.folder, FOLDER_MODE)?;
        for device in self.devices {
            let inside = self.make_way(device)?;
            make_device(&inside, fs::metadata(device)?.rdev())?;
            // The umask has taken bits away, and the process of an earlier try may have died before this.
            set_mode(&inside, DEVICE_MODE)?;
        }
        Ok(())
    }

    /// Makes the folders on the way to a file inside. Its path outside.
    fn make_way(&self, inside: &str) -> io::Result<std::path::PathBuf> {
        let inside = Path::new(inside.trim_start_matches('/'));
        let mut folder = self.folder.to_owned();
        for part in inside.parent().unwrap_or(Path::new("")) {
            folder.push(part);
            make_folder(&folder, FOLDER_MODE)?;
        }
        Ok(self.folder.join(inside))
    }
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    set_mode(path, mode)
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a device of this number. One that is there stays: a process that may make none needs to make none. The number of Xen's devices
/// changes when their driver is loaded anew.
fn make_device(path: &Path, number: u64) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.file_type().is_char_device() && there.rdev() == number => return Ok(()),
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mode = Mode::from_raw_mode(DEVICE_MODE);
    match rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, number) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cage_is_made_and_made_whole() {
        let folder = tempfile::tempdir().unwrap();
        let cage = folder.path().join("above/cage");
        let wanted = Cage {
            folder: &cage,
            devices: &[],
        };
        for _ in 0..2 {
            wanted.make().unwrap();
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("above")), ABOVE_MODE);
        assert_eq!(mode(&cage), FOLDER_MODE);
    }
}
