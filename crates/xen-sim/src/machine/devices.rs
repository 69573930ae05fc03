//! The block devices and network interfaces of a simulated host, and its backends.
//!
//! The host's process owns them ([`Devices`]). Commands reach them by calls on the hypervisor's socket ([`RemoteDevices`]). A loop
//! device that a command holds open belongs to the command's connection, so it is closed when the command dies. sysfs is a
//! folder of real files below the host's.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use os_port::mem::{
    Life, MemDisks, MemKernelFiles, MemLinks, MemPrograms, ProcessDisks, ProcessLinks,
};
use os_port::{
    AttachedLoop, BlockDevice, BlockDevices, DeviceNumber, FileFacts, FileId, HeldLoop,
    HostDevices, Link, LinkChange, LinkIndex, LinkName, Links, LoopDevice, LoopDevices, LoopFacts,
    LoopRequest, Mount, OpenFile, Taps,
};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use xenstore::Client;

use super::remote::Connection;
use super::wire::Refusal;
use crate::backends::{Backends, Sysfs};

/// The bridge of a new host: the default of xl.conf.
const BRIDGE: &str = "xenbr0";

/// The devices in the host's process.
pub(super) struct Devices {
    disks: ProcessDisks,
    links: ProcessLinks,
    backends: Backends,
}

impl Devices {
    /// A host without disks of its own, with a bridge. `folder` is the host's.
    pub fn new(folder: &Path) -> io::Result<Devices> {
        let (disks, links) = (MemDisks::of_real_files(), MemLinks::default());
        let sysfs = FolderSysfs {
            root: folder.to_owned(),
        };
        // Devices of a boot before.
        sysfs.remove_folder(Path::new("/sys/bus/xen-backend/devices"));
        let life = Life::new(std::process::id());
        let devices = Devices {
            backends: Backends::new(
                &disks,
                &links,
                Arc::new(sysfs),
                &MemPrograms::default(),
                &MemKernelFiles::default(),
            ),
            disks: disks.of(&life),
            links: links.of(&life),
        };
        let bridge = links.add(&LinkName::parse(BRIDGE)?, Some("bridge"));
        devices.links.change(bridge, &LinkChange::Up)?;
        Ok(devices)
    }

    /// Lets the backends do all that they have to do. Returns whether they did anything.
    pub fn act(&self, store: &mut Client) -> bool {
        self.backends.wake();
        let mut has_acted = false;
        while self.backends.act(store) {
            has_acted = true;
        }
        has_acted
    }

    /// Carries out a call of this name for a connection; `None` if it is none of a device's.
    pub fn carry_out(
        &self,
        call: &str,
        args: &Value,
        held: &mut Vec<AttachedLoop>,
    ) -> Option<Result<Value, Refusal>> {
        let answer = match call {
            "attach_loop" => done(args, |ask: LoopAsk| {
                let file = OpenFile::in_memory(&ask.path, ask.facts, ask.is_writable, Vec::new());
                let attached = self.disks.attach(&ask.request(&file))?;
                let facts = *attached.facts();
                held.push(attached);
                Ok(facts)
            }),
            "release_loop" => done(args, |number: u32| {
                held.retain(|attached| attached.facts().number != number);
                Ok(())
            }),
            "list_loops" => done(args, |()| self.disks.list()),
            "detach_loop" => done(args, |(number, backing)| self.disks.detach(number, backing)),
            "block_device" => done(args, |number| self.disks.device(number)),
            "find_link" => done(args, |name| self.links.find(&name)),
            "list_ports" => done(args, |master| self.links.ports_of(master)),
            "change_link" => done(args, |(index, change)| self.links.change(index, &change)),
            "delete_link" => done(args, |index| self.links.delete(index)),
            _ => return None,
        };
        Some(answer)
    }
}

/// Parses a call's arguments, acts, and serialises the answer.
fn done<A: DeserializeOwned, T: Serialize>(
    args: &Value,
    act: impl FnOnce(A) -> io::Result<T>,
) -> Result<Value, Refusal> {
    let nonsense = |error: serde_json::Error| Refusal::Other(error.to_string());
    let args = A::deserialize(args).map_err(nonsense)?;
    let answer = act(args).map_err(|error| Refusal::System {
        errno: error.raw_os_error(),
        text: error.to_string(),
    })?;
    serde_json::to_value(answer).map_err(nonsense)
}

/// A [`LoopRequest`] in a message. The host's process needs the facts of the file, not its descriptor.
#[derive(Serialize, Deserialize)]
struct LoopAsk {
    path: PathBuf,
    facts: FileFacts,
    is_writable: bool,
    is_read_only: bool,
    wants_direct_io: bool,
    offset_bytes: u64,
    size_limit_bytes: Option<u64>,
    is_autoclear: bool,
    label: String,
    but: Vec<u32>,
}

impl LoopAsk {
    fn new(request: &LoopRequest<'_>) -> LoopAsk {
        LoopAsk {
            path: request.file.path().to_owned(),
            facts: *request.file.facts(),
            is_writable: request.file.is_writable(),
            is_read_only: request.is_read_only,
            wants_direct_io: request.wants_direct_io,
            offset_bytes: request.offset_bytes,
            size_limit_bytes: request.size_limit_bytes,
            is_autoclear: request.is_autoclear,
            label: request.label.to_owned(),
            but: request.but.to_vec(),
        }
    }

    fn request<'a>(&'a self, file: &'a OpenFile) -> LoopRequest<'a> {
        LoopRequest {
            file,
            is_read_only: self.is_read_only,
            wants_direct_io: self.wants_direct_io,
            offset_bytes: self.offset_bytes,
            size_limit_bytes: self.size_limit_bytes,
            is_autoclear: self.is_autoclear,
            label: &self.label,
            but: &self.but,
        }
    }
}

/// sysfs below a folder.
#[derive(Debug)]
struct FolderSysfs {
    root: PathBuf,
}

impl FolderSysfs {
    fn place(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Sysfs for FolderSysfs {
    fn put(&self, path: &Path, bytes: &[u8]) {
        let place = self.place(path);
        let folder = place.parent().unwrap_or(&self.root);
        // A full disk is as a driver that never shows the device: the command says what it waits for.
        let _ = fs::create_dir_all(folder).and_then(|()| fs::write(&place, bytes));
    }

    fn remove_folder(&self, path: &Path) {
        // It is there only if the device was made.
        let _ = fs::remove_dir_all(self.place(path));
    }
}

/// The devices as a command reaches them.
#[derive(Clone)]
pub(super) struct RemoteDevices {
    connection: Rc<RefCell<Connection>>,
}

impl std::fmt::Debug for RemoteDevices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RemoteDevices")
    }
}

impl RemoteDevices {
    pub fn new(connection: Connection) -> RemoteDevices {
        RemoteDevices {
            connection: Rc::new(RefCell::new(connection)),
        }
    }

    /// The ports of a host.
    pub fn ports(self) -> HostDevices {
        HostDevices {
            loops: Rc::new(self.clone()),
            blocks: Rc::new(self.clone()),
            taps: Rc::new(self.clone()),
            links: Rc::new(self),
        }
    }

    fn ask<T: DeserializeOwned>(&self, call: &str, args: impl Serialize) -> io::Result<T> {
        let mut connection = self.connection.borrow_mut();
        let (answer, _) = connection.exchange(call, args, &[])?;
        let value = answer.map_err(|refusal| match refusal {
            Refusal::System {
                errno: Some(errno), ..
            } => Errno::from_raw_os_error(errno).into(),
            Refusal::System { text, .. } | Refusal::Other(text) => io::Error::other(text),
            other => io::Error::other(format!("{other:?}")),
        })?;
        Ok(serde_json::from_value(value)?)
    }
}

/// A loop device that the host's process holds open for this one.
#[derive(Debug)]
struct RemoteHold {
    devices: RemoteDevices,
    number: u32,
}

impl HeldLoop for RemoteHold {}

impl Drop for RemoteHold {
    fn drop(&mut self) {
        // A host that is gone holds nothing.
        let _: io::Result<()> = self.devices.ask("release_loop", self.number);
    }
}

impl LoopDevices for RemoteDevices {
    fn attach(&self, request: &LoopRequest<'_>) -> io::Result<AttachedLoop> {
        request.label_bytes()?;
        let facts: LoopFacts = self.ask("attach_loop", LoopAsk::new(request))?;
        let hold = RemoteHold {
            devices: self.clone(),
            number: facts.number,
        };
        Ok(AttachedLoop::new(facts, Box::new(hold)))
    }

    fn list(&self) -> io::Result<Vec<LoopDevice>> {
        self.ask("list_loops", ())
    }

    fn detach(&self, number: u32, backing: FileId) -> io::Result<bool> {
        self.ask("detach_loop", (number, backing))
    }
}

impl BlockDevices for RemoteDevices {
    fn device(&self, number: DeviceNumber) -> io::Result<Option<BlockDevice>> {
        self.ask("block_device", number)
    }

    fn mounts(&self) -> io::Result<Vec<Mount>> {
        Ok(Vec::new())
    }

    fn swaps(&self) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

/// HVM guests, which alone have taps, are not there on this host.
impl Taps for RemoteDevices {
    fn open(&self, _name: &LinkName) -> io::Result<OpenFile> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Links for RemoteDevices {
    fn find(&self, name: &LinkName) -> io::Result<Option<Link>> {
        self.ask("find_link", name)
    }

    fn ports_of(&self, master: LinkIndex) -> io::Result<Vec<Link>> {
        self.ask("list_ports", master)
    }

    fn change(&self, index: LinkIndex, change: &LinkChange) -> io::Result<()> {
        self.ask("change_link", (index, change))
    }

    fn delete(&self, index: LinkIndex) -> io::Result<bool> {
        self.ask("delete_link", index)
    }
}
