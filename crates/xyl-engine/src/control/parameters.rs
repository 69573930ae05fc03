//! Parameters of a running Xen, by their names on its command line.

use xen_port::{Errno, HvError, Hypervisor, Parameter, ParameterKind};

use crate::EngineError;
use crate::error::ParameterError;

/// A parameter and its new value as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name of the parameter.
    pub name: String,
    /// The new value.
    pub value: String,
}

/// Longest name of a parameter in bytes; Xen takes paths of 1024.
const NAME_MAX_BYTES: usize = 256;

/// Splits `name=value noname ...` into settings, as xl does: `noname` stands for `name=no`, and blanks separate.
///
/// # Errors
/// [`ParameterError::NoValue`], [`ParameterError::BadName`].
pub fn parse(text: &str) -> Result<Vec<Setting>, EngineError> {
    let words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    words.map(parse_one).collect()
}

fn parse_one(word: &str) -> Result<Setting, EngineError> {
    let (name, value) = match (word.split_once('='), word.strip_prefix("no")) {
        (Some((name, value)), _) => (name, value),
        (None, Some(name)) => (name, "no"),
        (None, None) => return Err(ParameterError::NoValue(word.to_owned()).into()),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(is_plain) {
        return Err(ParameterError::BadName(name.to_owned()).into());
    }
    Ok(Setting {
        name: name.to_owned(),
        value: value.to_owned(),
    })
}

/// Sets a parameter.
///
/// # Errors
/// Those of [`check`], and of Xen.
pub fn set(hv: &dyn Hypervisor, setting: &Setting) -> Result<(), EngineError> {
    let bytes = check(hv, setting)?;
    Ok(hv.set_parameter(&setting.name, &bytes)?)
}

/// Fails if [`set`] would fail before Xen is asked to write. Returns the bytes of the new value.
///
/// # Errors
/// [`ParameterError`]; those of Xen.
pub fn check(hv: &dyn Hypervisor, setting: &Setting) -> Result<Vec<u8>, EngineError> {
    let name = || setting.name.clone();
    let parameter = hv
        .parameter(&setting.name)
        .map_err(|error| match error.errno() {
            Some(Errno::ENOENT) => ParameterError::Unknown(name()).into(),
            Some(Errno::ENOSYS) => ParameterError::NoTree.into(),
            _ => EngineError::from(error),
        })?;
    if parameter.max_write_bytes == 0 {
        return Err(ParameterError::ReadOnly(name()).into());
    }
    let bytes = encoded(&parameter, &setting.value);
    bytes.ok_or_else(|| {
        ParameterError::BadValue {
            name: name(),
            value: setting.value.clone(),
            wanted: wanted(parameter.kind),
        }
        .into()
    })
}

/// The value as Xen stores it; `None` if the text is none of this kind, or too large.
fn encoded(parameter: &Parameter, value: &str) -> Option<Vec<u8>> {
    let size = parameter.size_bytes as usize;
    let number = match parameter.kind {
        ParameterKind::Text => {
            let mut bytes = value.as_bytes().to_vec();
            bytes.push(0);
            return (bytes.len() <= parameter.max_write_bytes as usize).then_some(bytes);
        }
        ParameterKind::Bool => match value {
            "1" | "on" | "yes" | "true" | "enable" => 1,
            "0" | "off" | "no" | "false" | "disable" => 0,
            _ => return None,
        },
        ParameterKind::Unsigned => i128::from(unsigned(value)?),
        ParameterKind::Signed => match value.strip_prefix('-') {
            Some(digits) => -i128::from(unsigned(digits)?),
            None => i128::from(unsigned(value)?),
        },
        ParameterKind::Other => return None,
    };
    let bits = u32::try_from(size)
        .ok()?
        .checked_mul(8)
        .filter(|bits| (8..=64).contains(bits))?;
    let range = match parameter.kind {
        ParameterKind::Signed => -(1_i128 << (bits - 1))..=(1 << (bits - 1)) - 1,
        _ => 0..=(1 << bits) - 1,
    };
    let bytes = number.to_le_bytes();
    range
        .contains(&number)
        .then(|| bytes.iter().take(size).copied().collect())
}

/// A number, decimal or with `0x`.
fn unsigned(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn wanted(kind: ParameterKind) -> &'static str {
    match kind {
        ParameterKind::Text => "a shorter text",
        ParameterKind::Unsigned => "a number that fits, without a sign",
        ParameterKind::Signed => "a number that fits",
        ParameterKind::Bool => "1 or 0, yes or no, on or off",
        ParameterKind::Other => "no text: Xen keeps it as bytes",
    }
}

/// Converts the error of a request to Flask: without Flask, to [`ParameterError::NoFlask`].
pub fn flask_error(error: HvError) -> EngineError {
    match error.errno() {
        Some(Errno::ENOSYS) => ParameterError::NoFlask.into(),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use xen_sim::model::Model;

    use super::*;

    fn one(text: &str) -> Setting {
        parse(text).unwrap().remove(0)
    }

    fn refused(hv: &Model, text: &str) -> ParameterError {
        match set(hv, &one(text)) {
            Err(EngineError::Parameter(error)) => error,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn words_are_split_as_xl_does() {
        let settings = parse("  ratelimit=5 nowatchdog_on\tloglvl=all").unwrap();
        let shown: Vec<_> = settings
            .iter()
            .map(|one| (one.name.as_str(), one.value.as_str()))
            .collect();
        assert_eq!(
            shown,
            [("ratelimit", "5"), ("watchdog_on", "no"), ("loglvl", "all")]
        );
        for wrong in ["word", "=5", "a/b=5", "no"] {
            assert!(
                matches!(parse(wrong), Err(EngineError::Parameter(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn values_are_those_of_their_kind() {
        let hv = Model::new(16);
        set(&hv, &one("ratelimit=0x1234")).unwrap();
        assert_eq!(hv.parameter_value("ratelimit").unwrap(), [0x34, 0x12, 0, 0]);
        set(&hv, &one("watchdog_on=yes")).unwrap();
        assert_eq!(hv.parameter_value("watchdog_on").unwrap(), [1]);
        set(&hv, &one("nowatchdog_on")).unwrap();
        assert_eq!(hv.parameter_value("watchdog_on").unwrap(), [0]);
        set(&hv, &one("loglvl=error/all")).unwrap();
        assert_eq!(hv.parameter_value("loglvl").unwrap(), b"error/all\0");
        for bad in [
            "ratelimit=-1",
            "ratelimit=4294967296",
            "ratelimit=",
            "watchdog_on=maybe",
        ] {
            assert!(
                matches!(refused(&hv, bad), ParameterError::BadValue { .. }),
                "{bad}"
            );
        }
        assert!(matches!(refused(&hv, "ler=1"), ParameterError::ReadOnly(_)));
        assert!(matches!(
            refused(&hv, "nosuch=1"),
            ParameterError::Unknown(_)
        ));
    }

    #[test]
    fn a_number_with_a_sign_has_its_range() {
        let parameter = Parameter {
            kind: ParameterKind::Signed,
            size_bytes: 1,
            max_write_bytes: 1,
        };
        assert_eq!(encoded(&parameter, "-128"), Some(vec![0x80]));
        assert_eq!(encoded(&parameter, "127"), Some(vec![0x7f]));
        assert_eq!(encoded(&parameter, "128"), None);
    }
}
