//! Measures the VM process at rest, the time until a dead one is replaced, and the cost of the journal.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use xenstore::{Client, Path as StorePath, Tree};

use crate::measure::{Spread, timed};
use crate::report::Report;
use crate::scenarios::{Bench, NAME, Tool};
use crate::{Outcome, trace};

/// Time limit for a guest's restart.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// Time limit for a monitor to become idle.
const REST_MAX: Duration = Duration::from_secs(30);
/// Time during which an idle process uses no clock tick of the CPU.
const LOOK: Duration = Duration::from_secs(2);

/// Private memory and the proportional share of a process, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Written by it alone.
    pub private_dirty_kib: u64,
    /// Its own, as in the files.
    pub private_clean_kib: u64,
    /// All, shared pages divided by their users (PSS).
    pub share_kib: u64,
}

/// Compares the processes that wait for a guest's end, each alone in its turn. They run from the disk: what lies in
/// memory files counts as written.
pub fn memory_at_rest(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let config = bench.config(NAME, "pvh", 32, &bench.test_guest("pvh")?)?;
    let on_disk = Path::new("/usr/local/bin/xyl");
    let installed = which("xyl")?;
    std::fs::copy(&installed, on_disk)?;
    std::fs::File::open(on_disk)?.sync_all()?;
    let mut found = Vec::new();
    for (program, pattern) in [
        ("xl".to_owned(), "xl create"),
        (on_disk.display().to_string(), "xyl -T monitor"),
    ] {
        let words = |words: &[&str]| -> Vec<String> {
            let all = std::iter::once(program.as_str()).chain(words.iter().copied());
            all.map(str::to_owned).collect()
        };
        timed(&words(&["create", "-q", &config]))?;
        let pid = at_rest(pattern)?;
        found.push(memory_of(pid)?);
        timed(&words(&["destroy", NAME]))?;
    }
    std::fs::remove_file(on_disk)?;
    let [xl, xyl] = <[Memory; 2]>::try_from(found).map_err(|_| "two processes were looked at")?;
    report.memory(xl, xyl);
    Ok(())
}

/// Path of a program.
fn which(program: &str) -> Outcome<std::path::PathBuf> {
    let path = std::env::var_os("PATH").ok_or("no PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{program} is not in the PATH").into())
}

/// The one process whose command line has these words, once it does nothing any more.
fn at_rest(words: &str) -> Outcome<u32> {
    let deadline = Instant::now() + REST_MAX;
    let mut last = None;
    while Instant::now() < deadline {
        let now = process_with(words)?.and_then(|pid| Some((pid, ticks_of(pid)?)));
        if let (Some((pid, before)), Some((same, after))) = (last, now)
            && pid == same
            && before == after
        {
            return Ok(pid);
        }
        last = now;
        thread::sleep(LOOK);
    }
    Err(format!("no process `{words}` came to rest").into())
}

fn process_with(words: &str) -> Outcome<Option<u32>> {
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let (program, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let name = program.rsplit('/').next().unwrap_or(program);
        if format!("{name} {rest}").starts_with(words) {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// CPU time so far: the 14th and 15th field of `stat`, which follow the name in brackets as 12th and 13th.
fn ticks_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let ticks = rest.split(' ').skip(11).take(2);
    ticks.map(|field| field.parse::<u64>().ok()).sum()
}

fn memory_of(pid: u32) -> Outcome<Memory> {
    Ok(parse_memory(&std::fs::read_to_string(format!(
        "/proc/{pid}/smaps_rollup"
    ))?))
}

fn parse_memory(text: &str) -> Memory {
    let kib = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.unwrap_or(0)
    };
    Memory {
        private_dirty_kib: kib("Private_Dirty:"),
        private_clean_kib: kib("Private_Clean:"),
        share_kib: kib("Pss:"),
    }
}

/// A guest's reboot with its process alive, and with the process killed in the middle of it and `xyl recover` called
/// after, as the systemd units do. The kills are spread over the time that a reboot takes.
pub fn recovery(bench: &Bench, report: &mut Report, runs: usize) -> Outcome<()> {
    let config = bench.config(NAME, "pvh", 16, &bench.test_guest("pvh")?)?;
    let plain: Outcome<Vec<Duration>> = (0..runs).map(|_| reboot(&config, None)).collect();
    let plain = Spread::of(plain?)?;
    let mut killed = Vec::with_capacity(runs);
    for run in 0..runs {
        eprintln!("a kill in a reboot: run {} of {runs}", run + 1);
        let part = run as f64 / runs as f64;
        let after = Duration::from_secs_f64(plain.median_ms / 1000.0 * part);
        killed.push(reboot(&config, Some(after))?);
    }
    report.recovery(plain, Spread::of(killed)?);
    Ok(())
}

/// From a guest's reboot to its next life, with its process killed that long after the reboot's begin.
fn reboot(config: &str, killed_after: Option<Duration>) -> Outcome<Duration> {
    timed(&Tool::Xyl.command(&["create", "-q", config]))?;
    let pid = at_rest("xyl -T monitor")?;
    let mut store = Client::connect()?;
    let domid = domid()?;
    let command = StorePath::new(&format!("/local/domain/{domid}/data/command"))?;
    let started = Instant::now();
    store.write(&command, b"shutdown reboot")?;
    if let Some(after) = killed_after {
        thread::sleep(after.saturating_sub(started.elapsed()));
        timed(&["kill".to_owned(), "-9".to_owned(), pid.to_string()])?;
        timed(&Tool::Xyl.command(&["recover"]))?;
    }
    while !lives_again(domid) {
        if started.elapsed() > LIFE_MAX {
            return Err("a guest that rebooted did not come back".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    let took = started.elapsed();
    timed(&Tool::Xyl.command(&["destroy", NAME]))?;
    Ok(took)
}

/// Number of the guest.
pub fn domid() -> Outcome<u16> {
    let output = Command::new("xyl").args(["domid", NAME]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

/// Whether another domain than that one runs.
fn lives_again(before: u16) -> bool {
    let Ok(xen) = xen_sys::Xen::open() else {
        return false;
    };
    let domains = xen_port::Hypervisor::domain_list(&xen).unwrap_or_default();
    domains
        .iter()
        .any(|info| info.domid.0 > before && info.cpu_time_ns > 0 && !info.flags.dying)
}

/// Measures the journal in the common operations. The guest has no monitor, so the measured command itself writes the
/// journal.
pub fn journal(bench: &Bench, report: &mut Report) -> Outcome<()> {
    let config = bench.config(NAME, "pvh", 16, &bench.test_guest("pvh")?)?;
    for (what, words) in [
        ("create", &["-q", "-e", config.as_str()][..]),
        ("pause", &[NAME]),
        ("unpause", &[NAME]),
        ("destroy", &[NAME]),
    ] {
        let command = Tool::Xyl.command(&[&[what], words].concat());
        let (writes, bytes) = trace::journal(&command, bench.folder())?;
        report.journal(what, writes, bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_sums_up() {
        let text = "\
00200000-7ffe rw-p 00000000 00:00 0    [rollup]
Rss:                2804 kB
Pss:                1900 kB
Pss_Dirty:           300 kB
Private_Clean:      1500 kB
Private_Dirty:       144 kB
";
        assert_eq!(
            parse_memory(text),
            Memory {
                private_dirty_kib: 144,
                private_clean_kib: 1500,
                share_kib: 1900
            }
        );
        assert_eq!(parse_memory(""), Memory::default());
    }

    #[test]
    fn finds_processes_by_their_words_and_sees_their_time() {
        let pid = std::process::id();
        assert!(ticks_of(pid).is_some());
        assert!(ticks_of(u32::MAX).is_none());
        assert_eq!(process_with("no such program").unwrap(), None);
    }
}
