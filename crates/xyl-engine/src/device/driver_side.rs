//! The part of a kind in a driver domain: what its toolstack there (`xyl devd`) does with a device that domain 0's toolstack has written.
//!
//! It is the work of domain 0 for its own devices: the kind uses the same code. What is known of a device are the nodes of its backend, which
//! domain 0 has written and the guest can only read. Paths are computed.

use std::time::Duration;

use xenstore::{Batch, Tree};

use crate::device::bus::Device;
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// Longest time in which the kernel has to do its part for a device.
pub const KERNEL_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks for the kernel's part, for which no event comes.
pub const KERNEL_PAUSE: Duration = Duration::from_millis(5);

/// The part of a kind in a driver domain.
pub trait DriverSide {
    /// Sets a device up that the kernel has taken. It may have been done in part, by a process that has died.
    ///
    /// # Errors
    /// Why the device cannot be served.
    fn set_up(&self, host: &mut Host, device: &Device) -> Result<(), EngineError>;

    /// Takes down what the host has of a device that the kernel has closed.
    ///
    /// # Errors
    /// The fault of a script. The device goes all the same.
    fn take_down(&self, _host: &mut Host, _device: &Device) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Nodes of a device's backend, in the order of these names.
///
/// # Errors
/// Those of xenstore.
pub fn backend_nodes<const N: usize>(
    host: &mut Host,
    device: &Device,
    names: [&str; N],
) -> Result<[Option<String>; N], EngineError> {
    let mut batch = Batch::new();
    let mut reads = Vec::new();
    for name in names {
        reads.push(batch.read_opt(&node(&format!("{}/{name}", device.backend()))?));
    }
    let replies = host.store.run(&batch)?;
    let mut values = reads.into_iter().map(|read| {
        let text = String::from_utf8(replies.value(read)?.to_vec()).ok()?;
        Some(text).filter(|text| !text.is_empty())
    });
    Ok(std::array::from_fn(|_| values.next().flatten()))
}

/// Writes a node of a device's backend.
///
/// # Errors
/// Those of xenstore.
pub fn write(host: &mut Host, device: &Device, name: &str, value: &str) -> Result<(), EngineError> {
    let path = node(&format!("{}/{name}", device.backend()))?;
    Ok(host.store.write(&path, value.as_bytes())?)
}
