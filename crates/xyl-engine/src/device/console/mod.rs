//! Consoles: console 0, a ring between the guest and xenconsoled, and channels (`channel.rs`). It is the first kind in [`super::KINDS`].
//!
//! Console 0 has no handshake of states. xenconsoled reads ring and port from nodes below the domain's home, and
//! writes the tty's name there. The guest cannot write these nodes, so it cannot redirect the console. Without a
//! device model there is one rule of order: the nodes exist before the domain is introduced. A console cannot be
//! hot-plugged. libxl gives console 0 no member in its record, and works without `/libxl/D/device/console`.
//!
//! Facts: `tools/console/daemon/io.c`, `libxl_console.c`.

mod channel;
mod socket;

use std::time::{Duration, Instant};

use serde_json::Value as Json;
use xen_port::{DomId, EvtchnPort, Gfn};
use xenstore::{Path, Tree};

use crate::device::nodes::{Access, NodeRule};
use crate::device::qemu::{self, Wanted};
use crate::device::{DeviceInput, Kind, Owner, Patience, Recorded, bus};
use crate::vm::channel::End;
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host, device_model};

pub(super) use channel::forget_terminals;

/// libxl's name of the kind.
const KIND: &str = "console";
/// The number of console 0, as text.
const CONSOLE_0: &str = "0";

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

/// The kind of consoles.
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
        KIND
    }

    fn json_member(&self) -> Option<&'static str> {
        Some("channels")
    }

    fn recorded(&self, spec: &VmSpec) -> Vec<Recorded> {
        spec.channels.iter().map(channel::recorded).collect()
    }

    fn number_of_json(&self, entry: &Json) -> Option<u32> {
        u32::try_from(entry.get("devid")?.as_u64()?).ok()
    }

    fn cfg_of_json(&self, entry: &Json) -> Option<String> {
        channel::cfg_of_json(entry)
    }

    fn keep_only(&self, spec: &mut VmSpec, numbers: &[u32]) {
        spec.channels
            .retain(|channel| numbers.contains(&channel.number));
    }

    fn table(&self) -> Vec<(String, Access, &'static str)> {
        channel::TABLES.rows(KIND)
    }

    fn check_rights(&self, host: &Host, spec: &VmSpec) -> Result<(), EngineError> {
        qemu::check_right(host, spec.channels.first().map(channel::what))
    }

    /// The socket of a channel is one. QEMU opens terminals itself.
    fn nr_files_of_qemu(&self, spec: &VmSpec) -> usize {
        let channels = spec.channels.iter();
        channels
            .filter(|channel| matches!(channel.end, End::Socket(_)))
            .count()
    }

    fn check(&self, host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
        if let Some(first) = spec.channels.first() {
            device_model::binary(host, &channel::what(first))?;
        }
        channel::check(host, &spec.channels)
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        spec: &VmSpec,
        wanted: &mut Wanted,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        channel::prepare(host, owner, &spec.channels, wanted, patience)
    }

    fn detach(&self, host: &mut Host, domid: DomId, _: Instant) -> Result<(), EngineError> {
        channel::detach(host, domid)
    }

    fn without_qemu(&self, host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
        channel::without_qemu(host, domid)
    }

    /// Console 0 is none. The backend of a channel may be in another domain.
    fn foreign(&self, host: &mut Host, domid: DomId, number: &str) -> Result<bool, EngineError> {
        Ok(number != CONSOLE_0 && bus::device_of(host, domid, KIND, number)?.is_none())
    }

    /// xl's QEMU is not confined.
    fn is_not_for_adopt(&self, _: &mut Host, _: DomId, number: &str) -> Result<bool, EngineError> {
        Ok(number != CONSOLE_0)
    }

    fn is_waited_for(&self) -> bool {
        false
    }

    fn nodes(&self) -> &'static [NodeRule<DeviceInput>] {
        NODES
    }

    /// xenconsoled keeps its open tty, so the node stays.
    fn kept_nodes(&self) -> &'static [&'static str] {
        &[TTY]
    }

    fn is_kept(&self, number: &str) -> bool {
        number == CONSOLE_0
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
