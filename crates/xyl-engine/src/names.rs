//! Domains' names, which live in xenstore.

use xen_port::DomId;
use xenstore::{Batch, Client, Path, Tree};

use crate::EngineError;

/// Longest name that is looked at; a longer one in xenstore is cut. (The limit of xenstore is 4096.)
const NAME_MAX_BYTES: usize = 1024;

/// The names of `domids`, in their order, with one batch of requests. `None` where there is none.
pub fn of(store: &mut Client, domids: &[DomId]) -> Result<Vec<Option<String>>, EngineError> {
    let mut batch = Batch::new();
    let mut indices = Vec::with_capacity(domids.len());
    for domid in domids {
        let path = Path::domain(domid.0)
            .join("name")
            .map_err(xenstore::Error::from)?;
        indices.push(batch.read_opt(&path));
    }
    let replies = store.run(&batch)?;
    Ok(indices
        .into_iter()
        .map(|index| replies.value(index).map(text))
        .collect())
}

/// The domain of `domids` that has the name.
pub fn find(
    store: &mut Client,
    domids: &[DomId],
    name: &str,
) -> Result<Option<DomId>, EngineError> {
    let names = of(store, domids)?;
    let found = domids
        .iter()
        .zip(names)
        .find(|(_, known)| known.as_deref() == Some(name));
    Ok(found.map(|(domid, _)| *domid))
}

fn text(value: &[u8]) -> String {
    let cut = value.get(..NAME_MAX_BYTES).unwrap_or(value);
    String::from_utf8_lossy(cut).into_owned()
}
