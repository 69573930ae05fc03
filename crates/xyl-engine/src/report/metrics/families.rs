//! The metrics of a host: which there are, and their values in a [`Sample`].
//!
//! Labels name a VM by its UUID. `xen_domain_info` joins it with its name and number.

use uuid::Uuid;
use xen_port::{DomainInfo, ShutdownReason};
use xl_cfg::types::xvd_name;

use super::exposition::{Family, Kind, Labels, Number};
use super::sample::{Domain, Sample, Source};
use crate::host::traffic::{Direction, NicCounters};
use crate::vm::spec::kind_text;

/// Size of a page, in bytes.
const PAGE_BYTES: u64 = 4096;
/// Bytes of a KiB.
const KIB: u64 = 1024;

/// All metrics of a sample.
pub fn all(sample: &Sample) -> Vec<Family> {
    let mut families = host(sample);
    families.extend(domains(sample));
    families.extend(disks(sample));
    families.extend(nics(sample));
    families.extend(vms(sample));
    families.extend(audit(sample));
    families.push(sources(sample));
    families
}

fn gauge(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Gauge, help)
}

fn counter(name: &'static str, help: &'static str) -> Family {
    Family::new(name, Kind::Counter, help)
}

/// A family with one sample, without labels.
fn single(name: &'static str, help: &'static str, number: u64) -> Family {
    let mut family = gauge(name, help);
    family.add(Vec::new(), Number::Whole(number));
    family
}

fn host(sample: &Sample) -> Vec<Family> {
    let (version, phys) = (&sample.version, &sample.phys);
    let mut info = gauge("xen_info", "Version and changeset of Xen.");
    let full = format!("{}.{}{}", version.major, version.minor, version.extra);
    let changeset = version.changeset.clone();
    info.add(
        vec![("version", full), ("changeset", changeset)],
        Number::Whole(1),
    );
    let mut build = gauge("xyl_build_info", "Version of Xyl.");
    let own = env!("CARGO_PKG_VERSION").to_owned();
    build.add(vec![("version", own)], Number::Whole(1));
    vec![
        info,
        build,
        single(
            "xen_host_cpus",
            "CPUs that are online.",
            phys.nr_cpus.into(),
        ),
        single(
            "xen_host_memory_bytes",
            "Memory of the host.",
            phys.total_pages * PAGE_BYTES,
        ),
        single(
            "xen_host_memory_free_bytes",
            "Memory that no domain has. Claimed memory is part of it.",
            phys.free_pages * PAGE_BYTES,
        ),
        single(
            "xen_host_memory_claimed_bytes",
            "Free memory that domains have claimed.",
            phys.outstanding_pages * PAGE_BYTES,
        ),
    ]
}

fn of(domain: &Domain) -> (&'static str, String) {
    (
        "uuid",
        Uuid::from_bytes(domain.info.handle)
            .hyphenated()
            .to_string(),
    )
}

fn domains(sample: &Sample) -> Vec<Family> {
    let mut info = gauge(
        "xen_domain_info",
        "Name, number, type and toolstack of a domain.",
    );
    let mut state = gauge("xen_domain_state", "1 for each state that a domain is in.");
    let mut vcpus = gauge("xen_domain_vcpus", "vCPUs that are online.");
    let mut cpu = counter(
        "xen_domain_cpu_seconds_total",
        "CPU time of all vCPUs of a domain.",
    );
    let mut memory = gauge("xen_domain_memory_bytes", "Memory that a domain has.");
    let mut max = gauge(
        "xen_domain_memory_max_bytes",
        "Memory that Xen lets a domain have. Domain 0 may have no limit, and no sample then.",
    );
    let mut target = gauge(
        "xen_domain_memory_target_bytes",
        "Memory that the toolstack wants a domain to have, with its video memory.",
    );
    for domain in &sample.domains {
        let Domain { info: facts, .. } = domain;
        let labels = || vec![of(domain)];
        for word in states(facts) {
            state.add(
                vec![of(domain), ("state", word.to_owned())],
                Number::Whole(1),
            );
        }
        // The last domain of a VM can be dying for long. The series of the UUID are those of the next one.
        if is_past(sample, domain) {
            continue;
        }
        info.add(of_domain(domain), Number::Whole(1));
        vcpus.add(labels(), Number::Whole(facts.nr_online_vcpus.into()));
        cpu.add(labels(), Number::Nanoseconds(facts.cpu_time_ns));
        memory.add(labels(), Number::Whole(facts.tot_pages * PAGE_BYTES));
        if let Some(max_bytes) = facts.max_pages.checked_mul(PAGE_BYTES)
            && facts.max_pages < u64::from(u32::MAX)
        {
            max.add(labels(), Number::Whole(max_bytes));
        }
        if let Some(target_kib) = domain.target_kib {
            target.add(labels(), Number::Whole(target_kib.saturating_mul(KIB)));
        }
    }
    vec![info, state, vcpus, cpu, memory, max, target]
}

/// Whether the domain is dying and its VM has another one.
fn is_past(sample: &Sample, domain: &Domain) -> bool {
    let info = &domain.info;
    let others = sample.domains.iter().map(|other| &other.info);
    let mut others =
        others.filter(|other| other.domid != info.domid && other.handle == info.handle);
    info.flags.dying && others.any(|other| !other.flags.dying || other.domid > info.domid)
}

fn of_domain(domain: &Domain) -> Labels {
    let kind = kind_text(domain.info.kind());
    let toolstack = if domain.is_own { "xyl" } else { "other" };
    vec![
        of(domain),
        ("name", domain.name.clone().unwrap_or_default()),
        ("domid", domain.info.domid.to_string()),
        ("type", kind.to_owned()),
        ("toolstack", toolstack.to_owned()),
    ]
}

/// The states of a domain; none if it neither runs nor waits.
fn states(info: &DomainInfo) -> Vec<&'static str> {
    let flags = &info.flags;
    let has_crashed = info.shutdown_reason == Some(ShutdownReason::Crash);
    let all = [
        ("running", flags.running),
        ("blocked", flags.blocked),
        ("paused", flags.paused),
        ("shutdown", flags.shutdown),
        ("crashed", flags.shutdown && has_crashed),
        ("dying", flags.dying),
    ];
    let there = all.into_iter().filter(|(_, is_in)| *is_in);
    there.map(|(word, _)| word).collect()
}

fn disks(sample: &Sample) -> Vec<Family> {
    let mut families = [
        counter(
            "xen_domain_disk_read_bytes_total",
            "Bytes that the guest has read. Disks of domain 0's kernel alone.",
        ),
        counter(
            "xen_domain_disk_written_bytes_total",
            "Bytes that the guest has written.",
        ),
        counter(
            "xen_domain_disk_reads_completed_total",
            "Read requests of the guest.",
        ),
        counter(
            "xen_domain_disk_writes_completed_total",
            "Write requests of the guest.",
        ),
        counter(
            "xen_domain_disk_flushes_total",
            "Flush requests of the guest.",
        ),
        counter(
            "xen_domain_disk_discards_total",
            "Discard requests of the guest.",
        ),
    ];
    for disk in &sample.disks {
        let Some(domain) = sample.domain(disk.domid) else {
            continue;
        };
        let name = xvd_name(disk.number).unwrap_or_else(|| disk.number.to_string());
        let values = [
            disk.read_bytes,
            disk.written_bytes,
            disk.nr_reads,
            disk.nr_writes,
            disk.nr_flushes,
            disk.nr_discards,
        ];
        for (family, value) in families.iter_mut().zip(values) {
            let labels = vec![of(domain), ("device", name.clone())];
            family.add(labels, Number::Whole(value));
        }
    }
    families.into()
}

fn nics(sample: &Sample) -> Vec<Family> {
    let mut families = [
        counter(
            "xen_domain_network_receive_bytes_total",
            "Bytes that the guest has received.",
        ),
        counter(
            "xen_domain_network_receive_packets_total",
            "Packets that the guest has received.",
        ),
        counter(
            "xen_domain_network_receive_drop_total",
            "Packets to the guest that were dropped.",
        ),
        counter(
            "xen_domain_network_transmit_bytes_total",
            "Bytes that the guest has sent.",
        ),
        counter(
            "xen_domain_network_transmit_packets_total",
            "Packets that the guest has sent.",
        ),
        counter(
            "xen_domain_network_transmit_drop_total",
            "Packets of the guest that were dropped.",
        ),
    ];
    for nic in &sample.nics {
        let Some(domain) = sample.domain(nic.domid) else {
            continue;
        };
        for (family, value) in families.iter_mut().zip(values_of(nic)) {
            let labels = vec![of(domain), ("device", nic.number.to_string())];
            family.add(labels, Number::Whole(value));
        }
    }
    families.into()
}

fn values_of(nic: &NicCounters) -> impl Iterator<Item = u64> {
    let values = |direction: Direction| {
        [
            direction.size_bytes,
            direction.nr_packets,
            direction.nr_dropped,
        ]
    };
    values(nic.received).into_iter().chain(values(nic.sent))
}

fn vms(sample: &Sample) -> Vec<Family> {
    let mut monitor = gauge(
        "xyl_monitor_up",
        "Whether a VM that should have a monitor has one.",
    );
    for (uuid, is_there) in &sample.monitors {
        monitor.add(of_uuid(*uuid), Number::Whole(u64::from(*is_there)));
    }
    let mut operations = gauge(
        "xyl_operations",
        "Operations that have not ended, by kind and state.",
    );
    let mut counted: Vec<(&str, &str, u64)> = Vec::new();
    for (kind, state) in &sample.operations {
        match counted
            .iter_mut()
            .find(|(of, at, _)| of == kind && at == state)
        {
            Some((_, _, nr)) => *nr += 1,
            None => counted.push((kind, state, 1)),
        }
    }
    for (kind, state, nr) in counted {
        let labels = vec![("kind", kind.to_owned()), ("state", state.to_owned())];
        operations.add(labels, Number::Whole(nr));
    }
    let mut wait = gauge(
        "xyl_restart_wait_seconds",
        "Time until the restart of a VM that ends again and again.",
    );
    for one in &sample.waiting {
        wait.add(of_uuid(one.uuid), Number::Whole(one.left.as_secs()));
    }
    let mut given_up = gauge("xyl_given_up_vms", "VMs whose restart was given up.");
    if let Some(nr) = sample.nr_given_up {
        given_up.add(Vec::new(), Number::Whole(nr));
    }
    let mut families = vec![monitor, operations, wait, given_up];
    families.extend(leftovers(sample));
    families
}

fn of_uuid(uuid: Uuid) -> Labels {
    vec![("uuid", uuid.hyphenated().to_string())]
}

/// The leftovers, by kind. The sample of all kinds is there also if none were found.
fn leftovers(sample: &Sample) -> Option<Family> {
    let found = sample.leftovers.as_ref()?;
    let mut family = gauge(
        "xyl_leftovers",
        "Objects that dead domains and processes have left, by kind, and all.",
    );
    let nr = |of: &str| found.iter().filter(|kind| **kind == of).count();
    for kind in found {
        let labels = vec![("kind", (*kind).to_owned())];
        family.add(labels, Number::Whole(nr(kind) as u64));
    }
    family.add(
        vec![("kind", "all".to_owned())],
        Number::Whole(found.len() as u64),
    );
    Some(family)
}

fn audit(sample: &Sample) -> Vec<Family> {
    let Some((audit, guests)) = &sample.audit else {
        return Vec::new();
    };
    let mut posture = gauge(
        "xyl_posture",
        "The verdict of `xyl audit` on a type of guest and a family of attacks.",
    );
    for row in audit.rows.iter().filter(|row| guests.contains(&row.guest)) {
        let labels = vec![
            ("guest_type", row.guest.word().to_owned()),
            ("family", row.family.word().to_owned()),
            ("verdict", row.standing.word().to_owned()),
        ];
        posture.add(labels, Number::Whole(1));
    }
    let mut advisory = gauge("xyl_advisory", "The verdict of `xyl audit` on an advisory.");
    for row in &audit.advisories {
        let labels = vec![
            ("id", row.id.clone()),
            ("verdict", row.verdict.word().to_owned()),
        ];
        advisory.add(labels, Number::Whole(1));
    }
    vec![posture, advisory]
}

/// Whether each source could be read. Its metrics are missing otherwise.
fn sources(sample: &Sample) -> Family {
    let mut family = gauge(
        "xyl_source_up",
        "Whether a source of these metrics could be read. Without it, its metrics are missing.",
    );
    for source in Source::ALL {
        let was_asked = source != Source::Leftovers || sample.leftovers.is_some();
        let is_missing = sample.missing.iter().any(|(missing, _)| *missing == source);
        if was_asked || is_missing {
            let labels = vec![("source", source.word().to_owned())];
            family.add(labels, Number::Whole(u64::from(!is_missing)));
        }
    }
    family
}
