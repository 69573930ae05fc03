//! Errors of changes of CPU pools.

use xen_port::CpuMap;

/// The reasons why a CPU pool cannot be made, changed or destroyed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The name is not allowed.
    #[error(
        "`{0}` cannot be the name of a CPU pool: choose one with a letter in it, without spaces and control characters, of at most {max} bytes",
        max = PoolError::NAME_MAX_BYTES
    )]
    BadName(String),
    /// Another pool has the name.
    #[error(
        "the name `{name}` is that of CPU pool {pool}: choose another, or rename that pool first"
    )]
    NameTaken {
        /// Name that was asked for.
        name: String,
        /// Number of the pool that has it.
        pool: u32,
    },
    /// A CPU that the pool is to have is in a pool.
    #[error(
        "CPU {cpu} is in the pool {pool}: take it out first with `xyl cpupool-cpu-remove {pool} {cpu}`"
    )]
    InPool {
        /// Number of the CPU.
        cpu: u32,
        /// Name of its pool.
        pool: String,
    },
    /// The host has no such CPU online.
    #[error("this host has no CPU {0} online: `xyl info -n` lists its CPUs")]
    NoSuchCpu(u32),
    /// No CPU of the nodes is free.
    #[error(
        "no CPU of these NUMA nodes is free: take some out of their pool first, with `xyl cpupool-cpu-remove`"
    )]
    NoFreeCpu,
    /// This Xen does not have the scheduler.
    #[error("this Xen was built without the scheduler {0}: choose another `sched`")]
    NoScheduler(&'static str),
    /// The host has as many pools as Xen allows.
    #[error("this host has as many CPU pools as Xen allows, two for each CPU: destroy one first")]
    TooManyPools,
    /// The pool has domains.
    #[error(
        "the CPU pool {pool} has {nr_domains} domains: move them first with `xyl cpupool-migrate`; `xyl list -c` shows them"
    )]
    InUse {
        /// Name of the pool.
        pool: String,
        /// Number of its domains.
        nr_domains: u32,
    },
    /// The pool has no CPU on which a domain could run.
    #[error("the CPU pool {0} has no CPUs: add some first with `xyl cpupool-cpu-add`")]
    NoCpus(String),
    /// Some CPUs of a pool could not be taken out of it, so it stays.
    #[error("the CPU pool {pool} stays, for its CPUs {left} could not be taken out of it: {cause}")]
    CpusStay {
        /// Name of the pool.
        pool: String,
        /// CPUs that it still has.
        left: CpuMap,
        /// The first error.
        cause: String,
    },
    /// A new pool could not be given its CPUs. It is gone again.
    #[error("the CPU pool {pool} was not made, for it could not get CPU {cpu}: {cause}")]
    CpuRefused {
        /// Name of the pool.
        pool: String,
        /// Number of the CPU.
        cpu: u32,
        /// The error of Xen.
        cause: String,
    },
    /// There is more than one pool, so the CPUs cannot be split by node.
    #[error(
        "this host has {0} CPU pools, and only a host with one can be split: destroy the others first, with `xyl cpupool-destroy`"
    )]
    SeveralPools(usize),
    /// Domain 0 did not put as many vCPUs offline as it was asked to.
    #[error(
        "domain 0 still uses {online} vCPUs, more than the {wanted} CPUs of its pool: put some offline with `xyl vcpu-set 0 {wanted}`"
    )]
    VcpusStay {
        /// vCPUs in use.
        online: u32,
        /// CPUs of the pool.
        wanted: u32,
    },
    /// Another process changes the pools.
    #[error("another process changes the CPU pools and did not end within {0} s: try again")]
    Busy(u64),
}

impl PoolError {
    /// Longest name of a pool in bytes.
    pub const NAME_MAX_BYTES: usize = 63;

    /// Whether its text ends in a remedy, after the last colon.
    pub(crate) fn has_remedy(&self) -> bool {
        !matches!(
            self,
            PoolError::CpusStay { .. } | PoolError::CpuRefused { .. }
        )
    }
}
