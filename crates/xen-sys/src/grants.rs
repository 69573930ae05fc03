//! Pages that other domains grant, through `/dev/xen/gntdev`.

use std::sync::Arc;

use xen_abi::linux::{GNTDEV_MAP_GRANT_REF, GNTDEV_UNMAP_GRANT_REF, GntdevUnmap};
use xen_port::{DomId, HvError, Result};

use crate::device::Device;
use crate::mapping::Mapping;
use crate::memory::ForeignMemory;

/// The driver that maps grants.
#[derive(Debug, Clone)]
pub struct Grants {
    device: Arc<Device>,
}

/// Granted pages in this process; unmapped and given back when dropped.
#[derive(Debug)]
pub struct GrantedMemory {
    // Fields are dropped in order, so the pages are unmapped before the driver releases its record.
    memory: ForeignMemory,
    _lease: Lease,
}

/// The driver's record of a mapping.
#[derive(Debug)]
struct Lease {
    device: Arc<Device>,
    index: u64,
    count: u32,
}

impl Grants {
    /// Opens the driver.
    ///
    /// # Errors
    /// As of [`Xen::open`](crate::Xen::open).
    pub fn open() -> Result<Self> {
        Ok(Self {
            device: Arc::new(Device::open("/dev/xen/gntdev", 0)?),
        })
    }

    /// Maps pages that `domid` granted to this domain, in the order of `references`.
    ///
    /// # Errors
    /// [`HvError::Driver`] if a grant does not exist or does not allow it.
    pub fn map(&self, domid: DomId, references: &[u32], writable: bool) -> Result<GrantedMemory> {
        let lease = self.lease(domid, references)?;
        let mapping = Mapping::of_file(self.device.file(), lease.index, references.len(), writable)
            .map_err(|source| self.device.error("map grants", source))?;
        Ok(GrantedMemory {
            memory: ForeignMemory { mapping },
            _lease: lease,
        })
    }

    fn lease(&self, domid: DomId, references: &[u32]) -> Result<Lease> {
        let too_many = |_| HvError::Nonsense {
            op: "map grants",
            what: format!("{} of them", references.len()),
        };
        let count = u32::try_from(references.len()).map_err(too_many)?;
        if count == 0 {
            return Err(HvError::Nonsense {
                op: "map grants",
                what: "none of them".to_owned(),
            });
        }
        // ioctl_gntdev_map_grant_ref: count and padding, the offset that the driver writes, a domain and a reference for each grant.
        let head = [u64::from(count), 0];
        let grant = |reference: &u32| u64::from(*reference) << 32 | u64::from(domid.0);
        let mut argument: Vec<u64> = head
            .into_iter()
            .chain(references.iter().map(grant))
            .collect();
        // SAFETY: `argument` is a head of two words and `count` grants, as the driver reads it, and outlives the call.
        let done = unsafe {
            self.device
                .ioctl_at(GNTDEV_MAP_GRANT_REF, argument.as_mut_ptr().cast())
        };
        done.map_err(|source| self.device.error("prepare to map grants", source))?;
        let index = argument.get(1).copied().unwrap_or(0);
        Ok(Lease {
            device: Arc::clone(&self.device),
            index,
            count,
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut argument = GntdevUnmap {
            index: self.index,
            count: self.count,
            pad: 0,
        };
        // SAFETY: the structure is the ioctl's and holds no address. A failure leaves a record that goes with the file.
        let _ = unsafe { self.device.ioctl(GNTDEV_UNMAP_GRANT_REF, &mut argument) };
    }
}

impl GrantedMemory {
    /// The mapped pages.
    pub fn memory(&mut self) -> &mut ForeignMemory {
        &mut self.memory
    }
}
