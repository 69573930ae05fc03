//! Paravirtual devices besides disks and network: channels, file systems, keyboards, TPMs and others.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::identity::parse_uuid;
use super::params::split;
use crate::diag::Code;
use crate::keyword::keywords;
use crate::reader::Reader;
use crate::syntax::Text;

keywords! {
    /// The backend's end of a channel.
    ChannelConnection {
        /// A pseudo-terminal (pty).
        Pty = "pty",
        /// A Unix socket at a path.
        Socket = "socket",
    }
}

keywords! {
    /// The program that serves a shared file system.
    P9Type {
        /// QEMU as a backend.
        Qemu = "qemu",
        /// Xen's own daemon.
        Xen9pfsd = "xen_9pfsd",
    }
}

keywords! {
    /// The backend of a virtual keyboard.
    KeyboardBackend {
        /// QEMU as a backend.
        Qemu = "qemu",
        /// A Linux domain.
        Linux = "linux",
    }
}

/// A byte stream between guest and host (`channel`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Name by which the guest finds the channel.
    pub name: String,
    /// The backend's end.
    pub connection: ChannelConnection,
    /// Path of the socket.
    pub path: Option<String>,
    /// The domain that serves it.
    pub backend: Option<String>,
}

/// A shared file system (`p9`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct P9 {
    /// The program that serves it; QEMU by default.
    pub p9_type: Option<P9Type>,
    /// Name for the guest's mount.
    pub tag: Option<String>,
    /// Directory on the host.
    pub path: Option<String>,
    /// Security model; the only value is `none`.
    pub security_model: Option<String>,
    /// The domain that serves it.
    pub backend: Option<String>,
    /// Maximum number of files.
    pub max_files: Option<u32>,
    /// Maximum number of open files.
    pub max_open_files: Option<u32>,
    /// Maximum disk space, in MiB.
    pub max_space_mib: Option<u32>,
    /// Whether the oldest files make room for new ones.
    pub auto_delete: Option<bool>,
}

/// A virtual TPM (`vtpm`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vtpm {
    /// The domain that serves it.
    pub backend: String,
    /// UUID of the virtual TPM.
    pub uuid: Option<Uuid>,
}

/// A virtual keyboard and pointer (`vkb`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyboard {
    /// The backend that serves it.
    pub backend_type: KeyboardBackend,
    /// The domain that serves it.
    pub backend: Option<String>,
    /// Its number (`devid`), which xl has no parameter for.
    pub devid: Option<u32>,
    /// All further parameters by name.
    pub parameters: Vec<(String, String)>,
}

/// A device of which only the form is checked: name and value of each parameter.
pub type Parameters = Vec<(String, String)>;

/// Paravirtual devices besides disks and network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvDevices {
    /// Byte streams to the backend domain (`channel`).
    pub channels: Vec<Channel>,
    /// Shared file systems.
    pub p9: Vec<P9>,
    /// Virtual TPM devices (`vtpm`).
    pub vtpms: Vec<Vtpm>,
    /// Virtual keyboards and pointers (`vkb`).
    pub keyboards: Vec<Keyboard>,
    /// Sockets served by another domain (`pvcalls`): the domain, `None` for domain 0.
    pub pvcalls: Vec<Option<String>>,
    /// virtio devices (`virtio`).
    pub virtio: Vec<Parameters>,
    /// Paravirtual displays (`vdispl`).
    pub displays: Vec<Parameters>,
}

impl PvDevices {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            channels: each(reader, "channel", read_channel),
            p9: each(reader, "p9", read_p9),
            vtpms: each(reader, "vtpm", read_vtpm),
            keyboards: each(reader, "vkb", read_keyboard),
            pvcalls: each(reader, "pvcalls", read_pvcalls),
            virtio: each(reader, "virtio", read_virtio),
            displays: each(reader, "vdispl", read_display),
        }
    }
}

fn each<T>(
    reader: &mut Reader<'_>,
    key: &str,
    read: fn(&mut Reader<'_>, Text<'_>) -> Option<T>,
) -> Vec<T> {
    reader
        .texts(key)
        .into_iter()
        .filter_map(|text| read(reader, text))
        .collect()
}

fn incomplete(reader: &mut Reader<'_>, text: Text<'_>, message: &str, help: &str) {
    reader.error(Code::Missing, text.whole_if_all(), message, help);
}

fn read_channel(reader: &mut Reader<'_>, text: Text<'_>) -> Option<Channel> {
    let (mut name, mut path, mut backend) = (None, None, None);
    let mut connection: Option<ChannelConnection> = None;
    for param in split(text) {
        let param = param.trimmed();
        match param.name.text {
            "name" => name = param.string(reader),
            "path" => path = param.string(reader),
            "backend" => backend = param.string(reader),
            "connection" => connection = param.keyword(reader),
            _ => param.unknown_ignored(
                reader,
                "channel",
                ["name", "path", "backend", "connection"].into_iter(),
            ),
        }
    }
    let (Some(name), Some(connection)) = (name, connection) else {
        incomplete(
            reader,
            text,
            "a channel needs a name and a connection",
            "give it both, as in `name=org.example.agent,connection=pty`",
        );
        return None;
    };
    if connection == ChannelConnection::Socket && path.is_none() {
        incomplete(
            reader,
            text,
            "a channel by socket needs a path",
            "give it one, as in `path=/run/guest.sock`",
        );
        return None;
    }
    Some(Channel {
        name,
        connection,
        path,
        backend,
    })
}

fn read_p9(reader: &mut Reader<'_>, text: Text<'_>) -> Option<P9> {
    let names = [
        "type",
        "tag",
        "path",
        "security_model",
        "backend",
        "max-files",
        "max-open-files",
        "max-space",
        "auto-delete",
    ];
    let mut p9 = P9::default();
    let most = i32::MAX.unsigned_abs();
    for param in split(text) {
        let param = param.trimmed();
        match param.name.text {
            "type" => p9.p9_type = param.keyword_any_case(reader),
            "tag" => p9.tag = param.string(reader),
            "path" => p9.path = param.string(reader),
            "security_model" => p9.security_model = param.string(reader),
            "backend" => p9.backend = param.string(reader),
            "max-files" => p9.max_files = param.u32(reader, "a number of files", 0..=most),
            "max-open-files" => {
                p9.max_open_files = param.u32(reader, "a number of files", 0..=most)
            }
            "max-space" => p9.max_space_mib = param.u32(reader, "a number of MiB", 0..=most),
            "auto-delete" => p9.auto_delete = param.flag(reader),
            _ => param.unknown(reader, "p9", names.into_iter()),
        }
    }
    if p9.p9_type != Some(P9Type::Xen9pfsd) && (p9.tag.is_none() || p9.path.is_none()) {
        incomplete(
            reader,
            text,
            "a shared file system needs a tag and a path",
            "give it both, as in `tag=share,security_model=none,path=/srv/share`",
        );
        return None;
    }
    Some(p9)
}

fn read_vtpm(reader: &mut Reader<'_>, text: Text<'_>) -> Option<Vtpm> {
    let (mut backend, mut uuid) = (None, None);
    for param in split(text) {
        match param.name.text {
            "backend" => backend = param.string(reader),
            "uuid" => {
                let value = param.wanted_value(reader)?;
                uuid = parse_uuid(reader, value, "a TPM's `uuid`");
            }
            _ => param.unknown(reader, "vtpm", ["backend", "uuid"].into_iter()),
        }
    }
    let Some(backend) = backend else {
        incomplete(
            reader,
            text,
            "a TPM needs a backend",
            "name the domain that serves it, as in `backend=tpm-domain`",
        );
        return None;
    };
    Some(Vtpm { backend, uuid })
}

const KEYBOARD_NAMES: [&str; 11] = [
    "unique-id",
    "feature-disable-keyboard",
    "feature-disable-pointer",
    "feature-abs-pointer",
    "feature-raw-pointer",
    "feature-multi-touch",
    "multi-touch-width",
    "multi-touch-height",
    "multi-touch-num-contacts",
    "width",
    "height",
];

fn read_keyboard(reader: &mut Reader<'_>, text: Text<'_>) -> Option<Keyboard> {
    let mut backend_type: Option<KeyboardBackend> = None;
    let (mut backend, mut devid) = (None, None);
    let mut parameters = Vec::new();
    for param in split(text) {
        match param.name.text {
            "backend-type" => backend_type = Some(param.keyword_any_case(reader)?),
            "backend" => backend = param.string(reader),
            "devid" => devid = param.u32(reader, "a device's number", 0..=65535),
            "unique-id" => parameters.push(("unique-id".to_owned(), param.string(reader)?)),
            name if KEYBOARD_NAMES.contains(&name) => {
                let most = u32::MAX;
                let number = param.u32(reader, "a number", 0..=most)?;
                parameters.push((name.to_owned(), number.to_string()))
            }
            _ => param.unknown(reader, "vkb", KEYBOARD_NAMES.into_iter()),
        }
    }
    let Some(backend_type) = backend_type else {
        incomplete(
            reader,
            text,
            "a keyboard needs a backend type",
            "add `backend-type=qemu` or `backend-type=linux`",
        );
        return None;
    };
    Some(Keyboard {
        backend_type,
        backend,
        devid,
        parameters,
    })
}

fn read_pvcalls(reader: &mut Reader<'_>, text: Text<'_>) -> Option<Option<String>> {
    let mut backend = None;
    for param in split(text) {
        match param.name.text {
            "backend" => backend = param.string(reader),
            _ => param.unknown(reader, "pvcalls", ["backend"].into_iter()),
        }
    }
    Some(backend)
}

/// The type of a virtio device has a comma in it: `type=virtio,device22`.
fn read_virtio(reader: &mut Reader<'_>, text: Text<'_>) -> Option<Parameters> {
    let names = ["backend", "type", "transport", "grant_usage"];
    let mut parameters: Parameters = Vec::new();
    for param in split(text) {
        match (param.name.text, param.value, parameters.last_mut()) {
            (name, Some(value), _) if names.contains(&name) => {
                parameters.push((name.to_owned(), value.text.to_owned()))
            }
            (device, None, Some((name, value))) if name == "type" && value == "virtio" => {
                value.push(',');
                value.push_str(device);
            }
            _ => param.unknown(reader, "virtio", names.into_iter()),
        }
    }
    Some(parameters)
}

fn read_display(reader: &mut Reader<'_>, text: Text<'_>) -> Option<Parameters> {
    let names = ["backend", "be-alloc", "connectors"];
    let mut parameters: Parameters = Vec::new();
    for param in split(text) {
        if names.contains(&param.name.text) {
            parameters.push((param.name.text.to_owned(), param.string(reader)?));
        } else {
            param.unknown(reader, "vdispl", names.into_iter());
        }
    }
    if !parameters.iter().any(|(name, _)| name == "connectors") {
        incomplete(
            reader,
            text,
            "a display needs connectors",
            "give it one, as in `connectors=id0:1920x1080`",
        );
        return None;
    }
    Some(parameters)
}
