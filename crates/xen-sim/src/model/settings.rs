//! Settings of the model that can change while it runs: its parameters and its security module.

use std::collections::BTreeMap;

use xen_port::{Errno, Parameter, ParameterKind};

use super::{Model, State};

/// The parameters and the security module.
pub(super) struct Settings {
    /// Each parameter with its value.
    parameters: BTreeMap<&'static str, (Parameter, Vec<u8>)>,
    /// Whether Flask enforces its policy; `None` without Flask.
    flask: Option<bool>,
}

impl Default for Settings {
    fn default() -> Settings {
        let parameter = |kind, size_bytes: u32, max_write_bytes| {
            let about = Parameter {
                kind,
                size_bytes,
                max_write_bytes,
            };
            (about, vec![0; size_bytes as usize])
        };
        // Some of those that each Xen has.
        let parameters = [
            (
                "gnttab_max_frames",
                parameter(ParameterKind::Unsigned, 4, 0),
            ),
            ("ler", parameter(ParameterKind::Bool, 1, 0)),
            ("loglvl", parameter(ParameterKind::Text, 16, 64)),
            ("ratelimit", parameter(ParameterKind::Unsigned, 4, 4)),
            ("watchdog_on", parameter(ParameterKind::Bool, 1, 1)),
        ];
        Settings {
            parameters: parameters.into(),
            flask: None,
        }
    }
}

impl Model {
    /// The host has the security module Flask, which enforces its policy or not.
    pub fn set_flask(&self, is_enforcing: bool) {
        self.state().settings.flask = Some(is_enforcing);
    }

    /// The value of a parameter.
    pub fn parameter_value(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state
            .settings
            .parameters
            .get(name)
            .map(|(_, value)| value.clone())
    }
}

impl State {
    pub(super) fn type_keys(&mut self, keys: &str) {
        for key in keys.chars() {
            let line = format!("(XEN) '{key}' pressed -> a simulated host has no handler\n");
            self.console_ring.extend_from_slice(line.as_bytes());
        }
    }

    pub(super) fn flask(&mut self) -> Result<&mut bool, Errno> {
        self.settings.flask.as_mut().ok_or(Errno::ENOSYS)
    }

    pub(super) fn parameter(&self, name: &str) -> Result<Parameter, Errno> {
        let found = self.settings.parameters.get(name);
        found.map(|(about, _)| *about).ok_or(Errno::ENOENT)
    }

    pub(super) fn set_parameter(&mut self, name: &str, value: &[u8]) -> Result<(), Errno> {
        let (about, stored) = self
            .settings
            .parameters
            .get_mut(name)
            .ok_or(Errno::ENOENT)?;
        let size_bytes = value.len() as u32;
        let fits = match about.kind {
            ParameterKind::Text => size_bytes <= about.max_write_bytes,
            _ => size_bytes == about.size_bytes,
        };
        match (about.max_write_bytes, fits) {
            (0, _) => Err(Errno::EACCES),
            (_, false) => Err(Errno::ENOSPC),
            (_, true) => {
                about.size_bytes = size_bytes;
                *stored = value.to_vec();
                Ok(())
            }
        }
    }
}
