//! The real [`Taps`]: the driver behind /dev/net/tun.
//!
//! Facts: `linux/if_tun.h`, `linux/if.h`, `drivers/net/tun.c` of Linux.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::path::Path;

use os_port::{LinkName, OpenFile, Taps};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Path of the driver's device.
const DEVICE: &str = "/dev/net/tun";
/// The request that makes an interface.
pub(crate) const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// Flags of that request: Ethernet packets, without a header of the driver's, and not an interface that is there already.
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const IFF_TUN_EXCL: u16 = 0x8000;

/// `struct ifreq` with flags.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

/// The taps of this process's network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemTaps;

impl Taps for SystemTaps {
    fn open(&self, name: &LinkName) -> io::Result<OpenFile> {
        let device = OpenOptions::new().read(true).write(true).open(DEVICE)?;
        let mut request = InterfaceRequest::new_zeroed();
        request.flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL;
        let name = name.as_str().as_bytes();
        // The last byte stays zero.
        let place = request.name.split_last_mut().map(|(_, place)| place);
        let place = place.and_then(|place| place.get_mut(..name.len()));
        place.ok_or(ErrorKind::InvalidInput)?.copy_from_slice(name);
        let into = std::ptr::from_mut(&mut request);
        // SAFETY: the request reads and writes a `struct ifreq`, which `into` points to, and `device` is open for the call's time.
        let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, into) };
        if made != 0 {
            return Err(io::Error::last_os_error());
        }
        OpenFile::of_device(Path::new(DEVICE), device.into())
    }
}
