//! Console 0: a ring between the guest and xenconsoled.
//!
//! It knows no handshake of states. xenconsoled takes ring and port from the nodes below the domain's home, which are the
//! toolstack's so that the guest cannot redirect it, and writes the console's tty there. Without a device model there
//! is no order to keep but one: the nodes are there before the domain is introduced. It cannot be hot-plugged. libxl makes
//! console 0 of every domain without a member of its record, and manages without `/libxl/D/device/console`.
//!
//! Facts: `tools/console/daemon/io.c`, `libxl_console.c`.

use std::time::Duration;

use xen_port::{DomId, EvtchnPort, Gfn};
use xenstore::{Path, Tree};

use crate::device::nodes::{Access, NodeRule};
use crate::device::{DeviceInput, Kind};
use crate::{EngineError, Host};

/// Limit of the console's log that xenconsoled keeps for a guest, in bytes.
const LIMIT_BYTES: &str = "1048576";
/// The node with the console's tty, below the domain's home.
const TTY: &str = "console/tty";
/// How long xenconsoled may take to serve a new domain. One that does not run never does.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// Token of the watch on a console's tty.
const TTY_TOKEN: &str = "xyl-tty";

/// What guest and xenconsoled have in common.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// The page of the ring: machine frame for PV, guest frame for PVH.
    pub gfn: Gfn,
    /// The event channel.
    pub port: EvtchnPort,
}

/// The kind of console 0.
pub struct Console;

const NODES: &[NodeRule<DeviceInput>] = &[
    NodeRule {
        path: "console/limit",
        access: Access::GuestReads,
        reader: "xenconsoled",
        value: |_| Some(LIMIT_BYTES.to_owned()),
    },
    NodeRule {
        path: "console/type",
        access: Access::GuestReads,
        reader: "xenconsoled; xl console",
        value: |_| Some("xenconsoled".to_owned()),
    },
    NodeRule {
        path: TTY,
        access: Access::GuestReads,
        reader: "xl console, xyl console; empty until xenconsoled has served the domain, which a destroy waits for",
        value: |_| Some(String::new()),
    },
    NodeRule {
        path: "console/port",
        access: Access::GuestReads,
        reader: "xenconsoled",
        value: |input| Some(input.console.port.to_string()),
    },
    NodeRule {
        path: "console/ring-ref",
        access: Access::GuestReads,
        reader: "xenconsoled",
        value: |input| Some(input.console.gfn.to_string()),
    },
];

impl Kind for Console {
    fn name(&self) -> &'static str {
        "console"
    }

    fn json_member(&self) -> Option<&'static str> {
        None
    }

    fn nodes(&self) -> &'static [NodeRule<DeviceInput>] {
        NODES
    }

    /// xenconsoled keeps the tty that it has opened.
    fn kept_by_soft_reset(&self) -> &'static [&'static str] {
        &[TTY]
    }

    fn backend_folder(&self, domid: DomId) -> String {
        format!("/local/domain/0/backend/console/{domid}")
    }

    /// Waits for xenconsoled to have served a domain that was introduced just now. It writes the
    /// console's tty when it comes round to it, and would bring nodes back that were removed before.
    fn settle(&self, host: &mut Host, domid: DomId) -> Result<(), EngineError> {
        let tty = Path::domain(domid.0)
            .join(TTY)
            .map_err(xenstore::Error::from)?;
        if !is_empty(host, &tty)? || !host.store.is_introduced(domid.0)? {
            return Ok(());
        }
        let deadline = host.clock.now() + SETTLE_LIMIT;
        host.store.watch(&tty, TTY_TOKEN)?;
        while is_empty(host, &tty)? && host.clock.now() < deadline {
            let left = deadline.saturating_duration_since(host.clock.now());
            host.wait_for_event_of(&[TTY_TOKEN], left)?;
        }
        Ok(host.store.unwatch(&tty, TTY_TOKEN)?)
    }
}

/// Whether a node is there and has no value.
fn is_empty(host: &mut Host, path: &Path) -> Result<bool, EngineError> {
    Ok(host
        .store
        .read_opt(path)?
        .is_some_and(|value| value.is_empty()))
}
