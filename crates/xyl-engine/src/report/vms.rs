//! The VMs of a host and the domains of other toolstacks, as `xyl list --json` and `/v1/vms` show them.

use serde_json::{Value, json};
use uuid::Uuid;
use xen_port::{DomId, DomainInfo, ShutdownReason};

use super::{Reader, set};
use crate::supervise::states::{self, Listed};
use crate::vm::spec::kind_text;
use crate::vm::state::VmState;
use crate::vm::{given_up, store};

/// A row for each domain, in the order of `infos`. `names` are in the same order.
pub fn of_domains(
    reader: &Reader<'_>,
    infos: &[DomainInfo],
    names: &[Option<String>],
    bare_pv32: &[DomId],
) -> Vec<Value> {
    let states = states::of_domains(&reader.records, reader.clock, infos);
    let rows = infos.iter().zip(names).zip(states);
    let rows = rows.map(|((info, name), state)| {
        let mut row = of_domain(info, name.as_deref(), bare_pv32.contains(&info.domid));
        add_state(reader, &mut row, Uuid::from_bytes(info.handle), state);
        row
    });
    rows.collect()
}

/// A row of Xen's own information about a domain.
pub fn of_domain(info: &DomainInfo, name: Option<&str>, is_bare_pv32: bool) -> Value {
    let flags = &info.flags;
    json!({
        "domid": info.domid.0,
        "name": name,
        "uuid": Uuid::from_bytes(info.handle).hyphenated().to_string(),
        "kind": kind_text(info.kind()),
        "memory_kib": info.tot_pages * 4,
        "max_memory_kib": info.max_pages.saturating_mul(4),
        "claimed_kib": info.outstanding_pages * 4,
        "vcpus_online": info.nr_online_vcpus,
        "max_vcpus": info.max_vcpu_id.map_or(0, |id| id + 1),
        "state": {
            "running": flags.running,
            "blocked": flags.blocked,
            "paused": flags.paused,
            "shutdown": flags.shutdown,
            "dying": flags.dying,
        },
        "shutdown_reason": shutdown_reason(info).map(reason_name),
        "cpu_time_ns": info.cpu_time_ns,
        "cpupool_id": info.cpupool,
        "ssidref": info.ssidref,
        "bare_pv32": is_bare_pv32,
    })
}

/// The reason of a domain that has shut down.
pub fn shutdown_reason(info: &DomainInfo) -> Option<ShutdownReason> {
    info.shutdown_reason.filter(|_| info.flags.shutdown)
}

/// The shutdown reason as one word.
pub fn reason_name(reason: ShutdownReason) -> String {
    match reason {
        ShutdownReason::Poweroff => "poweroff".to_owned(),
        ShutdownReason::Reboot => "reboot".to_owned(),
        ShutdownReason::Suspend => "suspend".to_owned(),
        ShutdownReason::Crash => "crash".to_owned(),
        ShutdownReason::Watchdog => "watchdog".to_owned(),
        ShutdownReason::SoftReset => "soft-reset".to_owned(),
        ShutdownReason::Unknown(number) => format!("unknown-{number}"),
    }
}

/// The row of a VM that has no domain now and gets its next one.
pub fn of_absent(reader: &Reader<'_>, vm: &Listed) -> Value {
    let mut row = json!({
        "domid": null,
        "last_domid": vm.last_domid.map(|domid| domid.0),
        "name": vm.name,
        "uuid": vm.uuid.hyphenated().to_string(),
        "kind": vm.kind.map(kind_text),
        "memory_kib": vm.memory_kib,
        "vcpus_online": vm.nr_vcpus,
    });
    add_state(reader, &mut row, vm.uuid, vm.state);
    row
}

/// Rows of the VMs whose restart was given up, and that have none of these domains.
pub fn given_up_without_domain(reader: &Reader<'_>, infos: &[DomainInfo]) -> Vec<Value> {
    let all = given_up::all(reader.records.files, reader.records.dirs).into_iter();
    let has_none = |uuid: &Uuid| infos.iter().all(|info| &info.handle != uuid.as_bytes());
    all.filter(|(uuid, _)| has_none(uuid))
        .map(|(uuid, given_up)| {
            let mut row = json!({
                "domid": null,
                "last_domid": null,
                "name": given_up.name,
                "uuid": uuid.hyphenated().to_string(),
                "kind": null,
                "memory_kib": 0,
                "vcpus_online": 0,
            });
            add_state(reader, &mut row, uuid, VmState::GivenUp);
            row
        })
        .collect()
}

/// Adds the state of a VM to its row.
fn add_state(reader: &Reader<'_>, row: &mut Value, uuid: Uuid, state: VmState) {
    let (files, dirs) = (reader.records.files, reader.records.dirs);
    let waits_s = match state {
        VmState::WaitingForRestart { due_s } => {
            Some(due_s.saturating_sub(reader.clock.since_boot_s()))
        }
        _ => None,
    };
    let given_up = match state {
        VmState::GivenUp => given_up::read(files, dirs, uuid),
        _ => None,
    };
    let configuration = store::kept_path(dirs, &uuid.hyphenated().to_string());
    set(row, "vm_state", state.word());
    set(row, "restart_waits_s", json!(waits_s));
    set(
        row,
        "given_up",
        json!(given_up.map(|given_up| json!({
            "why": given_up.why,
            "since_ms": given_up.since_ms,
            "configuration": configuration,
        }))),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_the_documented_members() {
        let info = DomainInfo {
            tot_pages: 524_288,
            ..DomainInfo::default()
        };
        let value = of_domain(&info, Some("Domain-0"), false);
        assert_eq!(value["memory_kib"], 2_097_152);
        assert_eq!(value["kind"], "pv");
        assert_eq!(value["shutdown_reason"], Value::Null);
    }
}
