//! The real [`LoopDevices`]: ioctls of Linux's loop driver (loop(4)).
//!
//! A device is configured with one ioctl (`LOOP_CONFIGURE`, Linux 5.8), so no other process sees it half configured. The
//! driver has no lock for "free device": two processes can get the same number, and one of them then gets `EBUSY`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use os_port::{
    AttachedLoop, DeviceNumber, FileId, HeldLoop, LoopDevice, LoopDevices, LoopFacts, LoopRequest,
};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The driver's ioctls and flags, by their names in `linux/loop.h`.
const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
const LOOP_GET_STATUS64: libc::Ioctl = 0x4c05;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CTL_ADD: libc::Ioctl = 0x4c80;
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// Major number of loop devices.
const LOOP_MAJOR: u32 = 7;
/// Block size of each device. Without it the kernel may take that of the image's disk, and a guest would find no partitions.
const BLOCK_BYTES: u32 = 512;
/// Number of devices that are tried while other processes take the free ones.
const TRIES: u32 = 64;
/// Text that the kernel appends to the path of a file without a name.
const DELETED: &[u8] = b" (deleted)";

/// The state of a device: `struct loop_info64`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset_bytes: u64,
    size_limit_bytes: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// Configuration of a device: `struct loop_config`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size_bytes: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<LoopInfo>() == 232 && size_of::<LoopConfig>() == 304);

/// The loop devices of this system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLoopDevices;

impl LoopDevices for SystemLoopDevices {
    fn attach(&self, request: &LoopRequest<'_>) -> io::Result<AttachedLoop> {
        let config = config_of(request)?;
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/loop-control")?;
        let mut last = io::Error::from(ErrorKind::ResourceBusy);
        for _ in 0..TRIES {
            let free = free_device(&control)?;
            let number = match request.but.contains(&free) {
                true => new_device(&control)?,
                false => free,
            };
            match attach_to(number, request, config) {
                Err(error) if is_of_a_race(&error) => last = error,
                other => return other,
            }
        }
        Err(last)
    }

    fn list(&self) -> io::Result<Vec<LoopDevice>> {
        let mut numbers: Vec<u32> = fs::read_dir("/sys/block")?
            .filter_map(|entry| number_of(&entry.ok()?.file_name().into_string().ok()?))
            .collect();
        numbers.sort_unstable();
        let mut devices = Vec::new();
        for number in numbers {
            devices.extend(look_at(number)?);
        }
        Ok(devices)
    }

    fn find(&self, number: u32) -> io::Result<Option<LoopDevice>> {
        look_at(number)
    }

    fn detach(&self, number: u32, backing: FileId) -> io::Result<bool> {
        let Some((device, info)) = open_attached(number)? else {
            return Ok(false);
        };
        if backing_of(&info) != backing {
            return Ok(false);
        }
        match clear(&device) {
            Err(error) if is_gone(&error) => Ok(false),
            other => other.map(|()| true),
        }
    }
}

/// An open device.
#[derive(Debug)]
struct Held {
    _device: File,
}

impl HeldLoop for Held {}

fn config_of(request: &LoopRequest<'_>) -> io::Result<LoopConfig> {
    let descriptor = request.file.descriptor();
    let descriptor = descriptor.ok_or(ErrorKind::InvalidInput)?.as_raw_fd();
    let mut config = LoopConfig::new_zeroed();
    config.fd = u32::try_from(descriptor).map_err(|_| ErrorKind::InvalidInput)?;
    config.block_size_bytes = BLOCK_BYTES;
    config.info.offset_bytes = request.offset_bytes;
    config.info.size_limit_bytes = request.size_limit_bytes.unwrap_or(0);
    let flags = [
        (is_read_only(request), LO_FLAGS_READ_ONLY),
        (request.is_autoclear, LO_FLAGS_AUTOCLEAR),
        (request.wants_direct_io, LO_FLAGS_DIRECT_IO),
    ];
    let set = flags.iter().filter(|(is_set, _)| *is_set);
    config.info.flags = set.map(|(_, flag)| flag).sum();
    let label = request.label_bytes()?;
    for (to, from) in config.info.file_name.iter_mut().zip(label) {
        *to = *from;
    }
    Ok(config)
}

fn is_read_only(request: &LoopRequest<'_>) -> bool {
    request.is_read_only || !request.file.is_writable()
}

/// Whether another process was faster: it took the device, or removed it.
fn is_of_a_race(error: &io::Error) -> bool {
    error.kind() == ErrorKind::ResourceBusy || is_gone(error)
}

/// Whether a device has no file, or is not there.
fn is_gone(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    matches!(code, Some(libc::ENXIO | libc::ENODEV | libc::ENOENT))
}

fn attach_to(
    number: u32,
    request: &LoopRequest<'_>,
    mut config: LoopConfig,
) -> io::Result<AttachedLoop> {
    let device = open_device(number, !is_read_only(request))?;
    let configured = configure(&device, &config);
    match configured {
        // Some kernels refuse direct I/O where the file system has none, others ignore the wish.
        Err(error) if error.kind() == ErrorKind::InvalidInput && request.wants_direct_io => {
            config.info.flags &= !LO_FLAGS_DIRECT_IO;
            configure(&device, &config)?;
        }
        other => other?,
    }
    let facts = facts_of(number, &device);
    if facts.is_err() {
        clear(&device)?;
    }
    Ok(AttachedLoop::new(
        facts?,
        Box::new(Held { _device: device }),
    ))
}

fn facts_of(number: u32, device: &File) -> io::Result<LoopFacts> {
    let info = status(device)?;
    Ok(LoopFacts {
        number,
        device: DeviceNumber::of_stat(device.metadata()?.rdev()),
        uses_direct_io: info.flags & LO_FLAGS_DIRECT_IO != 0,
        is_read_only: info.flags & LO_FLAGS_READ_ONLY != 0,
    })
}

fn path_of(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// Opens a device by its number, and nothing else that lies at its path. An open for writing claims it.
fn open_device(number: u32, is_writable: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(is_writable);
    // A claim keeps mounts and other users away from a device that a guest is to write to.
    let claim = if is_writable { libc::O_EXCL } else { 0 };
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | claim);
    let device = options.open(path_of(number))?;
    let metadata = device.metadata()?;
    let is_block = metadata.file_type().is_block_device();
    let major = DeviceNumber::of_stat(metadata.rdev()).major;
    match is_block && major == LOOP_MAJOR {
        true => Ok(device),
        false => Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("{} is no loop device", path_of(number).display()),
        )),
    }
}

/// A device with its state; `None` if it has no file.
fn open_attached(number: u32) -> io::Result<Option<(File, LoopInfo)>> {
    let opened = open_device(number, false);
    let looked = opened.and_then(|device| status(&device).map(|info| (device, info)));
    match looked {
        Err(error) if is_gone(&error) => Ok(None),
        other => other.map(Some),
    }
}

fn look_at(number: u32) -> io::Result<Option<LoopDevice>> {
    // sysfs first: it says without an open that most devices have no file.
    let path = Path::new("/sys/block").join(format!("loop{number}/loop/backing_file"));
    let Ok(mut path) = fs::read(path) else {
        return Ok(None);
    };
    let Some((_, info)) = open_attached(number)? else {
        return Ok(None);
    };
    if path.last() == Some(&b'\n') {
        path.pop();
    }
    let is_backing_deleted = path.ends_with(DELETED);
    if is_backing_deleted {
        path.truncate(path.len().saturating_sub(DELETED.len()));
    }
    let label = info.file_name.split(|byte| *byte == 0).next();
    Ok(Some(LoopDevice {
        number,
        backing: backing_of(&info),
        backing_path: PathBuf::from(std::ffi::OsString::from_vec(path)),
        is_backing_deleted,
        offset_bytes: info.offset_bytes,
        size_limit_bytes: Some(info.size_limit_bytes).filter(|limit| *limit != 0),
        is_read_only: info.flags & LO_FLAGS_READ_ONLY != 0,
        is_autoclear: info.flags & LO_FLAGS_AUTOCLEAR != 0,
        uses_direct_io: info.flags & LO_FLAGS_DIRECT_IO != 0,
        label: String::from_utf8_lossy(label.unwrap_or_default()).into_owned(),
    }))
}

fn backing_of(info: &LoopInfo) -> FileId {
    FileId {
        device: DeviceNumber::of_stat(info.device),
        inode: info.inode,
    }
}

fn number_of(name: &str) -> Option<u32> {
    name.strip_prefix("loop")?.parse().ok()
}

fn free_device(control: &File) -> io::Result<u32> {
    // SAFETY: this ioctl takes no argument, and `control` is open for the call's time.
    let number = uninterrupted(|| unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) })?;
    u32::try_from(number).map_err(|_| ErrorKind::InvalidData.into())
}

/// Makes a device of the lowest number that none has.
fn new_device(control: &File) -> io::Result<u32> {
    // SAFETY: this ioctl takes a number, of which a negative one means any, and `control` is open for the call's time.
    let number =
        uninterrupted(|| unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_ADD, -1_i64) })?;
    u32::try_from(number).map_err(|_| ErrorKind::InvalidData.into())
}

fn configure(device: &File, config: &LoopConfig) -> io::Result<()> {
    let config = std::ptr::from_ref(config);
    // SAFETY: the driver reads a `struct loop_config` (304 bytes, asserted above), which outlives the call. The descriptor
    // in it is that of the request's file, which is open meanwhile; the kernel takes a reference of its own.
    uninterrupted(|| unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, config) }).map(drop)
}

fn status(device: &File) -> io::Result<LoopInfo> {
    let mut info = LoopInfo::new_zeroed();
    let into = std::ptr::from_mut(&mut info);
    // SAFETY: the driver writes a `struct loop_info64` (232 bytes, asserted above) into memory that is ours and outlives the
    // call. Any bytes are a valid `LoopInfo`.
    uninterrupted(|| unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64, into) })?;
    Ok(info)
}

fn clear(device: &File) -> io::Result<()> {
    let none: RawFd = 0;
    // SAFETY: this ioctl ignores its argument, and `device` is open for the call's time.
    uninterrupted(|| unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD, none) }).map(drop)
}

/// Makes a call again as long as a signal interrupts it.
fn uninterrupted(mut call: impl FnMut() -> libc::c_int) -> io::Result<libc::c_int> {
    loop {
        match call() {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            result => return Ok(result),
        }
    }
}
