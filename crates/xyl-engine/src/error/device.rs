//! Errors of the attach and detach of devices.
//!
//! The kinds of devices and `device::bus` make these errors.

use std::io;
use std::path::PathBuf;

use xen_port::DomId;

use super::ErrorCode;

/// Reason why a device cannot be attached or detached. `device` names it, such as "disk `xvda`"; its first word is the setting in xl.cfg.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The image or block device of a disk cannot be opened.
    #[error("{device}: cannot open {path}: {source}", path = path.display())]
    Image {
        /// The device of the VM.
        device: String,
        /// Path of the image.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A user other than root can make the path lead to another file.
    #[error("{device}: {path} is not opened: {source}", path = path.display())]
    Untrusted {
        /// The device of the VM.
        device: String,
        /// Path of the image.
        path: PathBuf,
        /// The place on the way, its owner and the remedy.
        source: os_port::UntrustedWay,
    },
    /// The image is smaller than a sector.
    #[error("{device}: {path} is empty: give it a size with `truncate -s 10G`", path = path.display())]
    Empty {
        /// The device of the VM.
        device: String,
        /// Path of the image.
        path: PathBuf,
    },
    /// No loop device shows the image.
    #[error("{device}: cannot attach {path} to a loop device: {source}: `modprobe loop` loads the driver", path = path.display())]
    Loop {
        /// The device of the VM.
        device: String,
        /// Path of the image.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The disk has another user.
    #[error(
        "{device}: {path} is used by {user}, and both would write or read what the other writes: free it there, \
         or write `w!` as its access if a cluster file system shares it",
        path = path.display()
    )]
    Busy {
        /// The device of the VM.
        device: String,
        /// Path of the image or block device.
        path: PathBuf,
        /// The other user.
        user: String,
    },
    /// The image is not of the format that the configuration says.
    #[error("{device}: {path} is no {format} image: write its own format, as `qemu-img info` shows it", path = path.display())]
    WrongFormat {
        /// The device of the VM.
        device: String,
        /// Path of the image.
        path: PathBuf,
        /// The word of the configured format.
        format: &'static str,
    },
    /// The host has no QEMU for Xen.
    #[error(
        "{device}: it needs QEMU, and there is none at {places}: install it, as Debian's package qemu-system-xen does"
    )]
    NoQemu {
        /// The device of the VM.
        device: String,
        /// The paths where it was looked for.
        places: String,
    },
    /// QEMU could not be started, or does not do its work.
    #[error("{device}: QEMU, its backend in domain 0, {what}")]
    Qemu {
        /// The device of the VM.
        device: String,
        /// Its fault, and the text that it has written.
        what: String,
    },
    /// A program of the host listens at the port of the display, and at those of the next ones if they will do, too.
    #[error(
        "{device}: programs of domain 0 listen at the ports of the displays {first} to {last}: write another `vncdisplay=`, or `vncunused=1`; `ss -tlnp` shows the programs"
    )]
    NoDisplay {
        /// The device of the VM.
        device: String,
        /// The first display that would do.
        first: u32,
        /// The last one.
        last: u32,
    },
    /// A file is at the path of a socket.
    #[error(
        "{device}: there is a file at {path} that Xyl has not made, or another domain's channel: remove it, or write another `path=`",
        path = path.display()
    )]
    SocketTaken {
        /// The device of the VM.
        device: String,
        /// Path of the socket.
        path: PathBuf,
    },
    /// A socket cannot be found at its path.
    #[error("{device}: cannot make the link {path} to its socket: {source}", path = path.display())]
    Socket {
        /// The device of the VM.
        device: String,
        /// Path of the link.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The process has given up the right to start QEMU.
    #[error(
        "{device}: this monitor gave up the right to start QEMU, since its VM had no device that needs it when it began. It ends; the VM's next monitor has the right: `xyl recover` starts it"
    )]
    NoRightToQemu {
        /// The device of the VM.
        device: String,
    },
    /// The backend has refused the device.
    #[error("{device}: its backend in domain 0 has failed: {cause}; `dmesg` may tell more")]
    Backend {
        /// The device of the VM.
        device: String,
        /// The backend's text in xenstore.
        cause: String,
    },
    /// The backend does not take the device.
    #[error("{device}: its backend in domain 0 is {state} after {limit_s} s: {remedy}")]
    Silent {
        /// The device of the VM.
        device: String,
        /// State of the backend, in words.
        state: &'static str,
        /// Time limit in seconds.
        limit_s: u64,
        /// The remedy, in words.
        remedy: &'static str,
    },
    /// The driver has an earlier device of this number still.
    #[error(
        "{device}: domain 0's kernel has not let go of the device that the domain had before, after {limit_s} s ({path} is there still): requests are under way, or its driver hangs; `dmesg` may tell more",
        path = path.display()
    )]
    Held {
        /// The device of the VM.
        device: String,
        /// Folder of the earlier device in sysfs.
        path: PathBuf,
        /// Time limit in seconds.
        limit_s: u64,
    },
    /// No domain runs that is to serve the device.
    #[error(
        "{device}: there is no domain `{backend}`, which is to serve it (`backend=`): start it first; `xyl list` shows the domains"
    )]
    NoBackendDomain {
        /// The device of the VM.
        device: String,
        /// The domain, as the configuration names it.
        backend: String,
    },
    /// The domain that serves the device does not run any more.
    #[error(
        "{device}: domain {backend}, which is to serve it (`backend=`), has ended: start its VM again, then attach the device"
    )]
    BackendDomainGone {
        /// The device of the VM.
        device: String,
        /// Number of the domain that serves it.
        backend: DomId,
    },
    /// The domain that serves the device does not do its work.
    #[error(
        "{device} of domain {domid}: its backend in domain {backend} {why}: look there whether `xyl devd` or `xl devd` runs, and at the kernel's log"
    )]
    Elsewhere {
        /// The device of the VM.
        device: String,
        /// Number of the domain.
        domid: DomId,
        /// Number of the domain that serves it.
        backend: DomId,
        /// Its fault, in words.
        why: String,
    },
    /// The bridge cannot be used.
    #[error(
        "{device}: {bridge} {why}: `ip link add {bridge} type bridge` makes it, or write another one as `bridge=`; \
         without `bridge=` it is `vif.default.bridge` of xl.conf, or xenbr0"
    )]
    Bridge {
        /// The device of the VM.
        device: String,
        /// Name of the bridge.
        bridge: String,
        /// Fault of the bridge, in words.
        why: &'static str,
    },
    /// Another network interface of the host has the name.
    #[error(
        "{device}: the host has a network interface `{name}` already: write another `vifname=`"
    )]
    LinkTaken {
        /// The device of the VM.
        device: String,
        /// The wanted name.
        name: String,
    },
    /// The kernel refuses a change of a network interface.
    #[error("{device}: cannot {action} {link}: {source}")]
    Link {
        /// The device of the VM.
        device: String,
        /// Name of the network interface.
        link: String,
        /// The change, in words.
        action: &'static str,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The hot-plug script has failed.
    #[error(
        "{device} of domain {domid}: its script `{script} {action}` {why}. Xen's scripts say more in /var/log/xen/xen-hotplug.log; \
         with `script=vif-bridge`, or without `script=`, Xyl itself makes the interface a port of its bridge"
    )]
    Script {
        /// The device of the VM.
        device: String,
        /// Number of the domain.
        domid: DomId,
        /// Path of the script.
        script: String,
        /// The word that the script got.
        action: &'static str,
        /// Its end, and what it has said.
        why: String,
    },
    /// The hot-plug script is not there, or a user other than root can change it.
    #[error("{device}: its script {script} is not run as root: {source}")]
    UntrustedScript {
        /// The device of the VM.
        device: String,
        /// Path of the script.
        script: String,
        /// The reason and the remedy.
        source: io::Error,
    },
    /// The process has given up the right to run hot-plug scripts.
    #[error(
        "{device}: this monitor gave up the right to run scripts, since its VM had no interface with one when it began. It ends; the VM's next monitor has the right: `xyl recover` starts it"
    )]
    NoRightToScript {
        /// The device of the VM.
        device: String,
    },
    /// The process has given up the right to change network interfaces.
    #[error(
        "{device}: this monitor gave up its right to the host's network, since its VM had no network interface when it began. It ends; the VM's next monitor has the right: `xyl recover` starts it"
    )]
    NoRight {
        /// The device of the VM.
        device: String,
    },
    /// The domain has this device already.
    #[error("domain {domid} has {device} already")]
    Exists {
        /// Number of the domain.
        domid: DomId,
        /// The device of the VM.
        device: String,
    },
    /// The domain has no such device.
    #[error("domain {domid} has no {device}: `xyl {command} {domid}` shows those there are")]
    Absent {
        /// Number of the domain.
        domid: DomId,
        /// The device of the VM.
        device: String,
        /// The command that lists the devices of the kind.
        command: &'static str,
    },
    /// The guest does not let a device go.
    #[error(
        "{device}: the guest of domain {domid} has not let it go within {limit_s} s, its backend is {state}. It is removed as soon as \
         the guest lets it go{by}; to take it away now, at the cost of what the guest still writes: \
         `xyl {command} --force {domid} {number}`"
    )]
    NotLetGo {
        /// The device of the VM.
        device: String,
        /// Number of the domain.
        domid: DomId,
        /// State of the backend, in words.
        state: &'static str,
        /// Time limit in seconds.
        limit_s: u64,
        /// The process that removes it then, in words.
        by: &'static str,
        /// The command that detaches devices of the kind.
        command: &'static str,
        /// Number of the device.
        number: u32,
    },
    /// A description of a device that Xyl cannot serve.
    #[error("{what}")]
    Unsupported {
        /// The device, the reason and the remedy.
        what: String,
    },
    /// Devices of this kind cannot be attached to a running domain.
    #[error("devices of the kind `{kind}` cannot be attached to a running domain by Xyl yet")]
    NoHotplug {
        /// The kind's name.
        kind: String,
    },
    /// The devices were not attached within the time limit of the step.
    #[error("`{step}` has taken longer than its time limit")]
    TooSlow {
        /// Name of the step.
        step: String,
    },
}

impl DeviceError {
    /// The kind of the error.
    pub fn code(&self) -> ErrorCode {
        match self {
            DeviceError::Image { .. }
            | DeviceError::Empty { .. }
            | DeviceError::WrongFormat { .. }
            | DeviceError::Loop { .. } => ErrorCode::DiskImage,
            DeviceError::Untrusted { .. } => ErrorCode::DiskUntrusted,
            DeviceError::Busy { .. } => ErrorCode::DiskBusy,
            DeviceError::Backend { .. }
            | DeviceError::Silent { .. }
            | DeviceError::NoBackendDomain { .. }
            | DeviceError::BackendDomainGone { .. }
            | DeviceError::Elsewhere { .. }
            | DeviceError::NoQemu { .. }
            | DeviceError::Qemu { .. }
            | DeviceError::NoDisplay { .. }
            | DeviceError::SocketTaken { .. }
            | DeviceError::Socket { .. }
            | DeviceError::NoRightToQemu { .. }
            | DeviceError::Held { .. } => ErrorCode::Backend,
            DeviceError::Bridge { .. }
            | DeviceError::LinkTaken { .. }
            | DeviceError::Link { .. }
            | DeviceError::Script { .. }
            | DeviceError::UntrustedScript { .. }
            | DeviceError::NoRightToScript { .. }
            | DeviceError::NoRight { .. } => ErrorCode::Network,
            DeviceError::Exists { .. } => ErrorCode::DeviceExists,
            DeviceError::Absent { .. } => ErrorCode::NoSuchDevice,
            DeviceError::NotLetGo { .. } => ErrorCode::DeviceHeld,
            DeviceError::Unsupported { .. } => ErrorCode::DeviceUnsupported,
            DeviceError::NoHotplug { .. } => ErrorCode::NotThereYet,
            DeviceError::TooSlow { .. } => ErrorCode::Deadline,
        }
    }

    /// The device, beginning with the setting in xl.cfg. `None` if the error is of no one device.
    pub fn device(&self) -> Option<&str> {
        match self {
            DeviceError::Image { device, .. }
            | DeviceError::Untrusted { device, .. }
            | DeviceError::Empty { device, .. }
            | DeviceError::Loop { device, .. }
            | DeviceError::Busy { device, .. }
            | DeviceError::Backend { device, .. }
            | DeviceError::Silent { device, .. }
            | DeviceError::NoBackendDomain { device, .. }
            | DeviceError::BackendDomainGone { device, .. }
            | DeviceError::Elsewhere { device, .. }
            | DeviceError::Held { device, .. }
            | DeviceError::Bridge { device, .. }
            | DeviceError::LinkTaken { device, .. }
            | DeviceError::Link { device, .. }
            | DeviceError::Script { device, .. }
            | DeviceError::UntrustedScript { device, .. }
            | DeviceError::NoRightToScript { device }
            | DeviceError::NoRight { device }
            | DeviceError::WrongFormat { device, .. }
            | DeviceError::NoQemu { device, .. }
            | DeviceError::Qemu { device, .. }
            | DeviceError::NoDisplay { device, .. }
            | DeviceError::SocketTaken { device, .. }
            | DeviceError::Socket { device, .. }
            | DeviceError::NoRightToQemu { device }
            | DeviceError::Exists { device, .. }
            | DeviceError::Absent { device, .. }
            | DeviceError::NotLetGo { device, .. }
            | DeviceError::Unsupported { what: device } => Some(device),
            DeviceError::NoHotplug { .. } | DeviceError::TooSlow { .. } => None,
        }
    }
}
