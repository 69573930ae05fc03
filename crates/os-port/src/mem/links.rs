//! Network interfaces and taps in memory.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::Life;
use crate::links::{Link, LinkChange, LinkIndex, LinkName, Links};
use crate::open::{DeviceNumber, FileFacts, FileId, FileKind, OpenFile};
use crate::taps::Taps;

/// Smallest size of the largest packet in bytes: IPv4 demands it.
const MTU_MIN_BYTES: u32 = 68;
/// Size of the largest packet of a new link, in bytes.
const MTU_BYTES: u32 = 1500;

/// The network interfaces of a simulated host. Clones share the same interfaces.
#[derive(Clone, Debug, Default)]
pub struct MemLinks {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<LinkIndex, Link>,
    last_index: u32,
}

impl MemLinks {
    /// Adds a link that is down, as a driver does: a `kind` such as `bridge`, or `None` for netback's.
    pub fn add(&self, name: &LinkName, kind: Option<&str>) -> LinkIndex {
        let mut state = self.state();
        state.last_index += 1;
        let index = LinkIndex(state.last_index);
        let [.., low] = index.0.to_be_bytes();
        let link = Link {
            index,
            name: name.as_str().to_owned(),
            kind: kind.map(str::to_owned),
            master: None,
            is_up: false,
            mtu_bytes: MTU_BYTES,
            address: Some([2, 0, 0, 0, 0, low]),
            makes_ipv6_address: true,
        };
        state.links.insert(index, link);
        index
    }

    /// Removes a link, as its driver does. Its ports have no master then.
    pub fn remove(&self, index: LinkIndex) -> Option<Link> {
        self.state().remove(index)
    }

    /// All links in the order of their indices.
    pub fn all(&self) -> Vec<Link> {
        self.state().links.values().cloned().collect()
    }

    /// The links with the rights of one process.
    pub fn of(&self, life: &Life) -> ProcessLinks {
        ProcessLinks {
            all: self.clone(),
            life: life.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove(&mut self, index: LinkIndex) -> Option<Link> {
        let removed = self.links.remove(&index)?;
        let ports = self.links.values_mut();
        for port in ports.filter(|link| link.master == Some(index)) {
            port.master = None;
        }
        Some(removed)
    }

    fn change(&mut self, index: LinkIndex, change: &LinkChange) -> io::Result<()> {
        self.refuse(index, change)?;
        let link = self.links.get_mut(&index).ok_or(Errno::NODEV)?;
        match change {
            LinkChange::Up => link.is_up = true,
            LinkChange::Down => link.is_up = false,
            LinkChange::Mtu(bytes) => link.mtu_bytes = *bytes,
            LinkChange::Name(name) => link.name = name.as_str().to_owned(),
            LinkChange::Address(address) => link.address = Some(*address),
            LinkChange::Master(master) => link.master = *master,
            LinkChange::NoIpv6Address => link.makes_ipv6_address = false,
        }
        Ok(())
    }

    /// Refuses what the kernel refuses.
    fn refuse(&self, index: LinkIndex, change: &LinkChange) -> io::Result<()> {
        let link = self.links.get(&index).ok_or(Errno::NODEV)?;
        let is_taken = |name: &LinkName| {
            let mut others = self.links.values();
            others.any(|other| other.name == name.as_str() && other.index != index)
        };
        let refusal = match change {
            LinkChange::Mtu(..MTU_MIN_BYTES) => Some(Errno::INVAL),
            LinkChange::Name(_) if link.is_up => Some(Errno::BUSY),
            LinkChange::Name(name) if is_taken(name) => Some(Errno::EXIST),
            LinkChange::Address([first, ..]) if first & 1 != 0 => Some(Errno::ADDRNOTAVAIL),
            LinkChange::Master(Some(master)) => match self.links.get(master) {
                None => Some(Errno::INVAL),
                // A bridge cannot be a port of a bridge.
                Some(master) if !master.is_bridge() => Some(Errno::OPNOTSUPP),
                Some(_) if link.is_bridge() => Some(Errno::LOOP),
                Some(_) => None,
            },
            _ => None,
        };
        match refusal {
            Some(errno) => Err(errno.into()),
            None => Ok(()),
        }
    }
}

/// The network interfaces as one process sees them.
#[derive(Clone, Debug)]
pub struct ProcessLinks {
    all: MemLinks,
    life: Life,
}

impl ProcessLinks {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        self.life.refuse_the_dead()?;
        Ok(self.all.state())
    }
}

impl Links for ProcessLinks {
    fn find(&self, name: &LinkName) -> io::Result<Option<Link>> {
        let state = self.state()?;
        let mut links = state.links.values();
        Ok(links.find(|link| link.name == name.as_str()).cloned())
    }

    fn ports_of(&self, master: LinkIndex) -> io::Result<Vec<Link>> {
        let state = self.state()?;
        let ports = state.links.values();
        Ok(ports
            .filter(|link| link.master == Some(master))
            .cloned()
            .collect())
    }

    fn change(&self, index: LinkIndex, change: &LinkChange) -> io::Result<()> {
        self.state()?.change(index, change)
    }

    fn delete(&self, index: LinkIndex) -> io::Result<bool> {
        let mut state = self.state()?;
        match state.links.get(&index) {
            None => Ok(false),
            // Only its driver removes the interface of a device.
            Some(link) if link.kind.is_none() => Err(ErrorKind::Unsupported.into()),
            Some(_) => Ok(state.remove(index).is_some()),
        }
    }
}

impl Taps for ProcessLinks {
    fn open(&self, name: &LinkName) -> io::Result<OpenFile> {
        let is_taken = |link: &Link| link.name == name.as_str();
        if self.state()?.links.values().any(is_taken) {
            return Err(Errno::BUSY.into());
        }
        let lease = TapLease {
            all: self.all.clone(),
            index: self.all.add(name, Some("tun")),
        };
        let path = Path::new("/dev/net/tun");
        let file = OpenFile::in_memory(path, TAP_FACTS, true, Vec::new());
        Ok(file.with_lease(Arc::new(lease)))
    }
}

/// Facts about the file of a tap.
const TAP_FACTS: FileFacts = FileFacts {
    kind: FileKind::Other,
    id: FileId {
        device: DeviceNumber { major: 0, minor: 5 },
        inode: 1,
    },
    size_bytes: 0,
    mode: 0o666,
    uid: 0,
    modified_s: 0,
};

/// A tap that goes when no process has its file any more.
#[derive(Debug)]
struct TapLease {
    all: MemLinks,
    index: LinkIndex,
}

impl Drop for TapLease {
    fn drop(&mut self) {
        self.all.remove(self.index);
    }
}
