//! Converts libxl's record of a domain to xl.cfg.
//!
//! A member that the schema does not know, or an unknown value, is reported and never ignored.

use std::fmt;

use serde_json::{Map, Value as Json};
use xl_cfg::Value;

use crate::device::KINDS;

use super::schema::{FIELDS, Field, JsonType, Meaning, Part, Setting, is_true};

/// A part of a record that Xyl's configuration cannot express.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported(String);

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0)
    }
}

/// Converts the record to xl.cfg, and lists the parts that it cannot express.
pub fn to_cfg(record: &Json) -> (String, Vec<Unsupported>) {
    let mut reader = Reader::default();
    let kind = record.pointer("/c_info/type").and_then(Json::as_str);
    if kind.is_none() {
        reader.refuse("no type");
    }
    if let Some(members) = record.as_object() {
        reader.read(Part::Top, members);
    }
    (reader.text, reader.unsupported)
}

#[derive(Default)]
struct Reader {
    text: String,
    unsupported: Vec<Unsupported>,
}

impl Reader {
    fn refuse(&mut self, name: &str) {
        self.unsupported.push(Unsupported(name.to_owned()));
    }

    fn read(&mut self, part: Part, members: &Map<String, Json>) {
        for (name, value) in members {
            match part.inner(name) {
                Some(inner) => {
                    if let Some(members) = value.as_object() {
                        self.read(inner, members);
                    }
                }
                None if is_nothing(value) => {}
                None => self.read_member(part, name, value),
            }
        }
    }

    fn read_member(&mut self, part: Part, name: &str, value: &Json) {
        match field(part, name).map(|field| &field.meaning) {
            Some(Meaning::Setting(setting)) => self.read_setting(name, setting, value),
            Some(Meaning::Internal { .. }) => {}
            Some(Meaning::Only(words)) => {
                if !value.as_str().is_some_and(|word| words.contains(&word)) {
                    self.refuse(name);
                }
            }
            Some(Meaning::Devices { setting }) => {
                self.read_devices(name, setting, value);
            }
            None if is_true(value) == Some(false) => {}
            None => self.refuse(name),
        }
    }

    fn read_devices(&mut self, name: &str, setting: &str, value: &Json) {
        let kind = KINDS.iter().find(|kind| kind.json_member() == Some(name));
        let devices = kind.and_then(|kind| {
            let entries = value.as_array()?.iter();
            let devices = entries.map(|entry| kind.cfg_of_json(entry).map(Value::Atom));
            devices.collect::<Option<Vec<Value>>>()
        });
        match devices {
            Some(devices) => {
                let devices = Value::List(devices);
                self.text.push_str(&format!("{setting} = {devices}\n"));
            }
            None => self.refuse(setting),
        }
    }

    fn read_setting(&mut self, name: &str, setting: &Setting, value: &Json) {
        if setting.absence.is(value) {
            return;
        }
        match setting.json.to_cfg(value) {
            Some(value) => self
                .text
                .push_str(&format!("{} = {value}\n", setting.setting)),
            None if matches!(setting.json, JsonType::Word(_)) => {
                self.refuse(&format!("{name}={value}"));
            }
            None => self.refuse(name),
        }
    }
}

/// The schema's row for a member. Some members were in two parts of the record in different releases, with the same
/// meaning.
fn field(part: Part, name: &str) -> Option<&'static Field> {
    let is_top = part == Part::Top;
    FIELDS
        .iter()
        .find(|field| field.name == name && (field.part == Part::Top) == is_top)
}

/// Whether a member has an empty value.
fn is_nothing(value: &Json) -> bool {
    match value {
        Json::Null => true,
        Json::Array(items) => items.is_empty(),
        Json::Object(members) => members.is_empty(),
        Json::String(text) => text == "<default>",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::libxl_json::Source;
    use crate::config::libxl_json::write::record;
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
        let json = record(&Source {
            spec: &before,
            shadow_kib: 0,
            pool: before.pool.as_deref(),
        });
        let (text, unsupported) = to_cfg(&json);
        assert_eq!(unsupported, []);
        assert_eq!(planned(&text).spec, before, "{text}");
    }

    #[test]
    fn a_boot_loader_and_its_arguments_are_read_back() {
        let before = planned(
            "name = \"g\"\nbootloader = \"pygrub\"\nbootloader_args = [ \"--entry=1\", \"-x y\" ]\nmemory = 64\ndisk = [ \"/x,raw,xvda\" ]\n",
        )
        .spec;
        let json = record(&Source {
            spec: &before,
            shadow_kib: 0,
            pool: None,
        });
        assert_eq!(
            json["b_info"]["bootloader_args"],
            json!(["--entry=1", "-x y"])
        );
        assert_eq!(json["b_info"]["kernel"], Json::Null);
        let (text, unsupported) = to_cfg(&json);
        assert_eq!(unsupported, []);
        assert_eq!(
            planned(&text).spec.boot_loader,
            before.boot_loader,
            "{text}"
        );
    }

    #[test]
    fn a_guest_in_the_shim_stays_there() {
        let settings =
            "pvshim = 1\npvshim_path = \"/s\"\npvshim_cmdline = \"a b\"\npvshim_extra = \"c\"\n";
        let text =
            format!("name = \"g\"\ntype = \"pvh\"\nkernel = \"/k\"\nmemory = 64\n{settings}");
        let before = planned(&text).spec;
        let json = record(&Source {
            spec: &before,
            shadow_kib: 0,
            pool: None,
        });
        let (text, unsupported) = to_cfg(&json);
        assert_eq!(unsupported, []);
        assert!(before.shim.is_some());
        assert_eq!(planned(&text).spec.shim, before.shim, "{text}");
        // The form that xl writes without a shim.
        let without = json!({"c_info": {"type": "pvh", "name": "g"}, "b_info": {"type.pvh": {"pvshim": "False"}}});
        assert!(!to_cfg(&without).0.contains("pvshim"));
    }

    #[test]
    fn what_xyl_cannot_do_is_named() {
        let json = json!({
            "c_info": {"type": "hvm", "name": "w", "driver_domain": "True", "passthrough": "share_pt"},
            "b_info": {"irqs": [5], "vnuma_nodes": [],
                "cpuid": null, "apic": "False", "something_new": 5, "device_model_stubdomain": "False"},
            "disks": [{"pdev_path": "/x"}],
            "nics": [{"mac": "00:16:3e:00:00:01", "nictype": "vif_ioemu"}],
            "vtpms": [],
        });
        let (_, unsupported) = to_cfg(&json);
        let mut names: Vec<String> = unsupported.iter().map(Unsupported::to_string).collect();
        names.sort();
        assert_eq!(
            names,
            [
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
