//! libxl's record of a domain's configuration.
//!
//! `xl list -l`, `xl destroy` and the others look for
//! `/var/lib/xen/userdata-d.DOMID.UUID.libxl-json`; a domain of ours gets one, so that xl takes it
//! for one of its own. What differs from libxl's defaults is written. Facts: libxl's
//! `libxl_types.idl` and the files that xl 4.17 and 4.20 write.

use serde_json::{Map, Value, json};
use xen_port::{CpuMap, GuestKind};

use crate::config::plan::DEFAULT_TIMER_MODE;
use crate::vm::spec::{Shim, VmSpec};

/// Event channels of a guest of which nothing was said, in libxl.
const DEFAULT_EVENT_CHANNELS: u32 = 1023;
/// libxl's words for Xen's numbers of time-stamp counter modes; the first is its default.
const TSC_MODES: [&str; 3] = ["default", "always_emulate", "native"];
/// libxl's words for Xen's numbers of timer modes.
const TIMER_MODES: [&str; 4] = [
    "delay_for_missed_ticks",
    "no_delay_for_missed_ticks",
    "no_missed_ticks_pending",
    "one_missed_tick_pending",
];

/// What the record says.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// `pv` or `pvh`.
    pub kind: &'static str,
    /// Name.
    pub name: &'a str,
    /// UUID in text.
    pub uuid: &'a str,
    /// vCPUs that it may have.
    pub max_vcpus: u32,
    /// vCPUs online at the start: 0 to this, less one.
    pub vcpus: u32,
    /// Memory limit in KiB.
    pub max_kib: u64,
    /// Memory at the start in KiB.
    pub target_kib: u64,
    /// Paging memory in KiB.
    pub shadow_kib: u64,
    /// Kernel's path.
    pub kernel: &'a str,
    /// Ramdisk's path.
    pub ramdisk: Option<&'a str>,
    /// Command line.
    pub cmdline: Option<&'a str>,
    /// The settings of the creation (`c_info`) that differ from libxl's defaults, by libxl's names.
    pub created: Map<String, Value>,
    /// The settings of the build (`b_info`) that differ from libxl's defaults, by libxl's names.
    pub built: Map<String, Value>,
    /// The settings of its type that differ from libxl's defaults, by libxl's names.
    pub typed: Map<String, Value>,
    /// The actions on poweroff, reboot, watchdog, crash and soft reset, in libxl's words.
    pub on: [(&'static str, &'static str); 5],
}

impl<'a> Record<'a> {
    /// The record of a VM to be; `uuid` is its UUID in text, `pool` its CPU pool's name where that
    /// was asked for.
    pub fn of(spec: &'a VmSpec, uuid: &'a str, shadow_kib: u64, pool: Option<&str>) -> Record<'a> {
        Record {
            created: created(spec, pool),
            built: built(spec),
            typed: spec.shim.as_ref().map(shim).unwrap_or_default(),
            kind: spec.kind_text(),
            name: &spec.name,
            uuid,
            max_vcpus: spec.max_vcpus,
            vcpus: spec.vcpus,
            max_kib: spec.max_kib,
            target_kib: spec.target_kib,
            shadow_kib,
            kernel: spec.kernel.to_str().unwrap_or(""),
            ramdisk: spec.ramdisk.as_deref().and_then(|path| path.to_str()),
            cmdline: spec.cmdline.as_deref(),
            on: [
                ("on_poweroff", spec.on.poweroff.libxl_name()),
                ("on_reboot", spec.on.reboot.libxl_name()),
                ("on_watchdog", spec.on.watchdog.libxl_name()),
                ("on_crash", spec.on.crash.libxl_name()),
                ("on_soft_reset", spec.on.soft_reset.libxl_name()),
            ],
        }
    }
}

/// libxl's yes and no, where no is its default.
fn yes(value: bool) -> Option<Value> {
    value.then(|| "True".into())
}

fn without_defaults<const N: usize>(
    settings: [(&'static str, Option<Value>); N],
) -> Map<String, Value> {
    let is_set = |(name, value): (&str, Option<Value>)| Some((name.to_owned(), value?));
    settings.into_iter().filter_map(is_set).collect()
}

fn created(spec: &VmSpec, pool: Option<&str>) -> Map<String, Value> {
    let word = |value: bool| Value::from(if value { "True" } else { "False" });
    without_defaults([
        ("hap", spec.hap.map(word)),
        ("pool_name", pool.map(Value::from)),
    ])
}

fn built(spec: &VmSpec) -> Map<String, Value> {
    let timer_mode = spec.kind != GuestKind::Pv && spec.timer_mode != DEFAULT_TIMER_MODE;
    without_defaults([
        ("vcpu_hard_affinity", affinity(&spec.hard_affinity)),
        ("vcpu_soft_affinity", affinity(&spec.soft_affinity)),
        ("sched_params", share(spec)),
        (
            "tsc_mode",
            (spec.tsc_mode != 0)
                .then(|| word_of(&TSC_MODES, u64::from(spec.tsc_mode)))
                .flatten(),
        ),
        (
            "timer_mode",
            timer_mode
                .then(|| word_of(&TIMER_MODES, spec.timer_mode))
                .flatten(),
        ),
        ("localtime", yes(spec.localtime)),
        // libxl's field is unsigned: an offset backwards is its two's complement.
        (
            "rtc_timeoffset",
            (spec.rtc_offset_s != 0).then(|| spec.rtc_offset_s.cast_unsigned().into()),
        ),
        ("disable_migrate", yes(spec.nomigrate)),
        ("nested_hvm", yes(spec.nested_virt)),
        ("max_grant_frames", spec.max_grant_frames.map(Value::from)),
        (
            "max_maptrack_frames",
            spec.max_maptrack_frames.map(Value::from),
        ),
        ("max_grant_version", spec.max_grant_version.map(Value::from)),
        (
            "event_channels",
            (spec.max_event_channels != DEFAULT_EVENT_CHANNELS)
                .then(|| spec.max_event_channels.into()),
        ),
        ("claim_mode", (!spec.claim).then(|| "False".into())),
        (
            "vmtrace_buf_kb",
            (spec.vmtrace_size_bytes != 0).then(|| (spec.vmtrace_size_bytes / 1024).into()),
        ),
        (
            "arch_x86",
            yes(spec.msr_relaxed).map(|yes| json!({"msr_relaxed": yes})),
        ),
    ])
}

fn shim(shim: &Shim) -> Map<String, Value> {
    let path = shim.path.as_deref().and_then(|path| path.to_str());
    without_defaults([
        ("pvshim", yes(true)),
        ("pvshim_path", path.map(Value::from)),
        ("pvshim_cmdline", shim.cmdline.as_deref().map(Value::from)),
        ("pvshim_extra", shim.extra.as_deref().map(Value::from)),
    ])
}

fn word_of(words: &[&'static str], number: u64) -> Option<Value> {
    let word = words.get(usize::try_from(number).ok()?);
    word.map(|word| Value::from(*word))
}

/// The CPUs of each vCPU.
fn affinity(maps: &[CpuMap]) -> Option<Value> {
    let cpus = |map: &CpuMap| Value::from(map.iter().collect::<Vec<u32>>());
    (!maps.is_empty()).then(|| maps.iter().map(cpus).collect())
}

fn share(spec: &VmSpec) -> Option<Value> {
    let share = without_defaults([
        ("weight", spec.cpu_weight.map(Value::from)),
        ("cap", spec.cpu_cap.map(Value::from)),
    ]);
    (!share.is_empty()).then_some(Value::Object(share))
}

/// The record as libxl's JSON.
pub fn to_json(record: &Record<'_>) -> Value {
    let mut b_info = json!({
        "max_vcpus": record.max_vcpus,
        "avail_vcpus": (0..record.vcpus).collect::<Vec<u32>>(),
        "max_memkb": record.max_kib,
        "target_memkb": record.target_kib,
        "shadow_memkb": record.shadow_kib,
        "kernel": record.kernel,
    });
    if let Some(map) = b_info.as_object_mut() {
        if let Some(ramdisk) = record.ramdisk {
            map.insert("ramdisk".to_owned(), ramdisk.into());
        }
        if let Some(cmdline) = record.cmdline {
            map.insert("cmdline".to_owned(), cmdline.into());
        }
        map.extend(record.built.clone());
        let typed = Value::Object(record.typed.clone());
        map.insert(format!("type.{}", record.kind), typed);
    }
    let mut top = json!({
        "c_info": {
            "type": record.kind,
            "name": record.name,
            "uuid": record.uuid,
            "run_hotplug_scripts": "True",
        },
        "b_info": b_info,
    });
    if let Some(map) = top.as_object_mut() {
        if let Some(c_info) = map.get_mut("c_info").and_then(Value::as_object_mut) {
            c_info.extend(record.created.clone());
        }
        for (event, action) in record.on {
            map.insert(event.to_owned(), action.into());
        }
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            kind: "pv",
            name: "g",
            uuid: "u-1",
            max_vcpus: 2,
            vcpus: 1,
            max_kib: 65536,
            target_kib: 65536,
            shadow_kib: 1280,
            kernel: "/k",
            ramdisk: None,
            cmdline: Some("quiet \"x\""),
            created: Map::new(),
            built: Map::new(),
            typed: Map::new(),
            on: [
                ("on_poweroff", "destroy"),
                ("on_reboot", "restart"),
                ("on_watchdog", "destroy"),
                ("on_crash", "destroy"),
                ("on_soft_reset", "soft_reset"),
            ],
        }
    }

    #[test]
    fn what_it_starts_with_is_written() {
        let value = to_json(&record());
        assert_eq!(value["b_info"]["cmdline"], "quiet \"x\"");
        assert_eq!(value["b_info"]["avail_vcpus"], json!([0]));
        assert_eq!(value["on_reboot"], "restart");
    }

    /// libxl's record of a PVH guest with these settings.
    fn json_of(settings: &str) -> Value {
        let text =
            format!("name = \"g\"\ntype = \"pvh\"\nkernel = \"/k\"\nmaxvcpus = 2\n{settings}\n");
        let planned = crate::config::plan::plan_record("g.cfg", &text, &mut || {
            Ok((0..4).map(|cpu| (cpu, 0)).collect())
        })
        .unwrap();
        let spec = &planned.spec;
        to_json(&Record::of(spec, "u-1", 0, spec.pool.as_deref()))
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
