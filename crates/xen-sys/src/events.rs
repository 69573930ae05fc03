//! Event channels through `/dev/xen/evtchn`.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use xen_abi::linux::{
    EVTCHN_BIND_INTERDOMAIN, EVTCHN_BIND_UNBOUND_PORT, EVTCHN_BIND_VIRQ, EVTCHN_NOTIFY,
    EVTCHN_UNBIND, EvtchnBindInterdomain, EvtchnBindUnboundPort, EvtchnBindVirq,
    EvtchnPort as PortArgument,
};
use xen_port::{DomId, EvtchnPort, Result};

use crate::device::Device;

/// A set of event channels of this domain. Readable (for `poll`) while one of its channels has an event.
#[derive(Debug)]
pub struct EventChannels {
    device: Arc<Device>,
}

/// A channel of this domain, bound in an [`EventChannels`]; given up when dropped.
#[derive(Debug)]
pub struct EventChannel {
    device: Arc<Device>,
    port: EvtchnPort,
}

impl EventChannels {
    /// An empty set.
    ///
    /// # Errors
    /// As of [`Xen::open`](crate::Xen::open).
    pub fn open() -> Result<Self> {
        Ok(Self {
            device: Arc::new(Device::open("/dev/xen/evtchn", libc::O_NONBLOCK)?),
        })
    }

    /// Connects to a port that `remote` has allocated for this domain.
    ///
    /// # Errors
    /// [`HvError::Driver`](xen_port::HvError::Driver) if there is no such port, or it is for another domain.
    pub fn bind_interdomain(&self, remote: DomId, remote_port: EvtchnPort) -> Result<EventChannel> {
        let mut argument = EvtchnBindInterdomain {
            remote_domain: remote.0.into(),
            remote_port: remote_port.0,
        };
        // SAFETY: the structure is the ioctl's and holds no address.
        let port = unsafe { self.device.ioctl(EVTCHN_BIND_INTERDOMAIN, &mut argument) };
        self.channel(port, "bind an event channel")
    }

    /// Allocates a port that `remote` may bind.
    ///
    /// # Errors
    /// [`HvError::Driver`](xen_port::HvError::Driver) if Xen has none left.
    pub fn bind_unbound(&self, remote: DomId) -> Result<EventChannel> {
        let mut argument = EvtchnBindUnboundPort {
            remote_domain: remote.0.into(),
        };
        // SAFETY: the structure is the ioctl's and holds no address.
        let port = unsafe { self.device.ioctl(EVTCHN_BIND_UNBOUND_PORT, &mut argument) };
        self.channel(port, "allocate an event channel")
    }

    /// Binds a virtual interrupt, such as [`VIRQ_DOM_EXC`](xen_abi::xen::VIRQ_DOM_EXC).
    ///
    /// # Errors
    /// [`HvError::Driver`](xen_port::HvError::Driver) if another process has bound it (`EEXIST`), or this domain has
    /// no permission.
    pub fn bind_virq(&self, virq: u32) -> Result<EventChannel> {
        let mut argument = EvtchnBindVirq { virq };
        // SAFETY: the structure is the ioctl's and holds no address.
        let port = unsafe { self.device.ioctl(EVTCHN_BIND_VIRQ, &mut argument) };
        self.channel(port, "bind a virtual interrupt")
    }

    fn channel(&self, port: std::io::Result<i32>, op: &'static str) -> Result<EventChannel> {
        let port = port.map_err(|source| self.device.error(op, source))?;
        Ok(EventChannel {
            device: Arc::clone(&self.device),
            port: EvtchnPort(port.cast_unsigned()),
        })
    }

    /// The next channel with an event, or `None`. The channel reports no further event until it is
    /// [unmasked](EventChannel::unmask).
    ///
    /// # Errors
    /// [`HvError::Driver`](xen_port::HvError::Driver) if events were lost, or the read failed.
    pub fn pending(&self) -> Result<Option<EvtchnPort>> {
        let mut port = [0; 4];
        loop {
            match self.device.file().read(&mut port) {
                Ok(4) => return Ok(Some(EvtchnPort(u32::from_ne_bytes(port)))),
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(self.device.error("read events", error)),
            }
        }
    }
}

impl AsFd for EventChannels {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.file().as_fd()
    }
}

impl EventChannel {
    /// Number of the port in this domain.
    pub fn port(&self) -> EvtchnPort {
        self.port
    }

    /// Sends an event to the other end.
    ///
    /// # Errors
    /// [`HvError::Driver`](xen_port::HvError::Driver) if the channel is not connected.
    pub fn notify(&self) -> Result<()> {
        let mut argument = PortArgument { port: self.port.0 };
        // SAFETY: the structure is the ioctl's and holds no address.
        let done = unsafe { self.device.ioctl(EVTCHN_NOTIFY, &mut argument) };
        done.map(drop)
            .map_err(|source| self.device.error("notify an event channel", source))
    }

    /// Lets the channel report its next event.
    ///
    /// # Errors
    /// [`HvError::Driver`](xen_port::HvError::Driver) if the write failed.
    pub fn unmask(&self) -> Result<()> {
        let written = self.device.file().write_all(&self.port.0.to_ne_bytes());
        written.map_err(|source| self.device.error("unmask an event channel", source))
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        let mut argument = PortArgument { port: self.port.0 };
        // SAFETY: the structure is the ioctl's and holds no address. A failure leaves a port that closes with the file.
        let _ = unsafe { self.device.ioctl(EVTCHN_UNBIND, &mut argument) };
    }
}
