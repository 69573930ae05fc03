//! A sample of the host and its domains for `xyl top`.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use xen_port::{DomainInfo, PhysInfo};
use xyl_engine::vm::domains;

use crate::context::Context;
use crate::error::Failure;

/// A domain when the sample was taken.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Xen's information about the domain.
    pub info: DomainInfo,
    /// Name of the domain; `None` if xenstore has none.
    pub name: Option<String>,
}

/// The host when the sample was taken.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Monotonic time of the sample, for differences between samples.
    pub taken: Instant,
    /// Time of the sample, in seconds since 1970.
    pub time_s: u64,
    /// CPUs and memory of the host.
    pub phys: PhysInfo,
    /// The domains, ordered by domid.
    pub domains: Vec<Domain>,
    /// The reason why names are missing.
    pub nameless: Option<String>,
}

impl Sample {
    /// Takes a sample, with two hypercalls and one batch of xenstore reads.
    pub fn take(context: &Context) -> Result<Sample, Failure> {
        let infos = domains::list(context.hv()?)?;
        let taken = Instant::now();
        let (names, nameless) = match context.names(&infos) {
            Ok(names) => (names, None),
            Err(failure) => (vec![None; infos.len()], Some(failure.to_string())),
        };
        Ok(Sample {
            nameless,
            taken,
            time_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
            phys: context.hv()?.phys_info()?,
            domains: infos
                .into_iter()
                .zip(names)
                .map(|(info, name)| Domain { info, name })
                .collect(),
        })
    }

    /// CPU time since the sample `before`, in per cent of one CPU. 0 without such a sample.
    pub fn cpu_percent(&self, domain: &Domain, before: Option<&Sample>) -> f64 {
        let Some(before) = before else { return 0.0 };
        let same = |old: &&Domain| {
            old.info.domid == domain.info.domid && old.info.handle == domain.info.handle
        };
        let elapsed_s = self.taken.duration_since(before.taken).as_secs_f64();
        match before.domains.iter().find(same) {
            Some(old) if elapsed_s > 0.0 => {
                let used_ns = domain.info.cpu_time_ns.saturating_sub(old.info.cpu_time_ns);
                used_ns as f64 / 1e9 / elapsed_s * 100.0
            }
            _ => 0.0,
        }
    }

    /// Converts pages to per cent of the host's memory.
    pub fn memory_percent(&self, pages: u64) -> f64 {
        pages as f64 / self.phys.total_pages.max(1) as f64 * 100.0
    }
}
