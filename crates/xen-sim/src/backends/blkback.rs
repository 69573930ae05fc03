//! The backend of disks (blkback): it opens block devices.

use std::collections::BTreeMap;
use std::sync::Arc;

use os_port::mem::{LoopUser, MemDisks};

use super::{Driver, Id, Nodes, Sysfs, device_folder};

/// Major number of loop devices.
const LOOP_MAJOR: u32 = 7;
/// libxl's name of the kind.
const KIND: &str = "vbd";
/// The text of a device that cannot be opened.
const CANNOT_OPEN: &str = "19 creating vbd structure";

#[derive(Debug)]
pub(super) struct Blkback {
    disks: MemDisks,
    sysfs: Arc<dyn Sysfs>,
    /// Keep the loop devices open.
    users: BTreeMap<Id, LoopUser>,
}

impl Blkback {
    pub(super) fn new(disks: &MemDisks, sysfs: &Arc<dyn Sysfs>) -> Blkback {
        Blkback {
            disks: disks.clone(),
            sysfs: Arc::clone(sysfs),
            users: BTreeMap::new(),
        }
    }

    fn show(&self, id: &Id, name: &str, value: &str) {
        let path = device_folder(KIND, id).join(name);
        self.sysfs.put(&path, format!("{value}\n").as_bytes());
    }
}

impl Driver for Blkback {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn make(&mut self, id: &Id, nodes: &mut Nodes<'_>) -> Option<Result<(), &'static str>> {
        let device = nodes.text("physical-device").unwrap_or_default();
        if device.is_empty() {
            return None;
        }
        match parse(&device) {
            // As Linux, it opens a loop device without a file, too.
            Some((LOOP_MAJOR, minor)) => {
                self.users.insert(id.clone(), self.disks.open_loop(minor));
            }
            Some(_) => {}
            None => return Some(Err(CANNOT_OPEN)),
        }
        self.show(id, "physical_device", &device);
        self.show(id, "mode", &nodes.text("mode").unwrap_or_default());
        Some(Ok(()))
    }

    fn unmake(&mut self, id: &Id) {
        self.users.remove(id);
    }
}

/// `MAJOR:MINOR` in hexadecimal.
fn parse(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some((number(major)?, number(minor)?))
}
