//! The sources of `xyl metrics`: Xen's domains, xenstore, the counters of domain 0's kernel, and Xyl's own files.
//!
//! A source that cannot be read is named in [`Sample::missing`]. The others are in the sample all the same.

use std::time::Duration;

use os_port::{SystemClock, SystemFiles, SystemProcess};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, PhysInfo, VersionInfo};
use xyl_audit::{Audit, Facts, GuestType, advisories};
use xyl_engine::host::traffic::{self, DiskCounters, NicCounters};
use xyl_engine::recover::fsck;
use xyl_engine::supervise::states;
use xyl_engine::supervise::status::{self, VmOps};
use xyl_engine::vm::{domains, monitor_lock};

use crate::context::Context;
use crate::error::Failure;

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
    /// device and VM. `with_leftovers` takes two seconds more.
    pub fn take(context: &Context, with_leftovers: bool) -> Result<Sample, Failure> {
        let infos = domains::list(context.hv()?)?;
        let mut sample = Sample {
            version: context.hv()?.version()?,
            phys: context.hv()?.phys_info()?,
            domains: Vec::new(),
            disks: traffic::disks(&context.kernel()),
            nics: traffic::nics(&context.kernel()),
            monitors: Vec::new(),
            operations: Vec::new(),
            waiting: Vec::new(),
            nr_given_up: None,
            audit: None,
            leftovers: None,
            missing: Vec::new(),
        };
        sample.add_domains(context, infos);
        if let Err(failure) = sample.add_records(context) {
            sample.missing.push((Source::Records, failure.to_string()));
        }
        if let Err(failure) = sample.add_audit(context) {
            sample.missing.push((Source::Audit, failure.to_string()));
        }
        if with_leftovers {
            match leftovers(context) {
                Ok(kinds) => sample.leftovers = Some(kinds),
                Err(failure) => {
                    let failed = (Source::Leftovers, failure.to_string());
                    sample.missing.push(failed);
                }
            }
        }
        Ok(sample)
    }

    fn add_domains(&mut self, context: &Context, infos: Vec<DomainInfo>) {
        let own = states::own_domains(&context.records(), &infos);
        let (names, targets_kib) = match of_xenstore(context, &infos) {
            Ok(known) => known,
            Err(failure) => {
                self.missing.push((Source::Xenstore, failure.to_string()));
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

    fn add_records(&mut self, context: &Context) -> Result<(), Failure> {
        let supervised = monitor_lock::supervised(&SystemFiles, &context.dirs)?;
        let monitors = supervised.iter().map(|vm| (vm.uuid, vm.is_held));
        self.monitors = monitors.collect();
        let vms = status::all(&SystemFiles, &context.dirs)?;
        for vm in &vms {
            self.add_operations(vm);
        }
        let given_up = vms.iter().filter(|vm| vm.given_up.is_some());
        self.nr_given_up = Some(given_up.count() as u64);
        Ok(())
    }

    fn add_operations(&mut self, vm: &VmOps) {
        if let Some(delay) = &vm.restart_delay {
            self.waiting.push(Waiting {
                uuid: vm.uuid,
                left: delay.left(&SystemClock),
            });
        }
        for operation in vm.past().operations {
            if operation.outcome.is_none() {
                let state = vm.standing(&operation, &SystemProcess).word();
                self.operations.push((operation.begin.kind, state));
            }
        }
    }

    /// The audit, from the facts that the host has kept since its start where they are there.
    fn add_audit(&mut self, context: &Context) -> Result<(), Failure> {
        let known = advisories::load(&SystemFiles, advisories::FOLDER.as_ref())
            .map_err(|error| Failure::refused(error.to_string()))?;
        let facts = Facts::of_this_boot(context.hv()?, &SystemFiles, &context.dirs.run, &self.phys);
        let guests = GuestType::ALL.iter().copied();
        let guests = guests.filter(|guest| advisories::can_run(&facts, *guest));
        let audit = xyl_audit::host::audit_of(&facts, &known);
        self.audit = Some((audit, guests.collect()));
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

fn of_xenstore(context: &Context, infos: &[DomainInfo]) -> Result<OfXenstore, Failure> {
    let names = context.names(infos)?;
    let targets_kib = domains::memory_targets_kib(&mut *context.store()?, infos)?;
    Ok((names, targets_kib))
}

fn leftovers(context: &Context) -> Result<Vec<&'static str>, Failure> {
    let mut host = context.open_host()?;
    let found = fsck::look(&mut host, &context.kernel())?;
    context.count(&host);
    Ok(found.iter().map(|finding| finding.leak.kind()).collect())
}
