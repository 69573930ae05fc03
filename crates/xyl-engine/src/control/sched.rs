//! CPU shares of domains, and parameters of schedulers.

use xen_port::{DomainInfo, Hypervisor, SchedulerGlobals, SchedulerId, SchedulerParams};
pub use xyl_api::ShareChange;

use crate::EngineError;
use crate::control::vcpus::nr_vcpus;
use crate::error::RequestError;

/// Xen's limits (`sysctl.h`): time slice in milliseconds, rate limit and delay in microseconds.
const TSLICE_MS: std::ops::RangeInclusive<u32> = 1..=1000;
const RATELIMIT_US: std::ops::RangeInclusive<u32> = 100..=500_000;
const MIGRATION_DELAY_US: std::ops::RangeInclusive<u32> = 0..=100_000;

/// Weight and cap of a domain. It must be under `scheduler`.
pub fn share(
    hv: &dyn Hypervisor,
    info: &DomainInfo,
    scheduler: SchedulerId,
) -> Result<(u16, u16), EngineError> {
    check_scheduler(hv, info, scheduler)?;
    Ok(weight_and_cap(hv.scheduler_params(info.domid, scheduler)?))
}

fn weight_and_cap(params: SchedulerParams) -> (u16, u16) {
    match params {
        SchedulerParams::Credit { weight, cap } | SchedulerParams::Credit2 { weight, cap } => {
            (weight, cap)
        }
    }
}

/// Changes a domain's share.
pub fn set_share(
    hv: &dyn Hypervisor,
    info: &DomainInfo,
    scheduler: SchedulerId,
    change: ShareChange,
) -> Result<(), EngineError> {
    let params = check_share(hv, info, scheduler, change)?;
    Ok(hv.set_scheduler_params(info.domid, &params)?)
}

/// Fails if [`set_share`] would fail. Returns the new share.
pub(crate) fn check_share(
    hv: &dyn Hypervisor,
    info: &DomainInfo,
    scheduler: SchedulerId,
    change: ShareChange,
) -> Result<SchedulerParams, EngineError> {
    let (weight, cap) = share(hv, info, scheduler)?;
    let weight = change.weight.unwrap_or(weight);
    let cap = change.cap.unwrap_or(cap);
    in_range("weight", u32::from(weight), 1..=65_535)?;
    in_range(
        "cap",
        u32::from(cap),
        0..=nr_vcpus(info).saturating_mul(100),
    )?;
    Ok(match scheduler {
        SchedulerId::Credit => SchedulerParams::Credit { weight, cap },
        _ => SchedulerParams::Credit2 { weight, cap },
    })
}

/// Fails if the domain's pool has another scheduler than `wanted`.
///
/// # Errors
/// [`RequestError::OtherScheduler`]; those of Xen.
pub fn check_scheduler(
    hv: &dyn Hypervisor,
    info: &DomainInfo,
    wanted: SchedulerId,
) -> Result<(), EngineError> {
    let pools = hv.cpu_pools()?;
    match pools.iter().find(|pool| pool.id == info.cpupool) {
        Some(pool) if pool.scheduler != wanted => Err(RequestError::OtherScheduler {
            domid: info.domid,
            wanted: wanted.name(),
            actual: pool.scheduler.name(),
        }
        .into()),
        _ => Ok(()),
    }
}

/// A change of a scheduler's parameters. `None` keeps the value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GlobalsChange {
    /// Time slice in milliseconds (credit only).
    pub tslice_ms: Option<u32>,
    /// Minimum run time in microseconds; 0 for none.
    pub ratelimit_us: Option<u32>,
    /// Delay of migrations between CPUs in microseconds (credit only).
    pub vcpu_migr_delay_us: Option<u32>,
}

impl GlobalsChange {
    /// Whether the change has no values.
    pub fn is_empty(&self) -> bool {
        *self == GlobalsChange::default()
    }
}

/// The parameters of a pool's scheduler, which must be `wanted`.
///
/// # Errors
/// [`RequestError::PoolOtherScheduler`]; those of Xen, such as that of a missing pool.
pub fn globals(
    hv: &dyn Hypervisor,
    pool: u32,
    wanted: SchedulerId,
) -> Result<SchedulerGlobals, EngineError> {
    let pools = hv.cpu_pools()?;
    match pools.iter().find(|one| one.id == pool) {
        Some(one) if one.scheduler != wanted => Err(RequestError::PoolOtherScheduler {
            pool,
            wanted: wanted.name(),
            actual: one.scheduler.name(),
        }
        .into()),
        _ => Ok(hv.scheduler_globals(pool)?),
    }
}

/// Changes the parameters of a pool's scheduler, which must be `wanted`.
///
/// # Errors
/// Those of [`globals`]; [`RequestError::OutOfRange`].
pub fn set_globals(
    hv: &dyn Hypervisor,
    pool: u32,
    wanted: SchedulerId,
    change: &GlobalsChange,
) -> Result<(), EngineError> {
    let globals = check_globals(hv, pool, wanted, change)?;
    Ok(hv.set_scheduler_globals(pool, &globals)?)
}

/// Fails if [`set_globals`] would fail before the hypercall. Returns the new parameters.
///
/// # Errors
/// A number out of Xen's range, or a parameter that the pool's scheduler does not have.
pub fn check_globals(
    hv: &dyn Hypervisor,
    pool: u32,
    wanted: SchedulerId,
    change: &GlobalsChange,
) -> Result<SchedulerGlobals, EngineError> {
    changed(globals(hv, pool, wanted)?, change)
}

fn changed(
    globals: SchedulerGlobals,
    change: &GlobalsChange,
) -> Result<SchedulerGlobals, EngineError> {
    if let Some(ratelimit_us) = change.ratelimit_us.filter(|us| *us != 0) {
        in_range("rate limit in microseconds", ratelimit_us, RATELIMIT_US)?;
    }
    match globals {
        SchedulerGlobals::Credit {
            tslice_ms,
            ratelimit_us,
            vcpu_migr_delay_us,
        } => {
            let tslice_ms = change.tslice_ms.unwrap_or(tslice_ms);
            let ratelimit_us = change.ratelimit_us.unwrap_or(ratelimit_us);
            let vcpu_migr_delay_us = change.vcpu_migr_delay_us.unwrap_or(vcpu_migr_delay_us);
            in_range("time slice in milliseconds", tslice_ms, TSLICE_MS)?;
            in_range(
                "migration delay in microseconds",
                vcpu_migr_delay_us,
                MIGRATION_DELAY_US,
            )?;
            in_range(
                "rate limit in microseconds",
                ratelimit_us,
                0..=tslice_ms * 1000,
            )?;
            Ok(SchedulerGlobals::Credit {
                tslice_ms,
                ratelimit_us,
                vcpu_migr_delay_us,
            })
        }
        SchedulerGlobals::Credit2 { ratelimit_us } => Ok(SchedulerGlobals::Credit2 {
            ratelimit_us: change.ratelimit_us.unwrap_or(ratelimit_us),
        }),
    }
}

fn in_range(
    what: &'static str,
    value: u32,
    range: std::ops::RangeInclusive<u32>,
) -> Result<(), EngineError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(RequestError::OutOfRange {
        what,
        value,
        least: *range.start(),
        most: *range.end(),
    }
    .into())
}

#[cfg(test)]
mod tests {
    use xen_sim::model::Model;

    use super::*;

    #[test]
    fn limits_are_those_of_xen() {
        let credit2 = SchedulerGlobals::Credit2 { ratelimit_us: 1000 };
        let change = |us| GlobalsChange {
            ratelimit_us: Some(us),
            ..GlobalsChange::default()
        };
        assert!(changed(credit2, &change(0)).is_ok());
        assert!(changed(credit2, &change(99)).is_err());
        assert!(changed(credit2, &change(500_001)).is_err());
        assert_eq!(
            changed(credit2, &change(2000)).unwrap(),
            SchedulerGlobals::Credit2 { ratelimit_us: 2000 }
        );
    }

    #[test]
    fn the_parameters_of_another_scheduler_are_refused() {
        // The model's pool 0 has the scheduler credit2.
        let hv = Model::new(16);
        assert!(globals(&hv, 0, SchedulerId::Credit2).is_ok());
        let change = GlobalsChange {
            ratelimit_us: Some(2000),
            ..GlobalsChange::default()
        };
        for outcome in [
            globals(&hv, 0, SchedulerId::Credit).map(drop),
            set_globals(&hv, 0, SchedulerId::Credit, &change),
        ] {
            assert!(matches!(
                outcome,
                Err(EngineError::Control(RequestError::PoolOtherScheduler {
                    pool: 0,
                    ..
                }))
            ));
        }
    }

    #[test]
    fn a_rate_limit_above_the_time_slice_is_refused() {
        let credit = SchedulerGlobals::Credit {
            tslice_ms: 5,
            ratelimit_us: 1000,
            vcpu_migr_delay_us: 0,
        };
        let change = GlobalsChange {
            ratelimit_us: Some(5001),
            ..GlobalsChange::default()
        };
        assert!(changed(credit, &change).is_err());
    }
}
