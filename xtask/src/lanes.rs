//! Runs several boots at the same time. Each takes one core and the memory of its machine.

use crate::boot;
use crate::error::Result;

/// Has each lane do a piece of work, and another, until `work` says that there is none (false). There are as many lanes as there
/// are cores and memory for. An error ends its lane, and is returned when all lanes have ended.
pub fn run(work: impl Fn() -> Result<bool> + Sync) -> Result<()> {
    let lane = || {
        while work()? {}
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..count()).map(|_| scope.spawn(lane)).collect();
        let mut result = Ok(());
        for lane in lanes {
            match lane.join() {
                Ok(ended) => result = result.and(ended),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })
}

fn count() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let fitting = available_mib(&meminfo).unwrap_or(0) / u64::from(boot::DEFAULT_MEMORY_MIB);
    cores.min(usize::try_from(fitting).unwrap_or(cores)).max(1)
}

/// Reads the line "MemAvailable:   18431 kB" of /proc/meminfo.
fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn memory_that_is_there_is_read() {
        let text = "MemTotal:       24684208 kB\nMemAvailable:   18874368 kB\n";
        assert_eq!(available_mib(text), Some(18432));
        assert_eq!(available_mib("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn each_piece_of_work_is_done_once() {
        let (left, done) = (AtomicU32::new(5), AtomicU32::new(0));
        let work = || {
            let took = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            });
            done.fetch_add(u32::from(took.is_ok()), Ordering::Relaxed);
            Ok(took.is_ok())
        };
        assert!(run(work).is_ok());
        assert_eq!(done.into_inner(), 5);
    }

    #[test]
    fn an_error_is_not_lost() {
        assert!(matches!(
            run(|| Err(Error::Interrupted)),
            Err(Error::Interrupted)
        ));
    }
}
