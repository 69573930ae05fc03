//! The policy, asked again about the guests that run: the host may have changed, or the policy. Whoever runs `xyl recover`
//! (systemd does, every five minutes) is told of each guest that would be had otherwise now, once; no guest is touched.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xen_port::DomainInfo;
use xyl_audit::Facts;

use crate::config::admission::{self, Decision, Record};
use crate::vm::domains;
use crate::vm::store::write_whole;
use crate::{EngineError, Host};

/// How often is enough, in seconds: less than the period of the timer, and many monitors may die at once.
const PERIOD_S: u64 = 240;
/// The format's number.
const VERSION: u32 = 1;
/// Largest file that is read back, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// What was told since the host was started, in `/run/xyl/told.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    version: u32,
    /// When the guests were looked at, in seconds since the host was started.
    examined_s: u64,
    /// What was said of a guest that would be had otherwise.
    guests: BTreeMap<Uuid, String>,
}

impl Told {
    /// Whether the guests were looked at a moment ago.
    fn is_fresh(&self, now_s: u64) -> bool {
        self.version == VERSION
            && (self.examined_s..self.examined_s.saturating_add(PERIOD_S)).contains(&now_s)
    }
}

/// Guests that the policy, on the host as it is now, would have otherwise, and of which that was not told before. The
/// host's facts are gathered anew for it. Nothing is looked at within four minutes of the last look.
///
/// # Errors
/// A policy or advisories that cannot be used, Xen or the disk.
pub fn reexamine(host: &Host) -> Result<Vec<(DomainInfo, Decision)>, EngineError> {
    let now_s = host.clock.since_boot_s();
    let before = read(host);
    if before.is_fresh(now_s) {
        return Ok(Vec::new());
    }
    let changed = changed(host)?;
    let told = Told {
        version: VERSION,
        examined_s: now_s,
        guests: changed
            .iter()
            .map(|(info, now)| (uuid_of(info), now.line()))
            .collect(),
    };
    write(host, &told)?;
    let is_news = |(info, now): &(DomainInfo, Decision)| {
        before.guests.get(&uuid_of(info)) != Some(&now.line())
    };
    Ok(changed.into_iter().filter(is_news).collect())
}

fn changed(host: &Host) -> Result<Vec<(DomainInfo, Decision)>, EngineError> {
    let decided = decided(host)?;
    if !decided.is_empty() {
        // Kept, for the decisions that follow.
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

/// The guests about which something was decided. A record that cannot be read hides no others: `xyl explain` tells of it.
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

/// A file that cannot be read tells nothing: then all is told again.
fn read(host: &Host) -> Told {
    let bytes = host.files.read(&path(host), MAX_BYTES).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn write(host: &Host, told: &Told) -> Result<(), EngineError> {
    let path = path(host);
    let bytes = serde_json::to_vec(told).map_err(|error| EngineError::Record {
        path: path.clone(),
        what: error.to_string(),
    })?;
    host.files
        .create_folder(&host.dirs.run)
        .map_err(|source| EngineError::io("make", &host.dirs.run, source))?;
    write_whole(&*host.files, &path.with_extension("new"), &path, &bytes)
}

fn path(host: &Host) -> std::path::PathBuf {
    host.dirs.run.join("told.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_fresh_for_four_minutes() {
        let told = Told {
            version: VERSION,
            examined_s: 1000,
            guests: BTreeMap::new(),
        };
        assert!(told.is_fresh(1000));
        assert!(told.is_fresh(1239));
        assert!(!told.is_fresh(1240));
        assert!(!told.is_fresh(999), "of another boot of the host");
        assert!(!Told::default().is_fresh(3));
    }
}
