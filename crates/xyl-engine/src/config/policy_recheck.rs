//! Asks the policy again about running guests, because the host or the policy may have changed. `xyl recover` calls
//! it; systemd runs that every five minutes.
//!
//! Reports once each running guest about which the policy would decide differently now. Changes no guest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::DomainInfo;
use xyl_audit::Facts;

use crate::config::admission::{self, Decision, Record};
use crate::vm::domains;
use crate::vm::store::write_whole;
use crate::{EngineError, Host};

/// Minimum time in seconds between two checks. It is shorter than systemd's period, and limits the checks if many
/// monitors die at once.
const PERIOD_S: u64 = 240;
/// Version of the file's format.
const VERSION: u32 = 1;
/// Maximum number of bytes that are read of the file.
const MAX_BYTES: u64 = 4 << 20;

/// The file `/run/xyl/policy-warnings.json`: guests that were reported since the host booted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Reported {
    version: u32,
    /// Time of the last check, in seconds since the host booted.
    examined_s: u64,
    /// The decision that was reported for each guest.
    guests: BTreeMap<Uuid, String>,
}

impl Reported {
    /// Whether the last check was less than [`PERIOD_S`] ago.
    fn is_fresh(&self, now_s: u64) -> bool {
        self.version == VERSION
            && (self.examined_s..self.examined_s.saturating_add(PERIOD_S)).contains(&now_s)
    }
}

/// Returns the running guests about which the policy would decide differently now, and that were not reported before.
///
/// Gathers the host's facts again. Returns nothing within four minutes of the last check.
///
/// # Errors
/// A policy or advisories that cannot be used, Xen or the disk.
pub fn recheck(host: &Host) -> Result<Vec<(DomainInfo, Decision)>, EngineError> {
    let now_s = host.clock.since_boot_s();
    let before = read(host);
    if before.is_fresh(now_s) {
        return Ok(Vec::new());
    }
    let changed = changed(host)?;
    let reported = Reported {
        version: VERSION,
        examined_s: now_s,
        guests: changed
            .iter()
            .map(|(info, now)| (uuid_of(info), now.line()))
            .collect(),
    };
    write(host, &reported)?;
    let is_news = |(info, now): &(DomainInfo, Decision)| {
        before.guests.get(&uuid_of(info)) != Some(&now.line())
    };
    Ok(changed.into_iter().filter(is_news).collect())
}

fn changed(host: &Host) -> Result<Vec<(DomainInfo, Decision)>, EngineError> {
    let decided = decided(host)?;
    if !decided.is_empty() {
        // The stored facts serve later decisions too.
        let _ = Facts::renew(&*host.hv, &*host.files, &host.dirs.run);
    }
    let mut changed = Vec::new();
    for (info, record) in decided {
        let now = record.decide_again(&*host.hv, &*host.files, &host.dirs)?;
        if record.is_otherwise(&now) {
            changed.push((info, now));
        }
    }
    Ok(changed)
}

/// The running guests with a stored decision. A damaged record is skipped; `xyl explain` reports it.
fn decided(host: &Host) -> Result<Vec<(DomainInfo, Record)>, EngineError> {
    let infos = domains::list(&*host.hv)?;
    let with_record = |info: DomainInfo| {
        let uuid = uuid_of(&info).hyphenated().to_string();
        let record = admission::read(&*host.files, &host.dirs, &uuid).ok()??;
        Some((info, record))
    };
    Ok(infos.into_iter().filter_map(with_record).collect())
}

fn uuid_of(info: &DomainInfo) -> Uuid {
    Uuid::from_bytes(info.handle)
}

/// Reads the file. If that fails, all guests are reported again.
fn read(host: &Host) -> Reported {
    let bytes = host.files.read(&path(host), MAX_BYTES).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn write(host: &Host, reported: &Reported) -> Result<(), EngineError> {
    let path = path(host);
    let bytes = serde_json::to_vec(reported).map_err(|error| EngineError::Record {
        path: path.clone(),
        what: error.to_string(),
    })?;
    host.files
        .create_folder(&host.dirs.run)
        .map_err(|source| EngineError::io("make", &host.dirs.run, source))?;
    write_whole(&*host.files, &path.with_extension("new"), &path, &bytes)
}

fn path(host: &Host) -> std::path::PathBuf {
    host.dirs.run.join("policy-warnings.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_fresh_for_four_minutes() {
        let reported = Reported {
            version: VERSION,
            examined_s: 1000,
            guests: BTreeMap::new(),
        };
        assert!(reported.is_fresh(1000));
        assert!(reported.is_fresh(1239));
        assert!(!reported.is_fresh(1240));
        assert!(!reported.is_fresh(999), "of another boot of the host");
        assert!(!Reported::default().is_fresh(3));
    }
}
