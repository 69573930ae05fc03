//! Plans a VM for the host of this process: `xyl create` and the checks of a configuration call it.

use os_port::Files;
use xen_port::Hypervisor;
use xl_cfg::Config;

use super::firmware;
use super::plan::{self, HostDefaults, Planned};
use crate::host::topology;
use crate::{Dirs, EngineError};

/// Number of CPUs that no host with Xen exceeds.
const MANY_CPUS: u32 = 16_384;

/// The host that a VM is planned for.
pub struct Place<'p> {
    /// Opens the hypervisor. It is called only if the configuration names CPUs or firmware.
    pub hv: &'p dyn Fn() -> Result<&'p dyn Hypervisor, EngineError>,
    /// The host's files.
    pub files: &'p dyn Files,
    /// The folders of Xyl.
    pub dirs: &'p Dirs,
    /// Whether nothing is created. A check also works without Xen. Then every CPU number is valid.
    pub is_check: bool,
}

/// Plans the VM of a configuration, with the defaults of this host.
///
/// # Errors
/// As [`plan::plan`]; those of Xen where a domain is to be created.
pub fn plan(
    config: Config,
    defaults: &HostDefaults,
    place: &Place<'_>,
) -> Result<Planned, EngineError> {
    let mut topology = || match (place.hv)() {
        Ok(hv) => topology::of(hv),
        Err(_) if place.is_check => Ok((0..MANY_CPUS).map(|cpu| (cpu, 0)).collect()),
        Err(error) => Err(error),
    };
    let mut boot_loader = |name: &str| {
        let version = (place.hv)().ok().and_then(|hv| hv.version().ok());
        let release = version.map(|version| (version.major, version.minor));
        firmware::find(place.files, &place.dirs.usr, release, name)
    };
    plan::plan(config, defaults, &mut topology, &mut boot_loader)
}
