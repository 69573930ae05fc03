//! From libxl's record of a domain to xl.cfg.
//!
//! The record is libxl's `libxl_domain_config` as JSON, in which what is at its default is left out (fact:
//! `libxl_types.idl`). What is not known here is named, and not passed over.

use std::fmt;

use serde_json::{Map, Value as Json};
use xl_cfg::Value;

/// A part of a record that cannot be said in a configuration that Xyl obeys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(String);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

/// Devices, by libxl's name and xl.cfg's.
const DEVICES: [(&str, &str); 16] = [
    ("disks", "disk"),
    ("nics", "vif"),
    ("pcidevs", "pci"),
    ("rdms", "rdm"),
    ("dtdevs", "dtdev"),
    ("vfbs", "vfb"),
    ("vkbs", "vkb"),
    ("virtios", "virtio"),
    ("vtpms", "vtpm"),
    ("p9s", "p9"),
    ("pvcallsifs", "pvcalls"),
    ("vdispls", "vdispl"),
    ("vsnds", "vsnd"),
    ("channels", "channel"),
    ("usbctrls", "usbctrl"),
    ("usbdevs", "usbdev"),
];
/// What is written as it is, by libxl's name and xl.cfg's.
const SAME: [(&str, &str); 25] = [
    ("name", "name"),
    ("uuid", "uuid"),
    ("hap", "hap"),
    ("pool_name", "pool"),
    ("max_vcpus", "maxvcpus"),
    ("kernel", "kernel"),
    ("ramdisk", "ramdisk"),
    ("cmdline", "cmdline"),
    ("tsc_mode", "tsc_mode"),
    ("timer_mode", "timer_mode"),
    ("localtime", "localtime"),
    ("disable_migrate", "nomigrate"),
    ("nested_hvm", "nestedhvm"),
    ("max_grant_frames", "max_grant_frames"),
    ("max_maptrack_frames", "max_maptrack_frames"),
    ("max_grant_version", "max_grant_version"),
    ("event_channels", "max_event_channels"),
    ("vmtrace_buf_kb", "vmtrace_buf_kb"),
    ("msr_relaxed", "msr_relaxed"),
    ("weight", "cpu_weight"),
    ("cap", "cap"),
    ("acpi", "acpi"),
    ("pvshim_path", "pvshim_path"),
    ("pvshim_cmdline", "pvshim_cmdline"),
    ("pvshim_extra", "pvshim_extra"),
];
/// What libxl works out for itself, or asks for nothing that a guest without devices would see.
const WITHOUT_MEANING: [&str; 25] = [
    "type",
    "domid",
    "ssidref",
    "exec_ssidref",
    "device_model_ssidref",
    "run_hotplug_scripts",
    "xend_suspend_evtchn_compat",
    "oos",
    "poolid",
    "numa_placement",
    "nodemap",
    "cpumap",
    "video_memkb",
    "shadow_memkb",
    "iommu_memkb",
    "device_model_version",
    "device_model_stubdomain",
    "stubdomain_memkb",
    "dm_restrict",
    "blkdev_start",
    "slack_memkb",
    "apic",
    "sched",
    "bootloader_restrict",
    "altp2m",
];
/// Members of a record that hold others.
const FOLDED: [&str; 4] = ["sched_params", "arch_x86", "type.pv", "type.pvh"];

/// The record as xl.cfg, and what cannot be said there.
pub fn to_cfg(record: &Json) -> (String, Vec<Unsupported>) {
    let mut reader = Reader::default();
    let empty = Map::new();
    let member = |name: &str| record.get(name).and_then(Json::as_object).unwrap_or(&empty);
    let (created, built) = (member("c_info"), member("b_info"));
    reader.read_type(created);
    for (name, value) in record.as_object().unwrap_or(&empty) {
        match name.as_str() {
            "c_info" | "b_info" => {}
            _ if name.starts_with("on_") => reader.set(name, action(value)),
            _ => reader.device(name, value),
        }
    }
    reader.read(created);
    reader.read(built);
    (reader.text, reader.unsupported)
}

#[derive(Default)]
struct Reader {
    text: String,
    unsupported: Vec<Unsupported>,
}

impl Reader {
    fn set(&mut self, key: &str, value: Option<Value>) {
        match value {
            Some(value) => self.text.push_str(&format!("{key} = {value}\n")),
            None => self.refuse(key),
        }
    }

    fn refuse(&mut self, name: &str) {
        self.unsupported.push(Unsupported(name.to_owned()));
    }

    fn read_type(&mut self, created: &Map<String, Json>) {
        match created.get("type").and_then(Json::as_str) {
            Some(kind @ ("pv" | "pvh")) => self.set("type", Some(atom(kind))),
            Some(other) => self.refuse(&format!("type=\"{other}\"")),
            None => self.refuse("no type"),
        }
    }

    fn device(&mut self, name: &str, value: &Json) {
        if is_nothing(value) {
            return;
        }
        let known = DEVICES.iter().find(|(libxl, _)| *libxl == name);
        self.refuse(known.map_or(name, |(_, cfg)| cfg));
    }

    fn read(&mut self, members: &Map<String, Json>) {
        for (name, value) in members {
            self.read_one(name, value);
        }
    }

    fn read_one(&mut self, name: &str, value: &Json) {
        if FOLDED.contains(&name) {
            if let Some(members) = value.as_object() {
                self.read(members);
            }
            return;
        }
        if is_nothing(value) || WITHOUT_MEANING.contains(&name) {
            return;
        }
        let same = SAME.iter().find(|(libxl, _)| *libxl == name);
        if let Some((_, cfg)) = same {
            return self.set(cfg, plain(value));
        }
        match name {
            "avail_vcpus" => self.set(
                "vcpus",
                value.as_array().map(|cpus| atom(&cpus.len().to_string())),
            ),
            "max_memkb" => self.set("maxmem", mib(value)),
            "target_memkb" => self.set("memory", mib(value)),
            "vcpu_hard_affinity" => self.set("cpus", affinity(value)),
            "vcpu_soft_affinity" => self.set("cpus_soft", affinity(value)),
            "rtc_timeoffset" => self.set("rtc_timeoffset", offset(value)),
            // Where it is on, that is Xyl's default.
            "claim_mode" if is_false(value) => self.set("xyl_no_claim", Some(atom("1"))),
            "claim_mode" => {}
            "passthrough" if matches!(value.as_str(), Some("default" | "disabled")) => {}
            _ if is_false(value) => {}
            "pvshim" => self.set("pvshim", plain(value)),
            _ => self.refuse(name),
        }
    }
}

fn atom(text: &str) -> Value {
    Value::Atom(text.to_owned())
}

fn is_false(value: &Json) -> bool {
    *value == Json::Bool(false) || value.as_str() == Some("False")
}

/// Whether a member says nothing.
fn is_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Array(items) => items.is_empty(),
        Json::Object(members) => members.is_empty(),
        Json::String(text) => text == "<default>",
        _ => false,
    }
}

/// A text, a number, or a yes or no, which libxl writes as `True` and `False`.
fn plain(value: &Json) -> Option<Value> {
    match value {
        Json::Bool(value) => Some(atom(if *value { "1" } else { "0" })),
        Json::String(text) if text == "True" => Some(atom("1")),
        Json::String(text) if text == "False" => Some(atom("0")),
        Json::String(text) => Some(atom(text)),
        Json::Number(number) => Some(atom(&number.to_string())),
        _ => None,
    }
}

fn mib(kib: &Json) -> Option<Value> {
    kib.as_u64()
        .map(|kib| atom(&kib.div_ceil(1024).to_string()))
}

/// libxl's field is unsigned: an offset backwards is its two's complement.
fn offset(value: &Json) -> Option<Value> {
    let seconds = u32::try_from(value.as_u64()?).ok()?.cast_signed();
    Some(atom(&seconds.to_string()))
}

/// The CPUs of each vCPU.
fn affinity(value: &Json) -> Option<Value> {
    let cpus = |vcpu: &Json| {
        let cpus = vcpu.as_array()?.iter();
        let cpus: Option<Vec<String>> = cpus
            .map(|cpu| cpu.as_u64().map(|cpu| cpu.to_string()))
            .collect();
        Some(atom(&cpus?.join(",")))
    };
    let all: Option<Vec<Value>> = value.as_array()?.iter().map(cpus).collect();
    all.map(Value::List)
}

/// libxl's words for actions are those of xl.cfg but for two of them.
fn action(value: &Json) -> Option<Value> {
    match value.as_str()? {
        "restart_rename" => Some(atom("rename-restart")),
        word => Some(atom(&word.replace('_', "-"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::libxl_json::write::{Record, to_json};
    use crate::config::plan;

    fn planned(text: &str) -> plan::Planned {
        plan::plan_record("g.cfg", text, &mut || {
            Ok((0..4).map(|cpu| (cpu, 0)).collect())
        })
        .unwrap()
    }

    #[test]
    fn what_was_written_for_xl_is_read_back_as_it_was() {
        let text = "name = \"web \\\"1\\\"\"\ntype = \"pvh\"\nuuid = \"5c84adcc-bd59-788a-96d2-195f9b599cfe\"\n\
            kernel = \"/boot/k\"\nramdisk = \"/boot/r\"\ncmdline = \"console=hvc0 x='y'\"\nmemory = 64\nmaxmem = 128\n\
            vcpus = 1\nmaxvcpus = 2\ncpus = [\"1\", \"2-3\"]\ncpus_soft = \"1\"\ncpu_weight = 512\ncap = 50\n\
            on_poweroff = \"preserve\"\non_reboot = \"rename-restart\"\non_crash = \"soft-reset\"\n\
            on_watchdog = \"coredump-restart\"\non_soft_reset = \"coredump-destroy\"\n\
            tsc_mode = \"native\"\ntimer_mode = 0\nlocaltime = 0\nrtc_timeoffset = \"-60\"\nnomigrate = 1\nnestedhvm = 1\n\
            max_grant_frames = 40\nmax_maptrack_frames = 50\nmax_grant_version = 1\nmax_event_channels = 2047\n\
            msr_relaxed = 1\nhap = 0\npool = \"fast\"\nvmtrace_buf_kb = 64\n";
        let before = planned(text).spec;
        let json = to_json(&Record::of(
            &before,
            &before.uuid_text(),
            0,
            before.pool.as_deref(),
        ));
        let (text, unsupported) = to_cfg(&json);
        assert_eq!(unsupported, []);
        assert_eq!(planned(&text).spec, before, "{text}");
    }

    #[test]
    fn a_guest_in_the_shim_stays_there() {
        let settings =
            "pvshim = 1\npvshim_path = \"/s\"\npvshim_cmdline = \"a b\"\npvshim_extra = \"c\"\n";
        let text =
            format!("name = \"g\"\ntype = \"pvh\"\nkernel = \"/k\"\nmemory = 64\n{settings}");
        let before = planned(&text).spec;
        let json = to_json(&Record::of(&before, &before.uuid_text(), 0, None));
        let (text, unsupported) = to_cfg(&json);
        assert_eq!(unsupported, []);
        assert!(before.shim.is_some());
        assert_eq!(planned(&text).spec.shim, before.shim, "{text}");
        // As xl writes it where there is none.
        let without = json!({"c_info": {"type": "pvh", "name": "g"}, "b_info": {"type.pvh": {"pvshim": "False"}}});
        assert!(!to_cfg(&without).0.contains("pvshim"));
    }

    #[test]
    fn what_xyl_cannot_do_is_named() {
        let json = json!({
            "c_info": {"type": "hvm", "name": "w", "driver_domain": "True", "passthrough": "share_pt"},
            "b_info": {"bootloader": "pygrub", "irqs": [5], "vnuma_nodes": [],
                "cpuid": null, "apic": "False", "something_new": 5, "device_model_stubdomain": "False"},
            "disks": [{"pdev_path": "/x"}],
            "nics": [{"mac": "00:16:3e:00:00:01"}],
            "vtpms": [],
        });
        let (_, unsupported) = to_cfg(&json);
        let mut names: Vec<String> = unsupported.iter().map(Unsupported::to_string).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "`bootloader`",
                "`disk`",
                "`driver_domain`",
                "`irqs`",
                "`passthrough`",
                "`something_new`",
                "`type=\"hvm\"`",
                "`vif`",
            ]
        );
    }
}
