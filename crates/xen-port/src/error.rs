//! The errors of the hypervisor port: a failed call, its domain and its error number.

use std::fmt;
use std::path::PathBuf;

use crate::{DomId, Gfn};

/// Result of a request to the hypervisor.
pub type Result<T> = std::result::Result<T, HvError>;

/// An error number as Xen and Linux use it on x86 (`xen/include/public/errno.h`), positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno($number);)*

            /// The symbol of the number, such as `ENOMEM`.
            pub fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)* _ => None }
            }

            /// The meaning of the number as English text.
            pub fn text(self) -> &'static str {
                match self.0 { $($number => $text,)* _ => "unknown error" }
            }
        }
    };
}

errnos! {
    EPERM = 1, "not permitted";
    ENOENT = 2, "no such thing";
    ESRCH = 3, "no such domain";
    EINTR = 4, "interrupted";
    EIO = 5, "input/output error";
    ENXIO = 6, "no such device or address";
    E2BIG = 7, "too large";
    EBADF = 9, "bad file descriptor";
    EAGAIN = 11, "try again";
    ENOMEM = 12, "out of memory";
    EACCES = 13, "access refused, or another interface version";
    EFAULT = 14, "bad address";
    EBUSY = 16, "busy";
    EEXIST = 17, "exists already";
    ENODEV = 19, "no such device";
    EINVAL = 22, "invalid argument";
    ENOTTY = 25, "not supported by this driver";
    ENOSPC = 28, "no space left";
    ERANGE = 34, "out of range";
    ENOSYS = 38, "not implemented by this Xen";
    ENODATA = 61, "no data";
    ETIME = 62, "timed out";
    EOVERFLOW = 75, "value too large";
    ERESTART = 85, "interrupted, to be restarted";
    EOPNOTSUPP = 95, "not supported";
    EADDRINUSE = 98, "in use now";
    EADDRNOTAVAIL = 99, "not available";
    ENOBUFS = 105, "no space in the buffer";
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name})", self.text()),
            None => write!(f, "error {}", self.0),
        }
    }
}

/// The reasons why a request to the hypervisor fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HvError {
    /// The kernel does not run under Xen, or its privcmd driver is not loaded.
    #[error("{path}: not there: this is no Xen host, or its driver is not loaded (boot Xen and dom0; `modprobe xen-privcmd`)", path = path.display())]
    NotXen {
        /// The device that is missing.
        path: PathBuf,
    },
    /// The device exists, but this process may not open it.
    #[error("{path}: permission denied: talking to Xen needs root", path = path.display())]
    Permission {
        /// Path of the device.
        path: PathBuf,
    },
    /// The kernel refused to open or use a driver.
    #[error("{path}: {op}: {source}", path = path.display())]
    Driver {
        /// Path of the device.
        path: PathBuf,
        /// The action that failed.
        op: &'static str,
        /// The error of the kernel.
        source: std::io::Error,
    },
    /// Xen speaks an interface version that this build does not know.
    #[error(
        "Xen {xen} speaks a {interface} interface that this build does not know (known: {known}): use a newer Xyl, or a Xen of 4.17 to 4.22"
    )]
    UnknownVersion {
        /// The version of Xen, such as `4.23`.
        xen: String,
        /// `domctl` or `sysctl`.
        interface: &'static str,
        /// The versions that are known, such as `0x15, 0x16`.
        known: String,
    },
    /// A hypercall failed.
    #[error("{op}{on}: {errno}{detail}", on = on_domain(*domid))]
    Call {
        /// Xen's name of the call, such as `XEN_DOMCTL_createdomain`.
        op: &'static str,
        /// The domain it was about, if any.
        domid: Option<DomId>,
        /// The error number that Xen returned.
        errno: Errno,
        /// More facts, such as the refused leaf. Empty, or starts with a separator.
        detail: String,
    },
    /// Xen or the kernel did not map a frame of a guest.
    #[error("mapping frame {frame:#x} of domain {domid}: {errno}", frame = gfn.0)]
    Map {
        /// The domain that owns the frame.
        domid: DomId,
        /// The first frame that failed.
        gfn: Gfn,
        /// The error number for that frame.
        errno: Errno,
    },
    /// An action took longer than its deadline.
    #[error("{op}{on}: not finished within its deadline", on = on_domain(*domid))]
    Deadline {
        /// The action, as Xen names the call.
        op: &'static str,
        /// The domain of the action, if any.
        domid: Option<DomId>,
    },
    /// An answer of the hypervisor or an argument of the caller is invalid.
    #[error("{op}: {what}")]
    Nonsense {
        /// Xen's name of the call.
        op: &'static str,
        /// The rule that the value breaks.
        what: String,
    },
}

fn on_domain(domid: Option<DomId>) -> String {
    domid.map(|d| format!(" on domain {d}")).unwrap_or_default()
}

impl HvError {
    /// The error number, if Xen or the driver returned one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            HvError::Call { errno, .. } | HvError::Map { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether the error has this error number.
    pub fn is(&self, errno: Errno) -> bool {
        self.errno() == Some(errno)
    }
}
