//! Answers frequent questions of the lab's tests about a host: domains by name, and files that domains leave behind.
//!
//! It asks Xen and xenstored itself. `xl` takes a good part of a second for each question under emulation, and xyl is what the
//! tests judge. It runs as root in dom0. `lab/lib.sh` calls it:
//!
//! - `lab-query domid NAME`, `lab-query uuid NAME`: of the domain of that name.
//! - `lab-query state NAME`: its state in the letters of `xl list`.
//! - `lab-query domains`: the numbers of all domains but domain 0, a line each.
//! - `lab-query nodes KEPT...`: the paths of xenstore's nodes, a line each. Those that match a KEPT do not count.
//! - `lab-query traces KEPT...`: all that domains can leave behind, a line each.
//! - `lab-query settles LIMIT_S FILE KEPT...`: waits until the traces are those in the file. If they do not become so in time, it
//!   prints what has come (`+`) and what has gone (`-`).
//!
//! A KEPT is a path, in which `*` stands for any characters but `/`. One that ends in `/**` means the folder and all below it.
//!
//! Exit codes: 0; 1 if there is no such domain, or the traces did not settle; 2 if the question could not be answered.

mod pattern;
mod traces;

use pattern::matches;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use xen_port::{DomainInfo, Hypervisor, ShutdownReason};
use xen_sys::Xen;
use xenstore::{Client, Path, Tree};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Between two looks at the traces.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match answer(&words) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("lab-query {}: {error}", words.join(" "));
            ExitCode::from(2)
        }
    }
}

/// Prints the answer. False if it is "there is none".
fn answer(words: &[&str]) -> Result<bool> {
    let mut host = Host::open()?;
    match words {
        ["domid", name] => Ok(print(host.find(name)?.map(|info| info.domid))),
        ["uuid", name] => Ok(print(host.find(name)?.map(|info| uuid(info.handle)))),
        ["state", name] => Ok(print(host.find(name)?.map(|info| state(&info)))),
        ["domains"] => {
            let domains = host.xen.domain_list()?;
            print(domains.iter().map(|info| info.domid).filter(|id| id.0 != 0));
            Ok(true)
        }
        ["nodes", kept @ ..] => {
            print(host.nodes(kept)?);
            Ok(true)
        }
        ["traces", kept @ ..] => {
            print(host.traces(kept)?);
            Ok(true)
        }
        ["settles", limit_s, file, kept @ ..] => {
            let limit = Duration::from_secs(limit_s.parse()?);
            let before = std::fs::read_to_string(file)?;
            let before: Vec<&str> = before.lines().collect();
            host.settles(limit, &before, kept)
        }
        _ => Err("usage: see the head of crates/lab-query/src/main.rs".into()),
    }
}

/// A line for each. Returns whether there is any.
fn print<T: std::fmt::Display>(lines: impl IntoIterator<Item = T>) -> bool {
    let mut any = false;
    for line in lines {
        println!("{line}");
        any = true;
    }
    any
}

/// Xen and xenstored.
struct Host {
    xen: Xen,
    store: Client,
}

impl Host {
    fn open() -> Result<Self> {
        Ok(Self {
            xen: Xen::open()?,
            store: Client::connect()?,
        })
    }

    /// The domain of that name.
    fn find(&mut self, name: &str) -> Result<Option<DomainInfo>> {
        for info in self.xen.domain_list()? {
            let path = Path::domain(info.domid.0).join("name")?;
            if self.store.read_opt(&path)?.as_deref() == Some(name.as_bytes()) {
                return Ok(Some(info));
            }
        }
        Ok(None)
    }

    /// The paths of all nodes but the root and those that are kept, sorted. Kept nodes are looked into.
    fn nodes(&mut self, kept: &[&str]) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let mut waiting = vec![Path::root()];
        while let Some(path) = waiting.pop() {
            let children = match self.store.directory(&path) {
                Ok(children) => children,
                // It went while we were on the way.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            if !path.is_root() && !matches(kept, path.as_str()) {
                found.push(path.to_string());
            }
            for child in children {
                waiting.push(path.join(&child)?);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Domains, claims, nodes, files and processes, each with what it is in front, sorted.
    fn traces(&mut self, kept: &[&str]) -> Result<Vec<String>> {
        let mut found = self.nodes(kept)?;
        for info in self.xen.domain_list()? {
            found.push(format!("domain {}", info.domid));
            if info.outstanding_pages > 0 {
                found.push(format!("claim of {}", info.domid));
            }
        }
        found.extend(traces::files(kept));
        found.extend(traces::processes());
        found.sort();
        Ok(found)
    }

    fn settles(&mut self, limit: Duration, before: &[&str], kept: &[&str]) -> Result<bool> {
        let begun = Instant::now();
        loop {
            let now = self.traces(kept)?;
            let difference = traces::difference(before, &now);
            if difference.is_empty() {
                return Ok(true);
            }
            if begun.elapsed() >= limit {
                print(difference);
                return Ok(false);
            }
            std::thread::sleep(LOOK_PERIOD);
        }
    }
}

/// As `xl list` prints it: running, blocked, paused, shut down, why, dying.
fn state(info: &DomainInfo) -> String {
    let flags = &info.flags;
    let reason = match info.shutdown_reason {
        Some(ShutdownReason::Reboot) => 'r',
        Some(ShutdownReason::Suspend) => 's',
        Some(ShutdownReason::Crash) => 'c',
        Some(ShutdownReason::Watchdog) => 'w',
        Some(ShutdownReason::SoftReset) => 'S',
        Some(ShutdownReason::Poweroff | ShutdownReason::Unknown(_)) | None => '-',
    };
    let letter = |is: bool, letter| if is { letter } else { '-' };
    [
        letter(flags.running, 'r'),
        letter(flags.blocked, 'b'),
        letter(flags.paused, 'p'),
        letter(flags.shutdown, 's'),
        reason,
        letter(flags.dying, 'd'),
    ]
    .into_iter()
    .collect()
}

/// A UUID's bytes in their usual form.
fn uuid(handle: [u8; 16]) -> String {
    let hex: String = handle.iter().map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    [
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32),
    ]
    .join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_printed_as_a_uuid() {
        assert_eq!(
            uuid([
                0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0, 1, 2, 3, 4, 5, 6, 7
            ]),
            "10325476-98ba-dcfe-0001-020304050607"
        );
    }
}
