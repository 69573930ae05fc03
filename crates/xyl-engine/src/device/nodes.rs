//! Rules for xenstore nodes of devices: path, value, permissions, and the program that reads it.

use xen_port::DomId;
use xenstore::{Access as StoreAccess, Batch, Perms};

use crate::EngineError;
use crate::vm::paths::node;

/// Permissions of a node. All others have no rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Domain 0 alone: `n0`.
    Dom0,
    /// Domain 0 writes, the guest reads: `n0,rD`. Of a device in driver domain B: `nB,rD`.
    GuestReads,
    /// The guest owns the node and may write it: `nD`. Of a device in driver domain B: `nD,rB`.
    GuestOwns,
}

impl Access {
    /// The permissions for a guest and the domain that serves it. A driver domain reads what the guest owns, and owns what domain 0 would.
    pub fn perms(self, guest: DomId, backend: DomId) -> Perms {
        let owned = |owner: DomId, reader: DomId| {
            let perms = Perms::owned_by(owner.0);
            match reader {
                // It has all rights.
                DomId::ZERO => perms,
                reader => perms.with(reader.0, StoreAccess::Read),
            }
        };
        match self {
            Access::Dom0 => Perms::owned_by(0),
            Access::GuestReads => owned(backend, guest),
            Access::GuestOwns => owned(guest, backend),
        }
    }
}

/// The rule for one node. `I` is the input of its value.
pub struct NodeRule<I> {
    /// Path below the folder of the table.
    pub path: &'static str,
    /// Permissions of the node.
    pub access: Access,
    /// The program that reads the node, or that writes it if the guest owns it.
    pub reader: &'static str,
    /// Computes the value. `None` means that the node is not written.
    pub value: fn(&I) -> Option<String>,
}

impl<I> NodeRule<I> {
    /// Makes a rule.
    pub const fn new(
        path: &'static str,
        access: Access,
        reader: &'static str,
        value: fn(&I) -> Option<String>,
    ) -> NodeRule<I> {
        NodeRule {
            path,
            access,
            reader,
            value,
        }
    }
}

/// A node that the guest owns.
pub(super) const fn own<I>(
    path: &'static str,
    reader: &'static str,
    value: fn(&I) -> Option<String>,
) -> NodeRule<I> {
    NodeRule::new(path, Access::GuestOwns, reader, value)
}

/// A node of a backend's folder.
pub(super) const fn back<I>(
    path: &'static str,
    reader: &'static str,
    value: fn(&I) -> Option<String>,
) -> NodeRule<I> {
    NodeRule::new(path, Access::GuestReads, reader, value)
}

/// A node of the toolstack's own copy.
pub(super) const fn copy_of<I>(path: &'static str, value: fn(&I) -> Option<String>) -> NodeRule<I> {
    let reader = "xyl; libxl, for all that it does to the device";
    NodeRule::new(path, Access::Dom0, reader, value)
}

/// One change to xenstore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a value. Creates a missing node with the permissions of its parent.
    Write(String, String),
    /// Sets the permissions of a node.
    Perms(String, Perms),
}

impl Change {
    /// Puts the change into a batch.
    ///
    /// # Errors
    /// A path that xenstore cannot have.
    pub(crate) fn add_to(&self, batch: &mut Batch) -> Result<(), EngineError> {
        match self {
            Change::Write(path, value) => batch.write(&node(path)?, value.as_bytes()),
            Change::Perms(path, perms) => batch.set_perms(&node(path)?, perms),
        };
        Ok(())
    }
}
