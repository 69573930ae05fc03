//! Rules for xenstore nodes: what is written, who may do what with it, and who reads it.

use xen_port::DomId;

/// Who may do what with a node. Others have no rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Domain 0's alone: `n0`.
    Dom0,
    /// Domain 0's, readable by the guest: `n0,rD`.
    GuestReads,
    /// The guest's own, which it may write: `nD`.
    GuestOwns,
}

/// The rule for one node. `I` is what its value is made from.
pub struct NodeRule<I> {
    /// Its path below the folder that the table is for.
    pub path: &'static str,
    /// Who may do what with it.
    pub access: Access,
    /// Who reads it, or writes it where it is the guest's.
    pub reader: &'static str,
    /// Its value; `None` where it is not written.
    pub value: fn(&I) -> Option<String>,
}

/// One change to xenstore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a value; creates the node if need be, with the permissions of its parent.
    Write(String, String),
    /// Sets the permissions of a node.
    Perms(String, DomId, Access),
}
