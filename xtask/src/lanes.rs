//! Boots side by side: each takes one core, and its machine's memory.

use crate::boot;

/// Does a boot's work for each item, as many of them at a time as there are cores and memory for; the results in the items'
/// order.
pub fn side_by_side<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let fitting = available_mib(&meminfo).unwrap_or(0) / u64::from(boot::DEFAULT_MEMORY_MIB);
    let lanes = cores.min(usize::try_from(fitting).unwrap_or(cores));
    let mut results = Vec::new();
    for together in items.chunks(lanes.max(1)) {
        std::thread::scope(|scope| {
            let running: Vec<_> = together
                .iter()
                .map(|item| scope.spawn(|| work(item)))
                .collect();
            for lane in running {
                match lane.join() {
                    Ok(result) => results.push(result),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }
    results
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

    #[test]
    fn memory_that_is_there_is_read() {
        let text = "MemTotal:       24684208 kB\nMemAvailable:   18874368 kB\n";
        assert_eq!(available_mib(text), Some(18432));
        assert_eq!(available_mib("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn each_item_has_its_result_in_its_place() {
        let squares = side_by_side(&[1, 2, 3, 4, 5], |number| number * number);
        assert_eq!(squares, [1, 4, 9, 16, 25]);
    }
}
