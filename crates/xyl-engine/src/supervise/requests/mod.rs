//! Requests to a VM: they are carried out by its monitor.
//!
//! A command that wants a VM changed adds a request to the VM's queue ([`crate::vm::request_queue`]) and rings the
//! monitor's doorbell ([`Host::ring`]). The monitor carries it out under the VM's lock and writes a reply. So it is done whatever becomes of the
//! command; if the monitor dies, or lacks a right, by the next monitor, or by the command. A request may so be carried out twice, except those
//! that must not be (a key, a trigger).
//!
//! A domain without a monitor (`create -e`, a domain of xl, a monitor that has died) is changed by the command itself, under the
//! same lock.
//!
//! - `ask`: adds a request and waits for its reply.
//! - `serve`: the monitor's side.
//! - `execute`: carries a request out.
//! - `progress`: the progress of a dump.
//! - `legacy`: requests of an earlier release, which lie in xenstore.

mod ask;
mod execute;
pub(crate) mod legacy;
mod progress;
mod serve;

pub(crate) use ask::wake_if_asked;
pub use ask::{ask, ask_for, fetch_reply, post, submit};
pub use execute::check;
pub(crate) use serve::{Served, serve};
pub use xyl_api::{AfterSave, Done, Request, Saved};

use std::time::Duration;

use uuid::Uuid;

use crate::vm::request_queue::RequestQueue;
use crate::{Cancel, EngineError, Host};

/// Pause before the first look for a file. Each further one is twice as long.
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// Time for which a woken monitor waits for a request that is being written.
const UNFINISHED_LIMIT: Duration = Duration::from_secs(1);

/// The asker's part while a request is carried out.
pub struct Asking<'a> {
    /// The wish to stop. Only a dump is taken back; anything else goes on.
    pub cancel: &'a Cancel,
    /// Called now and then with how many bytes of a core have been written, and how many there will be.
    pub progress: &'a mut dyn FnMut(u64, u64),
}

/// The rights that the requests in a VM's queue need in the process that carries them out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// One changes the host's network interfaces.
    pub links: bool,
    /// One starts a QEMU.
    pub qemu: bool,
    /// One runs a hot-plug script.
    pub scripts: bool,
}

/// The rights that the requests in a VM's queue need. The VM's monitor keeps these rights then, though the VM has no such device yet. A request
/// that cannot be read needs none: it is refused.
///
/// # Errors
/// Those of the disk.
pub fn needs(host: &Host, vm: Uuid) -> Result<Needs, EngineError> {
    let queue = RequestQueue::of(host, vm);
    let mut needs = Needs::default();
    for queued in queue.list()? {
        if let Some(Ok(envelope)) = queue.read(queued)? {
            needs.links |= execute::changes_links(&envelope.request);
            needs.qemu |= execute::starts_qemu(&envelope.request);
            needs.scripts |= execute::runs_script(&envelope.request);
        }
    }
    Ok(needs)
}

/// Removes the replies of all VMs that are too old, too many, or to dead processes.
pub(crate) fn remove_old_replies(host: &mut Host) -> Result<(), EngineError> {
    crate::vm::request_queue::remove_old_replies(host, None)?;
    legacy::remove_unread(host)
}
