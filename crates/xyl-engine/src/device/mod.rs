//! Kinds of devices: one file for each kind, and the table of all of them.
//!
//! A kind says everything of its devices: which nodes a create writes and who may do what with them, what a soft
//! reset keeps, what a destroy waits for and removes, which member of libxl's record it is. Create, soft reset, destroy, restart,
//! adopt and `fsck` iterate [`KINDS`] and name no kind.
//!
//! To add a kind: write one file beside `console.rs` with its `impl Kind`, and put it into [`KINDS`].
//!
//! Rule: which devices a domain has is read below `/libxl/D/device` alone, which no guest can write. The nodes of
//! frontend and backend are outputs. A domain with a device of a kind that is not in the table is not Xyl's to take down.

pub mod console;
pub mod nodes;

use xen_port::DomId;
use xenstore::Path;

use crate::device::console::Ring;
use crate::device::nodes::NodeRule;
use crate::{EngineError, Host};

/// Every kind that Xyl can make and take down.
pub const KINDS: &[&dyn Kind] = &[&console::Console];

/// What devices are made from.
#[derive(Clone, Copy, Debug)]
pub struct DeviceInput {
    /// Number of the domain.
    pub domid: DomId,
    /// The ring of its console.
    pub console: Ring,
}

/// A kind of devices.
pub trait Kind {
    /// libxl's name of the kind: its folder below `/libxl/D/device`.
    fn name(&self) -> &'static str;

    /// The member of libxl's record that lists the devices. `None`: libxl makes the device without one.
    fn json_member(&self) -> Option<&'static str>;

    /// The nodes below the domain's home that a create writes, in this order.
    fn nodes(&self) -> &'static [NodeRule<DeviceInput>];

    /// Nodes below the domain's home that keep their values over a soft reset: their writer does not write them again.
    fn kept_by_soft_reset(&self) -> &'static [&'static str];

    /// The backend's folder with all devices of this kind of a domain. A destroy removes it.
    fn backend_folder(&self, domid: DomId) -> String;

    /// Waits, with a limit, until the backend has done what it would do to nodes that are about to be removed.
    ///
    /// # Errors
    /// Those of xenstore. A backend that is too slow is none.
    fn settle(&self, host: &mut Host, domid: DomId) -> Result<(), EngineError>;
}

/// Devices of a domain that are of no kind of the table, as `KIND NUMBER`, by the toolstack's own record.
///
/// # Errors
/// Those of xenstore.
pub(crate) fn foreign(host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
    let folder = Path::new(&format!("/libxl/{domid}/device")).map_err(xenstore::Error::from)?;
    let mut found = Vec::new();
    for kind in host.children(&folder)? {
        if KINDS.iter().any(|known| known.name() == kind) {
            continue;
        }
        let below = folder.join(&kind).map_err(xenstore::Error::from)?;
        for number in host.children(&below)? {
            found.push(format!("{kind} {number}"));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use xen_sim::model::Model;
    use xenstore::Tree;
    use xenstore::mem::MemStore;

    use super::*;
    use crate::Dirs;

    #[test]
    fn devices_are_those_of_the_toolstacks_own_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = MemStore::new().client(0).unwrap();
        let dirs = Dirs::below(folder.path());
        let mut host = Host::new(Box::new(Model::new(64)), store, dirs);
        for node in [
            "/libxl/7/device/console/0/backend",
            "/libxl/7/device/vbd/51712/backend",
            "/local/domain/7/device/vif/0/backend",
            "/local/domain/0/backend/vif/7/0/state",
        ] {
            host.store.write(&Path::new(node).unwrap(), b"").unwrap();
        }
        assert_eq!(foreign(&mut host, DomId(7)).unwrap(), ["vbd 51712"]);
        assert!(foreign(&mut host, DomId(8)).unwrap().is_empty());
    }

    #[test]
    fn each_kind_has_a_name_and_a_backend_folder_of_its_own() {
        for (index, kind) in KINDS.iter().enumerate() {
            for other in KINDS.iter().skip(index + 1) {
                assert_ne!(kind.name(), other.name());
                let domid = DomId(7);
                assert_ne!(kind.backend_folder(domid), other.backend_folder(domid));
            }
        }
    }
}
