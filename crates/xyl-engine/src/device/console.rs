//! Console 0: a ring between the guest and xenconsoled. It is the first kind in [`super::KINDS`].
//!
//! The console has no handshake of states. xenconsoled reads ring and port from nodes below the domain's home, and
//! writes the tty's name there. The guest cannot write these nodes, so it cannot redirect the console. Without a
//! device model there is one rule of order: the nodes exist before the domain is introduced. A console cannot be
//! hot-plugged. libxl gives console 0 no member in its record, and works without `/libxl/D/device/console`.
//!
//! Facts: `tools/console/daemon/io.c`, `libxl_console.c`.

use std::time::Duration;

use xen_port::{DomId, EvtchnPort, Gfn};
use xenstore::{Path, Tree};

use crate::device::nodes::{Access, NodeRule};
use crate::device::{AtSoftReset, DeviceInput, Kind};
use crate::{EngineError, Host};

/// Maximum size of the buffer that xenconsoled keeps for a guest, in bytes.
const LIMIT_BYTES: &str = "1048576";
/// Path of the node with the console's tty, below the domain's home.
const TTY: &str = "console/tty";
/// Time limit for xenconsoled to serve a new domain.
const SETTLE_LIMIT: Duration = Duration::from_secs(2);
/// Token of the watch on a console's tty.
const TTY_TOKEN: &str = "xyl-tty";

/// The part of the console that the guest and xenconsoled share.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Page of the ring: machine frame for PV, guest frame for PVH.
    pub gfn: Gfn,
    /// Event channel of the ring.
    pub port: EvtchnPort,
}

/// The kind for console 0.
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

    fn is_waited_for(&self) -> bool {
        false
    }

    fn nodes(&self) -> &'static [NodeRule<DeviceInput>] {
        NODES
    }

    /// xenconsoled keeps its open tty, so the node stays.
    fn at_soft_reset(&self) -> AtSoftReset {
        AtSoftReset::Kept(&[TTY])
    }

    fn folders(&self, domid: DomId) -> Vec<String> {
        vec![format!("/local/domain/0/backend/console/{domid}")]
    }

    /// Waits until xenconsoled serves the domain, which was just introduced. It writes the console's tty when it has
    /// read the nodes, and would create them again if they were removed before.
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
            host.wait_for(&[TTY_TOKEN], left)?;
        }
        Ok(host.store.unwatch(&tty, TTY_TOKEN)?)
    }
}

/// Whether a node exists and has no value.
fn is_empty(host: &mut Host, path: &Path) -> Result<bool, EngineError> {
    Ok(host
        .store
        .read_opt(path)?
        .is_some_and(|value| value.is_empty()))
}
