//! The lists of one kind of device of several domains, such as `xyl block-list`.

use serde_json::Value;
use xen_port::DomId;
use xyl_engine::ErrorCode;
use xyl_engine::device::hotplug::{self, Listed};

use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// The columns of a kind.
pub struct Columns {
    /// libxl's name of the kind.
    pub kind: &'static str,
    /// First line of the table. Some kinds have none.
    pub header: Option<String>,
    /// Whether a device is in the list.
    pub is_shown: fn(&Listed) -> bool,
    /// Line of a device.
    pub row: fn(&Listed) -> String,
    /// A device of a domain as JSON.
    pub as_json: fn(u16, &Listed) -> Value,
}

/// Prints the devices of the domains that a user has named. `find` returns `None` for a name that is skipped.
///
/// # Errors
/// The first one of `find`; those of xenstore and of the output.
pub fn print(
    context: &Context,
    columns: &Columns,
    domains: &[String],
    find: impl Fn(&str) -> Result<Option<DomId>, Failure>,
) -> Outcome {
    let mut array = Vec::new();
    if let Some(header) = columns.header.as_ref().filter(|_| !context.json()) {
        context.out.line(header)?;
    }
    for asked in domains {
        let Some(domid) = find(asked)? else {
            continue;
        };
        let mut devices = hotplug::list(&mut *context.store()?, domid, columns.kind)?;
        devices.retain(columns.is_shown);
        for device in devices {
            match context.json() {
                true => array.push((columns.as_json)(domid.0, &device)),
                false => context.out.line((columns.row)(&device))?,
            }
        }
    }
    match context.json() {
        true => Ok(context.out.json(&Value::Array(array))?),
        false => Ok(()),
    }
}

/// Finds a domain; `None` with a warning for an unknown one, as in those lists of xl that go on then.
///
/// # Errors
/// Those of the look-up but for an unknown domain.
pub fn find_or_skip(context: &Context, asked: &str) -> Result<Option<DomId>, Failure> {
    match context.find(asked) {
        Ok(domain) => Ok(Some(domain.info.domid)),
        Err(Failure::Engine(error)) if error.code() == ErrorCode::NoSuchDomain => {
            context.warning(format!(
                "{} is an invalid domain identifier",
                Shown::line(asked)
            ));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// The number in a column; -1 where there is none, as xl prints it.
pub fn cell(number: Option<u32>) -> i64 {
    number.map_or(-1, i64::from)
}
