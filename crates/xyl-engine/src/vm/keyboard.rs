//! A virtual keyboard and pointer of a VM, decided.

use std::collections::BTreeSet;

use xl_cfg::types::{self, KeyboardBackend};

use crate::vm::words::backend_of;

/// Longest `unique-id`, in bytes.
const ID_MAX_BYTES: usize = 256;
/// Largest number of a keyboard.
const NUMBER_MAX: u32 = 9999;
/// The parameter with an identity of the keyboard.
const ID: &str = "unique-id";
/// The parameter that the sizes belong to.
const MULTI_TOUCH: &str = "feature-multi-touch";
/// The sizes of a surface that knows several touches from each other.
const TOUCH_SIZES: [&str; 3] = [
    "multi-touch-width",
    "multi-touch-height",
    "multi-touch-num-contacts",
];

/// A keyboard with a pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyboard {
    /// Its number among the VM's keyboards.
    pub number: u32,
    /// The program that serves it.
    pub server: Server,
    /// Whether it is there because the VM has a framebuffer, and no setting names it.
    pub is_of_framebuffer: bool,
    /// Its parameters, by their names in xl.cfg and xenstore.
    pub parameters: Vec<(String, String)>,
}

/// The program that serves a keyboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// The VM's QEMU: what its VNC viewer types.
    Qemu,
    /// A program of domain 0 that the administrator runs. Xyl writes the nodes, and that program takes the device.
    Linux,
}

impl Server {
    /// The word of `backend-type=` in xl.cfg, and in libxl's record.
    pub fn word(self) -> &'static str {
        match self {
            Server::Qemu => "qemu",
            Server::Linux => "linux",
        }
    }
}

impl Keyboard {
    /// All keyboards of a configuration with this number of framebuffers, each of which has one; else why Xyl cannot serve one.
    ///
    /// # Errors
    /// A text that names the keyboard and what to do instead.
    pub fn all_of_config(
        keyboards: &[types::Keyboard],
        nr_framebuffers: usize,
    ) -> Result<Vec<Keyboard>, String> {
        let of_framebuffers = (0..).take(nr_framebuffers).map(|number| Keyboard {
            number,
            server: Server::Qemu,
            is_of_framebuffer: true,
            parameters: Vec::new(),
        });
        let mut all: Vec<Keyboard> = of_framebuffers.collect();
        let mut taken: BTreeSet<u32> = all.iter().map(|one| one.number).collect();
        taken.extend(keyboards.iter().filter_map(|one| one.devid));
        for keyboard in keyboards {
            let number = keyboard.devid.or_else(|| first_free(&taken));
            let number = number.ok_or("there are too many keyboards")?;
            let one = Keyboard::of_config(keyboard, number)?;
            if all.iter().any(|other| other.number == number) {
                return Err(format!("there are two keyboards of number {number}"));
            }
            taken.insert(number);
            all.push(one);
        }
        Ok(all)
    }

    /// The keyboard of a description, with this number if it has none.
    ///
    /// # Errors
    /// A text that says what to do instead.
    pub fn of_config(keyboard: &types::Keyboard, number: u32) -> Result<Keyboard, String> {
        let number = keyboard.devid.unwrap_or(number);
        if number > NUMBER_MAX {
            return Err(format!("a keyboard has a number up to {NUMBER_MAX}"));
        }
        let backend = backend_of(keyboard.backend.as_deref());
        if let Some(backend) = backend.map_err(|why| format!("keyboard {number}: {why}"))? {
            return Err(format!(
                "keyboard {number}: backend={backend} is not supported by Xyl yet: only domain 0 can serve keyboards"
            ));
        }
        let has_bad_id = |(name, value): &(String, String)| {
            name == ID && (value.len() > ID_MAX_BYTES || value.chars().any(char::is_control))
        };
        if keyboard.parameters.iter().any(has_bad_id) {
            return Err(format!(
                "keyboard {number}: a unique-id has up to {ID_MAX_BYTES} printable bytes"
            ));
        }
        Ok(Keyboard {
            number,
            server: match keyboard.backend_type {
                KeyboardBackend::Qemu => Server::Qemu,
                KeyboardBackend::Linux => Server::Linux,
            },
            is_of_framebuffer: false,
            parameters: with_multi_touch(&keyboard.parameters)
                .map_err(|why| format!("keyboard {number}: {why}"))?,
        })
    }

    /// The keyboard in words, beginning with its setting in xl.cfg.
    pub fn what(&self) -> String {
        format!("vkb {}", self.number)
    }

    /// The keyboard as xl.cfg says it, with Xyl's own `devid`.
    pub fn cfg_text(&self) -> String {
        let first = [
            ("backend-type", self.server.word().to_owned()),
            ("devid", self.number.to_string()),
        ];
        let others = self.parameters.iter();
        let others = others.map(|(name, value)| (name.as_str(), value.clone()));
        let words = first.into_iter().chain(others);
        let words: Vec<String> = words
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        words.join(",")
    }

    /// A parameter as its backend reads it; `None` where libxl writes none.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let value = given(&self.parameters, name);
        if TOUCH_SIZES.contains(&name) {
            let is_on = is_set(&self.parameters, MULTI_TOUCH);
            return is_on.then(|| value.unwrap_or("0").to_owned());
        }
        let is_said = |value: &&str| name == ID || *value != "0";
        let value = value.filter(is_said)?;
        match name.starts_with("feature-") {
            true => Some("1".to_owned()),
            false => Some(value.to_owned()),
        }
    }
}

/// The last value of a parameter.
fn given<'a>(parameters: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut given = parameters.iter().rev();
    let (_, value) = given.find(|(known, _)| known == name)?;
    Some(value)
}

/// Whether a parameter has a value other than 0.
fn is_set(parameters: &[(String, String)], name: &str) -> bool {
    given(parameters, name).is_some_and(|value| value != "0")
}

/// The parameters with multi-touch as xl has it: a size turns it on, and without any it is refused.
fn with_multi_touch(parameters: &[(String, String)]) -> Result<Vec<(String, String)>, String> {
    let has_size = TOUCH_SIZES.iter().any(|name| is_set(parameters, name));
    let mut all = parameters.to_vec();
    match (is_set(parameters, MULTI_TOUCH), has_size) {
        (true, false) => Err(format!("{MULTI_TOUCH} needs {}", TOUCH_SIZES.join(", "))),
        (false, true) => {
            all.retain(|(name, _)| name != MULTI_TOUCH);
            all.push((MULTI_TOUCH.to_owned(), "1".to_owned()));
            Ok(all)
        }
        _ => Ok(all),
    }
}

/// The first number that is not taken.
fn first_free(taken: &BTreeSet<u32>) -> Option<u32> {
    (0..=NUMBER_MAX).find(|number| !taken.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyboards(specs: &str, nr_framebuffers: usize) -> Result<Vec<Keyboard>, String> {
        let text = format!("name = 'g'\nkernel = '/k'\ntype = 'pvh'\nvkb = [ {specs} ]\n");
        let source = xl_cfg::Source::from_bytes("g.cfg", text.as_bytes()).unwrap();
        let config = xl_cfg::parse::<&str>(source, &[]).unwrap();
        Keyboard::all_of_config(&config.domain.pv_devices.keyboards, nr_framebuffers)
    }

    #[test]
    fn a_framebuffer_has_a_keyboard_and_all_have_numbers() {
        let specs = "'backend-type=linux,unique-id=a b,feature-multi-touch=1,multi-touch-width=9', 'backend-type=qemu,devid=1', 'backend-type=linux,backend=0'";
        let read = keyboards(specs, 1).unwrap();
        let numbers: Vec<u32> = read.iter().map(|one| one.number).collect();
        assert_eq!(numbers, [0, 2, 1, 3]);
        let texts: Vec<String> = read[1..]
            .iter()
            .map(|one| format!("'{}'", one.cfg_text()))
            .collect();
        assert_eq!(keyboards(&texts.join(", "), 1).unwrap(), read);
        let parameter = |name: &str| read[1].parameter(name);
        assert_eq!(parameter("unique-id").as_deref(), Some("a b"));
        assert_eq!(parameter("multi-touch-width").as_deref(), Some("9"));
        assert_eq!(parameter("multi-touch-height").as_deref(), Some("0"));
        assert_eq!(parameter("width"), None);
        assert_eq!(read[3].parameter("multi-touch-width"), None);
    }

    #[test]
    fn a_size_turns_multi_touch_on() {
        let specs = "'backend-type=linux,multi-touch-height=7,feature-multi-touch=0'";
        let read = keyboards(specs, 0).unwrap();
        let parameter = |name: &str| read[0].parameter(name);
        assert_eq!(parameter(MULTI_TOUCH).as_deref(), Some("1"));
        assert_eq!(parameter("multi-touch-height").as_deref(), Some("7"));
        let off = keyboards(
            "'backend-type=linux,feature-multi-touch=0,multi-touch-width=0'",
            0,
        );
        assert_eq!(off.unwrap()[0].parameter(MULTI_TOUCH), None);
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        for (refused, nr_framebuffers) in [
            ("'backend-type=linux,backend=storage'", 0),
            ("'backend-type=linux,devid=10000'", 0),
            ("'backend-type=linux,feature-multi-touch=1'", 0),
            (
                "'backend-type=linux,feature-multi-touch=1,multi-touch-width=0'",
                0,
            ),
            ("'backend-type=linux,devid=0'", 1),
            (
                "'backend-type=linux,devid=3', 'backend-type=linux,devid=3'",
                0,
            ),
        ] {
            assert!(keyboards(refused, nr_framebuffers).is_err(), "{refused}");
        }
    }
}
