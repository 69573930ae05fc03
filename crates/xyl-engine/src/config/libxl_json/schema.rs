//! The members of libxl's record that Xyl knows: one table for `write` and `read`.
//!
//! Each row has the member's part of the record, its JSON type, its setting in xl.cfg, its default, and how it
//! follows from a [`VmSpec`]. `write` builds a record from the table, and `read` a configuration. `xyl adopt` refuses
//! a member without a row, by its name.
//!
//! Facts: `libxl_types.idl` of Xen 4.17 and 4.20, which agree on every member of this table; files that both releases
//! of xl wrote.

use serde_json::{Map, Value as Json, json};
use xen_port::{CpuMap, GuestKind};
use xl_cfg::Value;

use super::Source;
use crate::vm::spec::{Action, Shim};

/// The part of the record that contains a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The record itself (`libxl_domain_config`).
    Top,
    /// The object `c_info`, for the creation.
    Create,
    /// The object `b_info`, for the build.
    Build,
    /// `sched_params` of `b_info`.
    Sched,
    /// `arch_x86` of `b_info`.
    X86,
    /// `type.pv` or `type.pvh` of `b_info`.
    Typed,
}

/// A member of the record.
pub(super) struct Field {
    pub(super) part: Part,
    /// Name of the member in libxl.
    pub(super) name: &'static str,
    pub(super) meaning: Meaning,
}

/// The meaning of a member.
pub(super) enum Meaning {
    /// The value of a setting in xl.cfg.
    Setting(Setting),
    /// A value that is not a property of the VM: libxl computes it, or a guest without devices does not see it. Xyl
    /// writes it if `of` returns a value.
    Internal { of: Of },
    /// A value that must be one of these words. None of them requests anything.
    Only(&'static [&'static str]),
    /// Devices, with their setting in xl.cfg. The kind of devices makes and reads the entries.
    Devices { setting: &'static str },
}

/// Computes the value of a member. `None` omits it.
pub(super) type Of = fn(&Source<'_>) -> Option<Json>;

/// A member with a setting in xl.cfg.
pub(super) struct Setting {
    pub(super) setting: &'static str,
    pub(super) json: JsonType,
    /// The value that a missing member means. It is neither written nor read.
    pub(super) absence: Absence,
    pub(super) of: Of,
}

/// The JSON form of a member's type, and its relation to the value in xl.cfg.
#[derive(Clone, Copy, Debug)]
pub(super) enum JsonType {
    /// `string`, `libxl_uuid` and enumerations whose words are those of xl.cfg.
    Text,
    /// An array of `string`.
    Texts,
    /// An enumeration of which Xyl knows these words.
    Word(&'static [&'static str]),
    /// `integer` or `uint32`: a number.
    Number,
    /// `libxl_defbool`: `"True"` or `"False"`.
    Flag,
    /// `libxl_defbool`, with the opposite meaning in xl.cfg.
    Unless,
    /// `MemKB`: KiB. xl.cfg has MiB.
    Kib,
    /// `libxl_bitmap` of vCPUs. xl.cfg has their number.
    Count,
    /// An array of `libxl_bitmap`: the CPUs of each vCPU.
    CpusOfEach,
    /// `uint32` that holds seconds, negative ones as two's complement.
    Seconds,
    /// `libxl_action_on_shutdown`: an action.
    Action,
}

/// The value of a missing member.
#[derive(Clone, Copy, Debug)]
pub(super) enum Absence {
    /// No default: a present member always has a meaning.
    Nothing,
    /// The default is this number.
    Number(u64),
    /// The default is this truth value.
    Flag(bool),
    /// The default is this word.
    Word(&'static str),
}

use Part::{Build, Create, Sched, Top, Typed, X86};

/// All members that Xyl knows.
pub(super) const FIELDS: &[Field] = &[
    word(Create, "type", "type", &["pv", "pvh"], |s| {
        text(s.spec.kind_text())
    }),
    set(Create, "name", "name", JsonType::Text, |s| {
        text(&s.spec.name)
    }),
    set(Create, "uuid", "uuid", JsonType::Text, |s| {
        text(&s.spec.uuid_text())
    }),
    set(Create, "hap", "hap", JsonType::Flag, |s| {
        s.spec.hap.map(flag)
    }),
    set(Create, "pool_name", "pool", JsonType::Text, |s| {
        s.pool.and_then(text)
    }),
    internal(Create, "run_hotplug_scripts", |_| Some(flag(true))),
    internal(Create, "domid", |_| None),
    internal(Create, "ssidref", |_| None),
    internal(Create, "oos", |_| None),
    internal(Create, "poolid", |_| None),
    internal(Create, "xend_suspend_evtchn_compat", |_| None),
    only(Create, "passthrough", &["default", "disabled"]),
    //
    set(Build, "max_vcpus", "maxvcpus", JsonType::Number, |s| {
        Some(s.spec.max_vcpus.into())
    }),
    set(Build, "avail_vcpus", "vcpus", JsonType::Count, |s| {
        Some((0..s.spec.vcpus).collect())
    }),
    set(
        Build,
        "vcpu_hard_affinity",
        "cpus",
        JsonType::CpusOfEach,
        |s| cpus(&s.spec.hard_affinity),
    ),
    set(
        Build,
        "vcpu_soft_affinity",
        "cpus_soft",
        JsonType::CpusOfEach,
        |s| cpus(&s.spec.soft_affinity),
    ),
    set(Build, "max_memkb", "maxmem", JsonType::Kib, |s| {
        Some(s.spec.max_kib.into())
    }),
    set(Build, "target_memkb", "memory", JsonType::Kib, |s| {
        Some(s.spec.target_kib.into())
    }),
    set(Build, "kernel", "kernel", JsonType::Text, |s| {
        text(s.spec.kernel.to_str().filter(|path| !path.is_empty())?)
    }),
    set(Build, "bootloader", "bootloader", JsonType::Text, |s| {
        text(&s.spec.boot_loader.as_ref()?.program)
    }),
    set(
        Build,
        "bootloader_args",
        "bootloader_args",
        JsonType::Texts,
        |s| {
            let arguments = &s.spec.boot_loader.as_ref()?.arguments;
            (!arguments.is_empty()).then(|| json!(arguments))
        },
    ),
    set(Build, "ramdisk", "ramdisk", JsonType::Text, |s| {
        text(s.spec.ramdisk.as_deref()?.to_str()?)
    }),
    set(Build, "cmdline", "cmdline", JsonType::Text, |s| {
        text(s.spec.cmdline.as_deref()?)
    }),
    or(
        Build,
        "tsc_mode",
        "tsc_mode",
        JsonType::Text,
        Absence::Word("default"),
        |s| word_of(&TSC_MODES, u64::from(s.spec.tsc_mode)),
    ),
    or(
        Build,
        "timer_mode",
        "timer_mode",
        JsonType::Text,
        Absence::Word(DEFAULT_TIMER_MODE),
        // PV guests have no emulated timers.
        |s| {
            let has_timers = s.spec.kind != GuestKind::Pv;
            has_timers
                .then(|| word_of(&TIMER_MODES, s.spec.timer_mode))
                .flatten()
        },
    ),
    or(
        Build,
        "localtime",
        "localtime",
        JsonType::Flag,
        Absence::Flag(false),
        |s| Some(flag(s.spec.localtime)),
    ),
    or(
        Build,
        "rtc_timeoffset",
        "rtc_timeoffset",
        JsonType::Seconds,
        Absence::Number(0),
        |s| Some(s.spec.rtc_offset_s.cast_unsigned().into()),
    ),
    or(
        Build,
        "disable_migrate",
        "nomigrate",
        JsonType::Flag,
        Absence::Flag(false),
        |s| Some(flag(s.spec.nomigrate)),
    ),
    or(
        Build,
        "nested_hvm",
        "nestedhvm",
        JsonType::Flag,
        Absence::Flag(false),
        |s| Some(flag(s.spec.nested_virt)),
    ),
    set(
        Build,
        "max_grant_frames",
        "max_grant_frames",
        JsonType::Number,
        |s| number(s.spec.max_grant_frames),
    ),
    set(
        Build,
        "max_maptrack_frames",
        "max_maptrack_frames",
        JsonType::Number,
        |s| number(s.spec.max_maptrack_frames),
    ),
    set(
        Build,
        "max_grant_version",
        "max_grant_version",
        JsonType::Number,
        |s| number(s.spec.max_grant_version),
    ),
    or(
        Build,
        "event_channels",
        "max_event_channels",
        JsonType::Number,
        Absence::Number(DEFAULT_EVENT_CHANNELS),
        |s| Some(s.spec.max_event_channels.into()),
    ),
    // xl takes the default from xl.conf, where it is on.
    or(
        Build,
        "claim_mode",
        "xyl_no_claim",
        JsonType::Unless,
        Absence::Flag(true),
        |s| Some(flag(s.spec.claim)),
    ),
    or(
        Build,
        "vmtrace_buf_kb",
        "vmtrace_buf_kb",
        JsonType::Number,
        Absence::Number(0),
        |s| Some((s.spec.vmtrace_size_bytes / 1024).into()),
    ),
    set(Build, "acpi", "acpi", JsonType::Flag, |_| None),
    internal(Build, "shadow_memkb", |s| Some(s.shadow_kib.into())),
    internal(Build, "exec_ssidref", |_| None),
    internal(Build, "device_model_ssidref", |_| None),
    internal(Build, "numa_placement", |_| None),
    internal(Build, "nodemap", |_| None),
    internal(Build, "cpumap", |_| None),
    internal(Build, "video_memkb", |_| None),
    internal(Build, "iommu_memkb", |_| None),
    internal(Build, "device_model_version", |_| None),
    internal(Build, "device_model_stubdomain", |_| None),
    internal(Build, "stubdomain_memkb", |_| None),
    internal(Build, "dm_restrict", |_| None),
    internal(Build, "blkdev_start", |_| None),
    internal(Build, "apic", |_| None),
    internal(Build, "bootloader_restrict", |_| None),
    internal(Build, "altp2m", |_| None),
    //
    set(Sched, "weight", "cpu_weight", JsonType::Number, |s| {
        s.spec.cpu_weight.map(Json::from)
    }),
    set(Sched, "cap", "cap", JsonType::Number, |s| {
        s.spec.cpu_cap.map(Json::from)
    }),
    internal(Sched, "sched", |_| None),
    //
    or(
        X86,
        "msr_relaxed",
        "msr_relaxed",
        JsonType::Flag,
        Absence::Flag(false),
        |s| Some(flag(s.spec.msr_relaxed)),
    ),
    //
    or(
        Typed,
        "pvshim",
        "pvshim",
        JsonType::Flag,
        Absence::Flag(false),
        |s| s.spec.shim.as_ref().map(|_| flag(true)),
    ),
    set(Typed, "pvshim_path", "pvshim_path", JsonType::Text, |s| {
        text(shim(s)?.path.as_deref()?.to_str()?)
    }),
    set(
        Typed,
        "pvshim_cmdline",
        "pvshim_cmdline",
        JsonType::Text,
        |s| text(shim(s)?.cmdline.as_deref()?),
    ),
    set(Typed, "pvshim_extra", "pvshim_extra", JsonType::Text, |s| {
        text(shim(s)?.extra.as_deref()?)
    }),
    internal(Typed, "slack_memkb", |_| None),
    //
    set(Top, "on_poweroff", "on_poweroff", JsonType::Action, |s| {
        action(s.spec.on.poweroff)
    }),
    set(Top, "on_reboot", "on_reboot", JsonType::Action, |s| {
        action(s.spec.on.reboot)
    }),
    set(Top, "on_watchdog", "on_watchdog", JsonType::Action, |s| {
        action(s.spec.on.watchdog)
    }),
    set(Top, "on_crash", "on_crash", JsonType::Action, |s| {
        action(s.spec.on.crash)
    }),
    set(
        Top,
        "on_soft_reset",
        "on_soft_reset",
        JsonType::Action,
        |s| action(s.spec.on.soft_reset),
    ),
    devices("disks", "disk"),
    devices("nics", "vif"),
    devices("pcidevs", "pci"),
    devices("rdms", "rdm"),
    devices("dtdevs", "dtdev"),
    devices("vfbs", "vfb"),
    devices("vkbs", "vkb"),
    devices("virtios", "virtio"),
    devices("vtpms", "vtpm"),
    devices("p9s", "p9"),
    devices("pvcallsifs", "pvcalls"),
    devices("vdispls", "vdispl"),
    devices("vsnds", "vsnd"),
    devices("channels", "channel"),
    devices("usbctrls", "usbctrl"),
    devices("usbdevs", "usbdev"),
];

/// libxl's default number of event channels.
const DEFAULT_EVENT_CHANNELS: u64 = 1023;
/// libxl's default timer mode.
const DEFAULT_TIMER_MODE: &str = "no_delay_for_missed_ticks";
/// libxl's names of time-stamp counter modes, by Xen's number.
const TSC_MODES: [&str; 3] = ["default", "always_emulate", "native"];
/// libxl's names of timer modes, by Xen's number.
const TIMER_MODES: [&str; 4] = [
    "delay_for_missed_ticks",
    "no_delay_for_missed_ticks",
    "no_missed_ticks_pending",
    "one_missed_tick_pending",
];

/// Builds a row without a default.
const fn set(
    part: Part,
    name: &'static str,
    setting: &'static str,
    json: JsonType,
    of: Of,
) -> Field {
    or(part, name, setting, json, Absence::Nothing, of)
}

/// Builds a row whose default is `default`.
const fn or(
    part: Part,
    name: &'static str,
    setting: &'static str,
    json: JsonType,
    absence: Absence,
    of: Of,
) -> Field {
    let meaning = Meaning::Setting(Setting {
        setting,
        json,
        absence,
        of,
    });
    Field {
        part,
        name,
        meaning,
    }
}

const fn word(
    part: Part,
    name: &'static str,
    setting: &'static str,
    words: &'static [&'static str],
    of: Of,
) -> Field {
    set(part, name, setting, JsonType::Word(words), of)
}

const fn internal(part: Part, name: &'static str, of: Of) -> Field {
    Field {
        part,
        name,
        meaning: Meaning::Internal { of },
    }
}

const fn only(part: Part, name: &'static str, words: &'static [&'static str]) -> Field {
    Field {
        part,
        name,
        meaning: Meaning::Only(words),
    }
}

const fn devices(name: &'static str, setting: &'static str) -> Field {
    Field {
        part: Top,
        name,
        meaning: Meaning::Devices { setting },
    }
}

impl Part {
    /// The part of the record that a member of this part is, if any.
    pub(super) fn inner(self, name: &str) -> Option<Part> {
        match (self, name) {
            (Top, "c_info") => Some(Create),
            (Top, "b_info") => Some(Build),
            (Build, "sched_params") => Some(Sched),
            (Build, "arch_x86") => Some(X86),
            (Build, "type.pv" | "type.pvh") => Some(Typed),
            _ => None,
        }
    }

    /// The object of this part in a record for this kind of guest. Creates it if it is missing.
    pub(super) fn of<'a>(self, record: &'a mut Json, kind: &str) -> &'a mut Json {
        match self {
            Top => record,
            Create => &mut record["c_info"],
            Build => &mut record["b_info"],
            Sched => &mut Build.of(record, kind)["sched_params"],
            X86 => &mut Build.of(record, kind)["arch_x86"],
            Typed => &mut Build.of(record, kind)[format!("type.{kind}")],
        }
    }
}

impl JsonType {
    /// Converts the value to xl.cfg. `None` if it is not of this type.
    pub(super) fn to_cfg(self, value: &Json) -> Option<Value> {
        match self {
            JsonType::Text => Some(atom(value.as_str()?)),
            JsonType::Texts => {
                let all = value.as_array()?.iter();
                let all: Option<Vec<Value>> = all.map(|one| Some(atom(one.as_str()?))).collect();
                all.map(Value::List)
            }
            JsonType::Word(words) => {
                let word = value.as_str()?;
                words.contains(&word).then(|| atom(word))
            }
            JsonType::Number => Some(atom(&value.as_i64()?.to_string())),
            JsonType::Flag => Some(yes_no(is_true(value)?)),
            JsonType::Unless => Some(yes_no(!is_true(value)?)),
            JsonType::Kib => Some(atom(&value.as_u64()?.div_ceil(1024).to_string())),
            JsonType::Count => Some(atom(&value.as_array()?.len().to_string())),
            JsonType::CpusOfEach => {
                let all: Option<Vec<Value>> = value.as_array()?.iter().map(cpu_list).collect();
                all.map(Value::List)
            }
            JsonType::Seconds => {
                let seconds = u32::try_from(value.as_u64()?).ok()?;
                Some(atom(&seconds.cast_signed().to_string()))
            }
            // All of libxl's words but this one are those of xl.cfg.
            JsonType::Action => match value.as_str()? {
                "restart_rename" => Some(atom(Action::RenameRestart.word())),
                word => Some(atom(&word.replace('_', "-"))),
            },
        }
    }
}

impl Absence {
    /// Whether a member with this value may be omitted.
    pub(super) fn is(self, value: &Json) -> bool {
        match self {
            Absence::Nothing => false,
            Absence::Number(number) => value.as_u64() == Some(number),
            Absence::Flag(flag) => is_true(value) == Some(flag),
            Absence::Word(word) => value.as_str() == Some(word),
        }
    }
}

fn atom(text: &str) -> Value {
    Value::Atom(text.to_owned())
}

fn yes_no(value: bool) -> Value {
    atom(if value { "1" } else { "0" })
}

/// Parses a truth value, which libxl writes as text.
pub(super) fn is_true(value: &Json) -> Option<bool> {
    match value {
        Json::Bool(value) => Some(*value),
        Json::String(text) if text == "True" => Some(true),
        Json::String(text) if text == "False" => Some(false),
        _ => None,
    }
}

fn flag(value: bool) -> Json {
    json!(if value { "True" } else { "False" })
}

fn text(text: &str) -> Option<Json> {
    Some(text.into())
}

fn number(number: Option<u32>) -> Option<Json> {
    number.map(Json::from)
}

fn action(action: Action) -> Option<Json> {
    text(action.libxl_name())
}

fn shim<'a>(source: &Source<'a>) -> Option<&'a Shim> {
    source.spec.shim.as_ref()
}

fn word_of(words: &[&'static str], number: u64) -> Option<Json> {
    text(words.get(usize::try_from(number).ok()?)?)
}

/// The CPUs of each vCPU, as JSON.
fn cpus(maps: &[CpuMap]) -> Option<Json> {
    let cpus = |map: &CpuMap| Json::from(map.iter().collect::<Vec<u32>>());
    (!maps.is_empty()).then(|| maps.iter().map(cpus).collect())
}

fn cpu_list(cpus: &Json) -> Option<Value> {
    let cpus = cpus.as_array()?.iter();
    let cpus: Option<Vec<String>> = cpus
        .map(|cpu| cpu.as_u64().map(|cpu| cpu.to_string()))
        .collect();
    Some(atom(&cpus?.join(",")))
}

/// The objects that a record contains even if they are empty.
pub(super) fn empty(kind: &str) -> Json {
    let mut record = json!({"c_info": {}, "b_info": {}});
    *Typed.of(&mut record, kind) = Json::Object(Map::new());
    record
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::plan;

    /// The members of each part in `libxl_types.idl` of Xen 4.17, all of which 4.20 has too. For b_info only those of
    /// the table.
    const IDL: &[(Part, &[&str])] = &[
        (
            Create,
            &[
                "type",
                "hap",
                "oos",
                "ssidref",
                "ssid_label",
                "name",
                "domid",
                "uuid",
                "xsdata",
                "platformdata",
                "poolid",
                "pool_name",
                "run_hotplug_scripts",
                "driver_domain",
                "passthrough",
                "xend_suspend_evtchn_compat",
            ],
        ),
        (
            Build,
            &[
                "max_vcpus",
                "avail_vcpus",
                "cpumap",
                "nodemap",
                "vcpu_hard_affinity",
                "vcpu_soft_affinity",
                "numa_placement",
                "tsc_mode",
                "max_memkb",
                "target_memkb",
                "video_memkb",
                "shadow_memkb",
                "iommu_memkb",
                "rtc_timeoffset",
                "exec_ssidref",
                "exec_ssid_label",
                "localtime",
                "disable_migrate",
                "cpuid",
                "blkdev_start",
                "vnuma_nodes",
                "max_grant_frames",
                "max_maptrack_frames",
                "max_grant_version",
                "device_model_version",
                "device_model_stubdomain",
                "stubdomain_memkb",
                "device_model_ssidref",
                "sched_params",
                "ioports",
                "irqs",
                "iomem",
                "claim_mode",
                "event_channels",
                "kernel",
                "cmdline",
                "ramdisk",
                "device_tree",
                "acpi",
                "bootloader",
                "bootloader_args",
                "timer_mode",
                "nested_hvm",
                "apic",
                "dm_restrict",
                "tee",
                "altp2m",
                "vmtrace_buf_kb",
                "vpmu",
            ],
        ),
        (
            Sched,
            &[
                "sched",
                "weight",
                "cap",
                "period",
                "budget",
                "extratime",
                "slice",
                "latency",
            ],
        ),
        (X86, &["msr_relaxed"]),
        (
            Typed,
            &[
                "slack_memkb",
                "e820_host",
                "pvshim",
                "pvshim_path",
                "pvshim_cmdline",
                "pvshim_extra",
            ],
        ),
        (
            Top,
            &[
                "disks",
                "nics",
                "pcidevs",
                "rdms",
                "dtdevs",
                "vfbs",
                "vkbs",
                "vtpms",
                "p9s",
                "pvcallsifs",
                "vdispls",
                "vsnds",
                "channels",
                "usbctrls",
                "usbdevs",
                "on_poweroff",
                "on_reboot",
                "on_watchdog",
                "on_crash",
                "on_soft_reset",
            ],
        ),
    ];
    /// Members that only 4.20 has.
    const SINCE_4_20: [&str; 2] = ["bootloader_restrict", "virtios"];

    #[test]
    fn every_member_is_one_of_libxl() {
        for field in FIELDS {
            let (_, known) = IDL.iter().find(|(part, _)| *part == field.part).unwrap();
            let is_known = known.contains(&field.name) || SINCE_4_20.contains(&field.name);
            assert!(is_known, "{}", field.name);
        }
    }

    #[test]
    fn each_member_and_each_setting_has_one_row() {
        for (index, field) in FIELDS.iter().enumerate() {
            for other in FIELDS.iter().skip(index + 1) {
                assert!(
                    (field.part == Top) != (other.part == Top) || field.name != other.name,
                    "{}",
                    field.name
                );
                if let (Meaning::Setting(one), Meaning::Setting(another)) =
                    (&field.meaning, &other.meaning)
                {
                    assert_ne!(one.setting, another.setting);
                }
            }
        }
    }

    #[test]
    fn the_default_timer_mode_is_that_of_the_plan() {
        let index = usize::try_from(plan::DEFAULT_TIMER_MODE).unwrap();
        assert_eq!(TIMER_MODES[index], DEFAULT_TIMER_MODE);
    }
}
