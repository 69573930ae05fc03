//! The names of all domains, for lists. [`LIST_PATIENCE`] limits the wait for xenstored.

use std::time::Duration;

use uuid::Uuid;
use xen_port::{DomId, DomainInfo};
use xenstore::{Client, Settings};

use super::Reader;
use crate::EngineError;
use crate::vm::names;
use crate::vm::without_domain;

/// Time limit of a list for the names of domains. Without them it shows the rest.
pub const LIST_PATIENCE: Duration = Duration::from_secs(5);

/// Names of domains, in the order of `infos`; `None` for a domain without a name. After an error the connection is not to be used again.
///
/// # Errors
/// Those of xenstored.
pub fn of(
    reader: &Reader<'_>,
    store: &mut Client,
    infos: &[DomainInfo],
) -> Result<Vec<Option<String>>, EngineError> {
    let settings = store.settings();
    store.set_settings(Settings {
        request_timeout: settings.request_timeout.min(LIST_PATIENCE),
        ..settings
    });
    let names = names::of(store, &reader.name_index(), infos);
    store.set_settings(settings);
    let mut names = names?;
    add_names_of_restarting(reader, infos, &mut names);
    Ok(names)
}

/// While a VM is restarted, the domain that ends and the one that is being made have no name in xenstore: the VM's journal
/// has it. Of two domains the one that is not dying gets the name.
fn add_names_of_restarting(
    reader: &Reader<'_>,
    infos: &[DomainInfo],
    names: &mut [Option<String>],
) {
    for (info, name) in infos.iter().zip(names).filter(|(_, name)| name.is_none()) {
        let has_other = infos.iter().any(|other| {
            other.handle == info.handle && !other.flags.dying && other.domid != info.domid
        });
        if info.domid != DomId::ZERO && !has_other {
            let uuid = Uuid::from_bytes(info.handle);
            *name = without_domain::name_of(&reader.records, uuid);
        }
    }
}
