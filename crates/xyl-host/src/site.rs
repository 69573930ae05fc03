//! [`Site`], a host by its place: where its hypervisor, xenstored, kernel and folders are.

use std::path::{Path, PathBuf};

use xen_port::Hypervisor;
use xen_sim::machine::{Host as SimulatedHost, MachineError};
use xenstore::{Client, Settings};
use xyl_engine::host::dom0::Kernel;
use xyl_engine::{Dirs, EngineError, Host};

/// Environment variable that selects a simulated host.
pub const HOST: &str = "XYL_HOST";
/// Prefix of its value; the simulated host's folder follows it.
pub const SIMULATED: &str = "sim:";
/// Device files of a machine with Xen.
const XEN_DEVICES: [&str; 2] = ["/dev/xen/privcmd", "/proc/xen/privcmd"];

/// The reasons why a host cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The simulated host cannot be used.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Xen or xenstored cannot be used.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl SiteError {
    /// Stable code of the error, for programs.
    pub fn code(&self) -> xyl_engine::ErrorCode {
        match self {
            SiteError::Machine(_) => xyl_engine::ErrorCode::Refused,
            SiteError::Engine(error) => error.code(),
        }
    }
}

/// Whether this machine has Xen, so that `XYL_HOST` may be set by mistake.
pub fn is_beside_xen() -> bool {
    XEN_DEVICES.iter().any(|path| Path::new(path).exists())
}

/// The folder in a value of `XYL_HOST`; `None` for a value that names no simulated host.
pub fn simulated_folder(value: &str) -> Option<PathBuf> {
    let folder = value.strip_prefix(SIMULATED)?;
    (!folder.is_empty()).then(|| PathBuf::from(folder))
}

/// A host by its place. Each call opens connections of its own.
#[derive(Clone, Debug)]
pub struct Site {
    simulated: Option<SimulatedHost>,
    /// Folders of Xyl on the host.
    pub dirs: Dirs,
}

impl Site {
    /// The machine of this process.
    pub fn this_machine() -> Site {
        Site {
            simulated: None,
            dirs: Dirs::system(),
        }
    }

    /// A simulated host, which may have to be switched on first.
    pub fn simulated(host: SimulatedHost) -> Site {
        Site {
            dirs: Dirs::below(host.folder()),
            simulated: Some(host),
        }
    }

    /// The simulated host; `None` for this machine.
    pub fn as_simulated(&self) -> Option<&SimulatedHost> {
        self.simulated.as_ref()
    }

    /// Value of `XYL_HOST` for other processes of Xyl. `None` on a real host.
    pub fn variable(&self) -> Option<String> {
        let host = self.simulated.as_ref()?;
        Some(format!("{SIMULATED}{}", host.folder().display()))
    }

    /// Opens the hypervisor.
    ///
    /// # Errors
    /// This machine does not run Xen, or the simulated host does not answer.
    pub fn hypervisor(&self) -> Result<Box<dyn Hypervisor>, SiteError> {
        match &self.simulated {
            Some(host) => Ok(host.hypervisor()?),
            None => Ok(Box::new(xen_sys::Xen::open().map_err(EngineError::from)?)),
        }
    }

    /// Opens a connection to xenstored.
    ///
    /// # Errors
    /// xenstored cannot be reached.
    pub fn store(&self, settings: Settings) -> Result<Client, SiteError> {
        match &self.simulated {
            Some(host) => Ok(host.store(settings)?),
            None => Ok(Client::connect_with(settings).map_err(EngineError::from)?),
        }
    }

    /// The files of domain 0's kernel, in procfs and sysfs. A simulated host has its own.
    pub fn kernel(&self) -> Kernel {
        match &self.simulated {
            Some(host) => Kernel::below(host.folder()),
            None => Kernel::system(),
        }
    }

    /// A host for operations of the engine, with these connections.
    ///
    /// # Errors
    /// The simulated host does not answer.
    pub fn host_with(&self, hv: Box<dyn Hypervisor>, store: Client) -> Result<Host, SiteError> {
        let mut host = Host::new(hv, store, self.dirs.clone());
        if let Some(simulated) = &self.simulated {
            host.devices = simulated.devices()?;
        }
        Ok(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_names_a_folder_or_nothing() {
        assert_eq!(simulated_folder("sim:/a"), Some(PathBuf::from("/a")));
        assert_eq!(simulated_folder("sim:"), None);
        assert_eq!(simulated_folder("ssh://host"), None);
        assert_eq!(simulated_folder(""), None);
    }
}
