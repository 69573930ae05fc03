//! The sources of `xyl metrics`: Xen's domains, xenstore, the counters of domain 0's kernel, and Xyl's own files.
//!
//! A source that cannot be read is named in [`Sample::missing`]. The others are in the sample all the same.

use std::time::Duration;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo, PhysInfo, VersionInfo};
use xenstore::Client;
use xyl_audit::{Audit, Facts, GuestType, advisories};

use crate::EngineError;
use crate::host::dom0::Kernel;
use crate::host::traffic::{self, DiskCounters, NicCounters};
use crate::report::{Reader, names, posture};
use crate::supervise::states;
use crate::supervise::status::{self, VmOps};
use crate::vm::{domains, monitor_lock};

/// A source of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Names and memory targets of domains.
    Xenstore,
    /// Journals, and the locks of monitors.
    Records,
    /// The audit of the host.
    Audit,
    /// The look for leftovers.
    Leftovers,
}

impl Source {
    /// All sources that can fail alone.
    pub const ALL: [Source; 4] = [
        Source::Xenstore,
        Source::Records,
        Source::Audit,
        Source::Leftovers,
    ];

    /// The word for it in a label.
    pub fn word(self) -> &'static str {
        match self {
            Source::Xenstore => "xenstore",
            Source::Records => "records",
            Source::Audit => "audit",
            Source::Leftovers => "leftovers",
        }
    }
}

/// A domain of the host.
pub struct Domain {
    /// Xen's information about it.
    pub info: DomainInfo,
    /// Its name; `None` if xenstore has none.
    pub name: Option<String>,
    /// Its memory target in KiB; `None` if xenstore has none.
    pub target_kib: Option<u64>,
    /// Whether it belongs to a VM of Xyl.
    pub is_own: bool,
}

/// The restart of a VM, which waits for its time.
pub struct Waiting {
    /// UUID of the VM.
    pub uuid: Uuid,
    /// Time until the restart.
    pub left: Duration,
}

/// The host that a sample is taken of.
pub struct Asked<'a> {
    /// Xen, and Xyl's records.
    pub reader: Reader<'a>,
    /// Domain 0's kernel.
    pub kernel: &'a Kernel,
    /// The connection to xenstored, or why there is none.
    pub store: Result<&'a mut Client, String>,
}

/// The host at one moment.
pub struct Sample {
    /// Version of Xen.
    pub version: VersionInfo,
    /// CPUs and memory.
    pub phys: PhysInfo,
    /// All domains, in the order of their numbers.
    pub domains: Vec<Domain>,
    /// The disks that blkback serves.
    pub disks: Vec<DiskCounters>,
    /// The interfaces that netback serves.
    pub nics: Vec<NicCounters>,
    /// UUIDs of the VMs that should have a monitor, and whether they have one.
    pub monitors: Vec<(Uuid, bool)>,
    /// Kinds and states of the operations that have not ended.
    pub operations: Vec<(String, &'static str)>,
    /// The restarts that wait.
    pub waiting: Vec<Waiting>,
    /// Number of VMs whose restart was given up; `None` if the records could not be read.
    pub nr_given_up: Option<u64>,
    /// The audit, with the types of guests that can run here.
    pub audit: Option<(Audit, Vec<GuestType>)>,
    /// Kinds of the leftovers that were found; `None` if none were looked for.
    pub leftovers: Option<Vec<&'static str>>,
    /// The sources that could not be read, and why.
    pub missing: Vec<(Source, String)>,
}

impl Sample {
    /// Reads all sources. Without a list of domains there is no sample.
    ///
    /// Costs the same hypercalls for any number of domains (one more for 1024 of them), two batches of requests to xenstored, and a few files for each
    /// device and VM.
    ///
    /// # Errors
    /// Those of Xen.
    pub fn take(asked: &mut Asked<'_>) -> Result<Sample, EngineError> {
        let reader = asked.reader;
        let infos = domains::list(reader.hv)?;
        let mut sample = Sample {
            version: reader.hv.version()?,
            phys: reader.hv.phys_info()?,
            domains: Vec::new(),
            disks: traffic::disks(asked.kernel),
            nics: traffic::nics(asked.kernel),
            monitors: Vec::new(),
            operations: Vec::new(),
            waiting: Vec::new(),
            nr_given_up: None,
            audit: None,
            leftovers: None,
            missing: Vec::new(),
        };
        sample.add_domains(asked, infos);
        if let Err(error) = sample.add_records(&reader) {
            sample.missing.push((Source::Records, error.to_string()));
        }
        if let Err(error) = sample.add_audit(&reader) {
            sample.missing.push((Source::Audit, error.to_string()));
        }
        Ok(sample)
    }

    /// Adds the kinds of the leftovers, or why they could not be looked for.
    pub fn add_leftovers(&mut self, found: Result<Vec<&'static str>, String>) {
        match found {
            Ok(kinds) => self.leftovers = Some(kinds),
            Err(why) => self.missing.push((Source::Leftovers, why)),
        }
    }

    fn add_domains(&mut self, asked: &mut Asked<'_>, infos: Vec<DomainInfo>) {
        let own = states::own_domains(&asked.reader.records, &infos);
        let (names, targets_kib) = match of_xenstore(asked, &infos) {
            Ok(known) => known,
            Err(why) => {
                self.missing.push((Source::Xenstore, why));
                (vec![None; infos.len()], vec![None; infos.len()])
            }
        };
        let domains = infos.into_iter().zip(names).zip(targets_kib);
        let domains = domains.map(|((info, name), target_kib)| Domain {
            is_own: own.iter().any(|own| own.domid == info.domid),
            info,
            name,
            target_kib,
        });
        self.domains = domains.collect();
    }

    fn add_records(&mut self, reader: &Reader<'_>) -> Result<(), EngineError> {
        let (files, dirs) = (reader.records.files, reader.records.dirs);
        let supervised = monitor_lock::supervised(files, dirs)?;
        let monitors = supervised.iter().map(|vm| (vm.uuid, vm.is_held));
        self.monitors = monitors.collect();
        let vms = status::all(files, dirs)?;
        for vm in &vms {
            self.add_operations(reader, vm);
        }
        let given_up = vms.iter().filter(|vm| vm.given_up.is_some());
        self.nr_given_up = Some(given_up.count() as u64);
        Ok(())
    }

    fn add_operations(&mut self, reader: &Reader<'_>, vm: &VmOps) {
        if let Some(delay) = &vm.restart_delay {
            self.waiting.push(Waiting {
                uuid: vm.uuid,
                left: delay.left(reader.clock),
            });
        }
        for operation in vm.past().operations {
            if operation.outcome.is_none() {
                let state = vm.standing(&operation, reader.records.process).word();
                self.operations.push((operation.begin.kind, state));
            }
        }
    }

    /// The audit, from the facts that the host has kept since its start where they are there.
    fn add_audit(&mut self, reader: &Reader<'_>) -> Result<(), EngineError> {
        let (files, dirs) = (reader.records.files, reader.records.dirs);
        let known = advisories::load(files, advisories::FOLDER.as_ref())?;
        let facts = Facts::of_this_boot(reader.hv, files, &dirs.run, &self.phys);
        let audit = xyl_audit::host::audit_of(&facts, &known);
        self.audit = Some((audit, posture::types_here(&facts)));
        Ok(())
    }

    /// The domain with this number.
    pub fn domain(&self, domid: DomId) -> Option<&Domain> {
        self.domains
            .iter()
            .find(|domain| domain.info.domid == domid)
    }
}

/// Names and memory targets in xenstore.
type OfXenstore = (Vec<Option<String>>, Vec<Option<u64>>);

fn of_xenstore(asked: &mut Asked<'_>, infos: &[DomainInfo]) -> Result<OfXenstore, String> {
    let reader = asked.reader;
    let store = asked.store.as_mut().map_err(|why| why.clone())?;
    let names = names::of(&reader, store, infos).map_err(|error| error.to_string())?;
    let targets_kib = domains::memory_targets_kib(*store, infos);
    Ok((names, targets_kib.map_err(|error| error.to_string())?))
}
