//! The backend of network interfaces (netback): it makes the host's ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use os_port::mem::MemLinks;
use os_port::{LinkIndex, LinkName};

use super::{Driver, Id, Nodes, Sysfs, device_folder};

/// libxl's name of the kind.
const KIND: &str = "vif";
/// The text of a device whose interface cannot be made.
const CANNOT_MAKE: &str = "17 creating interface";

#[derive(Debug)]
pub(super) struct Netback {
    links: MemLinks,
    sysfs: Arc<dyn Sysfs>,
    made: BTreeMap<Id, LinkIndex>,
}

impl Netback {
    pub(super) fn new(links: &MemLinks, sysfs: &Arc<dyn Sysfs>) -> Netback {
        Netback {
            links: links.clone(),
            sysfs: Arc::clone(sysfs),
            made: BTreeMap::new(),
        }
    }
}

impl Driver for Netback {
    fn kind(&self) -> &'static str {
        KIND
    }

    /// After state 2 it reads `script`, and fails without it.
    fn make(&mut self, id: &Id, nodes: &mut Nodes<'_>) -> Option<Result<(), &'static str>> {
        let (domid, number) = id;
        let name = format!("vif{domid}.{number}");
        let is_taken = self.links.all().iter().any(|link| link.name == name);
        let parsed = LinkName::parse(&name).ok();
        let Some(parsed) = parsed.filter(|_| !is_taken && nodes.text("script").is_some()) else {
            return Some(Err(CANNOT_MAKE));
        };
        let index = self.links.add(&parsed, None);
        self.made.insert(id.clone(), index);
        let file = device_folder(KIND, id)
            .join("net")
            .join(name)
            .join("ifindex");
        self.sysfs.put(&file, format!("{}\n", index.0).as_bytes());
        Some(Ok(()))
    }

    fn unmake(&mut self, id: &Id) {
        if let Some(index) = self.made.remove(id) {
            self.links.remove(index);
        }
    }

    fn may_connect(&self, nodes: &mut Nodes<'_>) -> bool {
        nodes.text("hotplug-status").as_deref() == Some("connected")
    }
}
