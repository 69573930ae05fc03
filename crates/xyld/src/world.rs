//! [`World`], the argument of every call: the host, and the daemon's own settings.
//!
//! Each call opens the connections that it needs. So no call waits for another one's connection, and a restart of xenstored is no
//! special case.

use std::path::PathBuf;
use std::time::Duration;

use os_port::{SystemClock, SystemFiles, SystemProcess};
use xen_port::{DomainInfo, Hypervisor};
use xenstore::{Client, Settings};
use xyl_engine::Host;
use xyl_engine::report::{Reader, names};
use xyl_engine::vm::without_domain::Records;
use xyl_host::Site;

use crate::events::Hub;
use crate::problem::Problem;

/// Time limit for an answer of xenstored in a call that changes something.
const STORE_LIMIT: Duration = Duration::from_secs(10);

/// The host and the settings of the daemon.
pub struct World {
    /// The host that the daemon is about.
    pub site: Site,
    /// Path of the file with the roles.
    pub access: PathBuf,
    /// The stream of changes.
    pub hub: Hub,
}

/// A part of an answer that could not be read, and the reason.
pub type Missing = (&'static str, String);

/// Domains with their names.
pub struct Named {
    /// All domains, in the order of their numbers.
    pub infos: Vec<DomainInfo>,
    /// Their names, in the same order.
    pub names: Vec<Option<String>>,
    /// The reason if there are no names.
    pub missing: Option<Missing>,
}

impl World {
    /// Opens the hypervisor.
    ///
    /// # Errors
    /// This machine does not run Xen.
    pub fn hypervisor(&self) -> Result<Box<dyn Hypervisor>, Problem> {
        Ok(self.site.hypervisor()?)
    }

    /// Opens a connection to xenstored for a list, whose patience is short.
    ///
    /// # Errors
    /// xenstored cannot be reached.
    pub fn store(&self) -> Result<Client, Problem> {
        self.store_within(names::LIST_PATIENCE)
    }

    /// Opens a connection to xenstored with a time limit for each answer.
    ///
    /// # Errors
    /// xenstored cannot be reached.
    pub fn store_within(&self, limit: Duration) -> Result<Client, Problem> {
        let settings = Settings {
            request_timeout: limit,
            ..Settings::default()
        };
        Ok(self.site.store(settings)?)
    }

    /// Opens the host for an operation of the engine.
    ///
    /// # Errors
    /// Xen or xenstored cannot be reached.
    pub fn host(&self) -> Result<Host, Problem> {
        let store = self.store_within(STORE_LIMIT)?;
        Ok(self.site.host_with(self.hypervisor()?, store)?)
    }

    /// Xyl's records of the VMs.
    pub fn records(&self) -> Records<'_> {
        Records {
            files: &SystemFiles,
            dirs: &self.site.dirs,
            process: &SystemProcess,
        }
    }

    /// The parts of the host that reports read.
    pub fn reader<'r>(&'r self, hv: &'r dyn Hypervisor) -> Reader<'r> {
        Reader {
            hv,
            records: self.records(),
            clock: &SystemClock,
        }
    }

    /// The names of domains. Without xenstored there are none.
    pub fn named(&self, reader: &Reader<'_>, infos: Vec<DomainInfo>) -> Named {
        let read = self
            .store()
            .and_then(|mut store| names::of(reader, &mut store, &infos).map_err(Problem::from));
        match read {
            Ok(names) => Named {
                infos,
                names,
                missing: None,
            },
            Err(problem) => Named {
                names: vec![None; infos.len()],
                infos,
                missing: Some(("names", problem.detail)),
            },
        }
    }
}
