//! Channels: consoles with a name, from number 1 on, which the VM's QEMU serves.
//!
//! The guest makes ring and event channel itself, and grants the ring to domain 0. A channel's end in domain 0 is a terminal (pty), which
//! QEMU opens before it confines itself, or a socket (`socket.rs`). The path of a terminal is in the node `tty`. So the node `output` names
//! that terminal. libxl's has `pty`, with which QEMU opens a second one, and could not in its folder. A channel cannot be hot-plugged, as
//! with libxl.
//!
//! Facts: `libxl_console.c`, `hw/char/xen_console.c` of QEMU, `hvc_xen.c` of Linux.

use serde_json::{Value as Json, json};
use xen_port::DomId;
use xenstore::Tree;

use super::{KIND, LIMIT_BYTES, socket};
use crate::device::bus::{self, BackendDomain, Device, Tables};
use crate::device::hotplug::says_nothing;
use crate::device::nodes::{Access, NodeRule, back, copy_of, own};
use crate::device::qemu::{self, Wanted};
use crate::device::{Owner, Patience, Recorded};
use crate::vm::channel::{Channel, End};
use crate::vm::paths::node;
use crate::{EngineError, Host};

/// The protocol of consoles. libxl's value.
const PROTOCOL: &str = "vt100";

/// The source of a channel's nodes.
pub(super) struct Nodes {
    device: Device,
    channel: Channel,
}

type Rule = NodeRule<Nodes>;

pub(super) const TABLES: Tables<Nodes> = Tables {
    frontend: FRONTEND,
    backend: BACKEND,
    copy: COPY,
};

/// A node in the frontend's folder that the guest only reads.
const fn read_only(
    path: &'static str,
    reader: &'static str,
    value: fn(&Nodes) -> Option<String>,
) -> Rule {
    NodeRule::new(path, Access::GuestReads, reader, value)
}

const FRONTEND: &[Rule] = &[
    own("backend", "guest: where its backend is", |n| {
        Some(n.device.backend())
    }),
    own("backend-id", "guest", |_| Some("0".to_owned())),
    own("state", "guest and QEMU", |_| Some("1".to_owned())),
    own("protocol", "guest", |_| Some(PROTOCOL.to_owned())),
    read_only("name", "guest: what the channel is for", |n| {
        Some(n.channel.name.clone())
    }),
    read_only("limit", "QEMU: size of its buffer", |_| {
        Some(LIMIT_BYTES.to_owned())
    }),
    read_only("type", "QEMU, which serves no other", |_| {
        Some("ioemu".to_owned())
    }),
    read_only("output", "QEMU: its terminal", |n| {
        Some(format!("chardev:{}", n.channel.id_in_qemu()))
    }),
    read_only(
        "tty",
        "xl console, xyl console, channel-list; QEMU writes it",
        |_| Some(String::new()),
    ),
];

const BACKEND: &[Rule] = &[
    back("frontend", "QEMU", |n| Some(n.device.frontend())),
    back("frontend-id", "QEMU", |n| Some(n.device.domid.to_string())),
    back("online", "QEMU: whether the channel stays", |_| {
        Some("1".to_owned())
    }),
    back("state", "QEMU, guest", |_| Some("1".to_owned())),
    back("protocol", "people", |_| Some(PROTOCOL.to_owned())),
    back("name", "people", |n| Some(n.channel.name.clone())),
    back("connection", "people", |n| {
        Some(n.channel.connection().to_owned())
    }),
    back("path", "people", |n| n.channel.path()),
];

const COPY: &[Rule] = &[
    copy_of("frontend", |n| Some(n.device.frontend())),
    copy_of("backend", |n| Some(n.device.backend())),
    copy_of("name", |n| Some(n.channel.name.clone())),
    copy_of("connection", |n| Some(n.channel.connection().to_owned())),
    copy_of("path", |n| n.channel.path()),
];

/// The channel in words, beginning with its setting in xl.cfg.
pub(super) fn what(channel: &Channel) -> String {
    format!("channel `{}`", channel.name)
}

/// Writes the nodes of channels, for a QEMU that is started afterwards.
pub(super) fn prepare(
    host: &mut Host,
    owner: Owner,
    channels: &[Channel],
    qemu: &mut Wanted,
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    for channel in channels {
        patience.check(host)?;
        qemu.begin(host)?;
        let device = Device {
            domid: owner.domid,
            kind: KIND,
            served_by: KIND,
            number: channel.number,
            backend_domain: BackendDomain::DOM0,
        };
        let nodes = Nodes {
            device,
            channel: channel.clone(),
        };
        let what = what(channel);
        bus::write(host, &device, &what, &TABLES, &nodes)?;
        let id = channel.id_in_qemu();
        match &channel.end {
            End::Terminal => qemu.add_terminal(device, what, id),
            End::Socket(path) => {
                let socket = socket::make(host, &device, &what, path)?;
                qemu.add_socket(device, what, id, socket);
            }
        }
    }
    Ok(())
}

/// Refuses a channel whose socket could not be found at its path.
pub(super) fn check(host: &mut Host, channels: &[Channel]) -> Result<(), EngineError> {
    for channel in channels {
        if let End::Socket(path) = &channel.end {
            socket::check(host, &what(channel), path)?;
        }
    }
    Ok(())
}

/// Ends the QEMU of a domain, and takes its channels away.
pub(super) fn detach(host: &mut Host, domid: DomId) -> Result<(), EngineError> {
    let channels = channels_of(host, domid)?;
    for device in &channels {
        socket::remove(host, device)?;
    }
    qemu::detach(host, domid, &channels)
}

/// The channels of a domain: all consoles but the first one.
fn channels_of(host: &mut Host, domid: DomId) -> Result<Vec<Device>, EngineError> {
    let mut channels = bus::devices(host, domid, KIND)?;
    channels.retain(|device| device.number != 0);
    Ok(channels)
}

/// The channels of a domain that are to stay, and whose QEMU has ended, in words.
pub(super) fn without_qemu(host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
    let channels = channels_of(host, domid)?;
    let found = qemu::without_first(host, domid, channels)?;
    let words = |device: &Device| format!("channel {}", device.number);
    Ok(found.iter().map(words).collect())
}

/// Empties the nodes with the terminals of a QEMU that is gone.
pub(in crate::device) fn forget_terminals(
    host: &mut Host,
    domid: DomId,
) -> Result<(), EngineError> {
    for device in channels_of(host, domid)? {
        let path = node(&format!("{}/tty", device.frontend()))?;
        host.store.try_transaction(|transaction| {
            // Another toolstack may have destroyed the domain meanwhile.
            if transaction.exists(&path)? {
                transaction.write(&path, b"")?;
            }
            Ok::<_, EngineError>(())
        })?;
    }
    Ok(())
}

/// A channel of a VM's record.
pub(super) fn recorded(channel: &Channel) -> Recorded {
    Recorded {
        number: channel.number,
        text: channel.cfg_text(),
        json: match channel.path() {
            None => json!({ "name": channel.name, "connection.pty": {} }),
            Some(path) => json!({ "name": channel.name, "connection.socket": { "path": path } }),
        },
    }
}

/// The members of a channel that Xyl knows.
const KNOWN: [&str; 5] = [
    "name",
    "devid",
    "connection",
    "connection.pty",
    "connection.socket",
];

/// A channel of libxl's record (`libxl_device_channel`) as xl.cfg says it; `None` where Xyl cannot serve it.
pub(super) fn cfg_of_json(entry: &Json) -> Option<String> {
    let members = entry.as_object()?;
    let is_unknown =
        |(name, value): (&String, &Json)| !KNOWN.contains(&name.as_str()) && !says_nothing(value);
    if members.iter().any(is_unknown) {
        return None;
    }
    let end = match (
        members.get("connection.pty"),
        members.get("connection.socket"),
    ) {
        (Some(_), None) => End::Terminal,
        (None, Some(socket)) => End::Socket(socket.get("path")?.as_str()?.into()),
        _ => return None,
    };
    let name = members.get("name")?.as_str()?;
    let channel = Channel {
        number: 1,
        name: name.to_owned(),
        end,
    };
    // A word that xl.cfg cannot have is none of xl's.
    let is_word = |word: &str| !word.contains([',', '\'']);
    let is_all = is_word(name) && channel.path().is_none_or(|path| is_word(&path));
    is_all.then(|| channel.cfg_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_of_libxls_record_is_that_of_the_configuration() {
        for end in [End::Terminal, End::Socket("/run/a".into())] {
            let channel = Channel {
                number: 1,
                name: "org.example.agent".to_owned(),
                end,
            };
            let json = recorded(&channel).json;
            assert_eq!(cfg_of_json(&json), Some(channel.cfg_text()));
        }
        for other in [
            json!({ "name": "a", "connection.socket": {} }),
            json!({ "name": "a", "connection.socket": { "path": "/run/a,b" } }),
            json!({ "name": "a", "connection.pty": {}, "backend_domid": 3 }),
            json!({ "name": "a,connection=socket", "connection.pty": {} }),
            json!({ "connection.pty": {} }),
        ] {
            assert_eq!(cfg_of_json(&other), None, "{other}");
        }
    }
}
