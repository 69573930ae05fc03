//! Block devices and their users on this host: sysfs, mounts, swap. [`BlockDevices`] is the port.

use std::fmt;
use std::fs;
use std::io;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::open::DeviceNumber;

/// Bytes of a sector, the unit of sysfs.
const SECTOR_BYTES: u64 = 512;
/// Maximum size of a file of sysfs or procfs that is read, in bytes. A host with many containers has long mount tables.
const FILE_MAX_BYTES: u64 = 16 << 20;

/// The port to facts about block devices.
pub trait BlockDevices: fmt::Debug {
    /// Facts about a device; `None` if there is no such device.
    ///
    /// # Errors
    /// The system's error.
    fn device(&self, number: DeviceNumber) -> io::Result<Option<BlockDevice>>;

    /// All mounts that this process sees.
    ///
    /// # Errors
    /// The system's error.
    fn mounts(&self) -> io::Result<Vec<Mount>>;

    /// Paths of all files and devices that are used as swap.
    ///
    /// # Errors
    /// The system's error.
    fn swaps(&self) -> io::Result<Vec<PathBuf>>;
}

/// A block device as sysfs describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BlockDevice {
    /// Number of the device.
    pub number: DeviceNumber,
    /// Name of the device, such as `sda1`.
    pub name: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Whether the device refuses writes.
    pub is_read_only: bool,
    /// Devices that are made from this one, such as a volume or a RAID.
    pub holders: Vec<DeviceNumber>,
    /// Devices from which this one is made.
    pub slaves: Vec<DeviceNumber>,
    /// Partitions of the device.
    pub partitions: Vec<DeviceNumber>,
    /// The disk whose partition this device is.
    pub disk: Option<DeviceNumber>,
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Mount {
    /// Device number of the file system. That of btrfs and of virtual file systems belongs to no block device.
    pub device: DeviceNumber,
    /// The folder on which it is mounted.
    pub target: PathBuf,
    /// The type, such as `ext4`.
    pub kind: String,
    /// The source, such as `/dev/sda1`.
    pub source: PathBuf,
    /// Whether this mount, or the whole file system, is read-only.
    pub is_read_only: bool,
}

/// The block devices of the real system.
#[derive(Clone, Debug)]
pub struct SystemBlockDevices {
    sys: PathBuf,
    proc: PathBuf,
}

impl SystemBlockDevices {
    /// The real sysfs and procfs.
    pub fn system() -> SystemBlockDevices {
        SystemBlockDevices::below(Path::new("/"))
    }

    /// As if sysfs and procfs were mounted below `root`.
    pub fn below(root: &Path) -> SystemBlockDevices {
        SystemBlockDevices {
            sys: root.join("sys"),
            proc: root.join("proc"),
        }
    }
}

impl BlockDevices for SystemBlockDevices {
    fn device(&self, number: DeviceNumber) -> io::Result<Option<BlockDevice>> {
        let link = self.sys.join("dev/block").join(number.to_string());
        // The parent of the link's own path is no disk: the real folder is needed.
        match absent(fs::canonicalize(&link))? {
            Some(folder) => absent(describe(number, &folder)),
            None => Ok(None),
        }
    }

    fn mounts(&self) -> io::Result<Vec<Mount>> {
        let text = read(&self.proc.join("self/mountinfo"))?;
        Ok(text.lines().filter_map(parse_mount).collect())
    }

    fn swaps(&self) -> io::Result<Vec<PathBuf>> {
        let text = absent(read(&self.proc.join("swaps")))?.unwrap_or_default();
        let lines = text.lines().skip(1);
        Ok(lines.filter_map(first_path).collect())
    }
}

/// `None` if something is missing: the device has gone.
fn absent<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // sysfs answers so for the attribute of a device that is going.
        Err(error) if error.raw_os_error() == Some(NO_DEVICE) => Ok(None),
        other => other.map(Some),
    }
}

/// Linux's error number `ENODEV`.
const NO_DEVICE: i32 = 19;

fn describe(number: DeviceNumber, folder: &Path) -> io::Result<BlockDevice> {
    let sectors: u64 = parsed(&folder.join("size"))?;
    let is_partition = folder.join("partition").try_exists()?;
    let disk = folder.parent().filter(|_| is_partition);
    let inside = folders_in(folder)?.into_iter();
    let partitions = inside.filter(|inner| inner.join("partition").exists());
    Ok(BlockDevice {
        number,
        name: folder
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        size_bytes: sectors.saturating_mul(SECTOR_BYTES),
        is_read_only: parsed::<u8>(&folder.join("ro"))? != 0,
        holders: numbers(folders_in(&folder.join("holders"))?),
        slaves: numbers(folders_in(&folder.join("slaves"))?),
        partitions: numbers(partitions),
        disk: disk.and_then(number_of),
    })
}

/// The numbers of devices by their folders, in order.
fn numbers(folders: impl IntoIterator<Item = PathBuf>) -> Vec<DeviceNumber> {
    let found = folders.into_iter();
    let mut numbers: Vec<_> = found.filter_map(|folder| number_of(&folder)).collect();
    numbers.sort_unstable();
    numbers
}

fn number_of(folder: &Path) -> Option<DeviceNumber> {
    DeviceNumber::parse(&read(&folder.join("dev")).ok()?)
}

fn folders_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: io::Result<Vec<PathBuf>> = paths.collect();
    Ok(paths?.into_iter().filter(|path| path.is_dir()).collect())
}

fn parsed<T: std::str::FromStr>(path: &Path) -> io::Result<T> {
    let text = read(path)?;
    text.trim()
        .parse()
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, path.display().to_string()))
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        // A list that ends too early would hide a mount or a user of a device.
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// One line of `mountinfo` (proc(5)): `36 35 98:0 /root /target rw,noatime master:1 - ext3 /dev/root rw`. The fields before
/// the `-` vary in number.
fn parse_mount(line: &str) -> Option<Mount> {
    let (mount, system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(2);
    let device = DeviceNumber::parse(mount.next()?)?;
    let target = unescape(mount.nth(1)?);
    let options = mount.next()?;
    let mut system = system.split(' ');
    let kind = system.next()?.to_owned();
    let source = unescape(system.next()?);
    let system_options = system.next().unwrap_or_default();
    let mut all = options.split(',').chain(system_options.split(','));
    Some(Mount {
        device,
        target,
        kind,
        source,
        is_read_only: all.any(|option| option == "ro"),
    })
}

fn first_path(line: &str) -> Option<PathBuf> {
    line.split_whitespace().next().map(unescape)
}

/// Blanks, tabs, newlines and backslashes of a path are written as `\040` and so on.
fn unescape(word: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, later)) = rest.split_first() {
        match (*first, later.split_at_checked(3)) {
            (b'\\', Some((digits, after))) if octal(digits).is_some() => {
                bytes.extend(octal(digits));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = later;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A disk with a partition from which a volume is made.
    fn host() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let sda = "sys/devices/pci0/block/sda";
        for (folder, dev, size, ro) in [
            (sda.to_owned(), "8:0", "2048", "0"),
            (format!("{sda}/sda1"), "8:1", "1024", "0"),
            (
                "sys/devices/virtual/block/dm-0".to_owned(),
                "253:0",
                "1000",
                "1",
            ),
        ] {
            put(root.path(), &format!("{folder}/dev"), &format!("{dev}\n"));
            put(root.path(), &format!("{folder}/size"), &format!("{size}\n"));
            put(root.path(), &format!("{folder}/ro"), &format!("{ro}\n"));
            fs::create_dir_all(root.path().join("sys/dev/block")).unwrap();
            let link = root.path().join("sys/dev/block").join(dev);
            symlink(root.path().join(folder), link).unwrap();
        }
        put(root.path(), &format!("{sda}/sda1/partition"), "1\n");
        put(root.path(), &format!("{sda}/queue/rotational"), "0\n");
        let holders = root.path().join(sda).join("sda1/holders");
        fs::create_dir_all(&holders).unwrap();
        let dm = root.path().join("sys/devices/virtual/block/dm-0");
        fs::create_dir_all(dm.join("slaves")).unwrap();
        symlink(root.path().join(sda).join("sda1"), dm.join("slaves/sda1")).unwrap();
        symlink(dm, holders.join("dm-0")).unwrap();
        root
    }

    fn number(text: &str) -> DeviceNumber {
        DeviceNumber::parse(text).unwrap()
    }

    #[test]
    fn a_disk_its_partition_and_a_volume() {
        let root = host();
        let blocks = SystemBlockDevices::below(root.path());
        let look = |text| blocks.device(number(text)).unwrap();
        let disk = look("8:0").unwrap();
        assert_eq!((disk.name.as_str(), disk.size_bytes), ("sda", 1 << 20));
        assert_eq!(disk.partitions, [number("8:1")]);
        assert_eq!((disk.disk, disk.is_read_only), (None, false));
        let partition = look("8:1").unwrap();
        assert_eq!(partition.disk, Some(number("8:0")));
        assert_eq!(partition.holders, [number("253:0")]);
        let volume = look("253:0").unwrap();
        assert!(volume.is_read_only);
        assert_eq!(volume.slaves, [number("8:1")]);
        assert_eq!(look("8:2"), None);
    }

    #[test]
    fn mounts_with_odd_names_are_read() {
        let root = tempfile::tempdir().unwrap();
        put(
            root.path(),
            "proc/self/mountinfo",
            "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n\
             22 21 0:40 /a /mnt/with\\040blank ro - btrfs /dev/disk\\134x rw\n\
             23 21 0:41 / /srv rw master:2 propagate_from:3 - tmpfs tmpfs ro,size=1\n\
             a line that is none\n",
        );
        put(
            root.path(),
            "proc/swaps",
            "Filename\tType\tSize\n/dev/dm-1 partition 1000 0 -2\n/swap\\040file file 1 0 -3\n",
        );
        let blocks = SystemBlockDevices::below(root.path());
        let mounts = blocks.mounts().unwrap();
        let read_only: Vec<bool> = mounts.iter().map(|mount| mount.is_read_only).collect();
        assert_eq!(read_only, [false, true, true]);
        assert_eq!(mounts[0].device, number("8:1"));
        assert_eq!(mounts[1].target, Path::new("/mnt/with blank"));
        assert_eq!(mounts[1].source, Path::new("/dev/disk\\x"));
        assert_eq!(
            blocks.swaps().unwrap(),
            [Path::new("/dev/dm-1"), Path::new("/swap file")]
        );
    }

    #[test]
    fn the_real_host_has_mounts() {
        let mounts = SystemBlockDevices::system().mounts().unwrap();
        assert!(mounts.iter().any(|mount| mount.target == Path::new("/")));
    }
}
