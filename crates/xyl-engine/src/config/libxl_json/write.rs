//! Builds libxl's record from a VM's specification.

use serde_json::Value as Json;

use super::Source;
use super::schema::{self, FIELDS, Meaning};
use crate::device::KINDS;

/// Builds the record of a domain.
pub fn record(source: &Source<'_>) -> Json {
    let kind = source.spec.kind_text();
    let mut record = schema::empty(kind);
    for field in FIELDS {
        let value = match &field.meaning {
            Meaning::Setting(setting) => {
                (setting.of)(source).filter(|value| !setting.absence.is(value))
            }
            Meaning::Internal { of } => of(source),
            Meaning::Devices { .. } => devices(source, field.name),
            Meaning::Only(_) => None,
        };
        if let Some(value) = value {
            field.part.of(&mut record, kind)[field.name] = value;
        }
    }
    record
}

/// The devices of a VM that a member of the record lists.
fn devices(source: &Source<'_>, member: &str) -> Option<Json> {
    let mut kinds = KINDS.iter();
    let kind = kinds.find(|kind| kind.json_member() == Some(member))?;
    let devices = kind.to_json(source.spec);
    (!devices.is_empty()).then_some(Json::Array(devices))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_it_starts_with_is_written() {
        let json = json_of("cmdline = \"quiet \\\"x\\\"\"\nvcpus = 1\nmemory = 64");
        assert_eq!(json["c_info"]["type"], "pvh");
        assert_eq!(json["c_info"]["run_hotplug_scripts"], "True");
        assert_eq!(json["b_info"]["cmdline"], "quiet \"x\"");
        assert_eq!(json["b_info"]["avail_vcpus"], json!([0]));
        assert_eq!(json["b_info"]["max_vcpus"], 2);
        assert_eq!(json["b_info"]["target_memkb"], 65536);
        assert_eq!(json["b_info"]["shadow_memkb"], 0);
        assert_eq!(json["on_reboot"], "restart");
    }

    /// Builds libxl's record of a PVH guest with these settings.
    fn json_of(settings: &str) -> Value {
        let text =
            format!("name = \"g\"\ntype = \"pvh\"\nkernel = \"/k\"\nmaxvcpus = 2\n{settings}\n");
        let planned = crate::config::plan::plan_record("g.cfg", &text, &mut || {
            Ok((0..4).map(|cpu| (cpu, 0)).collect())
        })
        .unwrap();
        let spec = &planned.spec;
        record(&Source {
            spec,
            shadow_kib: 0,
            pool: spec.pool.as_deref(),
        })
    }

    #[test]
    fn a_shim_is_written_below_the_type() {
        let json = json_of("pvshim = 1\npvshim_extra = \"loglvl=all\"");
        let wanted = json!({"pvshim": "True", "pvshim_extra": "loglvl=all"});
        assert_eq!(json["b_info"]["type.pvh"], wanted);
        assert_eq!(json_of("")["b_info"]["type.pvh"], json!({}));
    }

    #[test]
    fn each_setting_is_written_by_libxls_name_where_it_is_not_the_default() {
        let plain = json_of("");
        for (settings, part, key, wanted) in [
            ("hap = 0", "c_info", "hap", json!("False")),
            ("pool = \"fast\"", "c_info", "pool_name", json!("fast")),
            (
                "cpus = \"1-2\"",
                "b_info",
                "vcpu_hard_affinity",
                json!([[1, 2], [1, 2]]),
            ),
            (
                "cpus_soft = [ \"3\" ]",
                "b_info",
                "vcpu_soft_affinity",
                json!([[3]]),
            ),
            (
                "cpu_weight = 512",
                "b_info",
                "sched_params",
                json!({"weight": 512}),
            ),
            ("cap = 50", "b_info", "sched_params", json!({"cap": 50})),
            (
                "tsc_mode = \"always_emulate\"",
                "b_info",
                "tsc_mode",
                json!("always_emulate"),
            ),
            (
                "tsc_mode = \"native\"",
                "b_info",
                "tsc_mode",
                json!("native"),
            ),
            (
                "timer_mode = 0",
                "b_info",
                "timer_mode",
                json!("delay_for_missed_ticks"),
            ),
            ("localtime = 1", "b_info", "localtime", json!("True")),
            ("rtc_timeoffset = 60", "b_info", "rtc_timeoffset", json!(60)),
            ("nomigrate = 1", "b_info", "disable_migrate", json!("True")),
            ("nestedhvm = 1", "b_info", "nested_hvm", json!("True")),
            (
                "max_grant_frames = 40",
                "b_info",
                "max_grant_frames",
                json!(40),
            ),
            (
                "max_maptrack_frames = 50",
                "b_info",
                "max_maptrack_frames",
                json!(50),
            ),
            (
                "max_grant_version = 1",
                "b_info",
                "max_grant_version",
                json!(1),
            ),
            (
                "max_event_channels = 2047",
                "b_info",
                "event_channels",
                json!(2047),
            ),
            ("vmtrace_buf_kb = 64", "b_info", "vmtrace_buf_kb", json!(64)),
            (
                "msr_relaxed = 1",
                "b_info",
                "arch_x86",
                json!({"msr_relaxed": "True"}),
            ),
        ] {
            assert_eq!(json_of(settings)[part][key], wanted, "{settings}");
            assert_eq!(plain[part][key], Value::Null, "{key}");
        }
    }
}
