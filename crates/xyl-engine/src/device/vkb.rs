//! Virtual keyboards and pointers. A framebuffer has one, which the VM's QEMU serves like the framebuffer.
//!
//! A keyboard of another backend type (`linux`) is for a program of domain 0 that the administrator runs. No kernel has such a backend.
//! Xyl writes the nodes and does not wait, as libxl does. A detach does wait: that program may have the device.
//!
//! Facts: `libxl_vkb.c`, `hw/display/xenfb.c` of QEMU, `xen/io/kbdif.h`.

use std::time::Instant;

use serde_json::{Value as Json, json};
use xen_port::DomId;
use xl_cfg::types;

use crate::device::bus::{self, BackendDomain, Device, LINUX_KEYBOARDS, State, Tables};
use crate::device::hotplug::{self, Hotplug, Single, Sought, says_nothing};
use crate::device::nodes::{Access, NodeRule, back, copy_of, own};
use crate::device::qemu::{self, Wanted};
use crate::device::{Kind, Owner, Patience, Recorded};
use crate::device_model;
use crate::error::DeviceError;
use crate::vm::keyboard::{Keyboard, Server};
use crate::vm::nic::VifDefaults;
use crate::vm::spec::VmSpec;
use crate::{EngineError, Host};

/// libxl's name of the kind.
const KIND: &str = "vkbd";
/// The setting of xl.cfg that lists keyboards.
const SETTING: &str = "vkb";

/// The kind of keyboards.
pub struct Vkb;

/// The source of a keyboard's nodes.
struct Nodes {
    device: Device,
    keyboard: Keyboard,
}

type Rule = NodeRule<Nodes>;

const TABLES: Tables<Nodes> = Tables {
    frontend: FRONTEND,
    backend: BACKEND,
    copy: COPY,
};

const FRONTEND: &[Rule] = &[
    own("backend", "guest: where its backend is", |n| {
        Some(n.device.backend())
    }),
    own("backend-id", "guest", |_| Some("0".to_owned())),
    own("state", "guest and backend", |_| Some("1".to_owned())),
];

const BACKEND: &[Rule] = &[
    back("frontend", "backend", |n| Some(n.device.frontend())),
    back("frontend-id", "backend", |n| {
        Some(n.device.domid.to_string())
    }),
    back("online", "backend: whether the keyboard stays", |_| {
        Some("1".to_owned())
    }),
    back("state", "backend, guest", |_| Some("1".to_owned())),
    back("unique-id", "backend; vkb-list", |n| {
        n.keyboard.parameter("unique-id")
    }),
    back("feature-disable-keyboard", "guest", |n| {
        n.keyboard.parameter("feature-disable-keyboard")
    }),
    back("feature-disable-pointer", "guest", |n| {
        n.keyboard.parameter("feature-disable-pointer")
    }),
    back("feature-abs-pointer", "guest; QEMU writes it too", |n| {
        n.keyboard.parameter("feature-abs-pointer")
    }),
    back("feature-raw-pointer", "guest; QEMU writes it too", |n| {
        n.keyboard.parameter("feature-raw-pointer")
    }),
    back("feature-multi-touch", "guest", |n| {
        n.keyboard.parameter("feature-multi-touch")
    }),
    back("multi-touch-width", "guest", |n| {
        n.keyboard.parameter("multi-touch-width")
    }),
    back("multi-touch-height", "guest", |n| {
        n.keyboard.parameter("multi-touch-height")
    }),
    back("multi-touch-num-contacts", "guest", |n| {
        n.keyboard.parameter("multi-touch-num-contacts")
    }),
    back("width", "guest", |n| n.keyboard.parameter("width")),
    back("height", "guest", |n| n.keyboard.parameter("height")),
];

const COPY: &[Rule] = &[
    copy_of("frontend", |n| Some(n.device.frontend())),
    copy_of("backend", |n| Some(n.device.backend())),
    copy_of("unique-id", |n| n.keyboard.parameter("unique-id")),
];

impl Kind for Vkb {
    fn name(&self) -> &'static str {
        KIND
    }

    fn json_member(&self) -> Option<&'static str> {
        Some("vkbs")
    }

    fn setting(&self) -> Option<&'static str> {
        Some(SETTING)
    }

    /// Without those of framebuffers, which no setting names.
    fn recorded(&self, spec: &VmSpec) -> Vec<Recorded> {
        let named = spec.keyboards.iter().filter(|one| !one.is_of_framebuffer);
        let recorded = |keyboard: &Keyboard| Recorded {
            number: keyboard.number,
            text: keyboard.cfg_text(),
            json: to_json(keyboard),
        };
        named.map(recorded).collect()
    }

    fn to_json(&self, spec: &VmSpec) -> Vec<Json> {
        spec.keyboards.iter().map(to_json).collect()
    }

    fn numbers(&self, spec: &VmSpec) -> Vec<u32> {
        spec.keyboards.iter().map(|one| one.number).collect()
    }

    /// libxl leaves a number out that is 0.
    fn number_of_json(&self, entry: &Json) -> Option<u32> {
        let number = entry.get("devid").map_or(Some(0), Json::as_u64)?;
        u32::try_from(number).ok()
    }

    fn cfg_of_json(&self, entry: &Json) -> Option<String> {
        cfg_of_json(entry)
    }

    /// Those of QEMU do not come and go: the VM's record alone has them.
    fn is_attached(
        &self,
        host: &mut Host,
        domid: DomId,
        entry: &Json,
    ) -> Result<bool, EngineError> {
        let Some(number) = self.number_of_json(entry) else {
            return Ok(false);
        };
        let device = bus::device_of(host, domid, KIND, &number.to_string())?;
        Ok(device.is_some_and(|device| !is_of_qemu(&device)))
    }

    fn keep_only(&self, spec: &mut VmSpec, numbers: &[u32]) {
        spec.keyboards.retain(|one| numbers.contains(&one.number));
    }

    fn folders(&self, domid: DomId) -> Vec<String> {
        [KIND, LINUX_KEYBOARDS]
            .into_iter()
            .flat_map(|kind| bus::folders(kind, domid))
            .collect()
    }

    fn table(&self) -> Vec<(String, Access, &'static str)> {
        TABLES.rows(KIND)
    }

    fn check_rights(&self, host: &Host, spec: &VmSpec) -> Result<(), EngineError> {
        qemu::check_right(host, for_qemu(spec).map(Keyboard::what))
    }

    fn check(&self, host: &mut Host, spec: &VmSpec) -> Result<(), EngineError> {
        match for_qemu(spec) {
            Some(first) => device_model::binary(host, &first.what()).map(drop),
            None => Ok(()),
        }
    }

    fn attach(
        &self,
        host: &mut Host,
        owner: Owner,
        spec: &VmSpec,
        wanted: &mut Wanted,
        patience: &Patience<'_>,
    ) -> Result<(), EngineError> {
        for keyboard in &spec.keyboards {
            patience.check(host)?;
            let is_of_qemu = keyboard.server == Server::Qemu;
            if is_of_qemu {
                wanted.begin(host)?;
            }
            let device = write(host, owner.domid, keyboard)?;
            if is_of_qemu {
                wanted.add(device, keyboard.what());
            }
        }
        Ok(())
    }

    fn hotplug(&self) -> Option<&'static dyn Hotplug> {
        Some(&Vkb)
    }

    fn detach(&self, host: &mut Host, domid: DomId, deadline: Instant) -> Result<(), EngineError> {
        let devices = bus::devices(host, domid, KIND)?;
        let (of_qemu, others): (Vec<Device>, Vec<Device>) =
            devices.into_iter().partition(is_of_qemu);
        let (mut taken, mut alone) = (Vec::new(), Vec::new());
        for device in others {
            match bus::state(host, &device)? {
                State::Initialising | State::Unknown => alone.push(device),
                _ => taken.push(device),
            }
        }
        bus::remove(host, &alone)?;
        // A program that is too slow loses the device all the same.
        bus::detach(host, &taken, deadline)?;
        qemu::detach(host, domid, &of_qemu)
    }

    fn without_qemu(&self, host: &mut Host, domid: DomId) -> Result<Vec<String>, EngineError> {
        let mut devices = bus::devices(host, domid, KIND)?;
        devices.retain(is_of_qemu);
        let found = qemu::without_first(host, domid, devices)?;
        Ok(found.iter().map(|one| self.words(one.number)).collect())
    }

    fn foreign(&self, host: &mut Host, domid: DomId, number: &str) -> Result<bool, EngineError> {
        Ok(bus::device_of(host, domid, KIND, number)?.is_none())
    }

    /// xl's QEMU is not confined.
    fn is_not_for_adopt(
        &self,
        host: &mut Host,
        domid: DomId,
        number: &str,
    ) -> Result<bool, EngineError> {
        let device = bus::device_of(host, domid, KIND, number)?;
        Ok(device.as_ref().is_some_and(is_of_qemu))
    }
}

/// The first keyboard of a VM that QEMU serves.
fn for_qemu(spec: &VmSpec) -> Option<&Keyboard> {
    let mut keyboards = spec.keyboards.iter();
    keyboards.find(|one| one.server == Server::Qemu)
}

fn is_of_qemu(device: &Device) -> bool {
    device.served_by == KIND
}

/// The kind of a keyboard's backend.
fn served_by(keyboard: &Keyboard) -> &'static str {
    match keyboard.server {
        Server::Qemu => KIND,
        Server::Linux => LINUX_KEYBOARDS,
    }
}

/// Writes the nodes of a keyboard.
fn write(host: &mut Host, domid: DomId, keyboard: &Keyboard) -> Result<Device, EngineError> {
    let device = Device {
        domid,
        kind: KIND,
        served_by: served_by(keyboard),
        number: keyboard.number,
        backend_domain: BackendDomain::DOM0,
    };
    let nodes = Nodes {
        device,
        keyboard: keyboard.clone(),
    };
    bus::write(host, &device, &keyboard.what(), &TABLES, &nodes)?;
    Ok(device)
}

impl Hotplug for Vkb {
    fn detach_command(&self) -> &'static str {
        "vkb-detach"
    }

    fn words(&self, number: u32) -> String {
        format!("keyboard {number}")
    }

    fn is_forced_in_time(&self) -> bool {
        true
    }

    /// The number stays open, as the user has left it.
    fn with_defaults(&self, text: &str, _: &VifDefaults) -> Result<String, EngineError> {
        self.read(text)?;
        Ok(text.to_owned())
    }

    /// The number is the first one that the domain has free.
    fn complete(&self, host: &mut Host, owner: Owner, text: &str) -> Result<String, EngineError> {
        let described = described(text)?;
        let taken = bus::numbers(host, owner.domid, KIND)?;
        let is_free = |number: &u32| taken.iter().all(|one| one.parse() != Ok(*number));
        let number = (0..).find(is_free).unwrap_or_default();
        Ok(of_config(&described, number)?.cfg_text())
    }

    fn read(&self, text: &str) -> Result<Box<dyn Single>, EngineError> {
        Ok(Box::new(One(of_config(&described(text)?, 0)?)))
    }

    fn find(&self, host: &mut Host, domid: DomId, asked: &str) -> Result<Device, EngineError> {
        let number = asked.parse::<u32>();
        let is_it = |_: &mut Host, one: &str| Ok(number.is_ok() && one.parse() == number);
        let sought = Sought {
            kind: KIND,
            word: "keyboard",
            list_command: "vkb-list",
            detach_command: self.detach_command(),
            domid,
            asked,
        };
        let device = sought.find(host, is_it, |_, _| Ok(false))?;
        if is_of_qemu(&device) {
            let number = device.number;
            let what = format!(
                "keyboard {number} of domain {domid} is served by the VM's QEMU, which has it for as long as it runs: take it out of the configuration, and start the VM anew"
            );
            return Err(DeviceError::Unsupported { what }.into());
        }
        Ok(device)
    }

    fn is_served(&self, _: &mut Host, _: &Device) -> Result<bool, EngineError> {
        Ok(true)
    }

    fn take_away(
        &self,
        host: &mut Host,
        device: &Device,
        deadline: Instant,
    ) -> Result<(), EngineError> {
        bus::await_one_closed(host, device, deadline)?;
        bus::remove_one(host, device)
    }
}

/// The keyboard of a description as in xl.cfg.
fn described(text: &str) -> Result<types::Keyboard, EngineError> {
    let keyboards = hotplug::parse(SETTING, text)?.pv_devices.keyboards;
    let what = || DeviceError::Unsupported {
        what: "no keyboard is described".to_owned(),
    };
    Ok(keyboards.into_iter().next().ok_or_else(what)?)
}

fn of_config(keyboard: &types::Keyboard, number: u32) -> Result<Keyboard, EngineError> {
    let decided = Keyboard::of_config(keyboard, number);
    decided.map_err(|what| DeviceError::Unsupported { what }.into())
}

/// A keyboard that is attached to a running domain.
struct One(Keyboard);

impl Single for One {
    fn number(&self) -> u32 {
        self.0.number
    }

    fn served_by(&self) -> &'static str {
        served_by(&self.0)
    }

    fn what(&self) -> String {
        self.0.what()
    }

    fn text(&self) -> String {
        self.0.cfg_text()
    }

    fn to_json(&self) -> Json {
        to_json(&self.0)
    }

    fn check(&self, _: &mut Host, _: Owner) -> Result<(), EngineError> {
        match self.0.server {
            Server::Linux => Ok(()),
            Server::Qemu => {
                let what = format!(
                    "{}: QEMU's keyboard cannot be attached to a running domain: write `vfb` into the configuration, which brings one, and start the VM anew",
                    self.0.what()
                );
                Err(DeviceError::Unsupported { what }.into())
            }
        }
    }

    fn attach(&self, host: &mut Host, owner: Owner, _: &Patience<'_>) -> Result<(), EngineError> {
        write(host, owner.domid, &self.0).map(drop)
    }
}

/// A keyboard in libxl's record (`libxl_device_vkb`). Features are `bool`, sizes are numbers.
fn to_json(keyboard: &Keyboard) -> Json {
    let mut entry = json!({ "devid": keyboard.number, "backend_type": keyboard.server.word() });
    for (name, value) in &keyboard.parameters {
        let value = match value.parse::<u32>() {
            Ok(number) if name.starts_with("feature-") => json!(number != 0),
            Ok(number) if name != "unique-id" => json!(number),
            _ => json!(value),
        };
        if let Some(members) = entry.as_object_mut().filter(|_| !says_nothing(&value)) {
            members.insert(name.replace('-', "_"), value);
        }
    }
    entry
}

/// A keyboard of libxl's record as xl.cfg says it; `None` where Xyl cannot serve it.
fn cfg_of_json(entry: &Json) -> Option<String> {
    let members = entry.as_object()?;
    let mut words = vec!["backend-type=linux".to_owned()];
    for (name, value) in members.iter().filter(|(_, value)| !says_nothing(value)) {
        let value = match value {
            Json::String(text) if !text.contains([',', '\'']) => text.clone(),
            Json::Bool(_) => "1".to_owned(),
            Json::Number(number) => number.to_string(),
            _ => return None,
        };
        match name.as_str() {
            "backend_type" if value == "linux" => {}
            "backend_type" | "backend_domid" | "backend_domname" => return None,
            name => words.push(format!("{}={value}", name.replace('_', "-"))),
        }
    }
    let described = described(&words.join(",")).ok()?;
    let keyboard = Keyboard::of_config(&described, 0).ok()?;
    let is_linux = members.get("backend_type").and_then(Json::as_str) == Some("linux");
    is_linux.then(|| keyboard.cfg_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyboard(text: &str) -> Keyboard {
        of_config(&described(text).unwrap(), 0).unwrap()
    }

    #[test]
    fn a_keyboard_of_libxls_record_is_that_of_the_configuration() {
        for text in [
            "backend-type=linux,devid=0",
            "backend-type=linux,devid=3,unique-id=a b,feature-multi-touch=1,multi-touch-width=20,width=1024",
        ] {
            let keyboard = keyboard(text);
            let json = to_json(&keyboard);
            let again = described(&cfg_of_json(&json).unwrap()).unwrap();
            let mut again = Keyboard::of_config(&again, 0).unwrap();
            again.parameters.sort();
            let mut first = keyboard.clone();
            first.parameters.sort();
            assert_eq!(again, first);
        }
        for other in [
            json!({ "backend_type": "qemu" }),
            json!({ "devid": 1 }),
            json!({ "backend_type": "linux", "backend_domid": 3 }),
            json!({ "backend_type": "linux", "unique_id": "a,b" }),
            json!({ "backend_type": "linux", "no_such": 3 }),
        ] {
            assert_eq!(cfg_of_json(&other), None, "{other}");
        }
    }
}
