//! The policy's decision about a VM, then and now, as `xyl explain` and `/v1/vms/ID/explain` show it.

use serde_json::{Value, json};
use uuid::Uuid;
use xen_port::DomainInfo;

use super::Reader;
use crate::EngineError;
use crate::config::admission::{self, Decision, Record};

/// The decisions about one domain.
pub struct Explained {
    /// Xen's information about it.
    pub info: DomainInfo,
    /// Its name; empty if it has none.
    pub name: String,
    /// The decision at its start, with what was asked.
    pub record: Record,
    /// The policy's decision today, on the host as it is now.
    pub now: Decision,
}

/// The decisions about a domain, then and now. `None` if no decision was recorded.
///
/// # Errors
/// The record or the policy cannot be read.
pub fn of(
    reader: &Reader<'_>,
    info: DomainInfo,
    name: String,
) -> Result<Option<Explained>, EngineError> {
    let (files, dirs) = (reader.records.files, reader.records.dirs);
    let uuid = Uuid::from_bytes(info.handle).hyphenated().to_string();
    let Some(record) = admission::read(files, dirs, &uuid)? else {
        return Ok(None);
    };
    let now = record.decide_again(reader.hv, files, dirs)?;
    Ok(Some(Explained {
        info,
        name,
        record,
        now,
    }))
}

/// The warning about a running guest that the policy would not let start as it runs.
pub fn otherwise(now: &Decision) -> String {
    format!("the policy would decide differently now: {}", now.line())
}

impl Explained {
    /// Whether the policy would decide otherwise today.
    pub fn is_changed(&self) -> bool {
        self.record.is_otherwise(&self.now)
    }

    /// The decisions as JSON.
    pub fn to_json(&self) -> Value {
        let record = &self.record;
        json!({
            "domid": self.info.domid.0,
            "name": self.name,
            "uuid": Uuid::from_bytes(self.info.handle).hyphenated().to_string(),
            "kernel": record.kernel,
            "image": record.image,
            "pvshim": record.pvshim,
            "shim": record.shim,
            "is_boot_loader": record.is_boot_loader,
            "decided_s": record.decided_s,
            "decision": record.decision,
            "now": self.now,
            "changed": self.is_changed(),
            "unseen": record.unseen(),
        })
    }
}
