//! Framebuffers: a display of the guest that the VM's QEMU shows to VNC viewers.
//!
//! QEMU opens its TCP socket before it confines itself. The display is chosen before that, under a lock of the host, so the port is in
//! xenstore where xl has it. The password goes to QEMU as an open file in memory. It is in no argument and no node, unlike with libxl,
//! which writes it where the guest reads it. The guest names pages of its own memory, and QEMU maps them: see [`Wanted::serve`].
//!
//! Facts: `libxl_vfb.c` and `libxl_dm.c`, `hw/display/xenfb.c` and `ui/vnc.c` of QEMU.

use std::path::Path;
use std::time::{Duration, Instant};

use os_port::Lock;
use serde_json::{Value as Json, json};
use xen_port::DomId;
use xenstore::{Path as StorePath, Tree};
use xl_cfg::types::Secret;

use crate::device::bus::{self, BackendDomain, Device, Tables};
use crate::device::nodes::{Access, NodeRule, back, copy_of, own};
use crate::device::qemu::{self, Wanted};
use crate::device::{Kind, Owner, Patience, Recorded};
use crate::device_model::{self, Display, Listening};
use crate::error::DeviceError;
use crate::vm::framebuffer::{self, Framebuffer, Vnc};
use crate::vm::paths::node;
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host};

/// libxl's name of the kind.
const KIND: &str = "vfb";
/// The framebuffer in words, beginning with its setting in xl.cfg.
const WHAT: &str = "vfb 0";
/// Number of displays that are looked at for a free one, as with libxl.
const DISPLAYS: u32 = 100;
/// Longest wait for another VM that gets its display.
const LOCK_LIMIT: Duration = Duration::from_secs(50);
/// Longest wait between two looks whether the operation is cancelled.
const LOCK_LOOK_EVERY: Duration = Duration::from_millis(500);

/// The kind of framebuffers.
pub struct Vfb;

/// The source of a framebuffer's nodes.
struct Nodes {
    device: Device,
    vnc: Option<Vnc>,
}

type Rule = NodeRule<Nodes>;

const TABLES: Tables<Nodes> = Tables {
    frontend: FRONTEND,
    backend: BACKEND,
    copy: COPY,
};

const FRONTEND: &[Rule] = &[
    own("backend", "guest: where its backend is", |n| {
        Some(n.device.backend())
    }),
    own("backend-id", "guest", |_| Some("0".to_owned())),
    own("state", "guest and QEMU", |_| Some("1".to_owned())),
];

const BACKEND: &[Rule] = &[
    back("frontend", "QEMU", |n| Some(n.device.frontend())),
    back("frontend-id", "QEMU", |n| Some(n.device.domid.to_string())),
    back("online", "QEMU: whether the framebuffer stays", |_| {
        Some("1".to_owned())
    }),
    back("state", "QEMU, guest", |_| Some("1".to_owned())),
    back("vnc", "people", |n| Some(flag(n.vnc.is_some()))),
    back("vnclisten", "people", |n| {
        Some(n.vnc.as_ref()?.listen.to_string())
    }),
    back("vncdisplay", "people", |n| {
        Some(n.vnc.as_ref()?.display.to_string())
    }),
    back("vncunused", "people", |n| {
        Some(flag(n.vnc.as_ref()?.find_unused))
    }),
    back("sdl", "people", |_| Some(flag(false))),
    back("opengl", "people", |_| Some(flag(false))),
];

const COPY: &[Rule] = &[
    copy_of("frontend", |n| Some(n.device.frontend())),
    copy_of("backend", |n| Some(n.device.backend())),
];

fn flag(is_set: bool) -> String {
    u8::from(is_set).to_string()
}

impl Kind for Vfb {
    fn name(&self) -> &'static str {
        KIND
    }

    fn json_member(&self) -> Option<&'static str> {
        Some("vfbs")
    }

    fn recorded(&self, spec: &VmSpec) -> Vec<Recorded> {
        let recorded = |framebuffer: &Framebuffer| Recorded {
            number: 0,
            text: framebuffer.cfg_text(),
            json: to_json(framebuffer),
        };
        spec.framebuffers.iter().map(recorded).collect()
    }

    fn number_of_json(&self, entry: &Json) -> Option<u32> {
        let number = entry.get("devid").map_or(Some(0), Json::as_u64)?;
        u32::try_from(number).ok()
    }

    fn keep_only(&self, spec: &mut VmSpec, numbers: &[u32]) {
        if !numbers.contains(&0) {
            spec.framebuffers.clear();
        }
    }

    fn folders(&self, domid: DomId) -> Vec<String> {
        bus::folders(KIND, domid)
    }

    fn table(&self) -> Vec<(String, Access, &'static str)> {
        TABLES.rows(KIND)
    }

    fn check_rights(&self, host: &Host, spec: &VmSpec) -> Result<(), EngineError> {
        if spec.framebuffers.is_empty() || host.process.may_show_displays() {
            return Ok(());
        }
        let device = WHAT.to_owned();
        Err(DeviceError::NoRightToQemu { device }.into())
    }

    /// The password is one.
    fn nr_files_of_qemu(&self, spec: &VmSpec) -> usize {
        let servers = spec.framebuffers.iter().filter_map(|one| one.vnc.as_ref());
        servers.filter(|vnc| vnc.password.is_some()).count()
    }

    fn check(&self, host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
        let Some(framebuffer) = spec.framebuffers.first() else {
            return Ok(());
        };
        device_model::binary(host, WHAT)?;
        match &framebuffer.vnc {
            Some(vnc) => free_display(host, vnc).map(drop),
            None => Ok(()),
        }
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        spec: &VmSpec,
        wanted: &mut Wanted,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        match spec.framebuffers.first() {
            Some(framebuffer) => prepare(host, owner, framebuffer, wanted, patience),
            None => Ok(()),
        }
    }

    fn detach(&self, host: &mut Host, domid: DomId, _: Instant) -> Result<(), EngineError> {
        let devices = bus::devices(host, domid, KIND)?;
        qemu::detach(host, domid, &devices)
    }

    fn without_qemu(&self, host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
        let devices = bus::devices(host, domid, KIND)?;
        let found = qemu::without_first(host, domid, devices)?;
        let words = |device: &Device| format!("framebuffer {}", device.number);
        Ok(found.iter().map(words).collect())
    }

    fn foreign(&self, host: &mut Host, domid: DomId, number: &str) -> Result<bool, EngineError> {
        Ok(bus::device_of(host, domid, KIND, number)?.is_none())
    }

    /// xl's QEMU is not confined.
    fn is_not_for_adopt(&self, _: &mut Host, _: DomId, _: &str) -> Result<bool, EngineError> {
        Ok(true)
    }

    fn is_waited_for(&self) -> bool {
        false
    }
}

/// Writes the nodes of a framebuffer, for a QEMU that is started afterwards.
fn prepare(
    host: &mut Host,
    owner: Owner,
    framebuffer: &Framebuffer,
    wanted: &mut Wanted,
    patience: &Patience<'_>,
) -> Result<(), EngineError> {
    wanted.begin(host)?;
    let device = Device {
        domid: owner.domid,
        kind: KIND,
        served_by: KIND,
        number: 0,
        backend_domain: BackendDomain::DOM0,
    };
    let nodes = Nodes {
        device,
        vnc: framebuffer.vnc.clone(),
    };
    bus::write(host, &device, WHAT, &TABLES, &nodes)?;
    let listening = match &framebuffer.vnc {
        Some(vnc) => {
            let (listening, lock) = listen(host, owner.domid, vnc, patience)?;
            wanted.hold(lock);
            Some(listening)
        }
        None => None,
    };
    let keymap = framebuffer.keymap.clone();
    wanted.add_display(device, WHAT.to_owned(), Display { listening, keymap });
    Ok(())
}

/// Chooses the display of a VNC server, and writes where it is. No other VM takes the display while the lock is held, which is until QEMU
/// listens.
pub(super) fn listen(
    host: &mut Host,
    domid: DomId,
    vnc: &Vnc,
    patience: &Patience<'_>,
) -> Result<(Listening, Box<dyn Lock>), EngineError> {
    let lock = lock(host, patience)?;
    let display = free_display(host, vnc)?;
    let password = match &vnc.password {
        Some(Secret(text)) => {
            let kept = host.files.keep_in_memory("vnc-password", text.as_bytes());
            Some(kept.map_err(|source| {
                EngineError::io("keep the VNC password in", Path::new("memory"), source)
            })?)
        }
        None => None,
    };
    announce(host, domid, vnc, display)?;
    let listening = Listening {
        address: vnc.listen,
        display,
        password,
    };
    Ok((listening, lock))
}

/// The lock of the one process that chooses a display.
fn lock(host: &Host, patience: &Patience<'_>) -> Result<Box<dyn Lock>, EngineError> {
    let path = host.dirs.displays_lock();
    let deadline = patience.within(host, LOCK_LIMIT);
    loop {
        patience.check(host)?;
        let until = deadline.min(host.clock.now() + LOCK_LOOK_EVERY);
        let lock = host.files.lock(&path, Some(until));
        match lock.map_err(|source| EngineError::io("lock", &path, source))? {
            Some(lock) => return Ok(lock),
            None if host.clock.now() < deadline => {}
            None => {
                let what = format!(
                    "waits for another VM that gets its display, longer than {} s: `xyl ops` shows it",
                    LOCK_LIMIT.as_secs()
                );
                let device = WHAT.to_owned();
                return Err(DeviceError::Qemu { device, what }.into());
            }
        }
    }
}

/// The display for a VNC server, whose port no program of the host listens at.
pub(super) fn free_display(host: &Host, vnc: &Vnc) -> Result<u32, EngineError> {
    let taken = host.kernel.listened_ports();
    let displays = match vnc.find_unused {
        true => DISPLAYS,
        false => 1,
    };
    let last = vnc.display.saturating_add(displays - 1);
    let is_free =
        |display: &u32| framebuffer::port(*display).is_some_and(|port| !taken.contains(&port));
    let found = (vnc.display..=last).find(is_free);
    found.ok_or_else(|| {
        DeviceError::NoDisplay {
            device: WHAT.to_owned(),
            first: vnc.display,
            last,
        }
        .into()
    })
}

/// Writes where viewers find the display: libxl's nodes, but for the password.
fn announce(host: &mut Host, domid: DomId, vnc: &Vnc, display: u32) -> Result<(), EngineError> {
    let below = |name: &str| node(&format!("/local/domain/{domid}/console/{name}"));
    let (listen, port) = (below("vnc-listen")?, below("vnc-port")?);
    let home = StorePath::domain(domid.0);
    let number = framebuffer::port(display).map_or(String::new(), |port| port.to_string());
    host.store.try_transaction(|transaction| {
        // Another toolstack may have destroyed the domain meanwhile.
        if !transaction.exists(&home)? {
            return Err(EngineError::NoSuchDomain(domid.to_string()));
        }
        transaction.write(&listen, vnc.listen.to_string().as_bytes())?;
        transaction.write(&port, number.as_bytes())?;
        Ok(())
    })
}

/// A framebuffer in libxl's record (`libxl_device_vfb`).
fn to_json(framebuffer: &Framebuffer) -> Json {
    let vnc = framebuffer.vnc.as_ref().map(vnc_json);
    let always = [
        ("devid", json!(0)),
        ("vnc", vnc.unwrap_or_else(|| json!({ "enable": "False" }))),
        ("sdl", json!({ "enable": "False", "opengl": "False" })),
    ];
    let keymap = framebuffer.keymap.iter();
    let keymap = keymap.map(|name| ("keymap", json!(name)));
    members(always.into_iter().chain(keymap))
}

fn vnc_json(vnc: &Vnc) -> Json {
    let is_found = if vnc.find_unused { "True" } else { "False" };
    let always = [
        ("enable", json!("True")),
        ("listen", json!(vnc.listen.to_string())),
        ("findunused", json!(is_found)),
    ];
    let display = (vnc.display != 0).then(|| ("display", json!(vnc.display)));
    let password = vnc.password.iter();
    let password = password.map(|Secret(text)| ("passwd", json!(text)));
    members(always.into_iter().chain(display).chain(password))
}

fn members(members: impl Iterator<Item = (&'static str, Json)>) -> Json {
    members
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
