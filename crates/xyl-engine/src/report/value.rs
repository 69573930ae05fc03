//! The parts of a host that all reports read, and a helper for their JSON.

use os_port::Clock;
use serde_json::Value;
use xen_port::Hypervisor;

use crate::Host;
use crate::vm::names::NameIndex;
use crate::vm::without_domain::Records;

/// The parts of a host that reports read. xenstore is none of them, since reports work without it.
#[derive(Clone, Copy)]
pub struct Reader<'r> {
    /// Port to the hypervisor.
    pub hv: &'r dyn Hypervisor,
    /// Xyl's records of the VMs.
    pub records: Records<'r>,
    /// Port to the clocks.
    pub clock: &'r dyn Clock,
}

impl<'r> Reader<'r> {
    /// The parts of a host that was opened for an operation.
    pub fn of(host: &'r Host) -> Reader<'r> {
        Reader {
            hv: &*host.hv,
            records: host.records(),
            clock: &*host.clock,
        }
    }

    /// The index of names on disk.
    pub fn name_index(&self) -> NameIndex<'r> {
        let Records {
            files,
            dirs,
            process,
        } = self.records;
        NameIndex::new(files, self.clock, process, dirs)
    }
}

/// Sets a member of an object.
pub fn set(object: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(members) = object.as_object_mut() {
        members.insert(key.to_owned(), value.into());
    }
}
